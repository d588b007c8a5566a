"""What several commands ask, in groups that their help shows as such, and settings by name."""

import json
import os
import sys
from collections.abc import Collection, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from tyro.conf import UseAppendAction, arg

from distilrl.comparison import Comparison
from distilrl.config import GROUP, GROUPS, TrainConfig
from distilrl.distributed import RayExecutor
from distilrl.envs import asked_of, trust
from distilrl.errors import SpecError
from distilrl.heads import Kind
from distilrl.jobs import Job
from distilrl.plain import check_number, from_plain
from distilrl.processes import Processes
from distilrl.runs import KINDS, read_config
from distilrl.spaces import EnvRef
from distilrl.teachers import Bounding, TeacherFile
from distilrl.verdict import Result, worst_of

T = TypeVar("T")
Unset = Annotated[T, arg(help_behavior_hint="")]
"""An option that is unset by default, about which its help says nothing."""
Needed = Annotated[T, arg(help_behavior_hint="(required)")]
"""An option that a command needs, unless --resume or --config takes the place of all."""
CODES = {"pass": 0, "within_margin": 0, "inconclusive": 3, "fail": 1}
"""Exit codes of verdicts."""
PARTS = (["reward"], ["terms"], ["data", "behaviour"])
"""Parts of a configuration whose settings are named by their place in it."""
WHERE = ("collectors", "collector_gpus", "jobs", "ray")
"""Options that say where runs are computed, and change nothing in them."""


def code_of(*results: Result | None) -> int:
    """The exit code of the worst of some verdicts, 0 where there is none."""
    worst = worst_of(*results)
    return CODES[worst] if worst is not None else 0


@dataclass(frozen=True)
class FileOptions:
    """Answers to what a teacher's file may not say of itself."""

    teacher_network: Unset[str | None] = None
    """Network of a plain state_dict, as a student spec; recognised where it is an MLP or a Nature CNN."""
    activation: Unset[str | None] = None
    """Activation of the dense layers where the file does not hold it: relu, tanh, elu, silu, gelu or leaky_relu."""
    normalizer: Unset[Path | None] = None
    """Statistics of observations that the policy expects: a VecNormalize pickle, read without executing anything in it,
    or a .json file of their 'mean' and 'var', and 'epsilon' and 'clip' where there are such."""
    divisor: Unset[float | None] = None
    """Pixels are divided by this before the network sees them; 255 for CleanRL's state_dicts, asked for with others."""
    teacher_output: Unset[str | None] = None
    """Output of an ONNX graph that holds the policy's numbers, where there are several."""
    kind: Unset[Kind | None] = None
    """What the file's numbers are: q (action values), logits, mean (a real action), or gaussian (mean and log std);
    recognised where the library is."""
    squash: Unset[Bounding | None] = None
    """How real actions come into their bounds: tanh, clip, or scale where -1 to 1 stand for them; recognised where the
    library is."""
    zeros: int = 0
    """Zeros that the teacher reads behind what the environment shows (84 for those of Ant-v2 and -v3); the student does
    not see them."""
    teacher_reads: UseAppendAction[tuple[str, ...]] = ()
    """What the teacher reads, if not all that the environment shows: obs[0:12], or a part of a Dict by its name."""
    teacher_member: Unset[str | None] = None
    """A teacher for each member of a family: the number of the observation that says which member it is. --teacher is
    then a folder of teachers, each named by its member's number."""

    def file(self, path: str) -> TeacherFile:
        """The file with these answers."""
        return TeacherFile(
            path,
            network=self.teacher_network,
            activation=self.activation,
            normalizer=str(self.normalizer) if self.normalizer else None,
            divisor=self.divisor,
            output=self.teacher_output,
            kind=self.kind,
            squash=self.squash,
            zeros=self.zeros,
            reads=self.teacher_reads,
            member=self.teacher_member,
        )


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """What is put around an environment."""

    env_kwargs: Unset[str] = ""
    """What the environment is made with, as JSON: '{"continuous": false}'."""
    wrapper: UseAppendAction[tuple[str, ...]] = ()
    """module:Class around the environment, the innermost first."""
    grey: bool = False
    """Images lose their colours."""
    resize: Annotated[Unset[tuple[int, int] | None], arg(metavar="HEIGHT WIDTH")] = None
    """Height and width to which images are resized."""
    stack: int = 1
    """Frames of time in one image."""

    def ref(self, env: str, option: str = "--env-kwargs") -> EnvRef:
        """The environment of this id with these options; the report that follows may import what was named here.

        Raises:
            SpecError: what ``option`` was given is no JSON object.
        """
        kwargs: Any = {}
        if self.env_kwargs:
            try:
                kwargs = json.loads(self.env_kwargs)
            except (ValueError, RecursionError) as error:
                raise SpecError(f"{option} is not JSON ({error}): write e.g. '{{\"continuous\": false}}'.") from None
            if not isinstance(kwargs, dict):
                raise SpecError(f"{option} must be a JSON object, e.g. '{{\"continuous\": false}}'.")
        ref = EnvRef(env, kwargs, self.wrapper, self.grey, self.resize, self.stack)
        trust(*asked_of(ref))
        return ref

    def maybe(self, env: str | None) -> EnvRef | None:
        """As `ref`; None where no environment is named.

        Raises:
            SpecError: none is named, but something of what is put around it.
        """
        if env is not None:
            return self.ref(env)
        if given := _given(self):
            raise SpecError(f"--{given[0].replace('_', '-')} is about an environment: name it too, with --env.")
        return None


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How a teacher is accepted, and where the verdict is played."""

    verdict_env: Unset[str | None] = None
    """Where the verdict is played, if not in --env: what training never sees."""
    verdict_env_kwargs: Unset[str] = ""
    """What --env, or --verdict-env, is made with for the verdict, as JSON, on top of --env-kwargs."""
    eval_envs: Unset[int | None] = None
    """Environments that an evaluation holds at once, 32 by default: fewer where a copy needs much memory, more with
    --workers."""
    accept_episodes: int = 20
    """Episodes of the teacher's acceptance check, which fixes the margin: more where returns are noisy."""
    accept_max_episodes: Unset[int | None] = None
    """While these do not tell the teacher from random play they are doubled, up to this many; 16 times as many by
    default, as many with --accept-weak-teacher."""
    accept_weak_teacher: bool = False
    """Go on with a teacher that is no better than random play; needs --margin-abs."""

    def job(self, config: TrainConfig, comparison: Comparison, around: EnvOptions) -> Job:
        """The job of a configuration whose environment has these options around it."""
        return Job(
            config if self.eval_envs is None else config.but(eval_envs=self.eval_envs),
            comparison,
            accept_episodes=self.accept_episodes,
            accept_max_episodes=self.accept_max_episodes,
            accept_weak_teacher=self.accept_weak_teacher,
            verdict_env=self._verdict_env(config, around),
        )

    def _verdict_env(self, config: TrainConfig, around: EnvOptions) -> EnvRef | None:
        """Where the verdict is played; None: where training is."""
        if self.verdict_env is None and not self.verdict_env_kwargs:
            return None
        inside = replace(around, env_kwargs=self.verdict_env_kwargs)
        other = inside.ref(self.verdict_env or config.env.id, "--verdict-env-kwargs")
        return replace(other, kwargs={**around.ref(config.env.id).kwargs, **other.kwargs})


