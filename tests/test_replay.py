"""Replay: stacks rebuilt exactly, episodes never spanned, memory bounded, draws weighted as said."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SIGN

from distilrl.envs import make_vec_env
from distilrl.errors import SpecError
from distilrl.jobs import make_config
from distilrl.replay import Batch, Replay, ReplaySpec
from distilrl.scales import scale_of
from distilrl.sensors import Sensors
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.tasks import input_statistics

CPU = torch.device("cpu")
VECTOR = ObsSpec((1,))
STACKS = ObsSpec((4, 84, 84), (4, 84, 84), "uint8", frames=4)


def spec(**changes):
    values = {"capacity": 60, "n_envs": 2, "obs": VECTOR, "action": Choices((2,)), "labels": 0, "n_step": 0}
    return ReplaySpec(**(values | changes))


def fill(replay, steps, *, terminated=(), truncated=()):
    """Row t: obs t + 100·env, action t, reward 1 + t; flags at the steps named, in environment 0."""
    for t in range(steps):
        obs = torch.tensor([[float(t)], [float(t + 100)]])
        flags = [torch.tensor([t in ends, False]) for ends in (terminated, truncated)]
        replay.add(obs, torch.tensor([[t], [t]]), torch.tensor([1.0 + t, 0.0]), *flags)


def drawable(replay):
    """All indices that may be drawn."""
    return torch.nonzero(replay._draws.allowed(torch.arange(replay.rows * replay.spec.n_envs))).flatten()


def every(replay):
    index = drawable(replay)
    return {float(o): i for i, o in zip(index.tolist(), replay.observations(index).flatten().tolist(), strict=True)}


def test_stacks_are_those_that_the_environment_gave():
    envs = make_vec_env(EnvRef("PongNoFrameskip-v4"), 2, threads=1)
    replay = Replay(spec(capacity=160, obs=STACKS, action=Choices((6,)), labels=6, n_step=3), CPU)
    rng = np.random.default_rng(0)
    obs = envs.reset(np.array([1, 2]))
    seen = {}
    for t in range(110):
        seen[t] = obs
        actions = rng.integers(0, 6, (2, 1))
        envs.send(actions)
        step = envs.recv()
        cut = t % 37 == 36  # the environments did not really end here: start real episodes to have real first stacks
        arrays = (obs, actions, step.reward, np.array([cut, cut]), np.array([False, False]))
        replay.add(*map(torch.from_numpy, arrays), torch.from_numpy(rng.normal(size=(2, 6)).astype(np.float32)))
        obs = envs.reset(np.array([t, t + 1])) if cut else step.obs
    index = drawable(replay)
    batch = replay.batch(index, 0.99)
    newest = 109
    for k, i in enumerate(index.tolist()):
        row, env = divmod(i, 2)
        t = newest - (newest - row) % replay.rows
        assert (batch.obs[k].numpy() == seen[t][env]).all(), (t, env)
        if not batch.terminated[k]:
            assert (batch.next_obs[k].numpy() == seen[t + 3][env]).all()
    assert len(index) > 2 * (replay.rows - 3 - 3 - 1)


def test_stacks_beside_a_vector_are_those_that_the_environment_gave():
    envs = make_vec_env(EnvRef("distilrl/MixedEnv-v0", grey=True, stack=3), 2)
    replay = Replay(spec(capacity=40, obs=envs.info.obs, action=envs.info.action), CPU)
    assert replay._obs.shape[2] == 5 + 12 * 16, "each frame once"
    obs, seen = envs.reset(np.array([1, 2])), []
    for _ in range(30):  # an episode ends after ten steps
        seen.append(obs.copy())
        actions = np.zeros((2, 2), np.float32)
        envs.send(actions)
        step = envs.recv()
        replay.add(*map(torch.from_numpy, (obs, actions, step.reward, step.terminated, step.truncated)))
        obs = step.obs
    index = drawable(replay)
    newest = len(seen) - 1
    expected = [seen[newest - (newest - row) % replay.rows][env] for row, env in (divmod(i, 2) for i in index.tolist())]
    np.testing.assert_array_equal(replay.observations(index).numpy(), np.stack(expected))
    assert len(index) == 2 * (replay.rows - 2)
    assert [len(numbers) for numbers in replay.standardisation()] == [5 + 1, 5 + 1]


def test_n_step_returns_by_hand():
    replay = Replay(spec(n_step=3), CPU)
    fill(replay, 20, terminated=(7,), truncated=(14,))
    batch = {t: replay.batch(torch.tensor([i]), 0.5) for t, i in every(replay).items()}
    assert float(batch[2.0].reward) == 3 + 0.5 * 4 + 0.25 * 5
    assert float(batch[2.0].next_obs) == 5.0
    assert not batch[2.0].terminated
    assert float(batch[6.0].reward) == 7 + 0.5 * 8  # the episode ends with the second of its three steps
    assert batch[6.0].terminated
    assert batch[7.0].terminated
    assert not {12.0, 13.0, 14.0} & set(batch), "a transition across a time limit has no known next state"
    assert {11.0, 15.0, 16.0} <= set(batch)
    assert not {17.0, 18.0, 19.0} & set(batch), "the n steps ahead are not known yet"


def test_an_old_row_is_forgotten():
    replay = Replay(spec(capacity=20), CPU)
    fill(replay, 37)
    assert len(replay) == 20
    assert sorted(o for o in every(replay) if o < 100) == [float(t) for t in range(27, 37)]


@pytest.mark.parametrize(("exponent", "most"), [(1.0, 3.0), (0.5, 9.0)])
def test_draws_follow_the_gap(exponent, most):
    replay = Replay(spec(labels=2, stakes_exponent=exponent, capacity=400), CPU)
    for _ in range(100):
        zeros = torch.zeros(2, dtype=torch.bool)
        labels = torch.tensor([[0.0, 3.0], [0.0, 1.0]])
        stakes = torch.tensor([most, 1.0])
        replay.add(
            torch.zeros(2, 1), torch.zeros((2, 1), dtype=torch.int64), torch.zeros(2), zeros, zeros, labels, stakes
        )
    index = replay.draw(20_000, torch.Generator().manual_seed(0))
    share = float((index % 2 == 0).float().mean())
    assert share == pytest.approx(0.8 * 0.75 + 0.2 * 0.5, abs=0.02)


def test_what_is_no_example_counts_nowhere():
    """Of burn-in and of what lies behind an episode's end nothing is learnt."""
    nothing = torch.zeros(4)
    one = Batch(torch.zeros(4, 2), nothing.long().view(-1, 1), nothing, None, nothing.bool(), None, nothing + 1)
    one = one._replace(valid=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    assert float(one.mean(torch.tensor([1.0, 100.0, 3.0, 100.0]))) == 2.0


def test_draws_survive_a_teacher_without_preferences():
    replay = Replay(spec(labels=2, stakes_exponent=0.5), CPU)
    for _ in range(10):
        zeros = torch.zeros(2, dtype=torch.bool)
        row = (torch.zeros(2, 1), torch.zeros((2, 1), dtype=torch.int64), torch.zeros(2), zeros, zeros)
        replay.add(*row, torch.zeros(2, 2), torch.zeros(2))
    assert int(replay.draw(100, torch.Generator().manual_seed(0)).max()) < 20


def test_a_hundred_thousand_pong_states_fit_in_a_gigabyte():
    tiny = Replay(spec(capacity=640, n_envs=64, obs=STACKS, action=Choices((6,)), labels=6), CPU)
    assert tiny.nbytes / len(tiny._obs.view(-1, 84, 84)) * 100_000 < 1e9


def test_statistics():
    replay = Replay(spec(), CPU)
    fill(replay, 10)
    mean, scale = replay.standardisation()
    values = torch.cat([torch.arange(10.0), torch.arange(10.0) + 100])
    torch.testing.assert_close(mean, values.mean().view(1))
    torch.testing.assert_close(1 / scale, values.std().view(1))


def test_draws_follow_the_error_and_new_rows_come_first():
    replay = Replay(spec(by_error=True, capacity=400), CPU)
    fill(replay, 100)
    index = torch.arange(200)
    replay.set_priorities(index, torch.where(index < 20, 4.0, 0.0), 0.5)
    drawn = replay.draw(20_000, torch.Generator().manual_seed(0))
    share = float((drawn < 20).float().mean())
    expected = 0.8 * 20 * 4.001**0.5 / (20 * 4.001**0.5 + 180 * 0.001**0.5) + 0.2 * 0.1
    assert share == pytest.approx(expected, abs=0.02)
    weights = replay.importance_weights(torch.tensor([0, 100]))
    assert weights.max() == 1.0
    assert weights[0] < weights[1], "what is drawn more often counts less"
    fill(replay, 1)
    assert float(replay.priorities[100, 0]) == pytest.approx(4.001**0.5)
    other = Replay(spec(by_error=True, capacity=400), CPU)
    other.priorities = replay.priorities
    assert torch.equal(other.priorities, replay.priorities)


@pytest.mark.parametrize("error", [math.nan, math.inf])
def test_states_are_drawn_until_the_next_check_says_that_training_has_diverged(error):
    replay = Replay(spec(by_error=True, capacity=400), CPU)
    fill(replay, 100)
    replay.set_priorities(torch.arange(3), torch.tensor([error, 1.0, 1.0]), 0.5)
    fill(replay, 1)
    assert int(replay.draw(1000, torch.Generator().manual_seed(0)).max()) < 202


@pytest.mark.parametrize("game", ["BreakoutNoFrameskip-v4"])
def test_a_lost_life_ends_an_episode_and_stacks_stay_exact(game):
    envs = make_vec_env(EnvRef(game), 2, threads=1, for_learning=True)
    replay = Replay(spec(capacity=2000, obs=STACKS, action=Choices((4,))), CPU)
    rng = np.random.default_rng(0)
    obs, seen, ends, rewards = envs.reset(np.array([1, 2])), [], 0, set()
    for _ in range(400):
        actions = rng.integers(0, 4, (2, 1))
        seen.append(torch.from_numpy(obs.copy()))
        envs.send(actions)
        step = envs.recv()
        arrays = (actions, step.reward, step.terminated, step.truncated)
        replay.add(seen[-1], *(torch.from_numpy(a) for a in arrays))
        obs, ends = step.obs, ends + int(step.terminated.sum())
        rewards |= set(step.reward.tolist())
    envs.close()
    assert ends >= 10, "five lives would last longer"
    assert rewards <= {0.0, 1.0}
    assert torch.equal(replay.observations(torch.arange(800)), torch.stack(seen).flatten(0, 1))


def standardised(states, reach=(), noise=()):
    """Scales of some states, as a replay that holds them finds them."""
    obs = ObsSpec((states.shape[1],), reach=reach)
    replay = Replay(spec(capacity=len(states), n_envs=1, obs=obs, sensors=Sensors(noise)), CPU)
    none = torch.zeros(1, dtype=torch.bool)
    for state in states:
        replay.add(state.unsqueeze(0), torch.zeros((1, 1), dtype=torch.int64), torch.zeros(1), none, none)
    mean, scale = replay.standardisation()
    return (states - mean) * scale, scale


def test_what_is_seen_through_noise_has_the_scale_of_that():
    """A number that hardly varies would be blown up, and the noise on it with it."""
    states = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 0.001, 1.0, 0.0])
    states[:, 3] = 101_325.0  # which is forgotten: what its noise says must not be learnt from before
    noise = (0.0, 0.5, 1.0, 50.0)
    _, scale = standardised(states, noise=noise)
    std = states.std(0)
    torch.testing.assert_close(scale[:3], 1 / (std.square() + torch.tensor(noise).square()).sqrt()[:3])
    assert scale[3] == 0.0
    _, plainly = standardised(states)
    assert plainly[1] > 40 * scale[1]


