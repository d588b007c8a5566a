"""Every kind of action and observation, from training to the file, in environments with known answers."""

from dataclasses import replace

import gymnasium
import instances
import numpy as np
import pytest
import torch
from conftest import SIGN, Killed, SignEnv, killed_after
from test_train import small, without_clock

from distilrl.acceptance import accept
from distilrl.checkpoints import load_network
from distilrl.collect import Behaviour
from distilrl.comparison import Comparison, compare
from distilrl.config import TaskFile
from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import SpecError
from distilrl.evaluate import play
from distilrl.files import read_json
from distilrl.heads import Gaussian, Point
from distilrl.jobs import Job, make_config
from distilrl.networks import Network
from distilrl.objective import term
from distilrl.policies import Policy
from distilrl.recipes import RECIPES, TEACHERLESS
from distilrl.runs import RunFolder
from distilrl.schedules import START, Schedule
from distilrl.spaces import Bounds, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.stream import Stream
from distilrl.teachers import Teacher
from distilrl.teaching import evaluate_policy
from distilrl.train import train

GAINS = torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
MIDDLE, HALF = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 4.0])


class FollowEnv(gymnasium.Env):
    """Two real actions of unequal range, each to be a sum of the two numbers seen, in half-ranges around the middle,
    clipped.

    Each step costs the squared distance in half-ranges; ten steps an episode, 0 the best return.
    """

    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Box(np.array([-1, -2], np.float32), np.array([1, 6], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def _observe(self):
        self.obs = self.np_random.normal(0, 0.5, 2).astype(np.float32)
        return self.obs

    def step(self, action):
        assert self.action_space.contains(action), action
        units = (action - MIDDLE.numpy()) / HALF.numpy()
        reward = -float(np.square(units - np.clip(GAINS.numpy() @ self.obs, -1, 1)).sum())
        self.steps += 1
        return self._observe(), reward, self.steps >= 10, False, {}


class ManyEnv(SignEnv):
    """A thousand actions, of which 300 is right where the first number is positive, and 700 where it is not."""

    action_space = gymnasium.spaces.Discrete(1000)

    def step(self, action):
        right = action == (300 if self.obs[0] > 0 else 700)
        obs, _, *rest = super().step(0)
        return obs, float(right), *rest


for env in (FollowEnv, ManyEnv):
    if f"distilrl/{env.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env, max_episode_steps=50)
FOLLOW, MANY = "distilrl/FollowEnv-v0", "distilrl/ManyEnv-v0"


def following(kind="mean", squash="clip"):
    """The answer of FollowEnv, exact where it is clipped; a squashed one bends to the bounds instead."""
    network = Network(NetworkSpec((2,), 4 if kind == "gaussian" else 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        head = network.layers[-1]
        head.weight[:2] = GAINS if squash == "tanh" else HALF[:, None] * GAINS
        head.bias[:2] = 0 if squash == "tanh" else MIDDLE
        if kind == "gaussian":
            head.bias[2:] = torch.tensor([-1.0, -2.0])
    return Teacher(network, kind, "test", "memory", "0" * 64, squash=squash)


def accepted(teacher, env_id):
    """What the acceptance check says."""
    return accept(teacher.fitted(describe_env(EnvRef(env_id))), Play(EnvRef(env_id)), episodes=20)


def score(network_or_teacher, env_id, acceptance):
    own = evaluate_policy(network_or_teacher, env_id, episodes=30).return_mean
    return (own - acceptance.random_return_mean) / (acceptance.return_mean - acceptance.random_return_mean)


def following_config(recipe="distil", **changes):
    return small(
        recipe, env=FOLLOW, **({"network": "mlp:16", "env_steps": 1600, "gap": -20.0, "agreement": 0.9} | changes)
    )


def test_the_answer_is_known():
    assert evaluate_policy(following(), FOLLOW, episodes=5).return_mean == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "squash", "recipe", "loss"),
    [
        ("mean", "clip", "distil", "action_regression"),
        ("mean", "tanh", "distil", "action_regression"),
        ("mean", "clip", "distil", "mean_regression"),
        ("mean", "clip", "cloning", None),
        ("gaussian", "clip", "case_study", None),
        ("gaussian", "tanh", "distil", "forward_kl"),
        ("mean", "clip", "policy_distillation", None),
    ],
)
def test_a_student_of_real_actions_reaches_its_teacher(kind, squash, recipe, loss):
    teacher = following(kind, squash)
    config = following_config(recipe, learning_rate=1e-2, updates=4, **({"terms": (term(loss),)} if loss else {}))
    known = accepted(teacher, FOLLOW)
    trained = train(config, teacher, acceptance=known)
    assert trained.heads == (Point(describe_env(EnvRef(FOLLOW)).action, squash),), "a student has no spread of its own"
    assert trained.network.spec.outputs == 2
    ours = play(trained.policy, Play(EnvRef(FOLLOW)), range(50, 80)).returns.mean()
    share = (ours - known.random_return_mean) / (known.return_mean - known.random_return_mean)
    assert share > 0.97
    last = trained.history[-1]
    assert last["score"] > 0.97
    assert last["agreement"] > 0.7, "within a tenth of the half-range in both dimensions"
    assert trained.temperature == 1.0


def test_the_default_is_regression_of_the_action():
    assert [one.name for one in make_config("distil", FOLLOW).terms] == ["action_regression"]
    assert [one.name for one in make_config("case_study", FOLLOW).terms] == ["forward_kl", "worst_action_gap"]


def test_losses_of_choices_are_refused_for_real_actions():
    with pytest.raises(SpecError, match=r"2 real numbers: use one of .*action_regression"):
        train(following_config(terms=(term("nll"),)), following())
    with pytest.raises(SpecError, match="2 real numbers"):
        small("dqn", env=FOLLOW)


def cut_and_whole(config, teacher, acceptance, folder, moment):
    """The same run unbroken, and cut short and continued."""
    whole = train(config, teacher, acceptance=acceptance, folder=RunFolder(folder / "whole"))
    with pytest.raises(Killed):
        train(config, teacher, acceptance=acceptance, folder=RunFolder(folder / "cut"), watch=killed_after(moment))
    tensors, _ = RunFolder(folder / "cut").load_state()
    resumed = train(config, teacher, acceptance=acceptance, folder=RunFolder(folder / "cut"))
    one, two = (folder / name / "student" / "student.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()
    assert without_clock(whole) == without_clock(resumed)
    assert resumed.env_steps == config.data.env_steps
    return whole, tensors["task.0.actions"]


@pytest.mark.parametrize("recipe", ["distil", "case_study"])
def test_a_run_of_real_actions_resumes_to_the_same_bytes(tmp_path, recipe):
    teacher = following("gaussian")
    config = following_config(recipe, env_steps=800, check_every=200, updates=2)
    config = config.but(behaviour=Behaviour("mixed", zeta=1.5))  # random pushes are under way too
    _, actions = cut_and_whole(config, teacher, accepted(teacher, FOLLOW), tmp_path, 500)
    assert actions.dtype == torch.float32
    assert actions.shape[1:] == (8, 2)
    assert float(actions[..., 0].abs().max()) <= 1.0 < float(actions[..., 1].abs().max())


def choosing(sizes):
    """A teacher whose first choice has the sign of the first number, and whose others are always 0; of a hidden layer
    of 2.
    """
    network = Network(NetworkSpec((2,), sum(sizes), hidden=(2,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[0, 0], network.layers[0].weight[1, 0] = 1.0, -1.0
        network.layers[2].weight[1, 0] = network.layers[2].weight[0, 1] = 1.0
        for block in np.cumsum(sizes)[:-1]:
            network.layers[2].bias[int(block)] = 1.0
    return Teacher(network, "q", "test", "memory", "0" * 64)


def test_several_choices_are_learnt_and_resumed(tmp_path):
    env_id, teacher = "distilrl/MultiEnv-v0", choosing((2, 3))
    known = accepted(teacher, env_id)
    assert known.return_mean == pytest.approx(0.5 * 10 + 0.5 * 4)  # steps 0, 3, 6 and 9 ask for option 0
    config = small("distil", env=env_id, gap=-20.0, env_steps=1600, learning_rate=1e-2)
    whole, actions = cut_and_whole(config, teacher, known, tmp_path, 900)
    assert actions.shape[1:] == (8, 2)
    assert int(actions[..., 1].max()) == 2, "random actions are of both choices"
    assert score(whole.network, env_id, known) > 0.97
    assert whole.heads[0].action.nvec == (2, 3)


def test_actions_that_count_from_one_are_taken_as_such(sign_teacher):
    env_id = "distilrl/LateEnv-v0"
    config = small("distil", env=env_id, gap=-1.0, env_steps=800)
    trained = train(config, sign_teacher, acceptance=accepted(sign_teacher, env_id))
    assert evaluate_policy(trained.policy, env_id, episodes=20).return_mean > 9.5
    assert trained.heads[0].action.start == (1,)


def test_actions_above_a_byte_survive_the_checkpoint(tmp_path):
    network = Network(NetworkSpec((2,), 1000, hidden=(2,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[0, 0], network.layers[0].weight[1, 0] = 1.0, -1.0
        network.layers[2].weight[300, 0] = network.layers[2].weight[700, 1] = 1.0
    teacher = Teacher(network, "q", "test", "memory", "0" * 64)
    config = small("distil", env=MANY, gap=-20.0, env_steps=480, check_every=160, updates=1)
    _, actions = cut_and_whole(config, teacher, accepted(teacher, MANY), tmp_path, 400)
    assert {300, 700} <= set(actions.flatten().tolist())


def test_a_picture_beside_numbers_and_a_side_without_a_bound(tmp_path):
    """MixedEnv pays for the sign of a number beside a picture of noise; its actions have an open side and a shape of
    their own.
    """
    env_id = "distilrl/MixedEnv-v0"
    info = describe_env(EnvRef(env_id))
    place = info.obs.names.index("body.numbers[0]")

    def answer(obs):
        return torch.stack([(2 * obs[:, place]).clamp(-2, 2), torch.zeros(len(obs))], dim=1)

    teacher = Teacher.from_callable(answer, 2, name="sign of a number")
    known = accepted(teacher, env_id)
    assert known.return_mean == 10.0
    config = small(
        "distil", env=env_id, network="cnn:2k4s4:16", env_steps=1600, n_envs=8, updates=4, gap=-20.0, agreement=0.0
    )
    trained = train(config, teacher, acceptance=known, folder=RunFolder(tmp_path / "run"))
    assert trained.heads[0] == Point(Bounds((-2.0, None), (4.0, None), (1, 2)))
    assert score(trained.network, env_id, known) > 0.85
    stored = load_network(tmp_path / "run" / "student")
    assert stored.head == trained.heads[0]
    states = torch.from_numpy(play(trained.policy, Play(EnvRef(env_id), keep_states=30), range(3)).states)
    assert states.shape == (30, 3 + 2 + 3 * 12 * 16)
    torch.testing.assert_close(stored.network(states), trained.network(states))
    assert stored.network.spec.image == (3, 12, 16)


def test_a_gaussian_teacher_says_how_sure_it_is_and_a_student_does_not():
    head = following("gaussian").fitted(describe_env(EnvRef(FOLLOW))).head
    assert isinstance(head, Gaussian)
    assert (head.width, head.student.width) == (4, 2)


def layered():
    """The answer of FollowEnv as a network with a hidden layer, whose features can be compared and reused."""
    network = Network(NetworkSpec((2,), 2, hidden=(4,)))
    with torch.no_grad():
        both = torch.cat([torch.eye(2), -torch.eye(2)])
        network.layers[0].weight.copy_(both)
        network.layers[0].bias.zero_()
        network.layers[2].weight.copy_(HALF[:, None] * GAINS @ both.T)
        network.layers[2].bias.copy_(MIDDLE)
    return Teacher(network, "mean", "test", "memory", "0" * 64)


FOR_REAL = [
    name for name, one in RECIPES.items() if not one.lacks(describe_env(EnvRef(FOLLOW))) and name not in TEACHERLESS
]


def test_what_is_about_choices_is_refused_for_real_actions():
    refused = set(RECIPES) - set(FOR_REAL)
    assert {"dkd", "dist", "curriculum", "dqn", "qdagger", "kickstarting"} <= refused
    assert {"distil", "case_study", "cloning", "hints", "svd_start", "reused_head", "adversarial_states"} <= set(
        FOR_REAL
    )
    for name in sorted(refused - {"attention"}):
        with pytest.raises(SpecError, match=rf"'{name}' needs .*: (use one of .*distil|.* distil its file)"):
            make_config(name, FOLLOW)


@pytest.mark.parametrize("name", FOR_REAL)
def test_each_recipe_of_real_actions_lowers_its_own_terms(name):
    config = following_config(name, env_steps=800, check_every=100, check_episodes=2, final_episodes=2)
    if config.data.behaviour.labels != (Schedule(1.0),):
        config = config.but(behaviour=replace(config.data.behaviour, labels=(Schedule(1.0),)))
    history = train(config, layered(), acceptance=accepted(layered(), FOLLOW)).history
    for one in config.terms:
        seen = [row[f"loss/{one.name}"] for row in history if row[f"loss/{one.name}"] is not None]
        assert len(seen) >= 2, one.name
        if one.name != "discriminator" and (config.student.start == "new" or seen[0] > 1e-3):
            assert min(seen[1:]) < 0.75 * seen[0], (one.name, seen)  # without learning they differ by a fifth at most


def test_the_whole_job_of_real_actions(tmp_path):
    job = Job(following_config("case_study"), Comparison(60, 60, 4, margin=0.1), accept_episodes=10)
    distill(following("gaussian"), job, tmp_path / "run")
    results = read_json(tmp_path / "run" / "results.json")
    assert results["verdict"]["result"] == "pass"
    rows = results["agreement"]["dimensions"]
    assert [row["half_range"] for row in rows] == HALF.tolist()
    assert all(row["rms"] < 0.2 for row in rows)
    assert results["agreement"]["student_states_error"] < 0.2
    assert results["action"]["kind"] == "mean"
    assert results["action"]["action"]["high"] == [1.0, 6.0]
    assert results["student"]["params"] == 2 * 16 + 16 + 16 * 2 + 2
    again = distill(following("gaussian"), job, tmp_path / "run", resume=True, report=False)
    assert again.student.return_mean == results["student"]["return_mean"]


def test_where_two_policies_differ_is_shown_with_its_picture():
    env_id = "distilrl/MixedEnv-v0"
    info = describe_env(EnvRef(env_id))
    teacher = Teacher.from_callable(lambda obs: torch.ones(len(obs), 2), 2, name="one").fitted(info)
    student = Teacher.from_callable(lambda obs: -torch.ones(len(obs), 2), 2, name="minus one").fitted(info).policy
    parts = compare(
        teacher, student, Play(EnvRef(env_id)), Comparison(5, 5, 2, agreement_states=40), instances.acceptance(), info
    )
    assert len(parts.episodes.disagreements) == 8
    for one in parts.episodes.disagreements:
        assert one.image.startswith("data:image/png;base64,")
        assert (one.teacher_action, one.student_action) == ((1.0, 1.0), (-1.0, -1.0))
    assert parts.agreement.student_states == 0.0
    assert {"epsilon_0.01"} <= set(parts.disturbed)


class Critic(torch.nn.Module):
    """What an action is worth: nothing is at stake where the first number is negative."""

    def forward(self, obs, actions):
        return -actions.square().sum(1) * (obs[:, 0] > 0)


def test_states_are_drawn_by_what_a_critic_says_is_at_stake():
    teacher = replace(following(), critic=Critic())
    config = following_config(env_steps=800, stakes_exponent=1.0, capacity=800)
    stream = Stream(config, teacher)
    for _ in range(100):
        stream.collect(START)
    replay = stream.replay
    drawn = replay.batch(replay.draw(4_000, torch.Generator().manual_seed(0)))
    stream.close()
    share = float((drawn.obs[:, 0] > 0).float().mean())
    assert share == pytest.approx(0.8 + 0.2 * 0.5, abs=0.04)
    assert float(drawn.stakes.min()) == pytest.approx(1e-6), "never 0: every state stays possible"
    plain = Stream(config.but(stakes_exponent=0.0), teacher)
    for _ in range(2):
        plain.collect(START)
    assert bool((plain.replay._stakes[:1] == 1).all()), "where it decides nothing, the critic is not asked"
    plain.close()


def test_a_critic_answers_as_it_was_trained_to():
    """Not with units left out at random, as while it was trained."""

    class Dropping(Critic):
        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, obs, actions):
            return super().forward(self.dropout(obs), actions)

    teacher = replace(following(), critic=Dropping()).fitted(describe_env(EnvRef(FOLLOW)))
    obs = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)) + 0.1
    first, second = (teacher.stakes(obs, teacher.numbers(obs)) for _ in range(2))
    assert bool((first > 1e-6).any())
    assert torch.equal(first, second)


def test_one_student_of_choices_and_of_real_actions(sign_teacher):
    """Tasks whose actions are of different kinds share one body; the loss must be one that can read both."""
    teachers = [sign_teacher, following("gaussian")]
    tasks = tuple(TaskFile(EnvRef(env_id)) for env_id in (SIGN, FOLLOW))
    known = [accepted(teacher, task.env.id) for teacher, task in zip(teachers, tasks, strict=True)]
    config = small("distil", tasks=tasks, network="mlp:16,16", env_steps=4000, gap=-20.0)
    trained = train(config, teachers, acceptance=known)
    assert [head.real for head in trained.heads] == [False, True]
    assert torch.equal(*(network.layers[2].weight for network in trained.networks))
    for network, head, task, acceptance in zip(trained.networks, trained.heads, tasks, known, strict=True):
        games = play(Policy(network, head), Play(task.env), range(50, 80))
        random = acceptance.random_return_mean
        assert (games.returns.mean() - random) / (acceptance.return_mean - random) > 0.93
    with pytest.raises(SpecError, match="'nll' compares choices"):
        train(config.but(terms=(term("nll"),)), teachers, acceptance=known)
