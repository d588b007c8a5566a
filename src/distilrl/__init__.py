"""distilrl turns a trained deep-RL policy into a small student, proves that it kept the score, and ships it."""

__version__ = "0.1.0"

from distilrl.checkpoints import load_network, save_network
from distilrl.collect import Behaviour
from distilrl.config import TaskFile, TrainConfig
from distilrl.distill import Job, distill, evaluate_against, evaluate_policy, make_config, train_teacher
from distilrl.envs import make_vec_env
from distilrl.errors import (
    DistilError,
    EnvError,
    ExtraError,
    FileError,
    NotFiniteError,
    ResumeError,
    SpecError,
    TeacherError,
)
from distilrl.evaluate import Comparison
from distilrl.export import export_policy, verify
from distilrl.inspection import inspect, inspect_play
from distilrl.networks import Network, build
from distilrl.objective import Schedule, Term
from distilrl.plan import Budget, plan
from distilrl.recipes import RECIPES, recipe
from distilrl.report import write_report
from distilrl.series import distill_chain, distill_seeds, reptile
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher, TeacherFile, ensemble, load_teacher
from distilrl.train import Trained, train
from distilrl.viper import TreeConfig, distill_tree

__all__ = [
    "RECIPES", "Behaviour", "Budget", "Comparison", "DistilError", "EnvError", "ExtraError", "FileError", "Job", "Network",
    "NetworkSpec", "NotFiniteError", "ResumeError", "Schedule", "SpecError", "TaskFile",
    "Teacher", "TeacherError", "TeacherFile", "Term", "TrainConfig", "Trained", "TreeConfig",
    "__version__", "build", "distill", "distill_chain", "distill_seeds", "distill_tree",
    "ensemble", "evaluate_against", "evaluate_policy", "export_policy", "inspect",
    "inspect_play", "load_network", "load_teacher", "make_config",
    "make_vec_env", "plan", "recipe", "reptile", "save_network", "train", "train_teacher", "verify", "write_report",
]  # fmt: skip