def some(count=400, **columns):
    """Two usual features, and others beside them."""
    usual = torch.randn(count, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.3, 2.0])
    return torch.cat([usual, *(c.view(count, 1).float() for c in columns.values())], dim=1)


def test_pixels_are_divided_by_what_their_space_allows():
    config = make_config("dqn", SIGN)  # standardises by the space
    for reach, scale in (((1.0,), 1.0), ((255.0,), 1 / 255), ((None,), 1 / 255), ((), 1 / 255)):
        obs = ObsSpec((2, 3, 3), (2, 3, 3), "uint8", reach=reach)
        stream = SimpleNamespace(info=SimpleNamespace(obs=obs))
        stream.replay = SimpleNamespace(
            standardisation=lambda: (torch.ones(1), torch.ones(1)), scale_of_moves=lambda: None
        )
        assert input_statistics(config, stream)[1].item() == pytest.approx(scale)


def test_statistics_are_those_of_numpy():
    states = some(count=300, large=torch.linspace(400, 600, 300))
    seen, scale = standardised(states)
    assert scale.numpy() == pytest.approx(1 / states.double().numpy().std(0, ddof=1), rel=1e-5)
    assert (states - seen / scale).mean(0).numpy() == pytest.approx(states.double().numpy().mean(0), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, -7.5, 1e4, 1e-4])
