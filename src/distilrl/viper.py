"""Decision trees from a teacher (VIPER, Bastani et al. 2018): DAgger, states weighted by stakes, the best tree kept."""

import time
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl.collect import Behaviour
from distilrl.config import TrainConfig
from distilrl.display import watching
from distilrl.distill import compared, how_played, known_card, take_acceptance, write_reports
from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import ExtraError, SpecError
from distilrl.events import Check as CheckEvent
from distilrl.events import Replaying, Resumed, Step, Watch
from distilrl.export.last import last_step
from distilrl.export.replay import find_compiler
from distilrl.export.tree import export_tree
from distilrl.files import digest, read_json_as, write_json, write_text
from distilrl.heads import Head
from distilrl.isolation import isolated
from distilrl.jobs import Job, claimed, load_one, with_files
from distilrl.metrics import write_metrics
from distilrl.objective import TeacherTerm
from distilrl.plain import check_fields, read_as
from distilrl.played import Acceptance
from distilrl.policies import Policy
from distilrl.results import Distilling, Made, Results
from distilrl.runs import RunFolder, fitting, rows_of
from distilrl.schedules import Progress, Schedule
from distilrl.spaces import Bounds
from distilrl.stream import Check, Stream, check_labels, check_views, check_waits
from distilrl.teachers import Teacher
from distilrl.trees import (
    PONG_FRAMES,
    Tree,
    TreePolicy,
    as_graphviz,
    as_text,
    features_of,
    plain_tree,
    save_tree,
    tree_of,
)

BEHAVIOUR = Behaviour("mixed", beta=Schedule(1.0, 0.0, 1e-6), epsilon=Schedule(0.05))
"""The teacher drives in the first round, the tree in all others; three environments of four take random actions now and
then, which VIPER's do not.
"""


@dataclass(frozen=True)
class TreeConfig:
    """How a tree is grown; ``given`` of its config.json.

    Example::

        distill_tree("tqc.zip", job, "runs/tree", TreeConfig(leaves=64))
    """

    leaves: int = 32
    """Leaves at most."""
    iterations: int = 20
    """Rounds of play, of which the first is the teacher's, and trees."""
    states: int = 2_000
    """States a round."""
    most_states: int = 200_000
    """States kept; the oldest go first."""
    extractor: str = "raw"
    """``raw``: the observation itself; ``pong``: ball and paddle from Pong's frames."""

    def __post_init__(self) -> None:
        check_fields(self, leaves="[2, inf)", iterations="[1, inf)", states="[1, inf)", most_states="[1, inf)")
        if self.extractor not in ("raw", "pong"):
            raise SpecError(f"Unknown extractor '{self.extractor}': use raw or pong.")

    @classmethod
    def from_config(cls, data: dict[str, Any]) -> "TreeConfig":
        """What a tree's config.json holds: ``distill_tree(None, Job.from_json(data), out, config)`` grows it again.

        Raises:
            SpecError: it is damaged.
        """
        return read_as(cls, data.get("given", {}), "given")


@isolated()
def distill_tree(
    teacher: Teacher | str | Path | None,
    job: Job,
    out: str | Path,
    config: TreeConfig | None = None,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    report: bool = True,
) -> Results:
    """Distils a teacher into a decision tree and proves what became of the score.

    Choices are classified (several at once, if there are several), real actions regressed in half-ranges. States are
    weighted by what a mistake costs there, the value gap or a critic's, instead of being drawn with that probability,
    which is the same in the mean; for policies that know neither all weigh the same, where VIPER takes the logarithms
    of their probabilities for values.

    Args:
        teacher: the teacher, or its file; None: what the job names.
        job: environment, seed and the comparison; the student and the objective that it names are not used.
        out: folder to write: a run folder, with tree.json, tree.txt and tree.dot, and the tree in C in ``export/c``.
        config: how the tree is grown.
        resume: continue the tree in ``out``, which must be of the same job.
        watch: told of what happens; None: as `distill` shows it.
        report: write ``report.html`` too.

    Returns:
        The contents of ``out/results.json``.

    Raises:
        ExtraError: scikit-learn is not installed.
        FileError: the folder holds something already, or nothing to continue; or there is no C compiler here.
        ResumeError: it holds another tree, or the environment does not replay.
        SpecError: the observations need an extractor or have none, or there are rounds or sensors that do not suit.

    Example::

        job = Job(make_config("distil", "CartPole-v1", teacher="ppo.zip"))
        distill_tree(None, job, "runs/tree", TreeConfig(leaves=8))
    """
    config = config or TreeConfig()
    if not isinstance(config, TreeConfig):
        raise SpecError(
            f"{config!r:.80} does not say how a tree is grown: give a TreeConfig, e.g. TreeConfig(leaves=8)."
        )
    _sklearn()
    find_compiler()  # asked for before an hour's work, not after
    teacher, job = with_files(teacher, job)
    one, info, folder = load_one(teacher, job.train), describe_env(job.train.env), RunFolder(out)
    last_step(one.head.student).check_c()
    if info.obs.pixels != (config.extractor == "pong"):
        with_pixels = "pixels: trees need the extractor 'pong', made for Pong"
        without = "vectors: leave the extractor at 'raw'"
        raise SpecError(f"{info.id} has {with_pixels if info.obs.pixels else without}.")
    if config.extractor == "pong" and (info.obs.shape, info.obs.dtype) != (PONG_FRAMES, "uint8"):
        raise SpecError(
            f"{info.id} has images {info.obs.shape} of {info.obs.dtype}: 'pong' reads {PONG_FRAMES}, bytes."
        )
    check_views(job.train, info)
    check_labels(job.train, remembers=one.policy.remembers, who=one.path)
    check_waits(job.train)
    with watching(watch) as watch, claimed(folder, job, kind="tree", resume=resume, **asdict(config)):
        if resume and folder.results.is_file():  # nothing is left to do
            known_card(folder, one)
            results = read_json_as(Results, folder.results)
        else:
            results = _distill(one, job, info, folder, config, watch)
        if report:
            write_reports(folder.path, watch=watch)
    return results


