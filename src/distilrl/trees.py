"""Decision trees as policies: plain data, a torch module that plays, and text and Graphviz of the same tree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distilrl.errors import FileError, SpecError
from distilrl.files import read_json, write_json
from distilrl.heads import Head, head_from_json
from distilrl.limits import LARGEST_OBSERVATION, MAX_TREE_BYTES, MAX_TREE_NUMBERS
from distilrl.plain import from_plain

PONG = ("ball_x", "ball_y", "ball_dx", "ball_dy", "paddle_y", "paddle_dy", "paddle_dy_before", "offset")
"""Features of Pong's frames, in pixels and pixels a step; ``offset`` is ball_y − paddle_y, positive where the ball is
below.
"""
PONG_FRAMES = (4, 84, 84)
"""Shape of the observations that they are read from: bytes, the newest frame last."""
TOP, BOTTOM, LEFT, PADDLE, RIGHT, GROUND = 14, 77, 11, 73, 79, 87
"""Rows of the field, columns of the space between the paddles and of one's own, grey of the ground."""


def pong_features(obs: Tensor) -> Tensor:
    """Ball and paddle from stacks (B, 4, 84, 84) of Pong's frames, (B, 8), as `PONG` names them.

    The ball is the centre of what is brighter than the ground between the paddles, the paddle that of what is in its
    columns. Where the ball is out of sight, its place is −1 and its speed 0.
    """
    bright = (obs[:, 1:, TOP:BOTTOM].float() - GROUND).clamp_min(0.0)
    ball, paddle = bright[..., LEFT:PADDLE], bright[..., PADDLE:RIGHT]
    rows = torch.arange(BOTTOM - TOP, dtype=torch.float32, device=obs.device)
    columns = torch.arange(LEFT, PADDLE, dtype=torch.float32, device=obs.device)

    def centre(weights: Tensor, places: Tensor, axis: int) -> Tensor:
        mass = weights.sum(dim=(2, 3))
        middle = (weights.sum(dim=axis) * places).sum(2) / mass.clamp_min(1e-6)
        return torch.where(mass > 0, middle, torch.full_like(middle, -1.0))

    x, y, own = centre(ball, columns, 2), centre(ball, rows, 3), centre(paddle, rows, 3)
    seen = (x[:, 1:] >= 0) & (x[:, :-1] >= 0)
    dx, dy = ((v[:, 1:] - v[:, :-1]) * seen for v in (x, y))
    moved = own[:, 1:] - own[:, :-1]
    return torch.stack(
        [x[:, 2], y[:, 2], dx[:, 1], dy[:, 1], own[:, 2], moved[:, 1], moved[:, 0], y[:, 2] - own[:, 2]], dim=1
    )


PONG_C = f"""static void features(const obs_t *obs, float *f) {{
    float x[3], y[3], own[3];
    for (int t = 0; t < 3; t++) {{
        const obs_t *frame = obs + (t + 1) * 84 * 84;
        float mass = 0.0f, sx = 0.0f, sy = 0.0f, held = 0.0f, sown = 0.0f;
        for (int r = {TOP}; r < {BOTTOM}; r++)
            for (int c = {LEFT}; c < {RIGHT}; c++) {{
                float bright = (float)frame[r * 84 + c] - {GROUND}.0f;
                if (bright <= 0.0f) continue;
                if (c < {PADDLE}) {{ mass += bright; sx += bright * (float)c; sy += bright * (float)(r - {TOP}); }}
                else {{ held += bright; sown += bright * (float)(r - {TOP}); }}
            }}
        x[t] = mass > 0.0f ? sx / mass : -1.0f;
        y[t] = mass > 0.0f ? sy / mass : -1.0f;
        own[t] = held > 0.0f ? sown / held : -1.0f;
    }}
    int seen = x[1] >= 0.0f && x[2] >= 0.0f;
    f[0] = x[2]; f[1] = y[2];
    f[2] = seen ? x[2] - x[1] : 0.0f; f[3] = seen ? y[2] - y[1] : 0.0f;
    f[4] = own[2]; f[5] = own[2] - own[1]; f[6] = own[1] - own[0]; f[7] = y[2] - own[2];
}}
"""


