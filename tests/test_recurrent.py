"""Teachers with memory: numbers are those of PyTorch's own equations written out, over 20 steps with one restart."""

import copy
import pickle
import warnings
import zipfile
from collections import OrderedDict
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
import torch
from conftest import real_teacher
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_robots import ENV, MEAN, STD, mlp, named, rsl_rl
from test_sb3 import BOX, MIXED, VECTOR, Still, edited, shake
from torch import nn

from distilrl.collect import Behaviour, Collector
from distilrl.distill import distill
from distilrl.envs import describe_env, make_vec_env
from distilrl.errors import FileError, SpecError, TeacherError
from distilrl.evaluate import latency_us
from distilrl.heads import head_for
from distilrl.jobs import Job, make_config
from distilrl.limits import MAX_CODE_BYTES
from distilrl.policies import Policy
from distilrl.replay import Replay, ReplaySpec
from distilrl.spaces import Bounds, Choices, EnvRef, read_observations
from distilrl.specs import ACTIVATIONS
from distilrl.teachers import TeacherFile, ensemble, load_teacher
from distilrl.train import train

STEPS, COUNT, RESTART = 20, 3, 11
"""Steps, episodes side by side, and the step before which the second of them starts anew."""
ENDED = torch.tensor([False, True, False])


def read(path, content, **told):
    torch.save(content, path)
    return load_teacher(TeacherFile(str(path), **told))


def observations(*shape, seed=0):
    """(T, N, *shape): numbers, or bytes where it is an image's shape."""
    rng = np.random.default_rng(seed)
    size = (STEPS, COUNT, *shape)
    drawn = (
        rng.integers(0, 256, size).astype(np.uint8) if len(shape) == 3 else rng.normal(0, 2, size).astype(np.float32)
    )
    return torch.from_numpy(drawn)


def played(policy, obs):
    """Numbers (T, N, P) of all episodes at once, one of which starts anew on the way."""
    state, numbers = policy.start(obs.shape[1]), []
    for step, seen in enumerate(obs):
        state = policy.restart(state, ENDED) if step == RESTART else state
        p, state = policy.forward(seen, state)
        numbers.append(p)
    return torch.stack(numbers).detach()


def lstm(x, state, w, hidden):
    h, c = state or (torch.zeros(hidden), torch.zeros(hidden))
    i, f, g, o = (w["weight_ih"] @ x + w["bias_ih"] + w["weight_hh"] @ h + w["bias_hh"]).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h, (h, c)


def gru(x, state, w, hidden):
    (h,) = state or (torch.zeros(hidden),)
    seen, kept = (w["weight_ih"] @ x + w["bias_ih"]).chunk(3), (w["weight_hh"] @ h + w["bias_hh"]).chunk(3)
    r, z = torch.sigmoid(seen[0] + kept[0]), torch.sigmoid(seen[1] + kept[1])
    n = torch.tanh(seen[2] + r * kept[2])
    h = (1 - z) * n + z * h
    return h, (h,)


def written_out(memory, encode, decode, obs):
    """Numbers (T, N, P) of an `nn.LSTM` or `nn.GRU` by the equations, each episode on its own."""
    step = lstm if isinstance(memory, nn.LSTM) else gru
    weights = [
        {name.removesuffix(f"_l{k}"): t for name, t in memory.state_dict().items() if name.endswith(f"_l{k}")}
        for k in range(memory.num_layers)
    ]
    columns = []
    for index in range(obs.shape[1]):
        numbers = []
        for begin, end in pairwise([0, RESTART, STEPS] if ENDED[index] else [0, STEPS]):
            states = [None] * len(weights)
            for seen in obs[begin:end, index]:
                x = encode(seen[None])[0]
                for k, w in enumerate(weights):
                    x, states[k] = step(x, states[k], w, memory.hidden_size)
                numbers.append(decode(x[None])[0])
        columns.append(torch.stack(numbers))
    return torch.stack(columns, dim=1).detach()


def same(ours, theirs, within=1e-5):
    torch.testing.assert_close(ours, theirs, rtol=within, atol=within)


def refused(path, content, match, **told):
    with pytest.raises(FileError, match=match) as caught:
        read(path, content, **told) if content is not None else load_teacher(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith(".")
    assert message.isprintable()


# -- rsl_rl


KEYS = {4: ("actor_state_dict", "rnn.rnn"), "student": ("model_state_dict", "memory_s.rnn")}


def recurrent_robot(version, memory, actor):
    """A checkpoint of rsl_rl: the memory stands between normaliser and dense layers."""
    content = rsl_rl(actor, version)
    key, prefix = KEYS.get(version, ("model_state_dict", "memory_a.rnn"))
    content[key] |= named(prefix, memory)
    if key == "model_state_dict":
        content[key] |= named("memory_c.rnn", nn.LSTM(9, 4))
    return content


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("version", "layers"), [(1, 1), (2, 1), (3, 2), (4, 3), ("student", 1)])
def test_rsl_rl(tmp_path, version, layers, kind):
    torch.manual_seed(0)
    memory, actor = kind(5, 12, layers), mlp(12, 16, 8, 2)
    teacher = read(tmp_path / "model_100.pt", recurrent_robot(version, memory, actor))
    assert (teacher.format, teacher.kind, teacher.obs_shape, teacher.action) == ("rsl_rl", "gaussian", (5,), None)
    policy, obs = teacher.fitted(ENV).policy, observations(5)

    def normal(seen):
        return seen if version in (1, "student") else (seen - MEAN) / (STD + 1e-2)

    numbers = played(policy, obs)
    same(numbers[..., :2], written_out(memory, normal, actor, obs))
    same(numbers[..., 2:].exp(), torch.tensor([0.5, 2.0]).expand(STEPS, COUNT, 2))
    assert policy.remembers
    assert [part.shape for part in policy.start(7)] == [(7, layers, 12)] * (2 if kind is nn.LSTM else 1)
    own = [*memory.parameters(), *actor.parameters()]
    assert teacher.params == sum(p.numel() for p in own)
    constant = 2 * 8  # rows of the log standard deviation
    assert teacher.size()["macs"] == sum(p.numel() for p in own if p.ndim == 2) + constant


