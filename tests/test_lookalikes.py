"""Files that look like another library's, and those of which one thing more must be known: none is played wrongly
without a word.
"""

import re
import zipfile
from collections import OrderedDict

import gymnasium
import numpy as np
import onnx
import pytest
import torch
from test_foreign import chain, same, vec_normalize, vectors, write_onnx, write_sb3
from test_robots import named, read
from torch import nn

from distilrl.envs import EnvInfo, describe_env
from distilrl.errors import FileError, TeacherError
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.teachers import Teacher, TeacherFile, ensemble, load_teacher
from distilrl.teachers.hub import ID, _choose

CHOICES = EnvInfo(EnvRef("choices"), ObsSpec((4,)), Choices((2,)))
REAL = EnvInfo(EnvRef("real"), ObsSpec((4,)), Bounds((-2.0, -2.0), (2.0, 2.0)))


# -- state dicts


@pytest.mark.parametrize("wrapped", ["model_state_dict", "state_dict"])
def test_a_checkpoint_that_says_model_state_dict_is_not_rsl_rls(tmp_path, wrapped):
    """Which counts iterations: of somebody's own, whose activation may be any, it is asked for."""
    actor = chain((4, 32, 2), nn.ReLU)
    state = named("actor", actor) | named("critic", chain((4, 32, 1), nn.ReLU)) | {"log_std": torch.zeros(2)}
    with pytest.raises(FileError, match="and not their activation: say which"):
        read(tmp_path / "t.pt", {wrapped: state})
    teacher = read(tmp_path / "t.pt", {wrapped: state}, activation="relu")
    same(teacher.fitted(CHOICES).network(vectors()), actor(vectors()))
    robots = read(tmp_path / "t.pt", {"model_state_dict": state, "iter": 3, "infos": None})
    assert (robots.format, "taken for ELU" in robots.meta["note"]) == ("rsl_rl", True)


@pytest.mark.parametrize("name", ["critic", "q_value", "value_net", "q1", "actor_critic.actor", "net"])
def test_a_normalisation_inside_a_network_is_never_left_out(tmp_path, name):
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(FileError, match=r"holds the tensor '.*\.1\.weight' .* has no place"):
        read(tmp_path / "t.pt", named(name, model), activation="relu")


@pytest.mark.parametrize(("prefix", "sizes"), [("network", (4, 32, 32, 2)), ("actor", (4, 32, 32, 2))])
def test_a_network_that_is_called_as_cleanrls_is_not_taken_for_one(tmp_path, prefix, sizes):
    state = named(prefix, chain(sizes, nn.ReLU)) | named("critic", chain((*sizes[:-1], 1), nn.ReLU))
    with pytest.raises(FileError, match="and not their activation: say which"):
        read(tmp_path / "t.pt", state)


@pytest.mark.parametrize(("activation", "told"), [(None, "taken for tanh, CleanRL's"), ("relu", "")])
def test_what_is_guessed_of_cleanrls_sizes_is_said(tmp_path, activation, told):
    sizes = (4, 64, 64, 2)
    state = named("actor", chain(sizes, nn.Tanh)) | named("critic", chain((*sizes[:-1], 1), nn.Tanh))
    teacher = read(tmp_path / "t.pt", state, **({"activation": activation} if activation else {}))
    assert told in teacher.meta.get("note", "")
    assert bool(told) == ("note" in teacher.meta)


