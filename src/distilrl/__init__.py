"""distilrl turns a trained deep-RL policy into a small student, proves that it kept the score, and ships it."""

import sys
from importlib import import_module
from types import ModuleType

from distilrl import threads  # noqa: F401 - before PyTorch is imported

__version__ = "0.1.0"

_HOMES = {
    "checkpoints": ("load_network", "save_network"),
    "collect": ("Behaviour",),
    "comparison": ("Comparison",),
    "config": (
        "ComputeConfig",
        "DataConfig",
        "OptimConfig",
        "RewardConfig",
        "StopConfig",
        "StudentConfig",
        "TaskFile",
        "TrainConfig",
    ),
    "distill": ("distill",),
    "display": ("Display",),
    "distributed": ("RayCollectors", "RayExecutor"),
    "envs": ("EnvInfo", "describe_env", "make_vec_env", "trust"),
    "episodes": ("Play",),
    "errors": (
        "DistilError",
        "EnvError",
        "ExtraError",
        "FileError",
        "HostileError",
        "NotFiniteError",
        "ResumeError",
        "SpecError",
        "TeacherError",
        "WorkerError",
    ),
    "evaluate": ("play",),
    "events": ("Event", "Watch", "silent"),
    "export": ("export_policy", "verify"),
    "heads": ("Categorical", "Gaussian", "Head", "Point"),
    "inspection": ("inspect", "inspect_play"),
    "jobs": ("Job", "Machines", "make_config"),
    "measures": ("Measure", "Measured"),
    "networks": ("Network", "build"),
    "objective": ("Term", "term"),
    "plain": ("read_as",),
    "plan": ("plan",),
    "played": ("Acceptance", "Agreement", "Returns", "RunVerdict"),
    "policies": ("Policy",),
    "processes": ("Processes",),
    "recipes": ("RECIPES", "recipe"),
    "report": ("write_report", "write_studies"),
    "results": ("Duel", "Results", "TeacherResults", "Verified"),
    "schedules": ("Schedule",),
    "sensors": ("Sensors",),
    "series": ("distill_chain", "distill_seeds", "reptile"),
    "sizes": ("Budget",),
    "spaces": ("Bounds", "Choices", "EnvRef", "ObsSpec"),
    "specs": ("NetworkSpec",),
    "studies": ("Studies", "StudyPair", "StudyRow", "compare"),
    "summaries": ("PlanResults", "SeedsResults", "TasksResults"),
    "sweep": ("SweepRow", "sweep"),
    "teachers": ("Teacher", "TeacherFile", "ensemble", "load_teacher"),
    "teaching": ("Evaluation", "evaluate_against", "evaluate_policy", "train_teacher"),
    "train": ("train",),
    "trained": ("Trained",),
    "viper": ("TreeConfig", "distill_tree"),
}
"""Public names by the module that they live in, which is imported when one of them is first used (PEP 562), so that
``distilrl --help`` waits for no PyTorch; `__init__.pyi` says the same to type checkers."""
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [*sorted(_HOME), "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'distilrl' has no attribute '{name}'")
    value = getattr(import_module(f"distilrl.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package: `distilrl.train` is the function, also after Python has imported the module of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
