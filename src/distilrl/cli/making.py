"""Commands that make something: each a dataclass whose fields are its options, and whose `run` calls one function."""

from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from tyro.conf import UseAppendAction, arg

from distilrl.cli.display import Display, console, print_results
from distilrl.cli.options import (
    WHERE,
    EnvOptions,
    FileOptions,
    JudgeOptions,
    SideOptions,
    TrustOptions,
    Unset,
    code_of,
    of_kind,
    refuse_beside,
    with_settings,
)
from distilrl.collect import BehaviourName
from distilrl.comparison import Comparison
from distilrl.config import TaskFile, TrainConfig
from distilrl.distill import distill
from distilrl.distributed import RayCollectors
from distilrl.envs import describe_env
from distilrl.errors import SpecError
from distilrl.events import Watch
from distilrl.jobs import Job, Machines, make_config
from distilrl.measures import Measure
from distilrl.plain import check_number, check_numbers
from distilrl.report import write_report
from distilrl.results import Results, SeedsResults, TasksResults
from distilrl.runs import RunFolder
from distilrl.series import distill_chain, distill_seeds
from distilrl.shards import Collectors
from distilrl.teachers import Combine, TeacherFile
from distilrl.teaching import train_teacher

ROUND_STEPS = 8
"""Vector steps of a round where collectors are asked for and nothing is said of rounds: in Pong they cost no return."""


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Distil a teacher into a small student, prove what became of the score, and write a report."""

    teacher: Unset[tuple[str, ...]] = ()
    """Teacher: a folder of distilrl, a run folder, a stable-baselines3 zip, a state_dict, an .onnx file, or
    hf://owner/repository; several are an ensemble."""
    env: Unset[str | None] = None
    """Environment: any Gymnasium id, e.g. PongNoFrameskip-v4, HalfCheetah-v5, my_package:MyEnv-v0."""
    student: Unset[str | None] = None
    """Student: mlp:64,64, mlp:32,32@relu, mlp: (linear), cnn:16,16,16:64, cnn:8k8s4,8k4s2,8k3s2:32; with memory
    gru:16, mlp:32+gru:16, cnn:16,16,16:64+gru:32, mlp:32,32@history=3."""
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
    task: UseAppendAction[tuple[str, ...]] = ()
    """Instead of --env and --teacher: ENV=TEACHER, for one student of several tasks."""
    out: Unset[Path | None] = None
    """Run folder to write."""
    resume: Unset[Path | None] = None
    """Continue the run, the study over seeds or the chain in this folder; nothing else is needed."""
    config: Unset[Path | None] = None
    """Do again what this config.json says, in --out."""
    recipe: str = "distil"
    """Method, by name or as module:function; distil is the best known."""
    behaviour: Unset[BehaviourName | None] = None
    """Who plays while data is collected; the recipe's own by default (mixed)."""
    steps: Unset[int | None] = None
    """Budget of environment steps; the recipe's own by default. Training ends earlier when the student is good
    enough."""
    reward_steps: int = 0
    """Environment steps of a stage with reward after imitation, for students too small to imitate; 0: none."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE for any other setting: --set learning-rate=0.001 --set stakes-exponent=0.5."""
    workers: int = 0
    """Processes that step slow environments; 0: this one."""
    seed: int = 0
    """Seed of training."""
    seeds: int = 1
    """Train this many students; the verdict is then on students of this kind, and needs five."""
    prune_from: Unset[str | None] = None
    """Begin with this wider student and prune units and channels until --student is left."""
    assistants: int = 0
    """Go from teacher to student by this many teacher assistants, each smaller than the one before."""
    combine: Combine = "mean"
    """Several teachers: the mean of their action probabilities, or in each state the one with the highest value."""
    episodes: int = 100
    """Episodes of the verdict; an inconclusive one plays on up to three times as many. A game that repeats itself is
    played once from each start instead."""
    disturbed_episodes: int = 100
    """Episodes with random actions and with sticky actions or noise, each with a verdict of its own; 0: none."""
    eval_epsilon: float = 0.0
    """Probability of a random action in all evaluation, for teacher and student alike; 0: greedy."""
    measure: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME[=HOW][<=MARGIN|>=MARGIN]")] = ()
    """What to measure beside the return: a key of the environment's info, made one number of an episode by HOW (last,
    sum, mean or max of its steps). 'crashed=max<=0.05': lower is better, and a verdict says whether the student is at
    most 0.05 above the teacher; >=: higher is better."""
    margin: float = 0.05
    """Largest acceptable loss, as a share of (teacher - random)."""
    margin_abs: Unset[float | None] = None
    """The same in the environment's own units, in place of the share."""
    threads: Unset[int | None] = None
    """CPU threads; by default 2 for pixels and 1 for vectors."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks compute."""
    collectors: int = 0
    """Processes of a Ray cluster, that of --ray or else auto, that collect for one run (extra: ray); what they collect
    is settled by shards and rounds, so that the student is the same with any number of them. 0: this process."""
    collector_gpus: float = 0.0
    """Share of a GPU that each collector has for teacher and student."""
    wandb: bool = False
    """Log to Weights & Biases too (extra: wandb)."""
    teacher_file: Annotated[FileOptions, arg(name="")] = field(default_factory=FileOptions)
    around: Annotated[EnvOptions, arg(name="")] = field(default_factory=EnvOptions)
    judge: Annotated[JudgeOptions, arg(name="")] = field(default_factory=JudgeOptions)
    trusted: Annotated[TrustOptions, arg(name="")] = field(default_factory=TrustOptions)
    side: Annotated[SideOptions, arg(name="")] = field(default_factory=SideOptions)

    def run(self) -> int:
        """Distils; the code says what the verdict is."""
        job, out, seeds, assistants = self._job()
        self._check_where(job, seeds, assistants)
        results: Results | SeedsResults | TasksResults
        with Display() as watch, self._executor(job) as executor, self._hosts(watch) as collectors:
            if assistants > 0:
                results = chain = distill_chain(None, job, out, assistants, wandb=self.wandb, watch=watch)
                out = Path(chain.chain[-1].path)
            elif seeds > 1:
                results = distill_seeds(None, job, out, seeds, wandb=self.wandb, executor=executor, watch=watch)
            else:
                again = self.resume is not None
                machines = Machines(collectors, executor)
                results = distill(None, job, out, resume=again, wandb=self.wandb, watch=watch, machines=machines)
        print_results(results)
        with console.status("writing the report"):
            for run in results.tasks if isinstance(results, TasksResults) else ():
                write_report(RunFolder(out).of_task(run.env).path)
            print(write_report(out))
        return code_of(results.worst)

    def _check_where(self, job: Job, seeds: int, assistants: int) -> None:
        """Raises where options that say where this is computed contradict each other, or mean nothing here."""
        self.side.check()
        if self.collectors == 0:
            if self.collector_gpus:
                raise SpecError("--collector-gpus is about collectors: give --collectors too.")
            if self.side.wanted and assistants > 0:
                raise SpecError(f"{self.side.wanted}: assistants learn one from the other, so leave it out.")
            return
        if seeds > 1 or assistants > 0:
            raise SpecError("--collectors serve one run, and these are several: leave out --collectors or the others.")
        if self.side.jobs != 1:
            raise SpecError("--jobs is of this machine and --collectors are of a cluster: give one of them.")
        if job.train.data.round_steps == 0:
            raise SpecError(
                "The run has no rounds, so that each of its steps is waited for: begin another with --collectors, or "
                "with --set round-steps=8."
            )

    def _executor(self, job: Job) -> AbstractContextManager[Executor | None]:
        """Where runs, or parts of an evaluation, are done side by side."""
        return self.side.executor(job) if self.collectors == 0 else nullcontext()

    def _hosts(self, watch: Watch) -> AbstractContextManager[Collectors | None]:
        """Who collects."""
        if self.collectors == 0:
            return nullcontext()
        return RayCollectors(self.collectors, self.side.ray or "auto", gpus=self.collector_gpus, watch=watch)

    def _job(self) -> tuple[Job, Path, int, int]:
        """What to do, where, over how many seeds, and by how many assistants."""
        self.trusted.allow()
        check_numbers(self, seeds="[1, inf)")
        check_numbers(self, **dict.fromkeys(("assistants", "reward_steps", "collectors", "collector_gpus"), "[0, inf)"))
        if self.resume is not None:
            refuse_beside(self, "--resume", {"resume", "trust", "wandb", *WHERE})
            return _repeated(RunFolder(self.resume).read_config(), self.resume)
        if self.out is None:
            raise SpecError("--out is missing: name the run folder to write.")
        if self.config is not None:
            refuse_beside(self, "--config", {"config", "out", "trust", "wandb", *WHERE})
            return _repeated(of_kind(self.config, {"run", "task", "winner", "seeds", "chain"}), self.out)
        if self.assistants > 0 and self.seeds > 1:
            raise SpecError("--assistants and --seeds cannot be had in one run: leave one of them out.")
        tasks = self._tasks()
        if not self.student:
            raise SpecError("--student is missing: distilling needs --teacher, --env, --student and --out.")
        changes: dict[str, Any] = {
            "network": self.student,
            "seed": self.seed,
            "device": _checked(self.device),
            "tasks": tasks,
        }
        changes |= {"eval_epsilon": self.eval_epsilon, "combine": self.combine, "workers": self.workers}
        given = {"env_steps": self.steps, "threads": self.threads, "prune_from": self.prune_from}
        changes |= {name: value for name, value in given.items() if value is not None}
        config = make_config(self.recipe, tasks[0].env, **changes)
        if self.behaviour is not None:
            config = config.but(behaviour=replace(config.data.behaviour, name=self.behaviour))
        if self.reward_steps:
            config = config.but(reward=replace(config.reward, env_steps=self.reward_steps))
        config = with_settings(config, self.set)
        config = self._seen(config)
        if self.collectors and config.data.round_steps == 0:
            config = _in_rounds(config, self.collectors)
        if config.data.behaviour.name == "teacher":
            console.print(
                "[yellow]Teacher-driven data alone: students trained so are known to drift into states that they "
                "never saw.[/]"
            )
        comparison = Comparison(
            self.episodes,
            3 * self.episodes,
            self.disturbed_episodes,
            self.margin,
            self.margin_abs,
            measures=tuple(Measure.of(text) for text in self.measure),
        )
        return self.judge.job(config, comparison, self.around), self.out, self.seeds, self.assistants

    def _seen(self, config: TrainConfig) -> TrainConfig:
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
        given = {"delay": self.student_delay, "dropout": self.student_dropout}
        return config.but(**{name: value for name, value in given.items() if value})

    def _tasks(self) -> tuple[TaskFile, ...]:
        """Environment and teachers of each task."""
        if not self.task:
            for name in ("teacher", "env"):
                if not getattr(self, name):
                    raise SpecError(f"--{name} is missing: distilling needs --teacher, --env, --student and --out.")
            return (
                TaskFile(self.around.ref(str(self.env)), tuple(self.teacher_file.file(path) for path in self.teacher)),
            )
        if self.env or self.teacher:
            raise SpecError("--task takes the place of --env and --teacher: leave these out.")
        if wrong := [text for text in self.task if not all(text.partition("="))]:
            raise SpecError(f"--task {wrong[0]}: write ENV=TEACHER.")
        pairs = (text.partition("=") for text in self.task)
        return tuple(TaskFile(self.around.ref(env), (self.teacher_file.file(path),)) for env, _, path in pairs)


