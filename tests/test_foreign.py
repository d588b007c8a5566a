"""Files of other libraries: what is loaded gives the library's own forward pass, to 1e-5 on random observations."""

import itertools
import json
import pickle
import shutil
import sys
import warnings
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import onnx
import pytest
import torch
from conftest import SIGN, TEACHERS, make_teacher, real_teacher, sign_network
from torch import nn

from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import FileError, SpecError, TeacherError
from distilrl.heads import Categorical
from distilrl.networks import Network, build, count_macs
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher, TeacherFile, ensemble, load_teacher, vecnormalize
from distilrl.teachers.before import Reading
from distilrl.teachers.vecnormalize import NORMALIZER, unused

PIXELS = (4, 84, 84)


class Frames(gymnasium.Env):
    """Pictures of noise."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gymnasium.spaces.Discrete(6)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def vectors(size=4, count=64):
    return torch.from_numpy(np.random.default_rng(0).normal(0, 2, (count, size)).astype(np.float32))


def pictures(count=4):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, *PIXELS), dtype=np.uint8))


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-5)


# -- stable-baselines3 and sb3-contrib


def write_sb3(path, algorithm, env, **kwargs):
    """A fresh policy, saved by its own library; returns its module."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sb3_contrib
        import stable_baselines3

        kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
        settings = (
            {"n_steps": 8, "batch_size": 8} if algorithm == "PPO" else {} if algorithm == "A2C" else {"buffer_size": 10}
        )
        policy = "CnnPolicy" if isinstance(env, Frames) else "MlpPolicy"
        model = kind(policy, env, seed=1, device="cpu", policy_kwargs=kwargs, **settings)
        model.save(path)
    return model.policy


def own_values(policy, algorithm, obs):
    with torch.no_grad():
        if algorithm in ("PPO", "A2C"):
            return policy.get_distribution(obs).distribution.logits
        if algorithm == "QRDQN":
            return policy.quantile_net(obs).mean(dim=1)
        return policy.q_net(obs)


CASES = {
    "dqn": ("DQN", {"net_arch": [16, 8]}),
    "dqn-linear": ("DQN", {"net_arch": []}),
    "dqn-elu": ("DQN", {"net_arch": [16], "activation_fn": nn.ELU}),
    "dqn-gelu": ("DQN", {"net_arch": [16], "activation_fn": nn.GELU}),
    "ppo-leaky": ("PPO", {"net_arch": [16], "activation_fn": nn.LeakyReLU}),
    "ppo": ("PPO", {}),
    "ppo-relu": ("PPO", {"net_arch": {"pi": [12], "vf": [8]}, "activation_fn": nn.ReLU}),
    "a2c": ("A2C", {"net_arch": [24, 12]}),
    "qrdqn": ("QRDQN", {"net_arch": [16], "n_quantiles": 7}),
}


@pytest.mark.parametrize("case", CASES)
def test_sb3_vectors(tmp_path, case):
    algorithm, kwargs = CASES[case]
    policy = write_sb3(tmp_path / "t.zip", algorithm, "CartPole-v1", **kwargs)
    teacher = load_teacher(tmp_path / "t.zip")
    theirs = own_values(policy, algorithm, vectors())
    ours = teacher.network(vectors())
    if algorithm in ("PPO", "A2C"):  # logits are the same up to a constant
        ours, theirs = ours.log_softmax(1), theirs.log_softmax(1)
    same(ours, theirs)
    assert teacher.kind == ("logits" if algorithm in ("PPO", "A2C") else "q")
    assert teacher.meta["algorithm"] == {"QRDQN": "QR-DQN"}.get(algorithm, algorithm)
    assert "policy_class" in teacher.meta["not_executed"]


@pytest.mark.parametrize(
    ("algorithm", "kwargs"), [("DQN", {}), ("PPO", {}), ("PPO", {"net_arch": [16]}), ("QRDQN", {"n_quantiles": 3})]
)
def test_sb3_pixels(tmp_path, algorithm, kwargs):
    policy = write_sb3(tmp_path / "t.zip", algorithm, Frames(), **kwargs)
    teacher = load_teacher(tmp_path / "t.zip")
    ours, theirs = teacher.network(pictures()), own_values(policy, algorithm, pictures())
    same(ours.log_softmax(1), theirs.log_softmax(1))
    assert (teacher.obs_shape, teacher.outputs) == (PIXELS, 6)
    assert teacher.size()["macs"] > 9e6


class Gate(nn.SiLU):
    """An activation of somebody's own."""


def test_sb3_activations_are_asked_for_where_only_a_pickle_holds_them(tmp_path):
    write_sb3(tmp_path / "t.zip", "DQN", "CartPole-v1", activation_fn=Gate)
    with pytest.raises(FileError, match="--activation"):
        load_teacher(tmp_path / "t.zip")
    assert load_teacher(TeacherFile(str(tmp_path / "t.zip"), activation="elu")).network.spec.activation == "elu"


def test_an_activation_that_the_file_names_is_not_taken_for_another(tmp_path):
    write_sb3(tmp_path / "mish.zip", "DQN", "CartPole-v1", activation_fn=nn.Mish)
    write_sb3(tmp_path / "elu.zip", "DQN", "CartPole-v1", activation_fn=nn.ELU)
    for told in (None, "relu"):
        with pytest.raises(FileError, match=r"activation Mish, which is none of relu.*: export the policy to ONNX"):
            load_teacher(TeacherFile(str(tmp_path / "mish.zip"), activation=told))
    write_sb3(tmp_path / "own.zip", "DQN", "CartPole-v1", activation_fn=partial(nn.LeakyReLU, negative_slope=0.5))
    for told in (None, "leaky_relu"):
        with pytest.raises(FileError, match="an activation with parameters of its own: export the policy to ONNX"):
            load_teacher(TeacherFile(str(tmp_path / "own.zip"), activation=told))
    assert load_teacher(TeacherFile(str(tmp_path / "elu.zip"), activation="elu"))
    with pytest.raises(FileError, match="has the activation elu and not relu: leave --activation out"):
        load_teacher(TeacherFile(str(tmp_path / "elu.zip"), activation="relu"))


