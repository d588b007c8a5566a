"""stable-baselines3's and sb3-contrib's zips: the action is the library's own predict's, to 1e-5 of the half-range."""

import io
import json
import warnings
import zipfile
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from conftest import real_teacher
from gymnasium import spaces
from torch import nn

from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import FileError, SpecError, TeacherError
from distilrl.heads import Gaussian
from distilrl.networks import Network
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec, read_observations
from distilrl.teachers import Teacher, TeacherFile, ensemble, load_teacher, printed, vecnormalize

BOX = spaces.Box(np.array([-2.0, -1.0], np.float32), np.array([2.0, 3.0], np.float32))
VECTOR = spaces.Box(-np.inf, np.inf, (5,), np.float32)
MIXED = spaces.Dict(
    {
        "speed": spaces.Box(-1, 1, (3,), np.float32),
        "camera": spaces.Box(0, 255, (40, 50, 3), np.uint8),
        "gear": spaces.Discrete(4),
        "bits": spaces.MultiBinary(2),
    }
)


class Still(gymnasium.Env):
    """Any spaces, nothing happens."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def made(algorithm, observations=VECTOR, actions=BOX, policy=None, use_sde=None, **kwargs):
    """A model with random weights, also where its library begins with zeros."""
    warnings.simplefilter("ignore")
    import sb3_contrib
    import stable_baselines3

    kind = getattr(stable_baselines3, algorithm, None) or getattr(sb3_contrib, algorithm)
    off = algorithm in ("SAC", "TQC", "TD3", "DDPG", "CrossQ", "DQN", "QRDQN")
    settings = {"buffer_size": 10} if off else {"n_steps": 8, "batch_size": 8} if algorithm in ("PPO", "TRPO") else {}
    settings |= {"use_sde": use_sde} if use_sde is not None else {}
    named = policy or ("MultiInputPolicy" if isinstance(observations, spaces.Dict) else "MlpPolicy")
    model = kind(named, Still(observations, actions), seed=1, device="cpu", policy_kwargs=kwargs, **settings)
    shake(model.policy)
    return model


def shake(policy):
    """Larger weights, so that actions differ and saturate here and there; statistics that are no longer 0 and 1."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in policy.state_dict().items():
            if tensor.is_floating_point() and "target" not in name:
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.mul_(1.5).add_(0.1 * noise)
                tensor.abs_() if "ra_var" in name else None


def samples(space, count=200):
    space.seed(0)
    if isinstance(space, spaces.Box) and space.dtype == np.float32:
        return list(np.random.default_rng(0).normal(0, 2, (count, *space.shape)).astype(np.float32))
    return [space.sample() for _ in range(count)]


def check(model, path, normalizer=None, count=200):
    """Saves, reads and compares actions; returns the teacher."""
    model.save(path)
    teacher = load_teacher(TeacherFile(str(path), normalizer=normalizer))
    space = model.env.envs[0].observation_space if hasattr(model.env, "envs") else model.observation_space
    plain = model.get_env().venv.envs[0].unwrapped.observation_space if hasattr(model.get_env(), "venv") else space
    observations = samples(plain, count)
    spec, read = read_observations(plain, "it")
    obs = torch.from_numpy(np.stack([read(one) for one in observations]))
    if teacher.obs_shape is not None and len(spec.shape) == 1:
        assert teacher.obs_shape == spec.shape
    stacked = (
        {k: np.stack([o[k] for o in observations]) for k in plain.spaces}
        if isinstance(plain, spaces.Dict)
        else np.stack(observations)
    )
    theirs = model.predict(stacked, deterministic=True)[0]
    ours = teacher.policy.act(obs)[0].numpy().reshape(count, -1)
    half = getattr(teacher.action, "half", 1.0)
    assert np.abs((ours - theirs.reshape(count, -1)) / half).max() <= 1e-5
    return teacher


