"""Decision trees: grown from a teacher, the same in torch, C, text and Graphviz."""

import ctypes
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import ROOT, SIGN, Killed, SignEnv, killed_at
from test_boards import STRICT
from test_export import needs_cc
from tiny_envs import LINEAR, MOVED, PAIR, linear_teacher, pair_teacher, tiny_config, tiny_job

from distilrl import viper
from distilrl.comparison import Comparison
from distilrl.config import TaskFile
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import FileError, ResumeError, SpecError
from distilrl.evaluate import play
from distilrl.events import Check, Resumed, Step
from distilrl.export import export_policy
from distilrl.export.keep import write_c
from distilrl.export.replay import Library, open_export
from distilrl.export.tree import source
from distilrl.export.verifying import verify
from distilrl.files import read_json
from distilrl.heads import head_for, student_head
from distilrl.jobs import Job
from distilrl.metrics import read_metrics
from distilrl.policies import Policy
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.teachers import Teacher, TeacherFile, load_teacher
from distilrl.teaching import evaluate_policy
from distilrl.trees import PONG, Tree, TreePolicy, as_graphviz, as_text, load_tree, pong_features, save_tree
from distilrl.viper import TreeConfig, distill_tree, fit


class FramesEnv(gymnasium.Env):
    """Images that are not Pong's."""

    observation_space = gymnasium.spaces.Box(0, 255, (10, 10, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._seen(), {}

    def step(self, action):
        self.steps += 1
        return self._seen(), float(action), self.steps == 5, False, {}

    def _seen(self):
        return self.np_random.integers(0, 256, self.observation_space.shape, np.uint8)


class BesideEnv(FramesEnv):
    """An image beside a vector."""

    observation_space = gymnasium.spaces.Dict(
        i=gymnasium.spaces.Box(0, 255, (8, 8, 1), np.uint8), v=gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    )

    def _seen(self):
        image = self.np_random.integers(0, 256, (8, 8, 1), np.uint8)
        return {"i": image, "v": self.np_random.uniform(-1, 1, 2).astype(np.float32)}


for env in (FramesEnv, BesideEnv):
    gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env)

TWO, THREE = student_head(Choices((2,))), student_head(Choices((3,)))
REAL = student_head(Bounds((-1.0, -2.0), (1.0, 2.0)))
PAIRS = student_head(Choices((2, 3), (5, -1), "MultiDiscrete", (2,)))
SPLITS = ((0, -1, -1), (0.0, 0.0, 0.0), (1, 0, 0), (2, 0, 0))
STUMP = Tree((2,), TWO, "raw", *SPLITS, ((0,), (0,), (1,)))
DEEP = Tree(
    (2,), THREE, "raw", (1, -1, 0, -1, -1), (0.5, 0, -1.25, 0, 0), (1, 0, 3, 0, 0), (2, 0, 4, 0, 0),
    ((0,), (2,), (0,), (0,), (1,))
)  # fmt: skip
SLOPED = Tree((2,), REAL, "raw", *SPLITS, ((0.0, 0.0), (-0.25, 2.0), (0.3333, 1e-7)))


def test_a_tree_decides_as_it_reads():
    obs = torch.tensor([[0.0, 0.0], [-3.0, 1.0], [0.0, 0.6], [-1.25, 0.5001]])
    actions, _ = Policy(TreePolicy(DEEP), DEEP.head).act(obs)
    assert actions[:, 0].tolist() == [2, 0, 1, 0]
    assert (DEEP.leaves, DEEP.depth, DEEP.describe()) == (3, 2, "tree:3")
    assert as_text(DEEP, ["a", "b", "c"]) == (
        "if obs[1] <= 0.5:\n    c\nelse:\n    if obs[0] <= -1.25:\n        a\n    else:\n        b\n"
    )
    assert as_text(STUMP, features=["x", "y"]) == "if x <= 0:\n    0\nelse:\n    1\n"
    years = replace(STUMP, threshold=(2013.5, 0.0, 0.0))
    assert "<= 2013.5" in as_graphviz(years)
    assert "if obs[0] <= 200013.5:" in as_text(replace(STUMP, threshold=(200013.5, 0.0, 0.0)))
    assert "if obs[0] <= 0.12345679:" in as_text(replace(STUMP, threshold=(0.123456789, 0.0, 0.0)))
    assert as_graphviz(DEEP, ["a", "b", "c"]).count("->") == 4
    quoted = as_graphviz(STUMP, ['turn "left"', "b"], ['a\\b["x"]', "y"])
    assert 'label="turn \\"left\\""' in quoted
    assert 'label="a\\\\b[\\"x\\"] <= 0"' in quoted


@pytest.mark.parametrize("squash", ["clip", "tanh"])
def test_leaves_may_be_real_actions(squash):
    tree = replace(SLOPED, head=head_for(REAL.action, "mean", squash))
    actions, _ = Policy(TreePolicy(tree), tree.head).act(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(actions, torch.tensor([[-0.25, 2.0], [0.3333, 0.0]]), atol=1e-4, rtol=0)
    assert as_text(tree) == "if obs[0] <= 0:\n    -0.25, 2\nelse:\n    0.3333, 1e-07\n"


def test_leaves_may_be_several_choices_and_are_said_as_the_environment_counts():
    tree = Tree((2,), PAIRS, "raw", *SPLITS, ((0, 0), (1, 0), (0, 2)))
    actions, _ = Policy(TreePolicy(tree), PAIRS).act(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert actions.tolist() == [[1, 0], [0, 2]]
    assert as_text(tree).split("\n")[1::2] == ["    6, -1", "    5, 1"]
    assert 'label="6, -1"' in as_graphviz(tree)


@pytest.mark.parametrize(
    "wrong",
    [
        {"left": (0, 0, 0)},
        {"feature": (5, -1, -1)},
        {"value": ((0,), (0,), (7,))},
        {"value": ((0,), (0,), (0.5,))},
        {"value": ((0,), (0,), (float("nan"),))},
        {"value": ((0,), (0,), (0, 0))},
        {"head": REAL, "value": ((0.0, 0.0), (0.0, float("inf")), (0.0, 0.0))},
        {"threshold": (0.0,)},
        {"threshold": (float("nan"), 0.0, 0.0)},
        {"threshold": (1e300, 0.0, 0.0)},
        {"extractor": "mind"},
        {"extractor": "pong"},
        {"extractor": "pong", "obs_shape": (84, 84, 3)},
        {"obs_shape": (2, 2)},
        {"head": student_head(Choices((1 << 40,)))},
        {"right": (9, 0, 0)},
        {"right": (1, 0, 0)},
    ],
)
def test_damaged_trees_are_refused(wrong):
    with pytest.raises(SpecError, match="damaged"):
        replace(STUMP, **wrong)


@pytest.mark.parametrize("tree", [DEEP, SLOPED, Tree((2,), PAIRS, "raw", *SPLITS, ((0, 0), (1, 0), (0, 2)))])
def test_a_tree_survives_its_file(tmp_path, tree):
    save_tree(tmp_path / "tree.json", tree, env="x")
    assert load_tree(tmp_path / "tree.json") == (tree, {"env": "x"})
    teacher = load_teacher(TeacherFile(str(tmp_path)))
    obs = torch.randn(9, 2)
    assert torch.equal(teacher.policy.act(obs)[0], Policy(TreePolicy(tree), tree.head).act(obs)[0])
    assert teacher.head == tree.head


def test_damaged_files_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text("{}")
    with pytest.raises(FileError, match="not a tree"):
        load_tree(path)
    save_tree(path, DEEP)
    good = json.loads(path.read_text())
    for wrong, what in [
        ({"obs_shape": ["2"]}, "whole number"),
        ({"feature": [1.5, -1, 0, -1, -1]}, r"tree.feature\[0\]"),
        ({"head": {"kind": "mind"}}, "tree.head"),
        ({"value": [[9]] * 5}, "does not exist"),
        ({"threshold": ["inf"] * 5}, "threshold"),
        ({"more": 1}, "must be an object of"),
    ]:
        path.write_text(json.dumps(good | {"tree": good["tree"] | wrong}))
        with pytest.raises(FileError, match=what):
            load_tree(path)


@needs_cc
@pytest.mark.parametrize("turned", [False, True])
def test_c_of_a_tree_is_nested_no_deeper_than_compilers_take(tmp_path, turned):
    """A chain of questions, to either side."""
    count = 600
    feature, limits, left, right, value = [], [], [], [], []
    for n in range(count):
        feature, limits, value = (
            [*feature, 0, -1],
            [*limits, float(count - n if turned else n), 0.0],
            [*value, 0, n % 2],
        )
        on, leaf = [2 * n + 2, 0], [2 * n + 1, 0]
        left, right = left + (on if turned else leaf), right + (leaf if turned else on)
    chain = Tree(
        (1,), TWO, "raw", (*feature, -1), (*limits, 0.0), (*left, 0), (*right, 0), tuple((one,) for one in (*value, 1))
    )
    obs = np.append(np.linspace(-2.0, count + 2.0, 500), np.nan).astype(np.float32)[:, None]
    write_c(tmp_path, source(chain, ObsSpec((1,)), "chain"))
    answers = open_export(tmp_path / "policy.c", TWO, 1)(obs)
    assert answers.actions.tolist() == Policy(TreePolicy(chain), TWO).act(torch.from_numpy(obs))[0].tolist()
    deepest = max(len(line) - len(line.lstrip()) for line in (tmp_path / "policy.c").read_text().splitlines())
    assert deepest <= 12


def test_a_tree_may_be_deeper_than_python_recurses():
    count = 3000
    feature, left, right = [], [], []
    for n in range(count):
        feature += [0, -1]
        left, right = [*left, 2 * n + 1, 0], [*right, 2 * n + 2, 0]
    tree = Tree(
        (2,), TWO, "raw", (*feature, -1), (0.0,) * (2 * count + 1), (*left, 0), (*right, 0), ((0,),) * (2 * count + 1)
    )
    assert as_text(tree).count("else") == count


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
            "ball_x": 40, "ball_y": 26.5 - 14, "ball_dx": 6, "ball_dy": 4, "paddle_y": 49.5 - 14, "paddle_dy": 4,
            "paddle_dy_before": 1, "offset": 26.5 - 49.5,
        }, abs=1e-4,
    )  # fmt: skip
    away = frames([(20, 30), (20, 30), (22, 34), (-1, 0)], [40] * 4)
    found = dict(zip(PONG, pong_features(torch.from_numpy(away[None]))[0].tolist(), strict=True))
    assert (found["ball_x"], found["ball_y"], found["ball_dx"], found["ball_dy"]) == (-1, -1, 0, 0)


def test_c_decides_as_torch_does_in_real_frames(tmp_path):
    env = EnvRef("PongNoFrameskip-v4")
    info = describe_env(env)
    head = student_head(info.action)
    anybody = Policy(torch.nn.Flatten(), head)
    states = play(anybody, Play(env, epsilon=1.0, keep_states=200, max_steps=200), [1, 2]).states
    middle = pong_features(torch.from_numpy(states)).median(0).values
    for feature, name in enumerate(PONG):
        splits = ((feature, -1, -1), (float(middle[feature]), 0.0, 0.0), (1, 0, 0), (2, 0, 0))
        tree = Tree((4, 84, 84), head, "pong", *splits, ((0,), (3,), (5,)))
        write_c(tmp_path, source(tree, info.obs, name))
        act = Library(tmp_path / "policy.c").handle.policy_act
        ours = [act(ctypes.c_void_p(np.ascontiguousarray(obs).ctypes.data)) for obs in states]
        assert ours == Policy(TreePolicy(tree), head).act(torch.from_numpy(states))[0][:, 0].tolist(), name


def test_splits_are_those_of_scikit_learn_to_the_last_float():
    """A threshold between two neighbouring floats must not move past either when it becomes a float itself."""
    x = np.float32(16777215.0)
    features = np.array([[x], [np.nextafter(x, np.float32(np.inf))]] * 8, np.float32)
    actions = np.array([[0], [1]] * 8)
    tree = fit(features, actions, np.ones(16, np.float32), TWO, (1,), "raw", 2, 0)
    chosen, _ = Policy(TreePolicy(tree), TWO).act(torch.from_numpy(features))
    assert chosen.tolist() == actions.tolist()


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-6, 1.0, 1e9, 1e37])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_numbers_of_any_scale_are_split(scale, offset):
    """Those that lie within 1e-7 of each other were taken for equal, and the tree was one leaf."""
    features = np.random.default_rng(0).uniform(-1, 1, (400, 2)).astype(np.float32)
    seen = (features + np.float32(offset)) * np.float32(scale)
    actions = (features[:, :1] > 0).astype(np.int64)
    tree = fit(seen, actions, np.ones(400, np.float32), TWO, (2,), "raw", 8, 0)
    assert (tree.leaves, tree.feature[0]) == (2, 0)
    assert tree.threshold[0] / scale == pytest.approx(offset, abs=0.02)
    chosen, _ = Policy(TreePolicy(tree), TWO).act(torch.from_numpy(seen))
    assert chosen.tolist() == actions.tolist()