def test_sb3_extractors_of_ones_own_are_refused(tmp_path):
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

    class Mine(BaseFeaturesExtractor):
        def __init__(self, space):
            super().__init__(space, 4)

        def forward(self, obs):
            return obs

    write_sb3(tmp_path / "t.zip", "DQN", "CartPole-v1", features_extractor_class=Mine)
    with pytest.raises(FileError, match="ONNX"):
        load_teacher(tmp_path / "t.zip")


def test_a_real_old_ppo_zip():
    teacher = load_teacher(real_teacher("cartpole-ppo-sb3.zip"))
    assert (teacher.kind, teacher.meta["algorithm"], teacher.network.spec.describe()) == (
        "logits",
        "PPO",
        "mlp:64,64@tanh",
    )
    assert teacher.network.spec.activation == "tanh"


def vec_normalize(tmp_path, steps=200, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.vec_env import VecNormalize

        envs = VecNormalize(make_vec_env("CartPole-v1", 2, seed=0), **kwargs)
        envs.reset()
        for _ in range(steps):
            envs.step(np.array([0, 1]))
        envs.save(str(tmp_path / "vec.pkl"))
    return envs, str(tmp_path / "vec.pkl")


def test_vecnormalize_statistics_are_those_of_the_library(tmp_path):
    envs, path = vec_normalize(tmp_path, clip_obs=2.0)
    policy = write_sb3(tmp_path / "t.zip", "DQN", "CartPole-v1")
    teacher = load_teacher(TeacherFile(str(tmp_path / "t.zip"), normalizer=path))
    obs = vectors()
    normal = torch.from_numpy(envs.normalize_obs(obs.numpy().astype(np.float64)).astype(np.float32))
    same(teacher.network(obs), own_values(policy, "DQN", normal))
    assert not {m for m in sys.modules if m.startswith("distilrl") and "cloudpickle" in m}


def test_vecnormalize_of_a_newer_protocol_is_read(tmp_path):
    """Python 3.14 pickles by protocol 5, whose arrays are other opcodes."""
    envs, _ = vec_normalize(tmp_path)
    (tmp_path / "newer.pkl").write_bytes(pickle.dumps(envs, 5))
    for name in ("vec.pkl", "newer.pkl"):
        found, epsilon, clip = vecnormalize.read(tmp_path / name)
        assert (found.mean == envs.obs_rms.mean).all()
        assert (found.var == envs.obs_rms.var).all()
        assert (epsilon, clip) == (envs.epsilon, envs.clip_obs)


def test_a_normalizers_number_of_many_digits_is_no_number(tmp_path):
    envs, _ = vec_normalize(tmp_path)
    envs.epsilon = 1 << 2000
    envs.save(str(tmp_path / "vec.pkl"))
    with pytest.raises(FileError, match="its 'epsilon' is not a number"):
        vecnormalize.read(tmp_path / "vec.pkl")


def test_a_normalizer_that_does_not_fit_is_refused(tmp_path):
    _, path = vec_normalize(tmp_path, steps=1)
    torch.save(sign_network().state_dict(), tmp_path / "t.pt")
    with pytest.raises(FileError, match="reads"):
        load_teacher(TeacherFile(str(tmp_path / "t.pt"), activation="relu", normalizer=path))


def test_a_normalizer_of_rewards_alone_changes_nothing(tmp_path):
    envs, path = vec_normalize(tmp_path, steps=1, norm_obs=False)
    policy, obs = write_sb3(tmp_path / "t.zip", "DQN", "CartPole-v1"), vectors()
    teacher = load_teacher(TeacherFile(str(tmp_path / "t.zip"), normalizer=path))
    same(teacher.network(obs), own_values(policy, "DQN", torch.from_numpy(envs.normalize_obs(obs.numpy()))))
    assert "norm_obs is off" in teacher.meta["note"]
    (tmp_path / "vec.pkl").rename(tmp_path / NORMALIZER)
    assert unused(load_teacher(tmp_path / "t.zip")) == ()
    vec_normalize(tmp_path, steps=1)
    (tmp_path / "vec.pkl").rename(tmp_path / NORMALIZER)
    assert unused(load_teacher(tmp_path / "t.zip")) == (tmp_path / NORMALIZER,)


def test_statistics_that_were_written_down_are_those_of_gymnasium(tmp_path):
    """CleanRL's policies of real actions see what NormalizeObservation made; a checkpoint holds it in its own way."""
    envs = gymnasium.wrappers.NormalizeObservation(gymnasium.make("CartPole-v1"))
    envs.reset(seed=0)
    for _ in range(30):
        if envs.step(1)[2]:
            envs.reset()
    rms, network = envs.obs_rms, sign_network_of(4)
    torch.save({"model": network.state_dict(), "obs_rms": {"mean": rms.mean, "var": rms.var}}, tmp_path / "t.pt")
    file = TeacherFile(str(tmp_path / "t.pt"), activation="relu", kind="q")
    with pytest.raises(FileError, match=r"'obs_rms'.* give it as --normalizer"):
        load_teacher(file)
    numbers = {"mean": rms.mean.tolist(), "var": rms.var.tolist()}
    (tmp_path / "s.json").write_text(json.dumps(numbers))
    teacher = load_teacher(replace(file, normalizer=str(tmp_path / "s.json")))
    obs = vectors()
    envs.update_running_mean = False
    normal = (obs.double() - torch.tensor(rms.mean)) / torch.tensor(rms.var + envs.epsilon).sqrt()
    same(teacher.network(obs), network(normal.float()))
    (tmp_path / "s.json").write_text(json.dumps(numbers | {"clip": 0.5, "epsilon": 1.0}))
    clipped = load_teacher(replace(file, normalizer=str(tmp_path / "s.json")))
    normal = ((obs.double() - torch.tensor(rms.mean)) / torch.tensor(rms.var + 1.0).sqrt()).clamp(-0.5, 0.5)
    same(clipped.network(obs), network(normal.float()))
    assert clipped.digest != teacher.digest
    for wrong in (
        [1], {"mean": [0.0]}, numbers | {"std": [1.0]}, numbers | {"var": [-1.0] * 4}, numbers | {"var": [1.0]},
        numbers | {"clip": 0}, numbers | {"epsilon": None}, numbers | {"mean": [[0.0] * 4]},
        numbers | {"mean": ["a"] * 4},
    ):  # fmt: skip
        (tmp_path / "s.json").write_text(json.dumps(wrong))
        with pytest.raises(FileError, match="must hold 'mean' and 'var'"):
            load_teacher(replace(file, normalizer=str(tmp_path / "s.json")))
    (tmp_path / "s.json").write_text(json.dumps({"mean": [0.0] * 3, "var": [1.0] * 3}))
    with pytest.raises(FileError, match=r"observations of shape \(3,\), but the teacher .* reads \(4,\)"):
        load_teacher(replace(file, normalizer=str(tmp_path / "s.json")))


def sign_network_of(width):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, 2))


