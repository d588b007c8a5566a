"""Losses against an independent NumPy float64 computation, literal numbers, and the properties that must hold."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distilrl import losses

T = torch.tensor([[1.0, 2.0, 0.5], [-3.0, -1.0, -2.0]], dtype=torch.float64)
S = torch.tensor([[0.5, 1.0, 1.5], [0.0, 0.0, 0.0]], dtype=torch.float64)

finite = arrays(np.float64, (5, 4), elements=st.floats(-1e4, 1e4, allow_nan=False))


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def np_forward_kl(s, t):
    p, q = softmax(t), softmax(s)
    return (p * (np.log(p) - np.log(q))).sum(axis=1)


def np_jsd(s, t):
    p, q = softmax(t), softmax(s)
    m = (p + q) / 2
    return 0.5 * (p * np.log(p / m)).sum(axis=1) + 0.5 * (q * np.log(q / m)).sum(axis=1)


def centred(x):
    return x - x.mean(axis=1, keepdims=True)


def np_dkd(s, t):
    p, q, rows, best = softmax(t), softmax(s), np.arange(len(s)), t.argmax(axis=1)
    pt, qt = p[rows, best], q[rows, best]
    first = pt * np.log(pt / qt) + (1 - pt) * np.log((1 - pt) / (1 - qt))
    others = np.ones_like(p, bool)
    others[rows, best] = False
    ph, qh = (x[others].reshape(len(s), -1) / (1 - x[rows, best])[:, None] for x in (p, q))
    return first + 8 * (ph * np.log(ph / qh)).sum(axis=1)


def np_margin(s, t):
    rows, best = np.arange(len(s)), t.argmax(axis=1)
    raised = s + 0.8
    raised[rows, best] -= 0.8
    return raised.max(axis=1) - s[rows, best]


def standardised(x):
    return centred(x) / x.std(axis=1, keepdims=True)


def np_batch_correlation(s, t):
    a, b = (x - x.mean(0) for x in (softmax(s), softmax(t)))
    return 1 - (a / a.std(0) * (b / b.std(0))).mean(axis=1)


NUMPY = {
    "batch_correlation": np_batch_correlation,
    "expected_cross_entropy": lambda s, t: -(softmax(s) * np.log(softmax(t))).sum(axis=1),
    "dkd": np_dkd,
    "large_margin": np_margin,
    "correlation": lambda s, t: np.array(
        [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(softmax(s), softmax(t), strict=True)]
    ),
    "centred_regression": lambda s, t: ((centred(s) - centred(t)) ** 2).mean(axis=1),
    "standardised_regression": lambda s, t: ((standardised(s) - standardised(t)) ** 2).mean(axis=1),
    "forward_kl": np_forward_kl,
    "reverse_kl": lambda s, t: np_forward_kl(t, s),
    "jsd": np_jsd,
    "nll": lambda s, t: -np.log(softmax(s))[np.arange(len(s)), t.argmax(axis=1)],
    "value_regression": lambda s, t: ((s - t) ** 2).mean(axis=1),
    "worst_action_gap": lambda s, t: ((centred(s) - centred(t)) ** 2).max(axis=1),
    "worst_value_gap": lambda s, t: np.log(1 + np.abs(s - t).max(axis=1) ** 2),
    "worst_centred_gap": lambda s, t: np.log(1 + np.abs(centred(s) - centred(t)).max(axis=1) ** 2),
}
DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")


@pytest.mark.parametrize("name", NUMPY)
def test_equals_an_independent_computation(name):
    rng = np.random.default_rng(0)
    s, t = rng.normal(0, 2, (50, 6)), rng.normal(0, 2, (50, 6))
    ours = getattr(losses, name)(student=torch.from_numpy(s), teacher=torch.from_numpy(t))
    np.testing.assert_allclose(ours.numpy(), NUMPY[name](s, t), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("forward_kl", [0.3198, 0.266217]),
        ("reverse_kl", [0.390222, 0.308994]),
        ("jsd", [0.084419, 0.068712]),
        ("nll", [1.18027, 1.098612]),
        ("value_regression", [0.75, 4.666667]),
        ("worst_action_gap", [1.361111, 1.0]),
        ("worst_value_gap", [0.693147, 2.302585]),  # the worst actions are off by 1 and by 3
        ("worst_centred_gap", [0.859132, 0.693147]),
    ],
)
def test_golden_numbers(name, golden):
    ours = getattr(losses, name)(student=S, teacher=T)
    np.testing.assert_allclose(ours.numpy(), golden, atol=2e-6)


@pytest.mark.parametrize("name", NUMPY)
@pytest.mark.parametrize("batch", [1, 32, 256])
def test_the_mean_does_not_depend_on_the_batch_size(name, batch):
    repeated = {"student": S.repeat(batch, 1), "teacher": T.repeat(batch, 1)}
    loss = getattr(losses, name)
    assert loss(**repeated).shape == (2 * batch,)
    assert float(loss(**repeated).mean()) == pytest.approx(float(loss(student=S, teacher=T).mean()))


@given(finite)
@settings(max_examples=50, deadline=None)
def test_zero_where_equal(values):
    t = torch.from_numpy(values)
    for name in (
        *DIVERGENCES,
        "value_regression",
        "centred_regression",
        "standardised_regression",
        "dkd",
        "worst_action_gap",
        "worst_value_gap",
    ):
        assert getattr(losses, name)(student=t, teacher=t).abs().max() < 1e-9


@given(finite, finite)
@settings(max_examples=100, deadline=None)
def test_finite_and_not_negative_for_any_finite_values(s, t):
    for name in NUMPY:
        loss = getattr(losses, name)(student=torch.from_numpy(s), teacher=torch.from_numpy(t))
        assert torch.isfinite(loss).all()
        assert ((loss.mean() if name == "batch_correlation" else loss) >= -1e-9).all()
    assert (losses.jsd(student=torch.from_numpy(s), teacher=torch.from_numpy(t)) <= math.log(2) + 1e-9).all()


def test_gradients_stay_finite_where_a_probability_underflows():
    student = torch.tensor([[0.0, -2000.0]], requires_grad=True)
    for name in NUMPY:
        loss = getattr(losses, name)(student=student, teacher=torch.tensor([[-2000.0, 0.0]])).mean()
        (gradient,) = torch.autograd.grad(loss, student)
        assert torch.isfinite(gradient).all(), name


def test_positive_where_policies_differ():
    for name in DIVERGENCES:
        assert (getattr(losses, name)(student=S, teacher=T) > 1e-3).all()


@pytest.mark.parametrize(
    "name",
    [
        *DIVERGENCES,
        "nll",
        "worst_action_gap",
        "worst_centred_gap",
        "centred_regression",
        "standardised_regression",
        "dkd",
        "correlation",
    ],
)
def test_a_constant_offset_costs_nothing(name):
    loss = getattr(losses, name)
    torch.testing.assert_close(loss(student=S + 7, teacher=T - 3), loss(student=S, teacher=T))


def test_the_worst_value_pulls_less_the_further_off_it_is():
    """Near the teacher it is the square; the pull is largest one unit off, and fades beyond; one action has it all."""
    teacher = torch.zeros(4, 3, dtype=torch.float64)
    student = torch.tensor([[0.1, 0.0, 0.0], [0.2, 1.0, 0.0], [0.0, 0.0, -10.0], [1e3, 0.0, 0.0]], dtype=torch.float64)
    student.requires_grad_(True)
    loss = losses.worst_value_gap(student=student, teacher=teacher)
    assert float(loss[0].detach()) == pytest.approx(0.1**2, rel=1e-2)
    (pull,) = torch.autograd.grad(loss.sum(), student)
    worst = [pull[0, 0], pull[1, 1], pull[2, 2], pull[3, 0]]
    assert [float(one) for one in worst] == pytest.approx([0.2 / 1.01, 1.0, -20 / 101, 2e3 / (1 + 1e6)])
    assert float(pull.abs().sum()) == pytest.approx(sum(abs(float(one)) for one in worst)), "the others have none"


def test_scale_costs_nothing_where_values_are_standardised():
    assert losses.standardised_regression(student=5 * T + 1, teacher=T).abs().max() < 1e-12


def test_the_margin_is_zero_only_where_the_teachers_action_leads_by_it():
    teacher = torch.tensor([[1.0, 0.0]])
    for lead, loss in ((0.0, 0.8), (0.5, 0.3), (0.8, 0.0), (2.0, 0.0)):
        assert float(losses.large_margin(student=torch.tensor([[lead, 0.0]]), teacher=teacher)) == pytest.approx(
            loss, abs=1e-6
        )


def test_regression_does_see_an_offset():
    assert (losses.value_regression(student=T + 1, teacher=T) == 1).all()


def test_negative_action_values_are_no_trouble():
    """The loss as usually printed takes log Q, which is undefined for half of Pong's values."""
    assert torch.isfinite(losses.forward_kl(student=S - 100, teacher=T - 100)).all()


