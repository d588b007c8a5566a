"""All that decides a run, as frozen groups; ``config.json`` in a run folder is this.

Field names are unique over the groups, so `TrainConfig.but` changes any of them by its name alone; `reward` is set
whole.
"""

import operator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from distilrl.collect import Behaviour
from distilrl.devices import Device
from distilrl.errors import SpecError
from distilrl.features import Start
from distilrl.networks import Share
from distilrl.objective import (
    AMONG_OTHERS,
    WHOLE_BATCH,
    FeatureTerm,
    JudgedTerm,
    TDTerm,
    TeacherTerm,
    Term,
    about_teacher,
)
from distilrl.optimisers import Optimiser
from distilrl.plain import THREADS, check_fields, check_numbers, read_as, to_plain
from distilrl.runs import RunFolder
from distilrl.schedules import OVER, START
from distilrl.sensors import EXACT, Sensors
from distilrl.spaces import EnvRef, ObsSpec, env_ref
from distilrl.specs import NetworkSpec, has_cell, history_of
from distilrl.teachers import Combine, TeacherFile
from distilrl.text import as_file_name


@dataclass(frozen=True)
class TaskFile:
    """A task of a run: an environment and its teacher."""

    env: EnvRef
    """Environment; an id is taken too."""
    teacher: tuple[TeacherFile, ...] = ()
    """Files of its teacher; several are an ensemble, none where there is no teacher or it is not from a file. Paths are
    taken too."""

    def __post_init__(self) -> None:
        given: Any = self.teacher
        files = [given] if isinstance(given, str | Path | TeacherFile) else given
        if not isinstance(files, list | tuple) or not all(isinstance(one, str | Path | TeacherFile) for one in files):
            raise SpecError(f"The teacher of a task must be its file or files, got {given!r:.80}: give it to the call.")
        named = (one if isinstance(one, TeacherFile) else TeacherFile(str(one)) for one in files)
        object.__setattr__(self, "env", env_ref(self.env))
        object.__setattr__(self, "teacher", tuple(named))


@dataclass(frozen=True)
class StudentConfig:
    """The network in training, and what it sees."""

    network: str = "mlp:64,64"
    """Student spec, e.g. ``mlp:64,64``, ``mlp:`` (linear), ``cnn:16,16,16:64``, or with memory ``gru:16`` or
    ``mlp:32,32@history=3``."""
    start: Start = "new"
    """Weights that the student starts from: new ones, or its teacher's, projected by SVD or by picking the strongest
    units."""
    prune_from: str | None = None
    """A wider student of the same layers that training begins with; in three steps, at 20, 35 and 50 % of
    the budget, the weakest units and channels go until ``network`` is left. None: no pruning."""
    reused_head: bool = False
    """The student ends in its teacher's frozen head behind a learned projection, folded into one layer when it
    ships."""
    dueling: bool = False
    """Give the student a dueling head while it trains; it ships as a plain one."""
    share: Share = "body"
    """What the students of several tasks share: all but the head, and but the first layer where observations differ in
    shape; or of a convolutional network the convolutions alone."""
    hidden_features: tuple[int, ...] = ()
    """Numbers of a vector observation that the student does not see, though its teacher does."""
    noise: tuple[float, ...] = ()
    """Standard deviation, for each number of a vector observation, of the noise through which the student sees it,
    though its teacher does not; () for none."""

    delay: int = 0
    """Steps by which the student sees late, though its teacher does not."""
    dropout: float = 0.0
    """Probability that an observation does not reach the student, which then sees the last one again."""
    flicker: float = 0.0
    """Probability that a frame of an image reaches the student black, though its teacher sees it."""

    def __post_init__(self) -> None:
        check_fields(self, hidden_features="[0, inf)")
        _ = self.sensors  # which check their own numbers

    @property
    def sensors(self) -> Sensors:
        """How the student sees what its teacher sees as it is."""
        return Sensors(self.noise, self.delay, self.dropout, self.flicker)

    def spec(self, obs: ObsSpec, outputs: int, text: str | None = None) -> NetworkSpec:
        """The network for observations of an environment; ``text``: another one than its own."""
        whole = NetworkSpec.of(self.network if text is None else text, obs, outputs)
        return replace(whole, unseen=tuple(sorted(set(self.hidden_features))))