def test_how_numbers_become_real_actions_is_asked(tmp_path):
    """max_action · tanh(...), as in the TD3 of its authors, and an actor whose numbers are no logits."""
    actor = nn.ModuleDict({"l1": nn.Linear(4, 8), "l2": nn.Linear(8, 8), "l3": nn.Linear(8, 2)})
    state = actor.state_dict()
    with pytest.raises(TeacherError, match="say --squash clip where they are taken as they are, tanh where"):
        read(tmp_path / "t.pt", state, activation="relu").fitted(REAL)
    x = torch.relu(actor["l2"](torch.relu(actor["l1"](vectors()))))
    fitted = read(tmp_path / "t.pt", state, activation="relu", squash="tanh").fitted(REAL)
    same(fitted.policy.act(vectors())[0], 2 * torch.tanh(actor["l3"](x)))
    row = named("actor", chain((4, 8, 2), nn.Tanh))
    with pytest.raises(TeacherError, match="say --squash clip"):
        read(tmp_path / "t.pt", row, activation="tanh").fitted(REAL)
    assert read(tmp_path / "t.pt", row, activation="tanh").fitted(CHOICES).kind == "logits"


@pytest.mark.parametrize(
    "beside",
    [
        "ob_rms", "state_mean", "mean", "normalizer", "obs_filter", "running_stats", "scaler", "norm_std", "obs_means",
        "obs_stds", "obs_sigma", "obs_scale", "obs_shift", "obs_min", "standardizer", "whitening", "obsrms",
    ],
)  # fmt: skip
def test_statistics_beside_a_state_dict_are_never_left_out(tmp_path, beside):
    state = {"model_state_dict": chain((4, 8, 2), nn.ReLU).state_dict(), "epoch": 3, "mean_reward": 20.0}
    read(tmp_path / "t.pt", state | {"optimizer_state_dict": {"lr": 0.1}, "norm_obs": True}, activation="relu")
    read(tmp_path / "t.pt", state | {"reward_rms": {"mean": torch.zeros(1)}}, activation="relu")
    with pytest.raises(FileError, match=rf"statistics of observations \('{beside}'\).* give it as --normalizer"):
        read(tmp_path / "t.pt", state | {beside: torch.ones(4)}, activation="relu")
    with pytest.raises(FileError, match=rf"statistics of observations \('{beside}'\).* give it as --normalizer"):
        read(tmp_path / "t.pt", state | {"env_state": {beside: {"of": torch.ones(4)}}}, activation="relu")
    read(tmp_path / "t.pt", state | {"config": {beside: [1.0, 2.0]}}, activation="relu")


def pictures(channels, side=84):
    """Somebody's convolutions, which the library calls by no name of its own."""
    after = (side - 8) // 4 + 1
    return nn.Sequential(nn.Conv2d(channels, 2, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(2 * after * after, 6))


def test_colours_are_not_read_as_frames(tmp_path):
    """Red, green and blue became the three newest grey frames of a game."""
    game = describe_env("PongNoFrameskip-v4")
    for channels in (1, 2, 4):
        read(tmp_path / "t.pt", named("net", pictures(channels)), divisor=255.0, network="cnn:2k8s4:").fitted(game)
    three = read(tmp_path / "t.pt", named("net", pictures(3)), divisor=255.0, network="cnn:2k8s4:")
    with pytest.raises(TeacherError, match=r"may be colours or frames; if they are the newest frames, give a function"):
        three.fitted(game)
    raw = Teacher.from_callable(lambda obs: obs[:, 0, 0, :6].float(), 6, obs_shape=(3, 210, 160))
    with pytest.raises(TeacherError, match=r"register a function of yours .* under an id of your own"):
        raw.fitted(game)


def test_a_functions_choices_are_read_in_a_game_of_fewer_frames():
    game = describe_env("PongNoFrameskip-v4")
    fitted = Teacher.from_callable(lambda obs: obs[:, 0, 0, 0].long() % 6, obs_shape=(1, 84, 84)).fitted(game)
    obs = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 4, 84, 84)
    assert fitted.policy.act(obs)[0].flatten().tolist() == [0, 1, 2, 3, 4, 5, 0, 1]


def test_convolutions_whose_activation_no_file_tells_say_so(tmp_path):
    state = named("net", pictures(4))
    taken = read(tmp_path / "t.pt", state, divisor=255.0, network="cnn:2k8s4:")
    assert "is taken for relu" in taken.meta["note"]
    for told in ({"activation": "elu"}, {"network": "cnn:2k8s4:@elu"}):
        assert "note" not in read(tmp_path / "t.pt", state, divisor=255.0, **{"network": "cnn:2k8s4:"} | told).meta