def test_td_target_by_hand():
    next_values = torch.tensor([[1.0, 5.0], [2.0, 0.0]])
    choice = torch.tensor([[9.0, 0.0], [0.0, 9.0]])
    known = {"reward": torch.tensor([1.0, -1.0]), "discount": torch.tensor([0.9, 0.0]), "next_values": next_values}
    torch.testing.assert_close(losses.td_target(**known), torch.tensor([1 + 0.9 * 5, -1.0]))
    torch.testing.assert_close(losses.td_target(**known, next_choice=choice), torch.tensor([1 + 0.9 * 1, -1.0]))


def test_td_reads_only_the_action_taken_and_sends_no_gradient_to_the_target():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    target = torch.tensor([1.5, 0.0], requires_grad=True)
    huber = losses.td(values=values, action=torch.tensor([0, 1]), target=target)
    torch.testing.assert_close(huber, torch.tensor([0.125, 3.5]))
    huber.sum().backward()
    assert target.grad is None
    assert values.grad.tolist() == [[-0.5, 0.0], [0.0, 1.0]]


def test_centred_values_have_no_mean():
    torch.testing.assert_close(losses.centre(T).mean(1), torch.zeros(2, dtype=torch.float64))


def test_the_gap_of_values():
    assert losses.value_gap(T).tolist() == [1.5, 2.0]