CASES = {
    "ppo": ("PPO", {}, "gaussian", "clip"),
    "ppo-relu": ("PPO", {"net_arch": {"pi": [12], "vf": [8]}, "activation_fn": nn.ReLU}, "gaussian", "clip"),
    "ppo-gsde": ("PPO", {"use_sde": True}, "mean", "clip"),
    "ppo-gsde-squashed": ("PPO", {"use_sde": True, "squash_output": True}, "mean", "tanh"),
    "a2c-linear": ("A2C", {"net_arch": []}, "gaussian", "clip"),
    "trpo": ("TRPO", {}, "gaussian", "clip"),
    "sac": ("SAC", {"net_arch": [16, 8]}, "gaussian", "tanh"),
    "sac-gsde": ("SAC", {"net_arch": [16], "use_sde": True}, "mean", "tanh"),
    "sac-elu": (
        "SAC",
        {"net_arch": {"pi": [8], "qf": [16, 16]}, "activation_fn": nn.ELU, "n_critics": 3},
        "gaussian",
        "tanh",
    ),
    "tqc": ("TQC", {"net_arch": [16], "n_quantiles": 5}, "gaussian", "tanh"),
    "td3": ("TD3", {"net_arch": [16, 8]}, "mean", "tanh"),
    "ddpg": ("DDPG", {"net_arch": [16]}, "mean", "tanh"),
    "crossq": ("CrossQ", {"net_arch": [16, 8]}, "gaussian", "tanh"),
    "crossq-epsilon": ("CrossQ", {"net_arch": [16], "batch_norm_eps": 0.1}, "gaussian", "tanh"),
}


@pytest.mark.parametrize("case", CASES)
def test_real_actions(tmp_path, case):
    algorithm, kwargs, kind, squash = CASES[case]
    settings = dict(kwargs)
    sde = settings.pop("use_sde", None)
    model = made(algorithm, use_sde=sde, **settings)
    teacher = check(model, tmp_path / "t.zip")
    assert (teacher.kind, teacher.squash, teacher.action) == (kind, squash, Bounds((-2.0, -1.0), (2.0, 3.0)))
    assert teacher.meta["algorithm"] == algorithm
    assert isinstance(teacher.network, Network) or (sde and squash == "tanh" and algorithm == "SAC")
    actor = model.policy if algorithm in ("PPO", "A2C", "TRPO") else model.policy.actor
    if kind == "gaussian":  # the spread is that of the library's own distribution
        obs = torch.from_numpy(np.stack(samples(VECTOR)))
        head = teacher.head
        assert isinstance(head, Gaussian)
        if algorithm in ("PPO", "A2C", "TRPO"):
            theirs = actor.get_distribution(obs).distribution.stddev
        else:
            theirs = actor.get_action_dist_params(obs)[1].exp()
        ours = teacher.numbers(obs)[:, 2:].clamp(-20, 2).exp()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ["sac", "sac-gsde", "sac-elu", "tqc", "td3", "ddpg", "crossq"])
def test_critics(tmp_path, case):
    algorithm, kwargs, _, _ = CASES[case]
    settings = dict(kwargs)
    model = made(algorithm, use_sde=settings.pop("use_sde", None), **settings)
    model.save(tmp_path / "t.zip")
    teacher = load_teacher(tmp_path / "t.zip")
    obs, actions = torch.from_numpy(np.stack(samples(VECTOR))), torch.rand(200, 2) * 2 - 1
    model.policy.set_training_mode(False)
    with torch.no_grad():
        theirs = model.critic(obs, actions)
        theirs = theirs.mean((1, 2)) if algorithm == "TQC" else torch.cat(theirs, 1).amin(1)
    torch.testing.assert_close(teacher.critic(obs, actions), theirs, rtol=1e-5, atol=1e-4)
    assert not any(p.requires_grad for p in teacher.critic.parameters())
    stakes = teacher.stakes(obs, teacher.numbers(obs))
    assert stakes.shape == (200,)
    assert (stakes > 0).all()