def test_choices_that_do_not_begin_at_0_are_said(tmp_path):
    """CleanRL gives the bare index to its environment, which here is given one more."""
    later = EnvInfo(EnvRef("later"), ObsSpec((4,)), Choices((2,), (1,)))
    teacher = read(tmp_path / "t.pt", chain((4, 8, 2), nn.ReLU).state_dict(), activation="relu")
    assert "note" not in teacher.fitted(CHOICES).meta
    assert "counted from 1, as the environment's space says" in teacher.fitted(later).meta["note"]
    own = Teacher.from_callable(lambda obs: obs[:, :2], 2)
    assert "note" not in own.fitted(later).meta, "whose answers count from 0, as is said"


def test_a_clip_at_the_end_of_a_graph_is_asked_about_as_a_tanh_is(tmp_path):
    """It was played at half its strength where actions go from -2 to 2."""

    class Clipped(nn.Module):
        def __init__(self, end):
            super().__init__()
            self.network, self.end = chain((4, 8, 2), nn.ReLU), end

        def forward(self, obs):
            return self.network(obs).clamp(-self.end, self.end)

    own, wide = (
        load_teacher(write_onnx(tmp_path / f"{end}.onnx", Clipped(end), torch.zeros(2, 4), outputs=("action",)))
        for end in (1.0, 2.0)
    )
    with pytest.raises(TeacherError, match="say --squash clip where they are taken as they are"):
        own.fitted(REAL)
    assert own.fitted(EnvInfo(EnvRef("one"), ObsSpec((4,)), Bounds((-1.0,) * 2, (1.0,) * 2))).squash == "clip"
    assert wide.fitted(REAL).squash == "clip"


def test_a_spread_of_observations_inside_a_state_dict_is_not_an_actions(tmp_path):
    state = named("net", chain((4, 8, 2), nn.ReLU))
    read(tmp_path / "t.pt", state | {"action_std": torch.ones(2), "std": torch.ones(2)}, activation="relu")
    with pytest.raises(FileError, match="holds the tensor 'obs_std'"):
        read(tmp_path / "t.pt", state | {"obs_std": torch.ones(4)}, activation="relu")


@pytest.mark.parametrize(
    ("side", "kernels"), [(64, ((8, 4), (4, 2), (3, 1))), (84, ((8, 4), (4, 2), (3, 1))), (10, ())]
)
def test_images_of_any_size_and_their_divisor(tmp_path, side, kernels):
    """Both must be known: the side follows from the first dense layer."""
    kernels = kernels or ((3, 1),)
    layers, channels, after = [], 4, side
    for kernel, stride in kernels:
        layers += [nn.Conv2d(channels, 8, kernel, stride), nn.ReLU()]
        channels, after = 8, (after - kernel) // stride + 1
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * after * after, 16), nn.ReLU(), nn.Linear(16, 3))
    told = {} if len(kernels) == 3 else {"network": "cnn:8k3s1:16"}
    with pytest.raises(FileError, match="what its pixels are divided by: say --divisor 255, or 1"):
        read(tmp_path / "t.pt", model.state_dict(), **told)
    teacher = read(tmp_path / "t.pt", model.state_dict(), divisor=1.0, **told)
    assert teacher.obs_shape == (4, side, side)
    obs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 4, side, side), dtype=np.uint8))
    torch.testing.assert_close(teacher.network(obs), model(obs.float()).detach(), rtol=1e-4, atol=1e-3)


def images_of(*size):
    return EnvInfo(EnvRef("images"), ObsSpec((4, *size), (4, *size), "uint8"), Choices((3,)))


