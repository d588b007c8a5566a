"""Commands that make something: each a dataclass whose fields are its options, and whose `run` calls one function."""

from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import UseAppendAction, arg

from distilrl.cli.groups import SENSOR_OPTIONS, LearningOptions, MachineOptions, Seen, SeenOptions, VerdictOptions
from distilrl.cli.options import (
    WHERE,
    AboutFile,
    Around,
    EnvOptions,
    FileOptions,
    Judge,
    JudgeOptions,
    Needed,
    Trusted,
    TrustOptions,
    Unset,
    code_of,
    needs,
    of_kind,
    of_reward,
    refuse_beside,
    settings_beside,
    with_parts,
)
from distilrl.cli.tables import print_next, print_results
from distilrl.config import TaskFile, TrainConfig
from distilrl.devices import Device
from distilrl.display import Display, console
from distilrl.distill import distill
from distilrl.distributed import RayCollectors
from distilrl.envs import trust
from distilrl.errors import SpecError
from distilrl.events import Watch
from distilrl.jobs import Job, Machines, make_config
from distilrl.plain import check_number, check_numbers
from distilrl.recipes import TEACHERLESS
from distilrl.results import Results
from distilrl.runs import RESUMED, RunFolder
from distilrl.series import distill_chain, distill_seeds
from distilrl.shards import Collectors
from distilrl.summaries import SeedsResults, TasksResults
from distilrl.teachers import TeacherFile
from distilrl.teaching import train_teacher