def test_another_activation_and_no_biases(tmp_path):
    memory, actor = nn.LSTM(5, 12), mlp(12, 16, 2, activation=nn.ReLU)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        nn.init.zeros_(getattr(memory, name))
    content, obs = recurrent_robot(1, memory, actor), observations(5)
    state = content["model_state_dict"]
    content["model_state_dict"] = {k: v for k, v in state.items() if not k.startswith("memory_a.rnn.bias")}
    teacher = read(tmp_path / "t.pt", content, activation="relu").fitted(ENV)
    same(played(teacher.policy, obs)[..., :2], written_out(memory, lambda seen: seen, actor, obs))


def without(name):
    return lambda state: state.pop(f"memory_a.rnn.{name}")


def replaced(name, shape, value=0.1):
    return lambda state: state.update({name: torch.full(shape, value)})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (without("weight_hh_l0"), "lacks the tensor 'memory_a.rnn.weight_hh_l0'"),
        (without("weight_ih_l0"), "lacks the tensor 'memory_a.rnn.weight_ih_l0'"),
        (without("bias_hh_l0"), "lacks the tensor 'memory_a.rnn.bias_hh_l0'"),
        (replaced("memory_a.rnn.weight_hh_l0", (24, 12)), r"\(24, 12\), which is neither"),
        (replaced("memory_a.rnn.weight_hh_l0", (12, 12)), "export the policy to ONNX"),  # a plain RNN
        (replaced("memory_a.rnn.weight_hh_l0", (48,)), "no memory's"),
        (replaced("memory_a.rnn.weight_hh_l0", (0, 12)), "no memory's"),
        (replaced("memory_a.rnn.weight_ih_l0", (36, 5)), r"'memory_a.rnn.weight_ih_l0'.*\(36, 5\), not \(48, 5\)"),
        (replaced("memory_a.rnn.bias_ih_l0", (47,)), r"'memory_a.rnn.bias_ih_l0'.*\(47,\), not \(48,\)"),
        (replaced("memory_a.rnn.weight_hh_l0", (48, 12), float("nan")), "'memory_a.rnn.weight_hh_l0'.*NaN"),
        (replaced("memory_a.rnn.weight_ih_l2", (48, 12)), "lacks the tensor 'memory_a.rnn.weight_ih_l1'"),
        (replaced("memory_a.rnn.weight_ih_l99", (48, 12)), "more than a policy can need"),
        (replaced("memory_a.rnn.weight_ih_l0_reverse", (48, 5)), "'memory_a.rnn.weight_ih_l0_reverse', which no plain"),
        (replaced("memory_a.rnn.weight_hr_l0", (6, 12)), "no plain LSTM"),
        (replaced("actor.0.weight", (16, 13)), r"'actor.0.weight'.*\(16, 13\), but the memory before it gives 12"),
        (replaced("actor_obs_normalizer._mean", (1, 6)), r"'actor_obs_normalizer._mean'.*\(6,\), not \(5,\)"),
        (replaced("actor_obs_normalizer._std", (1, 5), -1.0), "negative"),
        (replaced("lstm.weight_ih_l0", (48, 5)), "recurrent .* layout that is not known"),
    ],
)
def test_a_damaged_memory_is_refused(tmp_path, change, match):
    content = recurrent_robot(3, nn.LSTM(5, 12), mlp(12, 16, 2))
    change(content["model_state_dict"])
    refused(tmp_path / "t.pt", content, match)


@pytest.mark.parametrize("library", ["rl_games", "skrl"])
def test_other_robots_with_memory_are_refused_with_the_way_out(tmp_path, library):
    if library == "rl_games":
        content = {"model": named("a2c_network.rnn.rnn", nn.LSTM(5, 5)) | named("a2c_network.mu", nn.Linear(5, 2))}
    else:
        content = {"policy": named("lstm", nn.LSTM(5, 5)) | named("net_container", mlp(5, 8, 2))}
    refused(tmp_path / "t.pth", content, "ONNX", activation="elu")


# -- CleanRL