@pytest.mark.parametrize("linear", [True, False])
def test_ars(tmp_path, linear):
    model = made("ARS", policy="LinearPolicy" if linear else "MlpPolicy", **({} if linear else {"net_arch": [8]}))
    teacher = check(model, tmp_path / "t.zip")
    assert (teacher.kind, teacher.squash) == ("mean", "clip" if linear else "tanh")
    assert teacher.params == sum(p.numel() for p in model.policy.parameters())


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
@pytest.mark.parametrize("actions", [spaces.MultiDiscrete([3, 2, 4]), spaces.MultiBinary(3), spaces.Discrete(4)])
def test_choices(tmp_path, algorithm, actions):
    teacher = check(made(algorithm, actions=actions), tmp_path / "t.zip")
    assert teacher.kind == "logits"
    assert (
        teacher.action.nvec
        == {"MultiDiscrete": (3, 2, 4), "MultiBinary": (2, 2, 2), "Discrete": (4,)}[type(actions).__name__]
    )
    assert isinstance(teacher.network, Network)


def test_bernoulli_logits_become_choices_of_two(tmp_path):
    model = made("PPO", actions=spaces.MultiBinary(2))
    model.save(tmp_path / "t.zip")
    teacher = load_teacher(tmp_path / "t.zip")
    obs = torch.from_numpy(np.stack(samples(VECTOR)))
    theirs = model.policy.get_distribution(obs).distribution.probs
    ours = torch.stack([block.softmax(1)[:, 1] for block in teacher.head.split(teacher.numbers(obs))], 1)
    torch.testing.assert_close(ours, theirs.detach())
    assert teacher.params == sum(p.numel() for n, p in model.policy.named_parameters() if "value" not in n)


@pytest.mark.parametrize("algorithm", ["PPO", "TQC", "TD3"])
def test_dicts_with_an_image(tmp_path, algorithm):
    teacher = check(made(algorithm, MIXED, net_arch=[16]), tmp_path / "t.zip", count=30)
    assert teacher.obs_shape == (3 + 4 + 2 + 3 * 40 * 50,)
    assert teacher.meta["observation"] == [["bits", 2], ["gear", 4], ["speed", 3], ["camera", 6000]]


def test_dicts_without_an_image_are_one_network(tmp_path):
    plain = spaces.Dict({"b": spaces.Box(-1, 1, (2, 2), np.float32), "a": spaces.MultiDiscrete([3, 2])})
    teacher = check(made("SAC", plain, net_arch=[16]), tmp_path / "t.zip")
    assert isinstance(teacher.network, Network)
    assert teacher.obs_shape == (9,)


def test_the_critic_of_a_dict_sees_its_image(tmp_path):
    model = made("TD3", MIXED, net_arch=[16])
    teacher = check(model, tmp_path / "t.zip", count=10)
    _, read = read_observations(MIXED, "it")
    observations, actions = samples(MIXED, 10), torch.rand(10, 2) * 2 - 1
    theirs, _ = model.policy.obs_to_tensor({k: np.stack([o[k] for o in observations]) for k in MIXED.spaces})
    with torch.no_grad():
        expected = torch.cat(model.critic(theirs, actions), 1).amin(1)
    ours = teacher.critic(torch.from_numpy(np.stack([read(o) for o in observations])), actions)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("algorithm", "shape"), [("PPO", (44, 60, 3)), ("SAC", (96, 64, 1)), ("DQN", (40, 40, 2))])
def test_images_of_any_size(tmp_path, algorithm, shape):
    images = spaces.Box(0, 255, shape, np.uint8)
    actions = spaces.Discrete(3) if algorithm == "DQN" else BOX
    kwargs = {"net_arch": [8]} if algorithm == "SAC" else {}
    teacher = check(made(algorithm, images, actions, "CnnPolicy", **kwargs), tmp_path / "t.zip", count=20)
    assert teacher.obs_shape == (shape[2], shape[0], shape[1])
    if algorithm == "SAC":
        assert teacher.critic(torch.zeros(2, 1, 96, 64, dtype=torch.uint8), torch.zeros(2, 2)).shape == (2,)


