"""Decision trees: grown from a teacher, the same in torch, C, text and Graphviz."""

import ctypes
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ROOT, SIGN, sign_network
from test_train import small

from distilrl import viper
from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.distill import Job, make_config
from distilrl.errors import FileError, SpecError
from distilrl.evaluate import Comparison, Play, play
from distilrl.export.replay import Library
from distilrl.export.tree import source
from distilrl.runs import read_metrics
from distilrl.teachers import load_teacher
from distilrl.trees import PONG, Tree, TreePolicy, as_graphviz, as_text, load_tree, pong_features, save_tree
from distilrl.viper import TreeConfig, distill_tree

STUMP = Tree((2,), 2, "raw", (0, -1, -1), (0.0, 0.0, 0.0), (1, 0, 0), (2, 0, 0), (0, 0, 1))
DEEP = Tree((2,), 3, "raw", (1, -1, 0, -1, -1), (0.5, 0, -1.25, 0, 0), (1, 0, 3, 0, 0), (2, 0, 4, 0, 0), (0, 2, 0, 0, 1))


def test_a_tree_decides_as_it_reads():
    obs = torch.tensor([[0.0, 0.0], [-3.0, 1.0], [0.0, 0.6], [-1.25, 0.5001]])
    assert TreePolicy(DEEP)(obs).argmax(1).tolist() == [2, 0, 1, 0]
    assert (DEEP.leaves, DEEP.depth, DEEP.describe()) == (3, 2, "tree:3")
    assert as_text(DEEP, ["a", "b", "c"]) == ("if obs[1] <= 0.5:\n    c\nelse:\n    if obs[0] <= -1.25:\n        a\n    else:\n        b\n")
    assert as_graphviz(DEEP, ["a", "b", "c"]).count("->") == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"left": (0, 0, 0)},
        {"feature": (5, -1, -1)},
        {"action": (0, 0, 7)},
        {"threshold": (0.0,)},
        {"extractor": "mind"},
        {"right": (9, 0, 0)},
    ],
)
def test_damaged_trees_are_refused(wrong):
    with pytest.raises(SpecError, match="damaged"):
        replace(STUMP, **wrong)


def test_a_tree_survives_its_file(tmp_path):
    save_tree(tmp_path / "tree.json", DEEP, env="x")
    assert load_tree(tmp_path / "tree.json") == (DEEP, {"env": "x"})
    (tmp_path / "tree.json").write_text("{}")
    with pytest.raises(FileError, match="not a tree"):
        load_tree(tmp_path / "tree.json")
    (tmp_path / "tree.json").write_text(json.dumps({"format": "distilrl-tree", "tree": {"obs_shape": [2]}}))
    with pytest.raises(FileError, match="damaged"):
        load_tree(tmp_path / "tree.json")


def frames(ball, paddle):
    """A stack of Pong's frames with ball and paddle at these places, (row, column) and row."""
    obs = np.full((4, 84, 84), 87, np.uint8)
    obs[:, :14] = obs[:, 77:] = 236
    for frame, ((row, column), own) in enumerate(zip(ball, paddle, strict=True)):
        obs[frame, 30:40, 7:10] = 124
        if row >= 0:
            obs[frame, row : row + 2, column : column + 1] = 236
        obs[frame, own : own + 10, 74:77] = 147
    return obs


def test_pongs_features_are_where_things_are():
    obs = frames([(20, 30), (20, 30), (22, 34), (26, 40)], [40, 40, 41, 45])
    found = dict(zip(PONG, pong_features(torch.from_numpy(obs[None]))[0].tolist(), strict=True))
    assert found == pytest.approx(
        {
            "ball_x": 40, "ball_y": 26.5 - 14, "ball_dx": 6, "ball_dy": 4, "paddle_y": 49.5 - 14, "paddle_dy": 4, "paddle_dy_before": 1,
            "offset": 26.5 - 49.5,
        }, abs=1e-4,
    )  # fmt: skip
    away = frames([(20, 30), (20, 30), (22, 34), (-1, 0)], [40] * 4)
    found = dict(zip(PONG, pong_features(torch.from_numpy(away[None]))[0].tolist(), strict=True))
    assert (found["ball_x"], found["ball_y"], found["ball_dx"], found["ball_dy"]) == (-1, -1, 0, 0)