class LstmAgent(nn.Module):
    """The agent of ``ppo_atari_lstm``, with a smaller memory."""

    def __init__(self):
        super().__init__()
        convs = [nn.Conv2d(1, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1)]
        self.network = nn.Sequential(*convs, nn.ReLU(), nn.Flatten(), nn.Linear(3136, 512), nn.ReLU())
        self.lstm, self.actor, self.critic = nn.LSTM(512, 16), nn.Linear(16, 4), nn.Linear(16, 1)


@pytest.mark.parametrize("wrap", [True, False])
def test_cleanrl(tmp_path, wrap):
    torch.manual_seed(0)
    agent, obs = LstmAgent(), observations(1, 84, 84)
    content = {"model_weights": agent.state_dict(), "args": {}} if wrap else agent.state_dict()
    teacher = read(tmp_path / "ppo_atari_lstm.cleanrl_model", content)
    assert (teacher.format, teacher.kind) == ("CleanRL PPO with LSTM", "logits")
    assert (teacher.obs_shape, teacher.outputs) == ((1, 84, 84), 4)
    policy = Policy(teacher.network, head_for(Choices((4,)), "logits"))
    same(played(policy, obs), written_out(agent.lstm, lambda seen: agent.network(seen / 255.0), agent.actor, obs))


def test_cleanrls_single_frames_are_the_newest_of_a_stack(tmp_path):
    """Its memory stands for the frames before, and ALE's games here always show four."""
    agent, obs = LstmAgent(), observations(4, 84, 84)
    game = describe_env("BreakoutNoFrameskip-v4")
    teacher = read(tmp_path / "t.pt", agent.state_dict()).fitted(game)
    assert teacher.obs_shape == (4, 84, 84)
    newest = obs[..., -1:, :, :]
    written = written_out(agent.lstm, lambda seen: agent.network(seen / 255.0), agent.actor, newest)
    same(played(teacher.policy, obs), written)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"actor.weight": torch.ones(4, 17)}, r"'actor.weight'.*\(4, 17\), but the memory before it gives 16"),
        ({"network.7.weight": torch.ones(500, 3136), "network.7.bias": torch.ones(500)}, "reads 512 .* gives 500"),
        ({"network.4.weight": torch.ones(64, 32, 3, 3)}, "network.4|damaged"),
        ({"network.0.weight": torch.ones(32, 1, 5, 5)}, "--teacher-network"),
        ({"lstm.weight_hh_l0": torch.ones(16, 16)}, "neither an LSTM's"),
    ],
)
def test_a_damaged_agent_is_refused(tmp_path, change, match):
    refused(tmp_path / "t.pt", LstmAgent().state_dict() | change, match)


def test_other_kernels_are_told(tmp_path):
    torch.manual_seed(0)
    agent, obs = LstmAgent(), observations(1, 84, 84)
    agent.network[0], agent.network[7] = nn.Conv2d(1, 32, 6, 4), nn.Linear(3136, 512)
    teacher = read(tmp_path / "t.pt", agent.state_dict(), network="cnn:32k6s4,64k4s2,64k3s1:512")
    policy = Policy(teacher.network, head_for(Choices((4,)), "logits"))
    same(played(policy, obs), written_out(agent.lstm, lambda seen: agent.network(seen / 255.0), agent.actor, obs))


# -- RecurrentPPO


def made(observations=VECTOR, actions=BOX, policy="MlpLstmPolicy", env=None, **kwargs):
    """A model with random weights."""
    warnings.simplefilter("ignore")
    from sb3_contrib import RecurrentPPO

    env = env or Still(observations, actions)
    model = RecurrentPPO(policy, env, seed=1, device="cpu", n_steps=8, batch_size=8, policy_kwargs=kwargs)
    shake(model.policy)
    return model


def check(model, path, plain, normalizer=None, within=1e-5):
    """Saves, reads, and compares actions with the library's own step by step; returns the teacher."""
    model.save(path)
    teacher = load_teacher(TeacherFile(str(path), normalizer=normalizer))
    _, flat = read_observations(plain, "it")
    plain.seed(0)
    theirs, ours, starts = None, teacher.policy.start(COUNT), np.ones(COUNT, bool)
    for step in range(STEPS):
        seen = [plain.sample() for _ in range(COUNT)]
        stacked = (
            {k: np.stack([o[k] for o in seen]) for k in plain} if isinstance(plain, spaces.Dict) else np.stack(seen)
        )
        if model.get_vec_normalize_env() is not None:
            stacked = model.get_vec_normalize_env().normalize_obs(stacked)
        if step == RESTART:
            starts, ours = ENDED.numpy(), teacher.policy.restart(ours, ENDED)
        expected, theirs = model.predict(stacked, state=theirs, episode_start=starts, deterministic=True)
        actions, ours = teacher.policy.act(torch.from_numpy(np.stack([flat(one) for one in seen])), ours)
        half = getattr(teacher.action, "half", 1.0)
        assert np.abs((actions.numpy() - expected.reshape(COUNT, -1)) / half).max() <= within
        starts = np.zeros(COUNT, bool)
    return teacher