def test_images_of_a_size_that_the_environment_tells(tmp_path):
    """Of several the file cannot say which: the least was taken, which then did not fit."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 9, 3))
    teacher = read(tmp_path / "t.pt", model.state_dict(), divisor=1.0, network="cnn:8k3s2:")
    rng = np.random.default_rng(0)
    for size in ((7, 7), (8, 8), (7, 8)):
        fitted = teacher.fitted(images_of(*size))
        assert fitted.obs_shape == (4, *size) == fitted.network.spec.obs_shape
        assert ("how large" in fitted.meta.get("note", "")) == (size != (7, 7))
        obs = torch.from_numpy(rng.integers(0, 256, (4, 4, *size), dtype=np.uint8))
        torch.testing.assert_close(fitted.network(obs), model(obs.float()).detach(), rtol=1e-4, atol=1e-3)
    for size in ((9, 9), (2, 2), (7, 9)):
        with pytest.raises(TeacherError, match=r"reads observations of shape \(4, 7, 7\)"):
            teacher.fitted(images_of(*size))
    with pytest.raises(TeacherError, match=r"reads observations of shape \(4, 7, 7\)"):
        teacher.fitted(CHOICES)


class ConvAndFc(nn.Module):
    """As many write a DQN of pixels; and CleanRL's actor of SAC, whose dense layers have names of their own."""

    def __init__(self, dense):
        super().__init__()
        sizes = ((4, 32, 8, 4), (32, 64, 4, 2), (64, 64, 3, 1))
        layers = [part for size in sizes for part in (nn.Conv2d(*size), nn.ReLU())]
        self.conv = nn.Sequential(*layers)
        if dense == "fc":
            self.fc = nn.Sequential(nn.Linear(3136, 64), nn.ReLU(), nn.Linear(64, 6))
        else:
            self.fc1, self.fc_logits = nn.Linear(3136, 64), nn.Linear(64, 6)

    def forward(self, x):
        x = self.conv(x).flatten(1)
        return self.fc(x) if hasattr(self, "fc") else self.fc_logits(torch.relu(self.fc1(x)))


@pytest.mark.parametrize("dense", ["fc", "fc1 and fc_logits"])
def test_convolutions_and_dense_layers_in_two_modules(tmp_path, dense):
    model = ConvAndFc(dense)
    obs = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 4, 84, 84), dtype=np.uint8))
    for content in (
        model.state_dict(),
        dict(reversed(model.state_dict().items())) if dense == "fc" else model.state_dict(),
    ):
        teacher = read(tmp_path / "t.pt", content, divisor=255.0)
        torch.testing.assert_close(teacher.network(obs), model(obs / 255).detach(), rtol=1e-4, atol=1e-4)
    dueling = model.state_dict() | {f"adv.{name}": one for name, one in nn.Linear(64, 6).state_dict().items()}
    with pytest.raises(FileError):
        read(tmp_path / "t.pt", dueling, divisor=255.0)


@pytest.mark.parametrize("key", ["policy", "actor", "policy_state_dict", "actor_state_dict", "agent_state_dict"])
def test_a_state_dict_is_found_under_usual_names(tmp_path, key):
    model = chain((4, 8, 2), nn.ReLU)
    teacher = read(tmp_path / "t.pt", {key: model.state_dict(), "critic": {"step": 1}}, activation="relu")
    same(teacher.network(vectors()), model(vectors()))


@pytest.mark.parametrize(("mean", "spread"), [("mean_linear", "log_std_linear"), ("mu", "sigma")])
def test_the_head_of_a_spread_beside_that_of_a_mean_does_not_act(tmp_path, mean, spread):
    """An actor of SAC as many write it."""
    names = ("linear1", "linear2", mean, spread)
    actor = nn.ModuleDict(zip(names, (nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(8, 2)), strict=True))
    teacher = read(tmp_path / "t.pt", {"policy_state_dict": actor.state_dict()}, activation="relu", squash="tanh")
    x = torch.relu(actor["linear2"](torch.relu(actor["linear1"](vectors()))))
    same(teacher.fitted(REAL).policy.act(vectors())[0], 2 * torch.tanh(actor[mean](x)))


