"""Recipes: each makes a configuration that reads back the same, or says in one sentence what it lacks."""

import json
from pathlib import Path

import pytest
from conftest import SIGN, make_teacher, sign_network
from tiny_envs import tiny_config

from distilrl.collect import Behaviour
from distilrl.comparison import Comparison
from distilrl.config import TaskFile, TrainConfig
from distilrl.envs import EnvInfo
from distilrl.errors import SpecError
from distilrl.heads import student_head
from distilrl.jobs import make_config
from distilrl.objective import check_terms, term
from distilrl.recipes import RECIPES, TEACHERLESS, recipe, settings
from distilrl.schedules import Progress, Schedule
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.teachers import TeacherFile
from distilrl.train import train

PICTURE = (4, 84, 84)
VECTOR, IMAGE = ObsSpec((6,)), ObsSpec(PICTURE, PICTURE, "uint8", 4)
BOTH = ObsSpec((3 + 3 * 48 * 48,), (3, 48, 48))
ONE, SEVERAL, REAL = Choices((4,)), Choices((3, 2), space="MultiDiscrete", shape=(2,)), Bounds((-1.0,) * 3, (1.0,) * 3)
ENVS = {
    f"{obs_name}, {action_name}": EnvInfo(EnvRef("X-v0"), obs, action, atari=obs_name == "atari")
    for obs_name, obs in (("vector", VECTOR), ("atari", IMAGE), ("image", IMAGE), ("both", BOTH))
    for action_name, action in (("one choice", ONE), ("several choices", SEVERAL), ("real", REAL))
}


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_is_complete_or_says_what_it_lacks(name, env):
    info = ENVS[env]
    if RECIPES[name].lacks(info):
        way = "train the teacher with another library" if name in TEACHERLESS else "use one of distil, "
        with pytest.raises(SpecError, match=f"The recipe '{name}' needs .*: {way}") as caught:
            recipe(name, info)
        assert name not in str(caught.value).rpartition("use one of")[2].removesuffix(".").split(", ")
        return
    config = recipe(name, info)
    assert config.recipe == name
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    NetworkSpec.of(config.student.network, info.obs, 4)
    check_terms(config.terms, student_head(info.action))
    assert config.needs_teacher == ("teacher" in RECIPES[name].needs)


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", RECIPES)
def test_what_a_recipe_needs_is_what_its_terms_read(name, env):
    info = ENVS[env]
    try:
        check_terms(RECIPES[name].make(info).terms, student_head(info.action))
        reads = True
    except SpecError:
        reads = False
    if name not in ("attention", "curriculum"):  # these lack maps, and a temperature
        assert reads == (not RECIPES[name].lacks(info))


@pytest.mark.parametrize(
    ("name", "losses"),
    [
        ("distil", ("forward_kl", "action_regression")),
        ("case_study", ("forward_kl+worst_value_gap", "forward_kl+worst_action_gap")),
        ("regression", ("centred_regression", "action_regression")),
        ("cloning", ("nll", "clipped_regression")),
        ("hints", ("forward_kl+hint", "action_regression+hint")),
    ],
)
def test_recipes_have_a_counterpart_for_real_actions(name, losses):
    made = [
        "+".join(term.name for term in recipe(name, ENVS[f"vector, {kind}"]).terms) for kind in ("one choice", "real")
    ]
    assert tuple(made) == losses


def test_the_default_for_real_actions():
    config = recipe("distil", ENVS["vector, real"])
    beta = config.data.behaviour.beta
    assert [beta(Progress(f)) for f in (0.0, 0.25, 0.5, 1.0)] == [1.0, 0.5, 0.0, 0.0]
    assert (config.data.env_steps, config.data.learning_starts, config.data.stakes_exponent) == (200_000, 2_000, 0.5)
    assert (config.optim.optimiser, config.optim.learning_rate, config.optim.average) == ("soap", 1e-2, 0.995)
    assert (config.optim.updates, config.stop.agreement) == (6, 0.0)


def test_atari_keeps_its_own_sizes():
    atari, image = (recipe("distil", ENVS[f"{kind}, one choice"]) for kind in ("atari", "image"))
    assert (atari.data.n_envs, atari.optim.updates, atari.data.env_steps) == (32, 4, 48_000)
    assert atari.data.stakes_exponent == image.data.stakes_exponent == 0.5
    assert image.data.n_envs == 8
    board = EnvInfo(EnvRef("X-v0"), ObsSpec((4, 10, 10), (4, 10, 10), "uint8"), ONE)
    assert recipe("distil", board).but(env_steps=48_000).data.n_envs == 32
    assert recipe("dqn", ENVS["atari, one choice"]).data.for_learning
    assert not recipe("dqn", ENVS["image, one choice"]).data.for_learning