def test_images_without_convolutions(tmp_path):
    teacher = check(made("PPO", spaces.Box(0, 255, (9, 8, 3), np.uint8)), tmp_path / "t.zip", count=20)
    assert teacher.obs_shape == (3, 9, 8)


GRIDS = {
    "bytes to 1": spaces.Box(0, 1, (4, 10, 10), np.uint8),
    "bytes from 1": spaces.Box(1, 255, (4, 10, 10), np.uint8),
    "bytes to 1, channels last": spaces.Box(0, 1, (10, 10, 4), np.uint8),
    "truth values": spaces.Box(0, 1, (10, 9, 4), bool),
    "whole numbers": spaces.Box(-3, 3, (8, 7, 3), np.int8),
    "floats": spaces.Box(0, 1, (7, 6, 3), np.float32),
    "floats in a cube": spaces.Box(0, 1, (5, 5, 5), np.float32),
    "bytes in a cube": spaces.Box(0, 255, (5, 5, 5), np.uint8),
    "a board": spaces.Box(0, 2, (9, 9), np.uint8),
    "a board to 255": spaces.Box(0, 255, (8, 9), np.uint8),
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("algorithm", ["PPO", "TD3"])
def test_grids_are_flattened_and_divided_as_the_library_does(tmp_path, grid, algorithm):
    space = GRIDS[grid]
    model = made(algorithm, space, net_arch=[16])
    teacher = check(model, tmp_path / "t.zip", count=40)
    spec, read = read_observations(space, "it")
    assert teacher.obs_shape == spec.shape
    assert isinstance(teacher.network, Network)
    if algorithm == "TD3":
        observations, actions = samples(space, 20), torch.rand(20, 2) * 2 - 1
        theirs, _ = model.policy.obs_to_tensor(np.stack(observations))
        with torch.no_grad():
            expected = torch.cat(model.critic(theirs, actions), 1).amin(1)
        ours = teacher.critic(torch.from_numpy(np.stack([read(o) for o in observations])), actions)
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_dict_of_one_image_is_read_as_that(tmp_path):
    """Its own environment was refused, and the same in one row was taken with its pixels in another order."""
    alone = spaces.Dict({"pixels": spaces.Box(0, 255, (44, 60, 3), np.uint8)})
    model = made("PPO", alone, spaces.Discrete(3))
    teacher = check(model, tmp_path / "t.zip", count=20)
    assert teacher.obs_shape == (3, 44, 60)
    info = EnvInfo(EnvRef("any"), read_observations(alone, "it")[0], Choices((3,)))
    teacher.fitted(info)
    flat = replace(info, obs=ObsSpec((3 * 44 * 60,)))
    with pytest.raises(TeacherError, match="reads observations of shape"):
        teacher.fitted(flat)
    check(made("PPO", MIXED, spaces.Discrete(3)), tmp_path / "m.zip", count=5)
    with pytest.raises(TeacherError, match=r"reads an image as 'camera' of a Dict, .* without flattening"):
        load_teacher(tmp_path / "m.zip").fitted(replace(info, obs=ObsSpec((6009,))))


def test_images_of_floats_are_not_read_as_bytes(tmp_path):
    """A policy of an environment that scales its images saw numbers 255 times as large."""
    told = {"features_extractor_kwargs": {"normalized_image": True}}
    bytes_of, floats_of = (EnvInfo(EnvRef("any"), ObsSpec((3, 40, 44), (3, 40, 44), kind), Choices((2,)))
                           for kind in ("uint8", "float32"))  # fmt: skip
    floats = made("PPO", spaces.Box(0, 1, (3, 40, 44), np.float32), spaces.Discrete(2), policy="CnnPolicy", **told)
    floats.save(tmp_path / "f.zip")
    load_teacher(tmp_path / "f.zip").fitted(floats_of)
    with pytest.raises(TeacherError, match="was trained on images of float32, but any gives uint8"):
        load_teacher(tmp_path / "f.zip").fitted(bytes_of)
    usual = made("PPO", spaces.Box(0, 255, (3, 40, 44), np.uint8), spaces.Discrete(2), policy="CnnPolicy")
    usual.save(tmp_path / "u.zip")
    load_teacher(tmp_path / "u.zip").fitted(bytes_of)
    with pytest.raises(TeacherError, match="was trained on images of uint8, but any gives float32"):
        load_teacher(tmp_path / "u.zip").fitted(floats_of)


def test_statistics_of_pictures_are_refused_in_words_that_help(tmp_path):
    """ "Give the statistics that were saved with this teacher", which these were."""
    grid = spaces.Box(-1, 1, (5, 5, 3), np.float32)
    warnings.simplefilter("ignore")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    envs = VecNormalize(DummyVecEnv([lambda: Still(grid, BOX)]), clip_obs=float("inf"))
    envs.reset()
    envs.save(str(tmp_path / "n.pkl"))
    made("PPO", grid).save(tmp_path / "t.zip")
    with pytest.raises(FileError, match=r"n\.pkl normalises pictures, .* export the policy to ONNX"):
        load_teacher(TeacherFile(str(tmp_path / "t.zip"), normalizer=str(tmp_path / "n.pkl")))
    assert vecnormalize.read(tmp_path / "n.pkl")[2] == float("inf"), "which cuts nothing off"


def test_convolutions_divide_only_what_the_library_divides(tmp_path):
    told = {"features_extractor_kwargs": {"normalized_image": True}}
    floats = spaces.Box(0, 1, (3, 40, 44), np.float32)
    check(made("PPO", floats, policy="CnnPolicy", **told), tmp_path / "t.zip", count=10)
    parts = spaces.Dict({"camera": floats, "speed": spaces.Box(-1, 1, (3,), np.float32)})
    check(made("PPO", parts, normalize_images=False), tmp_path / "d.zip", count=10)
    cube = made("PPO", spaces.Box(0, 1, (40, 40, 40), np.float32), policy="CnnPolicy", **told)
    cube.save(tmp_path / "c.zip")
    with pytest.raises(FileError, match="whose first side are its channels"):
        load_teacher(tmp_path / "c.zip")


@pytest.mark.parametrize(
    "space", [spaces.Discrete(5), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4), spaces.Box(-1, 1, (2, 3))]
)
def test_other_observations(tmp_path, space):
    check(made("PPO", space), tmp_path / "t.zip", count=40)