def test_skrl_says_that_its_output_is_taken_as_it_is(tmp_path):
    teacher = read(tmp_path / "t.pt", {"policy": named("net_container", chain((4, 8, 2), nn.ELU))}, activation="elu")
    assert "--squash tanh where its model says" in teacher.meta["note"]


# -- stable-baselines3


class Pair(gymnasium.Env):
    """A Dict whose keys stand in an order of one's own."""

    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, order="az", sizes=(2, 3)):
        sizes = dict(zip("az", sizes, strict=True))
        parts = OrderedDict((key, gymnasium.spaces.Box(-9, 9, (sizes[key],))) for key in order)  # others are sorted
        self.observation_space = gymnasium.spaces.Dict(parts)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


gymnasium.register("distilrl/Pair-v0", entry_point=Pair, max_episode_steps=10)


def test_keys_of_a_dict_are_read_by_name(tmp_path):
    """In whatever order an environment has them; others than the file's are refused."""
    import stable_baselines3

    model = stable_baselines3.PPO("MultiInputPolicy", Pair("za"), n_steps=8, batch_size=8, device="cpu")
    model.save(tmp_path / "t.zip")
    seen = {"a": np.float32([1.0, -2.0]), "z": np.float32([3.0, 0.5, -1.0])}
    wanted = model.predict(seen, deterministic=True)[0]
    teacher = load_teacher(tmp_path / "t.zip")
    for order in ("az", "za"):
        info = describe_env(EnvRef("distilrl/Pair-v0", {"order": order}))
        flat = torch.from_numpy(np.concatenate([seen[key] for key in order])[None])
        np.testing.assert_allclose(teacher.fitted(info).policy.act(flat)[0].numpy()[0], wanted, atol=1e-5)
    # whoever fits it again, as training does, leaves it as it is
    turned = describe_env(EnvRef("distilrl/Pair-v0", {"order": "az"}))
    flat = torch.from_numpy(np.concatenate([seen["a"], seen["z"]])[None])
    twice = teacher.fitted(turned).fitted(turned)
    parts = load_teacher(TeacherFile(str(tmp_path / "t.zip"), reads=("a", "z"))).fitted(turned)
    both = ensemble([teacher, teacher], flat).fitted(turned)
    fitted = ensemble([twice, teacher.fitted(turned)], flat).fitted(turned)
    for one in (twice, parts, both, fitted):
        np.testing.assert_allclose(one.policy.act(flat)[0].numpy()[0], wanted, atol=1e-5)
    with pytest.raises(TeacherError, match="read the keys of their observations in different orders"):
        ensemble([teacher, teacher.fitted(turned)], flat)
    part = load_teacher(TeacherFile(str(tmp_path / "t.zip"), reads=("a", "z")))
    with pytest.raises(TeacherError, match=r"reads 3 numbers as z, but .* has 2"):
        part.fitted(describe_env(EnvRef("distilrl/Pair-v0", {"sizes": [3, 2]})))
    with pytest.raises(TeacherError, match=r"reads z \(3\), a \(2\), but .* gives a \(3\), z \(2\)"):
        teacher.fitted(describe_env(EnvRef("distilrl/Pair-v0", {"sizes": [3, 2]})))


def test_an_extractor_that_is_called_as_the_librarys_is_refused(tmp_path):
    from stable_baselines3.common.torch_layers import FlattenExtractor as Theirs

    class FlattenExtractor(Theirs):
        def forward(self, observations):
            return super().forward(observations) / 10

    write_sb3(tmp_path / "t.zip", "DQN", "CartPole-v1", features_extractor_class=FlattenExtractor)
    with pytest.raises(FileError, match="is code of its own: export the policy to ONNX"):
        load_teacher(tmp_path / "t.zip")
    write_sb3(tmp_path / "own.zip", "DQN", "CartPole-v1", features_extractor_class=Theirs)
    assert load_teacher(tmp_path / "own.zip").outputs == 2