# -- CleanRL and plain state dicts


def chain(sizes, activation, atoms=1):
    layers = []
    for i, (fan_in, out) in enumerate(itertools.pairwise(sizes)):
        layers += [activation()] if i else []
        layers.append(nn.Linear(fan_in, out * atoms if i == len(sizes) - 2 else out))
    return nn.Sequential(*layers)


class Holder(nn.Module):
    """Modules under names."""

    def __init__(self, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)


def nature(outputs=6, head=True):
    convs = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU()]
    return nn.Sequential(
        *convs, nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), *([nn.Linear(512, outputs)] if head else [])
    )


def save(model, path, wrap=False):
    torch.save(
        {"model_weights": model.state_dict(), "args": {"env_id": "x", "seed": 1}} if wrap else model.state_dict(), path
    )
    return load_teacher(path)


def test_cleanrl_dqn(tmp_path):
    model = Holder(network=chain((4, 120, 84, 2), nn.ReLU))
    teacher = save(model, tmp_path / "dqn.cleanrl_model")
    same(teacher.network(vectors()), model.network(vectors()))
    assert (teacher.format, teacher.kind) == ("CleanRL DQN", "q")


def test_cleanrl_ppo(tmp_path):
    model = Holder(critic=chain((4, 64, 64, 1), nn.Tanh), actor=chain((4, 64, 64, 2), nn.Tanh))
    teacher = save(model, tmp_path / "ppo.cleanrl_model")
    same(teacher.network(vectors()), model.actor(vectors()))
    assert (teacher.format, teacher.kind) == ("CleanRL PPO", "logits")


def test_cleanrl_dqn_atari(tmp_path):
    model = Holder(network=nature())
    same(save(model, tmp_path / "t.cleanrl_model").network(pictures()), model.network(pictures() / 255.0))


def test_cleanrl_ppo_atari(tmp_path):
    model = Holder(network=nature(head=False), actor=nn.Linear(512, 6), critic=nn.Linear(512, 1))
    teacher = save(model, tmp_path / "t.pth")
    same(teacher.network(pictures()), model.actor(model.network(pictures() / 255.0)))
    assert teacher.kind == "logits"


@pytest.mark.parametrize("wrap", [True, False])
def test_cleanrl_c51(tmp_path, wrap):
    model = Holder(network=chain((4, 120, 84, 2), nn.ReLU, atoms=11))
    model.register_buffer("atoms", torch.linspace(-10, 10, 11))
    teacher = save(model, tmp_path / "c51.cleanrl_model", wrap)
    values = (model.network(vectors()).view(-1, 2, 11).softmax(2) * model.atoms).sum(2)
    same(teacher.network(vectors()), values)
    assert (teacher.outputs, teacher.obs_shape, teacher.format) == (2, (4,), "CleanRL C51")


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv0, self.conv1 = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x):
        return x + self.conv1(torch.relu(self.conv0(torch.relu(x))))


class Stage(nn.Module):
    def __init__(self, fan_in, out):
        super().__init__()
        self.conv, self.res_block0, self.res_block1 = nn.Conv2d(fan_in, out, 3, padding=1), Block(out), Block(out)

    def forward(self, x):
        return self.res_block1(self.res_block0(nn.functional.max_pool2d(self.conv(x), 3, 2, 1)))


@pytest.mark.parametrize("policy", [True, False])
def test_cleanrl_residual_networks(tmp_path, policy):
    stages = [Stage(4, 8), Stage(8, 16), Stage(16, 16)]
    head = [] if policy else [nn.ReLU(), nn.Linear(32, 6)]
    model = Holder(network=nn.Sequential(*stages, nn.Flatten(), nn.ReLU(), nn.Linear(16 * 121, 32), *head))
    if policy:
        model.actor, model.critic = nn.Linear(32, 6), nn.Linear(32, 1)
    teacher = save(model, tmp_path / "t.cleanrl_model")
    theirs = model.network(pictures() / 255.0)
    same(teacher.network(pictures()), model.actor(theirs.relu()) if policy else theirs)
    assert teacher.name == "resnet:8,16,16:32"
    assert teacher.kind == ("logits" if policy else "q")


def test_a_residual_network_in_our_own_format(tmp_path):
    from distilrl.checkpoints import save_network

    network = build(NetworkSpec.parse("resnet:4,8:16", PIXELS, 3), torch.Generator().manual_seed(0))
    network.standardise(torch.tensor([40.0]), torch.tensor([0.02]))
    save_network(tmp_path / "n", network, Categorical(Choices((3,))))
    same(load_teacher(tmp_path / "n").network(pictures()), network(pictures()))


def test_a_dueling_network_ships_as_a_plain_one(tmp_path):
    from distilrl.checkpoints import load_network, save_network

    network = build(NetworkSpec((4,), 3, hidden=(8,), dueling=True), torch.Generator().manual_seed(0))
    values, advantage = network.layers[-1].value, network.layers[-1].advantage
    hidden = network.layers[1](network.layers[0](vectors()))
    expected = values(hidden) + advantage(hidden) - advantage(hidden).mean(1, keepdim=True)
    same(network(vectors()), expected)
    save_network(tmp_path / "n", network, Categorical(Choices((3,))))
    shipped = load_network(tmp_path / "n").network
    assert not shipped.spec.dueling
    same(shipped(vectors()), expected)


