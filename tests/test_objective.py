"""Terms, their context, what they refuse, and that a weight of 0 costs nothing."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from tiny_envs import tiny_config
from torch import nn

from distilrl import losses, objective
from distilrl.context import Context
from distilrl.discriminator import Discriminator
from distilrl.envs import single, trust
from distilrl.errors import SpecError
from distilrl.features import FeatureMaps
from distilrl.heads import ALL_LOSSES, Categorical, Gaussian, head_for, student_head
from distilrl.networks import build
from distilrl.objective import (
    LOSSES,
    AdversarialTerm,
    FeatureTerm,
    JudgedTerm,
    TDTerm,
    TeacherTerm,
    Term,
    active,
    adversarial_states,
    check_terms,
    columns,
    taught_at,
    teacher_needed,
    term,
)
from distilrl.plain import from_plain, to_plain
from distilrl.replay import Batch
from distilrl.schedules import Progress, Schedule, settle
from distilrl.spaces import Bounds, Choices
from distilrl.specs import NetworkSpec

THREE = student_head(Choices((3,)))
ARM = Gaussian(Bounds((-2.0, 0.0), (2.0, 1.0)))


def batch(size=4, head=THREE, **more):
    generator = torch.Generator().manual_seed(0)
    data = {
        "obs": torch.randn(size, 2, generator=generator),
        "action": torch.zeros(size, head.action.size, dtype=torch.int64),
        "reward": torch.ones(size),
        "next_obs": torch.randn(size, 2, generator=generator),
        "terminated": torch.zeros(size, dtype=torch.bool),
        "labels": torch.randn(size, head.width, generator=generator),
        "stakes": torch.ones(size),
    }
    return Batch(**(data | more))


def net(outputs=3, hidden=(16,), seed=0):
    return build(NetworkSpec((2,), outputs, hidden=hidden), torch.Generator().manual_seed(seed))


def context(*terms, data=None, student=None, head=THREE, **more):
    return Context(terms, data or batch(head=head), student or net(head.student.width), head, **more)


class Counting(torch.nn.Module):
    """Counts its passes."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, obs):
        self.calls += 1
        return torch.zeros(len(obs), 3)


# -- schedules


@pytest.mark.parametrize(("fraction", "value"), [(0.0, 1.0), (0.25, 0.525), (0.5, 0.05), (1.0, 0.05), (2.0, 0.05)])
def test_schedule_at_its_begin_middle_end_and_beyond(fraction, value):
    assert Schedule(1.0, 0.05, 0.5)(Progress(fraction)) == pytest.approx(value)
    assert Schedule(0.3)(Progress(fraction)) == 0.3


@pytest.mark.parametrize("by", ["score", "agreement", "entropy", "drift"])
def test_schedules_follow_what_is_measured(by):
    schedule = Schedule(1.0, 0.0, 0.8, start=0.4, by=by)
    for value, expected in ((0.0, 1.0), (0.4, 1.0), (0.6, 0.5), (0.8, 0.0), (2.0, 0.0)):
        assert schedule(Progress(0.3, **{by: value})) == pytest.approx(expected)


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


def test_hysteresis_ignores_noise_and_follows_change():
    now, seen = 0.5, []
    for value in [0.5, 0.52, 0.49, 0.53, 0.5]:
        now = settle(now, value, 0.05)
        seen.append(now)
    assert set(seen) == {0.5}
    assert settle(now, 0.7, 0.05) == 0.7


def test_a_teacher_whose_weight_is_gone_for_good_is_not_needed_any_more():
    terms = (term("double_td"), term("forward_kl", weight=Schedule(1.0, 0.0, 0.5)))
    assert [teacher_needed(terms, Progress(f)) for f in (0.0, 0.4, 0.5, 1.0)] == [True, True, False, False]
    late = (term("forward_kl", weight=Schedule(0.0, 1.0, 0.5, start=0.2)),)
    assert teacher_needed(late, Progress(0.0))
    by_score = (term("forward_kl", weight=Schedule(1.0, 0.0, by="score")),)
    assert teacher_needed(by_score, Progress(0.9, score=1.0)), "the score may start anew after a drift"
    assert not teacher_needed((term("forward_kl", weight=0),), Progress(0.0))


