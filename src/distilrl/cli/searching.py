"""Commands that look for a student: the smallest within the margin, and a decision tree."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, UseAppendAction, arg

from distilrl.cli.groups import SENSOR_OPTIONS, Seen, SeenOptions, VerdictOptions
from distilrl.cli.options import (
    WHERE,
    AboutFile,
    Around,
    EnvOptions,
    FileOptions,
    Judge,
    JudgeOptions,
    Needed,
    Side,
    SideOptions,
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
from distilrl.cli.tables import print_next, print_plan, print_results, print_sweep
from distilrl.config import GROUP
from distilrl.display import Display
from distilrl.envs import describe_env
from distilrl.errors import SpecError
from distilrl.jobs import Job, make_config
from distilrl.next_steps import PLAYED_ON
from distilrl.plan import plan
from distilrl.runs import RunFolder
from distilrl.sizes import Budget, PlanOptions, plan_steps
from distilrl.specs import has_cell
from distilrl.sweep import jobs_of, sweep
from distilrl.viper import TreeConfig, distill_tree


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What both ask."""

    teacher: Needed[tuple[str, ...]] = ()
    """Teacher, as for distill."""
    env: Needed[str | None] = None
    """Environment, as for distill."""
    out: Needed[Path | None] = None
    """Folder to write."""
    resume: Unset[Path | None] = None
    """Continue what is in this folder; nothing else is needed, but --trust where its environment is a
    module of yours, and --episodes where more shall decide a plan."""
    config: Unset[Path | None] = None
    """Do again what this config.json says, in --out; a plan for as many --steps as are given."""
    seed: int = 0
    """First training seed."""
    episodes: int = 100
    """Episodes of a verdict; an inconclusive one plays on up to three times as many."""
    measure: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME[=HOW][<=MARGIN|>=MARGIN]")] = ()
    """What to measure beside the return, as distill does; one with a margin must hold too."""
    cluster: Unset[str | None] = None
    """Key of the environment's info whose number says which episodes belong together, as in distill."""
    margin: float = 0.05
    """Largest acceptable loss, as a share of (teacher - random)."""
    margin_abs: Unset[float | None] = None
    """The same in the environment's own units, in place of the share."""
    threads: Unset[int | None] = None
    """CPU threads; by default 2 for pixels and 1 for vectors."""
    workers: int = 0
    """Processes that step slow environments; 0: this one."""
    judge: Judge = field(default_factory=JudgeOptions)
    around: Around = field(default_factory=EnvOptions)
    trusted: Trusted = field(default_factory=TrustOptions)
    teacher_file: AboutFile = field(default_factory=FileOptions)

    def _job(self, kind: str, disturbed: int, **changes: Any) -> tuple[Job, Path, dict[str, Any]]:
        """The job, its folder, and the config.json that it is from, if it is."""
        self.trusted.allow()
        if self.resume is not None:
            more = {"episodes"} if kind == "plan" else set()
            refuse_beside(self, "--resume", {"resume", "trust", *more, *WHERE})
            folder = RunFolder(self.resume)
            data = folder.read_config()
            folder.check_kind(kind)
            job = Job.from_json(data)
            if "episodes" in getattr(self, "said", ()):
                most = PLAYED_ON * self.episodes
                job = replace(job, comparison=replace(job.comparison, episodes=self.episodes, max_episodes=most))
            return job, self.resume, data
        if self.out is None:
            raise SpecError("--out is missing: name the folder to write.")
        if self.config is not None:
            more = {"steps"} if kind == "plan" else set()
            refuse_beside(self, "--config", {"config", "out", "trust", *more, *WHERE})
            data = of_kind(self.config, {kind})
            return Job.from_json(data), self.out, data
        if not self.teacher or self.env is None:
            raise SpecError("--teacher or --env is missing: the search needs both, or a --config.")
        own = {"workers": self.workers} | ({"threads": self.threads} if self.threads is not None else {})
        files = [self.teacher_file.file(path) for path in self.teacher]
        config = make_config("distil", self.around.ref(self.env), teacher=files, seed=self.seed, **own | changes)
        asked = VerdictOptions(
            episodes=self.episodes,
            disturbed_episodes=disturbed,
            measure=self.measure,
            cluster=self.cluster,
            margin_abs=self.margin_abs,
        )
        return self.judge.job(config, asked.comparison(self.margin), self.around), self.out, {}


