"""Decision trees in C: nested conditions, no arithmetic beyond what the features need."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distilrl.config import train_config
from distilrl.events import Watch, silent
from distilrl.export import c
from distilrl.export.card import card_of, comment_of, found_of, recorded, reference
from distilrl.export.keep import keep_export, own_place, write_c
from distilrl.export.last import Last, last_step, literals
from distilrl.export.replay import Recording
from distilrl.export.verifying import env_of
from distilrl.files import digest
from distilrl.played import SingleEpisodes
from distilrl.policies import Policy
from distilrl.results import Results
from distilrl.runs import RunFolder
from distilrl.sensors import EXACT
from distilrl.spaces import EnvRef, Excerpt, ObsSpec
from distilrl.trees import PONG, PONG_C, Tree, TreePolicy, load_tree

PLAYS = """#include "policy.h"
{extract}
static int decide(const float *f) {{
{tree}}}

{table}static int leaf_of({obs}) {{
{features}}}

{prototype} {{
{act}}}

void policy_values({obs}, float values[{width}]) {{
{values}}}
"""


def source(tree: Tree, obs: ObsSpec, comment: str) -> c.Source:
    """policy.h and policy.c of a tree: the conditions return the choice or, of other actions, a row of a table.

    Args:
        tree: the tree.
        obs: what it reads.
        comment: the first line of both files.

    Example::

        Path("policy.c").write_text(source(tree, info.obs, "my tree").code)
    """
    head, last = tree.head, last_step(tree.head)
    last.check_c()
    leaves = [node for node, feature in enumerate(tree.feature) if feature < 0]
    numbers = tree.numbers[leaves]
    actions = last.shifted(head.greedy(numbers).numpy())
    place = {node: int(actions[row, 0]) if last.scalar else row for row, node in enumerate(leaves)}
    pong = tree.extractor == "pong"
    features = (
        f"    float f[{len(PONG)}];\n    features(obs, f);\n    return decide(f);\n"
        if pong
        else "    return decide(obs);\n"
    )
    code = PLAYS.format(
        extract=PONG_C if pong else "",
        tree=("    (void)f;\n" if len(leaves) == 1 else "") + _conditions(tree, place),
        table=_tables(last, actions, numbers.numpy()),
        obs=c.declared(obs),
        features=features,
        prototype=last.prototype(c.declared(obs)),
        act=_act(last),
        width=head.width,
        values=_values(last, head.width, int(last.shifted(np.zeros((1, last.size), np.int64))[0, 0])),
    )
    weights = 0 if last.scalar else 4 * (actions.size + numbers.numel())
    return c.source(obs, last, comment, f"/* {comment} */\n{code}", 0, weights, head.width)


def _conditions(tree: Tree, place: dict[int, int]) -> str:
    """The tree as C conditions on an array ``f`` of features, each leaf returning its place. Of two sides the smaller
    stands in braces, so that they are nested no deeper than compilers take, whatever the tree's depth.
    """
    leaves = [1] * len(tree.feature)
    for node in reversed(range(len(leaves))):
        if tree.feature[node] >= 0:
            leaves[node] = leaves[tree.left[node]] + leaves[tree.right[node]]
    lines: list[str] = []
    waiting = [(0, 1)]
    while waiting:
        node, depth = waiting.pop()
        pad = "    " * depth
        if node < 0:  # the way back out of the braces
            lines.append(f"{pad}}}")
        elif tree.feature[node] < 0:
            lines.append(f"{pad}return {place[node]};")
        else:
            limit = literals(np.array([tree.threshold[node]], np.float32))
            test, sides = f"f[{tree.feature[node]}] <= {limit}", (tree.left[node], tree.right[node])
            if leaves[sides[0]] > leaves[sides[1]]:
                test, sides = f"!({test})", sides[::-1]  # not above: what is no number goes to the right
            lines.append(f"{pad}if ({test}) {{")
            waiting += [(sides[1], depth), (-1, depth), (sides[0], depth + 1)]
    return "\n".join(lines) + "\n"


def _of(tree: Tree, places: tuple[int, ...]) -> Tree:
    """The tree of observations that have these numbers alone; it asks about no others."""
    feature = tuple(places.index(one) if one >= 0 else one for one in tree.feature)
    return replace(tree, obs_shape=(len(places),), feature=feature)


def _tables(last: Last, actions: NDArray[Any], numbers: NDArray[np.float32]) -> str:
    """Actions and numbers of the leaves, where an action is more than one choice."""
    if last.scalar:
        return ""
    rows = literals(actions) if last.element == "float" else ",".join(map(str, actions.reshape(-1).tolist()))
    return (
        f"static const {last.element} actions[{len(actions)}][{last.size}] = {{{_braced(rows, last.size)}}};\n"
        f"static const float numbers[{len(numbers)}][{numbers.shape[1]}] = "
        f"{{{_braced(literals(numbers), numbers.shape[1])}}};\n\n"
    )


def _braced(row: str, size: int) -> str:
    """Numbers with commas as rows in braces."""
    parts = row.split(",")
    return ",".join(f"{{{','.join(parts[i : i + size])}}}" for i in range(0, len(parts), size))


def _act(last: Last) -> str:
    if last.scalar:
        return "    return leaf_of(obs);\n"
    return f"    int leaf = leaf_of(obs);\n    for (int i = 0; i < {last.size}; i++) action[i] = actions[leaf][i];\n"


def _values(last: Last, width: int, start: int) -> str:
    """One for the action of one choice and zero for the others, or the leaf's numbers."""
    if not last.scalar:
        return f"    int leaf = leaf_of(obs);\n    for (int i = 0; i < {width}; i++) values[i] = numbers[leaf][i];\n"
    place = f"leaf_of(obs) - ({start})" if start else "leaf_of(obs)"
    return f"    for (int i = 0; i < {width}; i++) values[i] = 0.0f;\n    values[{place}] = 1.0f;\n"