# -- terms as data


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("forward_kl", TeacherTerm),
        ("action_regression", TeacherTerm),
        ("adversarial_kl", AdversarialTerm),
        ("hint", FeatureTerm),
        ("discriminator", JudgedTerm),
        ("td", TDTerm),
        ("double_td", TDTerm),
    ],
)
def test_the_name_of_a_loss_picks_the_class(name, kind):
    made = term(name, weight=0.5)
    assert type(made) is kind
    assert (made.name, made.weight) == (name, Schedule(0.5))


@pytest.mark.parametrize("name", LOSSES)
def test_terms_read_back_the_same(name):
    made = term(name, weight=Schedule(1.0, 0.1, 0.5, by="score"))
    assert from_plain(Term, json.loads(json.dumps(to_plain(made))), "term") == made


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"loss": "kl"}, "Unknown loss 'kl'"),
        ({"loss": "forward_kl", "teacher_temperature": 0.0}, "teacher_temperature"),
        ({"loss": "nll", "student_temperature": -1.0}, "student_temperature"),
        ({"loss": "adversarial_kl", "radius": 0.0}, "radius"),
        ({"loss": "adversarial_kl", "radius": float("nan")}, "radius"),
        ({"loss": "adversarial_kl", "radius": float("inf")}, "radius"),
        ({"loss": "nll", "teacher_temperature": float("inf")}, "teacher_temperature"),
        ({"loss": "td", "bonus": float("nan")}, "bonus"),
        ({"loss": "td", "weight": float("nan")}, "finite numbers"),
        ({"loss": "hint", "taps": "first"}, "Unknown taps"),
        ({"loss": "td", "weight": -1.0}, "at least 0"),
        ({"loss": "td", "weight": Schedule(1.0, -1.0)}, "at least 0"),
        ({"loss": "td", "weight": "much"}, "must be a Schedule"),
        ({"loss": "dkd", "sharpness": 0.0}, "sharpness"),
        ({"loss": "dkd", "radius": 0.1}, "no setting 'radius': it takes weight, teacher_temperature"),
        ({"loss": "td", "taps": "all"}, "no setting 'taps'"),
        ({"loss": 5}, r"a function f\(\*, student, teacher\) -> \(B,\), not 5"),
        ({"loss": "td", "weight": True}, "'begin' must be a number, got True"),
    ],
)
def test_wrong_terms_are_refused(wrong, words):
    with pytest.raises(SpecError, match=words):
        term(**wrong)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"loss": "kl"}, r"In 'terms\[0\]': Unknown loss 'kl'"),
        ({"loss": "dkd", "radius": 1.0}, r"Unknown key 'radius' in 'terms\[0\]'"),
        ({"loss": "adversarial_kl", "radius": "far"}, r"'terms\[0\].radius' must be a number"),
        ({"loss": "td", "weight": {"begin": 1.0, "by": "mood"}}, r"'terms\[0\].weight.by' must be one of budget"),
        ({"loss": "hint", "weight": {"end": 1.0}}, r"'terms\[0\].weight' lacks 'begin'"),
        ({"loss": ["td"]}, r"'terms\[0\].loss' must be a text"),
        ({}, r"'terms\[0\]' lacks 'loss'"),
        ("forward_kl", r"'terms\[0\]' must be an object"),
    ],
)
def test_wrong_terms_in_files_are_refused_by_their_place(data, words):
    with pytest.raises(SpecError, match=words):
        from_plain(tuple[Term, ...], [data], "terms")


def test_two_terms_of_one_loss_have_two_columns():
    assert columns((term("td"), term("hint"), term("hint", taps="all"))) == ("td", "hint", "hint.2")