@dataclass(frozen=True)
class DataConfig:
    """What is collected, and how it is drawn."""

    behaviour: Behaviour = field(default_factory=Behaviour)
    """Who acts while data is collected."""
    env_steps: int = 30_000
    """Budget: steps of one environment, summed over all."""
    n_envs: int = 8
    """Environments that step together."""
    round_steps: int = 0
    """Vector steps of a round, of which two are in flight, so that collecting, wherever that is, and learning go on at
    once; the student that acts is that of a whole round before. 0: no rounds, the student of the moment acts."""
    shards: int = 1
    """Equal parts of the environments that are collected apart in rounds, each on one thread."""
    workers: int = 0
    """Processes that step them; 0: this one. Games of ALE have threads of their own, and shards one process each."""
    learning_starts: int = 400
    """Steps collected before the first update; input statistics and the temperature come from them."""
    capacity: int = 100_000
    """States in the replay."""
    stakes_exponent: float = 0.0
    """Draw states by (what a mistake costs there)^this: the teacher's value gap, or how fast its critic falls; 0:
    uniformly."""
    priority_exponent: float = 0.0
    """Draw transitions by (TD loss)^this, corrected by importance weights; 0: not. Of an error below 1 the loss is half
    its square, so that 0.5 is what 1 is to Schaul et al. (2016)."""
    for_learning: bool = False
    """In ALE, learn from rewards clipped to their sign and let a lost life end the episode, while the game goes on;
    checks and verdict never do."""
    mix: Literal["one", "all"] = "one"
    """With several tasks, each step and each update is of one of them, drawn the more often the lower its last scores;
    or of all."""

    def __post_init__(self) -> None:
        check_fields(self, **dict.fromkeys(("env_steps", "n_envs", "shards", "capacity"), "[1, inf)"))
        check_numbers(self, **dict.fromkeys(("round_steps", "workers", "learning_starts"), "[0, inf)"))
        exponents = ("stakes_exponent", "priority_exponent")
        check_numbers(self, **dict.fromkeys(exponents, "[0, 10]"))  # of larger ones weights overflow
        if self.n_envs > self.env_steps:
            raise SpecError(
                f"'n_envs' ({self.n_envs}) must be at most 'env_steps' ({self.env_steps}): each makes a step at least."
            )
        if self.n_envs % self.shards:
            raise SpecError(f"'shards' ({self.shards}) must divide 'n_envs' ({self.n_envs}): they are equal parts.")
        if self.shards > 1 and self.round_steps == 0:
            raise SpecError(f"'shards' ({self.shards}) are collected in rounds: set 'round_steps' too, to 8 or so.")


@dataclass(frozen=True)
class OptimConfig:
    """How the student learns from what was collected."""

    updates: int = 4
    """Gradient steps per vector step; of several tasks together as many per one vector step of each."""
    batch_size: int = 256
    """States per gradient step."""
    optimiser: Optimiser = "adam"
    """What makes the steps: Adam, or for dense layers Adam in the eigenbasis of their gradients (`Soap`)."""
    learning_rate: float = 3e-3
    """Peak learning rate; it decays to 0 over the budget as a cosine."""
    max_grad_norm: float = 10.0
    """The gradients of the students are scaled down to this norm; those of projectors beside them are not."""
    average: float = 0.99
    """Decay per update of the weight average that is evaluated and shipped; 0: the last weights."""
    target_every: int = 250
    """Updates after which the lagged copy is refreshed."""
    entropy_share: float = 0.5
    """The temperature found makes the teacher's mean entropy this share of the largest."""
    standardise: Literal["states", "space", "no"] = "states"
    """Standardise inputs by the first states, and read a history as moves, or widen those features to ±1 whose space is
    narrower; folded into the student's first layer when it ships."""
    scale_head: bool = False
    """Multiply the shipped student's head by the temperature: its outputs then are on the teacher's scale."""
    value_units: bool = False
    """Train the student on the scale of its teacher's action values, its last layer in units of what these vary by: the
    state's value, and what the actions make of it. Folded into the head when it ships. Real actions have
    units of their own, half-ranges where their bounds are far from order 1, whatever this says."""
    sequence: int = 32
    """Steps in a row of an episode that a student with a cell learns from at once; others learn from single states."""
    burn_in: int = 8
    """First steps of a sequence from which nothing is learnt, where it does not begin with its episode: they bring the
    memory to what it is now, or would be (Kapturowski et al. 2019)."""
    gamma: float = 0.99
    """Discount per step of TD terms."""
    n_step: int = 0
    """Steps that TD terms look ahead; 0 where there is none."""

    def __post_init__(self) -> None:
        check_fields(self, **dict.fromkeys(("updates", "batch_size", "target_every"), "[1, inf)"), sequence="[1, 4096]")
        check_numbers(self, **dict.fromkeys(("learning_rate", "max_grad_norm"), "(0, inf)"))
        check_numbers(self, average="[0, 1)", entropy_share="(0, 1)", gamma="[0, 1]", n_step="[0, inf)")
        check_numbers(self, burn_in="[0, inf)")