@pytest.mark.parametrize("parts", [False, True])
def test_vecnormalize_is_before_policy_and_critic(tmp_path, parts):
    warnings.simplefilter("ignore")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    space = spaces.Dict({"x": VECTOR, "y": spaces.Box(-1, 1, (2,), np.float32)}) if parts else VECTOR
    envs = VecNormalize(
        DummyVecEnv([lambda: Still(space, BOX)]), clip_obs=1.5, **({"norm_obs_keys": ["x"]} if parts else {})
    )
    envs.reset()
    for _ in range(50):
        envs.step(np.zeros((1, 2)))
    envs.save(str(tmp_path / "vec.pkl"))
    model = made("SAC", space, net_arch=[16])
    model.save(tmp_path / "t.zip")
    teacher = load_teacher(TeacherFile(str(tmp_path / "t.zip"), normalizer=str(tmp_path / "vec.pkl")))
    observations = samples(space, 100)
    stacked = {k: np.stack([o[k] for o in observations]) for k in space.spaces} if parts else np.stack(observations)
    normal = envs.normalize_obs(stacked)
    obs = torch.from_numpy(np.concatenate([stacked["x"], stacked["y"]], 1) if parts else stacked)
    theirs = model.predict(normal, deterministic=True)[0]
    assert np.abs((teacher.policy.act(obs)[0].numpy() - theirs) / teacher.action.half).max() <= 1e-5
    actions = torch.rand(100, 2) * 2 - 1
    with torch.no_grad():
        expected = torch.cat(model.critic(model.policy.obs_to_tensor(normal)[0], actions), 1).amin(1)
    torch.testing.assert_close(teacher.critic(obs, actions), expected, rtol=1e-4, atol=1e-4)
    assert (teacher.action, teacher.squash, teacher.params is not None) == (
        Bounds((-2.0, -1.0), (2.0, 3.0)),
        "tanh",
        True,
    )