PICTURE = spaces.Box(0, 255, (44, 60, 3), np.uint8)
CASES = {
    "plain": ({}, "gaussian"),
    "stacked": ({"kwargs": {"n_lstm_layers": 2, "lstm_hidden_size": 16, "net_arch": []}}, "gaussian"),
    "without-biases": ({"kwargs": {"lstm_kwargs": {"bias": False}, "enable_critic_lstm": False}}, "gaussian"),
    "relu": ({"kwargs": {"activation_fn": nn.ReLU, "net_arch": {"pi": [12], "vf": [8]}}}, "gaussian"),
    "shared": (
        {"actions": spaces.Discrete(4), "kwargs": {"shared_lstm": True, "enable_critic_lstm": False}},
        "logits",
    ),
    "several": ({"actions": spaces.MultiDiscrete([3, 2, 4])}, "logits"),
    "binary": ({"actions": spaces.MultiBinary(3)}, "logits"),
    "images": ({"observations": PICTURE, "policy": "CnnLstmPolicy"}, "gaussian"),
    "apart": (
        {"observations": PICTURE, "policy": "CnnLstmPolicy", "kwargs": {"share_features_extractor": False}},
        "gaussian",
    ),
    "raw": ({"observations": PICTURE, "policy": "CnnLstmPolicy", "kwargs": {"normalize_images": False}}, "gaussian"),
    "flat-image": ({"observations": PICTURE}, "gaussian"),
    "dict": ({"observations": MIXED, "policy": "MultiInputLstmPolicy"}, "gaussian"),
}


@pytest.mark.parametrize("case", CASES)
def test_recurrent_ppo(tmp_path, case):
    settings, kind = CASES[case]
    settings = dict(settings)
    model = made(**settings.pop("kwargs", {}), **settings)
    # features of hundreds, as these weights make them, lose digits on their way into the memory
    space = model.env.envs[0].observation_space
    teacher = check(
        model, tmp_path / "t.zip", space, within=1e-5 if case not in ("dict", "raw", "flat-image") else 1e-3
    )
    assert (teacher.kind, teacher.squash, teacher.meta["algorithm"]) == (kind, "clip", "RecurrentPPO")
    policy = model.policy
    parts = [policy.lstm_actor, policy.mlp_extractor.policy_net, policy.action_net, policy.pi_features_extractor]
    assert teacher.params == sum(p.numel() for part in parts for p in part.parameters())


def test_recurrent_ppo_behind_vecnormalize(tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: Still(VECTOR, BOX)]), clip_obs=2.0)
    env.obs_rms.mean, env.obs_rms.var = np.linspace(-1, 1, 5), np.linspace(0.1, 3, 5)
    model = made(env=env)
    env.training = False
    env.save(str(tmp_path / "vec.pkl"))
    teacher = check(model, tmp_path / "t.zip", VECTOR, normalizer=str(tmp_path / "vec.pkl"))
    assert teacher.policy.remembers
    assert teacher.before_zeros(2).policy.remembers
    plain = load_teacher(tmp_path / "t.zip")
    numbers = played(plain.before_zeros(2).policy, observations(3))
    same(numbers, played(plain.policy, nn.functional.pad(observations(3), (0, 2))))


def test_a_recurrent_zip_without_its_memory_is_refused(tmp_path):
    from stable_baselines3 import PPO

    PPO("MlpPolicy", Still(VECTOR, BOX), n_steps=8, batch_size=8, device="cpu").save(tmp_path / "ppo.zip")
    module = {"policy_class": {"__module__": "sb3_contrib.common.recurrent.policies"}}
    edited(tmp_path / "ppo.zip", tmp_path / "t.zip", **module)
    refused(tmp_path / "t.zip", None, "lacks the tensor 'lstm_actor.weight_hh_l0'")


# -- TorchScript


class PolicyExporterLSTM(nn.Module):
    """What legged_gym scripts: its state is in buffers."""

    def __init__(self, activation=nn.ELU, layers=1):
        super().__init__()
        self.is_recurrent = True
        self.actor = mlp(12, 8, 2, activation=activation)
        self.memory = nn.LSTM(5, 12, layers)
        self.register_buffer("hidden_state", torch.zeros(layers, 1, 12))
        self.register_buffer("cell_state", torch.zeros(layers, 1, 12))

    def forward(self, x):
        out, (h, c) = self.memory(x.unsqueeze(0), (self.hidden_state, self.cell_state))
        self.hidden_state[:] = h
        self.cell_state[:] = c
        return self.actor(out.squeeze(0))

    @torch.jit.export
    def reset_memory(self):
        self.hidden_state[:] = 0.0
        self.cell_state[:] = 0.0


class Shouting(PolicyExporterLSTM):
    """The same names, another class."""