def test_a_feature_that_did_not_vary_keeps_its_unit(value):
    """Leg contacts are 0 in the first states; once the lander stands on them they must be 1, not thousands."""
    _, scale = standardised(some(left=torch.full((400,), value), right=torch.full((400,), value)))
    assert scale[2:].tolist() == [1.0, 1.0]
    assert scale[:2].tolist() == pytest.approx([1 / 0.3, 1 / 2.0], rel=0.15)


@pytest.mark.parametrize(
    ("value", "reach", "scale"),
    [
        (0.0, 255.0, 10 / 255),  # a byte of memory
        (255.0, 255.0, 10 / 510),  # which may fall as far as its space goes
        (0.0, 1.0, 1.0),
        (0.0, 0.07, 1.0),
        (3.0, None, 1.0),
        (0.0, float(2**63), 1.0),  # 64-bit integers
    ],
)
def test_a_feature_that_did_not_vary_cannot_leave_its_space(value, reach, scale):
    states = some(late=torch.full((400,), value))
    assert float(standardised(states, (None, 40.0, reach))[1][2]) == pytest.approx(scale)
    usual = standardised(states)[1][:2]
    assert torch.equal(standardised(states, (None, 40.0, reach))[1][:2], usual)  # of what varies the states say enough


def test_a_feature_that_varied_once_is_not_an_outlier():
    contact = torch.zeros(400)
    contact[350] = 1.0
    seen, _ = standardised(some(contact=contact))
    assert float(seen[:, 2].max()) == pytest.approx(10.0, rel=1e-4)  # 20 standard deviations
    assert seen[:, :2].std(0).tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_features_of_other_units_are_standardised():
    torch.manual_seed(0)
    seen, _ = standardised(some(small=0.01 * torch.randn(400), large=500 + 50 * torch.randn(400)))
    assert seen.std(0).tolist() == pytest.approx([1.0] * 4, abs=1e-3)
    jitter = standardised(some(jitter=1e-5 * torch.randn(400)))[1]
    assert 1.0 <= float(jitter[2]) <= 110 / 0.3  # it may still do what the others do


