"""Heads: what numbers mean, against PyTorch's own distributions, literal numbers, and the properties that must hold."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import AffineTransform, Normal, TanhTransform, TransformedDistribution, kl_divergence

from distilrl import losses
from distilrl.agreement import agreement_of
from distilrl.errors import SpecError
from distilrl.heads import (
    ALL_LOSSES,
    CHOICE_LOSSES,
    NEAR,
    Categorical,
    Gaussian,
    Point,
    default_kind,
    head_for,
    head_from_json,
    student_head,
)
from distilrl.spaces import Bounds, Choices

FOUR, MANY = Choices((4,)), Choices((3, 2, 5), space="MultiDiscrete", shape=(3,))
ARM = Bounds((-2.0, 0.0, -0.5), (2.0, 1.0, 1.5))
OPEN = Bounds((None, 0.0), (None, 1.0))
HEADS = {
    "values": Categorical(FOUR),
    "logits": Categorical(FOUR, "logits"),
    "several choices": Categorical(MANY),
    "point, clipped": Point(ARM, "clip"),
    "point, squashed": Point(ARM, "tanh"),
    "gaussian, clipped": Gaussian(ARM, "clip"),
    "gaussian, squashed": Gaussian(ARM, "tanh"),
    "open": Point(OPEN),
}


def numbers(*shape, scale=1.0, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


# -- what every head keeps


@pytest.mark.parametrize("name", HEADS)
def test_shapes_and_kinds(name):
    head, p = HEADS[name], numbers(7, HEADS[name].width, scale=2.0)
    actions = head.greedy(p)
    assert actions.shape == (7, head.action.size)
    assert actions.dtype == (torch.float32 if head.real else torch.int64)
    assert head.real == ("point" in name or "gaussian" in name or name == "open")
    assert head.inverse(actions).shape == (7, head.width)
    assert head.view(p).shape == (7, head.student.width)
    for each in (head.stakes(p), head.agree(actions, actions), head.error(actions, actions)):
        assert each.shape == (7,)
    assert (head.agree(actions, actions) == 1).all()
    assert (head.error(actions, actions) == 0).all()
    assert (head.stakes(p) > 0).all()
    for loss in head.losses.values():
        assert loss(student=numbers(7, head.student.width), teacher=p).shape == (7,)


@pytest.mark.parametrize("name", HEADS)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 20.0))
@settings(max_examples=25, deadline=None)
def test_the_greedy_action_of_an_inverse_is_the_action(name, seed, scale):
    head = HEADS[name]
    actions = head.greedy(numbers(5, head.width, scale=scale, seed=seed))
    again = head.greedy(head.inverse(actions))
    torch.testing.assert_close(again, actions, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["point, clipped", "point, squashed", "gaussian, clipped", "gaussian, squashed"])
def test_real_actions_stay_in_their_bounds(name):
    actions = HEADS[name].greedy(numbers(200, HEADS[name].width, scale=50.0))
    low, high = torch.tensor(ARM.low), torch.tensor(ARM.high)
    assert (actions >= low - 1e-6).all()
    assert (actions <= high + 1e-6).all()
    assert (actions.amax(0) > high - 1e-3).all()
    assert (actions.amin(0) < low + 1e-3).all()


@pytest.mark.parametrize("name", HEADS)
def test_losses_are_least_where_student_and_teacher_agree(name):
    head = HEADS[name]
    teacher = numbers(6, head.width, scale=0.5)
    same = teacher[:, : head.student.width]
    others = numbers(6, head.student.width, scale=0.5, seed=1)
    for loss in ("forward_kl", "worst_action_gap", "action_regression", "mean_regression", "value_regression"):
        if loss in head.losses:
            assert float(head.losses[loss](student=same, teacher=teacher).abs().max()) < 1e-6, loss
            assert float(head.losses[loss](student=others, teacher=teacher).min()) > 1e-6, loss


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_finite_far_beyond_the_bounds(name):
    head = HEADS[name]
    student = (numbers(6, head.student.width, scale=100.0)).requires_grad_()
    for key, loss in head.losses.items():
        each = loss(student=student, teacher=numbers(6, head.width, scale=100.0, seed=1))
        (slope,) = torch.autograd.grad(each.sum(), student)
        assert torch.isfinite(each).all(), key
        assert torch.isfinite(slope).all(), key


def test_all_losses_are_those_of_some_head():
    assert set(ALL_LOSSES) == {name for head in HEADS.values() for name in head.losses}


# -- choices


def test_one_choice_is_what_action_values_always_were():
    head, p, q = Categorical(FOUR), numbers(9, 4), numbers(9, 4, seed=1)
    assert head.losses is CHOICE_LOSSES
    assert (head.greedy(p)[:, 0] == p.argmax(1)).all()
    torch.testing.assert_close(head.stakes(p), p.amax(1) - p.amin(1))
    torch.testing.assert_close(head.temper(p, 0.2), p / 0.2)
    torch.testing.assert_close(head.view(p), torch.log_softmax(p, 1))
    assert head.student is head
    assert torch.equal(head.agree(head.greedy(p), head.greedy(q)), (p.argmax(1) == q.argmax(1)).float())
    assert torch.equal(head.inverse(torch.tensor([[2], [0]])), torch.tensor([[0.0, 0, 1, 0], [1, 0, 0, 0]]))


@pytest.mark.parametrize("name", CHOICE_LOSSES)
def test_the_loss_of_several_choices_is_the_sum_over_them(name):
    head, student, teacher = Categorical(MANY), numbers(8, 10), numbers(8, 10, seed=1)
    blocks = [slice(0, 3), slice(3, 5), slice(5, 10)]
    expected = sum(CHOICE_LOSSES[name](student=student[:, b], teacher=teacher[:, b]) for b in blocks)
    torch.testing.assert_close(head.losses[name](student=student, teacher=teacher), expected)


def test_several_choices_by_hand():
    head = Categorical(Choices((2, 3)))
    p = torch.tensor([[1.0, 3.0, 0.0, -1.0, 5.0]])
    assert head.greedy(p).tolist() == [[1, 2]]
    assert head.stakes(p).tolist() == [8.0]
    assert head.agree(torch.tensor([[1, 2]]), torch.tensor([[1, 0]])).tolist() == [0.5]
    assert head.error(torch.tensor([[1, 2]]), torch.tensor([[1, 0]])).tolist() == [0.5]
    assert float(head.view(p).exp().sum()) == pytest.approx(2.0)


@pytest.mark.parametrize("name", CHOICE_LOSSES)
def test_a_choice_among_one_costs_nothing_that_can_be_mended(name):
    head, student = Categorical(Choices((3, 1))), numbers(5, 4).requires_grad_()
    loss = head.losses[name](student=student, teacher=numbers(5, 4, seed=1))
    (slope,) = torch.autograd.grad(loss.sum(), student)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("action", [Choices((6,)), MANY])
def test_the_temperature_found_reaches_the_entropy_asked_for(scale, action):
    head = Categorical(action)
    values = numbers(500, head.width, scale=scale) + 100 * scale
    tau = head.find_temperature(values, 0.4)
    assert head.entropy_share(values, tau) == pytest.approx(0.4, abs=1e-3)
    blocks = [torch.log_softmax(block.double() / tau, dim=1) for block in head.split(values)]
    entropy = sum(-(block.exp() * block).sum(1).mean() for block in blocks) / sum(math.log(n) for n in action.nvec)
    assert float(entropy) == pytest.approx(0.4, abs=1e-3)


LOWEST_FLOAT = torch.finfo(torch.float32).min


@pytest.mark.parametrize("mask", [-1e4, -1e8, LOWEST_FLOAT])
@pytest.mark.parametrize("kind", ["q", "logits"])
def test_options_that_a_teacher_masks_decide_no_temperature_and_no_unit(kind, mask):
    """The search for the temperature ended at its lower end from −1e8 on, so that the student learnt nothing."""
    head, p = Categorical(FOUR, kind), numbers(500, 4)
    p[::2, 3] = mask
    told = head.floored(p)
    tau = head.find_temperature(told, 0.15)
    assert head.entropy_share(told, tau) == pytest.approx(0.15, abs=1e-3)
    assert 0.1 < tau < 2
    assert torch.equal(head.greedy(told), head.greedy(p))
    units = head.find_units(torch.where(p < -50, mask, p))
    assert units.matrix.abs().max() < 1e5
    if kind == "logits":
        assert told.min() >= -100 + p.amax(1).min()
        assert head.stakes(p).max() <= 100.1


@pytest.mark.parametrize("kind", ["q", "logits"])
def test_agreement_where_it_matters_is_a_number_where_options_are_masked(kind):
    head, p = Categorical(FOUR, kind), numbers(500, 4)
    p[::2, 3] = LOWEST_FLOAT
    found = agreement_of(head, head, {"teacher_states": (p, p), "student_states": (p, -p)}, ())
    assert found.teacher_states_where_it_matters == pytest.approx(1.0)
    assert 0 <= found.student_states_where_it_matters <= 1


def test_temperature_of_a_teacher_without_preferences():
    assert Categorical(FOUR).find_temperature(torch.ones(5, 4), 0.5) == 1.0
    assert Categorical(Choices((1,))).entropy_share(torch.ones(5, 1), 1.0) == 0.0


# -- real actions


def test_the_gaussian_kl_is_the_closed_form():
    mean, std, ours, own = (
        numbers(20, 3),
        numbers(20, 3, seed=1).exp(),
        numbers(20, 3, seed=2),
        numbers(20, 3, seed=3).exp(),
    )
    kl = losses.gaussian_kl(student=ours, teacher=mean, student_std=own, teacher_std=std)
    torch.testing.assert_close(kl, kl_divergence(Normal(mean, std), Normal(ours, own)).sum(1))


def test_the_gaussian_kl_of_sure_dimensions_by_hand():
    head = Gaussian(Bounds((-1.0, -1.0), (1.0, 1.0)))
    teacher = torch.tensor([[0.0, 0.0, math.log(0.5), math.log(0.1)]])
    kl = head.losses["forward_kl"](student=torch.tensor([[0.2, 0.2]]), teacher=teacher)
    assert float(kl) == pytest.approx((0.2 / 0.5) ** 2 / 2 + (0.2 / 0.1) ** 2 / 2)
    worst = head.losses["worst_action_gap"](student=torch.tensor([[0.2, 0.2]]), teacher=teacher)
    assert float(worst) == pytest.approx(4.0)


def test_the_kl_of_squashed_gaussians_is_that_before_the_squash():
    """By samples: E_p [log p(a) − log q(a)] of two tanh-squashed and scaled Gaussians."""
    action = Bounds((-2.0, 0.0), (2.0, 1.0))
    mean, std, ours = torch.tensor([0.3, -0.5]), torch.tensor([0.4, 0.7]), torch.tensor([0.1, 0.2])
    scale = [
        TanhTransform(cache_size=1),
        AffineTransform(torch.tensor(action.middle), torch.tensor(action.half), cache_size=1),
    ]
    p, q = (TransformedDistribution(Normal(m.double(), std.double()), scale) for m in (mean, ours))
    torch.manual_seed(0)
    sample = p.sample((200_000,))
    by_samples = (p.log_prob(sample) - q.log_prob(sample)).sum(1).mean()
    teacher = torch.cat([mean, std.log()]).unsqueeze(0)
    kl = Gaussian(action, "tanh").losses["forward_kl"](student=ours.unsqueeze(0), teacher=teacher)
    assert float(kl) == pytest.approx(float(by_samples), rel=0.02)


def test_a_clipped_gaussian_is_compared_in_half_ranges():
    """Units fall out of the KL, and the spread of a Gaussian is in those of its mean."""
    narrow, wide = Gaussian(Bounds((-1.0,), (1.0,))), Gaussian(Bounds((-10.0,), (10.0,)))
    teacher = torch.tensor([[0.2, math.log(0.3)]])
    scaled = torch.tensor([[2.0, math.log(3.0)]])
    for name in ("forward_kl", "worst_action_gap", "mean_regression", "action_regression", "clipped_regression"):
        one = narrow.losses[name](student=torch.tensor([[0.5]]), teacher=teacher)
        other = wide.losses[name](student=torch.tensor([[5.0]]), teacher=scaled)
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("half", [1e-3, 1.0, 100.0])
def test_the_spread_of_a_clipped_gaussian_is_limited_in_half_ranges(half):
    """In units of its own a small one was raised, and a large one cut, to other losses of the same policy."""
    head = Gaussian(Bounds((-half,), (half,)))
    teacher = torch.tensor([[0.2 * half, math.log(0.2 * half)]])
    assert float(head.losses["forward_kl"](student=torch.tensor([[0.25 * half]]), teacher=teacher)) == pytest.approx(
        (0.05 / 0.2) ** 2 / 2, rel=1e-4
    )


def test_a_point_has_the_spread_of_a_tenth_of_its_half_range():
    head = Point(Bounds((-2.0,), (2.0,)))
    student, teacher = torch.tensor([[1.0]]), torch.tensor([[0.6]])
    assert float(head.losses["forward_kl"](student=student, teacher=teacher)) == pytest.approx(
        (0.2 / NEAR) ** 2 / 2, rel=1e-5
    )
    assert float(head.losses["worst_action_gap"](student=student, teacher=teacher)) == pytest.approx(
        (0.2 / NEAR) ** 2, rel=1e-5
    )


def test_the_worst_dimension_is_the_worst():
    gap = losses.worst_dimension_gap(student=torch.tensor([[0.0, 3.0, 1.0]]), teacher=torch.tensor([[0.5, 1.0, 1.0]]))
    assert gap.tolist() == [4.0]


def test_what_lies_beyond_one_bound_is_silent():
    student = torch.tensor([[1.5, -3.0], [1.5, 0.0], [0.5, -1.0]])
    teacher = torch.tensor([[2.0, -1.0], [-1.5, 0.0], [0.0, -1.5]])
    told = losses.bounded_regression(student=student, teacher=teacher)
    torch.testing.assert_close(told, torch.tensor([0.0, 9.0 / 2, 0.25 / 2]))
    head = Point(Bounds((-4.0,), (4.0,)))
    assert float(head.losses["action_regression"](student=torch.tensor([[5.0]]), teacher=torch.tensor([[9.0]]))) == 0.0
    assert float(head.losses["mean_regression"](student=torch.tensor([[5.0]]), teacher=torch.tensor([[9.0]]))) == 1.0
    assert float(head.losses["clipped_regression"](student=torch.tensor([[5.0]]), teacher=torch.tensor([[9.0]]))) == 0.0
    squashed = Point(Bounds((-4.0,), (4.0,)), "tanh")  # it comes to no bound, so nothing is silent
    assert (
        float(squashed.losses["action_regression"](student=torch.tensor([[1.0]]), teacher=torch.tensor([[2.0]]))) > 0.03
    )


def test_where_a_side_is_open_nothing_lies_beyond_it():
    head = Point(Bounds((0.0, None), (None, 2.0)))  # half-ranges are 1 around 0 where a side is open
    student, teacher = torch.tensor([[5.0, -5.0], [-1.0, 3.0]]), torch.tensor([[3.0, -4.0], [-2.0, 2.0]])
    told = head.losses["action_regression"](student=student, teacher=teacher)
    torch.testing.assert_close(told, torch.tensor([(4.0 + 1.0) / 2, 0.0]))


def test_agreement_and_error_of_real_actions():
    head = Point(Bounds((-2.0, 0.0), (2.0, 1.0)))
    one = torch.zeros(3, 2)
    other = torch.tensor([[0.19, 0.04], [0.19, 0.06], [2.0, 0.5]])
    assert head.agree(one, other).tolist() == [1.0, 0.0, 0.0]
    expected = [math.sqrt((0.095**2 + 0.08**2) / 2), math.sqrt((0.095**2 + 0.12**2) / 2), 1.0]
    np.testing.assert_allclose(head.error(one, other), expected, rtol=1e-5)


def test_sides_without_a_bound_count_as_a_half_range_of_one():
    head = Point(OPEN)
    assert head.greedy(torch.tensor([[1e6, 7.0]])).tolist() == [[1e6, 1.0]]
    assert float(head.error(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 0.0]]))) == pytest.approx(3 / math.sqrt(2))
    with pytest.raises(SpecError, match="low and a high bound in each dimension"):
        Point(OPEN, "tanh")


def test_the_student_of_a_gaussian_is_a_point():
    for squash in ("tanh", "clip"):
        head = Gaussian(ARM, squash)
        assert head.student == Point(ARM, squash)
        assert (head.width, head.student.width) == (6, 3)
        p = numbers(4, 6)
        torch.testing.assert_close(head.greedy(p), head.student.greedy(p[:, :3]))


def test_a_wild_deviation_is_bounded():
    head = Gaussian(Bounds((-1.0,), (1.0,)))
    for log_std, expected in ((-50.0, math.exp(-5)), (50.0, math.exp(2))):
        kl = head.losses["forward_kl"](student=torch.tensor([[0.1]]), teacher=torch.tensor([[0.0, log_std]]))
        assert float(kl) == pytest.approx(0.1**2 / (2 * expected**2), rel=1e-3)


# -- as data


@pytest.mark.parametrize("name", HEADS)
def test_heads_read_back_the_same(name):
    assert head_from_json(json.loads(json.dumps(HEADS[name].to_json()))) == HEADS[name]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "'head' must be an object whose 'kind' is q, logits, mean or gaussian"),
        ({}, "'head' must be an object"),
        ({"kind": "beta", "action": {"nvec": [2]}}, "'head' must be an object"),
        ({"kind": ["q"], "action": {"nvec": [2]}}, "'head' must be an object"),
        ({"kind": "q"}, "'head.action' is damaged"),
        ({"kind": "q", "action": "nvec"}, "'head.action' is damaged"),
        ({"kind": "q", "action": {"nvec": ["two"]}}, "'head.action' is damaged"),
        ({"kind": "q", "action": {"nvec": [math.inf]}}, "'head.action' is damaged"),
        ({"kind": "q", "action": {"nvec": []}}, "at least one factor"),
        ({"kind": "q", "action": {"nvec": [0]}}, "at least one factor"),
        ({"kind": "q", "action": {"nvec": [2], "space": "Tuple"}}, "'head.action' is damaged"),
        (
            {"kind": "q", "action": {"low": [0], "high": [1]}},
            "chooses among a few actions, but these are 1 real number(?!s)",
        ),
        ({"kind": "mean", "action": {"nvec": [2]}}, "gives real actions, but these are 2 actions"),
        ({"kind": "mean", "action": {"low": [0], "high": [1, 2]}}, "as many low as high ends"),
        ({"kind": "mean", "action": {"low": [1], "high": [0]}}, "must lie below its high end"),
        ({"kind": "mean", "action": {"low": [math.nan], "high": [0]}}, "'head.action' is damaged"),
        ({"kind": "mean", "action": {"low": [-(10**400)], "high": [0]}}, "'head.action' is damaged"),
        (
            {"kind": "mean", "squash": "sigmoid", "action": {"low": [0], "high": [1]}},
            "'squash' of 'head' must be tanh or clip",
        ),
        (
            {"kind": "mean", "squash": "tanh", "action": {"low": [None], "high": [1]}},
            "squashed by tanh needs a low and a high",
        ),
    ],
)
def test_damaged_heads_are_refused_in_one_sentence(data, words):
    with pytest.raises(SpecError, match=words) as caught:
        head_from_json(data)
    assert str(caught.value).endswith(".")


def test_a_network_of_a_student_without_a_teacher():
    assert (default_kind(FOUR), default_kind(ARM)) == ("q", "mean")
    assert student_head(FOUR) == Categorical(FOUR)
    assert student_head(ARM) == Point(ARM)
    assert head_for(ARM, "gaussian", "tanh") == Gaussian(ARM, "tanh")
    assert head_for(FOUR, "logits") == Categorical(FOUR, "logits")