def scripted(path, module, example=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(module) if example is None else torch.jit.trace(module, example)
        script.save(str(path))
    return script


def step_by_step(script, obs):
    """Numbers (T, P) of a scripted policy in one episode and then another."""
    numbers = []
    with torch.no_grad():
        for step, seen in enumerate(obs):
            if step in (0, RESTART):
                script.reset_memory()
            numbers.append(script(seen)[0])
    return torch.stack(numbers)


@pytest.mark.parametrize(("activation", "layers"), [(nn.ELU, 1), (nn.ReLU, 2), (nn.Tanh, 1)])
def test_torchscript_of_a_known_layout(tmp_path, activation, layers):
    torch.manual_seed(0)
    module, obs = PolicyExporterLSTM(activation, layers), observations(5)
    script = scripted(tmp_path / "policy_lstm_1.pt", module)
    script(obs[0, :1])  # its buffers are not zero any more
    script.save(str(tmp_path / "policy_lstm_1.pt"))
    teacher = load_teacher(tmp_path / "policy_lstm_1.pt")
    assert (teacher.format, teacher.kind, teacher.squash) == ("legged_gym (TorchScript)", "mean", "clip")
    assert (teacher.obs_shape, teacher.outputs) == ((5,), 2)
    assert "not executed" in teacher.meta["note"]
    assert teacher.params == sum(p.numel() for p in module.parameters())
    numbers = played(teacher.fitted(ENV).policy, obs)
    same(numbers, written_out(module.memory, lambda seen: seen, module.actor, obs))
    same(numbers[:, 1], step_by_step(script, obs[:, 1:2]))


def test_long_text_in_torchscript_is_not_looked_at(tmp_path):
    """It was unpacked once for each layer, however long it was."""
    scripted(tmp_path / "whole.pt", PolicyExporterLSTM())
    whole = zipfile.ZipFile(tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "t.pt", "w", zipfile.ZIP_DEFLATED) as target:
        for name in whole.namelist():
            target.writestr(name, whole.read(name) + (b"#" * MAX_CODE_BYTES if name.endswith("activation.py") else b""))
    assert load_teacher(tmp_path / "whole.pt").outputs == 2
    with pytest.raises(FileError, match="its layout is not known"):
        load_teacher(tmp_path / "t.pt")


def of_rsl_rl(kind):
    """A class as if it were in a module of rsl_rl."""
    kind.__module__ = "rsl_rl.modules.some"
    return kind


@of_rsl_rl
class MLP(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x)
        return x


@of_rsl_rl
class EmpiricalNormalization(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.eps, self.until = 0.01, None
        self.register_buffer("_mean", torch.randn(1, size))
        self.register_buffer("_var", torch.rand(1, size) + 0.1)
        self.register_buffer("_std", self._var.sqrt())
        self.register_buffer("count", torch.tensor(0, dtype=torch.long))

    def forward(self, x):
        return (x - self._mean) / (self._std + self.eps)


@of_rsl_rl
class _IdentityDeterministicOutput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@of_rsl_rl
class _FirstSliceDeterministicOutput(_IdentityDeterministicOutput):
    pass


def dense_of_rsl_rl(size, activation=nn.ELU):
    shared = activation()  # between all layers, as rsl_rl has it
    return MLP(nn.Linear(size, 8), shared, nn.Linear(8, 6), shared, nn.Linear(6, 2))


class _TorchPolicyExporter(nn.Module):
    """What Isaac Lab scripts."""

    def __init__(self, normalizer=None, actor=None):
        super().__init__()
        self.is_recurrent = False
        self.actor, self.normalizer = actor or mlp(5, 8, 2, activation=nn.ELU), normalizer or nn.Identity()

    def forward(self, x):
        return self.actor(self.normalizer(x))


class _TorchMLPModel(nn.Module):
    """What rsl_rl scripts."""

    def __init__(self, end=None, **attributes):
        super().__init__()
        self.obs_normalizer, self.mlp = EmpiricalNormalization(5), dense_of_rsl_rl(5)
        self.deterministic_output = end or _IdentityDeterministicOutput()
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.deterministic_output(self.mlp(self.obs_normalizer(x)))


class _TorchGRUModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.obs_normalizer, self.mlp, self.rnn = EmpiricalNormalization(5), dense_of_rsl_rl(12), nn.GRU(5, 12)
        self.register_buffer("hidden_state", torch.zeros(1, 1, 12))

    def forward(self, x):
        out, h = self.rnn(self.obs_normalizer(x).unsqueeze(0), self.hidden_state)
        self.hidden_state[:] = h
        return self.mlp(out.squeeze(0))

    @torch.jit.export
    def reset_memory(self):
        self.hidden_state[:] = 0.0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (_TorchPolicyExporter, "Isaac Lab (TorchScript)"),
        (lambda: _TorchPolicyExporter(EmpiricalNormalization(5), dense_of_rsl_rl(5)), "Isaac Lab (TorchScript)"),
        (_TorchMLPModel, "rsl_rl (TorchScript)"),
        (lambda: _TorchMLPModel(nn.Identity(), state_dependent_std=False), "rsl_rl (TorchScript)"),
        (lambda: mlp(5, 8, 2, activation=nn.Tanh), "TorchScript"),
        (lambda: nn.Sequential(*mlp(5, 8, 6, activation=nn.GELU), nn.LeakyReLU(), nn.Linear(6, 2)), "TorchScript"),
    ],
    ids=["isaac-lab", "isaac-lab-normalised", "rsl_rl", "rsl_rl-4", "sequential", "mixed"],
)
def test_torchscript_of_dense_layers(tmp_path, make, name):
    torch.manual_seed(0)
    script = scripted(tmp_path / "policy.pt", make().eval())
    teacher = load_teacher(tmp_path / "policy.pt")
    assert (teacher.format, teacher.kind) == (name, None if name == "TorchScript" else "mean")
    assert (teacher.obs_shape, teacher.outputs) == ((5,), 2)
    obs = observations(5)[:, 0]
    with torch.no_grad():
        same(teacher.fitted(ENV).policy.network(obs), script(obs))


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    ("plain", "module"),
    [
        *((True, kind()) for kind in ACTIVATIONS.values()),
        *((False, nn.ELU(alpha)) for alpha in (0.5, -1.0, 2, 1e20)),
        *((False, nn.LeakyReLU(slope)) for slope in (0.2, -0.01, 0, 1)),
        (False, nn.GELU("tanh")),
    ],
    ids=str,
)
def test_torchscript_of_an_activation_with_other_parameters_is_refused(tmp_path, traced, plain, module):
    network, path = nn.Sequential(nn.Linear(5, 8), module, nn.Linear(8, 2)), tmp_path / "t.pt"
    if not traced and type(getattr(module, "alpha", getattr(module, "negative_slope", 0.0))) is int:
        pytest.skip("TorchScript takes no integer here")
    scripted(path, network, example=torch.zeros(1, 5) if traced else None)
    if not plain:
        refused(path, None, "TorchScript.*checkpoint.*ONNX")
    else:
        obs = observations(5)[:, 0]
        with torch.no_grad():
            same(load_teacher(path).network(obs), network(obs))


