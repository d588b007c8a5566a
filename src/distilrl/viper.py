"""Decision trees from a teacher (VIPER, Bastani et al. 2018): DAgger, states weighted by the teacher's value gap, the best iterate kept."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distilrl import stats
from distilrl.checkpoints import digest, write_bytes, write_json
from distilrl.collect import Behaviour, Collector
from distilrl.distill import Job, claimed, compared, load_one, take_acceptance
from distilrl.envs import EnvInfo, describe_env, make_vec_env
from distilrl.errors import ExtraError, SpecError
from distilrl.evaluate import SELECT_SEEDS, Play, Tell, checked, play, seeds_from, ticker
from distilrl.export.tree import export_tree
from distilrl.losses import value_gap
from distilrl.objective import Progress, Schedule
from distilrl.replay import Replay, ReplaySpec
from distilrl.runs import RunFolder, write_metrics
from distilrl.teachers import Teacher
from distilrl.train import silent
from distilrl.trees import Tree, TreePolicy, as_graphviz, as_text, pong_features, save_tree


@dataclass(frozen=True)
class TreeConfig:
    """How a tree is grown."""

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
        for name in ("leaves", "iterations", "states", "most_states"):
            if getattr(self, name) < 2 - (name != "leaves"):
                raise SpecError(f"'{name}' of a tree is too small: {getattr(self, name)}.")
        if self.extractor not in ("raw", "pong"):
            raise SpecError(f"Unknown extractor '{self.extractor}': use raw or pong.")


def distill_tree(
    teacher: Teacher | str | Path | None, job: Job, out: str | Path, config: TreeConfig | None = None, *, tell: Tell | None = None
) -> dict[str, Any]:
    """Distils a teacher into a decision tree and proves what became of the score.

    States are weighted by max_a Q − min_a Q instead of being drawn with that probability, which is the same in the mean; for policies
    (logits) all weigh the same.

    Args:
        teacher: the teacher, or its file; None: what the job names.
        job: environment, seed and the comparison; the student it names is not used.
        out: folder to write: a run folder, with tree.json, tree.txt and tree.dot, and the tree in C in ``export/c``.
        config: how the tree is grown.
        tell: called as the work goes on.

    Returns:
        The contents of ``out/results.json``.

    Raises:
        ExtraError: scikit-learn is not installed.
        FileError: the folder holds something already.
        SpecError: the observations need an extractor, or have none.
    """
    tell, config = tell or silent, config or TreeConfig()
    _sklearn()
    one, info, folder = load_one(teacher, job.train), describe_env(job.train.env_id), RunFolder(out)
    one.check_fits(info)
    if info.pixels != (config.extractor == "pong"):
        way = "pixels: trees need the extractor 'pong', made for Pong" if info.pixels else "vectors: leave the extractor at 'raw'"
        raise SpecError(f"{info.id} has {way}.")
    with claimed(folder, job, kind="tree", **asdict(config)):
        return _distill(one, job, info, folder, config, tell)


def _distill(one: Teacher, job: Job, info: EnvInfo, folder: RunFolder, config: TreeConfig, tell: Tell) -> dict[str, Any]:
    started = time.perf_counter()
    acceptance = take_acceptance(one, info, folder, job, tell)
    tree, rows = _grow(one, job, info, config, acceptance, tell)
    policy = TreePolicy(tree)
    size = {"params": len(tree.feature), "bytes": 4 * len(tree.feature) * 2, "macs": 0}
    named = {"spec": {"tree": tree.describe(), "depth": tree.depth, "extractor": tree.extractor}, "name": tree.describe(), **size}
    results, episodes = compared(one, policy, named, job, info, acceptance, tell)
    results |= {
        "seed": job.train.seed, "recipe": "viper", "env_steps": rows[-1]["env_steps"], "updates": len(rows), "train_s": rows[-1]["train_s"],
        "stopped": "all rounds played", "wall_s": time.perf_counter() - started, "device": "cpu",
    }  # fmt: skip
    actions = [str(name) for name in info.protocol.get("actions", range(info.n_actions))]
    save_tree(folder.tree, tree, env=info.id, recipe="viper")
    write_bytes(folder.path / "tree.txt", as_text(tree, actions).encode())
    write_bytes(folder.path / "tree.dot", as_graphviz(tree, actions).encode())
    write_metrics(folder.metrics, rows)
    write_json(folder.episodes, episodes)
    write_json(folder.results, results)
    export_tree(tree, folder, info, digest(folder.tree), results, episodes, tell)
    return results


def _sklearn() -> Any:
    try:
        from sklearn import tree
    except ImportError:
        raise ExtraError("scikit-learn", "trees", "Growing a tree") from None
    return tree


def _grow(
    teacher: Teacher, job: Job, info: EnvInfo, config: TreeConfig, acceptance: dict[str, Any], tell: Tell
) -> tuple[Tree, list[dict[str, Any]]]:
    """The best tree by its selection episodes, and a row per round."""
    train, started = job.train, time.perf_counter()
    envs = make_vec_env(train.env_id, train.n_envs, threads=train.threads)
    replay = Replay(ReplaySpec(train.n_envs, train.n_envs, info.obs_shape, info.n_actions, info.pixels, labelled=True), torch.device("cpu"))
    policy: list[TreePolicy] = []
    behaviour = Behaviour("mixed", beta=Schedule(1.0, 0.0, 1e-6), epsilon=Schedule(0.05))
    rng = np.random.default_rng([train.seed, 1])
    collector = Collector(envs, replay, behaviour, rng, lambda obs: policy[-1](obs), teacher.action_values, teacher.path)
    collector.student_may_act = True
    seeds = train.seed * 10_000 + np.arange(train.n_envs)
    steps = collector.steps(seeds)
    held: list[NDArray[Any]] = []
    rows: list[dict[str, Any]] = []
    best: tuple[float, int, TreePolicy] | None = None
    how = Play(train.env_id, epsilon=train.eval_epsilon, threads=train.threads, max_steps=2 * acceptance["longest_episode"])
    env_steps, looking = 0, 0.0
    for number in range(config.iterations):
        collector.progress = Progress(0.0 if number == 0 else 1.0)
        for _ in range(-(-config.states // train.n_envs)):
            held.append(_labelled(next(steps).obs, teacher, config.extractor))
            env_steps += train.n_envs
        tell("step", {"env_steps": env_steps, "budget": config.iterations * train.n_envs * -(-config.states // train.n_envs)})
        data = np.concatenate(held[-max(config.most_states // train.n_envs, 1) :])
        policy.append(TreePolicy(_fit(data, info, config, train.seed + number)))
        before = time.perf_counter()
        train_s = before - started - looking
        games = play(policy[-1], how, seeds_from(SELECT_SEEDS + train.seed * 1000, train.check_episodes), tick=ticker(tell))
        looking += time.perf_counter() - before
        mean = stats.mean(games.returns)
        if best is None or (mean, -policy[-1].tree.leaves) > best[:2]:
            best = (mean, -policy[-1].tree.leaves, policy[-1])
        score = stats.score(mean, acceptance["return_mean"], acceptance["random_return_mean"])
        chosen = policy[-1].action[policy[-1].leaf(torch.from_numpy(data[:, :-2]))]
        agreement = float((chosen == torch.from_numpy(data[:, -2]).long()).float().mean())
        row = {"env_steps": env_steps, "updates": number + 1, "train_s": train_s, "return": mean, "score": score}
        rows.append(row | {"agreement": agreement})
        tell("check", rows[-1])
    envs.close()
    return (best[2].tree if best is not None else policy[-1].tree), rows


def _labelled(obs: torch.Tensor, teacher: Teacher, extractor: str) -> NDArray[np.float32]:
    """Features, the teacher's action and its value gap, one row per state."""
    values = checked(teacher)(obs)
    gap = value_gap(values) if teacher.kind == "q" else torch.ones(len(values))
    features = pong_features(obs) if extractor == "pong" else obs.float()
    rows: NDArray[np.float32] = torch.cat([features, values.argmax(1, keepdim=True), gap.unsqueeze(1)], dim=1).numpy().astype(np.float32)
    return rows