@dataclass(frozen=True, kw_only=True)
class TrustOptions:
    """What a file may import."""

    trust: UseAppendAction[tuple[str, ...]] = ()
    """Module that a config.json may import for its environment, wrappers or losses."""

    def allow(self) -> None:
        """Allows it, before the file is read."""
        trust(*self.trust)


@dataclass(frozen=True, kw_only=True)
class SideOptions:
    """Where whole runs, or the parts of one evaluation, are done side by side."""

    jobs: int = 1
    """Processes that do runs at the same time, each with the threads of its run, or play parts of the evaluation of a
    single one, each with one; results are the same."""
    ray: Unset[str | None] = None
    """Do that on a Ray cluster instead: auto (of this machine, or of RAY_ADDRESS), local (a new one), or HOST:PORT of
    its head (extra: ray)."""

    @property
    def wanted(self) -> str:
        """The option that asks for it, as it was given; empty where none does."""
        return f"--ray {self.ray}" if self.ray is not None else f"--jobs {self.jobs}" if self.jobs != 1 else ""

    def check(self) -> None:
        """Raises where the two contradict each other, or mean nothing."""
        check_number("jobs", self.jobs, "[1, inf)")
        if self.ray is not None and self.jobs != 1:
            raise SpecError("--jobs is of this machine and --ray of a cluster: give one of them.")

    @contextmanager
    def executor(self, cpus: int, gpus: float = 0.0) -> Iterator[Executor | None]:
        """Where jobs or parts of one are done, each of which occupies so many processors of a cluster; what is still
        under way when the block ends, ends with it.
        """
        self.check()
        if not self.wanted:
            yield None
            return
        executor = Processes(self.jobs) if self.ray is None else RayExecutor(self.ray, cpus=cpus, gpus=gpus)
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


def needs(*jobs: Job) -> tuple[int, float]:
    """Processors and GPUs that any of these occupies."""
    whole = [job.train.compute for job in jobs]
    return max(one.threads for one in whole), float(any(one.device == "cuda" for one in whole))


AboutFile = Annotated[FileOptions, arg(name="teacher-file")]
Around = Annotated[EnvOptions, arg(name="environment")]
Judge = Annotated[JudgeOptions, arg(name="acceptance-and-verdict")]
Trusted = Annotated[TrustOptions, arg(name="trust")]
Side = Annotated[SideOptions, arg(name="side-by-side")]
"""Groups as fields of a command; an option's own name stays short."""


