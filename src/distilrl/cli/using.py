"""Commands about any policy: look at its file, and play it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from rich.markup import escape
from tyro.conf import Positional, UseAppendAction, arg

from distilrl.cli import HOSTILE
from distilrl.cli.faults import print_error
from distilrl.cli.options import AboutFile, Around, EnvOptions, FileOptions, Unset, code_of, told_apart
from distilrl.cli.tables import print_facts, print_measures, print_verdict
from distilrl.comparison import Comparison
from distilrl.config import sensors_of
from distilrl.display import Display, console, print_unused
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import FileError, SpecError
from distilrl.inspection import inspect, inspect_play
from distilrl.measures import Measure
from distilrl.plain import THREADS, check_number
from distilrl.played import Returns
from distilrl.results import Results
from distilrl.runs import RunFolder
from distilrl.sensors import Sensors
from distilrl.spaces import EnvRef
from distilrl.summaries import read_results
from distilrl.teachers import TeacherFile, load_teacher, load_together
from distilrl.teachers.vecnormalize import unused
from distilrl.teaching import evaluate_against, evaluate_policy
from distilrl.threads import use_threads


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Print what a teacher's file is; with --env, how it plays.

    Nothing in it is executed.
    """

    policy: Annotated[Positional[str], arg(metavar="POLICY")]
    """Any teacher file or folder, a run folder, or hf://owner/repository."""
    env: Unset[str | None] = None
    """Environment: adds the acceptance check, the score with random and with sticky actions, and warnings."""
    episodes: int = 20
    """Episodes of the check."""
    threads: int = 2
    """CPU threads."""
    json: bool = False
    """Print one JSON object on standard output, and everything else on standard error."""
    around: Around = field(default_factory=EnvOptions)
    teacher_file: AboutFile = field(default_factory=FileOptions)

    def run(self) -> int:
        """Inspects; the code says whether the file is hostile to programs that execute what is in it."""
        check_number("episodes", self.episodes, "[2, inf)")
        check_number("threads", self.threads, THREADS)
        if self.env is None and "episodes" in getattr(self, "said", ()):
            raise SpecError("--episodes are played in an environment: give --env too, or leave them out.")
        use_threads(self.threads)
        with told_apart(self.json):
            env = self.around.maybe(self.env)
            teacher = load_teacher(self.teacher_file.file(self.policy))
            facts, play = inspect(teacher if env is None else teacher.fitted(describe_env(env))), None
            if env is not None:
                with Display() as watch:
                    play = inspect_play(teacher, env, episodes=self.episodes, threads=self.threads, watch=watch)
        if self.json:
            print(json.dumps(facts | ({"play": play.to_json()} if play is not None else {})))
        else:
            print_facts(facts, play)
        if "dangerous" in facts:
            print_error(f"{self.policy} is hostile: the library that wrote such files would execute what is in it.")
            return HOSTILE
        return 0


def _judged_so(folder: RunFolder, how: Play) -> bool:
    """Whether a run's verdict is of episodes that are played so."""
    try:
        found = read_results(folder.results)
    except (FileError, SpecError):  # none, or of another version: its student is played all the same
        return False
    if not isinstance(found, Results):
        return False
    env = EnvRef.from_json(found.verdict_environment or found.environment, "environment")
    same = (env, found.protocol.get("epsilon", 0.0)) == (how.env, how.epsilon) and how.sticky is None
    return same and not found.verdict.exact  # of all starts there are no others