def test_c_decides_as_torch_does_in_real_frames(tmp_path):
    teacher = load_teacher(ROOT / "zoo" / "pong-dqn")
    states = play(teacher.action_values, Play("PongNoFrameskip-v4", epsilon=0.2, keep_states=200, max_steps=200), [1, 2]).states
    middle = pong_features(torch.from_numpy(states)).median(0).values
    for feature, name in enumerate(PONG):
        tree = Tree((4, 84, 84), 6, "pong", (feature, -1, -1), (float(middle[feature]), 0.0, 0.0), (1, 0, 0), (2, 0, 0), (0, 3, 5))
        (tmp_path / "policy.h").write_text(source(tree, name).header)
        (tmp_path / "policy.c").write_text(source(tree, name).code)
        act = Library(tmp_path / "policy.c").handle.policy_act
        ours = [act(ctypes.c_void_p(np.ascontiguousarray(obs).ctypes.data)) for obs in states]
        assert ours == TreePolicy(tree)(torch.from_numpy(states)).argmax(1).tolist(), name


def test_from_teacher_to_tree(tmp_path, capsys):
    save_network(tmp_path / "teacher", sign_network(), name="teacher")
    out = tmp_path / "tree"
    command = ["tree", "--teacher", str(tmp_path / "teacher"), "--env", SIGN, "--out", str(out), "--leaves", "4", "--iterations", "4"]
    assert main([*command, "--states", "400", "--episodes", "20", "--disturbed-episodes", "5"]) == 0
    assert "verdict: pass" in capsys.readouterr().err
    results = json.loads((out / "results.json").read_text())
    assert results["student"]["name"].startswith("tree:")
    assert "obs[0] <=" in (out / "tree.txt").read_text()
    assert main(["evaluate", str(out), "--env", SIGN, "--episodes", "10"]) == 0
    assert main(["verify", str(out / "export" / "c")]) == 0
    assert "Pass." in (out / "report.html").read_text(encoding="utf-8")
    # a tree teaches too
    assert main(["distill", "--teacher", str(out), "--env", SIGN, "--student", "mlp:4", "--steps", "4000", "--episodes", "20",
                 "--disturbed-episodes", "0", "--threads", "1", "--out", str(tmp_path / "run")]) == 0  # fmt: skip


def test_questions_with_one_answer_are_left_out(sign_teacher, tmp_path):
    job = Job(small("distil"), Comparison(20, 40, 0))
    results = distill_tree(sign_teacher, job, tmp_path / "tree", TreeConfig(leaves=40, iterations=2, states=400))
    tree, _ = load_tree(tmp_path / "tree" / "tree.json")
    pairs = [(tree.left[n], tree.right[n]) for n, f in enumerate(tree.feature) if f >= 0]
    assert all(tree.feature[a] >= 0 or tree.feature[b] >= 0 or tree.action[a] != tree.action[b] for a, b in pairs)
    assert results["student"]["params"] == len(tree.feature)


def test_trees_ask_for_what_they_need(sign_teacher, tmp_path, monkeypatch):
    job = Job(small("distil"), Comparison(20, 40, 0))
    with pytest.raises(SpecError, match="leave the extractor"):
        distill_tree(sign_teacher, job, tmp_path / "tree", TreeConfig(extractor="pong"))
    pong = Job(make_config("distil", "PongNoFrameskip-v4", threads=1), Comparison(2, 2, 0))
    with pytest.raises(SpecError, match="made for Pong"):
        distill_tree(load_teacher(ROOT / "zoo" / "pong-dqn"), pong, tmp_path / "tree")
    for wrong in ({"leaves": 1}, {"states": 0}, {"extractor": "mind"}):
        with pytest.raises(SpecError):
            TreeConfig(**wrong)
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    assert not (tmp_path / "tree").exists()


def test_playing_is_no_training_time(sign_teacher, tmp_path, monkeypatch):
    """Each round's check is left out once: with slow checks the time would fall below 0, or grow by them."""
    now = [0.0]

    def slow(*args, **kwargs):
        now[0] += 100.0
        return play(*args, **kwargs)

    monkeypatch.setattr(viper, "play", slow)
    monkeypatch.setattr(viper.time, "perf_counter", lambda: now[0])
    distill_tree(sign_teacher, Job(small("distil"), Comparison(20, 40, 0)), tmp_path / "tree", TreeConfig(4, 3, states=80))
    assert [float(row["train_s"]) for row in read_metrics(tmp_path / "tree" / "metrics.csv")] == [0.0, 0.0, 0.0]