def test_plain_mlps_need_their_activation(tmp_path):
    model = chain((4, 8, 2), nn.Tanh)
    path = str(tmp_path / "t.pt")
    torch.save(model.state_dict(), path)
    with pytest.raises(FileError, match="--activation"):
        load_teacher(path)
    same(load_teacher(TeacherFile(path, activation="tanh")).network(vectors()), model(vectors()))


def test_safetensors_and_other_strides_with_a_spec(tmp_path):
    import safetensors.torch

    model = nn.Sequential(
        nn.Conv2d(4, 8, 6, 3), nn.ReLU(), nn.Conv2d(8, 8, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 12 * 12, 6)
    )
    path = str(tmp_path / "t.safetensors")
    safetensors.torch.save_file(model.state_dict(), path)
    with pytest.raises(FileError, match="--teacher-network"):
        load_teacher(path)
    teacher = load_teacher(TeacherFile(path, network="cnn:8k6s3,8k4s2:", divisor=128.0))
    same(teacher.network(pictures()), model(pictures() / 128.0))


def test_prefixes_of_compiled_and_parallel_models_are_dropped(tmp_path):
    model = Holder(network=chain((4, 120, 84, 2), nn.ReLU))
    torch.save({f"_orig_mod.module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "t.pt")
    same(load_teacher(tmp_path / "t.pt").network(vectors()), model.network(vectors()))


class Heads(nn.Module):
    """PyTorch's own actor-critic, and a dueling one: heads without a dot in their names."""

    def __init__(self, *heads):
        super().__init__()
        self.affine1 = nn.Linear(4, 8)
        for name, size in heads:
            setattr(self, name, nn.Linear(8, size))


def test_the_head_of_a_critic_is_no_layer_of_the_actor(tmp_path):
    model = Heads(("action_head", 2), ("value_head", 1))
    torch.save(model.state_dict(), tmp_path / "t.pt")
    with pytest.raises(FileError, match="--activation"):
        load_teacher(tmp_path / "t.pt")
    teacher = load_teacher(TeacherFile(tmp_path / "t.pt", activation="relu"))
    same(teacher.network(vectors()), model.action_head(model.affine1(vectors()).relu()))


@pytest.mark.parametrize("head", ["q_values", "log_probs", "reward", "action_net"])
def test_an_acting_head_may_be_called_as_a_critics(tmp_path, head):
    model = Heads((head, 2))
    torch.save(model.state_dict(), tmp_path / "t.pt")
    teacher = load_teacher(TeacherFile(tmp_path / "t.pt", activation="relu"))
    same(teacher.network(vectors()), getattr(model, head)(model.affine1(vectors()).relu()))


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ((("value", 1), ("advantage", 2)), "a stream of values and one of advantages: export the policy to ONNX"),
        ((("left", 2), ("right", 3)), "'right' in .* reads 8 numbers, and 'left' before it gives 2: it holds several"),
    ],
)
def test_heads_that_are_no_chain_are_not_read_as_one(tmp_path, heads, told):
    torch.save(Heads(*heads).state_dict(), tmp_path / "t.pt")
    with pytest.raises(FileError, match=told):
        load_teacher(TeacherFile(tmp_path / "t.pt", activation="relu"))


def test_the_state_dict_of_a_policy_of_stable_baselines3(tmp_path):
    policy = write_sb3(tmp_path / "t.zip", "PPO", "CartPole-v1", net_arch={"pi": [8, 6], "vf": [5]})
    torch.save(policy.state_dict(), tmp_path / "t.pt")
    teacher = load_teacher(TeacherFile(tmp_path / "t.pt", activation="tanh"))
    same(teacher.network(vectors()).log_softmax(1), own_values(policy, "PPO", vectors()).log_softmax(1))
    assert teacher.kind == "logits"
    policy = write_sb3(tmp_path / "t.zip", "PPO", "Pendulum-v1", net_arch=[8])
    torch.save(policy.state_dict(), tmp_path / "t.pt")
    assert load_teacher(TeacherFile(tmp_path / "t.pt", activation="tanh")).kind == "mean"
    other = {name.replace("policy_net.0", "policy_net.fc"): one for name, one in policy.state_dict().items()}
    torch.save(other, tmp_path / "t.pt")
    with pytest.raises(FileError, match=r"mlp_extractor\.policy_net\.fc"):
        load_teacher(TeacherFile(tmp_path / "t.pt", activation="tanh"))


def test_the_network_that_is_told_is_that_of_the_file(tmp_path):
    model = chain((4, 24, 2), nn.ELU)
    torch.save(model.state_dict(), tmp_path / "t.pt")
    with pytest.raises(FileError, match="hidden layers of 24, but 'mlp:99@elu' of 99"):
        load_teacher(TeacherFile(tmp_path / "t.pt", network="mlp:99@elu"))
    with pytest.raises(FileError, match="hidden layers of 24, but 'mlp:' of none"):
        load_teacher(TeacherFile(tmp_path / "t.pt", network="mlp:"))
    with pytest.raises(FileError, match="say which with --activation"):
        load_teacher(TeacherFile(tmp_path / "t.pt", network="mlp:24"))
    with pytest.raises(FileError, match=r"which 'mlp:24\+gru:4' is not"):
        load_teacher(TeacherFile(tmp_path / "t.pt", network="mlp:24+gru:4"))
    same(load_teacher(TeacherFile(tmp_path / "t.pt", network="mlp:24@elu")).network(vectors()), model(vectors()))


def test_what_stands_before_a_network_changes_nothing_in_its_size():
    network = build(NetworkSpec((3,), 2, hidden=(64, 64)))
    macs = 3 * 64 + 64 * 64 + 64 * 2
    assert count_macs(network, (3,)) == macs
    assert count_macs(Reading(network, (0, 2, 4)), (5,)) == macs