def test_a_feature_is_not_made_smaller_because_others_are_large():
    torch.manual_seed(0)
    states = torch.cat([1e4 * torch.randn(400, 3), 0.5 * torch.randn(400, 1)], dim=1)
    assert float(standardised(states)[1][3]) == 1.0


def test_nothing_that_varies_at_all():
    assert standardised(torch.zeros(20, 3))[1].tolist() == [1.0] * 3
    assert float(scale_of(torch.zeros(1), torch.zeros(1))) == 1.0


def test_pixels_have_one_scale():
    assert float(scale_of(torch.tensor([40.0]), torch.tensor([30.0]))) == pytest.approx(1 / 30)


def test_integers_are_tuned_on_the_same_scales():
    from distilrl.export.qat import _standardise
    from distilrl.networks import build
    from distilrl.specs import NetworkSpec

    states = some(contact=torch.zeros(400))
    network = build(NetworkSpec((3,), 2, hidden=(4,)), torch.Generator().manual_seed(0))
    before = network(states)
    _standardise(network, states.numpy())
    assert float(network.obs_scale[2]) == 1.0
    torch.testing.assert_close(network(states), before, rtol=1e-4, atol=1e-4)


def test_nothing_is_drawn_where_nothing_may_be():
    replay = Replay(spec(n_step=3), CPU)
    for filled in (0, 3):
        fill(replay, filled)
        assert not replay.ready
        with pytest.raises(SpecError, match="3 steps apart"):
            replay.draw(4, torch.Generator().manual_seed(0))
    fill(replay, 1)
    assert replay.ready
    assert set(replay.draw(50, torch.Generator().manual_seed(0)).tolist()) == {0, 1}