@dataclass(frozen=True, kw_only=True)
class TrainTeacher:
    """Train a DQN teacher from nothing; the run folder then is a teacher."""

    env: Unset[str | None] = None
    """Environment."""
    out: Unset[Path | None] = None
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
    """Stop when this return is reached at two checks in a row."""
    seed: int = 0
    """Seed of training."""
    episodes: int = 100
    """Episodes of the final evaluation."""
    threads: Unset[int | None] = None
    """CPU threads."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the networks compute."""
    wandb: bool = False
    """Log to Weights & Biases too (extra: wandb)."""
    around: Annotated[EnvOptions, arg(name="")] = field(default_factory=EnvOptions)
    trusted: Annotated[TrustOptions, arg(name="")] = field(default_factory=TrustOptions)

    def run(self) -> None:
        """Trains."""
        out, config = self._config()
        with Display() as watch:
            results = train_teacher(
                config, out, resume=self.resume is not None, episodes=self.episodes, wandb=self.wandb, watch=watch
            )
        console.print(f"return {results.student.in_words()} after {results.env_steps:,} steps", markup=False)
        with console.status("writing the report"):
            print(write_report(out))

    def _config(self) -> tuple[Path, TrainConfig]:
        self.trusted.allow()
        if self.resume is not None:
            refuse_beside(self, "--resume", {"resume", "trust", "episodes", "wandb"})
            return self.resume, Job.from_json(RunFolder(self.resume).read_config()).train
        if self.config is not None and self.out is not None:
            refuse_beside(self, "--config", {"config", "out", "trust", "episodes", "wandb"})
            return self.out, Job.from_json(of_kind(self.config, {"teacher"})).train
        if self.out is None or self.env is None:
            raise SpecError("--env or --out is missing: training needs both.")
        given = {
            "network": self.network,
            "env_steps": self.steps,
            "threads": self.threads,
            "at_return": self.stop_return,
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return self.out, make_config(
            self.recipe, self.around.ref(self.env), seed=self.seed, device=_checked(self.device), **changes
        )


def _in_rounds(config: TrainConfig, collectors: int) -> TrainConfig:
    """The same in rounds, with as few shards as these collectors can share."""
    n_envs = config.data.n_envs
    shards = next((k for k in range(max(collectors, 2), n_envs + 1) if n_envs % k == 0), n_envs)
    console.print(
        f"collecting in rounds of {ROUND_STEPS} steps by {shards} shards, which is part of the run: "
        f"--set round-steps={ROUND_STEPS} --set shards={shards}",
        soft_wrap=True,
    )
    return config.but(round_steps=ROUND_STEPS, shards=shards)


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


def _checked(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise SpecError("--device cuda: PyTorch sees no CUDA device here; leave --device out.")
    return device