@dataclass(frozen=True)
class StopConfig:
    """When the student is measured, and when training ends."""

    check_every: int = 2_000
    """Steps between checks: return on selection seeds, best student, stop rule, checkpoint."""
    check_episodes: int = 20
    """Episodes of a check."""
    finalists: int = 3
    """Where the budget is used up, the students of this many of the best checks meet again on other episodes: the best
    check of many is luck."""
    final_episodes: int = 50
    """Episodes, other than those of checks, on which finalists meet, and on which a student must be good enough too
    before training ends for that; the teacher plays these as well, unless its acceptance was of all that there are."""
    enough: float | None = None
    """Checks of at least this share of (teacher − random) are equally good, and of equal ones the last is kept: for a
    student of whom more is wanted than its score, which a lucky check of its early days would end. None: the higher,
    the better."""
    gap: float = 0.01
    """Stop when at most this share of (teacher − random), of whole episodes, as the verdict's margin is, is missing
    ..."""
    agreement: float = 0.75
    """... and agreement on student-visited states, weighted by what a mistake costs, at least this, ..."""
    patience: int = 2
    """... at this many checks in a row, and the score is so on ``final_episodes`` others."""
    drift_threshold: float | None = None
    """Drift above which the best student of before does not count any more; None: it always counts."""
    at_return: float | None = None
    """Without a teacher: the return at which to stop."""

    def __post_init__(self) -> None:
        check_fields(
            self,
            **dict.fromkeys(("check_every", "check_episodes", "finalists", "final_episodes", "patience"), "[1, inf)"),
        )
        others = ("enough", "gap", "agreement", "drift_threshold", "at_return")
        check_numbers(self, **dict.fromkeys(others, "(-inf, inf)"))


@dataclass(frozen=True)
class RewardConfig:
    """A stage after imitation that learns from returns alone, for students too small to imitate: evolution of the
    distilled weights (Mania et al. 2018: augmented random search, here from a distilled start and in units of each
    layer).
    """

    env_steps: int = 0
    """Budget of environment steps; 0: no such stage."""
    directions: int = 16
    """Directions tried in a round, each both ways."""
    best: int = 8
    """Of these, how many of the most telling ones move the weights."""
    episodes: int = 1
    """Episodes for each way of a direction."""
    radius: float = 0.02
    """How far weights are moved to try a direction, in units of the root mean square of their layer."""
    rate: float = 0.02
    """How far they then go, in the same units; falls to 0 over the budget in a straight line."""

    def __post_init__(self) -> None:
        check_fields(self, env_steps="[0, inf)", **dict.fromkeys(("directions", "best", "episodes"), "[1, inf)"))
        check_numbers(self, **dict.fromkeys(("radius", "rate"), "(0, inf)"))