@pytest.mark.parametrize(
    ("wanted", "own", "told"),
    [
        ((6, 40, 40), (3, 40, 40), "--stack 2"),
        ((3, 20, 30), (3, 40, 40), "--resize 20 30"),
        ((4, 84, 84), (3, 210, 160), "--grey --resize 84 84 --stack 4"),
        ((1, 40, 40), (3, 40, 40), "--grey"),
        ((5, 40, 40), (2, 40, 40), "choose the environment it was trained in, or wrap this one"),
    ],
)
def test_options_that_make_images_fit_are_named(wanted, own, told):
    network = build(NetworkSpec(wanted, 2, convs=((2, 8, 8),), hidden=()))
    teacher = Teacher(network, "q", "x", "memory", "0" * 64, obs_shape=wanted, outputs=2)
    info = EnvInfo(EnvRef("Mine-v0"), ObsSpec(own, own, "uint8"), Choices((2,)))
    with pytest.raises(TeacherError, match=f"{told}"):
        teacher.fitted(info)


def test_several_networks_in_one_file_are_not_guessed_between(tmp_path):
    torch.save(Holder(left=chain((4, 8, 2), nn.ReLU), right=chain((4, 8, 2), nn.ReLU)).state_dict(), tmp_path / "t.pt")
    with pytest.raises(FileError, match="several networks"):
        load_teacher(tmp_path / "t.pt")


def test_recurrent_policies_of_an_unknown_layout_are_refused(tmp_path):
    torch.save(Holder(net=chain((4, 8), nn.ReLU), gru=nn.GRU(8, 8)).state_dict(), tmp_path / "t.pt")
    with pytest.raises(FileError, match=r"recurrent .* ONNX"):
        load_teacher(tmp_path / "t.pt")


def test_an_answer_that_nobody_asked_is_refused(tmp_path):
    torch.save(chain((4, 8, 2), nn.ReLU).state_dict(), tmp_path / "t.pt")
    with pytest.raises(SpecError, match="output"):
        load_teacher(TeacherFile(str(tmp_path / "t.pt"), activation="relu", output="q"))


def test_the_real_cleanrl_file_is_the_sb3_one():
    ours = load_teacher(real_teacher("pong-dqn.cleanrl_model"))
    same(ours.network(pictures()), load_teacher(TEACHERS / "pong-dqn-sb3.zip").network(pictures()))


@pytest.mark.parametrize("first", [0x82, 0xDE])
def test_files_of_jax_are_named(tmp_path, first):
    (tmp_path / "dqn_jax.cleanrl_model").write_bytes(bytes([first]) + b"\xa6params\x80")
    with pytest.raises(FileError, match=r"is of JAX .* export the policy to ONNX\.$"):
        load_teacher(tmp_path / "dqn_jax.cleanrl_model")
    with zipfile.ZipFile(tmp_path / "sbx.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": "sbx.ppo.policies"}}))
    with pytest.raises(FileError, match=r"is of SBX, whose networks are JAX's .* export the policy to ONNX\.$"):
        load_teacher(tmp_path / "sbx.zip")


# -- ONNX