def _distill(one: Teacher, job: Job, info: EnvInfo, folder: RunFolder, config: TreeConfig, watch: Watch) -> Results:
    started = time.perf_counter()
    how = how_played(info, job.train)
    card = take_acceptance(one, how, folder, job, watch)
    tree, rows = _grow(one, job.train, config, card.acceptance, folder, watch)
    # -- what is small about it, and the verdict
    places = list(job.train.student.hidden_features)
    hidden: dict[str, Any] = {"unseen": places} if places else {}
    made = Made(
        spec={"tree": tree.describe(), "depth": tree.depth, "extractor": tree.extractor} | hidden,
        name=tree.describe(),
        params=len(tree.feature),
        bytes=4 * len(tree.feature) * 2,
        macs=0,
    )
    training = Distilling(
        seed=job.train.seed,
        recipe="viper",
        env_steps=rows[-1]["env_steps"],
        updates=len(rows),
        train_s=rows[-1]["train_s"],
        stopped="all rounds played",
        labelled_states=rows[-1]["env_steps"],
        device="cpu",
    )
    policy = Policy(TreePolicy(tree), tree.head)
    judged = replace(how, parts=folder.verdict_parts)
    results, episodes = compared(one, policy, made, training, job, judged, card.judged, watch)
    _write(folder, tree, info, rows)
    write_json(folder.episodes, episodes.to_json())
    results = replace(results, wall_s=time.perf_counter() - started, student_sha256=digest(folder.tree))
    export_tree(folder, env=info.ref, watch=watch, found=(results, episodes))
    write_json(folder.results, results.to_json())  # last: where they are, nothing is left to do
    folder.forget_parts()
    return results


def _write(folder: RunFolder, tree: Tree, info: EnvInfo, rows: list[dict[str, Any]]) -> None:
    """The tree as data, text and Graphviz, and what each round gave."""
    features = info.obs.short_names if tree.extractor == "raw" else ()
    if features:  # those of an image beside the vector have none
        features += tuple(f"image[{i}]" for i in range(info.obs.shape[0] - len(features)))
    names = [str(name) for name in info.protocol.get("actions", ())], features
    save_tree(folder.tree, tree, env=info.id, environment=info.ref.to_json(), recipe="viper")
    write_text(folder.path / "tree.txt", as_text(tree, *names))
    write_text(folder.path / "tree.dot", as_graphviz(tree, *names))
    write_metrics(folder.metrics, rows)


def _sklearn() -> Any:
    try:
        from sklearn import tree
    except ImportError:
        raise ExtraError("scikit-learn", "trees", "Growing a tree") from None
    return tree


