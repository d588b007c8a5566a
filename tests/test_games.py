"""Games as environments of a user's own: MinAtar, MiniGrid and ViZDoom, each where its package is installed."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from distilrl.envs import describe_env, make_vec_env
from distilrl.spaces import EnvRef
from examples import games

PACKAGE = {"DoorKey": "minigrid", "Memory": "minigrid", "Doom": "vizdoom"}


def needs(game):
    name = PACKAGE.get(game, "minatar")
    pytest.importorskip(name, reason=f"{name} is not installed: pip install 'distilrl[games]'")
    return f"games/{game}-v0"


@pytest.mark.parametrize("game", [*games.MINATAR, *PACKAGE])
def test_an_episode_follows_from_its_seed(game):
    envs = make_vec_env(needs(game), 1, pictures=True)

    def rows(seed):
        actions = np.random.default_rng(3).integers(0, envs.info.action.nvec[0], (30, 1, 1))
        obs = [envs.reset(np.array([seed]))]
        for action in actions:
            envs.send(action)
            obs.append(envs.recv().obs)
        return np.concatenate(obs)

    first = rows(5)
    rows(6)  # what it left behind, a last action that sticks for one, must not matter
    np.testing.assert_array_equal(rows(5), first)
    assert envs.picture(0).dtype == np.uint8
    envs.close()


@pytest.mark.parametrize("game", [*games.MINATAR, "Memory"])
def test_gymnasium_takes_them_for_environments(game):
    check_env(gymnasium.make(needs(game)).unwrapped, skip_render_check=True)


@pytest.mark.parametrize(("game", "channels"), list(zip(games.MINATAR, (4, 4, 7, 10, 6), strict=True)))
def test_cells_are_bytes_with_their_channels_first(game, channels):
    obs = describe_env(needs(game)).obs
    assert (obs.shape, obs.dtype, obs.reach) == ((channels, 10, 10), "uint8", (1.0,))


def test_the_cue_is_what_stands_in_the_first_room():
    env = gymnasium.make(needs("Memory"))
    kinds, starts = set(), set()
    for seed in range(300):
        obs, _ = env.reset(seed=seed)
        inner = env.unwrapped
        kind = inner.grid.get(1, inner.height // 2 - 1).type
        assert obs["cue"] == (1 if kind == "key" else -1)
        kinds.add(kind)
        starts.add((inner.agent_pos, inner.grid.encode().tobytes()))
    env.step(0), env.step(0)  # one's back to it
    assert env.step(2)[0]["cue"] == obs["cue"]
    assert kinds == {"key", "ball"}
    assert len(starts) == 56


def test_a_maze_as_a_picture_shows_what_the_view_does():
    env = gymnasium.make(needs("Memory"), picture=True)
    from examples.games.grids import PICTURED

    obs, _ = env.reset(seed=3)
    for _ in range(3):
        view = obs["view"].reshape(7, 7, 3)
        assert obs["picture"].shape == (4, 7, 7)
        for channel, kind in zip(obs["picture"], PICTURED, strict=True):
            np.testing.assert_array_equal(channel > 0, view[..., 0] == kind)
        obs, *_ = env.step(1)
    info = describe_env(EnvRef("games/Memory-v0", {"picture": True})).obs
    assert (info.shape, info.image) == ((148 + 4 * 49,), (4, 7, 7))


def test_a_screen_in_colour_of_any_size():
    info = describe_env(EnvRef(needs("Doom"), resize=(45, 60)))
    assert (info.obs.shape, info.obs.dtype, info.action.nvec) == ((3, 45, 60), "uint8", (4,))


def test_what_ppo_learns_of_a_screen_is_the_network_that_is_saved():
    pytest.importorskip("stable_baselines3")
    from examples.games import screens

    model = screens.train(EnvRef("BoxingNoFrameskip-v4"), "cnn:2k8s4,4k4s2:8", 1024, 0)
    obs = torch.randint(0, 256, (6, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chosen = model.policy.get_distribution(obs).distribution.logits
        numbers = screens.acting(model)(obs)
    torch.testing.assert_close(numbers.log_softmax(1), chosen)
    assert numbers.std() > 0