@dataclass(frozen=True, kw_only=True)
class Plan(_Search):
    """Find the smallest student within the margin.

    Many sizes and seeds learn at once, from one stream of labelled states.
    """

    sizes: Unset[tuple[str, ...]] = ()
    """Student specs to try, with memory too; by default a ladder without, that suits observations and actions."""
    seeds: int = 5
    """Students of each size."""
    budget_params: Unset[int | None] = None
    """No more parameters than this."""
    budget_bytes: Unset[int | None] = None
    """No more bytes of weights (floats) than this."""
    budget_macs: Unset[int | None] = None
    """No more multiply-accumulates a decision than this."""
    budget_us: Unset[float | None] = None
    """No more microseconds a decision than this, in PyTorch on this machine."""
    steps: Unset[int | None] = None
    """Environment steps of the search; by default a tenth of the recipe's own where a vector chooses, else all."""
    check_episodes: int = 10
    """Episodes of each check, by which students are dropped and verdicts begin: more where one episode says little, as
    of a single decision."""
    refine: bool = True
    """Sizes between the largest that fell short and the smallest that did not are tried too; --no-refine: they are
    not."""
    eval_epsilon: float = 0.0
    """Probability of a random action in all evaluation; 0: greedy."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """NAME=VALUE for any other setting of how all of them learn, as in distill: --set sequence=16."""
    seen: Seen = field(default_factory=SeenOptions)
    side: Side = field(default_factory=SideOptions)

    def run(self) -> int:
        """Plans; where no size is shown to be within the margin 3 if that is undecided, else 1."""
        cell = next((size for size in self.sizes if has_cell(size)), None)  # batches suit it
        named = {"network": cell} if cell is not None else {}
        asked = {"eval_epsilon": self.eval_epsilon, "check_episodes": self.check_episodes}
        steps = {"env_steps": self.steps} if self.steps is not None else {}
        job, out, data = self._job("plan", 0, **named, **asked | steps | self._settings())
        if data:
            options = PlanOptions.from_config(data)
            job = replace(job, train=job.train.but(**steps))
        else:
            train = self.seen.of(with_parts(job.train, self.set))
            if self.steps is None:
                train = train.but(env_steps=plan_steps(train, describe_env(train.env)))
            job = replace(job, train=train)
            budget = Budget(self.budget_params, self.budget_bytes, self.budget_macs, self.budget_us)
            options = PlanOptions(self.sizes, self.seeds, budget, self.refine)
        with Display() as watch, self.side.executor(job.train.compute.threads) as executor:
            again = self.resume is not None
            result = plan(None, job, out, **vars(options), resume=again, executor=executor, watch=watch)
        print_plan(result)
        print_next(result, out)
        print(RunFolder(out).report)
        return 0 if result.winner else code_of("inconclusive" if result.undecided else "fail")

    def _settings(self) -> dict[str, Any]:
        """What --set says.

        Raises:
            SpecError: of what a plan has an option for, or no use.
        """
        own = {name: name for name in ("workers", "threads", "check_episodes", "seed", "eval_epsilon", "eval_envs")}
        own |= SENSOR_OPTIONS
        changes = settings_beside(self.set, getattr(self, "said", ()), own)
        for name, option in {"network": "--sizes", "env_steps": "--steps"}.items():
            if name in changes:
                raise SpecError(f"--set {name.replace('_', '-')}: a plan has {option} for that.")
        idle = of_reward(self.set)
        idle += [name for name in changes if GROUP[name] == "stop" and name != "check_episodes"]
        if idle:
            raise SpecError(
                f"--set {idle[0].replace('_', '-')}: a plan has checks of its own and no stage with reward, so leave "
                "it out."
            )
        return changes


@dataclass(frozen=True)
class Sweep:
    """Do many jobs, a run folder each, and leave one table.

    The same command goes on where it was stopped.
    """

    configs: Annotated[Positional[tuple[Path, ...]], arg(metavar="CONFIG...", help_behavior_hint="")]
    """Files like the config.json of a run folder, or folders: run folders, or such that hold some of either."""
    out: Path
    """Folder to write: a run folder for each, by the name of its file, and sweep.csv and sweep.md."""
    trusted: Trusted = field(default_factory=TrustOptions)
    side: Side = field(default_factory=SideOptions)

    def run(self) -> int:
        """Sweeps; 2 where a run ended in an error, else the code of the worst verdict."""
        self.trusted.allow()
        self.side.check()
        jobs = jobs_of(self.configs, self.out).values()
        with Display() as watch, self.side.executor(*needs(*jobs)) as executor:
            rows = sweep(self.configs, self.out, executor=executor, watch=watch)
        print_sweep(rows)
        print(self.out / "sweep.csv")
        return 2 if any(row.error for row in rows) else code_of(*(row.verdict for row in rows if row.verdict))


@dataclass(frozen=True, kw_only=True)
class GrowTree(_Search):
    """Distil a teacher into a decision tree, and prove what became of the score.

    As VIPER does (Bastani et al. 2018); the tree is text, Graphviz and C.
    """

    leaves: int = 32
    """Leaves at most."""
    iterations: int = 20
    """Rounds of play and trees; the best is kept."""
    states: Unset[int | None] = None
    """States a round; 2,000 by default, 10,000 for pixels."""
    extractor: Literal["raw", "pong"] = "raw"
    """What the tree looks at: the observation itself, or ball and paddle in Pong's frames."""
    disturbed_episodes: int = 100
    """Episodes with random actions and with sticky actions or noise, each with a verdict of its own; 0: none."""

    def run(self) -> int:
        """Grows it; the code says what the verdict is."""
        job, out, data = self._job("tree", self.disturbed_episodes)
        usual = 10_000 if self.extractor == "pong" else 2_000
        states = usual if self.states is None else self.states
        own = TreeConfig(self.leaves, self.iterations, states, extractor=self.extractor)
        grown = TreeConfig.from_config(data) if data else own
        with Display() as watch:
            results = distill_tree(None, job, out, grown, resume=self.resume is not None, watch=watch)
        print_results(results)
        print_next(results, out)
        print(RunFolder(out).report)
        return code_of(results.worst)