def test_real_actions_and_labels_come_back_as_they_went_in():
    replay = Replay(spec(action=Bounds((-1.0, -2.0, 0.0), (1.0, 2.0, 9.0)), labels=6, n_step=1), CPU)
    rng = torch.Generator().manual_seed(0)
    rows = [[torch.randn(shape, generator=rng) for shape in ((2, 1), (2, 3), (2,), (2, 6), (2,))] for _ in range(10)]
    none = torch.zeros(2, dtype=torch.bool)
    for obs, action, reward, labels, stakes in rows:
        replay.add(obs, action, reward, none, none, labels, stakes.abs())
    index = torch.tensor([0, 3, 8])
    batch = replay.batch(index, 0.5)
    for k, (row, env) in enumerate(((0, 0), (1, 1), (4, 0))):
        obs, action, reward, labels, stakes = (part[env] for part in rows[row])
        assert torch.equal(batch.obs[k], obs)
        assert torch.equal(batch.action[k], action)
        assert torch.equal(batch.labels[k], labels)
        assert torch.equal(batch.next_labels[k], rows[row + 1][3][env])
        assert (batch.reward[k], batch.stakes[k]) == (reward, stakes.abs())


def test_an_image_beside_a_vector_has_a_scale_of_its_own():
    obs = ObsSpec((2 + 12,), (1, 3, 4))
    replay = Replay(spec(capacity=200, n_envs=1, obs=obs), CPU)
    states = torch.cat(
        [torch.randn(200, 2) * torch.tensor([1.0, 7.0]) + 3, torch.randint(0, 256, (200, 12)).float()], dim=1
    )
    none = torch.zeros(1, dtype=torch.bool)
    for state in states:
        replay.add(state[None], torch.zeros((1, 1), dtype=torch.int64), torch.zeros(1), none, none)
    mean, scale = replay.standardisation()
    torch.testing.assert_close(mean, torch.cat([states[:, :2].mean(0), states[:, 2:].mean().view(1)]))
    torch.testing.assert_close(1 / scale, torch.cat([states[:, :2].std(0), states[:, 2:].std().view(1)]))


def test_the_newest_labels_are_those_of_the_newest_rows():
    replay = Replay(spec(capacity=20, labels=1), CPU)
    for t in range(27):  # a ring of ten rows, which has gone round
        labels = torch.full((2, 1), float(t)) if t % 2 else None
        no = torch.tensor([False, False])
        replay.add(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.long), torch.zeros(2), no, no, labels)
    assert replay.labels(2).flatten().tolist() == [25.0, 25.0, 23.0, 23.0]
    assert sorted(replay.labels().flatten().tolist()) == sorted([17.0, 19.0, 21.0, 23.0, 25.0] * 2)


def test_stacks_of_a_burn_in_hold_nothing_newer():
    """At the oldest row that is held, what came before is forgotten; the newest frames stood there."""
    spec = ObsSpec((4, 2, 2), (4, 2, 2), "uint8", frames=4, reach=(255.0,))
    held = ReplaySpec(capacity=40, n_envs=1, obs=spec, action=Choices((2,)), labels=1, sequence=8, burn_in=4)
    replay, stack, no = Replay(held, torch.device("cpu")), torch.zeros(1, 4, 2, 2, dtype=torch.uint8), torch.zeros(1)
    for step in range(100):  # of one long episode
        stack = stack.roll(-1, 1)
        stack[:, -1] = step
        replay.add(stack, no.long().view(1, 1), no, no.bool(), no.bool(), torch.full((1, 1), float(step)))
    rng = torch.Generator().manual_seed(0)
    batch = replay.batch(replay.draw(400, rng), 1.0, rng)
    frames = batch.obs[:, :, 0, 0]
    assert (frames[:, 1:] >= frames[:, :-1]).all()
    assert frames[:, -1].min() == 60, "the oldest is among them"