def test_a_teacher_of_more_numbers_reads_zeros_behind_those_that_there_are(tmp_path):
    made("SAC", net_arch=[16]).save(tmp_path / "t.zip")
    whole, file = load_teacher(tmp_path / "t.zip"), TeacherFile(str(tmp_path / "t.zip"), zeros=2)
    teacher, size = load_teacher(file), VECTOR.shape[0]
    assert (teacher.obs_shape, teacher.params) == ((size - 2,), whole.params)
    assert teacher.digest != whole.digest
    obs, actions = torch.from_numpy(np.stack(samples(VECTOR, 20))), torch.rand(20, 2) * 2 - 1
    obs[:, -2:] = 0.0
    torch.testing.assert_close(teacher.numbers(obs[:, :-2]), whole.numbers(obs))
    torch.testing.assert_close(teacher.critic(obs[:, :-2], actions), whole.critic(obs, actions))
    with pytest.raises(TeacherError, match=f"the last {size} cannot be zeros: lower 'zeros'"):
        load_teacher(replace(file, zeros=size))
    for wrong in (-1, 10**12):
        with pytest.raises(SpecError, match="'zeros'"):
            replace(file, zeros=wrong)


def test_a_function_reads_zeros_too():
    info = describe_env("CartPole-v1")
    teacher = Teacher.from_callable(lambda obs: obs[:, -1].long(), name="last").before_zeros(1).fitted(info)
    assert teacher.policy.act(torch.ones(3, 4))[0].tolist() == [[0], [0], [0]]


# -- real files


def reference(path, teacher):
    """The library's own policy with the file's weights; nothing in the file is unpickled."""
    warnings.simplefilter("ignore")
    with zipfile.ZipFile(path) as archive:
        data, weights = json.loads(archive.read("data")), archive.read("policy.pth")
    known = ("net_arch", "n_critics", "squash_output", "log_std_init", "sde_net_arch")
    kwargs = {k: v for k, v in data["policy_kwargs"].items() if k in known}
    if isinstance(kwargs.get("net_arch"), list) and kwargs["net_arch"] and isinstance(kwargs["net_arch"][0], dict):
        kwargs["net_arch"] = kwargs["net_arch"][0]
    if "activation_fn" in data["policy_kwargs"]:
        kwargs["activation_fn"] = nn.ReLU if "ReLU" in data["policy_kwargs"]["activation_fn"] else nn.Tanh
    algorithm = path.name.split("-")[0].upper()
    actions = spaces.Box(np.array(teacher.action.low, np.float32), np.array(teacher.action.high, np.float32))
    policy = "LinearPolicy" if algorithm == "ARS" else None
    model = made(
        algorithm,
        spaces.Box(-np.inf, np.inf, teacher.obs_shape),
        actions,
        policy,
        data.get("use_sde") or None,
        **kwargs,
    )
    state = torch.load(io.BytesIO(weights), weights_only=True, map_location="cpu")
    if algorithm == "ARS" and "action_net.weight" in state:
        state = {"action_net.0.weight": state["action_net.weight"]}
    model.policy.load_state_dict(state)
    return model