# -- what reads what


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_says_what_it_reads(name):
    one, several, real = THREE, student_head(Choices((3, 2))), ARM
    choices_only = {
        "reverse_kl",
        "jsd",
        "nll",
        "value_regression",
        "centred_regression",
        "standardised_regression",
        "dkd",
        "correlation",
        "batch_correlation",
        "large_margin",
        "expected_cross_entropy",
        "worst_value_gap",
    }
    real_only = {"action_regression", "mean_regression", "clipped_regression"}
    td = {"td", "double_td"}
    assert term(name).reads(one) == (name not in real_only)
    assert term(name).reads(several) == (name not in real_only | td)
    assert term(name).reads(real) == (name not in choices_only | td)


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        (
            "dkd",
            ARM,
            "'dkd' compares choices, but here there are 2 real numbers: use one of forward_kl, action_regression",
        ),
        (
            "action_regression",
            THREE,
            "'action_regression' compares real actions, but here there are 3 actions: use one of",
        ),
        (
            "td",
            student_head(Choices((3, 2))),
            "'td' compares action values of a single choice, but here there are choices",
        ),
    ],
)
def test_a_term_that_cannot_read_the_head_names_those_that_can(name, head, words):
    with pytest.raises(SpecError, match=words):
        check_terms([term("forward_kl"), term(name)], head)
    check_terms([term("forward_kl"), term("worst_action_gap"), term("adversarial_kl"), term("discriminator")], head)


def test_a_function_of_the_users_is_a_loss():
    def twice(*, student, teacher):
        return 2 * (student - teacher).square().sum(1)

    own = term(twice, teacher_temperature=2.0)
    check_terms([own], ARM)
    here = context(own)
    torch.testing.assert_close(own(here), 2 * (here.student - here.teacher / 2).square().sum(1))
    with pytest.raises(SpecError, match=r"must give \(4,\), a number per example, not \(\)"):
        term(lambda *, student, teacher: (student - teacher).mean())(here)
    with pytest.raises(SpecError, match="a number per example, not a float"):
        term(lambda *, student, teacher: 0.5)(here)
    data = json.loads(json.dumps(to_plain(own)))
    assert data["loss"] == f"{__name__}:{twice.__qualname__}"
    read = from_plain(Term, data, "term")
    with pytest.raises(SpecError, match="which no module has by that name: give the term from Python"):
        check_terms([read], THREE)


def test_what_a_loss_of_ones_own_raises_is_said_with_its_line():
    def torn(*, student, teacher):
        return student @ teacher

    with pytest.raises(SpecError, match=r"torn' raised RuntimeError \(.*; test_objective.py, line \d+\): mend it"):
        term(torn)(context(term(torn)))
    with pytest.raises(SpecError, match="raised TypeError"):
        term(lambda student, target: student)(context(term(torn)))


