"""What `import distilrl` offers, for type checkers and editors; at run time each name is imported on first use."""

from distilrl.checkpoints import load_network, save_network
from distilrl.collect import Behaviour
from distilrl.comparison import Comparison
from distilrl.config import (
    ComputeConfig,
    DataConfig,
    OptimConfig,
    RewardConfig,
    StopConfig,
    StudentConfig,
    TaskFile,
    TrainConfig,
)
from distilrl.display import Display
from distilrl.distill import distill
from distilrl.distributed import RayCollectors, RayExecutor
from distilrl.envs import EnvInfo, describe_env, make_vec_env, trust
from distilrl.episodes import Play
from distilrl.errors import (
    DistilError,
    EnvError,
    ExtraError,
    FileError,
    HostileError,
    NotFiniteError,
    ResumeError,
    SpecError,
    TeacherError,
    WorkerError,
)
from distilrl.evaluate import play
from distilrl.events import Event, Watch, silent
from distilrl.export import export_policy, verify
from distilrl.heads import Categorical, Gaussian, Head, Point
from distilrl.inspection import inspect, inspect_play
from distilrl.jobs import Job, Machines, make_config
from distilrl.measures import Measure, Measured
from distilrl.networks import Network, build
from distilrl.objective import Term, term
from distilrl.plain import read_as
from distilrl.plan import plan
from distilrl.played import Acceptance, Agreement, Returns, RunVerdict
from distilrl.policies import Policy
from distilrl.processes import Processes
from distilrl.recipes import RECIPES, recipe
from distilrl.report import write_report, write_studies
from distilrl.results import Duel, Results, TeacherResults, Verified
from distilrl.schedules import Schedule
from distilrl.sensors import Sensors
from distilrl.series import distill_chain, distill_seeds, reptile
from distilrl.sizes import Budget
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.studies import Studies, StudyPair, StudyRow, compare
from distilrl.summaries import PlanResults, SeedsResults, TasksResults
from distilrl.sweep import SweepRow, sweep
from distilrl.teachers import Teacher, TeacherFile, ensemble, load_teacher
from distilrl.teaching import Evaluation, evaluate_against, evaluate_policy, train_teacher
from distilrl.train import train
from distilrl.trained import Trained
from distilrl.viper import TreeConfig, distill_tree

__version__: str

__all__ = [
    "RECIPES",
    "Acceptance",
    "Agreement",
    "Behaviour",
    "Bounds",
    "Budget",
    "Categorical",
    "Choices",
    "Comparison",
    "ComputeConfig",
    "DataConfig",
    "Display",
    "DistilError",
    "Duel",
    "EnvError",
    "EnvInfo",
    "EnvRef",
    "Evaluation",
    "Event",
    "ExtraError",
    "FileError",
    "Gaussian",
    "Head",
    "HostileError",
    "Job",
    "Machines",
    "Measure",
    "Measured",
    "Network",
    "NetworkSpec",
    "NotFiniteError",
    "ObsSpec",
    "OptimConfig",
    "PlanResults",
    "Play",
    "Point",
    "Policy",
    "Processes",
    "RayCollectors",
    "RayExecutor",
    "Results",
    "ResumeError",
    "Returns",
    "RewardConfig",
    "RunVerdict",
    "Schedule",
    "SeedsResults",
    "Sensors",
    "SpecError",
    "StopConfig",
    "StudentConfig",
    "Studies",
    "StudyPair",
    "StudyRow",
    "SweepRow",
    "TaskFile",
    "TasksResults",
    "Teacher",
    "TeacherError",
    "TeacherFile",
    "TeacherResults",
    "Term",
    "TrainConfig",
    "Trained",
    "TreeConfig",
    "Verified",
    "Watch",
    "WorkerError",
    "__version__",
    "build",
    "compare",
    "describe_env",
    "distill",
    "distill_chain",
    "distill_seeds",
    "distill_tree",
    "ensemble",
    "evaluate_against",
    "evaluate_policy",
    "export_policy",
    "inspect",
    "inspect_play",
    "load_network",
    "load_teacher",
    "make_config",
    "make_vec_env",
    "plan",
    "play",
    "read_as",
    "recipe",
    "reptile",
    "save_network",
    "silent",
    "sweep",
    "term",
    "train",
    "train_teacher",
    "trust",
    "verify",
    "write_report",
    "write_studies",
]  # fmt: skip
