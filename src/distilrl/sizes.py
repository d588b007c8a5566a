"""Which sizes of student a plan tries: a ladder for each kind of observation, what the target can take, and sizes
between.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distilrl.config import RewardConfig, StudentConfig, TrainConfig
from distilrl.envs import EnvInfo
from distilrl.errors import SpecError
from distilrl.evaluate import latency_us, size
from distilrl.heads import Head, student_head
from distilrl.networks import blank
from distilrl.objective import TeacherTerm
from distilrl.plain import check_fields, read_as
from distilrl.policies import Policy
from distilrl.schedules import Schedule
from distilrl.spaces import ObsSpec
from distilrl.specs import LARGE_IMAGE, NetworkSpec, suggest
from distilrl.widths import scaled

VECTOR_SIZES = (
    "mlp:", "mlp:2", "mlp:4", "mlp:6", "mlp:8", "mlp:12", "mlp:16",
    "mlp:4,4", "mlp:8,8", "mlp:12,12", "mlp:16,16", "mlp:24,24", "mlp:32,32",
)  # fmt: skip
"""Tried with any vector; the first is linear."""
LARGER_SIZES = ("mlp:48,48", "mlp:64,64")
"""Tried too where actions are real or an observation has many numbers."""
MANY_NUMBERS = 32
IMAGE_WIDTHS = ((4, 8), (4, 24), (8, 16), (8, 32), (16, 32), (16, 64))
"""Channels of each convolution and width of the dense layer of students of small images."""
PIXEL_SIZES = (
    "cnn:4k8s4,8k4s2,8k3s2:8", "cnn:4k8s4,8k4s2,8k3s2:24", "cnn:8k8s4,8k4s2,8k3s2:16", "cnn:8k8s4,8k4s2,8k3s2:32",
    "cnn:8,16,16:32", "cnn:16,16,16:64",
)  # fmt: skip
"""Students of images that the Nature kernels fit."""
REFINED = 3
"""Sizes tried between the largest that fell short and the smallest that did not."""


@dataclass(frozen=True)
class Budget:
    """What the target can take; None: anything.

    Example::

        plan("tqc.zip", job, "runs/plan", budget=Budget(params=500))
    """

    params: int | None = None
    """Parameters."""
    bytes: int | None = None
    """Bytes of weights in floats."""
    macs: int | None = None
    """Multiply-accumulates of one decision."""
    us: float | None = None
    """Microseconds of one decision in PyTorch on one thread of this machine."""

    def __post_init__(self) -> None:
        check_fields(self, params="[1, inf)", bytes="[1, inf)", macs="[1, inf)", us="(0, inf)")

    def allows(self, spec: NetworkSpec, head: Head, info: EnvInfo) -> bool:
        """Whether a student is small and fast enough."""
        network = blank(spec)
        own = size(network)
        limits = ((self.params, "params"), (self.bytes, "bytes"), (self.macs, "macs"))
        if any(limit is not None and own[name] > limit for limit, name in limits):
            return False
        return self.us is None or latency_us(Policy(network, head), info) <= self.us


@dataclass(frozen=True)
class PlanOptions:
    """What a plan is given beside its job; ``given`` of its config.json."""

    sizes: tuple[str, ...] = ()
    """Student specs; `ladder` by default."""
    seeds: int = 5
    """Students of each size."""
    budget: Budget = field(default_factory=Budget)
    """Sizes beyond it are not tried."""
    refine: bool = True
    """Try sizes between the largest that fell short and the smallest that did not."""

    def __post_init__(self) -> None:
        check_fields(self, seeds="[1, inf)")

    @classmethod
    def from_config(cls, data: dict[str, Any]) -> "PlanOptions":
        """What a plan's config.json holds, so that ``plan(None, Job.from_json(data), out, **vars(options))`` makes the
        plan again.

        Raises:
            SpecError: it is damaged.
        """
        return read_as(cls, data.get("given", {}), "given")


def plan_steps(config: TrainConfig, info: EnvInfo) -> int:
    """Environment steps of a search: a tenth of the recipe's own where a vector chooses among a few actions, whose
    students are there soon; else all of them.

    Example::

        config = config.but(env_steps=plan_steps(config, describe_env("CartPole-v1")))  # 3,000 of 30,000
    """
    easy = info.obs.image is None and not student_head(info.action).real
    return config.data.env_steps // 10 if easy else config.data.env_steps


def of_search(config: TrainConfig, specs: Sequence[NetworkSpec]) -> TrainConfig:
    """The settings of a plan's one stream, whose students are all of these: it keeps the longest history, and sequences
    where one has a cell.

    Raises:
        SpecError: a student remembers, and the settings do not suit that.
    """
    network = "mlp:"  # what the job names decides nothing here
    remembering = sorted((s for s in specs if s.remembers), key=lambda spec: spec.cell is None)
    if remembering:
        network = replace(remembering[0], history=max(spec.history for spec in specs)).describe()
    return config.but(network=network, reward=RewardConfig())


def ladder(obs: ObsSpec, head: Head) -> tuple[str, ...]:
    """Student specs for these observations and actions, roughly from small to large.

    Example::

        ladder(describe_env("CartPole-v1").obs, teacher.head.student)[0]  # mlp:, a linear student
    """
    if obs.image is None:
        return VECTOR_SIZES + (LARGER_SIZES if head.real or obs.vector > MANY_NUMBERS else ())
    if min(obs.image[1:]) >= LARGE_IMAGE:
        return PIXEL_SIZES
    build = NetworkSpec.of(suggest(obs.image), obs, head.width)
    made = (
        replace(build, convs=tuple((channels, k, s) for _, k, s in build.convs), hidden=(dense,))
        for channels, dense in IMAGE_WIDTHS
    )
    return tuple(spec.describe() for spec in made)


def between_reached(specs: Sequence[NetworkSpec], reached: Sequence[bool]) -> list[NetworkSpec]:
    """Sizes between the smallest that is there and the one before it, at most `REFINED`.

    Args:
        specs: what was tried, the smallest first.
        reached: which of them are there.

    Example::

        between_reached([linear, wide], [False, True])
    """
    there = [index for index, good in enumerate(reached) if good]
    if not there or there[0] == 0:
        return []
    upper, below = specs[there[0]], specs[there[0] - 1].params
    known = {spec.describe() for spec in specs}
    found: dict[str, NetworkSpec] = {}
    for step in range(1, REFINED + 1):
        spec = scaled(upper, round(below * (upper.params / below) ** (step / (REFINED + 1))))
        if below < spec.params < upper.params and spec.describe() not in known:
            found.setdefault(spec.describe(), spec)
    return list(found.values())


def check_plannable(config: TrainConfig) -> None:
    """Refuses what many students that share one stream cannot do.

    Raises:
        SpecError: names the recipe, and what it is.
    """
    way = "choose one that compares the numbers of student and teacher, such as distil, regression or cloning"
    bad = [term.name for term in config.terms if not isinstance(term, TeacherTerm)]
    if bad:
        raise SpecError(f"A plan cannot train the term '{bad[0]}' of the recipe '{config.recipe}': {way}.")
    plain = StudentConfig()
    for name in ("start", "prune_from", "reused_head", "dueling"):
        if getattr(config.student, name) != getattr(plain, name):
            raise SpecError(
                f"A plan cannot do '{name}' of the recipe '{config.recipe}', its students start new and plain: {way}."
            )
    if config.data.round_steps > 0:
        raise SpecError(
            f"'round_steps' is {config.data.round_steps}, but a plan waits for each step: leave it at 0, 'shards' at 1."
        )
    behaviour = config.data.behaviour
    schedules: list[Schedule] = [behaviour.beta, behaviour.epsilon, *behaviour.labels]
    schedules += [
        one for term in config.terms if isinstance(term, TeacherTerm) for one in (term.weight, term.sharpness)
    ]
    measured = next((one.by for one in schedules if one.by != "budget" and one.end is not None), None)
    if measured is not None:
        raise SpecError(
            f"A plan cannot follow the '{measured}' of one student, as the recipe '{config.recipe}' does: {way}."
        )