def test_a_zip_without_its_suffix(tmp_path):
    """``save("ppo_lr0.001")`` writes such a one."""
    write_sb3(tmp_path / "dqn_lr0.001", "DQN", "CartPole-v1")
    assert not (tmp_path / "dqn_lr0.001.zip").exists()
    assert load_teacher(tmp_path / "dqn_lr0.001").format.startswith("stable-baselines3 DQN")
    with zipfile.ZipFile(tmp_path / "other.bin", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(FileError, match="not a file of PyTorch"):
        load_teacher(tmp_path / "other.bin")


def test_choices_that_do_not_begin_at_0_are_noted(tmp_path):
    class Shifted(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(3, start=1)

    write_sb3(tmp_path / "t.zip", "DQN", Shifted())
    assert "counted from 1, as its space says" in load_teacher(tmp_path / "t.zip").meta["note"]
    write_sb3(tmp_path / "plain.zip", "DQN", "CartPole-v1")
    assert "note" not in load_teacher(tmp_path / "plain.zip").meta


def test_statistics_of_frames_that_were_stacked_behind_them(tmp_path):
    """RL Zoo normalises and then stacks: each frame was normalised so."""
    envs, path = vec_normalize(tmp_path)
    model = chain((8, 8, 2), nn.ReLU)
    torch.save(model.state_dict(), tmp_path / "t.pt")
    teacher = load_teacher(TeacherFile(str(tmp_path / "t.pt"), activation="relu", normalizer=path))
    assert "statistics of 4 numbers, taken for each of 2 frames" in teacher.meta["note"]
    obs = vectors(8)
    halves = [envs.normalize_obs(half.numpy().astype(np.float64)) for half in obs.split(4, dim=1)]
    same(teacher.network(obs), model(torch.from_numpy(np.concatenate(halves, axis=1).astype(np.float32))))


def test_statistics_of_a_dict_of_one_key_and_of_a_matrix(tmp_path):
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    class One(Pair):
        def __init__(self, space):
            super().__init__()
            self.observation_space = space

    box = gymnasium.spaces.Box(-9, 9, (2, 3))
    for name, space in (("MultiInputPolicy", gymnasium.spaces.Dict({"only": box})), ("MlpPolicy", box)):
        envs = VecNormalize(DummyVecEnv([lambda space=space: gymnasium.wrappers.TimeLimit(One(space), 10)]))
        model = PPO(name, envs, n_steps=8, batch_size=8, device="cpu")
        model.learn(64)
        model.save(tmp_path / "t.zip")
        envs.save(str(tmp_path / "vec.pkl"))
        teacher = load_teacher(TeacherFile(str(tmp_path / "t.zip"), normalizer=str(tmp_path / "vec.pkl")))
        obs = np.random.default_rng(0).normal(0, 3, (1, 2, 3)).astype(np.float32)
        seen = {"only": obs} if name == "MultiInputPolicy" else obs
        wanted = model.predict(envs.normalize_obs(seen), deterministic=True)[0]
        info = EnvInfo(EnvRef("one"), ObsSpec((6,)), Bounds((-1.0,), (1.0,)))
        given = torch.from_numpy(obs.reshape(1, 6))
        np.testing.assert_allclose(teacher.fitted(info).policy.act(given)[0].numpy(), wanted, atol=1e-5)


# -- ONNX


class Bounded(nn.Module):
    """A tanh, and what does not change it."""

    def __init__(self, network, how):
        super().__init__()
        self.network, self.how = network, how

    def forward(self, x):
        y = torch.tanh(self.network(x))
        return {"clip": y.clamp(-1, 1), "concat": torch.cat([y[:, :1], y[:, :1]], dim=1), "split": y.split(1, 1)[0]}[
            self.how
        ]


@pytest.mark.parametrize("how", ["clip", "concat", "split"])
def test_a_tanh_at_the_end_is_asked_for_where_actions_have_other_bounds(tmp_path, how):
    model = Bounded(chain((4, 8, 2), nn.ReLU), how)
    path, obs = write_onnx(tmp_path / "t.onnx", model, torch.zeros(2, 4), outputs=("action",)), torch.randn(5, 4)
    wide = 1 if how == "split" else 2

    def played(high, **told):
        info = EnvInfo(EnvRef("one"), ObsSpec((4,)), Bounds((-high,) * wide, (high,) * wide))
        return load_teacher(TeacherFile(str(path), **told)).fitted(info).policy.act(obs)[0]

    wanted = model(obs).detach()
    torch.testing.assert_close(played(1.0), wanted)
    with pytest.raises(TeacherError, match="does not say how its numbers become an action"):
        played(2.0)
    torch.testing.assert_close(played(2.0, squash="clip"), wanted)
    torch.testing.assert_close(played(2.0, squash="scale"), 2 * wanted)


def test_what_was_left_out_behind_a_mean_and_its_spread_is_asked_for(tmp_path):
    model, obs = chain((3, 8, 4), nn.ReLU), torch.randn(5, 3)
    path = write_onnx(tmp_path / "t.onnx", model, torch.zeros(2, 3), outputs=("logits",))
    info = EnvInfo(EnvRef("one"), ObsSpec((3,)), Bounds((-1.0,) * 2, (1.0,) * 2))
    with pytest.raises(TeacherError, match="say --kind gaussian where the second half"):
        load_teacher(path).fitted(info)
    with pytest.raises(TeacherError, match="does not say how its numbers become an action"):
        load_teacher(TeacherFile(str(path), kind="gaussian")).fitted(info)
    teacher = load_teacher(TeacherFile(str(path), kind="gaussian", squash="tanh")).fitted(info)
    torch.testing.assert_close(teacher.policy.act(obs)[0], torch.tanh(model(obs)[:, :2]).detach())


def test_what_an_exporter_said_is_told(tmp_path):
    path = write_onnx(tmp_path / "t.onnx", chain((4, 8, 2), nn.ReLU), torch.zeros(2, 4), outputs=("q",))
    model = onnx.load(path)
    for key, value in (("action_scale", "0.25"), ("joints\x1b[2J", "hip" * 1000)):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    said = load_teacher(path).meta["says"]
    assert said["action_scale"] == "0.25"
    assert set(map(len, said.values())) == {4, 80}
    assert all(key.isprintable() for key in said)


def test_the_time_as_one_number_more_has_its_wrapper_named(tmp_path):
    path = write_onnx(tmp_path / "t.onnx", chain((5, 8, 2), nn.ReLU), torch.zeros(2, 5), outputs=("q",))
    with pytest.raises(TeacherError, match="TimeFeatureWrapper"):
        load_teacher(path).fitted(EnvInfo(EnvRef("one"), ObsSpec((4,)), Choices((2,))))


class Several(nn.Module):
    """A mean, its spread, and what is made of both."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        mean = self.network(x)
        return mean, mean * 0 - 1, torch.tanh(mean)


def test_other_outputs_of_as_many_numbers_are_named(tmp_path):
    path = write_onnx(
        tmp_path / "t.onnx",
        Several(chain((4, 8, 2), nn.ReLU)),
        torch.zeros(2, 4),
        outputs=("mean", "log_std", "tanh_mean"),
    )
    assert "read as 'mean'; log_std, tanh_mean are as many" in load_teacher(path).meta["note"]
    assert "note" not in load_teacher(TeacherFile(path, output="mean")).meta


class Bytes(nn.Module):
    """Takes bytes."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Linear(3 * 8 * 6, 2)

    def forward(self, x):
        return self.dense(x.float().flatten(1))


def test_pixels_as_floats_are_not_cut_to_bytes(tmp_path):
    path = write_onnx(tmp_path / "t.onnx", Bytes(), torch.zeros(2, 3, 8, 6, dtype=torch.uint8))
    teacher = load_teacher(TeacherFile(path, divisor=1.0))
    teacher.network(torch.zeros(2, 3, 8, 6, dtype=torch.uint8))
    with pytest.raises(FileError, match="takes pixels as bytes, and this environment gives them as floats"):
        teacher.network(torch.rand(2, 3, 8, 6))
    flat = write_onnx(tmp_path / "flat.onnx", Bytes(), torch.zeros(2, 144, dtype=torch.uint8))
    teacher = load_teacher(flat)
    whole = torch.randint(0, 256, (2, 144), dtype=torch.uint8)
    assert torch.equal(teacher.network(whole.float()), teacher.network(whole))
    with pytest.raises(FileError, match="takes bytes, and this environment gives other numbers"):
        teacher.network(whole / 255)


# -- the Hub


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://a/b", ("a/b", None, None)),
        ("hf://a/b/ppo (1).zip", ("a/b", None, "ppo (1).zip")),
        ("hf://a/b/models/best/ppo.zip", ("a/b", None, "models/best/ppo.zip")),
        ("hf://a/b@v1.0/models/ppo.zip", ("a/b", "v1.0", "models/ppo.zip")),
        ("hf://a/b@refs/pr/3/ppo.zip", ("a/b", "refs/pr/3", "ppo.zip")),
    ],
)
def test_files_of_the_hub_may_lie_in_folders(text, parts):
    assert re.fullmatch(ID, text).groups() == parts


