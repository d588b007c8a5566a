"""Options of `distilrl distill` beside the everyday ones, in the groups that its help shows."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from distilrl.cli.options import SideOptions, Unset
from distilrl.collect import BehaviourName
from distilrl.comparison import Comparison
from distilrl.config import TrainConfig
from distilrl.devices import Device
from distilrl.envs import describe_env
from distilrl.errors import SpecError
from distilrl.measures import Measure
from distilrl.next_steps import PLAYED_ON
from distilrl.teachers import Combine


@dataclass(frozen=True, kw_only=True)
class LearningOptions:
    """How the student learns; the recipe has an answer to each."""

    task: UseAppendAction[tuple[str, ...]] = ()
    """Instead of --env and --teacher: ENV=TEACHER, for one student of several tasks."""
    behaviour: Unset[BehaviourName | None] = None
    """Who plays while data is collected; the recipe's own by default (mixed)."""
    reward_steps: int = 0
    """Environment steps of a stage with reward after imitation, for students too small to imitate; 0: none."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE for any other setting: --set learning-rate=0.001 --set stakes-exponent=0.5, or by its place
    below 'train' in config.json, --set terms.0.weight=2."""
    seed: int = 0
    """Seed of training."""
    prune_from: Unset[str | None] = None
    """Begin with this wider student and prune units and channels until --student is left."""
    assistants: int = 0
    """Go from teacher to student by this many teacher assistants, each smaller than the one before."""
    combine: Combine = "mean"
    """Several teachers: the mean of their action probabilities, or in each state the one with the highest value."""


@dataclass(frozen=True, kw_only=True)
class SeenOptions:
    """What the student sees otherwise than its teacher does."""

    hide: UseAppendAction[tuple[str, ...]] = ()
    """What the student does not see though its teacher does, and its file does not read: obs[12:20], or a part of a
    Dict observation by its name."""
    student_noise: Unset[str | None] = None
    """Standard deviation of the noise on the student's observations, in their own units: one number for all, or one for
    each with commas."""
    student_delay: int = 0
    """Steps by which the student sees late."""
    student_dropout: float = 0.0
    """Probability that an observation does not reach the student, which then sees the last one again."""
    student_flicker: float = 0.0
    """Probability that a frame of an image reaches the student black; in a stack of frames it stays so."""

    def of(self, config: TrainConfig) -> TrainConfig:
        """The configuration with what the student does not see as its teacher does."""
        if len(config.tasks) > 1 and (self.hide or self.student_noise is not None):
            raise SpecError("--hide and --student-noise are about the numbers of one environment: leave out --task.")
        obs = describe_env(config.env).obs
        if self.hide:
            places = {place for text in self.hide for place in obs.places(text)}
            config = config.but(hidden_features=tuple(sorted(places | set(config.student.hidden_features))))
        if self.student_noise is not None:
            try:
                noise = tuple(float(number) for number in self.student_noise.split(","))
            except ValueError:
                raise SpecError(
                    f"--student-noise {self.student_noise}: write a number, or one for each number of an observation, "
                    "with commas."
                ) from None
            config = config.but(noise=noise * obs.shape[0] if len(noise) == 1 else noise)
        given = {"delay": self.student_delay, "dropout": self.student_dropout, "flicker": self.student_flicker}
        return config.but(**{name: value for name, value in given.items() if value})


Seen = Annotated[SeenOptions, arg(name="sensor")]
"""The group as a field of a command."""
SENSOR_OPTIONS = {name: f"student_{name}" for name in ("noise", "delay", "dropout", "flicker")}
"""Settings that have an option in that group, and the option."""


@dataclass(frozen=True, kw_only=True)
class VerdictOptions:
    """How the student is compared with its teacher."""

    episodes: int = 100
    """Episodes of the verdict; an inconclusive one plays on up to three times as many. A game that repeats itself is
    played once from each start instead."""
    disturbed_episodes: int = 100
    """Episodes with random actions and with sticky actions or noise, each with a verdict of its own; 0: none."""
    measure: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME[=HOW][<=MARGIN|>=MARGIN]")] = ()
    """What to measure beside the return: a key of the environment's info, made one number of an episode by HOW (last,
    sum, mean or max of its steps). 'crashed=max<=0.05': lower is better, and a verdict says whether the student is at
    most 0.05 above the teacher; >=: higher is better."""
    cluster: Unset[str | None] = None
    """Key of the environment's info whose number says which episodes belong together (a patient's, a day's, a map's):
    these clusters are then what the verdict counts, not episodes."""
    margin_abs: Unset[float | None] = None
    """Largest acceptable loss in the environment's own units, in place of the share that --margin says."""
    eval_epsilon: float = 0.0
    """Probability of a random action in all evaluation, for teacher and student alike; 0: greedy."""

    def comparison(self, margin: float) -> Comparison:
        """The comparison that this asks for, with this margin where --margin-abs is none."""
        return Comparison(
            self.episodes,
            PLAYED_ON * self.episodes,
            self.disturbed_episodes,
            margin,
            self.margin_abs,
            measures=tuple(Measure.of(text) for text in self.measure),
            cluster=self.cluster,
        )


@dataclass(frozen=True, kw_only=True)
class MachineOptions(SideOptions):
    """Where it is computed."""

    threads: Unset[int | None] = None
    """CPU threads; by default 2 for pixels and 1 for vectors."""
    device: Device = "cpu"
    """Where the networks compute."""
    workers: int = 0
    """Processes that step slow environments; 0: this one."""
    collectors: int = 0
    """Processes of a Ray cluster, that of --ray or else auto, that collect for one run (extra: ray); what they collect
    is settled by shards and rounds, so that the student is the same with any number of them. 0: this process."""
    collector_gpus: float = 0.0
    """Share of a GPU that each collector has for teacher and student."""
    wandb: bool = False
    """Log to Weights & Biases too (extra: wandb)."""