def test_shapes_are_checked_by_the_annotations():
    """A KL summed to a scalar, or a (B, 1) target against (B,), is caught by jaxtyping, switched on for tests."""
    from jaxtyping import TypeCheckError

    losses.td(values=torch.zeros(2, 3), action=torch.zeros(2, dtype=torch.int64), target=torch.zeros(2))
    with pytest.raises(TypeCheckError):
        losses.td(values=torch.zeros(2, 3), action=torch.zeros(2, dtype=torch.int64), target=torch.zeros(2, 1))


def np_distances(x):
    flat = x.reshape(len(x), -1)
    d = np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(2))
    return d / d[d > 0].mean()


def np_huber(a, b):
    d = np.abs(a - b)
    return np.where(d < 1, d**2 / 2, d - 0.5)


def np_angles(x, k):
    rows = []
    for i in range(len(x)):
        e = np.stack([x[(i + j) % len(x)] - x[i] for j in range(1, k + 1)])
        e = e / np.linalg.norm(e, axis=1, keepdims=True)
        rows.append(e @ e.T)
    return np.stack(rows)


def np_similarity(x):
    g = x @ x.T
    return g / np.linalg.norm(g, axis=1, keepdims=True)


def np_map(x):
    a = (x**2).sum(axis=1).reshape(len(x), -1)
    return a / np.linalg.norm(a, axis=1, keepdims=True)