@pytest.mark.parametrize(
    ("name", "env", "words"),
    [
        ("dkd", "vector, real", "needs choices among a few actions, but X-v0 has 3 real numbers"),
        ("dqn", "vector, several choices", "needs a single choice, but X-v0 has choices of 3, 2"),
        ("attention", "vector, one choice", "needs maps of convolutions, but X-v0 shows vectors of 6 numbers"),
        ("distill", "vector, one choice", "Unknown recipe 'distill': use one of distil, "),
        ("no_such_module:mine", "vector, one choice", "cannot be imported"),
        ("math:no_such_function", "vector, one choice", "cannot be imported"),
        ("math:pi", "vector, one choice", "must be a function from EnvInfo to TrainConfig"),
        ("pprint:pformat", "vector, one choice", "to TrainConfig, and gave <class 'str'>"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(name, env, words):
    with pytest.raises(SpecError, match=words):
        recipe(name, ENVS[env])


def test_a_recipe_of_the_users_own_module(tmp_path, monkeypatch):
    (tmp_path / "my_recipes.py").write_text(
        "from distilrl.recipes import distil\n\n\ndef sharp(info):\n    return distil(info).but(entropy_share=0.05)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = recipe("my_recipes:sharp", ENVS["vector, one choice"])
    assert (config.recipe, config.optim.entropy_share) == ("my_recipes:sharp", 0.05)
    with pytest.raises(SpecError, match=r"'forgetful' must be .* and gave <class 'NoneType'>"):
        make_config(forgetful, SIGN)


def forgetful(info):
    """A recipe that forgets to return what it made."""


def test_a_teacher_that_drives_now_and_then_is_needed():
    """Of nothing but TD terms: it labels nothing, and still acts."""
    drives = tiny_config(
        SIGN, term("td"), behaviour=Behaviour("mixed", beta=Schedule(0.5)), stakes_exponent=0.0, n_step=1
    )
    assert drives.needs_teacher
    with pytest.raises(SpecError, match="needs a teacher"):
        train(drives, None)
    assert not drives.but(behaviour=Behaviour("mixed", beta=Schedule(0.0))).needs_teacher


def test_the_table_says_what_each_recipe_is():
    assert TEACHERLESS == ("dqn", "rainbow_lite")
    for name, one in RECIPES.items():
        assert one.name == name
        assert 20 < len(one.summary) <= 120
        assert one.summary.endswith(".")


def test_settings_are_fields_of_the_configuration():
    for env_id in ("Acrobot-v1", "MountainCar-v0", "LunarLander-v3"):
        recipe("dqn", ENVS["vector, one choice"]).but(**settings("dqn", env_id))
    assert settings("distil", "Acrobot-v1") == {}


@pytest.mark.parametrize(
    ("env", "text", "found"),
    [
        ("Pendulum-v1", "mlp:8", "mlp:8@tanh"),
        ("Pendulum-v1", "mlp:8,8@relu", "mlp:8,8@relu"),
        ("Pendulum-v1", "mlp:", "mlp:"),
        ("CartPole-v1", "mlp:8", "mlp:8"),
    ],
)
def test_students_of_real_actions_are_tanh_unless_their_spec_says_otherwise(env, text, found):
    config = make_config("distil", env, network=text, prune_from="mlp:16" if text == "mlp:8" else None)
    assert config.student.network == found
    assert config.student.prune_from in (None, found.replace("8", "16"))
    plain = make_config("distil", env, network="mlp:8@relu", prune_from="mlp:16")  # of one activation
    assert plain.student.prune_from == "mlp:16@relu"


def test_a_student_that_starts_from_its_teacher_keeps_the_specs_activation():
    assert make_config("svd_start", "Pendulum-v1", network="mlp:8").student.network == "mlp:8"


def test_teachers_are_named_by_their_files_however_these_are_given():
    """Several paths were kept as they came, and the whole run's folder could not be read."""
    file = TeacherFile("a.zip")
    for given in ("a.zip", Path("a.zip"), ["a.zip", Path("b.zip")], file, (file, "b.zip")):
        config = make_config("distil", SIGN, teacher=given)
        files = given if isinstance(given, list | tuple) else [given]
        assert config.tasks[0].teacher == tuple(TeacherFile("ab"[n] + ".zip") for n in range(len(files)))
        assert TrainConfig.from_json(config.to_json()) == config
    with pytest.raises(SpecError, match="must be its file or files"):
        make_config("distil", SIGN, teacher=make_teacher(sign_network()))
    assert config.but(tasks=(TaskFile(SIGN),)).tasks[0].env == EnvRef(SIGN)


def of_mine(info):
    """A recipe of the user's own."""
    return recipe("distil", info).but(batch_size=64, updates=3)


def test_a_recipe_of_the_users_own_is_the_same_by_its_name():
    """Of a student with a cell it had other batches and updates."""
    (one, other) = (
        make_config(name, SIGN, network="gru:4", learning_starts=800) for name in (of_mine, f"{__name__}:of_mine")
    )
    assert (one.optim.batch_size, one.optim.updates) == (other.optim.batch_size, other.optim.updates) == (64, 3)


def test_a_verdict_plays_on_to_three_times_as_many_from_python_too():
    assert (Comparison().max_episodes, Comparison(200).max_episodes, Comparison(50, 50).max_episodes) == (300, 600, 50)