def test_a_loss_with_weights_of_its_own_is_refused():
    """Nothing would train them."""

    class Learnt(nn.Linear):
        def forward(self, *, student, teacher):
            return super().forward(student - teacher).square().sum(1)

    with pytest.raises(SpecError, match="Learnt' has weights of its own"):
        term(Learnt(3, 3))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of somebody's own."""
    (tmp_path / "my_losses.py").write_text(
        "def plain(*, student, teacher):\n    return (student - teacher).square().sum(1)\n\nNUMBER = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(single, "_trusted", set())
    objective.imported.cache_clear()
    yield "my_losses"
    sys.modules.pop("my_losses", None)


def test_a_loss_that_a_file_names_is_imported_where_its_module_is_trusted(module):
    named = from_plain(Term, to_plain(term("forward_kl")) | {"loss": "my_losses:plain"}, "term")
    with pytest.raises(SpecError, match="importing 'my_losses' runs its code: pass --trust my_losses"):
        check_terms([named], ARM)
    assert "my_losses" not in sys.modules
    trust("my_losses")
    check_terms([named], ARM)
    here = context(named)
    tempered = here.teacher / named.teacher_temperature if named.teacher_temperature else here.teacher
    torch.testing.assert_close(named(here), (here.student - tempered).square().sum(1))


@pytest.mark.parametrize(("name", "said"), [("NUMBER", "is no function"), ("missing", "cannot be imported")])
def test_what_is_no_loss_is_refused(module, name, said):
    trust("my_losses")
    with pytest.raises(SpecError, match=said):
        check_terms([term(f"my_losses:{name}")], ARM)


# -- passes and temperatures


def test_weight_zero_is_not_evaluated():
    terms = (term("forward_kl", weight=0), term("td"), term("nll", weight=Schedule(1.0, 0.0, 0.5)))
    assert [one.name for one, _ in active(terms, Progress(0.0))] == ["td", "nll"]
    assert [one.name for one, _ in active(terms, Progress(0.5))] == ["td"]


def test_each_pass_is_made_once_and_none_that_nobody_asks_for():
    student, lagged = Counting(), Counting()
    here = context(student=student, target=lagged)
    for name in ("forward_kl", "worst_action_gap", "nll"):
        term(name)(here)
    assert (student.calls, lagged.calls) == (1, 0)
    term("double_td")(context(student=(other := Counting()), target=(older := Counting())))
    assert (other.calls, older.calls) == (2, 1)
    term("td")(here)
    assert (student.calls, lagged.calls) == (1, 1)
    term("double_td")(here)
    term("double_td")(here)
    assert (student.calls, lagged.calls) == (2, 1)  # the double target's choice


def test_td_without_a_target_network_or_transitions_is_refused():
    for more in ({}, {"target": net(), "data": batch(next_obs=None)}):
        with pytest.raises(SpecError, match="target network and transitions"):
            term("td")(context(**more))


def test_a_teachers_term_without_labels_is_refused():
    for name in ("forward_kl", "adversarial_kl"):
        with pytest.raises(SpecError, match="no labels"):
            term(name)(context(data=batch(labels=None)))


def test_temperatures_divide_whom_they_name():
    here = context(temperature=0.2, progress=Progress(0.0))
    for settings, of_student, of_teacher in (
        ({}, 1.0, 0.2),
        ({"student_temperature": None}, 0.2, 0.2),
        ({"teacher_temperature": 0.01}, 1.0, 0.01),
        ({"sharpness": 0.5}, 1.0, 0.4),
        ({"sharpness": Schedule(0.25, 1.0), "student_temperature": None}, 0.8, 0.8),
    ):
        expected = losses.forward_kl(student=here.student / of_student, teacher=here.teacher / of_teacher)
        torch.testing.assert_close(term("forward_kl", **settings)(here), expected)


def test_real_actions_have_no_temperature_and_a_narrower_student():
    here = context(head=ARM, temperature=7.0)
    assert (here.student.shape, here.teacher.shape) == ((4, 2), (4, 4))
    mean, std = here.teacher[:, :2], here.teacher[:, 2:].exp()
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, std), normal(here.student, std)).sum(1)
    for settings in ({}, {"teacher_temperature": 0.1, "student_temperature": None}):
        torch.testing.assert_close(term("forward_kl", **settings)(here), expected)


def test_real_actions_are_divided_by_no_temperature():
    """Shipped actions were multiplied by 0.01 where a term of that temperature is the first."""
    terms = [term("forward_kl", teacher_temperature=0.01)]
    assert taught_at(terms, 1.0, ARM) == 1.0
    assert taught_at(terms, 3.0, THREE) == 0.01
    assert taught_at([term("forward_kl")], 3.0, THREE) == 3.0


def test_logits_are_no_values_to_learn_beside_reward():
    terms = [term("value_regression"), term("double_td")]
    check_terms(terms, THREE)
    with pytest.raises(SpecError, match=r"'value_regression' would have .* logits: take a recipe with reward"):
        check_terms(terms, replace(THREE, kind="logits"))
    check_terms(terms[:1], replace(THREE, kind="logits"))