@dataclass(frozen=True)
class Tree:
    """A binary tree: an inner node goes left where its feature is at most its threshold; a leaf has feature −1 and an
    action.

    Example::

        stump = Tree((2,), head, "raw", (0, -1, -1), (0.5, 0, 0), (1, 0, 0), (2, 0, 0), ((0,), (0,), (1,)))
        Policy(TreePolicy(stump), stump.head)
    """

    obs_shape: tuple[int, ...]
    """Shape of one observation."""
    head: Head
    """What its actions are."""
    extractor: str
    """``raw``: the observation itself; ``pong``: `pong_features`."""
    feature: tuple[int, ...]
    """Feature that each node looks at; −1 at a leaf."""
    threshold: tuple[float, ...]
    """What it is compared with."""
    left: tuple[int, ...]
    """Node where it is at most that."""
    right: tuple[int, ...]
    """Node where it is more."""
    value: tuple[tuple[float, ...], ...]
    """Greedy action of each node's examples, the index of each choice or real numbers; what counts is a leaf's."""

    def __post_init__(self) -> None:
        nodes = len(self.feature)
        lists = (self.threshold, self.left, self.right, self.value)
        if self.extractor not in ("raw", "pong") or any(len(one) != nodes for one in lists) or not nodes:
            raise SpecError(
                "The tree is damaged: its lists differ in length, or its extractor is neither raw nor pong."
            )
        wrong = self.obs_shape != PONG_FRAMES if self.extractor == "pong" else len(self.obs_shape) != 1
        wrong = wrong or math.prod(self.obs_shape) > LARGEST_OBSERVATION
        if wrong or nodes * self.head.width > MAX_TREE_NUMBERS:
            raise SpecError(
                f"The tree is damaged: its observations have shape {self.obs_shape!r:.80}, or {nodes} nodes of "
                f"{self.head.width} numbers are too many."
            )
        width = len(PONG) if self.extractor == "pong" else self.obs_shape[0]
        for node, feature in enumerate(self.feature):  # children come later, so that no walk is endless
            if not self.head.action.holds(self.value[node]) or feature >= width or feature < -1:
                raise SpecError(f"The tree is damaged: node {node} names a feature or an action that does not exist.")
            if not abs(self.threshold[node]) <= float(np.finfo(np.float32).max):
                raise SpecError(f"The tree is damaged: the threshold of node {node} is no number of 32 bits.")
            if feature >= 0 and not (node < self.left[node] < nodes and node < self.right[node] < nodes):
                raise SpecError(f"The tree is damaged: node {node} does not point forward.")
        inner = [node for node, feature in enumerate(self.feature) if feature >= 0]
        children = sorted(side[node] for node in inner for side in (self.left, self.right))
        if children != list(range(1, nodes)):  # what hangs from two is written down twice, and twice that below it
            raise SpecError("The tree is damaged: a node hangs from none or from several.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features."""
        return PONG if self.extractor == "pong" else tuple(f"obs[{i}]" for i in range(self.obs_shape[0]))

    @property
    def leaves(self) -> int:
        """Number of leaves."""
        return sum(feature < 0 for feature in self.feature)

    @property
    def depth(self) -> int:
        """Most comparisons of a decision."""
        depths = [0] * len(self.feature)
        for node, feature in enumerate(self.feature):
            if feature >= 0:
                depths[self.left[node]] = depths[self.right[node]] = depths[node] + 1
        return max(depths)

    @property
    def numbers(self) -> Tensor:
        """(nodes, P) numbers of the head of which each node's action is the greedy one."""
        return self.head.inverse(torch.tensor(self.value, dtype=torch.float32))

    def describe(self) -> str:
        """In few words, for example ``tree:16`` (leaves)."""
        return f"tree:{self.leaves}"


class TreePolicy(nn.Module):
    """Plays a tree: numbers of which the leaf's action is the greedy one.

    Example::

        actions, _ = Policy(TreePolicy(tree), tree.head).act(obs)
    """

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    numbers: Tensor

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.tensor(getattr(tree, name)))
        self.register_buffer("threshold", torch.tensor(tree.threshold, dtype=torch.float32))
        self.register_buffer("numbers", tree.numbers)
        self._depth = tree.depth

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to numbers (B, P)."""
        return self.numbers[self.leaf(self.features(obs))]

    def features(self, obs: Tensor) -> Tensor:
        """What the tree looks at, (B, F), of raw observations (B, *obs_shape)."""
        return features_of(obs, self.tree.extractor)

    def leaf(self, features: Tensor) -> Tensor:
        """Node (B,) at which features (B, F) end."""
        node = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        for _ in range(self._depth):
            feature = self.feature[node]
            value = features.gather(1, feature.clamp_min(0).unsqueeze(1)).squeeze(1)
            following = torch.where(value <= self.threshold[node], self.left[node], self.right[node])
            node = torch.where(feature < 0, node, following)
        return node


def features_of(obs: Tensor, extractor: str) -> Tensor:
    """What a tree of this extractor looks at, (B, F), of raw observations (B, *obs_shape)."""
    return pong_features(obs) if extractor == "pong" else obs.float()


FIELDS: dict[str, Any] = {
    "obs_shape": tuple[int, ...],
    "extractor": str,
    "feature": tuple[int, ...],
    "threshold": tuple[float, ...],
    "left": tuple[int, ...],
    "right": tuple[int, ...],
    "value": tuple[tuple[float, ...], ...],
}
"""Types of what a tree's file holds beside the head."""


