"""Decision trees in C: nested conditions, no arithmetic beyond what the features need."""

from pathlib import Path
from typing import Any

from distilrl.envs import EnvInfo
from distilrl.evaluate import Tell
from distilrl.export import FORMAT, c, keep_export, own_place, recorded, reference, write_c
from distilrl.runs import RunFolder
from distilrl.trees import PONG, PONG_C, Tree, TreePolicy, as_c

HEAD = """#include "policy.h"
{extract}
static int decide(const float *f) {{
{tree}}}

int policy_act(const obs_t *obs) {{
{act}}}

void policy_values(const obs_t *obs, float *values) {{
    for (int a = 0; a < POLICY_ACTIONS; a++) values[a] = 0.0f;
    values[policy_act(obs)] = 1.0f;
}}
"""


def source(tree: Tree, comment: str) -> c.Source:
    """policy.h and policy.c of a tree."""
    pixels = tree.extractor == "pong"
    size = 4 * 84 * 84 if pixels else tree.obs_shape[0]
    act = f"    float f[{len(PONG)}];\n    features(obs, f);\n    return decide(f);\n" if pixels else "    return decide(obs);\n"
    code = f"/* {comment} */\n" + HEAD.format(extract=PONG_C if pixels else "", tree=as_c(tree), act=act)
    return c.Source(c.header(size, tree.n_actions, pixels, comment, 0, 0), code, 0, 0)


def export_tree(
    tree: Tree, folder: RunFolder, info: EnvInfo, sha256: str, results: dict[str, Any], episodes: dict[str, Any], tell: Tell
) -> dict[str, Any]:
    """Writes ``export/c`` of a run folder, replayed like any other export."""
    policy = TreePolicy(tree)
    card: dict[str, Any] = {
        "format": FORMAT, "target": "c", "env": info.id, "obs_shape": list(info.obs_shape), "n_actions": info.n_actions,
        "network": tree.describe(), "params": len(tree.feature), "student_sha256": sha256,
        "scratch_bytes": 0, "weight_bytes": 0,
        **reference(results, episodes),
    }  # fmt: skip
    written = source(tree, f"{tree.describe()} for {info.id}, {sha256[:12]}, written by distilrl")

    def write(part: Path) -> list[str]:
        write_c(part, written)
        return ["policy.c"]

    return keep_export(own_place(folder, "c"), policy, recorded(policy, info.id, tell), card, write, tell)