def _fit(data: NDArray[np.float32], info: EnvInfo, config: TreeConfig, seed: int) -> Tree:
    """A CART tree of weighted states."""
    weight = data[:, -1] / max(float(data[:, -1].mean()), 1e-12)
    fitted = _sklearn().DecisionTreeClassifier(max_leaf_nodes=config.leaves, random_state=seed)
    fitted.fit(data[:, :-2], data[:, -2].astype(np.int64), sample_weight=weight)
    inner = fitted.tree_
    left, right = inner.children_left.copy(), inner.children_right.copy()
    action = fitted.classes_[inner.value[:, 0].argmax(1)]
    for node in reversed(_depth_first(left, right)):  # a question whose answers lead to one action is none
        if left[node] >= 0 and left[left[node]] < 0 and left[right[node]] < 0 and action[left[node]] == action[right[node]]:
            action[node], left[node] = action[left[node]], -1
    order = _depth_first(left, right)
    place = {node: number for number, node in enumerate(order)}
    inside = [left[n] >= 0 for n in order]
    return Tree(
        info.obs_shape,
        info.n_actions,
        config.extractor,
        tuple(int(inner.feature[n]) if own else -1 for n, own in zip(order, inside, strict=True)),
        tuple(float(np.float32(inner.threshold[n])) if own else 0.0 for n, own in zip(order, inside, strict=True)),
        tuple(place[int(left[n])] if own else 0 for n, own in zip(order, inside, strict=True)),
        tuple(place[int(right[n])] if own else 0 for n, own in zip(order, inside, strict=True)),
        tuple(int(action[n]) for n in order),
    )


def _depth_first(left: NDArray[Any], right: NDArray[Any]) -> list[int]:
    """Nodes in an order in which children come after their parents."""
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if left[node] >= 0:
            waiting += [int(right[node]), int(left[node])]
    return order