def save_tree(path: Path, tree: Tree, **meta: Any) -> None:
    """Writes a tree as JSON.

    Example::

        save_tree(Path("tree.json"), tree, env="CartPole-v1")
    """
    write_json(path, {"format": "distilrl-tree", "version": 1, **meta, "tree": plain_tree(tree)})


def plain_tree(tree: Tree) -> dict[str, Any]:
    """A tree as plain data, as `tree_of` reads it."""
    data = {name: getattr(tree, name) for name in FIELDS} | {"head": tree.head.to_json()}
    if not tree.head.real:
        data["value"] = [[int(index) for index in row] for row in tree.value]
    return data


def load_tree(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Reads what `save_tree` wrote, and what else it was told.

    Raises:
        FileError: it is no tree, or damaged.

    Example::

        tree, about = load_tree(Path("runs/tree/tree.json"))
    """
    data = read_json(path, MAX_TREE_BYTES)
    if not isinstance(data, dict) or data.get("format") != "distilrl-tree":
        raise FileError(f"{path} is not a tree of distilrl: its field 'format' must be 'distilrl-tree'.")
    about = {k: v for k, v in data.items() if k not in ("format", "version", "tree")}
    return tree_of(data.get("tree"), path), about


def tree_of(data: Any, path: Path) -> Tree:
    """Reads back what `plain_tree` gave.

    Raises:
        FileError: it is no tree, or damaged; the message names the file.
    """
    if not isinstance(data, dict) or set(data) != {*FIELDS, "head"}:
        raise FileError(
            f"{path} is damaged: 'tree' must be an object of {', '.join((*FIELDS, 'head'))}; copy it again."
        )
    try:
        head = head_from_json(data["head"], "tree.head")
        return Tree(head=head, **{name: from_plain(kind, data[name], f"tree.{name}") for name, kind in FIELDS.items()})
    except SpecError as error:
        raise FileError(f"{path} is damaged, copy it again: {error}") from None


def action_text(tree: Tree, node: int, actions: Sequence[str] = ()) -> str:
    """A node's action as the environment takes it; its name where there is one choice and it has names."""
    row = tree.value[node]
    if actions and len(row) == 1 and not tree.head.real:
        return actions[int(row[0])]
    (taken,) = tree.head.action.for_env(np.asarray([row], tree.head.action.numpy))
    return ", ".join(f"{n:.4g}" if tree.head.real else str(n) for n in np.ravel(taken).tolist())


def _shortest(threshold: float) -> str:
    """The fewest digits that give back what C compares with."""
    return str(np.float32(threshold)).removesuffix(".0")


def as_text(tree: Tree, actions: Sequence[str] = (), features: Sequence[str] = ()) -> str:
    """The tree as nested questions.

    Args:
        tree: the tree.
        actions: names of the choices; numbers where there are none.
        features: names of the features; places in the observation where there are none.

    Example::

        print(as_text(tree, ["left", "right"]))
    """
    lines: list[str] = []
    names = features or tree.names
    waiting: list[tuple[int, int]] = [(0, 0)]  # a stack, since a tree may be deeper than Python can recurse
    while waiting:
        node, depth = waiting.pop()
        pad = "    " * depth
        if node < 0:  # the way back from what lies to the left of a question
            lines.append(f"{pad}else:")
        elif tree.feature[node] < 0:
            lines.append(f"{pad}{action_text(tree, node, actions)}")
        else:
            lines.append(f"{pad}if {names[tree.feature[node]]} <= {_shortest(tree.threshold[node])}:")
            waiting += [(tree.right[node], depth + 1), (-1, depth), (tree.left[node], depth + 1)]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """As it stands between quotation marks in Graphviz's language."""
    return text.replace("\\", "\\\\").replace('"', '\\"')


def as_graphviz(tree: Tree, actions: Sequence[str] = (), features: Sequence[str] = ()) -> str:
    """The tree in Graphviz's language: ``dot -Tsvg tree.dot``.

    Args:
        tree: the tree.
        actions: names of the choices; numbers where there are none.
        features: names of the features; places in the observation where there are none.

    Example::

        Path("tree.dot").write_text(as_graphviz(tree))
    """
    names = features or tree.names
    lines = ["digraph tree {", '    node [shape=box, fontname="sans-serif"];']
    for node, feature in enumerate(tree.feature):
        if feature < 0:
            lines.append(
                f'    n{node} [label="{_quoted(action_text(tree, node, actions))}", style=filled, fillcolor="#dcebf7"];'
            )
            continue
        at = tree.threshold[node]  # four digits are read at a glance, but part no years from each other
        limit = f"{at:.4g}" if abs(at) < 1_000 else _shortest(at)
        lines.append(f'    n{node} [label="{_quoted(names[feature])} <= {limit}"];')
        lines += [
            f'    n{node} -> n{tree.left[node]} [label="yes"];',
            f'    n{node} -> n{tree.right[node]} [label="no"];',
        ]
    return "\n".join([*lines, "}"]) + "\n"