def test_an_objective_of_no_weight_and_a_batch_too_small_to_compare_are_refused():
    config = tiny_config()
    with pytest.raises(SpecError, match="weight 0, so that nothing is learnt"):
        config.but(terms=(term("forward_kl", weight=0.0),))
    relational = (term("forward_kl"), term("relational_angle"))
    with pytest.raises(SpecError, match=r"'relational_angle' compares examples .*'batch_size' to 3"):
        config.but(terms=relational, batch_size=2)
    assert config.but(terms=relational, batch_size=3).optim.batch_size == 3


# -- TD


def test_a_bonus_counts_in_the_next_states_choice_and_two_terms_share_no_target():
    labels = torch.tensor([[0.0, 5.0, 0.0]]).repeat(4, 1)
    student, target = net(seed=1), net(seed=2)
    here = context(data=batch(next_labels=labels), student=student, target=target, discount=0.9, temperature=2.0)
    plain, with_bonus = (term("double_td", bonus=bonus).target(here) for bonus in (0.0, 0.5))
    choice = student(here.batch.next_obs).argmax(1)
    log_p = torch.log_softmax(labels / 2.0, 1).gather(1, choice.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(with_bonus - plain, 0.9 * 0.5 * log_p)
    assert (term("double_td", bonus=5)(here) != term("double_td")(here)).any()
    with pytest.raises(SpecError, match="labels the next states"):
        term("double_td", bonus=0.5)(context(target=target))


def test_what_the_student_chooses_next_is_worth_what_the_lagged_one_says():
    here = context(student=net(seed=1), target=net(seed=2), discount=0.9)
    chosen = here.next_student.argmax(1, keepdim=True)
    worth = here.lagged.gather(1, chosen).squeeze(1)
    assert (worth != here.lagged.amax(1)).any()
    torch.testing.assert_close(term("double_td").target(here), here.batch.reward + 0.9 * worth)


def test_td_reads_the_action_taken_and_the_end_of_the_episode():
    ended = torch.tensor([True, False, True, False])
    action = torch.tensor([[0], [1], [2], [0]])
    here = context(data=batch(action=action, terminated=ended), target=net(seed=3), discount=0.9)
    worth = here.lagged.amax(1) * 0.9 * ~ended + here.batch.reward
    chosen = here.student.gather(1, action).squeeze(1)
    torch.testing.assert_close(term("td")(here), torch.nn.functional.smooth_l1_loss(chosen, worth, reduction="none"))


# -- adversarial states


@pytest.mark.parametrize("head", [THREE, ARM, head_for(ARM.action, "mean")])
def test_adversarial_states_stay_in_their_box_and_hurt(head):
    student = net(head.student.width)
    student.scale_head(10.0)
    student.standardise(torch.zeros(2), torch.tensor([1.0, 10.0]))
    one, here = term("adversarial_kl"), context(data=batch(64, head), student=student, head=head)
    attacked = adversarial_states(one, here)
    offset = (attacked - here.batch.obs).abs()
    assert offset[:, 0].max() <= 0.1 + 1e-6
    assert offset[:, 1].max() <= 0.01 + 1e-6
    assert not attacked.requires_grad
    clean, hurt = (
        head.losses["forward_kl"](student=student(o), teacher=here.teacher) for o in (here.batch.obs, attacked)
    )
    assert float(hurt.mean().detach()) > float(clean.mean().detach())
    torch.testing.assert_close(one(here), hurt)
    assert all(p.grad is None for p in student.parameters())


def test_steps_that_are_not_learnt_from_do_not_lead_the_attack():
    valid = torch.tensor([1.0, 1.0, 0.0, 0.0])
    here, all_of_them = (context(data=batch(valid=one)) for one in (valid, None))
    moved = adversarial_states(term("adversarial_kl"), here) - here.batch.obs
    assert not moved[2:].any()
    assert torch.equal(moved[:2], (adversarial_states(term("adversarial_kl"), all_of_them) - here.batch.obs)[:2])


def test_two_attacks_have_two_radii():
    here = context()
    near, far = (adversarial_states(term("adversarial_kl", radius=radius), here) for radius in (0.1, 5.0))
    assert float((near - here.batch.obs).abs().max()) <= 0.1 + 1e-6
    assert float((far - here.batch.obs).abs().max()) > 1.0


def test_hidden_inputs_are_not_attacked_and_pixels_beside_a_vector_are():
    student = net()
    student.standardise(torch.zeros(2), torch.tensor([1.0, 0.0]))
    here = context(student=student)
    assert (adversarial_states(term("adversarial_kl"), here)[:, 1] == here.batch.obs[:, 1]).all()
    spec = NetworkSpec((3 + 64,), 3, convs=((4, 3, 2),), hidden=(8,), image=(1, 8, 8))
    both = build(spec, torch.Generator().manual_seed(0))
    both.standardise(torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, 0.5]))
    obs = torch.randn(4, 67, generator=torch.Generator().manual_seed(0))
    here = context(data=batch(obs=obs), student=both)
    offset = (adversarial_states(term("adversarial_kl"), here) - obs).abs()
    assert float(offset[:, :3].max()) <= 0.1 + 1e-6
    assert 0.1 < float(offset[:, 3:].max()) <= 0.2 + 1e-6