POLICIES = ("spec.json", "student/spec.json", "tree.json")
"""What a folder that is a policy, or a run's, holds one of."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Play full episodes, greedily, and print the return with its interval.

    With --against, a verdict.
    """

    policy: Annotated[Positional[str], arg(metavar="POLICY")]
    """Any teacher file or folder, or a run folder."""
    env: str
    """Environment."""
    against: Unset[str | None] = None
    """Another file or folder: it plays the same episodes, and the verdict says whether the policy keeps its return.
    Where POLICY is a folder, --normalizer and its like are told of this file."""
    margin: float = Comparison.margin
    """With --against: largest acceptable loss, as a share of (the other's return - random)."""
    margin_abs: Unset[float | None] = None
    """With --against: the same in the environment's own units, in place of the share."""
    episodes: int = 100
    """Full episodes; a game that repeats itself is played once from each start instead."""
    fresh: bool = False
    """On seeds that no run plays: for a student that was chosen by its verdict, or that has none yet."""
    accept_episodes: int = 20
    """With --against: episodes of the other and of random play that fix the margin and what an episode may lose."""
    epsilon: float = 0.0
    """Probability of a random action."""
    sticky: Unset[float | None] = None
    """ALE's probability of repeating the last action; the environment's own by default."""
    measure: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME[=HOW][<=MARGIN|>=MARGIN]")] = ()
    """What to measure beside the return: a key of the environment's info, made one number of an episode by HOW (last,
    sum, mean or max of its steps); with --against and a margin it has a verdict of its own, as in distill."""
    cluster: Unset[str | None] = None
    """Key of the environment's info whose number says which episodes belong together (a patient's, a day's, a map's):
    these clusters are then what intervals and verdict count, not episodes."""
    threads: int = 2
    """CPU threads."""
    workers: int = 0
    """Processes that step slow environments; 0: this one."""
    json: bool = False
    """Print one JSON object on standard output, and everything else on standard error."""
    around: Around = field(default_factory=EnvOptions)
    teacher_file: AboutFile = field(default_factory=FileOptions)

    def run(self) -> int:
        """Evaluates; the code says what a verdict is."""
        check_number("threads", self.threads, THREADS)
        if self.against is None and (self.margin_abs is not None or self.margin != Comparison.margin):
            raise SpecError("--margin and --margin-abs are of a verdict: give --against too.")
        if self.against is None and self.accept_episodes != 20:
            raise SpecError("--accept-episodes is of a verdict: give --against too.")
        measures = tuple(Measure.of(text) for text in self.measure)
        if self.against is None and (judged := [one for one in measures if one.margin is not None]):
            raise SpecError(
                f"The margin of the measure '{judged[0].name}' is of a verdict: give --against too, or no margin."
            )
        use_threads(self.threads)
        # a family's folder holds no policy of its own, and is as much a file as any
        home = RunFolder(self.policy).with_student().path
        ours = any((home / name).is_file() for name in POLICIES)
        family = self.teacher_file.teacher_member is not None
        told = self.against is None or (not ours and (not family or Path(self.policy).is_dir()))
        file = self.teacher_file.file(self.policy if told else self.against or "")
        files = {file.path: file}
        for path in (self.policy, self.against):
            if path is not None:  # what the files do not say of themselves may be so of both, what is around one is not
                files.setdefault(path, TeacherFile(path).told(file.answers))
        policies = dict(zip(files, load_together(list(files.values())), strict=True))
        policy, other = policies[self.policy], None if self.against is None else policies[self.against]
        for one in policies.values():
            print_unused(unused(one))
        seen = _sees(self.policy)
        how = Play(
            self.around.ref(self.env),
            self.epsilon,
            sticky=self.sticky,
            threads=self.threads,
            workers=self.workers,
            measures=measures,
            cluster=self.cluster,
            sensors=seen if self.against is None else _sees(self.against),
        )
        if other is not None and not self.fresh and _judged_so(RunFolder(home), how):
            console.print("The run was asked about these episodes before: --fresh plays others.")
        if other is None:
            with told_apart(self.json), Display() as watch:
                alone = evaluate_policy(policy, how, episodes=self.episodes, fresh=self.fresh, watch=watch)
            print(json.dumps(alone.to_json()) if self.json else self._returned(alone, alone.params))
            for name, mean in alone.measures.items() if not self.json else ():
                print(f"{name}: {mean.in_words() if mean is not None else 'no episode has it'}")
            return 0
        with told_apart(self.json), Display() as watch:
            duel = evaluate_against(
                policy,
                other,
                how,
                episodes=self.episodes,
                margin=self.margin,
                margin_abs=self.margin_abs,
                fresh=self.fresh,
                accept_episodes=self.accept_episodes,
                sensors=seen,
                watch=watch,
            )
        if self.json:
            print(json.dumps(duel.to_json()))
        else:
            print(f"{self.policy}: {self._returned(duel.policy, duel.policy.params)}")
            print(f"{self.against}: {self._returned(duel.against, duel.against.params)}")
            print_verdict(duel.verdict, "policy - against", duel.against.return_mean - duel.random.return_mean)
            print_measures(duel.measures, ("against", "policy"))
        return code_of(duel.worst)

    def _returned(self, result: Returns, params: int | None) -> str:
        """A return with its interval, in words."""
        size = f", {params:,} parameters" if params else ""
        units = f"{result.distinct_episodes} {'distinct' if self.cluster is None else 'clusters'}"
        return f"return {result.in_words()} over {result.episodes} episodes ({units}){size}"


def _sees(path: str) -> Sensors:
    """How a run's student sees, as in its verdict; whatever is of no run sees what is there."""
    sensors = sensors_of(path)
    if not sensors.exact:
        console.print(f"{escape(path)} sees as in its run: {', '.join(sensors.words)}")
    return sensors
