"""CleanRL's real actions and robot libraries' checkpoints in their exact layout: the action is their own forward's."""

import json
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from distilrl import evaluate_policy
from distilrl.envs import EnvInfo
from distilrl.errors import FileError, TeacherError
from distilrl.networks import Network
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.teachers import TeacherFile, cleanrl, load_teacher

OBS = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (200, 5)).astype(np.float32))
ENV = EnvInfo(EnvRef("robot"), ObsSpec((5,)), Bounds((-1.0, -1.0), (1.0, 1.0)))


def mlp(*sizes, activation=nn.ELU):
    layers = []
    for index, (fan_in, out) in enumerate(pairwise(sizes)):
        layers += [activation()] if index else []
        layers.append(nn.Linear(fan_in, out))
    return nn.Sequential(*layers)


def named(prefix, module):
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-5)


def read(path, content, **told):
    torch.save(content, path)
    return load_teacher(TeacherFile(str(path), **told))


# -- CleanRL


def test_cleanrl_ppo_of_real_actions(tmp_path):
    actor = mlp(5, 64, 64, 2, activation=nn.Tanh)
    state = {
        "actor_logstd": torch.tensor([[0.5, -1.0]]),
        **named("critic", mlp(5, 64, 64, 1)),
        **named("actor_mean", actor),
    }
    teacher = read(tmp_path / "ppo.cleanrl_model", OrderedDict(state))
    assert (teacher.format, teacher.kind, teacher.squash, teacher.action) == ("CleanRL PPO", "gaussian", "clip", None)
    assert "does not save" in teacher.meta["note"]
    (tmp_path / "s.json").write_text(json.dumps({"mean": [0.5] * 5, "var": [4.0] * 5}))
    given = load_teacher(TeacherFile(str(tmp_path / "ppo.cleanrl_model"), normalizer=str(tmp_path / "s.json")))
    assert given.meta["note"] == cleanrl.ACTIVATION.format("tanh")
    same(given.fitted(ENV).policy.act(OBS)[0], actor((OBS - 0.5) / 2).clamp(-1, 1))
    assert teacher.params == sum(p.numel() for p in actor.parameters())
    fitted = teacher.fitted(ENV)
    same(fitted.policy.act(OBS)[0], actor(OBS).clamp(-1, 1))
    same(fitted.numbers(OBS)[:, 2:], torch.tensor([[0.5, -1.0]]).expand(200, 2))
    assert isinstance(fitted.network, Network)


class Actor(nn.Module):
    """CleanRL's actor of SAC, TD3 and DDPG."""

    def __init__(self, head):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, 16), nn.Linear(16, 16)
        setattr(self, head, nn.Linear(16, 2))
        if head == "fc_mean":
            self.fc_logstd = nn.Linear(16, 2)
        self.head = getattr(self, head)
        self.register_buffer("action_scale", torch.tensor([2.0, 0.5]))
        self.register_buffer("action_bias", torch.tensor([0.0, 1.0]))

    def state(self):
        return OrderedDict((k, v) for k, v in self.state_dict().items() if not k.startswith("head."))

    def forward(self, x):
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return torch.tanh(self.head(x)) * self.action_scale + self.action_bias