# -- features and the discriminator


def test_feature_terms_tap_the_students_one_pass():
    student, teacher = net(), net(hidden=(8, 8), seed=1)
    one, other, kl = term("hint"), term("relational_distance", taps="middle"), term("forward_kl")
    maps = FeatureMaps(
        [one.wanted, other.wanted], [one.wanted], student, teacher, torch.zeros(1, 2), torch.Generator().manual_seed(0)
    )
    passes = []
    student.register_forward_hook(lambda *_: passes.append(1))
    here = context(one, other, kl, student=student, maps=maps)
    for each in (kl(here), one(here), other(here)):
        assert each.shape == (4,)
        assert each.requires_grad
    assert len(passes) == 1
    with pytest.raises(SpecError, match="among the context's terms"):
        one(context(kl, student=student, maps=maps))
    with pytest.raises(SpecError, match="can be tapped"):
        one(context(one, student=student))


@pytest.mark.parametrize("head", [THREE, student_head(Choices((3, 2))), ARM])
def test_a_discriminator_sees_the_heads_view_beside_the_state(head):
    student = net(head.student.width)
    judge = Discriminator(student.spec, head.student.width, torch.Generator().manual_seed(0))
    here = context(data=batch(head=head), student=student, head=head, discriminator=judge)
    loss = term("discriminator")(here)
    logits = judge(here.batch.obs, head.view(here.student))
    torch.testing.assert_close(loss, losses.fooling(logits))
    assert loss.requires_grad
    assert here.discriminator_loss().shape == (4,)
    with pytest.raises(SpecError, match="needs its discriminator"):
        term("discriminator")(replace(here, discriminator=None))


@pytest.mark.parametrize(
    "spec",
    [
        NetworkSpec((4, 36, 36), 3, convs=((4, 8, 4),)),
        NetworkSpec((3 + 64,), 3, convs=((4, 3, 2),), hidden=(8,), image=(1, 8, 8)),
    ],
)
def test_a_discriminator_sees_images_coarsely(spec):
    student = build(spec, torch.Generator().manual_seed(0))
    judge = Discriminator(spec, 3, torch.Generator().manual_seed(0))
    obs = torch.randint(0, 255, (4, *spec.obs_shape), dtype=torch.uint8)
    here = context(data=batch(obs=obs), student=student, discriminator=judge)
    assert term("discriminator")(here).shape == (4,)
    assert judge.layers[0].weight.shape[1] == 144 + 3 + spec.vector


def test_every_loss_between_numbers_gives_one_number_per_example():
    for head in (THREE, Categorical(Choices((3, 2))), head_for(ARM.action, "mean"), ARM):
        here = context(head=head)
        for name in ALL_LOSSES:
            if term(name).reads(head):
                assert term(name)(here).shape == (4,), name