def test_more_leaves_than_states_are_no_more_memory():
    features = np.random.default_rng(0).uniform(-1, 1, (50, 2)).astype(np.float32)
    actions = (features[:, :1] > 0).astype(np.int64)
    assert fit(features, actions, np.ones(50, np.float32), TWO, (2,), "raw", 10**20, 0).leaves == 2


def test_real_actions_are_fitted_in_half_ranges_and_by_weight():
    """The one question goes to the dimension that is wrong by more of its range; weights decide what a leaf says."""
    rng = np.random.default_rng(0)
    features = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    head = student_head(Bounds((-1.0, -1000.0), (1.0, 1000.0)))
    actions = np.where(features > 0, 1, -1) * np.array([0.9, 500.0])
    tree = fit(features, actions.astype(np.float32), np.ones(400, np.float32), head, (2,), "raw", 2, 0)
    assert tree.feature[0] == 0
    weight = np.where(actions[:, 1] > 0, 1e6, 1.0).astype(np.float32)
    tree = fit(features, actions.astype(np.float32), weight, head, (2,), "raw", 2, 0)
    assert min(row[1] for row in tree.value) > 499


def test_a_tree_without_a_compiler_is_refused_before_it_grows(sign_teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(FileError, match="there is no C compiler"):
        distill_tree(sign_teacher, Job(tiny_config()), tmp_path / "tree", report=False)
    assert not (tmp_path / "tree").exists()


def test_from_teacher_to_tree(sign_teacher, tmp_path):
    events = []
    out = tmp_path / "tree"
    job = Job(tiny_config(), Comparison(200, 200, 5))
    results = distill_tree(sign_teacher, job, out, TreeConfig(4, 4, states=400), watch=events.append, report=False)
    assert results.verdict.result == "pass"
    assert results.student.name.startswith("tree:")
    assert "obs[0] <=" in (out / "tree.txt").read_text()
    assert verify(out / "export" / "c", episodes=10).return_mean > 9
    # what was lost of its export is written again
    before = {path.name: path.read_bytes() for path in (out / "export" / "c").iterdir()}
    (out / "export" / "c" / "golden.npz").unlink()
    with pytest.raises(FileError, match=r"golden\.npz is not the file .* export it again"):
        verify(out / "export" / "c")
    export_policy(out, "c")
    assert {path.name: path.read_bytes() for path in (out / "export" / "c").iterdir()} == before
    with pytest.raises(FileError, match=r"The student in .*tree\.json reads observations of shape \(2,\), but"):
        export_policy(out, "c", tmp_path / "other", env="CartPole-v1")
    assert sum(isinstance(event, Check) for event in events) == sum(isinstance(event, Step) for event in events) == 4
    tree = load_teacher(TeacherFile(str(out)))
    assert evaluate_policy(tree, SIGN, episodes=10).return_mean > 9
    assert results.labelled_states == 8 + 1600


def test_the_config_of_a_tree_grows_it_again(sign_teacher, tmp_path):
    given = TreeConfig(4, 3, states=200, most_states=300)
    distill_tree(sign_teacher, tiny_job(check_episodes=3), tmp_path / "one", given, report=False)
    data = json.loads((tmp_path / "one" / "config.json").read_text())
    assert (data["kind"], TreeConfig.from_config(data)) == ("tree", given)
    again = TreeConfig.from_config(data)
    distill_tree(sign_teacher, Job.from_json(data), tmp_path / "two", again, report=False)
    for name in ("tree.json", "tree.dot"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    with pytest.raises(SpecError, match="'leaves'"):
        TreeConfig.from_config({"given": {"leaves": 1}})
    with pytest.raises(SpecError, match="hurry"):
        TreeConfig.from_config({"given": {"hurry": True}})


def test_real_actions_grow_a_regression_tree(tmp_path):
    job = Job(tiny_config(LINEAR), Comparison(200, 200, 0, margin=0.1))
    results = distill_tree(linear_teacher(), job, tmp_path / "tree", TreeConfig(128, 3, states=3000), report=False)
    assert results.student.score > 0.9
    assert results.verdict.result == "pass"
    tree, _ = load_tree(tmp_path / "tree" / "tree.json")
    assert 32 < tree.leaves <= 128
    assert "float action[1]" in (tmp_path / "tree" / "export" / "c" / "policy.h").read_text()
    assert verify(tmp_path / "tree" / "export" / "c", episodes=5).return_mean > -2
    assert float(read_metrics(tmp_path / "tree" / "metrics.csv")[-1]["agreement"]) > 0.5


def test_several_choices_grow_one_tree(tmp_path):
    given = TreeConfig(8, 4, states=800)
    results = distill_tree(pair_teacher(), tiny_job(PAIR), tmp_path / "tree", given, report=False)
    assert results.verdict.result == "pass"
    tree, _ = load_tree(tmp_path / "tree" / "tree.json")
    assert {row for node, row in enumerate(tree.value) if tree.feature[node] < 0} == {
        (x, y) for x in (0, 1) for y in (0, 1, 2)
    }
    assert verify(tmp_path / "tree" / "export" / "c", episodes=5).return_mean > 9


def test_the_teacher_is_asked_once_a_state(tmp_path, monkeypatch):
    asked = []
    original = Teacher.label

    def noted(self, obs, state=()):
        asked.append(len(obs))
        return original(self, obs, state)

    monkeypatch.setattr(Teacher, "label", noted)
    job = tiny_job(PAIR, check_episodes=2)
    distill_tree(pair_teacher(), job, tmp_path / "tree", TreeConfig(8, 2, states=80), report=False)
    assert sum(n for n in asked if n == 8) == 8 + 160  # more at once are the verdict's


def test_a_round_may_be_one_step(sign_teacher, tmp_path):
    job = tiny_job(check_episodes=2)
    distill_tree(sign_teacher, job, tmp_path / "tree", TreeConfig(2, 1, states=1), report=False)
    assert (tmp_path / "tree" / "tree.json").is_file()


def test_questions_with_one_answer_are_left_out(sign_teacher, tmp_path):
    results = distill_tree(sign_teacher, tiny_job(), tmp_path / "tree", TreeConfig(leaves=40, iterations=2, states=400))
    tree, _ = load_tree(tmp_path / "tree" / "tree.json")
    pairs = [(tree.left[n], tree.right[n]) for n, f in enumerate(tree.feature) if f >= 0]
    assert all(tree.feature[a] >= 0 or tree.feature[b] >= 0 or tree.value[a] != tree.value[b] for a, b in pairs)
    assert results.student.params == len(tree.feature)


def test_what_the_student_must_not_see_no_question_asks(sign_teacher, tmp_path):
    job = tiny_job(hidden_features=(0,), check_episodes=2)
    distill_tree(sign_teacher, job, tmp_path / "tree", TreeConfig(leaves=8, iterations=2, states=200), report=False)
    assert "obs[0]" not in (tmp_path / "tree" / "tree.txt").read_text()
    # nor does its C want it
    home = tmp_path / "tree" / "export" / "c"
    assert "#define POLICY_OBS_SIZE 1\n" in (home / "policy.h").read_text()
    assert read_json(home / "export.json")["obs"]["reads"] == [1]
    assert verify(home).verdict is not None


def test_trees_ask_for_what_they_need(sign_teacher, tmp_path):
    with pytest.raises(SpecError, match="leave the extractor"):
        distill_tree(sign_teacher, tiny_job(), tmp_path / "tree", TreeConfig(extractor="pong"))
    files = (TeacherFile(str(ROOT / "zoo" / "pong-dqn")),)
    pong = Job(tiny_config().but(tasks=(TaskFile(EnvRef("PongNoFrameskip-v4"), files),)), Comparison(2, 2, 0))
    player = Teacher.from_callable(lambda obs: torch.zeros(len(obs), 6), kind="q", name="idle")
    with pytest.raises(SpecError, match="made for Pong"):
        distill_tree(player, pong, tmp_path / "tree")
    with pytest.raises(SpecError, match="give a TreeConfig"):
        distill_tree(sign_teacher, tiny_job(), tmp_path / "tree", {"leaves": 4})
    frames = Job(tiny_config().but(tasks=(TaskFile(EnvRef("distilrl/FramesEnv-v0")),)), Comparison(2, 2, 0))
    with pytest.raises(SpecError, match=r"images \(3, 10, 10\) of uint8: 'pong' reads \(4, 84, 84\), bytes"):
        distill_tree(player, frames, tmp_path / "tree", TreeConfig(extractor="pong"))
    for wrong in ({"leaves": 1}, {"states": 0}, {"extractor": "mind"}):
        with pytest.raises(SpecError):
            TreeConfig(**wrong)
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("env", [SIGN, "distilrl/BesideEnv-v0"])
def test_a_teacher_to_whom_all_is_one_gives_one_leaf_and_images_have_names(env, tmp_path):
    """Where no mistake costs anything all states weighed nothing, and numbers of an image had no name in the text."""
    values = torch.tensor([[0.0, 0.0]])
    teacher = Teacher.from_callable(lambda obs: values.repeat(len(obs), 1), kind="q", name="idle")
    config = tiny_config().but(tasks=(TaskFile(EnvRef(env)),))
    job = Job(config, Comparison(5, 5, 0, margin_abs=99.0), accept_episodes=5, accept_weak_teacher=True)
    results = distill_tree(teacher, job, tmp_path / "tree", TreeConfig(4, 1, states=50), report=False)
    assert results.student.name == "tree:1"
    looks = Teacher.from_callable(lambda obs: torch.stack([obs[:, -1], 128 - obs[:, -1]], 1), kind="q", name="looks")
    if env != SIGN:
        distill_tree(looks, job, tmp_path / "looks", TreeConfig(4, 1, states=500), report=False)
        assert "if image[63] <=" in (tmp_path / "looks" / "tree.txt").read_text()
        assert 'label="image[63] <=' in (tmp_path / "looks" / "tree.dot").read_text()


@needs_cc
@pytest.mark.parametrize(
    "tree",
    [
        replace(STUMP, feature=(-1,), threshold=(0.0,), left=(0,), right=(0,), value=((1,),)),
        STUMP,
        Tree((4, 84, 84), TWO, "pong", *SPLITS, ((0,), (0,), (1,))),
    ],
)
def test_c_of_a_leaf_and_of_pong_has_no_warning_either(tree, tmp_path):
    obs = ObsSpec(tree.obs_shape, dtype="uint8" if tree.extractor == "pong" else "float32")
    write_c(tmp_path, source(tree, obs, "a tree"))
    command = ["cc", *STRICT, "-c", str(tmp_path / "policy.c"), "-o", str(tmp_path / "policy.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_playing_is_no_training_time(sign_teacher, tmp_path, monkeypatch):
    """Each round's check is left out once: with slow checks the time would fall below 0, or grow by them."""
    now = [0.0]

    class Slow(viper.Check):
        def __call__(self, *args, **kwargs):
            now[0] += 100.0
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(viper, "Check", Slow)
    monkeypatch.setattr(viper.time, "perf_counter", lambda: now[0])
    distill_tree(sign_teacher, tiny_job(), tmp_path / "tree", TreeConfig(4, 3, states=80), report=False)
    rows = read_metrics(Path(tmp_path / "tree" / "metrics.csv"))
    assert [float(row["train_s"]) for row in rows] == [0.0, 0.0, 0.0]


def test_a_resumed_tree_equals_an_unbroken_one(tmp_path):
    """Whenever it is killed: in a round, behind one, and in the verdict."""
    teacher, job = linear_teacher(), tiny_job(MOVED, check_episodes=3)

    def grow(name, watch=None, resume=False, leaves=16):
        how = TreeConfig(leaves, 4, states=300)
        return distill_tree(teacher, job, tmp_path / name, how, resume=resume, watch=watch, report=False)

    events, watch = killed_at()
    grow("whole", watch)
    rounds = [number for number, event in enumerate(events) if isinstance(event, Check)]
    for moment in (rounds[0], rounds[1] + 1, rounds[3] + 1):
        out = f"cut-{moment}"
        with pytest.raises(Killed):
            grow(out, killed_at(moment)[1])
        with pytest.raises(FileError, match="continue it with --resume"):
            grow(out)
        with pytest.raises(ResumeError, match="another 'leaves'"):
            grow(out, resume=True, leaves=8)
        again, watch = killed_at()
        grown = grow(out, watch, resume=True)
        assert any(isinstance(event, Resumed) for event in again) == (moment > rounds[0])
        assert sum(isinstance(event, Check) for event in again) == sum(number >= moment for number in rounds)
        for file in ("tree.json", "tree.txt", "episodes.json", "export/c/policy.c"):
            assert (tmp_path / out / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
        assert str(grow(out, resume=True)) == str(grown)


def test_a_tree_whose_nodes_share_what_hangs_from_them_is_refused():
    """Written down, each node would hold twice what the one below it does: as text 60 nodes would never end."""
    nodes = 41
    below = tuple(min(node + 1, nodes - 1) for node in range(nodes))
    feature = tuple(0 if node < nodes - 1 else -1 for node in range(nodes))
    with pytest.raises(SpecError, match="hangs from none or from several"):
        Tree((2,), PAIRS, "raw", feature, (0.0,) * nodes, below, below, ((0, 0),) * nodes)


def test_choices_beyond_an_int_are_refused_before_anything_is_grown(tmp_path):
    """The C that was written for them ended Python."""
    head = head_for(Choices((2,), (2**31,)), "q")
    stump = Tree((2,), head, "raw", (0, -1, -1), (0.5, 0, 0), (1, 0, 0), (2, 0, 0), ((0,), (0,), (1,)))
    with pytest.raises(SpecError, match="beyond 31 bits have no place in C's int"):
        source(stump, ObsSpec((2,)), "far")

    class FarEnv(SignEnv):
        action_space = gymnasium.spaces.Discrete(2, start=2**31)

        def step(self, action):
            return super().step(action - 2**31)

    far = "distilrl/FarChoices-v0"
    if far not in gymnasium.registry:
        gymnasium.register(far, entry_point=FarEnv)
    teacher = Teacher.from_callable(lambda obs: torch.cat([-obs[:, :1], obs[:, :1]], 1), kind="q", name="far")
    with pytest.raises(SpecError, match="beyond 31 bits"):
        distill_tree(teacher, tiny_job(far), tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
