"""Schedules, terms, temperature, and that a weight of 0 costs nothing."""

import pytest
import torch

from distilrl.errors import SpecError
from distilrl.objective import Progress, Schedule, Term, active, find_temperature, forward, term_loss
from distilrl.replay import Batch


def batch(size=4):
    generator = torch.Generator().manual_seed(0)
    return Batch(
        obs=torch.randn(size, 2, generator=generator),
        action=torch.zeros(size, dtype=torch.int64),
        reward=torch.ones(size),
        next_obs=torch.randn(size, 2, generator=generator),
        terminated=torch.zeros(size, dtype=torch.bool),
        truncated=torch.zeros(size, dtype=torch.bool),
        teacher_values=torch.randn(size, 3, generator=generator),
        gap=torch.ones(size),
    )


@pytest.mark.parametrize(("fraction", "value"), [(0.0, 1.0), (0.25, 0.525), (0.5, 0.05), (1.0, 0.05), (2.0, 0.05)])
def test_schedule_at_its_begin_middle_end_and_beyond(fraction, value):
    assert Schedule(1.0, 0.05, 0.5)(Progress(fraction)) == pytest.approx(value)
    assert Schedule(0.3)(Progress(fraction)) == 0.3


@pytest.mark.parametrize("by", ["score", "agreement", "entropy", "drift"])
def test_schedules_follow_what_is_measured(by):
    schedule = Schedule(1.0, 0.0, 0.8, start=0.4, by=by)
    for value, expected in ((0.0, 1.0), (0.4, 1.0), (0.6, 0.5), (0.8, 0.0), (2.0, 0.0)):
        assert schedule(Progress(0.3, **{by: value})) == pytest.approx(expected)
    with pytest.raises(SpecError, match="follows"):
        Schedule(1.0, by="mood")


def test_hysteresis_ignores_noise_and_follows_change():
    from distilrl.objective import settle

    noise = [0.5, 0.52, 0.49, 0.53, 0.5]
    now, seen = 0.5, []
    for value in noise:
        now = settle(now, value, 0.05)
        seen.append(now)
    assert set(seen) == {0.5}
    assert settle(now, 0.7, 0.05) == 0.7