ROUND_STEPS = 8
"""Vector steps of a round where collectors are asked for and nothing is said of rounds: in Pong they cost no return."""


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Distil a teacher into a small student, and prove what became of the score."""

    teacher: Needed[tuple[str, ...]] = ()
    """Teacher: a folder of distilrl, a run folder, a stable-baselines3 zip, a state_dict, an .onnx file, or
    hf://owner/repository; several are an ensemble."""
    env: Needed[str | None] = None
    """Environment: any Gymnasium id, e.g. PongNoFrameskip-v4, HalfCheetah-v5, my_package:MyEnv-v0."""
    student: Needed[str | None] = None
    """Student: mlp:64,64, mlp:32,32@relu, mlp: (linear), cnn:16,16,16:64, cnn:8k8s4,8k4s2,8k3s2:32; with memory
    gru:16, mlp:32+gru:16, cnn:16,16,16:64+gru:32, mlp:32,32@history=3."""
    out: Needed[Path | None] = None
    """Run folder to write."""
    recipe: str = "distil"
    """Method, by name or as module:function."""
    steps: Unset[int | None] = None
    """Budget of environment steps; the recipe's own by default. Training ends earlier when the student is good
    enough."""
    seeds: int = 1
    """Train this many students; the verdict is then on students of this kind, and needs five."""
    margin: float = 0.05
    """Largest acceptable loss, as a share of (teacher - random)."""
    resume: Unset[Path | None] = None
    """Continue the run, the study over seeds or the chain in this folder; nothing else is needed, but
    --trust where its environment is a module of yours."""
    config: Unset[Path | None] = None
    """Do again what this config.json says, in --out."""
    learning: Annotated[LearningOptions, arg(name="learning")] = field(default_factory=LearningOptions)
    seen: Seen = field(default_factory=SeenOptions)
    judged: Annotated[VerdictOptions, arg(name="verdict")] = field(default_factory=VerdictOptions)
    judge: Judge = field(default_factory=JudgeOptions)
    around: Around = field(default_factory=EnvOptions)
    machine: Annotated[MachineOptions, arg(name="machine")] = field(default_factory=MachineOptions)
    trusted: Trusted = field(default_factory=TrustOptions)
    teacher_file: AboutFile = field(default_factory=FileOptions)

    def run(self) -> int:
        """Distils; the code says what the verdict is."""
        job, out, seeds, assistants = self._job()
        self._check_where(job, seeds, assistants)
        results: Results | SeedsResults | TasksResults
        with Display() as watch, self._executor(job, seeds) as executor, self._hosts(watch) as collectors:
            if assistants > 0:
                results = chain = distill_chain(None, job, out, assistants, wandb=self.machine.wandb, watch=watch)
                out = Path(chain.chain[-1].path)
            elif seeds > 1:
                results = distill_seeds(None, job, out, seeds, wandb=self.machine.wandb, executor=executor, watch=watch)
            else:
                again = self.resume is not None
                machines = Machines(collectors, executor)
                results = distill(
                    None, job, out, resume=again, wandb=self.machine.wandb, watch=watch, machines=machines
                )
        print_results(results)
        if isinstance(results, Results) and assistants >= len(results.chain) > 0:
            told = f"The chain ended at assistant {len(results.chain)}, whose verdict is fail"
            console.print(f"[yellow]{told}: {job.train.student.network} was not trained.[/]")
        print_next(results, out)
        print(RunFolder(out).report)
        return code_of(results.worst)

    def _check_where(self, job: Job, seeds: int, assistants: int) -> None:
        """Raises where options that say where this is computed contradict each other, or mean nothing here."""
        self.machine.check()
        if self.machine.collectors == 0:
            if self.machine.collector_gpus:
                raise SpecError("--collector-gpus is about collectors: give --collectors too.")
            if self.machine.wanted and assistants > 0:
                raise SpecError(f"{self.machine.wanted}: assistants learn one from the other, so leave it out.")
            return
        if seeds > 1 or assistants > 0:
            raise SpecError("--collectors serve one run, and these are several: leave out --collectors or the others.")
        if self.machine.jobs != 1:
            raise SpecError("--jobs is of this machine and --collectors are of a cluster: give one of them.")
        if job.train.data.round_steps == 0:
            raise SpecError(
                "The run has no rounds, so that each of its steps is waited for: begin another with --collectors, or "
                "with --set round-steps=8."
            )

    def _executor(self, job: Job, seeds: int) -> AbstractContextManager[Executor | None]:
        """Where runs, or parts of an evaluation, which take one processor each, are done side by side."""
        if self.machine.collectors > 0:
            return nullcontext()
        return self.machine.executor(*needs(job)) if seeds > 1 else self.machine.executor(1)

    def _hosts(self, watch: Watch) -> AbstractContextManager[Collectors | None]:
        """Who collects."""
        if self.machine.collectors == 0:
            return nullcontext()
        return RayCollectors(
            self.machine.collectors, self.machine.ray or "auto", gpus=self.machine.collector_gpus, watch=watch
        )

    def _job(self) -> tuple[Job, Path, int, int]:
        """What to do, where, over how many seeds, and by how many assistants."""
        self.trusted.allow()
        check_numbers(self, seeds="[1, inf)")
        check_numbers(self.learning, assistants="[0, inf)", reward_steps="[0, inf)")
        check_numbers(self.machine, collectors="[0, inf)", collector_gpus="[0, inf)")
        if self.resume is not None:
            refuse_beside(self, "--resume", {"resume", "trust", "wandb", *WHERE})
            folder = RunFolder(self.resume)
            known = folder.read_config()
            if RESUMED.get(str(known.get("kind", "run"))) != "distill":
                folder.check_kind("run")
            return _repeated(known, self.resume)
        if self.out is None:
            raise SpecError("--out is missing: name the run folder to write.")
        if self.config is not None:
            refuse_beside(self, "--config", {"config", "out", "trust", "wandb", *WHERE})
            return _repeated(of_kind(self.config, {"run", "winner", "seeds", "chain"}), self.out)
        if self.learning.assistants > 0 and (self.seeds > 1 or self.learning.prune_from is not None):
            other = "--seeds" if self.seeds > 1 else "--prune-from"
            raise SpecError(f"--assistants and {other} cannot be had in one run: leave one of them out.")
        tasks = self._tasks()
        if self.learning.combine != "mean" and all(len(task.teacher) < 2 for task in tasks):
            raise SpecError(f"--combine {self.learning.combine} is about several teachers: name more, or leave it out.")
        if not self.student:
            raise SpecError("--student is missing: distilling needs --teacher, --env, --student and --out.")
        changes = self._changes(tasks)
        shards = None  # settled once it is known how many environments there are
        if self.machine.collectors and not changes.get("round_steps"):
            shards = changes.pop("shards", None)
        if self.recipe in TEACHERLESS:
            raise SpecError(
                f"--recipe {self.recipe} learns from reward alone, without the teacher: use distilrl train-teacher for "
                "it, or a recipe that asks the teacher, as 'distil'."
            )
        if ":" in self.recipe:  # whoever names a module here trusts it in this run's other processes too
            trust(self.recipe.partition(":")[0])
        config = make_config(self.recipe, tasks[0].env, **changes)
        config = with_parts(config, self.learning.set)
        if unnamed := [one["loss"] for one in config.to_json()["terms"] if "<" in one.get("loss", "")]:
            raise SpecError(
                f"The recipe '{self.recipe}' has a loss without a name of its own ({unnamed[0][:80]}), by which "
                "config.json could name it: give it as a function of its module."
            )
        if self.learning.behaviour is not None:
            config = config.but(behaviour=replace(config.data.behaviour, name=self.learning.behaviour))
        if self.learning.reward_steps:
            config = config.but(reward=replace(config.reward, env_steps=self.learning.reward_steps))
        idle = of_reward(self.learning.set)
        if idle and config.reward.env_steps == 0:
            raise SpecError(
                f"--set {idle[0]}: there is no stage with reward: give --reward-steps too, or leave it out."
            )
        config = self.seen.of(config)
        if self.machine.collectors and config.data.round_steps == 0:
            config = _in_rounds(config, self.machine.collectors, shards)
        elif shards is not None:  # the recipe has rounds of its own
            config = config.but(shards=shards)
        if self.machine.collectors > config.data.shards:
            raise SpecError(
                f"{self.machine.collectors} collectors cannot share {config.data.shards} shards: give at most as many "
                f"collectors, or '--set shards={self.machine.collectors} --set n-envs={self.machine.collectors}'."
            )
        if config.data.behaviour.name == "teacher":
            console.print(
                "[yellow]Teacher-driven data alone: students trained so are known to drift into states that they "
                "never saw.[/]"
            )
        job = self.judge.job(config, self.judged.comparison(self.margin), self.around)
        return job, self.out, self.seeds, self.learning.assistants

    def _changes(self, tasks: tuple[TaskFile, ...]) -> dict[str, Any]:
        """What the recipe is given: options, and settings beside them.

        Raises:
            SpecError: an option and a setting are of one thing.
        """
        changes: dict[str, Any] = {"network": self.student, "tasks": tasks}
        usual = {
            "seed": self.learning.seed,
            "device": self.machine.device,
            "eval_epsilon": self.judged.eval_epsilon,
            "combine": self.learning.combine,
            "workers": self.machine.workers,
        }
        said: set[str] = getattr(self, "said", set())
        # a recipe of somebody's own may have others than the usual ones
        changes |= {name: value for name, value in usual.items() if ":" not in self.recipe or name in said}
        given = {"env_steps": self.steps, "threads": self.machine.threads, "prune_from": self.learning.prune_from}
        changes |= {name: value for name, value in given.items() if value is not None}
        own = {name: name for name in (*usual, *given, "eval_envs")} | {"network": "student", "env_steps": "steps"}
        own |= SENSOR_OPTIONS | dict.fromkeys(("behaviour", "data.behaviour", "data.behaviour.name"), "behaviour")
        own |= dict.fromkeys(("reward", "reward.env_steps"), "reward_steps")
        return changes | settings_beside(self.learning.set, said | {"student"}, own)

    def _tasks(self) -> tuple[TaskFile, ...]:
        """Environment and teachers of each task."""
        if not self.learning.task:
            for name in ("teacher", "env"):
                if not getattr(self, name):
                    raise SpecError(f"--{name} is missing: distilling needs --teacher, --env, --student and --out.")
            return (
                TaskFile(self.around.ref(str(self.env)), tuple(self.teacher_file.file(path) for path in self.teacher)),
            )
        if self.env or self.teacher:
            raise SpecError("--task takes the place of --env and --teacher: leave these out.")
        if wrong := [text for text in self.learning.task if not all(text.partition("="))]:
            raise SpecError(f"--task {wrong[0]}: write ENV=TEACHER.")
        pairs = (text.partition("=") for text in self.learning.task)
        return tuple(TaskFile(self.around.ref(env), (self.teacher_file.file(path),)) for env, _, path in pairs)