def _grow(
    teacher: Teacher, train: TrainConfig, config: TreeConfig, acceptance: Acceptance, folder: RunFolder, watch: Watch
) -> tuple[Tree, list[dict[str, Any]]]:
    """The best tree by its selection episodes, and a row per round; each round is a checkpoint."""
    # what is remembered of the stream are features, which are fewer than an image's numbers, so its replay is short
    train = train.but(
        terms=(TeacherTerm("forward_kl"),),
        network="mlp:",  # it decides what the replay puts together, and a tree sees single states
        stakes_exponent=1.0,
        priority_exponent=0.0,
        n_step=0,
        capacity=1,
        device="cpu",
    )
    grown, saved, check = _Grown(), folder.load_state(), Check(train, acceptance, keep_states=0)
    count = -(-config.states // train.data.n_envs)
    with closing(Stream(train, teacher, behaviour=BEHAVIOUR)) as stream:
        data = _Labelled(stream, teacher, config)
        if saved is not None:
            with fitting():
                grown = _Grown.read(saved[1]["grown"], folder.path)
                stream.load(*saved, ended=len(grown.rows) == config.iterations)
            watch(Resumed(stream.recorded, folder.moved))
            while stream.replaying:
                data.collect(Progress(0.0))
                watch(Replaying(stream.env_steps, stream.recorded))
            stream.student = grown.policy
        else:
            data.collect(Progress(0.0))  # each step's labels come with the next, so that one is always under way
        started, looking = time.perf_counter() - grown.train_s, 0.0
        for number in range(len(grown.rows), config.iterations):
            # -- play: the teacher in the first round, then the last tree
            for _ in range(count):
                data.collect(Progress(0.0 if number == 0 else 1.0))
            watch(Step(stream.env_steps, (1 + config.iterations * count) * train.data.n_envs))
            # -- grow, and look
            tree = data.tree(train.seed + number)
            policy = stream.student = Policy(TreePolicy(tree), tree.head)
            before = time.perf_counter()
            train_s = before - started - looking
            found = check(policy, watch)
            looking += time.perf_counter() - before
            row = {"env_steps": stream.env_steps, "updates": number + 1, "train_s": train_s, "return": found.mean}
            grown.add(tree, row | {"score": found.score, "agreement": data.agreement(policy)})
            watch(CheckEvent(grown.rows[-1]))
            tensors, about = stream.state()
            folder.save_state(tensors, about | {"grown": grown.to_json()})
    return grown.best, grown.rows


@dataclass
class _Grown:
    """The trees of the rounds so far."""

    trees: list[Tree] = field(default_factory=list)
    """The best and the last."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What was found of each."""

    def add(self, tree: Tree, row: dict[str, Any]) -> None:
        """One more; of two that return as much the smaller is better."""
        best = self.best if self.trees else tree
        if self.trees and (row["return"], -tree.leaves) > (max(one["return"] for one in self.rows), -best.leaves):
            best = tree
        self.trees = [best, tree]
        self.rows.append(row)

    @property
    def best(self) -> Tree:
        """By its selection episodes."""
        return self.trees[0]

    @property
    def policy(self) -> Policy:
        """The last."""
        return Policy(TreePolicy(self.trees[1]), self.trees[1].head)

    @property
    def train_s(self) -> float:
        """Seconds of collecting and growing."""
        return self.rows[-1]["train_s"] if self.rows else 0.0

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {"trees": [plain_tree(tree) for tree in self.trees], "rows": self.rows}

    @classmethod
    def read(cls, data: dict[str, Any], path: Path) -> "_Grown":
        """Reads back what `to_json` gave."""
        return cls([tree_of(tree, path) for tree in data["trees"]], rows_of(data["rows"]))


class _Labelled:
    """The states that a tree is fitted to: features, the teacher's actions, weights."""

    def __init__(self, stream: Stream, teacher: Teacher, config: TreeConfig) -> None:
        self.stream, self.teacher, self.config = stream, teacher, config
        # logits of a policy say how sure it is, not what a mistake costs
        self._weighed = teacher.critic is not None or teacher.kind != "logits"
        self._generator = torch.Generator().manual_seed(stream.config.seed)
        self._parts: list[tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32]]] = []

    def collect(self, progress: Progress) -> None:
        """The next vector step; what the replay took in by it, the step before, is remembered with its labels."""
        replay = self.stream.replay
        before = replay.added
        self.stream.collect(progress)
        if replay.added == before:  # the first step is still under way
            return
        batch = self.stream.batch(replay.newest(1, labelled=True), self._generator)
        features = features_of(batch.obs, self.config.extractor)
        features[:, list(self.stream.config.student.hidden_features)] = 0.0
        actions = self.teacher.head.greedy(cast("torch.Tensor", batch.labels))
        weight = batch.stakes if self._weighed else torch.ones_like(batch.stakes)
        self._parts.append((features.numpy().copy(), actions.numpy(), weight.numpy()))
        del self._parts[: -max(self.config.most_states // len(weight), 1)]

    def _all(self) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float32]]:
        """Features (N, D), actions (N, F) or (N, A), and weights (N,)."""
        features, actions, weight = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return features, actions, weight

    def tree(self, seed: int) -> Tree:
        """A tree fitted to all that is remembered."""
        features, actions, weight = self._all()
        mean = float(weight.mean())
        # where no mistake costs anything all weigh the same
        weight = weight / mean if mean > 0 else np.ones_like(weight)
        extractor, shape = self.config.extractor, self.stream.info.obs.shape
        return fit(features, actions, weight, self.stream.head, shape, extractor, self.config.leaves, seed)

    def agreement(self, policy: Policy) -> float:
        """Share of what is remembered in which a tree does what the teacher did."""
        features, actions, _ = self._all()
        network = cast("TreePolicy", policy.network)
        chosen = policy.head.greedy(network.numbers[network.leaf(torch.from_numpy(features))])
        return float(policy.head.agree(torch.from_numpy(actions), chosen).mean())