def test_a_bonus_counts_in_the_next_states_choice():
    data = batch()._replace(next_teacher_values=torch.tensor([[0.0, 5.0, 0.0]]).repeat(4, 1))
    student, target = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    plain = forward([Term("double_td")], data, student, target, 0.9).double_td_target
    with_bonus = forward([Term("double_td", bonus=0.5)], data, student, target, 0.9, temperature=2.0).double_td_target
    choice = student(data.next_obs).argmax(1)
    log_p = torch.log_softmax(data.next_teacher_values / 2.0, 1).gather(1, choice.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(with_bonus - plain, 0.9 * 0.5 * log_p)
    with pytest.raises(SpecError, match="labels the next states"):
        forward([Term("double_td", bonus=0.5)], batch(), student, target, 0.9)


def test_weight_zero_is_not_evaluated():
    terms = (Term("forward_kl", weight=Schedule(0.0)), Term("td"), Term("nll", weight=Schedule(1.0, 0.0, 0.5)))
    assert [term.loss for term, _ in active(terms, Progress(0.0))] == ["td", "nll"]
    assert [term.loss for term, _ in active(terms, Progress(0.5))] == ["td"]


def test_each_pass_is_made_once():
    calls = []

    class Counting(torch.nn.Module):
        def forward(self, obs):
            calls.append(len(obs))
            return torch.zeros(len(obs), 3)

    student = Counting()
    forward([Term("forward_kl"), Term("worst_action_gap"), Term("nll")], batch(), student, None, 1.0)
    assert calls == [4]
    calls.clear()
    forward([Term("td"), Term("double_td")], batch(), student, Counting(), 1.0)
    assert len(calls) == 3  # target, choice of the double target, student


def test_td_without_a_target_network_is_refused():
    with pytest.raises(SpecError):
        forward([Term("td")], batch(), torch.nn.Identity(), None, 1.0)


def test_temperatures_divide_whom_they_name():
    from distilrl import losses

    data = batch()
    outputs = forward([Term("forward_kl")], data, torch.nn.Linear(2, 3), None, 1.0)
    for term, of_student, of_teacher in (
        (Term("forward_kl"), 1.0, 0.2),
        (Term("forward_kl", student_temperature=None), 0.2, 0.2),
        (Term("forward_kl", teacher_temperature=0.01), 1.0, 0.01),
    ):
        expected = losses.forward_kl(student=outputs.values / of_student, teacher=data.teacher_values / of_teacher)
        torch.testing.assert_close(term_loss(term, outputs, data, 0.2), expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_temperature_reaches_the_entropy_asked_for(scale):
    values = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * scale + 100 * scale
    tau = find_temperature(values, 0.4)
    log_p = torch.log_softmax(values.double() / tau, dim=1)
    entropy = -(log_p.exp() * log_p).sum(1).mean() / torch.log(torch.tensor(6.0))
    assert float(entropy) == pytest.approx(0.4, abs=1e-3)


def test_temperature_of_a_teacher_without_preferences():
    assert find_temperature(torch.ones(5, 3), 0.5) == 1.0


@pytest.mark.parametrize(
    "wrong", [{"loss": "kl"}, {"loss": "td", "teacher_temperature": 0.0}, {"loss": "nll", "student_temperature": -1.0}]
)
def test_wrong_terms_are_refused(wrong):
    with pytest.raises(SpecError):
        Term(**wrong)
    with pytest.raises(SpecError):
        Schedule(1.0, 0.0, 0.0)


def test_a_schedule_by_score_never_comes_back():
    weight = Schedule(3.0, 0.0, by="score")
    values = [weight(Progress(0.1, score)) for score in (0.0, 0.5, 1.0, 1.4)]
    assert values == [3.0, 1.5, 0.0, 0.0]
    assert weight(Progress(0.9, -2.0)) == 3.0  # a student below random play is taught no harder than at the start


def test_a_schedule_may_start_late():
    weight = Schedule(1.0, 0.0, 0.8, start=0.4)
    assert [weight(Progress(f)) for f in (0.0, 0.4, 0.6, 0.8, 1.0)] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("wrong", [{"start": 1.0}, {"start": -0.1}, {"share": 0.0}, {"by": "mood"}])
def test_schedules_that_mean_nothing_are_refused(wrong):
    with pytest.raises(SpecError):
        Schedule(1.0, 0.0, **wrong)


def test_adversarial_states_stay_in_their_box_and_hurt():
    from distilrl import losses
    from distilrl.networks import build
    from distilrl.objective import adversarial_states
    from distilrl.specs import NetworkSpec

    student = build(NetworkSpec((2,), 3, hidden=(16,)), torch.Generator().manual_seed(0))
    student.scale_head(10.0)
    student.standardise(torch.zeros(2), torch.tensor([1.0, 10.0]))
    term, data = Term("adversarial_kl", radius=0.1), batch(64)
    attacked = adversarial_states(term, data, student, 1.0)
    offset = (attacked - data.obs).abs()
    assert offset[:, 0].max() <= 0.1 + 1e-6
    assert offset[:, 1].max() <= 0.01 + 1e-6
    assert not attacked.requires_grad
    clean, hurt = (losses.forward_kl(student=student(o), teacher=data.teacher_values) for o in (data.obs, attacked))
    assert float(hurt.mean().detach()) > float(clean.mean().detach())
    assert all(p.grad is None for p in student.parameters())


def test_a_configuration_with_every_recipe_reads_back_the_same():
    import json

    from distilrl.config import TrainConfig
    from distilrl.recipes import RECIPES

    for name, recipe in RECIPES.items():
        for pixels in (True, False) if name != "attention" else (True,):
            config = recipe(pixels=pixels)
            assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
