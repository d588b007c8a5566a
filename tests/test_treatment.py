"""The simulated patient of examples/treatment: its optimum, what it shows, and that a copy costs nothing."""

import sys

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

pytest.importorskip("icu_sepsis", reason="ICU-Sepsis is not installed: pip install 'distilrl[treatment]'")

import gymnasium

from distilrl import EnvRef, Play, describe_env, load_teacher, play
from distilrl.envs import trust
from examples.treatment import __main__ as teacher
from examples.treatment import sepsis

ENV = "examples.treatment:Sepsis-v0"


@pytest.fixture(scope="module")
def optimal(tmp_path_factory):
    """The teacher, made as a user makes it."""
    out = tmp_path_factory.mktemp("treatment") / "teacher"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["treatment", str(out), "--untried", "terminate"])
        teacher.main()
    trust("examples")
    return load_teacher(out).fitted(describe_env(EnvRef(ENV, {"untried": "terminate"})))


def test_gymnasium_finds_nothing_wrong():
    with pytest.warns(UserWarning, match="Box observation space"):  # measurements have no bounds
        check_env(gymnasium.make(ENV).unwrapped, skip_render_check=True)


def test_the_seed_decides_everything_and_copies_share_nothing_that_moves():
    one, two = (gymnasium.make(ENV).unwrapped for _ in range(2))
    first = [*one.reset(seed=3)[0].values(), *one.step(7)[0].values()]
    two.reset(seed=4)
    again = [*one.reset(seed=3)[0].values()]
    two.step(1)
    again += one.step(7)[0].values()
    assert np.array_equal(first, again)
    assert one.inner._tx_mat is two.inner._tx_mat


def test_measurements_have_the_names_of_what_they_are():
    """The package says of one alone what it is, and that the name must be of."""
    scores, column = np.ravel(sepsis.model().sofa_scores)[: sepsis.LIVING], sepsis.MEASUREMENTS.index("SOFA")
    assert np.corrcoef(sepsis.states()[:, column], scores)[0, 1] > 0.99
    info = describe_env(EnvRef(ENV))
    assert info.obs.short_names == sepsis.MEASUREMENTS
    assert info.protocol["actions"][11] == "fluids 2, vasopressors 1"


def test_clinicians_survive_as_often_as_the_paper_says():
    assert sepsis.survival(sepsis.model().expert_policy[: sepsis.LIVING]) == pytest.approx(0.78, abs=0.005)
    assert sepsis.survival(np.full((sepsis.LIVING, 25), 1 / 25)) == pytest.approx(0.78, abs=0.005)


def test_the_optimum_is_the_best_of_its_own_neighbours():
    values = sepsis.optimum("terminate")
    best = np.eye(25)[values.argmax(1)]
    exact = sepsis.survival(best, "terminate")
    assert exact == pytest.approx(0.8751, abs=1e-4)
    assert (values[~sepsis.known()] == 0).all()
    rng = np.random.default_rng(0)
    for state in rng.choice(sepsis.LIVING, 3, replace=False):
        other = best.copy()
        other[state] = np.eye(25)[rng.choice(np.flatnonzero(sepsis.known()[state]))]
        assert sepsis.survival(other, "terminate") <= exact + 1e-9


def test_the_teacher_plays_what_is_known_and_keeps_as_many_alive_as_it_says(optimal):
    games = play(optimal.policy, Play(EnvRef(ENV, {"untried": "terminate"}), at_once=500), range(500))
    assert games.returns.mean() == pytest.approx(0.875, abs=4 * 0.33 / np.sqrt(500))
    env = gymnasium.make(ENV).unwrapped
    obs, _ = env.reset(seed=0)
    assert sepsis.clinicians(np.concatenate([*obs.values()]), np.random.default_rng(0)) in range(25)
    assert env.step(int(np.flatnonzero(~sepsis.known()[env.inner._current_state])[0]))[4] == {"untried": 1.0}
