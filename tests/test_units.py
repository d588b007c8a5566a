"""Units of a head: what they are, that they change no choice, and that the values that ship can be read."""

import math

import numpy as np
import pytest
import torch
from conftest import SIGN, make_teacher, sign_network
from hypothesis import given, settings
from hypothesis import strategies as st
from instances import acceptance
from test_actions import accepted, cut_and_whole
from tiny_envs import PAIR, pair_teacher

from distilrl import losses
from distilrl.config import RewardConfig
from distilrl.context import Context
from distilrl.errors import SpecError
from distilrl.evolution import Search
from distilrl.features import start_from
from distilrl.heads import Categorical, head_for, student_head
from distilrl.jobs import make_config
from distilrl.networks import build
from distilrl.objective import term
from distilrl.replay import Batch
from distilrl.schedules import Schedule
from distilrl.spaces import Bounds, Choices
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher
from distilrl.train import train

TWO, SEVERAL = student_head(Choices((2,))), student_head(Choices((3, 2)))
VALUES = torch.tensor([[0.0, 2.0], [3.0, 5.0], [9.0, 3.0], [7.0, 9.0], [9.0, 11.0]])
"""State values 1, 4, 6, 8, 10; actions differ by 1 from them, in one state by 3."""
SMALL = {
    "env_steps": 1600, "learning_rate": 1e-2, "learning_starts": 160, "check_every": 400, "check_episodes": 10,
    "batch_size": 64, "threads": 1, "network": "mlp:8",
    "gap": -9.0,
}  # fmt: skip


def some_values(head, count=200):
    rng = torch.Generator().manual_seed(0)
    return 100 + 30 * torch.randn((count, head.width), generator=rng)


