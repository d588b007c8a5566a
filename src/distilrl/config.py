"""All that decides a run, as one frozen dataclass; ``config.json`` in a run folder is this."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from distilrl.collect import Behaviour
from distilrl.errors import SpecError
from distilrl.features import Start
from distilrl.networks import Share
from distilrl.objective import TD_LOSSES, Term
from distilrl.plain import THREADS, check_choices, check_numbers, from_plain
from distilrl.teachers import TeacherFile


@dataclass(frozen=True)
class TaskFile:
    """A further task of a run: an environment and its teacher."""

    env_id: str
    """Environment."""
    teacher: tuple[TeacherFile, ...] = ()
    """Files of its teacher; several are an ensemble."""


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a run; ``config.json`` is this."""

    recipe: str = "distil"
    """Name of the recipe that this came from."""
    env_id: str = ""
    """Environment."""
    student: str = "mlp:64,64"
    """Student spec."""
    teacher: tuple[TeacherFile, ...] = ()
    """Files of the teachers; several are an ensemble, none where there is no teacher or it is not from a file."""
    combine: Literal["mean", "best"] = "mean"
    """Several teachers of one environment: the mean of their action probabilities, or in each state the one with the highest value."""
    more_tasks: tuple[TaskFile, ...] = ()
    """Tasks beside the first: one student body with a head for each, and an input layer for each kind of observation."""
    mix: Literal["one", "all"] = "one"
    """With several tasks, each step and each update is of one of them, drawn the more often the lower its last scores; or of all."""
    share: Share = "body"
    """What several tasks share: all but first layer and head, or of a convolutional network the convolutions alone."""
    seed: int = 0
    """Seed of every random draw of training."""
    terms: tuple[Term, ...] = (Term("forward_kl"),)
    """The objective."""
    behaviour: Behaviour = field(default_factory=Behaviour)
    """Who acts while data is collected."""
    env_steps: int = 30_000
    """Budget: steps of one environment, summed over all."""
    n_envs: int = 8
    """Environments that step together."""
    updates: int = 4
    """Gradient steps per vector step."""
    batch_size: int = 256
    """States per gradient step."""
    learning_rate: float = 3e-3
    """Peak learning rate of Adam; it decays to 0 over the budget as a cosine."""
    max_grad_norm: float = 10.0
    """Gradients are scaled down to this norm."""
    average: float = 0.99
    """Decay per update of the weight average that is evaluated and shipped; 0: the last weights."""
    learning_starts: int = 400
    """Steps collected before the first update; input statistics and the temperature come from them."""
    capacity: int = 100_000
    """States in the replay."""
    gap_exponent: float = 0.0
    """Draw states by (teacher's value gap)^this; 0: uniformly."""
    entropy_share: float = 0.5
    """The temperature found makes the teacher's mean entropy this share of log A."""
    standardise: Literal["states", "space", "no"] = "states"
    """Standardise inputs by the first states, or widen those features to ±1 whose space is narrower; folded into the student's
    first layer when it ships."""
    scale_head: bool = False
    """Multiply the shipped student's head by the temperature: its outputs then are on the teacher's scale."""
    gamma: float = 0.99
    """Discount per step of TD terms."""
    n_step: int = 0
    """Steps that TD terms look ahead; 0 where there is none."""
    start: Start = "new"
    """Weights that the student starts from: new ones, or its teacher's, projected by SVD or by picking the strongest units."""
    prune_from: str | None = None
    """A wider student of the same layers that training begins with; in three steps, at a fifth, a third and a half of the budget, the
    weakest units and channels go until ``student`` is left. None: no pruning."""
    reused_head: bool = False
    """The student ends in its teacher's frozen head behind a learned projection, folded into one layer when it ships."""
    hidden_features: tuple[int, ...] = ()
    """Features of a vector observation that the student does not see, though its teacher does."""
    obs_noise: tuple[float, ...] = ()
    """Standard deviation, for each feature of a vector observation, of the noise through which the student sees it, though its teacher
    does not; () for none."""
    dueling: bool = False
    """Give the student a dueling head while it trains; it ships as a plain one."""
    priority_exponent: float = 0.0
    """Draw transitions by (TD error)^this, corrected by importance weights (Schaul et al. 2016); 0: not."""
    for_learning: bool = False
    """In ALE, learn from rewards clipped to their sign and let a lost life end the episode; checks and verdict never do."""
    target_every: int = 250
    """Updates after which the lagged copy is refreshed."""
    check_every: int = 2_000
    """Steps between checks: return on selection seeds, best student, stop rule, checkpoint."""
    check_episodes: int = 20
    """Episodes of a check."""
    eval_epsilon: float = 0.0
    """Probability of a random action in the acceptance check, the checks and the verdict, for teacher and student alike."""
    stop_gap: float = 0.01
    """Stop when the score is at least 1 − this ..."""
    stop_agreement: float = 0.75
    """... and agreement on student-visited states, weighted by the teacher's value gap, at least this, ..."""
    patience: int = 2
    """... at this many checks in a row."""
    drift_threshold: float | None = None
    """Drift above which the best student of before does not count any more; None: it always counts."""
    stop_return: float | None = None
    """Without a teacher: the return at which to stop."""
    threads: int = 2
    """Threads of the networks and of the emulators."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks and the replay live: cpu or cuda."""

    def __post_init__(self) -> None:
        check_choices(self)
        counts = ("env_steps", "n_envs", "updates", "batch_size", "capacity", "target_every", "check_every", "check_episodes", "patience")
        check_numbers(self, **dict.fromkeys(counts, "[1, inf)"))
        check_numbers(self, **dict.fromkeys(("learning_starts", "gap_exponent", "n_step", "priority_exponent", "obs_noise"), "[0, inf)"))
        check_numbers(self, **dict.fromkeys(("learning_rate", "max_grad_norm"), "(0, inf)"))
        check_numbers(self, **dict.fromkeys(("stop_gap", "stop_agreement", "stop_return", "drift_threshold"), "(-inf, inf)"))
        check_numbers(self, threads=THREADS, average="[0, 1)", gamma="[0, 1]", eval_epsilon="[0, 1]")
        if not 0 <= self.seed < 900:
            raise SpecError(f"'seed' must lie in 0 to 899, so that training and evaluation never share one; got {self.seed}.")
        if self.learning_starts >= self.env_steps:
            raise SpecError(f"'learning_starts' ({self.learning_starts}) must be below 'env_steps' ({self.env_steps}).")
        if any(term.loss in TD_LOSSES for term in self.terms) and self.n_step < 1:
            raise SpecError("A TD term needs 'n_step' of at least 1.")
        if self.priority_exponent > 0 and (self.gap_exponent > 0 or all(term.loss not in TD_LOSSES for term in self.terms)):
            raise SpecError("'priority_exponent' draws by TD error: it needs a TD term, and 'gap_exponent' of 0.")
        if not 0 < self.entropy_share < 1:
            raise SpecError(f"'entropy_share' must lie in (0, 1), got {self.entropy_share}.")
        if len({env_id for env_id, _ in self.tasks}) < len(self.tasks):
            raise SpecError("Each task of a run needs an environment of its own: several teachers of one environment are an ensemble.")
        if self.prune_from is not None and (self.more_tasks or self.reused_head or self.dueling or self.start != "new"):
            raise SpecError("'prune_from' goes with one task, a plain head and new weights.")
        if self.more_tasks and (self.priority_exponent > 0 or self.stop_return is not None):
            raise SpecError("A run of several tasks takes neither 'priority_exponent' nor 'stop_return'.")

    @property
    def tasks(self) -> tuple[tuple[str, tuple[TeacherFile, ...]], ...]:
        """Environment and teacher's files of each task, the first one first."""
        return ((self.env_id, self.teacher), *((task.env_id, task.teacher) for task in self.more_tasks))

    def seen_from(self, number: int) -> "TrainConfig":
        """The same run with another of its tasks as the first."""
        (env_id, teacher), *others = self.tasks[number], *self.tasks[:number], *self.tasks[number + 1 :]
        return replace(self, env_id=env_id, teacher=teacher, more_tasks=tuple(TaskFile(*other) for other in others))

    @property
    def needs_teacher(self) -> bool:
        """Whether a term, the behaviour or the sampling ever asks the teacher."""
        used = any(t.needs_teacher and max(t.weight.begin, t.weight.end or 0.0) > 0 for t in self.terms)
        return used or self.behaviour.name == "teacher" or self.gap_exponent > 0

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainConfig":
        """Reads `to_json`'s data.

        Raises:
            SpecError: a key is unknown, or a value has another type or means nothing.
        """
        config: TrainConfig = from_plain(cls, data, "train")
        return config