def export_tree(
    folder: RunFolder,
    out: Path | None = None,
    env: EnvRef | None = None,
    watch: Watch = silent,
    *,
    found: tuple[Results, SingleEpisodes] | None = None,
) -> dict[str, Any]:
    """Writes the tree of a run folder as C, replayed like any other export.

    Args:
        folder: the run's.
        out: folder to write; the run's own ``export/c`` by default.
        env: environment; the tree's own by default.
        watch: told as the work goes on.
        found: what the run found of it; what its folder says by default.

    Raises:
        FileError: the tree is damaged or of another environment, or the folder cannot be written.
    """
    tree, about = load_tree(folder.tree)
    info, sha256 = env_of(about, tree.obs_shape, tree.head, folder.tree, env), digest(folder.tree)
    found = found or found_of(folder, sha256, folder.tree)
    student = train_config(folder).student if folder.config.is_file() else None
    sensors = student.sensors if student is not None else EXACT
    seen = recorded(Policy(TreePolicy(tree), tree.head), info.ref, watch, sensors=sensors)
    # -- the file is given what the tree may see
    reads = None
    if student is not None and student.hidden_features and info.obs.image is None:
        places = tuple(place for place in range(info.obs.shape[0]) if place not in student.hidden_features)
        reads = Excerpt(places, info.obs.part(places))
        tree, seen = _of(tree, places), Recording(reads.of(seen.obs), seen.begins)
    policy = Policy(TreePolicy(tree), tree.head)
    card = card_of("c", info, tree.head, tree.describe(), len(tree.feature), sha256, sensors=sensors, reads=reads)
    if found is not None:
        card |= reference(*found)
    written = source(tree, info.obs if reads is None else reads.spec, comment_of(card, info))
    card |= {"scratch_bytes": 0, "weight_bytes": written.weight_bytes}

    def write(part: Path) -> list[str]:
        write_c(part, written)
        return ["policy.c"]

    return keep_export(out or own_place(folder, "c"), policy, seen, card, write, watch, env=info.ref)