@dataclass(frozen=True, kw_only=True)
class TrainTeacher:
    """Train a DQN teacher from nothing; the run folder then is a teacher."""

    env: Needed[str | None] = None
    """Environment, as for distill."""
    out: Needed[Path | None] = None
    """Run folder to write."""
    resume: Unset[Path | None] = None
    """Continue the run in this folder."""
    config: Unset[Path | None] = None
    """Do again what this config.json says, in --out."""
    recipe: Literal["dqn", "rainbow_lite"] = "dqn"
    """Method."""
    network: Unset[str | None] = None
    """Network, as a student spec; the recipe's own by default: an MLP for vectors, the Nature CNN for pixels."""
    steps: Unset[int | None] = None
    """Budget of environment steps; the recipe's own by default."""
    stop_return: Unset[float | None] = None
    """Stop when a check reaches this return, for pixels two in a row, and 50 other episodes reach it too."""
    seed: int = 0
    """Seed of training."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE for any other setting: --set gamma=0.8."""
    workers: int = 0
    """Processes that step slow environments; 0: this one."""
    episodes: int = 100
    """Episodes of the final evaluation."""
    eval_epsilon: float = 0.0
    """Probability of a random action in all evaluation; 0: greedy."""
    threads: Unset[int | None] = None
    """CPU threads."""
    device: Device = "cpu"
    """Where the networks compute."""
    wandb: bool = False
    """Log to Weights & Biases too (extra: wandb)."""
    around: Around = field(default_factory=EnvOptions)
    trusted: Trusted = field(default_factory=TrustOptions)

    def run(self) -> None:
        """Trains."""
        out, config, episodes = self._config()
        with Display() as watch:
            results = train_teacher(
                config, out, resume=self.resume is not None, episodes=episodes, wandb=self.wandb, watch=watch
            )
        console.print(f"return {results.student.in_words()} after {results.env_steps:,} steps", markup=False)
        print_next(results, out)
        print(RunFolder(out).report)

    def _config(self) -> tuple[Path, TrainConfig, int]:
        """Where, what, and how many episodes at the end."""
        self.trusted.allow()
        if self.resume is not None:
            refuse_beside(self, "--resume", {"resume", "trust", "wandb"})
            return self.resume, *_taught(RunFolder(self.resume).read_config(), self.episodes)
        if self.config is not None and self.out is not None:
            refuse_beside(self, "--config", {"config", "out", "trust", "episodes", "wandb"})
            config, episodes = _taught(of_kind(self.config, {"teacher"}), self.episodes)
            return self.out, config, self.episodes if "episodes" in getattr(self, "said", ()) else episodes
        if self.out is None or self.env is None:
            raise SpecError(
                f"{'--out' if self.out is None else '--env'} is missing: training needs both, or a --config with --out."
            )
        given = {
            "network": self.network,
            "env_steps": self.steps,
            "threads": self.threads,
            "at_return": self.stop_return,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        usual = {"seed": self.seed, "device": self.device, "workers": self.workers, "eval_epsilon": self.eval_epsilon}
        own = {name: name for name in (*usual, *given)} | {"env_steps": "steps", "at_return": "stop_return"}
        changes |= usual | settings_beside(self.set, getattr(self, "said", ()), own)
        config = with_parts(make_config(self.recipe, self.around.ref(self.env), **changes), self.set)
        return self.out, config, self.episodes


def _taught(config: dict[str, Any], usual: int) -> tuple[TrainConfig, int]:
    """What the config.json of a teacher's training says was done, and in how many episodes it was judged."""
    given = config.get("given")
    episodes = given.get("episodes", usual) if isinstance(given, dict) else usual
    if type(episodes) is not int:
        raise SpecError("'given' in config.json must hold a whole number as 'episodes': restore it.")
    return Job.from_json(config).train, episodes


def _in_rounds(config: TrainConfig, collectors: int, shards: int | None) -> TrainConfig:
    """The same in rounds, with as few shards as these collectors can share where it is not said how many."""
    n_envs = config.data.n_envs
    if shards is None:
        shards = next((k for k in range(max(collectors, 2), n_envs + 1) if n_envs % k == 0), n_envs)
    config = config.but(round_steps=ROUND_STEPS, shards=shards)
    console.print(
        f"collecting in rounds of {ROUND_STEPS} steps by {shards} shards, which is part of the run: "
        f"--set round-steps={ROUND_STEPS} --set shards={shards}",
        soft_wrap=True,
    )
    return config


def _repeated(config: dict[str, Any], out: Path) -> tuple[Job, Path, int, int]:
    """What a config.json says was done: the job, and over how many seeds and by how many assistants."""
    job, given = Job.from_json(config), config.get("given")
    given = given if isinstance(given, dict) else {}
    seeds, assistants, files = given.get("seeds", 1), given.get("assistants", 0), given.get("teacher", [])
    if type(seeds) is not int or type(assistants) is not int or not isinstance(files, list):
        raise SpecError(
            "'given' in config.json must hold whole numbers as 'seeds' and 'assistants', and a list as 'teacher': "
            "restore it."
        )
    check_number("given.seeds", seeds, "[1, inf)")
    check_number("given.assistants", assistants, "[0, inf)")
    if assistants > 0:  # the chain's own config.json is that of its last student, whom an assistant taught
        task = replace(job.train.tasks[0], teacher=tuple(TeacherFile.from_json(file) for file in files))
        job = replace(job, train=job.train.but(tasks=(task,)))
    return job, out, seeds, assistants