def test_torchscript_of_a_memory_behind_statistics(tmp_path):
    torch.manual_seed(0)
    script, obs = scripted(tmp_path / "policy.pt", _TorchGRUModel().eval()), observations(5)
    teacher = load_teacher(tmp_path / "policy.pt")
    same(played(teacher.fitted(ENV).policy, obs)[:, 1], step_by_step(script, obs[:, 1:2]))


def called(first="0", **more):
    """Dense layers by their numbers, and modules of other names before or behind them."""
    dense = {"0": nn.Linear(5, 8), "1": nn.ELU(), "2": nn.Linear(8, 2)}
    return nn.Sequential(OrderedDict(more | dense if first != "0" else dense | more))


@pytest.mark.parametrize(
    "make",
    [
        lambda: _TorchPolicyExporter(nn.LayerNorm(5)),
        lambda: _TorchPolicyExporter(actor=nn.Sequential(nn.Linear(5, 8), nn.ELU(0.5), nn.Linear(8, 2))),
        lambda: nn.Sequential(nn.Linear(5, 8), nn.ELU(), nn.Linear(8, 6), nn.ELU(2.0), nn.Linear(6, 2)),
        lambda: nn.Sequential(nn.Linear(5, 8), nn.LeakyReLU(), nn.Linear(8, 6), nn.LeakyReLU(0.2), nn.Linear(6, 2)),
        lambda: called(squash=nn.Tanh()),
        lambda: called(first="norm", norm=nn.LayerNorm(5)),
        lambda: nn.Sequential(OrderedDict([("2", nn.Linear(5, 8)), ("1", nn.ELU()), ("0", nn.Linear(8, 2))])),
        lambda: _TorchMLPModel(_FirstSliceDeterministicOutput()),
        lambda: _TorchMLPModel(nn.Tanh()),
        lambda: _TorchMLPModel(state_dependent_std=True),
        lambda: _TorchMLPModel(encoder=nn.Linear(5, 5)),
        lambda: _TorchMLPModel(obs_normalizer=type("Other", (EmpiricalNormalization,), {})(5)),
    ],
    ids=[
        "normaliser",
        "elu",
        "second-elu",
        "second-leaky",
        "named",
        "named-first",
        "order",
        "slice",
        "end",
        "spread",
        "encoder",
        "another",
    ],
)
def test_torchscript_that_does_more_is_refused(tmp_path, make):
    scripted(tmp_path / "t.pt", make())
    refused(tmp_path / "t.pt", None, "TorchScript.*checkpoint.*ONNX")


def test_what_a_hook_does_is_seen_where_it_was_traced(tmp_path):
    module = mlp(5, 8, 2)
    scripted(tmp_path / "t.pt", module, example=torch.zeros(1, 5))
    assert load_teacher(tmp_path / "t.pt").outputs == 2
    module.register_forward_pre_hook(lambda _module, given: (given[0] * 2.0,))
    scripted(tmp_path / "t.pt", module, example=torch.zeros(1, 5))
    refused(tmp_path / "t.pt", None, "TorchScript.*checkpoint.*ONNX")


def test_the_walking_policy_of_a_humanoid():
    path = real_teacher("robots/unitree_g1/motion.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.load(str(path))
    teacher = load_teacher(path)
    assert (teacher.obs_shape, teacher.outputs, teacher.params) == ((47,), 12, 31404)
    policy = Policy(teacher.network, head_for(Bounds((-1.0,) * 12, (1.0,) * 12), "mean"))
    obs = observations(47)
    same(played(policy, obs)[:, 1], step_by_step(script, obs[:, 1:2]))


def changed(**modules):
    exporter = PolicyExporterLSTM()
    for name, module in modules.items():
        setattr(exporter, name, module)
    return exporter


class Doubled(nn.Linear):
    """Not what its layer seems to be."""

    def forward(self, x):
        return 2 * nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(2, 2),
        Shouting(),
        changed(normalizer=nn.Linear(5, 5)),
        changed(actor=nn.Sequential(nn.Linear(12, 8), nn.ELU())),
        changed(actor=nn.Sequential(nn.Linear(12, 8), nn.Hardtanh(), nn.Linear(8, 2))),
        changed(actor=nn.Sequential(nn.Linear(12, 8), nn.ELU(), Doubled(8, 2))),
        changed(actor=nn.Linear(12, 2)),
    ],
    ids=["linear", "class", "normaliser", "odd", "activation", "layer", "no-sequence"],
)
def test_torchscript_of_another_layout_is_refused(tmp_path, module):
    scripted(tmp_path / "t.pt", module)
    refused(tmp_path / "t.pt", None, "TorchScript.*checkpoint.*ONNX")