@dataclass(frozen=True)
class ComputeConfig:
    """Where and with what it is computed."""

    threads: int = 2
    """Threads of the networks and of the emulators."""
    device: Device = "cpu"
    """Where the networks and the replay live: cpu, cuda, or mps (Apple's graphics)."""
    eval_envs: int = 32
    """Environments that an evaluation holds at once, a copy for each episode: fewer need less memory, more are played
    in fewer parts, for each of which workers start anew. ALE holds 16 at most; CartPole, stepped in arrays, at least
    100."""

    def __post_init__(self) -> None:
        check_fields(self, threads=THREADS, eval_envs="[1, inf)")


GROUPS: dict[str, type] = {
    "student": StudentConfig, "data": DataConfig, "optim": OptimConfig, "stop": StopConfig, "compute": ComputeConfig,
}  # fmt: skip
GROUP = {f.name: group for group, kind in GROUPS.items() for f in fields(kind)}
"""Group of each field."""


@dataclass(frozen=True)
class TrainConfig:
    """All that decides a run; ``config.json`` is this.

    Example::

        config = make_config("distil", "HalfCheetah-v5", teacher="tqc.zip", network="mlp:32,32", env_steps=100_000)
        other = config.but(env_steps=200_000)  # which changes nothing else: a network takes its activation when made
    """

    recipe: str = "distil"
    """Name of the recipe that this came from."""
    tasks: tuple[TaskFile, ...] = ()
    """Environments and their teachers; several are one student body with a head for each and an input layer for each
    kind of observation."""
    combine: Combine = "mean"
    """Several teachers of one environment: the mean of their action probabilities, or in each state the one with the
    highest value."""
    terms: tuple[Term, ...] = (TeacherTerm("forward_kl"),)
    """The objective."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The network in training, and what it sees."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is collected, and how it is drawn."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """How the student learns from it."""
    stop: StopConfig = field(default_factory=StopConfig)
    """When it is measured, and when training ends."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """A stage with reward after imitation."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    """Where and with what it is computed."""
    eval_epsilon: float = 0.0
    """Probability of a random action in the acceptance check, the checks and the verdict, for teacher and student
    alike."""
    seed: int = 0
    """Seed of every random draw of training."""

    def __post_init__(self) -> None:
        if not isinstance(self.terms, tuple | list):
            raise SpecError(f"'terms' must be a tuple, got {self.terms!r:.80}: write terms=(term(...),).")
        if wrong := [one for one in self.terms if not isinstance(one, get_args(Term))]:
            raise SpecError(f"'terms' holds {wrong[0]!r:.80}, which is no term: write term({wrong[0]!r:.80}).")
        check_fields(self, eval_epsilon="[0, 1]")
        if not 0 <= self.seed < 900:
            raise SpecError(
                f"'seed' must lie in 0 to 899, so that training and evaluation never share one; got {self.seed}."
            )
        self._check_objective()
        self._check_together()

    def _check_objective(self) -> None:
        """The terms and what they need of the other groups."""
        with_td = any(isinstance(term, TDTerm) for term in self.terms)
        if not self.terms:
            raise SpecError("'terms' is empty: an objective needs at least one.")
        among = next((term.name for term in self.terms if term.name in AMONG_OTHERS), None)
        if among is not None and self.optim.batch_size < 3:
            raise SpecError(f"'{among}' compares examples with each other: set 'batch_size' to 3 at least.")
        if all(term.weight.most == 0 for term in self.terms):
            raise SpecError("Every term of the objective has weight 0, so that nothing is learnt: give one a weight.")
        if with_td and self.optim.n_step < 1:
            raise SpecError("A TD term needs 'n_step' of at least 1.")
        labels = self.data.behaviour.labels
        some = not self.data.behaviour.labels_all
        if self.optim.n_step > 0 and some and self.needs_teacher and all(one.end is None for one in labels):
            labelled = [self.data.behaviour.labels_step(step, START) for step in range(1000 + self.optim.n_step)]
            if not any(map(operator.and_, labelled, labelled[self.optim.n_step :])):
                raise SpecError(
                    f"With 'labels' of {max(one.most for one in labels):g} no two steps that are {self.optim.n_step} "
                    "apart ('n_step') are labelled, so that nothing is learnt: let the teacher label more steps."
                )
        if self.data.priority_exponent > 0 and (self.data.stakes_exponent > 0 or not with_td):
            raise SpecError("'priority_exponent' draws by TD error: it needs a TD term, and 'stakes_exponent' of 0.")

    def _check_together(self) -> None:
        """What excludes each other."""
        if self.data.learning_starts >= self.data.env_steps:
            raise SpecError(
                f"'learning_starts' ({self.data.learning_starts}), the steps before the first update, must be below "
                f"'env_steps' ({self.data.env_steps}): raise --steps, or lower it (--set learning-starts=N)."
            )
        if len({task.env for task in self.tasks}) < len(self.tasks):
            raise SpecError(
                "Each task of a run needs an environment of its own: several teachers of one environment are an "
                "ensemble."
            )
        labels = [task.env.label for task in self.tasks]
        names = [as_file_name(label).casefold() for label in labels]
        if twice := [label for at, label in enumerate(labels) if names[at] in names[:at]]:
            raise SpecError(
                f"Two tasks would have one folder, that of {twice[0]:.80}: environments of one run need different ids "
                "or kwargs, so register one of them under another id."
            )
        several, student = len(self.tasks) > 1, self.student
        if self.optim.value_units and (self.optim.scale_head or student.reused_head):
            raise SpecError(
                "'value_units' gives the head its scale: it goes neither with 'scale_head' nor 'reused_head'."
            )
        first = about_teacher(self.terms)
        plain = first is None or (first.student_temperature == 1.0 and first.sharpness(OVER) == 1.0)
        if self.optim.scale_head and (self.learns_scale or not plain):
            raise SpecError(
                "'scale_head' multiplies by the teacher's temperature what a student learnt at temperature 1 and "
                f"sharpness 1, and the terms of recipe '{self.recipe}' teach another scale: leave it out."
            )
        if any(isinstance(term, JudgedTerm) for term in self.terms) and (self.optim.value_units or not plain):
            raise SpecError(
                "A discriminator compares a student at temperature 1 with its teacher at the one that was found: it "
                "goes neither with 'value_units' nor with another temperature or sharpness of the student's."
            )
        if student.reused_head and student.dueling:
            raise SpecError(
                "'reused_head' is the teacher's own head, which 'dueling' would split: leave one of them out."
            )
        if student.prune_from is not None and (
            several or student.reused_head or student.dueling or student.start != "new"
        ):
            raise SpecError(
                "'prune_from' goes with one task, a plain head and new weights: leave out 'dueling', 'reused_head' and "
                "'start', and give a single task."
            )
        if several and (
            self.data.priority_exponent > 0
            or self.stop.at_return is not None
            or self.reward.env_steps > 0
            or student.start != "new"  # each task would write its teacher's weights over what they share
        ):
            raise SpecError(
                "A run of several tasks starts anew and takes neither 'priority_exponent' nor 'at_return' nor a stage "
                "with reward: leave these out, and 'start' at new."
            )

        if student.sensors.follows and self.reward.env_steps > 0:
            raise SpecError(
                "A stage with reward sees what is there: leave out 'delay', 'dropout' and 'flicker', or that stage."
            )
        if has_cell(student.network) or history_of(student.network) > 1:
            self._check_memory()

    def _check_memory(self) -> None:
        """What a student with memory does not do."""
        student, optim, cell = self.student, self.optim, has_cell(self.student.network)
        if cell and optim.batch_size % optim.sequence:
            raise SpecError(
                f"'batch_size' ({optim.batch_size}) must be a multiple of 'sequence' ({optim.sequence}): those of the "
                f"student {student.network} are made of sequences."
            )
        if cell and any(isinstance(term, TDTerm) for term in self.terms):
            raise SpecError(
                f"The student {student.network} has a cell, and learns from a teacher alone: choose a recipe without a "
                "TD term, or a history, such as mlp:32,32@history=4."
            )
        if cell and optim.sequence < 2:
            raise SpecError("'sequence' is 1, of which a student with a cell learns nothing to remember: set it to 32.")
        if cell and optim.burn_in >= optim.sequence:
            raise SpecError(
                f"'burn_in' ({optim.burn_in}) must be below 'sequence' ({optim.sequence}), or nothing is left to learn."
            )
        apart = WHOLE_BATCH if cell else ()  # of a history, batches are of single states
        reading = next(
            (one for one in self.terms if isinstance(one, FeatureTerm | JudgedTerm) or one.name in apart), None
        )
        if reading is not None:
            raise SpecError(
                f"The term '{reading.name}' is for students without memory, and the student {student.network} "
                "remembers: choose a recipe without it, such as distil."
            )
        if student.start != "new" or student.prune_from is not None or self.reward.env_steps > 0:
            raise SpecError(
                f"The student {student.network} remembers: it starts with new weights ('start'), is not pruned "
                "('prune_from'), and learns by imitation alone (no stage with reward): leave that out."
            )

    @property
    def env(self) -> EnvRef:
        """Environment of the first task.

        Raises:
            SpecError: there is no task.
        """
        if not self.tasks:
            raise SpecError("The configuration names no environment: give it a task.")
        return self.tasks[0].env

    def but(self, **changes: Any) -> "TrainConfig":
        """The same with some fields changed, each by its own name, in whichever group it is.

        Raises:
            SpecError: there is no such field, or a value that means nothing.
        """
        own = {name: value for name, value in changes.items() if name in OWN}
        inside: dict[str, dict[str, Any]] = {}
        for name, value in changes.items():
            if name in OWN:
                continue
            if name not in GROUP:
                raise SpecError(f"Unknown setting '{name}': use one of {', '.join(sorted((*OWN, *GROUP)))}.")
            inside.setdefault(GROUP[name], {})[name] = value
        changed = {group: replace(own.get(group, getattr(self, group)), **new) for group, new in inside.items()}
        return replace(self, **(own | changed))

    def seen_from(self, number: int) -> "TrainConfig":
        """The same run with another of its tasks as the first."""
        return replace(self, tasks=(self.tasks[number], *self.tasks[:number], *self.tasks[number + 1 :]))

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules that environments and losses of somebody's own are imported from where a file names them."""
        named = [term.name.partition(":")[0] for term in self.terms if ":" in term.name]
        return tuple(dict.fromkeys([*(m for task in self.tasks for m in task.env.modules), *named]))

    @property
    def needs_teacher(self) -> bool:
        """Whether a term, the behaviour or the sampling ever asks the teacher."""
        used = any(t.needs_teacher and t.weight.most > 0 for t in self.terms)
        return used or self.data.behaviour.asks(START) or self.data.stakes_exponent > 0

    @property
    def keeps_scale(self) -> bool:
        """Whether the student's numbers are on the scale of the teacher's, or of returns."""
        return self.optim.scale_head or self._by_value

    @property
    def learns_scale(self) -> bool:
        """Whether they are so while it learns, and not divided by the temperature that its teacher's are divided by."""
        first = about_teacher(self.terms)
        return self._by_value or (first is not None and first.student_temperature is None)

    @property
    def _by_value(self) -> bool:
        """Whether values, in units or of rewards, teach it."""
        return self.optim.value_units or any(isinstance(term, TDTerm) for term in self.terms)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        data: dict[str, Any] = to_plain(self)
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "TrainConfig":
        """Reads `to_json`'s data.

        Raises:
            SpecError: a key is unknown, or a value has another type or means nothing.
        """
        return read_as(cls, data, "train")


def train_config(folder: RunFolder) -> TrainConfig:
    """How the run in a folder was trained.

    Raises:
        FileError: the folder holds no run.
        SpecError: its config.json does not say it, or says what means nothing.
    """
    return read_as(TrainConfig, folder.read_config().get("train"), f"train of {folder.config}")


def sensors_of(path: str | Path) -> Sensors:
    """How the student of a run's folder sees; whatever is of no run sees what is there."""
    folder = RunFolder(path).with_student()
    return train_config(folder).student.sensors if folder.kind() is not None else EXACT


OWN = tuple(f.name for f in fields(TrainConfig))
"""Fields of `TrainConfig` itself."""