def write_onnx(path, module, example, *, dynamic=True, names=("obs",), outputs=("q_values",)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {name: {0: "batch"} for name in (*names, *outputs)} if dynamic else None
        torch.onnx.export(
            module.eval(),
            example if isinstance(example, tuple) else (example,),
            str(path),
            input_names=list(names),
            output_names=list(outputs),
            dynamic_axes=axes,
            dynamo=False,
        )
    return str(path)


@pytest.mark.parametrize(("name", "refused"), [("probs", True), ("action_probabilities", True), ("log_probs", False)])
def test_onnx_that_gives_probabilities_is_not_taken_for_action_values(tmp_path, name, refused):
    path = write_onnx(tmp_path / "t.onnx", chain((4, 8, 2), nn.Tanh), torch.zeros(1, 4), outputs=(name,))
    if refused:
        with pytest.raises(FileError, match=f"gives probabilities \\('{name}'\\)"):
            load_teacher(path)
    assert load_teacher(TeacherFile(path, kind="q")).kind == "q"
    assert refused or load_teacher(path).kind is None


class Scaled(nn.Module):
    def __init__(self, network, divisor, last=False):
        super().__init__()
        self.network, self.divisor, self.last = network, divisor, last

    def forward(self, x):
        x = x.permute(0, 3, 1, 2) if self.last else x
        return self.network(x.float() / self.divisor)


@pytest.mark.parametrize("dynamic", [True, False])
def test_onnx_vectors(tmp_path, dynamic):
    model = chain((4, 16, 2), nn.Tanh)
    teacher = load_teacher(write_onnx(tmp_path / "t.onnx", model, torch.zeros(3, 4), dynamic=dynamic))
    same(teacher.network(vectors()), model(vectors()))
    assert (teacher.params, teacher.obs_shape, teacher.outputs, teacher.kind) == (114, (4,), 2, "q")


def test_what_stable_baselines3_exports_of_sac_names_its_squash(tmp_path):
    """Its own recipe: the actor's deterministic action, before it is scaled to the bounds."""
    warnings.simplefilter("ignore")
    from stable_baselines3 import SAC

    class Actor(nn.Module):
        def __init__(self, actor):
            super().__init__()
            self.actor = actor

        def forward(self, obs):
            return self.actor(obs, deterministic=True)

    model = SAC("MlpPolicy", "Pendulum-v1", device="cpu", buffer_size=10, seed=0)
    path = write_onnx(tmp_path / "t.onnx", Actor(model.policy.actor), torch.zeros(1, 3), outputs=("output",))
    with pytest.raises(TeacherError, match="or scale where -1 to 1 stand"):
        load_teacher(path).fitted(describe_env("Pendulum-v1"))
    teacher, obs = load_teacher(TeacherFile(path, squash="scale")), vectors(3)
    theirs = torch.from_numpy(model.predict(obs.numpy(), deterministic=True)[0])
    same(teacher.fitted(describe_env("Pendulum-v1")).policy.act(obs)[0], theirs)
    plain = load_teacher(write_onnx(tmp_path / "p.onnx", chain((4, 8, 2), nn.Tanh), torch.zeros(1, 4), outputs=("mu",)))
    assert "note" not in plain.meta


def test_onnx_of_rl_games_acts_as_its_player_does(tmp_path):
    """It clips to ±1 and scales to the bounds, which an exported network does not."""

    class Exported(nn.Module):
        def __init__(self):
            super().__init__()
            self.mu = nn.Linear(3, 1)

        def forward(self, obs):
            return self.mu(obs), torch.zeros(1), obs.sum(1, keepdim=True)

    path = write_onnx(tmp_path / "t.onnx", Exported(), torch.zeros(1, 3), outputs=("mu", "log_std", "value"))
    wide = describe_env("Pendulum-v1")  # ±2
    with pytest.raises(TeacherError, match="or scale where -1 to 1 stand"):
        load_teacher(path).fitted(wide)
    assert load_teacher(TeacherFile(str(path), squash="scale")).fitted(wide).action == wide.action


@pytest.mark.parametrize("names", [("mean", "log_std"), ("mean", "std"), ("actions", "logstd"), ("mu", "sigma")])
def test_onnx_of_a_mean_beside_its_spread_asks_what_comes_behind(tmp_path, names):
    """CleanRL's SAC gives mean and log_std, and squashes what it drew of them: its mean was clipped without a word."""

    class Actor(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean, self.spread = nn.Linear(3, 1), nn.Linear(3, 1)

        def forward(self, obs):
            return self.mean(obs), self.spread(obs)

    path = write_onnx(tmp_path / "t.onnx", Actor(), torch.zeros(1, 3), outputs=names)
    for output in (None, names[0]):
        with pytest.raises(TeacherError, match="--squash"):
            load_teacher(TeacherFile(path, output=output)).fitted(describe_env("Pendulum-v1"))
    found = load_teacher(TeacherFile(path, squash="tanh")).fitted(describe_env("Pendulum-v1"))
    assert found.squash == "tanh"


def test_onnx_whose_divisor_lies_beside_it(tmp_path, monkeypatch):
    """It was looked for in the working folder, where another file may have that name."""
    (tmp_path / "there").mkdir()
    path = Path(write_onnx(tmp_path / "t.onnx", Scaled(nature(), 255.0), torch.zeros(1, 4, 84, 84)))
    onnx.save_model(
        onnx.load(path), str(tmp_path / "there" / "t.onnx"), save_as_external_data=True, location="w", size_threshold=0
    )
    monkeypatch.chdir(tmp_path)
    teacher = load_teacher(tmp_path / "there" / "t.onnx")
    assert teacher.meta["pixels_divided_by"] == 1.0


def test_onnx_of_a_cube_says_which_side_is_taken_for_the_channels(tmp_path):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(512, 3))
    path = write_onnx(tmp_path / "t.onnx", flat, torch.zeros(1, 8, 8, 8))
    assert "are all 8: the first is taken" in load_teacher(TeacherFile(path, divisor=1.0)).meta["note"]


def test_onnx_of_chosen_actions_is_refused(tmp_path):
    class Policy(nn.Module):
        """As stable-baselines3's documentation exports PPO: action, value, log probability."""

        def __init__(self):
            super().__init__()
            self.actor, self.critic = chain((4, 8, 2), nn.Tanh), chain((4, 8, 1), nn.Tanh)

        def forward(self, obs):
            logits = self.actor(obs)
            return logits.argmax(1), self.critic(obs), logits.log_softmax(1).amax(1)

    names = ("output", "value", "log_prob")
    path = write_onnx(tmp_path / "t.onnx", Policy(), torch.zeros(1, 4), outputs=names)
    for file in (TeacherFile(path), TeacherFile(path, output="output")):
        with pytest.raises(FileError, match=r"gives chosen actions \('output'\).*: export the graph up to its logits"):
            load_teacher(file)


@pytest.mark.parametrize("last", [True, False])
def test_onnx_pixels_as_bytes(tmp_path, last):
    model = Scaled(nature(), 255.0, last)
    obs = pictures().permute(0, 2, 3, 1) if last else pictures()
    teacher = load_teacher(write_onnx(tmp_path / "t.onnx", model, obs[:1]))
    same(teacher.network(pictures()), model(obs))


@pytest.mark.parametrize("divisor", [255.0, 256.0])
def test_onnx_bytes_are_not_divided(tmp_path, divisor):
    path = write_onnx(tmp_path / "t.onnx", Scaled(nature(), 255.0), pictures()[:1])
    with pytest.raises(FileError, match="takes pixels as bytes, which are not divided: leave the divisor out"):
        load_teacher(TeacherFile(path, divisor=divisor))
    load_teacher(TeacherFile(path, divisor=1.0))


def test_onnx_pixels_as_floats(tmp_path):
    inside = load_teacher(write_onnx(tmp_path / "inside.onnx", Scaled(nature(), 255.0), pictures()[:1].float()))
    assert inside.meta["pixels_divided_by"] == 1.0
    model = nature()
    path = write_onnx(tmp_path / "t.onnx", model, pictures()[:1].float())
    with pytest.raises(FileError, match="--divisor"):
        load_teacher(path)
    same(load_teacher(TeacherFile(path, divisor=255.0)).network(pictures()), model(pictures() / 255.0))


def test_onnx_outputs_are_told_apart_or_asked_for(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.a(x), self.b(x), self.a(x).argmax(1)

    model = Two()
    known = load_teacher(
        write_onnx(tmp_path / "known.onnx", model, torch.zeros(1, 4), outputs=("features", "logits", "action"))
    )
    assert known.kind == "logits"
    same(known.network(vectors()), model.b(vectors()))
    assert known.kind == "logits"
    path = write_onnx(tmp_path / "t.onnx", model, torch.zeros(1, 4), outputs=("left", "right", "action"))
    with pytest.raises(FileError, match="--teacher-output"):
        load_teacher(path)
    same(load_teacher(TeacherFile(path, output="right")).network(vectors()), model.b(vectors()))
    with pytest.raises(FileError, match=r"has the outputs left .*: none is called Q\.$"):
        load_teacher(TeacherFile(path, output="Q"))

    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.values = nn.Linear(4, 2)

        def forward(self, x):
            return self.values(x).argmax(1)

    with pytest.raises(FileError, match="export the graph up to its action values"):
        load_teacher(write_onnx(tmp_path / "chosen.onnx", Chosen(), torch.zeros(1, 4), outputs=("action",)))


ROBOT = EnvInfo(EnvRef("robot"), ObsSpec((4,)), Bounds((-1.0, -0.5), (1.0, 0.5)))


def test_onnx_of_real_actions(tmp_path):
    model = chain((4, 16, 2), nn.Tanh)
    clipped = model(vectors()).clamp(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 0.5]))
    for name, kind in (("output", None), ("continuous_actions", "mean"), ("mu", "mean")):
        teacher = load_teacher(write_onnx(tmp_path / "t.onnx", model, torch.zeros(1, 4), outputs=(name,)))
        assert (teacher.kind, teacher.outputs, teacher.action) == (kind, 2, None)
        same(teacher.fitted(ROBOT).policy.act(vectors())[0], clipped)
    squashed = load_teacher(TeacherFile(str(tmp_path / "t.onnx"), squash="tanh")).fitted(ROBOT)
    same(squashed.policy.act(vectors())[0], torch.tanh(model(vectors())) * torch.tensor([1.0, 0.5]))
    choices = EnvInfo(EnvRef("choices"), ObsSpec((4,)), Choices((2,)))
    unnamed = load_teacher(write_onnx(tmp_path / "t.onnx", model, torch.zeros(1, 4), outputs=("output",)))
    assert unnamed.fitted(choices).kind == "q"
    with pytest.raises(TeacherError, match="2 numbers"):
        unnamed.fitted(EnvInfo(EnvRef("other"), ObsSpec((4,)), Bounds((-1.0,) * 3, (1.0,) * 3)))


