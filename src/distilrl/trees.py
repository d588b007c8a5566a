"""Decision trees as policies: plain data, a torch module that plays, and text, Graphviz and C of the same tree."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distilrl.checkpoints import read_json, write_json
from distilrl.errors import FileError, SpecError

PONG = ("ball_x", "ball_y", "ball_dx", "ball_dy", "paddle_y", "paddle_dy", "paddle_dy_before", "offset")
"""Features of Pong's frames, in pixels and pixels a step; ``offset`` is ball_y − paddle_y, positive where the ball is below."""
TOP, BOTTOM, LEFT, PADDLE, RIGHT, GROUND = 14, 77, 11, 73, 79, 87
"""Rows of the field, columns of the space between the paddles and of one's own, grey of the ground."""


def pong_features(obs: Tensor) -> Tensor:
    """Ball and paddle from stacks (B, 4, 84, 84) of Pong's frames, (B, 8), as `PONG` names them.

    The ball is the centre of what is brighter than the ground between the paddles, the paddle that of what is in its columns. Where the
    ball is out of sight, its place is −1 and its speed 0.
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
    return torch.stack([x[:, 2], y[:, 2], dx[:, 1], dy[:, 1], own[:, 2], moved[:, 1], moved[:, 0], y[:, 2] - own[:, 2]], dim=1)


PONG_C = f"""static void features(const obs_t *obs, float *f) {{
    float x[3], y[3], own[3];
    for (int t = 0; t < 3; t++) {{
        const obs_t *frame = obs + (t + 1) * 84 * 84;
        float mass = 0.0f, sx = 0.0f, sy = 0.0f, held = 0.0f, sown = 0.0f;
        for (int r = {TOP}; r < {BOTTOM}; r++)
            for (int c = {LEFT}; c < {RIGHT}; c++) {{
                int bright = frame[r * 84 + c] - {GROUND};
                if (bright <= 0) continue;
                if (c < {PADDLE}) {{ mass += bright; sx += (float)bright * c; sy += (float)bright * (r - {TOP}); }}
                else {{ held += bright; sown += (float)bright * (r - {TOP}); }}
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
    """A binary tree: an inner node goes left where its feature is at most its threshold; a leaf has feature −1 and an action."""

    obs_shape: tuple[int, ...]
    """Shape of one observation."""
    n_actions: int
    """Number of actions A."""
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
    action: tuple[int, ...]
    """Greedy action of each node's examples; what counts is a leaf's."""

    def __post_init__(self) -> None:
        nodes = len(self.feature)
        lists = (self.threshold, self.left, self.right, self.action)
        if self.extractor not in ("raw", "pong") or any(len(one) != nodes for one in lists) or not nodes:
            raise SpecError("The tree is damaged: its lists differ in length, or its extractor is neither raw nor pong.")
        width = len(self.names)
        for node, feature in enumerate(self.feature):  # children come later, so that no walk is endless
            inner = feature >= 0
            if not 0 <= self.action[node] < self.n_actions or feature >= width or feature < -1:
                raise SpecError(f"The tree is damaged: node {node} names a feature or an action that does not exist.")
            if inner and not (node < self.left[node] < nodes and node < self.right[node] < nodes):
                raise SpecError(f"The tree is damaged: node {node} does not point forward.")

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

    def describe(self) -> str:
        """In few words, for example ``tree:16`` (leaves)."""
        return f"tree:{self.leaves}"


class TreePolicy(nn.Module):
    """Plays a tree: action values are 1 for its action and 0 for the others."""

    feature: Tensor
    threshold: Tensor
    left: Tensor
    right: Tensor
    action: Tensor

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self.tree = tree
        for name in ("feature", "left", "right", "action"):
            self.register_buffer(name, torch.tensor(getattr(tree, name)))
        self.register_buffer("threshold", torch.tensor(tree.threshold))

    def forward(self, obs: Tensor) -> Tensor:
        """Raw observations (B, *obs_shape) to values (B, A)."""
        action = self.action[self.leaf(pong_features(obs) if self.tree.extractor == "pong" else obs.float())]
        return nn.functional.one_hot(action, self.tree.n_actions).float()

    def leaf(self, features: Tensor) -> Tensor:
        """Node (B,) at which features (B, F) end."""
        node = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        for _ in range(self.tree.depth):
            feature = self.feature[node]
            value = features.gather(1, feature.clamp_min(0).unsqueeze(1)).squeeze(1)
            following = torch.where(value <= self.threshold[node], self.left[node], self.right[node])
            node = torch.where(feature < 0, node, following)
        return node


def save_tree(path: Path, tree: Tree, **meta: Any) -> None:
    """Writes a tree as JSON."""
    write_json(path, {"format": "distilrl-tree", "version": 1, **meta, "tree": asdict(tree)})


def load_tree(path: Path) -> tuple[Tree, dict[str, Any]]:
    """Reads what `save_tree` wrote, and what else it was told.

    Raises:
        FileError: it is no tree.
        SpecError: it is damaged.
    """
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != "distilrl-tree":
        raise FileError(f"{path} is not a tree of distilrl: its field 'format' must be 'distilrl-tree'.")
    try:
        own = data["tree"]
        tree = Tree(
            tuple(int(n) for n in own["obs_shape"]), int(own["n_actions"]), str(own["extractor"]), tuple(int(n) for n in own["feature"]),
            tuple(float(n) for n in own["threshold"]), *(tuple(int(n) for n in own[name]) for name in ("left", "right", "action")),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path} is damaged ({error}): copy it again.") from None
    return tree, {k: v for k, v in data.items() if k not in ("format", "version", "tree")}


def as_text(tree: Tree, actions: list[str], node: int = 0, depth: int = 0) -> str:
    """The tree as nested questions."""
    pad = "    " * depth
    if tree.feature[node] < 0:
        return f"{pad}{actions[tree.action[node]]}\n"
    below, above = (as_text(tree, actions, side[node], depth + 1) for side in (tree.left, tree.right))
    return f"{pad}if {tree.names[tree.feature[node]]} <= {tree.threshold[node]:.6g}:\n{below}{pad}else:\n{above}"


def as_graphviz(tree: Tree, actions: list[str]) -> str:
    """The tree in Graphviz's language: ``dot -Tsvg tree.dot``."""
    lines = ["digraph tree {", '    node [shape=box, fontname="sans-serif"];']
    for node, feature in enumerate(tree.feature):
        if feature < 0:
            lines.append(f'    n{node} [label="{actions[tree.action[node]]}", style=filled, fillcolor="#dcebf7"];')
            continue
        lines.append(f'    n{node} [label="{tree.names[feature]} <= {tree.threshold[node]:.4g}"];')
        lines += [f'    n{node} -> n{tree.left[node]} [label="yes"];', f'    n{node} -> n{tree.right[node]} [label="no"];']
    return "\n".join([*lines, "}"]) + "\n"


def as_c(tree: Tree, node: int = 0, depth: int = 1) -> str:
    """The tree as nested C conditions on an array ``f`` of features."""
    pad = "    " * depth
    if tree.feature[node] < 0:
        return f"{pad}return {tree.action[node]};\n"
    below, above = (as_c(tree, side[node], depth + 1) for side in (tree.left, tree.right))
    return f"{pad}if (f[{tree.feature[node]}] <= {_float(tree.threshold[node])}) {{\n{below}{pad}}} else {{\n{above}{pad}}}\n"


def _float(value: float) -> str:
    """A float literal of C that reads back as the same number."""
    text = f"{value:.9g}"
    return f"{text if any(c in text for c in '.en') else text + '.0'}f"