class Q(nn.Module):
    """CleanRL's critic."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(7, 16), nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x, a):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(torch.cat([x, a], 1))))))


@pytest.mark.parametrize(("head", "critics"), [("fc_mean", 2), ("fc_mu", 2), ("fc_mu", 1), ("fc_mu", 0)])
def test_cleanrl_actors_of_real_actions(tmp_path, head, critics):
    actor, qs = Actor(head), [Q() for _ in range(critics)]
    content = (actor.state(), *(q.state_dict() for q in qs)) if critics else actor.state()
    teacher = read(tmp_path / "t.cleanrl_model", content)
    assert (teacher.kind, teacher.squash, teacher.action) == ("mean", "tanh", Bounds((-2.0, 0.5), (2.0, 1.5)))
    same(teacher.policy.act(OBS)[0], actor(OBS))
    assert isinstance(teacher.network, Network)
    if critics:
        actions = torch.rand(200, 2) * 2 - 1
        expected = torch.cat([q(OBS, actions * actor.action_scale + actor.action_bias) for q in qs], 1).amin(1)
        same(teacher.critic(OBS, actions), expected)
    else:
        assert teacher.critic is None


def test_a_tuple_without_an_actor_is_refused(tmp_path):
    with pytest.raises(FileError, match="none of which is an actor"):
        read(tmp_path / "t.pt", (mlp(5, 4, 2).state_dict(), mlp(5, 4, 1).state_dict()))


def test_a_scale_of_zero_is_refused(tmp_path):
    actor = Actor("fc_mu")
    actor.action_scale.zero_()
    with pytest.raises(FileError, match="action_scale"):
        read(tmp_path / "t.pt", actor.state())


# -- plain state dicts


def test_a_plain_network_of_real_actions(tmp_path):
    model = mlp(5, 8, 2, activation=nn.ReLU)
    teacher = read(tmp_path / "t.pt", model.state_dict(), activation="relu")
    assert teacher.kind is None
    with pytest.raises(TeacherError, match="environment"):
        teacher.numbers(OBS)
    with pytest.raises(TeacherError, match=r"does not say how .*: say --squash clip where .*, tanh .*, or scale where"):
        teacher.fitted(ENV)
    clipped = read(tmp_path / "t.pt", model.state_dict(), activation="relu", squash="clip")
    same(clipped.fitted(ENV).policy.act(OBS)[0], model(OBS).clamp(-1, 1))
    choices = EnvInfo(EnvRef("choices"), ObsSpec((5,)), Choices((2,)))
    assert teacher.fitted(choices).kind == "q"
    squashed = read(tmp_path / "t.pt", model.state_dict(), activation="relu", squash="tanh")
    same(squashed.fitted(ENV).policy.act(OBS)[0], torch.tanh(model(OBS)))
    assert squashed.digest != teacher.digest
    both = read(tmp_path / "t.pt", mlp(5, 8, 4).state_dict(), activation="elu", kind="gaussian", squash="clip")
    assert both.fitted(ENV).head.width == 4


# -- rsl_rl

MEAN, STD = torch.linspace(-1, 1, 5), torch.linspace(0, 2, 5)


def normaliser(prefix=""):
    statistics = {"_mean": MEAN[None], "_var": STD[None] ** 2, "_std": STD[None], "count": torch.tensor(7)}
    return {f"{prefix}{name}": tensor for name, tensor in statistics.items()}


def rsl_rl(actor, version):
    std = torch.tensor([0.5, 2.0])
    rest = {
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "iter": 3,
        "infos": None,
    }
    if version == 1:
        return {"model_state_dict": {"std": std, **named("actor", actor), **named("critic", mlp(5, 8, 1))}, **rest}
    if version == 2:
        return rsl_rl(actor, 1) | {"obs_norm_state_dict": normaliser(), "critic_obs_norm_state_dict": normaliser()}
    if version == 3:
        state = {
            "log_std": std.log(),
            **named("actor", actor),
            **normaliser("actor_obs_normalizer."),
            **normaliser("critic_obs_normalizer."),
        }
        return {"model_state_dict": state, **rest}
    if version == "student":
        return {"model_state_dict": {"std": std, **named("student", actor), **named("teacher", mlp(9, 8, 2))}, **rest}
    state = {**normaliser("obs_normalizer."), **named("mlp", actor), "distribution.std_param": std}
    return {"actor_state_dict": state, "critic_state_dict": named("mlp", mlp(5, 8, 1)), **rest}


@pytest.mark.parametrize("version", [1, 2, 3, 4, "student"])
def test_rsl_rl(tmp_path, version):
    actor = mlp(5, 16, 8, 2)
    teacher = read(tmp_path / "model_100.pt", rsl_rl(actor, version))
    assert (teacher.format, teacher.kind, teacher.squash, teacher.action) == ("rsl_rl", "gaussian", "clip", None)
    seen = OBS if version in (1, "student") else (OBS - MEAN) / (STD + 1e-2)
    fitted = teacher.fitted(ENV)
    torch.testing.assert_close(fitted.policy.act(OBS)[0], actor(seen).clamp(-1, 1).detach(), rtol=1e-4, atol=1e-4)
    same(fitted.numbers(OBS)[:, 2:].exp(), torch.tensor([[0.5, 2.0]]).expand(200, 2))
    assert isinstance(fitted.network, Network)
    assert teacher.params == sum(p.numel() for p in actor.parameters())


def test_layers_of_rsl_rl_with_nothing_between_are_no_activation_apart(tmp_path):
    actor = nn.Sequential(nn.Linear(5, 16), nn.Linear(16, 8), nn.ELU(), nn.Linear(8, 2))
    with pytest.raises(FileError, match=r"in a row.*ONNX"):
        read(tmp_path / "model_100.pt", rsl_rl(actor, 1))


def test_rsl_rl_with_another_activation(tmp_path):
    actor = mlp(5, 16, 2, activation=nn.ReLU)
    teacher = read(tmp_path / "t.pt", rsl_rl(actor, 1), activation="relu").fitted(ENV)
    same(teacher.policy.act(OBS)[0], actor(OBS).clamp(-1, 1))


# -- rl_games and skrl


@pytest.mark.parametrize("normalise", [True, False])
def test_rl_games(tmp_path, normalise):
    body, mu = mlp(5, 16, 8), nn.Linear(8, 2)
    mean, var = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(0.1, 3, 5, dtype=torch.float64)
    state = {
        **named("a2c_network.actor_mlp", nn.Sequential(*body, nn.ELU())),
        **named("a2c_network.mu", mu),
        **named("a2c_network.value", nn.Linear(8, 1)),
        "a2c_network.sigma": torch.tensor([0.1, -0.2]),
        "value_mean_std.running_mean": torch.zeros(1, dtype=torch.float64),
    }
    if normalise:
        state |= {
            "running_mean_std.running_mean": mean,
            "running_mean_std.running_var": var,
            "running_mean_std.count": torch.ones(()),
        }
    content = {
        "model": state,
        "epoch": 4,
        "frame": 100,
        "last_mean_rewards": np.float32(3.5),
        "optimizer": {"state": {}},
        "env_state": None,
    }
    with pytest.raises(FileError, match="--activation"):
        read(tmp_path / "t.pth", content)
    teacher = read(tmp_path / "t.pth", content, activation="elu")
    far = OBS * 10
    seen = ((far - mean.float()) / (var.float() + 1e-5).sqrt()).clamp(-5, 5) if normalise else far
    fitted = teacher.fitted(ENV)
    same(fitted.policy.act(far)[0], mu(nn.functional.elu(body(seen))).clamp(-1, 1))
    same(fitted.numbers(far)[:, 2:], torch.tensor([[0.1, -0.2]]).expand(200, 2))
    assert (teacher.format, teacher.kind) == ("rl_games", "gaussian")


@pytest.mark.parametrize("key", ["state_preprocessor", "observation_preprocessor", None])
def test_skrl(tmp_path, key):
    body, head = mlp(5, 16, 8), nn.Linear(8, 2)
    policy = {
        "log_std_parameter": torch.tensor([0.1, -0.2]),
        **named("net_container", nn.Sequential(*body, nn.ELU())),
        **named("policy_layer", head),
        **named("value_layer", nn.Linear(8, 1)),
    }
    mean, var = torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(0.1, 3, 5, dtype=torch.float64)
    content = {"policy": policy, "value": policy, "optimizer": {"state": {}}}
    if key:
        content[key] = {
            "running_mean": mean,
            "running_variance": var,
            "current_count": torch.ones((), dtype=torch.float64),
        }
    far = OBS * 10
    seen = ((far - mean.float()) / (var.float().sqrt() + 1e-8)).clamp(-5, 5) if key else far
    teacher = read(tmp_path / "agent.pt", content, activation="elu").fitted(ENV)
    same(teacher.policy.act(far)[0], head(nn.functional.elu(body(seen))).clamp(-1, 1))
    assert (teacher.format, teacher.kind) == ("skrl", "gaussian")


def test_convolutions_of_skrl_are_refused(tmp_path):
    """In its one container they were read as if pixels were divided by 255."""
    body = nn.Sequential(
        nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(3136, 512),
    )  # fmt: skip
    policy = {
        "log_std_parameter": torch.zeros(2),
        **named("net_container", body),
        **named("policy_layer", nn.Linear(512, 2)),
    }
    with pytest.raises(FileError, match="whose strides no file holds: export the policy to ONNX"):
        read(tmp_path / "agent.pt", {"policy": policy, "value": policy, "optimizer": {"state": {}}}, activation="relu")


def test_images_in_a_robot_checkpoint_are_refused(tmp_path):
    state = {**named("a2c_network.actor_cnn", nn.Conv2d(1, 2, 3)), **named("a2c_network.mu", nn.Linear(8, 2))}
    with pytest.raises(FileError, match="ONNX"):
        read(tmp_path / "t.pth", {"model": state}, activation="elu")


# -- what is in a file is read whole, or not at all


def test_layers_that_have_no_place_are_refused(tmp_path):
    layered = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2))
    actor = {
        **{f"{name}.{key}": value for name, layer in (("fc1", nn.Linear(5, 8)), ("fc2", nn.Linear(8, 8)))
           for key, value in layer.state_dict().items()},
        **named("fc_mean", nn.Linear(8, 2)), **named("fc_logstd", nn.Linear(8, 2)),
        "action_scale": torch.ones(2), "action_bias": torch.zeros(2),
    }  # fmt: skip
    assert read(tmp_path / "whole.pt", actor).format == "CleanRL SAC"
    plain, told = mlp(5, 8, 2, activation=nn.Tanh), {"activation": "tanh", "kind": "mean"}
    statistics = {"obs_mean": torch.zeros(5), "obs_var": torch.ones(5)}
    ppo = {"actor_logstd": torch.zeros(1, 2), **named("actor_mean", plain), **named("critic", mlp(5, 8, 1))}
    for name, state, answers in (
        ("actor.1.weight", named("actor", layered) | named("critic", mlp(5, 8, 1)), told),
        ("net.1.weight", named("net", layered), told),
        ("q_network.1.weight", named("q_network", layered), told),
        ("fc3.weight", actor | named("fc3", nn.Linear(8, 8)), {}),
        ("ln1.weight", actor | named("ln1", nn.LayerNorm(8)), {}),
        ("running_mean_std.mean", named("policy", plain) | {"running_mean_std.mean": torch.zeros(5)}, told),
        ("obs_mean", ppo | statistics, told),
    ):
        with pytest.raises(FileError, match=rf"holds the tensor '{name}' .*has no place: export the policy to ONNX"):
            read(tmp_path / "t.pt", state, **answers)
    for key in ("obs_rms", "obs_norm", "running_mean_std", "observation_scaler"):
        with pytest.raises(FileError, match=rf"holds statistics of observations \('{key}'\)"):
            read(tmp_path / "t.pt", {"model": named("net", plain), key: statistics}, **told)
    assert read(tmp_path / "t.pt", {"model": named("net", plain), "obs_rms": None}, **told)
    beside = {
        "ret_rms": torch.ones(1),
        "qf1.0.weight": torch.zeros(8, 7),
        "policy_old.0.weight": torch.zeros(8, 5),
        "target_net.0.weight": torch.zeros(8, 5),
        "log_std": torch.zeros(2),
    }
    assert read(tmp_path / "t.pt", named("net", plain) | {"value_head.weight": torch.zeros(1, 8)} | beside, **told)


def rl_games(body, mu):
    return {
        **named("a2c_network.actor_mlp", nn.Sequential(*body, nn.ELU())),
        **named("a2c_network.mu", mu),
        **named("a2c_network.value", nn.Linear(8, 1)),
        "a2c_network.sigma": torch.zeros(2),
    }


def test_old_and_compiled_checkpoints_of_rl_games_are_read_whole(tmp_path):
    body, mu, told = mlp(5, 16, 8), nn.Linear(8, 2), {"activation": "elu"}
    state, var = rl_games(body, mu), torch.linspace(0.1, 3, 5, dtype=torch.float64)
    rms = {"running_mean": MEAN.double(), "running_var": var, "count": torch.ones(())}
    seen = ((OBS - MEAN) / (var.float() + 1e-5).sqrt()).clamp(-5, 5)
    expected = mu(nn.functional.elu(body(seen))).clamp(-1, 1)
    old = {"model": state, "running_mean_std": rms, "reward_mean_std": {"running_mean": torch.zeros(1)}}
    same(read(tmp_path / "t.pth", old, **told).fitted(ENV).policy.act(OBS)[0], expected)
    whole = state | {f"running_mean_std.{name}": one for name, one in rms.items()}
    compiled = {"model": {f"_orig_mod.{name}": one for name, one in whole.items()}}
    same(read(tmp_path / "t.pth", compiled, **told).fitted(ENV).policy.act(OBS)[0], expected)


def test_parts_of_a_robot_checkpoint_that_have_no_place_are_refused(tmp_path):
    told, encoder = {"activation": "elu"}, mlp(9, 8, 3)
    games, noise = rl_games(mlp(5, 16, 8), nn.Linear(8, 2)), {"std": torch.ones(2)}
    legs = {**noise, **named("actor", mlp(5, 8, 2)), **named("critic", mlp(5, 8, 1))}
    skrl = {"log_std_parameter": torch.zeros(2), **named("net_container", mlp(5, 8, 2))}
    linears = "a2c_network.actor_mlp.linears"
    d2rl = {**named(f"{linears}.0", nn.Linear(5, 8)), **named("a2c_network.mu", nn.Linear(8, 2))}
    parts = {f"running_mean_std.running_mean_std.obs.{name}": one for name, one in
             (("running_mean", torch.zeros(5)), ("running_var", torch.ones(5)))}  # fmt: skip
    rms = {"running_mean_std.running_mean": torch.zeros(5), "running_mean_std.running_var": torch.ones(5)}
    for name, content in (
        (f"{linears}.0.weight", {"model": d2rl}),
        (f"{linears}.0.weight", {"model": d2rl | rms}),
        ("running_mean_std.running_mean_std.obs.running_mean", {"model": games | parts}),
        ("a2c_network.obs_encoder.0.weight", {"model": games | named("a2c_network.obs_encoder", encoder)}),
        ("encoder.0.weight", {"model_state_dict": legs | named("encoder", encoder)}),
        ("estimator.0.weight", {"model_state_dict": legs | named("estimator", encoder)}),
        ("obs_normalizer._mean", {"model_state_dict": legs | normaliser("obs_normalizer.")}),
        ("encoder.0.weight", {"actor_state_dict": {**noise, **named("mlp", mlp(5, 2)), **named("encoder", encoder)}}),
        ("encoder.0.weight", {"policy": skrl | named("encoder", encoder)}),
    ):
        with pytest.raises(FileError, match=rf"holds the tensor '{name}' .*has no place: export the policy to ONNX"):
            read(tmp_path / "t.pt", content, **told)
    beside = {"model_state_dict": legs, "actor_obs_normalizer": normaliser()}
    with pytest.raises(FileError, match=r"holds statistics of observations \('actor_obs_normalizer'\)"):
        read(tmp_path / "t.pt", beside)
    nested = {"model": games, "running_mean_std": {"obs": {"running_mean": torch.zeros(5)}}}
    with pytest.raises(FileError, match=r"holds statistics of observations \('running_mean_std'\)"):
        read(tmp_path / "t.pt", nested, **told)
    idle = {f"a2c_network.{name}": one for name, one in named("_disc_mlp", encoder).items()}
    idle |= named("a2c_network.critic_mlp", encoder) | {"value_mean_std.running_mean": torch.zeros(1)}
    assert read(tmp_path / "t.pt", {"model": games | idle, "amp_input_mean_std": rms}, **told).format == "rl_games"
    rnd = {"rnd_state_dict": named("predictor", encoder), "privileged_obs_norm_state_dict": normaliser()}
    assert read(tmp_path / "t.pt", {"model_state_dict": legs, **rnd}).format == "rsl_rl"


def test_an_agent_of_skrl_with_a_class_of_its_own_keeps_its_preprocessor(tmp_path):
    agent = {"policy": named("net", mlp(5, 8, 2)), "state_preprocessor": {"running_mean": torch.zeros(5)}}
    with pytest.raises(FileError, match="behind its preprocessor of observations"):
        read(tmp_path / "t.pt", agent, activation="elu")


# -- bounds


WIDE = replace(ENV, action=Bounds((-2.0, 0.0), (2.0, 1.0)))


def test_numbers_that_stand_for_bounds_are_scaled_to_them(tmp_path):
    actor = mlp(5, 8, 2)
    teacher = read(tmp_path / "t.pt", named("net", actor), activation="elu", squash="scale").fitted(WIDE)
    expected = torch.tensor([0.0, 0.5]) + torch.tensor([2.0, 0.5]) * actor(OBS).clamp(-1, 1)
    same(teacher.policy.act(OBS)[0], expected)
    assert teacher.fitted(WIDE).network is teacher.network, "not twice"
    open_ended = replace(ENV, action=Bounds((-2.0, None), (2.0, None)))
    with pytest.raises(TeacherError, match=r"does not fit robot: .*of which one is open: say --squash clip"):
        read(tmp_path / "t.pt", named("net", actor), activation="elu", squash="scale").fitted(open_ended)


def test_rl_games_acts_in_the_bounds_as_its_own_player_does(tmp_path):
    actor = mlp(5, 8, 2)
    state = {
        **{f"a2c_network.actor_mlp.0.{key}": value for key, value in actor[0].state_dict().items()},
        **{f"a2c_network.mu.{key}": value for key, value in actor[2].state_dict().items()},
        "a2c_network.sigma": torch.tensor([0.1, -0.2]),
    }
    told = {"activation": "elu"}
    scaled = read(tmp_path / "t.pth", {"model": state}, **told).fitted(WIDE)
    same(scaled.policy.act(OBS)[0], torch.tensor([0.0, 0.5]) + torch.tensor([2.0, 0.5]) * actor(OBS).clamp(-1, 1))
    same(scaled.numbers(OBS)[:, 2:], (torch.tensor([0.1, -0.2]) + torch.tensor([2.0, 0.5]).log()).expand(200, 2))
    plain = read(tmp_path / "t.pth", {"model": state}, squash="clip", **told).fitted(WIDE)
    same(plain.policy.act(OBS)[0], actor(OBS).clamp(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])))


def test_constants_of_a_spread_are_no_parameters_wherever_they_are_counted(tmp_path):
    actor = mlp(3, 4, 1)
    state = {**named("actor_mean", actor), "actor_logstd": torch.zeros(1, 1)}
    with pytest.raises(FileError, match="say which with --activation"):  # CleanRL's own are as wide as 64
        read(tmp_path / "t.pt", state)
    teacher = read(tmp_path / "t.pt", state, activation="tanh")
    assert evaluate_policy(teacher, "Pendulum-v1", episodes=2).params == teacher.params == 4 * 4 + 5


def test_a_teacher_for_other_bounds_is_refused(tmp_path):
    state = {
        **named("fc1", nn.Linear(5, 8)), **named("fc2", nn.Linear(8, 8)), **named("fc_mu", nn.Linear(8, 2)),
        "action_scale": torch.ones(2), "action_bias": torch.zeros(2),
    }  # fmt: skip
    teacher = read(tmp_path / "t.pt", state)
    assert teacher.fitted(ENV).action == ENV.action
    with pytest.raises(TeacherError, match=r"number 0 of its actions goes from -1 to 1, and of the environment's from"):
        teacher.fitted(WIDE)


def test_half_of_the_numbers_may_be_a_spread(tmp_path):
    teacher = read(tmp_path / "t.pt", named("net", mlp(5, 8, 4)), activation="elu", kind="mean")
    with pytest.raises(TeacherError, match="say --kind gaussian where the second half are log standard deviations"):
        teacher.fitted(ENV)


def test_what_the_numbers_may_be_is_said(tmp_path):
    nothing = {"actor_state_dict": named("mlp", mlp(5, 8, 4)), "iter": 5}
    teacher = read(tmp_path / "t.pt", nothing)
    assert "alpha and beta of a Beta distribution" in teacher.meta["note"]
    with pytest.raises(TeacherError, match=r"where the second half are log .* parameters of a Beta distribution, or"):
        teacher.fitted(ENV)
    odd = {"actor_state_dict": named("mlp", mlp(5, 8, 3)), "iter": 5}
    assert "note" not in read(tmp_path / "t.pt", odd, activation="elu").meta
    assert "taken for ELU" in read(tmp_path / "t.pt", odd).meta["note"]
    content = {"policy": named("net_container", mlp(5, 8, 2))}
    choices = EnvInfo(EnvRef("choices"), ObsSpec((5,)), Choices((2,)))
    with pytest.raises(TeacherError, match=r"2 numbers \(mean\), but choices .*: say --kind logits, or --kind q where"):
        read(tmp_path / "t.pt", content, activation="elu").fitted(choices)
    assert read(tmp_path / "t.pt", content, activation="elu", kind="logits").fitted(choices).kind == "logits"


@pytest.mark.parametrize("squash", ["tanh", "scale", "clip"])
@pytest.mark.parametrize("prefix", ["actor", "network"])
def test_a_squash_says_that_numbers_are_real_actions(tmp_path, squash, prefix):
    actor = mlp(5, 8, 2, activation=nn.Tanh)
    state = named(prefix, actor) | named("critic", mlp(5, 8, 1))
    teacher = read(tmp_path / "t.pt", state, activation="tanh", squash=squash)
    assert teacher.kind == "mean"
    expected = torch.tanh(actor(OBS)) if squash == "tanh" else actor(OBS).clamp(-1, 1)
    same(teacher.fitted(ENV).policy.act(OBS)[0], expected)


def test_statistics_of_a_critic_of_skrl_are_not_the_policys(tmp_path):
    actor, statistics = mlp(5, 8, 2), {"running_mean": torch.ones(9), "running_variance": torch.ones(9)}
    content = {"policy": named("net_container", actor), "state_preprocessor": statistics}
    teacher = read(tmp_path / "t.pt", content, activation="elu")
    same(teacher.fitted(ENV).policy.act(OBS)[0], actor(OBS).clamp(-1, 1))
    assert "so the critic's" in teacher.meta["note"]
    content["state_preprocessor"] = {name: one[:5] for name, one in statistics.items()}
    teacher = read(tmp_path / "t.pt", content, activation="elu")
    same(teacher.fitted(ENV).policy.act(OBS)[0], actor((OBS - 1).clamp(-5, 5)).clamp(-1, 1))
    assert "up to version 1" in teacher.meta["note"]


def test_tanh_needs_bounds_and_says_so(tmp_path):
    teacher = read(tmp_path / "t.pt", named("net", mlp(5, 8, 2)), activation="elu", squash="tanh")
    with pytest.raises(TeacherError, match="An action squashed by tanh needs a low and a high bound"):
        teacher.fitted(replace(ENV, action=Bounds((None, None), (None, None))))