def settings_of(settings: tuple[str, ...]) -> dict[str, Any]:
    """The values of ``NAME=VALUE`` settings by name, but for those of parts that only a recipe's configuration has.

    Raises:
        SpecError: names the setting.
    """
    changes: dict[str, Any] = {}
    for path, value, text in _paths(settings):
        if _is_part(path):
            continue
        *group, name = path
        if name not in GROUP or group not in ([], [GROUP[name]]):
            raise _unknown(text)
        changes[name] = from_plain(get_type_hints(GROUPS[GROUP[name]])[name], value, f"--set {name}")
    return changes


def settings_beside(settings: tuple[str, ...], said: Collection[str], options: dict[str, str]) -> dict[str, Any]:
    """As `settings_of`, of settings none of which an option says too.

    Args:
        settings: NAME=VALUE.
        said: names of the options that were given.
        options: names of settings that have an option, or places of parts, and of that option.

    Raises:
        SpecError: names a setting and its option.
    """
    changes = settings_of(settings)
    places = {".".join(path) for path, _, _ in _paths(settings)}
    for name in sorted(options.keys() & (changes.keys() | places)):
        if options[name] in said:
            told = f"--set {name} and --{options[name]}".replace("_", "-")
            raise SpecError(f"{told} are of one thing: leave one of them out.")
    return changes


def of_reward(settings: tuple[str, ...]) -> list[str]:
    """Those of these settings that are of the stage with reward."""
    return [text for path, _, text in _paths(settings) if path[0] == "reward"]


def _is_part(path: list[str]) -> bool:
    """Whether it is a place within a part."""
    return any(path[: len(part)] == part for part in PARTS)


def _unknown(text: str) -> SpecError:
    """Why a setting is none."""
    return SpecError(
        f"--set {text}: write NAME=VALUE with one of {', '.join(sorted(GROUP))}, or with the place of another setting "
        "below 'train' in config.json, such as reward.radius or terms.0.weight."
    )


def with_parts(config: TrainConfig, settings: tuple[str, ...]) -> TrainConfig:
    """The configuration with the settings of its terms, of who acts and of its stage with reward, named by their place
    in config.json: ``reward.radius=0.05``, ``terms.0.weight=2``, ``data.behaviour.beta=0.3``.

    Raises:
        SpecError: names the setting.
    """
    wanted = [one for one in _paths(settings) if _is_part(one[0])]
    if not wanted:
        return config
    data = config.to_json()
    for path, value, text in wanted:
        here: Any = data
        for part in path[:-1]:
            here = here[place] if (place := _place(here, part)) is not None else None
        if (last := _place(here, path[-1])) is None:
            raise SpecError(f"--set {text}: the configuration of '{config.recipe}' has no {'.'.join(path)}.")
        scheduled = isinstance(here[last], dict) and not isinstance(value, dict)
        here[last] = {"begin": value} if scheduled else value
    return TrainConfig.from_json(data)


def _place(data: Any, part: str) -> int | str | None:
    """Where a list or an object of JSON holds something of this name; None where it holds nothing."""
    if isinstance(data, list):
        return int(part) if part.isdecimal() and int(part) < len(data) else None
    return part if isinstance(data, dict) and part in data else None


def _paths(settings: tuple[str, ...]) -> Iterator[tuple[list[str], Any, str]]:
    """The parts of each setting's name, its value as JSON, or a text as it is, and the setting."""
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals:
            raise _unknown(text)
        try:
            plain = json.loads(value)
        except (ValueError, RecursionError):
            plain = value
        yield name.replace("-", "_").split("."), plain, text


def of_kind(file: Path, kinds: set[str]) -> dict[str, Any]:
    """A config.json that one of these left; one that does not say what it is of passes.

    Raises:
        SpecError: it is of something else.
    """
    data = read_config(file)
    if "kind" in data and data["kind"] not in kinds:
        what = KINDS.get(str(data["kind"]), f"the unknown kind {data['kind']!r}")
        raise SpecError(f"{file} is the configuration of {what}, which this command does not make: give another.")
    if "train" not in data:
        raise SpecError(f"{file} says nothing of training, so it is no config.json: give a run's.")
    return data


def refuse_beside(options: Any, file: str, allowed: set[str]) -> None:
    """Raises where options are given beside a file that has settled them."""
    said = {name for name, _ in _options(options)} & getattr(options, "said", set())
    if given := [name for name in dict.fromkeys([*_given(options), *sorted(said)]) if name not in allowed]:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise SpecError(
            f"{file} does what its config.json says: leave {names} out, or give an edited copy of that file as "
            "--config."
        )


def _options(options: Any) -> Iterator[tuple[str, bool]]:
    """Names of all options, also of those that a group of them holds, and whether each is not at its default."""
    for f in fields(options):
        value = getattr(options, f.name)
        yield from _options(value) if is_dataclass(value) else [(f.name, value != f.default)]


def _given(options: Any) -> list[str]:
    """Names of options that are not at their defaults."""
    return [name for name, changed in _options(options) if changed]


@contextmanager
def told_apart(alone: bool) -> Iterator[None]:
    """Where standard output shall hold one object ``alone``, what environments print goes to standard error, from their
    processes too.
    """
    if not alone:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