def test_onnx_of_one_real_action_and_of_mean_and_spread(tmp_path):
    one = load_teacher(
        write_onnx(tmp_path / "t.onnx", chain((4, 8, 1), nn.ReLU), torch.zeros(1, 4), outputs=("output",))
    )
    assert one.fitted(EnvInfo(EnvRef("one"), ObsSpec((4,)), Bounds((-1.0,), (1.0,)))).head.width == 1
    model = chain((4, 8, 4), nn.SiLU)
    path = write_onnx(tmp_path / "t.onnx", model, torch.zeros(1, 4), outputs=("output",))
    both = load_teacher(TeacherFile(path, kind="gaussian", squash="tanh")).fitted(ROBOT)
    same(both.policy.act(vectors())[0], torch.tanh(model(vectors())[:, :2]) * torch.tensor([1.0, 0.5]))


def test_a_real_robot_walks_by_twelve_numbers():
    teacher = load_teacher(real_teacher("robots/unitree_go1/policy.onnx"))
    assert (teacher.kind, teacher.outputs, teacher.obs_shape) == ("mean", 12, (48,))


def test_weights_beside_a_graph_count_in_its_digest(tmp_path):
    import onnx

    path = write_onnx(tmp_path / "t.onnx", chain((4, 400, 2), nn.ReLU), torch.zeros(1, 4))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.bin", size_threshold=10)
    first = load_teacher(path)
    weights = bytearray((tmp_path / "w.bin").read_bytes())
    weights[0] ^= 1
    (tmp_path / "w.bin").write_bytes(bytes(weights))
    assert load_teacher(path).digest != first.digest


class Tracking(nn.Module):
    """A policy beside a motion that is looked up, as whole-body tracking exports it."""

    def __init__(self):
        super().__init__()
        self.actor = chain((4, 400, 2), nn.ELU)
        self.motion = nn.Buffer(torch.rand(500, 3))

    def forward(self, obs, time_step):
        return self.actor(obs), self.motion[time_step.long().squeeze(-1).clamp(max=499)]


def write_tracking(path, model):
    inputs, names = (torch.zeros(1, 4), torch.zeros(1, 1)), ("obs", "time_step")
    return write_onnx(path, model, inputs, dynamic=False, names=names, outputs=("actions", "joint_pos"))


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("told", [None, "actions"])
def test_inputs_that_do_not_reach_the_action_are_left_out(tmp_path, beside, told):
    import onnx

    model = Tracking()
    path = write_tracking(tmp_path / "t.onnx", model)
    onnx.save(onnx.load(path), path, save_as_external_data=beside, location="w.bin", size_threshold=10)
    teacher = load_teacher(TeacherFile(path, output=told))
    same(teacher.network(vectors()), model.actor(vectors()))
    assert (teacher.kind, teacher.obs_shape) == ("mean", (4,))
    assert teacher.params == sum(p.numel() for p in model.actor.parameters()), "the motion is no part of the policy"
    assert "time_step" in teacher.meta["left_out"]
    sent = pickle.dumps(teacher)
    shutil.rmtree(tmp_path)
    assert torch.equal(pickle.loads(sent).network(vectors()), teacher.network(vectors()))


def test_weights_that_a_file_lists_among_its_inputs_are_not_told_as_left_out(tmp_path):
    import onnx

    model = chain((4, 8, 2), nn.ELU)
    path = write_onnx(tmp_path / "t.onnx", model, torch.zeros(1, 4), outputs=("actions",))
    graph = onnx.load(path)
    for tensor in graph.graph.initializer:  # as before version 4 of the format
        graph.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(graph, path)
    teacher = load_teacher(path)
    assert "left_out" not in teacher.meta
    same(teacher.network(vectors()), model(vectors()))


def test_an_input_that_reaches_the_action_is_never_left_out(tmp_path):
    class Late(Tracking):
        def forward(self, obs, time_step):
            return self.actor(obs) + time_step, obs

    with pytest.raises(FileError, match=r"has 2 inputs \(obs, time_step\)"):
        load_teacher(write_tracking(tmp_path / "t.onnx", Late()))


@pytest.mark.parametrize("beside", [False, True])
def test_a_teacher_of_onnx_can_be_sent_to_another_process(tmp_path, beside):
    import onnx

    path = write_onnx(tmp_path / "t.onnx", chain((4, 400, 2), nn.ReLU), torch.zeros(1, 4))
    onnx.save(onnx.load(path), path, save_as_external_data=beside, location="w.bin", size_threshold=10)
    teacher = load_teacher(path)
    sent = pickle.dumps(teacher)
    shutil.rmtree(tmp_path)
    assert torch.equal(pickle.loads(sent).network(vectors()), teacher.network(vectors()))


