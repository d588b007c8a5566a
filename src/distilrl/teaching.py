"""Teachers and other policies by themselves: training one from nothing, and playing one, or two against each other."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from distilrl.acceptance import accept
from distilrl.comparison import Comparison, compare
from distilrl.config import TrainConfig, sensors_of
from distilrl.display import watching
from distilrl.distill import how_played, training_of, write_reports
from distilrl.envs import asked_of, describe_env
from distilrl.episodes import Play
from distilrl.errors import SpecError
from distilrl.evaluate import FRESH_SEEDS, VERDICT_SEEDS, fair_seeds, play, size
from distilrl.events import Phase, Watch
from distilrl.files import read_json_as, write_json
from distilrl.heads import student_head
from distilrl.isolation import isolated
from distilrl.jobs import ACCEPT_MORE, Job, claimed
from distilrl.measures import Mean
from distilrl.networks import Network
from distilrl.plain import check_number
from distilrl.played import RandomPlay, Returns
from distilrl.policies import Policy
from distilrl.provenance import Provenance
from distilrl.results import Duel, DuelOther, DuelPolicy, TeacherResults, TeacherTrained
from distilrl.runs import RunFolder
from distilrl.sensors import Sensors
from distilrl.spaces import EnvLike, env_ref
from distilrl.teachers import Teacher, load_teacher
from distilrl.text import typed
from distilrl.train import train


@dataclass(frozen=True, kw_only=True)
class Evaluation(Returns):
    """A policy by itself, as `evaluate_policy` found it."""

    params: int | None
    """Parameters; None where they cannot be known."""
    measures: dict[str, Mean | None] = field(default_factory=dict)
    """What was measured beside the return, by its name in words; None where no episode has it."""


@isolated()
def train_teacher(
    config: TrainConfig,
    out: str | Path,
    *,
    resume: bool = False,
    episodes: int = 100,
    wandb: bool = False,
    watch: Watch | None = None,
    report: bool = True,
) -> TeacherResults:
    """Trains a teacher with TD terms alone and evaluates its best checkpoint; ``out`` then is a teacher, and
    ``teacher.json`` its card.

    Args:
        config: of a recipe that learns from reward.
        out: run folder.
        resume: continue the run in ``out``.
        episodes: of the evaluation.
        wandb: log to Weights & Biases too.
        watch: told of what happens; None: as `distill` shows it.
        report: write ``report.html`` too.

    Returns:
        The contents of ``out/results.json``.

    Example::

        train_teacher(make_config("dqn", "CartPole-v1", at_return=500), "runs/teacher")
    """
    check_number("episodes", episodes, "[2, inf)", whole=True)
    if len(config.tasks) > 1:
        raise SpecError("A teacher is trained in one environment, and these are several tasks: train one for each.")
    folder = RunFolder(out)
    with watching(watch) as watch, claimed(folder, Job(config), kind="teacher", resume=resume, episodes=episodes):
        if resume and folder.results.is_file():  # nothing is left to do
            results = read_json_as(TeacherResults, folder.results)
        else:
            results = _train_teacher(config, folder, episodes, wandb, watch)
        if report:
            write_reports(folder.path, watch=watch)
    return results


def _train_teacher(config: TrainConfig, folder: RunFolder, episodes: int, wandb: bool, watch: Watch) -> TeacherResults:
    trained = train(config, None, folder=folder, wandb=wandb, watch=watch)
    watch(Phase("verdict"))
    info = describe_env(config.env)
    how = replace(how_played(info, config), sensors=config.student.sensors)
    result = evaluate_policy(trained.policy, how, episodes=episodes, watch=watch)
    card = {"return_mean": result.return_mean, "return_ci95": list(result.return_ci95), "episodes": result.episodes}
    folder.save_student(trained.networks[0], trained.heads[0], info, config.recipe, result=card)
    name = trained.network.spec.describe()
    returned = {one.name: getattr(result, one.name) for one in fields(Returns)}
    results = TeacherResults(
        **vars(training_of(trained, config)),
        env=info.id,
        student=TeacherTrained(**(returned | size(trained.network)), name=name),
        provenance=Provenance.of(config.env.id, config.compute.threads),
    )
    about = {name: getattr(results, name) for name in ("env", "recipe", "env_steps", "updates", "train_s")}
    about["protocol"] = info.protocol
    about["seeds"] = {"training": config.seed, "verdict": [VERDICT_SEEDS, VERDICT_SEEDS + episodes - 1]}
    words = ["distilrl", "train-teacher", "--config", str(folder.config), "--out", "NEW_FOLDER"]
    asked = [word for one in asked_of(config.env) for word in ("--trust", one)]
    write_json(folder.teacher, about | {"network": name, **card, "command": typed([*words, *asked])})
    write_json(folder.results, results.to_json())
    return results


@isolated()
def evaluate_policy(
    policy: Teacher | Network | Policy | str | Path,
    how: EnvLike | Play,
    *,
    episodes: int = 100,
    fresh: bool = False,
    watch: Watch | None = None,
) -> Evaluation:
    """Full episodes on the verdict's seeds, or from every start of a game that repeats itself.

    Args:
        policy: a teacher, or the file or folder that it is read from, of a run's folder with the sensors of its
            student; a policy; or a network, which then is taken for action values or real actions as the environment
            asks.
        how: an environment, in which it is played greedily; or how it is played there.
        episodes: how many, where the starts cannot be counted.
        fresh: on seeds that no run plays.
        watch: told of episodes as they end; None: as `distill` shows it.

    Example::

        evaluate_policy(load_teacher("zoo/pong-dqn"), "PongNoFrameskip-v4").return_mean
        evaluate_policy(load_teacher("zoo/pong-dqn"), Play(EnvRef("PongNoFrameskip-v4"), sticky=0.25)).return_mean
    """
    check_number("episodes", episodes, "[2, inf)", whole=True)
    how = _seen_by(policy, _played(how))
    policy = _read(policy)
    params = policy.params if isinstance(policy, Teacher) else None
    if isinstance(policy, Teacher):
        policy = policy.fitted(describe_env(how.env)).policy
    elif isinstance(policy, Network):
        policy = Policy(policy, student_head(describe_env(how.env).action))
    seeds, exact = fair_seeds(how, FRESH_SEEDS if fresh else VERDICT_SEEDS, episodes)
    with watching(watch) as watch:
        games = play(policy, how, seeds, watch=watch)
    rng = np.random.default_rng(0)
    found = {one.words: Mean.of(games.measured[:, m], one.how, rng, games.units) for m, one in enumerate(how.measures)}
    params = params or sum(p.numel() for p in policy.network.parameters()) or None
    returns = Returns.of(games.returns, np.random.default_rng(0), games.units, exact=exact)
    return Evaluation(**vars(returns), params=params, measures=found)


@isolated()
def evaluate_against(
    policy: Teacher | str | Path,
    other: Teacher | str | Path,
    how: EnvLike | Play,
    *,
    episodes: int = 100,
    margin: float = 0.05,
    margin_abs: float | None = None,
    fresh: bool = False,
    accept_episodes: int = 20,
    sensors: Sensors | None = None,
    watch: Watch | None = None,
) -> Duel:
    """Two policies on the verdict's seeds, and whether the first falls short of the other by less than the margin; one
    look. The margin, and what an episode may lose that none has shown, are fixed by 20 episodes of the other on other
    seeds, and of up to 320 while it is unclear that it beats random play.

    Whoever chose the policy by a verdict, or plays on because one was inconclusive, asks anew on ``fresh`` seeds.

    Args:
        policy: the one that is judged, or the file or folder that it is read from.
        other: the one that it is held against, likewise.
        how: an environment, in which both are played greedily; or how both are played there, and what is measured
            beside the return.
        episodes: as of `evaluate_policy`, at least 2.
        margin: largest acceptable loss, as a share of (the other's return − random).
        margin_abs: the same in the environment's own units, in place of the share.
        fresh: as of `evaluate_policy`: the same ones whenever it is asked, so that a second question about them chooses
            something, too.
        accept_episodes: of the other and of random play, which fix the margin and what an episode may lose, at least 2:
            as many as a run's own acceptance had, to ask anew about its student.
        sensors: how the first sees; None: as ``how`` says of both, and where that says nothing of any, a run's folder
            as its student does.
        watch: told of episodes as they end; None: as `distill` shows it.

    Raises:
        SpecError: a number means nothing, a measure is asked for twice, or no step of the other has it in its info.

    Example::

        evaluate_against(load_teacher("runs/a"), load_teacher("runs/b"), "CartPole-v1").verdict.result
    """
    check_number("accept_episodes", accept_episodes, "[2, inf)", whole=True)
    how = _played(how)
    if sensors is None and how.sensors.exact:
        sensors = _seen_by(policy, how).sensors
    how = _seen_by(other, how)
    info = describe_env(how.env)
    mine, theirs = (_read(one) for one in (policy, other))
    if not isinstance(mine, Teacher) or not isinstance(theirs, Teacher):
        raise SpecError("Two teachers are held against each other: give load_teacher(FILE), or Teacher.from_callable.")
    mine, theirs = mine.fitted(info), theirs.fitted(info)
    comparison = Comparison(
        episodes,
        episodes,
        disturbed_episodes=0,
        margin=margin,
        margin_abs=margin_abs,
        measures=how.measures,
        cluster=how.cluster,
    )
    with watching(watch) as watch:
        most = accept_episodes * ACCEPT_MORE
        watch(Phase("teacher's check"))
        acceptance = accept(theirs, how, episodes=accept_episodes, max_episodes=most, weak_ok=True, watch=watch)
        first = FRESH_SEEDS if fresh else VERDICT_SEEDS
        seen = how.sensors if sensors is None else sensors
        watch(Phase("verdict"))
        found = compare(theirs, mine.policy, how, comparison, acceptance, info, sensors=seen, first=first, watch=watch)
    return Duel(
        policy=DuelPolicy(**vars(found.student), params=mine.params),
        against=DuelOther(**vars(found.teacher), params=theirs.params),
        random=RandomPlay(return_mean=acceptance.random_return_mean),
        agreement=found.agreement,
        verdict=found.verdict,
        fresh=fresh,
        measures=found.measures,
    )


def _read(policy: Any) -> Teacher | Network | Policy:
    """A policy, which a path names.

    Raises:
        SpecError: it is none.
    """
    if isinstance(policy, str | Path):
        return load_teacher(policy)
    if not isinstance(policy, Teacher | Network | Policy):
        raise SpecError(f"{policy!r:.80} is no policy: give a teacher, a file, or Teacher.from_callable(function).")
    return policy


def _seen_by(policy: Any, how: Play) -> Play:
    """How a policy is played: of a folder as that run's student sees, where nothing else is said."""
    named = isinstance(policy, str | Path) and how.sensors.exact
    return replace(how, sensors=sensors_of(policy)) if named else how


def _played(how: EnvLike | Play) -> Play:
    """How episodes are played in an environment of which no more is said."""
    return how if isinstance(how, Play) else Play(env_ref(how))