def test_a_policy_in_a_folder_is_found_where_none_lies_outside():
    assert _choose({"a/ppo.zip": 5, "README.md": 1}, "hf://a/b") == "a/ppo.zip"
    assert _choose({"a/ppo.zip": 5, "ppo.onnx": 1}, "hf://a/b") == "ppo.onnx"
    # as RL Zoo pushes them
    assert _choose({"ppo.zip": 5, "train_eval_metrics.zip": 5, "replay.mp4": 9}, "hf://a/b") == "ppo.zip"
    with pytest.raises(FileError, match=r"several policies \(a/ppo.zip, b/ppo.zip\): name one as hf://a/b/FILE"):
        _choose({"a/ppo.zip": 5, "b/ppo.zip": 5}, "hf://a/b")


def test_convolutions_that_no_square_image_explains_are_said(tmp_path):
    """Padded ones, or numbers beside the image: it was said that file and spec do not belong together."""
    torch.save({"0.weight": torch.zeros(4, 3, 3, 3), "0.bias": torch.zeros(4), "3.weight": torch.zeros(2, 74),
                "3.bias": torch.zeros(2)}, tmp_path / "dot.pt")  # fmt: skip
    asked = TeacherFile(str(tmp_path / "dot.pt"), network="cnn:4k3s2:", activation="relu")
    with pytest.raises(FileError, match=r"Of no square image do the convolutions of .* make the 74 numbers .* ONNX"):
        load_teacher(asked)


def test_a_state_dict_of_padded_convolutions_is_not_sent_to_another_size(tmp_path):
    """Its images were resized to what convolutions without padding would need, and another policy played."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, padding=1), nn.ReLU(),
                            nn.Flatten(), nn.Linear(4 * 4 * 4, 2))  # fmt: skip
    torch.save(network.state_dict(), tmp_path / "padded.pt")
    asked = TeacherFile(
        str(tmp_path / "padded.pt"), network="cnn:4k3s2,4k3s2:", activation="relu", kind="q", divisor=255.0
    )
    env = EnvInfo(EnvRef("Pic-v0"), ObsSpec((3, 16, 16), (3, 16, 16), dtype="uint8"), Choices((2,)))
    with pytest.raises(
        TeacherError, match=r"export it to ONNX if its convolutions are padded or pooled, .* give --resize"
    ):
        load_teacher(asked).fitted(env)