REAL = {
    "tqc-HalfCheetah-v3": 71_942,
    "tqc-Walker2d-v3": 71_942,
    "ppo-HalfCheetah-v3": 71_942,
    "trpo-Hopper-v3": 5_123,
    "trpo-Ant-v3": 11_848,
    "ars-Hopper-v3": 33,
    "ars-Swimmer-v3": 16,
    "a2c-BipedalWalker-v3": 6_020,
    "ppo-LunarLanderContinuous-v2": 4_866,
    "sac-Pendulum-v1": 4_481,
    "ddpg-Pendulum-v1": 122_201,
    "a2c-Pendulum-v1": 4_481,
    "sac-MountainCarContinuous-v0": 4_417,
}


@pytest.mark.parametrize("name", REAL)
def test_real_zips(name):
    path = real_teacher(f"continuous/{name}.zip")
    teacher = load_teacher(path)
    obs = np.random.default_rng(0).normal(0, 2, (200, *teacher.obs_shape)).astype(np.float32)
    model = reference(path, teacher)
    theirs = model.predict(obs, deterministic=True)[0]
    ours = teacher.policy.act(torch.from_numpy(obs))[0].numpy()
    assert np.abs((ours - theirs) / teacher.action.half).max() <= 1e-5
    assert teacher.params == REAL[name]
    assert (teacher.critic is None) == (name.split("-")[0] in ("ppo", "trpo", "ars", "a2c"))


@pytest.mark.parametrize("name", ["trpo-Hopper-v3", "ars-Hopper-v3", "a2c-BipedalWalker-v3", "ppo-HalfCheetah-v3"])
def test_real_normalizers(name):
    path = real_teacher(f"continuous/{name}.zip")
    normalizer = str(path).replace(".zip", ".vecnormalize.pkl")
    bare, teacher = load_teacher(path), load_teacher(TeacherFile(str(path), normalizer=normalizer))
    assert teacher.action == bare.action
    assert teacher.digest != bare.digest
    assert teacher.meta["file_sha256"] == bare.digest
    zero = teacher.network.mean.unsqueeze(0)  # the mean of observations is what the bare policy sees as 0
    torch.testing.assert_close(teacher.numbers(zero), bare.numbers(torch.zeros_like(zero)))


# -- printed spaces


def test_spaces_are_read_as_they_are_printed():
    box = {":type:": "<class 'gym.spaces.box.Box'>", "shape": [2], "low": "[-1.   -0.5]", "high": "[1. 2.e+00]"}
    assert printed.action_spec(box) == Bounds((-1.0, -0.5), (1.0, 2.0))
    long = box | {"shape": [2000], "low": "[-1. -1. ... -1.]", "high": "[1. 1. ... 1.]"}
    assert printed.action_spec(long) is None
    assert printed.action_spec(long | {"low_repr": "-1.0", "high_repr": "1.0"}).size == 2000
    open_box = box | {"low": "[-inf -0.5]"}
    assert printed.action_spec(open_box) == Bounds((None, -0.5), (1.0, 2.0))
    several = {":type:": "<class 'gymnasium.spaces.multi_discrete.MultiDiscrete'>", "nvec": "[3 2]", "_shape": [2]}
    assert printed.action_spec(several) == Choices((3, 2), (), "MultiDiscrete", (2,))
    for bad in (
        {},
        None,
        [],
        box | {"shape": None},
        box | {"low": "[__import__]"},
        box | {"shape": [10**12]},
        box | {"high": "[nan 1.]"},
    ):
        assert printed.action_spec(bad) is None


def test_a_printed_space_that_goes_on_is_not_followed():
    """Brackets that are not closed were followed to the end from each of them; sides were multiplied, each of 1e308."""
    kind = {":type:": "<class 'gymnasium.spaces.dict.Dict'>"}
    closed = "'a': Discrete(2), " * 50
    assert [leaf.shape for leaf in printed.leaves(kind | {"spaces": "{" + closed + "}"})] == [(2,)] * 50
    assert printed.leaves(kind | {"spaces": "{" + "'a': Discrete(" * 30_000 + "}"}) is None
    assert printed.leaves(kind | {"spaces": "{" + "'a': Discrete(" * 30_000 + ")" * 30_000 + "}"})
    box = {":type:": "<class 'gymnasium.spaces.box.Box'>", "low": "[0.]", "high": "[1.]"}
    assert printed.leaves(box | {"shape": [1e308] * 30_000}) is None
    assert printed.action_spec(box | {"shape": [1] * 65}) is None


