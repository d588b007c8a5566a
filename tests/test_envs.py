"""Environments: equal to Gymnasium's own vectors to the bit, only the living step, and every fault is one sentence."""

import gymnasium
import numpy as np
import pytest

from distilrl.envs import make_vec_env
from distilrl.spaces import EnvRef

SAME_STEP = gymnasium.vector.AutoresetMode.SAME_STEP


def rollout(envs, steps, live=None):
    """Everything that an environment answers to random actions."""
    rng = np.random.default_rng(0)
    yield envs.reset(np.arange(envs.n_envs) + 7)
    for _ in range(steps):
        envs.send(envs.info.action.sample(envs.n_envs, rng), live)
        yield from envs.recv()
    envs.close()


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("CartPole-v1", {}),
        ("LunarLander-v3", {}),
        ("HalfCheetah-v5", {}),
        ("HalfCheetah-v5", {"max_episode_steps": 20}),
    ],
)
def test_a_rollout_equals_gymnasiums_vector_to_the_bit(env_id, kwargs):
    ours = make_vec_env(EnvRef(env_id, kwargs), 3)
    theirs = gymnasium.make_vec(
        env_id, 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": SAME_STEP}, **kwargs
    )
    rng = np.random.default_rng(1)
    np.testing.assert_array_equal(ours.reset(np.array([5, 3, 9])), theirs.reset(seed=[5, 3, 9])[0].astype(np.float32))
    ends = 0
    for _ in range(150):
        actions = ours.info.action.sample(3, rng)
        ours.send(actions)
        step = ours.recv()
        obs, reward, terminated, truncated, _ = theirs.step(actions if actions.dtype == np.float32 else actions[:, 0])
        ends += int((terminated | truncated).sum())
        for own, other in zip(
            step, (obs.astype(np.float32), reward.astype(np.float32), terminated, truncated), strict=True
        ):
            np.testing.assert_array_equal(own, other)
    assert ends or env_id == "HalfCheetah-v5" and not kwargs
    ours.close()
    theirs.close()


def test_only_the_living_step():
    envs = make_vec_env("CartPole-v1", 3)
    alone = make_vec_env("CartPole-v1", 3)
    envs.reset(np.arange(3))
    first = alone.reset(np.arange(3))
    live = np.array([True, False, True])
    for _ in range(60):
        actions = np.ones((3, 1), np.int64)
        envs.send(actions, live)
        alone.send(actions)
        step, full = envs.recv(), alone.recv()
        np.testing.assert_array_equal(step.obs[[0, 2]], full.obs[[0, 2]])
        np.testing.assert_array_equal(step.obs[1], first[1])
        assert step.reward[1] == 0 and not step.terminated[1] and not step.truncated[1]
    envs.send(actions)  # it goes on where it stood
    assert (envs.recv().obs[1] != first[1]).any()


def test_a_game_of_ale_at_rest_answers_with_its_last_observation():
    envs = make_vec_env("PongNoFrameskip-v4", 2)
    assert envs.info.atari and envs.info.obs.frames == 4 and envs.info.obs.dtype == "uint8" and envs.info.deterministic
    first = envs.reset(np.arange(2))
    for _ in range(5):
        envs.send(np.full((2, 1), 2), np.array([True, False]))
        step = envs.recv()
    np.testing.assert_array_equal(step.obs[1], first[1])
    assert (step.obs[0] != first[0]).any() and step.reward[1] == 0
    envs.close()


def test_what_is_handed_out_belongs_to_the_caller():
    envs = make_vec_env("CartPole-v1", 1)
    first = envs.reset(np.zeros(1, np.int64))
    kept = first.copy()
    envs.send(np.zeros((1, 1), np.int64))
    envs.recv().obs[:] = 3
    np.testing.assert_array_equal(first, kept)