def rezipped(path, target, change):
    """A file of PyTorch with another pickle."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as out:
        for name in source.namelist():
            content = source.read(name)
            out.writestr(name, change(content) if name.endswith("/data.pkl") else content)
    return target


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        (b"weight_hh_l0", b"weight_hx_l0", "which no plain LSTM or GRU has"),
        (b"ctorch._utils\n_rebuild_tensor_v2", b"cos\nsystem", r"is hostile: it would call .*os\.system"),
        (b"nn.modules.rnn\nLSTM", b"nn.modules.rnn\nGRU", "TorchScript"),
        (b"X\x06\x00\x00\x00memory", b"X\x06\x00\x00\x00memoir", "TorchScript"),
    ],
)
def test_damaged_torchscript_is_refused(tmp_path, old, new, match):
    scripted(tmp_path / "t.pt", PolicyExporterLSTM())
    refused(rezipped(tmp_path / "t.pt", tmp_path / "bad.pt", lambda p: p.replace(old, new)), None, match)


def test_bytes_changed_at_random_end_in_a_sentence_or_a_policy(tmp_path):
    scripted(tmp_path / "t.pt", PolicyExporterLSTM())
    rng = np.random.default_rng(0)

    def change(content):
        edited = bytearray(content)
        for at in rng.integers(0, len(edited), 3):
            edited[at] = rng.choice([0, 1, 255, int(rng.integers(256)), edited[rng.integers(len(edited))]])
        return bytes(edited)

    refusals = []
    for _ in range(200):
        try:
            load_teacher(rezipped(tmp_path / "t.pt", tmp_path / "bad.pt", change))
        except FileError as error:
            refusals.append(str(error))
    assert len(refusals) > 100
    assert all(one.endswith(".") and one.isprintable() for one in refusals)


def test_what_torchscript_says_itself_is_not_asked(tmp_path):
    scripted(tmp_path / "t.pt", PolicyExporterLSTM())
    with pytest.raises(SpecError, match="activation"):
        load_teacher(TeacherFile(str(tmp_path / "t.pt"), activation="relu"))


# -- ONNX


class Exported(nn.Module):
    """A policy whose state goes in and out, as rsl_rl exports it."""

    def __init__(self, kind, first=False):
        super().__init__()
        self.memory, self.actor, self.first = kind(5, 12, 2), mlp(12, 8, 3), first

    def forward(self, obs, *state):
        state = [part.transpose(0, 1) for part in state] if self.first else state
        out, after = self.memory(obs.unsqueeze(0), tuple(state) if len(state) > 1 else state[0])
        after = after if len(state) > 1 else (after,)
        return self.actor(out.squeeze(0)), *(part.transpose(0, 1) if self.first else part for part in after)


def write_onnx(path, module, shape, names, dynamic=None, batch=1):
    """A graph of ``module``; ``names`` of the states before and after."""
    inputs, outputs = ["obs", *names[0]], ["actions", *names[1]]
    example = (torch.zeros(batch, 5), *(torch.zeros(shape) for _ in names[0]))
    axes = {name: {0 if name in ("obs", "actions") else dynamic: "batch"} for name in inputs + outputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), example, str(path), input_names=inputs, output_names=outputs, dynamo=False,
            dynamic_axes=axes if dynamic is not None else None,
        )  # fmt: skip
    return str(path)


@pytest.mark.parametrize(
    ("kind", "names", "batch", "dynamic", "first"),
    [
        (nn.LSTM, (["h_in", "c_in"], ["h_out", "c_out"]), 1, None, False),
        (nn.LSTM, (["h_in", "c_in"], ["h_out", "c_out"]), 1, 1, False),
        (nn.LSTM, (["state_in_0", "state_in_1"], ["state_out_0", "state_out_1"]), 1, 0, True),
        (nn.LSTM, (["h0", "c0"], ["hn", "cn"]), 4, None, False),
        (nn.LSTM, (["hx", "cx"], ["hy", "cy"]), 4, None, False),
        (nn.GRU, (["hiddenState"], ["nextHiddenState"]), 1, None, False),
        (nn.GRU, (["state"], ["next_state"]), 1, 1, False),
    ],
)
def test_onnx(tmp_path, kind, names, batch, dynamic, first):
    torch.manual_seed(0)
    module = Exported(kind, first)
    shape = (batch, 2, 12) if first else (2, batch, 12)
    teacher = load_teacher(write_onnx(tmp_path / "t.onnx", module, shape, names, dynamic, batch))
    assert (teacher.kind, teacher.obs_shape, teacher.outputs, len(teacher.meta["state"])) == (
        "mean",
        (5,),
        3,
        len(names[0]),
    )
    policy = Policy(teacher.network, head_for(Bounds((-1.0,) * 3, (1.0,) * 3), "mean"))
    assert policy.remembers
    assert [part.shape for part in policy.start(7)] == [(7, 2, 12)] * len(names[0])
    obs = observations(5)
    numbers = played(policy, obs)
    same(numbers, written_out(module.memory, lambda seen: seen, module.actor, obs))
    assert torch.equal(played(pickle.loads(pickle.dumps(policy)), obs), numbers)


class Odd(Exported):
    """Its state comes out in another shape."""

    def forward(self, obs, *state):
        numbers, *after = super().forward(obs, *state)
        return numbers, *(torch.cat([part, part]) for part in after)


@pytest.mark.parametrize(
    ("module", "names", "match"),
    [
        (Exported(nn.GRU), (["memory"], ["hidden"]), r"2 inputs \(obs, memory\).*h_in and h_out"),
        (Exported(nn.GRU), (["last_actions"], ["next_actions_"]), "2 inputs"),
        (Odd(nn.GRU), (["h_in"], ["h_out"]), r"2 inputs"),
    ],
)
def test_onnx_of_other_inputs_is_refused(tmp_path, module, names, match):
    refused(write_onnx(tmp_path / "t.onnx", module, (2, 1, 12), names), None, match)


# -- played


class Wandering(gymnasium.Env):
    """Five numbers drawn anew each step; episodes last 4 to 9 steps."""

    observation_space, action_space = VECTOR, BOX

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(4, 10))
        return self._observe(), {}

    def _observe(self):
        return self.np_random.normal(0, 1, 5).astype(np.float32)

    def step(self, action):
        self.left -= 1
        return self._observe(), float(-np.abs(action).sum()), self.left == 0, False, {}


WANDERING = EnvRef("distilrl/WanderingEnv-v0")
if WANDERING.id not in gymnasium.registry:
    gymnasium.register(WANDERING.id, entry_point=Wandering)


@pytest.mark.parametrize("behaviour", ["teacher", "mixed"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_labels_are_those_of_each_episode_played_alone(tmp_path, kind, behaviour):
    torch.manual_seed(0)
    envs = make_vec_env(WANDERING, 4)
    content = recurrent_robot(3, kind(5, 12, 2), mlp(12, 8, 2))
    teacher = read(tmp_path / "t.pt", content).fitted(envs.info)
    width = teacher.head.width
    replay = Replay(ReplaySpec(4 * 61, 4, envs.info.obs, envs.info.action, labels=width), torch.device("cpu"))
    collector = Collector(envs, replay, Behaviour(behaviour), np.random.default_rng(0), teacher)
    for index, _ in enumerate(collector.steps(np.arange(4))):
        if index == 60:
            break
    envs.close()
    episodes = 0
    for env in range(4):
        ends = [-1, *torch.nonzero(replay._flags[:60, env]).flatten().tolist()]
        for before, end in pairwise(ends):
            state = teacher.policy.start(1)
            for row in range(before + 1, end + 1):
                label, state = teacher.label(replay._obs[row, env][None], state)
                same(replay._labels[row, env], label[0], within=1e-6)
            episodes += 1
    assert episodes > 20


@pytest.mark.parametrize("recipe", ["fitnets", "relational"])
def test_its_features_are_not_compared(tmp_path, recipe):
    path = tmp_path / "t.pt"
    torch.save(recurrent_robot(3, nn.GRU(5, 12), mlp(12, 8, 2)), path)
    job = Job(make_config(recipe, WANDERING.id, teacher=str(path), network="mlp:8"))
    with pytest.raises(SpecError, match="memory"):
        distill(None, job, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_it_is_not_asked_about_a_share_of_its_steps(tmp_path):
    """It must have seen them all, so that it would label more than the recipe says, or label what it did not follow."""
    path = tmp_path / "t.pt"
    torch.save(recurrent_robot(3, nn.GRU(5, 12), mlp(12, 8, 2)), path)
    job = Job(make_config("dynamic", WANDERING.id, teacher=str(path), network="mlp:8"))
    with pytest.raises(SpecError, match=r"'labels' of the recipe 'dynamic'.*t\.pt remembers"):
        distill(None, job, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecError, match=r"'labels' of the recipe 'dynamic'.*t\.pt remembers"):
        train(job.train, load_teacher(path))


def test_a_teacher_with_memory_is_copied_sent_and_timed(tmp_path):
    teacher = read(tmp_path / "t.pt", recurrent_robot(2, nn.LSTM(5, 12), mlp(12, 8, 2))).fitted(ENV)
    obs = observations(5)
    for other in (copy.deepcopy(teacher), pickle.loads(pickle.dumps(teacher))):
        assert torch.equal(played(other.policy, obs), played(teacher.policy, obs))
    assert latency_us(teacher.policy, ENV, calls=5) > 0
    with pytest.raises(TeacherError, match="memory"):
        ensemble([teacher, teacher], obs[0])