def edited(path, target, **changes):
    """A zip with other fields in ``data``."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as out:
        for name in source.namelist():
            content = source.read(name)
            out.writestr(name, json.dumps(json.loads(content) | changes) if name == "data" else content)
    return target


@pytest.mark.parametrize(
    "changes",
    [
        {"action_space": 5},
        {"action_space": {":type:": "x.Box'>", "shape": [3], "low": "[-1. -1. -1.]", "high": "[1. 1. 1.]"}},
        {"action_space": {":type:": "x.Discrete'>", "n": 2}},
        {"policy_kwargs": {"clip_mean": "x"}},
        {"policy_class": {"__module__": "sb3_contrib.common.recurrent.policies"}},
        {"policy_class": {"__module__": "mine\x1b[31m"}},
        {"policy_kwargs": {"features_extractor_class": "<class 'mine.NotNatureCNN'>"}},
    ],
)
def test_fields_that_mean_nothing_are_refused(tmp_path, changes):
    made("SAC", use_sde=True, net_arch=[8]).save(tmp_path / "t.zip")
    with pytest.raises(FileError) as caught:
        load_teacher(edited(tmp_path / "t.zip", tmp_path / "bad.zip", **changes))
    assert str(caught.value).isprintable()
    assert str(caught.value).endswith(".")


def test_bounds_that_are_not_printed_are_left_to_the_environment(tmp_path):
    made("PPO").save(tmp_path / "t.zip")
    space = {":type:": "<class 'gymnasium.spaces.box.Box'>", "shape": [2], "low": "[-1. ...]", "high": "[1. ...]"}
    teacher = load_teacher(edited(tmp_path / "t.zip", tmp_path / "long.zip", action_space=space))
    assert (teacher.action, teacher.kind) == (None, "gaussian")


# -- ensembles


def test_an_ensemble_of_real_actions_is_their_mean(tmp_path):
    members = []
    for index, algorithm in enumerate(("SAC", "TD3")):
        made(algorithm, net_arch=[8]).save(tmp_path / f"{index}.zip")
        members.append(load_teacher(tmp_path / f"{index}.zip"))
    obs = torch.from_numpy(np.stack(samples(VECTOR)))
    both = ensemble(members, obs)
    mean = torch.stack([m.policy.act(obs)[0] for m in members]).mean(0)
    torch.testing.assert_close(both.policy.act(obs)[0], mean, rtol=1e-4, atol=1e-4)
    assert (both.kind, both.squash, both.outputs) == ("mean", "tanh", 2)
    mixed = ensemble([members[0], replace(members[1], squash="clip")], obs)
    assert mixed.squash == "clip"


def test_an_ensemble_of_several_choices_mixes_each(tmp_path):
    members = []
    for index in range(2):
        model = made("PPO", actions=spaces.MultiDiscrete([3, 2]))
        model.policy.action_net.bias.data.add_(index)
        model.policy.action_net.weight.data.mul_(index + 1)
        model.save(tmp_path / f"{index}.zip")
        members.append(load_teacher(tmp_path / f"{index}.zip"))
    obs = torch.from_numpy(np.stack(samples(VECTOR, 20)))
    both = ensemble(members, obs)
    blocks = [[b.softmax(1) for b in m.head.split(m.numbers(obs))] for m in members]
    expected = torch.cat([(a + b) / 2 for a, b in zip(*blocks, strict=True)], 1)
    torch.testing.assert_close(both.numbers(obs).exp(), expected, rtol=1e-4, atol=1e-5)
