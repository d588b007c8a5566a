"""What the tests of the command line share: a distillation of seconds."""

from conftest import SIGN

from distilrl.cli import main
from distilrl.heads import Categorical
from distilrl.spaces import Choices

CHOICE = Categorical(Choices((2,)))
VERDICTS = (0, 1, 3)
"""Exit codes of a run that came to its end, whatever became of the student."""
SHORT = ["--steps", "4000", "--episodes", "200", "--disturbed-episodes", "5", "--threads", "1"]


def distill(teacher, out, *more, env=SIGN, student="mlp:8"):
    """The exit code of ``distilrl distill`` of a teacher's file."""
    return main(["distill", "--teacher", teacher, "--env", env, "--student", student, "--out", str(out), *SHORT, *more])