def test_the_digest_names_all_that_decides_the_answers(tmp_path):
    path = str(tmp_path / "t.pt")
    torch.save(chain((4, 8, 2), nn.ReLU).state_dict(), path)
    told = (
        {"activation": "relu"},
        {"activation": "tanh"},
        {"activation": "relu", "kind": "logits"},
        {"activation": "relu", "squash": "tanh"},
    )
    teachers = [load_teacher(TeacherFile(path, **one)) for one in told]
    assert len({t.digest for t in teachers}) == 4
    assert len({t.meta["file_sha256"] for t in teachers}) == 1
    assert load_teacher(TeacherFile(path, activation="relu")).digest == teachers[0].digest


@pytest.mark.parametrize(
    "told", [{"kind": "x"}, {"squash": "x"}, {"kind": "q", "squash": "tanh"}, {"divisor": float("nan")}]
)
def test_answers_that_mean_nothing_are_refused(told):
    with pytest.raises(SpecError):
        TeacherFile("t.pt", **told)


# -- callables and ensembles


def test_callables_and_decision_rules():
    values = Teacher.from_callable(lambda obs: torch.stack([-obs[:, 0], obs[:, 0]], 1), 2)
    rule = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).numpy().astype(int), 2, obs_shape=(2,)).fitted(
        describe_env(SIGN)
    )
    obs = vectors(2)
    assert torch.equal(values.network(obs).argmax(1), rule.network(obs).argmax(1))
    assert rule.params is None
    assert rule.size() == {"params": None, "bytes": None, "macs": None}
    module = Teacher.from_callable(nn.Linear(2, 2), 2, obs_shape=(2,))
    assert (module.params, module.size()["macs"]) == (6, 4)


def test_a_callable_that_answers_in_the_wrong_shape_is_refused():
    from distilrl.acceptance import accept
    from distilrl.episodes import Play

    with pytest.raises(TeacherError, match="must be"):
        accept(
            Teacher.from_callable(lambda obs: torch.zeros(len(obs), 3), 2).fitted(describe_env(SIGN)),
            Play(EnvRef(SIGN)),
            episodes=2,
        )


def test_a_decision_rule_is_distilled_to_the_end(tmp_path):
    from distilrl.comparison import Comparison
    from distilrl.distill import distill
    from distilrl.jobs import Job, make_config

    rule = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), 2)
    config = make_config("distil", SIGN, network="mlp:8", env_steps=6000, check_every=2000)
    results = distill(rule, Job(config, Comparison(20, 20, 0), accept_episodes=10), tmp_path / "run")
    assert results.teacher.params is None
    assert results.student.score > 0.9


def test_an_ensemble_is_the_mean_of_probabilities():
    g = torch.Generator().manual_seed(0)
    members = [make_teacher(build(NetworkSpec((4,), 3, hidden=(8,)), g)) for _ in range(2)]
    for member in members:
        member.network.scale_head(50.0)
    both = ensemble(members, vectors())
    temperatures = both.meta["temperatures"]
    mean = torch.stack(
        [(m.network(vectors()) / t).softmax(1) for m, t in zip(members, temperatures, strict=True)]
    ).mean(0)
    same(both.network(vectors()), mean.log())
    assert both.params == sum(m.params for m in members)
    with pytest.raises(TeacherError, match="differ"):
        ensemble([members[0], make_teacher(sign_network())], vectors())


def test_multiply_accumulates_are_those_of_the_layers():
    for text, shape in (("cnn:8,8,8:16", PIXELS), ("resnet:4,8:16", PIXELS), ("mlp:8,8", (4,))):
        network = Network(NetworkSpec.parse(text, shape, 3))
        assert network.spec.params == sum(p.numel() for p in network.parameters())
        teacher = Teacher.from_callable(network.layers.float(), 3, obs_shape=shape)
        with_float = nn.Sequential(Floats(), network.layers)
        assert count_macs(with_float, shape) == network.spec.macs, (text, teacher)


class Floats(nn.Module):
    def forward(self, x):
        return x.float()


# -- the command line


def test_inspect_prints_what_a_file_is(tmp_path, capsys):
    from distilrl.cli import main

    write_sb3(tmp_path / "t.zip", "DQN", "CartPole-v1", net_arch=[8])
    assert main(["inspect", str(tmp_path / "t.zip"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["algorithm"], facts["obs_shape"], facts["outputs"], facts["params"]) == ("DQN", [4], 2, 58)
    assert [one["name"] for one in facts["layers"]] == [
        "layers.0.weight",
        "layers.0.bias",
        "layers.2.weight",
        "layers.2.bias",
    ]
    assert main(["inspect", str(tmp_path / "t.zip"), "--env", "CartPole-v1", "--episodes", "4"]) == 0
    out = capsys.readouterr().out
    assert "not executed" in out
    assert "return, greedy" in out


def test_distil_an_ensemble_from_the_command_line(tmp_path):
    from distilrl.checkpoints import save_network
    from distilrl.cli import main
    from distilrl.files import read_json

    for sign in (1, 2):
        save_network(tmp_path / str(sign), sign_network(float(sign)), Categorical(Choices((2,))))
    run = [
        str(tmp_path / "1"),
        str(tmp_path / "2"),
        "--env",
        SIGN,
        "--student",
        "mlp:4",
        "--steps",
        "2000",
        "--episodes",
        "200",
    ]
    assert main(["distill", "--teacher", *run, "--disturbed-episodes", "0", "--out", str(tmp_path / "run")]) == 0
    assert read_json(tmp_path / "run" / "teacher.json")["format"] == "ensemble of 2"
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_network_that_cannot_be_counted_keeps_no_hook():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, obs):
            raise RuntimeError("not of zeros")

    network = Broken()
    with pytest.raises(RuntimeError, match="not of zeros"):
        count_macs(network, (3,))
    assert not network.layer._forward_hooks