def fit(
    features: NDArray[np.float32],
    actions: NDArray[Any],
    weight: NDArray[np.float32],
    head: Head,
    obs_shape: tuple[int, ...],
    extractor: str,
    leaves: int,
    seed: int,
) -> Tree:
    """A CART tree of weighted states.

    Args:
        features: (N, D) what the tree looks at.
        actions: (N, F) choices or (N, A) real actions.
        weight: (N,) of each state.
        head: what the actions are.
        obs_shape: of one observation.
        extractor: what makes features of observations.
        leaves: at most so many.
        seed: breaks ties.

    Example::

        fit(obs, actions, np.ones(len(obs), np.float32), teacher.head.student, (4,), "raw", 8, 0)
    """
    # scikit-learn reserves memory by the leaves that are allowed, and takes numbers for equal that are 1e-7 apart
    leaves, scale = max(2, min(leaves, len(features))), _to_order_1(features)
    features = features * scale
    if head.real:
        half = cast("Bounds", head.action).half
        fitted = _sklearn().DecisionTreeRegressor(max_leaf_nodes=leaves, random_state=seed)
        fitted.fit(features, actions / half, sample_weight=weight)
        value = fitted.tree_.value[:, :, 0] * half
    else:
        fitted = _sklearn().DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=seed)
        fitted.fit(features, actions, sample_weight=weight)
        classes = fitted.classes_ if actions.shape[1] > 1 else [fitted.classes_]
        best = fitted.tree_.value.argmax(2)
        value = np.stack([known[best[:, factor]] for factor, known in enumerate(classes)], axis=1)
    return _as_tree(fitted.tree_, scale, value.astype(np.float64), head, obs_shape, extractor)


def _to_order_1(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Powers of two (D,) that bring the range of features (N, D) up to order 1, which changes no digit of them."""
    reach = np.ptp(features.astype(np.float64), axis=0)
    small = (reach > 0) & (reach < 1)
    power = np.where(small, -np.floor(np.log2(np.where(small, reach, 1.0))), 0.0)
    powers: NDArray[np.float32] = np.exp2(power.clip(max=120)).astype(np.float32)
    return powers


def _as_tree(
    inner: Any,
    scale: NDArray[np.float32],
    value: NDArray[np.float64],
    head: Head,
    obs_shape: tuple[int, ...],
    extractor: str,
) -> Tree:
    """A tree of ours from one of scikit-learn's, which was grown on features times ``scale`` (D,), without the
    questions whose answers lead to one action.
    """
    left, right = inner.children_left.copy(), inner.children_right.copy()
    for node in reversed(_depth_first(left, right)):
        below, above = int(left[node]), int(right[node])
        if below >= 0 and left[below] < 0 and left[above] < 0 and (value[below] == value[above]).all():
            value[node], left[node] = value[below], -1
    order = _depth_first(left, right)
    place = {node: number for number, node in enumerate(order)}
    inside = [left[node] >= 0 for node in order]
    pairs = list(zip(order, inside, strict=True))
    return Tree(
        obs_shape,
        head,
        extractor,
        feature=tuple(int(inner.feature[node]) if own else -1 for node, own in pairs),
        threshold=tuple(
            _float_below(inner.threshold[node] / float(scale[inner.feature[node]])) if own else 0.0
            for node, own in pairs
        ),
        left=tuple(place[int(left[node])] if own else 0 for node, own in pairs),
        right=tuple(place[int(right[node])] if own else 0 for node, own in pairs),
        value=tuple(tuple(value[node].tolist()) for node in order),
    )


def _float_below(threshold: float) -> float:
    """The largest float32 that is no larger: a float32 is at most the one where it is at most the other."""
    near = np.float32(threshold)
    return float(near if near <= threshold else np.nextafter(near, np.float32(-np.inf)))


def _depth_first(left: NDArray[Any], right: NDArray[Any]) -> list[int]:
    """Nodes in an order in which children come after their parents."""
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if left[node] >= 0:
            waiting += [int(right[node]), int(left[node])]
    return order