def test_units_by_hand():
    units = TWO.find_units(VALUES)
    assert units.offset.tolist() == [6.0, 6.0], "the median of the state values"
    spread = (8 - 4) / 1.349  # their quartiles
    one = units.values(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
    torch.testing.assert_close(one, torch.tensor([[6.0 + spread] * 2, [7.0, 5.0]]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        units.numbers(torch.tensor([[9.0, 3.0]])), torch.tensor([[3.0, -3.0]]), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("head", [TWO, SEVERAL], ids=["one choice", "several"])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_units_have_an_inverse_and_change_no_choice(head, seed):
    z = 5 * torch.rand((6, head.width), generator=torch.Generator().manual_seed(seed))
    units = head.find_units(some_values(head))
    torch.testing.assert_close(units.numbers(units.values(z)), z, rtol=1e-3, atol=1e-3)
    clear = torch.stack([top[:, 0] - top[:, 1] for top in (b.topk(2).values for b in head.split(z))]).amin(0) > 1e-3
    assert torch.equal(head.greedy(units.values(z[clear])), head.greedy(z[clear]))


ROUNDED = torch.stack([torch.linspace(0, 1, 9) - 1 / 3, -torch.linspace(0, 1, 9) - 1 / 3], 1)
"""Values whose mean differs from state to state by rounding alone."""


@pytest.mark.parametrize("values", [torch.full((9, 2), 5.0), torch.tensor([[5.0, 5.0]] * 8 + [[1.0, 3.0]]), ROUNDED])
def test_where_hardly_anything_varies_units_are_finite(values):
    units = TWO.find_units(values)
    assert torch.isfinite(units.inverse).all()
    torch.testing.assert_close(units.values(units.numbers(values)), values)


def test_real_actions_have_units_of_their_own():
    assert head_for(Bounds((-1.0,), (1.0,)), "gaussian").find_units(torch.zeros(3, 2)) is None


@pytest.mark.parametrize("dueling", [False, True])
def test_a_network_gives_values_in_its_units_and_folds_them_away(dueling):
    network = build(NetworkSpec((3,), 5, hidden=(8,), dueling=dueling), torch.Generator().manual_seed(0))
    obs, units = torch.randn(20, 3), SEVERAL.find_units(some_values(SEVERAL))
    plain = network(obs)
    network.set_units(units)
    values = network(obs)
    torch.testing.assert_close(values, units.values(plain))
    network.fold()
    assert network.units is None
    torch.testing.assert_close(network(obs), values, rtol=1e-4, atol=1e-3)
    network.set_units(units)
    network.unfold()
    torch.testing.assert_close(network(obs), values, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("dueling", [False, True])
def test_a_student_in_units_starts_as_its_teacher(dueling):
    teacher = build(NetworkSpec((3,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    student = build(NetworkSpec((3,), 2, hidden=(8,), dueling=dueling), torch.Generator().manual_seed(1))
    student.set_units(TWO.find_units(VALUES))
    start_from(student, teacher, "strongest")
    obs = torch.randn(20, 3)
    torch.testing.assert_close(student(obs), teacher(obs), rtol=1e-4, atol=1e-4)


def test_a_term_in_units_by_hand():
    units, network = TWO.find_units(VALUES), torch.nn.Identity()
    no = torch.zeros(1)
    said, labels = torch.tensor([[7.0, 5.0]]), torch.tensor([[9.0, 3.0]])
    batch = Batch(said, no.long().view(1, 1), no, None, no.bool(), labels, no)
    one = term("worst_value_gap", scale="units")
    # numbers (1, -1) and (3, -3): the worst action is off by 2, which costs log(1 + 4)
    assert float(one(Context([one], batch, network, TWO, units=units))) == pytest.approx(1.609438, abs=1e-5)
    with pytest.raises(SpecError, match="set 'value_units'"):
        one(Context([one], batch, network, TWO))


def test_the_offset_of_logits_says_nothing():
    student, teacher = torch.tensor([[4.0, 1.0]]), torch.tensor([[0.0, -2.0]])
    of_values, of_logits = (Categorical(Choices((2,)), kind).losses["worst_value_gap"] for kind in ("q", "logits"))
    assert float(of_values(student=student, teacher=teacher)) == pytest.approx(math.log(17))
    assert float(of_logits(student=student, teacher=teacher)) == pytest.approx(math.log(1.25))


@pytest.mark.parametrize("changes", [{"scale_head": True}, {"reused_head": True}])
def test_a_head_has_one_scale(changes):
    with pytest.raises(SpecError, match="'value_units' gives the head its scale"):
        make_config("case_study", SIGN).but(**changes)


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        ("finetune", {}),
        ("actor_mimic", {}),
        ("distil", {"terms": (term("forward_kl", sharpness=Schedule(2.0)),)}),
        ("distil", {"terms": (term("forward_kl", student_temperature=4.0),)}),
    ],
)
def test_a_head_that_learnt_another_scale_is_not_multiplied_by_the_temperature(recipe, changes):
    config = make_config(recipe, SIGN).but(**changes)
    with pytest.raises(SpecError, match="'scale_head' multiplies by the teacher's temperature"):
        config.but(scale_head=True)
    assert make_config("curriculum", SIGN).but(scale_head=True).optim.scale_head, "which ends at sharpness 1"


def test_a_discriminator_sees_both_at_the_same_temperature():
    judged = make_config("discriminator", SIGN).terms
    for changes in ({"value_units": True}, {"terms": (term("forward_kl", student_temperature=None), *judged[1:])}):
        with pytest.raises(SpecError, match="A discriminator compares a student at temperature 1"):
            make_config("discriminator", SIGN).but(**changes)


def test_a_teachers_own_head_is_not_split():
    with pytest.raises(SpecError, match="'dueling' would split"):
        make_config("reused_head", SIGN).but(dueling=True)


def known_values(kind="q"):
    """Of SignEnv: the state's value is 50 + 10 y, and the right action is better by twice |x|."""
    network = sign_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[:4] = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        network.layers[2].weight[:, :4] = torch.tensor([[1.0, -1.0, 10.0, -10.0], [-1.0, 1.0, 10.0, -10.0]])
        network.layers[2].bias += 50.0
    return make_teacher(network) if kind == "q" else Teacher(network, kind, "test", "memory", "0" * 64)


def correlation(one, other):
    return float(np.corrcoef(one.detach().flatten(), other.detach().flatten())[0, 1])


def test_the_case_study_ships_values_that_can_be_read():
    teacher = known_values()
    trained = train(make_config("case_study", SIGN, **SMALL), teacher, acceptance=acceptance())
    obs = torch.randn(500, 2, generator=torch.Generator().manual_seed(7)) * torch.tensor([1.0, 5.0])
    obs += torch.tensor([0.0, 3.0])
    ours, theirs = trained.network(obs), teacher.network(obs)
    assert trained.history[-1]["score"] >= 0.97
    assert correlation(ours.amax(1), theirs.amax(1)) >= 0.95
    assert correlation(losses.centre(ours), losses.centre(theirs)) >= 0.95
    assert (ours.amax(1) - theirs.amax(1)).abs().median() < 0.2 * theirs.amax(1).std(), "on the teacher's scale too"
    # the KL alone leaves the state's value anywhere
    plain = train(make_config("distil", SIGN, **SMALL), teacher, acceptance=acceptance()).network(obs)
    assert correlation(plain.amax(1), theirs.amax(1)) < 0.9


def test_of_logits_only_the_differences_are_learnt():
    teacher = known_values("logits")
    trained = train(make_config("case_study", SIGN, **SMALL), teacher, acceptance=acceptance())
    obs = torch.randn(500, 2, generator=torch.Generator().manual_seed(7))
    assert trained.heads[0].kind == "logits"
    assert correlation(losses.centre(trained.network(obs)), losses.centre(teacher.network(obs))) >= 0.95


def test_several_choices_are_learnt_in_units_and_resumed(tmp_path):
    teacher = pair_teacher()
    config = make_config("case_study", PAIR, **SMALL | {"env_steps": 1200})
    whole, _ = cut_and_whole(config, teacher, accepted(teacher, PAIR), tmp_path, 900)
    assert whole.history[-1]["score"] > 0.9


def test_the_stage_with_reward_moves_what_tells_actions_apart():
    """A direction changes a student trained in units as it would change its numbers: not by the size of the values."""
    units = TWO.find_units(torch.tensor([[100.0, 100.1], [50.0, 50.1], [150.1, 150.0], [75.0, 75.1]]))
    network = build(NetworkSpec((3,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    network.set_units(units)
    obs = torch.randn(50, 3)
    shipped = build(network.spec)
    shipped.load_state_dict(network.state_dict())
    shipped.set_units(units)
    shipped.fold()
    search = Search(shipped, shipped, RewardConfig(100), 0, head_units=units)
    torch.testing.assert_close(search.network(search.weights, ships=True)(obs), shipped(obs), rtol=1e-4, atol=1e-2)
    last = search.units[-1]
    assert float(last) < 1.0, "of the numbers' size, not of the values'"