FEATURES = {
    "hint": lambda s, t: ((s - t) ** 2).mean(axis=1),
    "relational_distance": lambda s, t: np_huber(np_distances(s), np_distances(t)).sum(axis=1) / (len(s) - 1),
    "relational_angle": lambda s, t: np_huber(np_angles(s, 8), np_angles(t, 8)).mean(axis=(1, 2)),
    "similarity": lambda s, t: ((np_similarity(s) - np_similarity(t)) ** 2).mean(axis=1),
}


@pytest.mark.parametrize("name", FEATURES)
def test_feature_losses_equal_an_independent_computation(name):
    rng = np.random.default_rng(0)
    s, t = rng.normal(0, 1, (20, 5)), rng.normal(0, 3, (20, 5 if name == "hint" else 7))
    ours = getattr(losses, name)(student=torch.from_numpy(s), teacher=torch.from_numpy(t))
    np.testing.assert_allclose(ours.numpy(), FEATURES[name](s, t), rtol=1e-9)
    same = getattr(losses, name)(student=torch.from_numpy(t), teacher=torch.from_numpy(t))
    assert float(same.abs().max()) < 1e-12


def test_examples_that_are_alike_but_for_rounding_have_no_direction():
    """The slope was that of rounding noise, a thousand times as large, where a student sees less than its teacher."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(16, 6, generator=generator) for _ in range(2))
    student[1::2] = student[::2] + 1e-7 * torch.randn(8, 6, generator=generator)
    slopes = []
    for kind, offset in ((torch.float32, 0.0), (torch.float64, 0.0), (torch.float32, 3.0)):
        x = (student + offset).to(kind).detach().clone().requires_grad_(True)
        losses.relational_angle(student=x, teacher=teacher.to(kind)).mean().backward()
        slopes.append(x.grad.double())
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(slopes[2], slopes[1], rtol=1e-2, atol=1e-4)
    assert slopes[0].norm() < 10
    same = torch.ones(4, 3, requires_grad=True)
    losses.relational_angle(student=same, teacher=teacher[:4]).sum().backward()
    assert (same.grad == 0).all()


@pytest.mark.parametrize("name", ["relational_distance", "relational_angle", "similarity"])
def test_relations_do_not_change_with_scale(name):
    rng = np.random.default_rng(0)
    s, t = torch.from_numpy(rng.normal(0, 1, (20, 5))), torch.from_numpy(rng.normal(0, 1, (20, 9)))
    loss = getattr(losses, name)
    torch.testing.assert_close(loss(student=s * 100, teacher=t), loss(student=s, teacher=t * 0.01))


def test_relations_of_equal_states_have_a_gradient():
    features = torch.zeros(4, 3, requires_grad=True)
    for name in ("relational_distance", "relational_angle", "similarity"):
        (slope,) = torch.autograd.grad(
            getattr(losses, name)(student=features, teacher=torch.randn(4, 3)).sum(), features, allow_unused=True
        )
        assert slope is not None, name
        assert torch.isfinite(slope).all(), name


def test_attention_compares_where_maps_are_active():
    rng = np.random.default_rng(0)
    s, t = rng.normal(0, 1, (6, 3, 4, 4)), rng.normal(0, 1, (6, 8, 4, 4))
    ours = losses.attention_transfer(student=torch.from_numpy(s), teacher=torch.from_numpy(t))
    np.testing.assert_allclose(ours.numpy(), ((np_map(s) - np_map(t)) ** 2).sum(axis=1), rtol=1e-9)
    larger = torch.from_numpy(t).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert float(losses.attention_transfer(student=torch.from_numpy(t), teacher=larger).max()) < 1e-12


def test_the_discriminators_game():
    logits = torch.tensor([0.0, 3.0], dtype=torch.float64)
    sigmoid = 1 / (1 + np.exp(-logits.numpy()))
    np.testing.assert_allclose(losses.fooling(logits).numpy(), -np.log(sigmoid))
    loss = losses.discriminator_loss(of_student=logits, of_teacher=-logits)
    np.testing.assert_allclose(loss.numpy(), -np.log(1 - sigmoid) - np.log(1 - sigmoid))
