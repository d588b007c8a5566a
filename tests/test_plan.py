"""Many students from one stream, and the smallest that passes."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import gymnasium
import instances
import pytest
import torch
from conftest import SIGN, Killed, SignEnv, killed_at, make_teacher, real_teacher, sign_network
from tiny_envs import LINEAR, MOVED, PAIR, linear_teacher, pair_teacher, tiny_config, tiny_job

from distilrl import episodes
from distilrl.checkpoints import load_network
from distilrl.collect import Behaviour
from distilrl.comparison import Comparison
from distilrl.config import OptimConfig, RewardConfig, StudentConfig, TaskFile
from distilrl.envs import describe_env
from distilrl.errors import FileError, NotFiniteError, ResumeError, SpecError, TeacherError
from distilrl.events import Episodes, Judged, Noticed, Phase, Resumed, Step
from distilrl.export import export_policy, verify
from distilrl.files import read_json
from distilrl.heads import Point, head_for, student_head
from distilrl.jobs import Job
from distilrl.learner import Learner, Part, Pupil
from distilrl.networks import Network, build
from distilrl.next_steps import next_commands
from distilrl.objective import FeatureTerm, TeacherTerm, term
from distilrl.plain import to_plain
from distilrl.plan import plan
from distilrl.policies import Policy
from distilrl.population import TURN, Population, returns_of
from distilrl.replay import Batch
from distilrl.runs import RunFolder
from distilrl.schedules import START, Progress, Schedule
from distilrl.search import Judgement, Round, Row, Search
from distilrl.sizes import Budget, PlanOptions, ladder
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec, spelled
from distilrl.stacks import StackedMLP
from distilrl.stream import Check, Stream
from distilrl.teachers import Teacher, TeacherFile
from distilrl.teaching import evaluate_policy
from distilrl.verdict import HOLDS

SPECS = [NetworkSpec((2,), 2, hidden=h) for h in ((), (3,), (8,), (4, 5), (2, 9))]
TWO = student_head(Choices((2,)))
KL = (TeacherTerm("forward_kl"),)


def batches(count, obs=(2,), outputs=2, size=32, seed=0):
    rng = torch.Generator().manual_seed(seed)
    nothing = torch.zeros(size)
    return [
        Batch(
            torch.randn(size, *obs, generator=rng), nothing.long().view(-1, 1), nothing, None, nothing.bool(),
            torch.randn(size, outputs, generator=rng) * 3, nothing + 1,
        )
        for _ in range(count)
    ]  # fmt: skip


def population(specs=SPECS, terms=KL, head=TWO, **optim):
    return Population(
        specs, range(len(specs)), head, terms, OptimConfig(**({"learning_rate": 1e-2, "average": 0.9} | optim))
    )


def test_a_stack_answers_as_its_members_do():
    networks = [
        build(NetworkSpec((3,), 4, hidden=h, activation="tanh"), torch.Generator().manual_seed(i))
        for i, h in enumerate(((2, 7), (5, 3)))
    ]
    stack, obs = StackedMLP(networks), torch.randn(6, 3)
    torch.testing.assert_close(stack(obs), torch.stack([n(obs) for n in networks]))
    for k, network in enumerate(networks):
        torch.testing.assert_close(stack.network(k)(obs), network(obs))
    stack.keep([1])
    torch.testing.assert_close(stack(obs)[0], networks[1](obs))


def own_loss(*, student, teacher):
    return (student - teacher).abs().sum(1)


REAL = Point(Bounds((-1.0, -2.0), (1.0, 2.0)))


@pytest.mark.parametrize(
    ("terms", "head"),
    [
        (KL, TWO),
        ((term("nll"), term("centred_regression", weight=0.3)), TWO),
        ((term("correlation"), term("batch_correlation", weight=2.0)), TWO),
        ((term(own_loss),), TWO),
        (
            (
                term("forward_kl", sharpness=Schedule(0.5, 1.0), weight=0.2),
                term("worst_action_gap", student_temperature=None),
            ),
            TWO,
        ),
        ((term("forward_kl", student_temperature=None), term("worst_value_gap", scale="units")), TWO),
        ((term("action_regression"),), REAL),
        (KL, head_for(REAL.action, "gaussian", "tanh")),
        (KL, student_head(Choices((3, 2)))),
    ],
)
@pytest.mark.parametrize("optimiser", ["adam", "soap"])
def test_a_population_learns_what_a_learner_would_teach_each_student_alone(terms, head, optimiser):
    """Padding gets no gradient, nobody's step depends on who else is there, and terms are the configuration's own."""
    optim = OptimConfig(optimiser=optimiser, learning_rate=1e-2, average=0.9, max_grad_norm=0.5)
    specs = [NetworkSpec((2,), head.student.width, hidden=spec.hidden) for spec in SPECS]
    together = Population(specs, range(5), head.student, terms, optim, labels_head=head)
    data = batches(20 if optimiser == "adam" else 6, outputs=head.width)  # rounding turns SOAP's bases step by step
    together.temperature = 0.7
    in_units = any(one.scale == "units" for one in terms)
    together.units = head.find_units(data[0].labels) if in_units else None
    for number, batch in enumerate(data):
        found = together.update(batch, Progress(number / 40))
    assert found.shape == (5,)
    for k, spec in enumerate(specs):
        pupil = Pupil(
            build(spec, torch.Generator().manual_seed(k)),
            head.student,
            None,
            terms,
            torch.Generator(),
            torch.device("cpu"),
        )
        pupil.labels_head, pupil.temperature = head, 0.7
        pupil.set_units(together.units)
        learner = Learner([pupil], terms, optim)
        for number, batch in enumerate(data):
            losses = learner.update([Part(0, batch, Progress(number / 40))])
        obs = torch.randn(10, 2)
        near = (
            {"rtol": 1e-3, "atol": 1e-4} if optimiser == "adam" else {"rtol": 0.0, "atol": 3e-2 if in_units else 2e-2}
        )  # rounding turns bases
        shipped = together.network(k)
        torch.testing.assert_close(shipped(obs), pupil.average(obs), **near)
        assert shipped.units is None
        weighted = sum(
            float(value) * one.weight(Progress((len(data) - 1) / 40))
            for value, one in zip(losses.values(), terms, strict=True)
        )
        assert float(found[k]) == pytest.approx(weighted, rel=1e-3 if optimiser == "adam" else 2e-2, abs=1e-5)
        assert sum(p.numel() for p in together.network(k).parameters()) == spec.params


def test_terms_that_have_faded_move_nothing():
    some = population(terms=(term("forward_kl", weight=Schedule(1.0, 0.0, 0.5)),))
    before = some.network(2)(torch.ones(1, 2))
    assert not some.update(batches(1)[0], Progress(0.9)).any()
    torch.testing.assert_close(some.network(2)(torch.ones(1, 2)), before)


def test_who_acts_and_who_stays():
    some = population(average=0.0)
    obs = torch.randn(12, 2)
    expected = torch.cat([some.network(n % 5)(obs[n : n + 1]) for n in range(12)])
    assert torch.equal(some.policy.act(obs)[0], expected.argmax(1, keepdim=True))
    assert not some.policy.remembers
    before = {k: some.network(k)(obs) for k in (1, 4)}
    some.keep([1, 4])
    assert some.alive == [1, 4]
    for k, values in before.items():
        torch.testing.assert_close(some.network(k)(obs), values)
    torch.testing.assert_close(some.policy.network(obs)[1], before[4][1])
    with pytest.raises(KeyError):
        some.network(0)


def test_those_that_go_on_do_so_from_their_averages():
    some, obs = population(average=0.9), torch.randn(6, 2)
    for one in batches(5):
        some.update(one, START)
    before = some.network(1)(obs)
    some.keep([1])
    torch.testing.assert_close(some.network(1)(obs), before)


def test_a_later_check_that_is_worse_changes_nothing():
    one, good, bad = Round([], 0), sign_network(), sign_network(-1.0)
    one.note(0, {"return": 2.0}, good)
    one.note(0, {"return": 1.0}, bad)
    assert one.returns[0] == 2.0
    assert one.networks[0] is good


def test_where_there_are_more_students_than_environments_all_get_their_turn():
    some = population(average=0.0)
    obs = torch.randn(2, 2)
    alone = torch.stack([some.network(k)(obs) for k in range(5)])
    drivers = []
    for _ in range(3):
        numbers = some.policy.network(obs)
        drivers += [int((alone[:, n] - numbers[n]).abs().sum(1).argmin()) for n in range(2)]
        some._acted += TURN - 1
    assert drivers == [0, 1, 2, 3, 4, 0]


def test_a_head_on_the_teachers_scale_is_shipped_so():
    plain, scaled = population(average=0.0), population(average=0.0, scale_head=True)
    for some in (plain, scaled):
        some.temperature = 5.0
    obs = torch.randn(3, 2)
    torch.testing.assert_close(scaled.network(1)(obs), 5 * plain.network(1)(obs))


def test_who_has_diverged_is_known():
    some = population()
    with torch.no_grad():
        some.groups[1][1].weights[0][1, 0, 0] = torch.nan
    assert some.diverged() == [some.groups[1][0][1]]


def test_convolutional_students_share_the_stream():
    specs = [NetworkSpec((4, 84, 84), 6, convs=((c, 8, 4), (c, 4, 2)), hidden=(8,)) for c in (2, 3)]
    some = Population(specs, range(2), student_head(Choices((6,))), KL, OptimConfig(learning_rate=1e-3, average=0.5))
    some.standardise(torch.tensor([20.0]), torch.tensor([0.02]))
    batch = batches(1, (1,), 6, 8)[0]._replace(obs=torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8))
    first = some.update(batch, START)
    for _ in range(20):
        last = some.update(batch, START)
    assert (last < first).all()
    assert some.policy.act(batch.obs)[0].shape == (8, 1)
    assert isinstance(some.network(1), Network)


@pytest.mark.parametrize("env", [LINEAR, "CartPole-v1"])
def test_playing_together_is_playing_one_by_one(monkeypatch, env):
    info = describe_env(env)
    head = student_head(info.action)
    specs = [NetworkSpec(info.obs.shape, head.width, hidden=(h,)) for h in (1, 2, 3, 4, 5)]
    networks = [build(spec, torch.Generator().manual_seed(h)) for h, spec in enumerate(specs)]
    policies = [Policy(network.eval(), head) for network in networks]
    told = []
    for most in (200, 70):  # all five, and two by two
        monkeypatch.setattr("distilrl.population.SIDE_BY_SIDE", most)
        check = Check(tiny_config(env, check_episodes=30, eval_envs=200), None, keep_states=0)
        assert returns_of(policies, check, info, told.append) == [check(policy).mean for policy in policies]
    assert told
    assert all(isinstance(event, Episodes) for event in told)
    noisy = Check(tiny_config(env, eval_epsilon=0.3), None, keep_states=0)
    assert returns_of(policies, noisy, info) == [noisy(policy).mean for policy in policies]


def test_the_smallest_that_passes_is_found(sign_teacher, tmp_path):
    events = []
    job = tiny_job(env_steps=4800)
    result = plan(sign_teacher, job, tmp_path / "plan", sizes=["mlp:16", "mlp:", "mlp:4"], seeds=2, watch=events.append)
    assert [row.student for row in result.frontier] == ["mlp:", "mlp:4", "mlp:16"]
    assert result.winner == "mlp:"  # the sign of a number is a linear matter
    winner = tmp_path / "plan" / "winner"
    stored = load_network(winner / "student")
    assert evaluate_policy(Policy(stored.network, stored.head), SIGN, episodes=20).return_mean > 9.5
    assert stored.meta["environment"] == {"id": SIGN}
    results = json.loads((winner / "results.json").read_text())
    assert results["verdict"]["result"] == "pass"
    assert max(event.env_steps for event in events if isinstance(event, Step)) <= 4800 + 8
    judged = [event.of for event in events if isinstance(event, Judged)]
    assert judged == [row.student for row in reversed(result.frontier) if row.verdict], "each once, and by its name"
    assert results["verdict"] == to_plain(result.frontier[0].of_return), "the winner's, as its own folder has it"
    config = json.loads((winner / "config.json").read_text())
    assert (config["kind"], Job.from_json(config).train.student.network) == ("winner", "mlp:")
    with pytest.raises(FileError, match="already holds a plan"):
        plan(sign_teacher, job, tmp_path / "plan")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"noise": (1.0, 2.0, 3.0)}, "'noise' needs one standard deviation per number"),
        ({"flicker": 0.5}, "'flicker' is about an observation that is an image alone"),
        ({"round_steps": 8}, "'round_steps' is 8, but a plan waits for each step"),
    ],
)
def test_what_a_plan_cannot_do_is_said_before_it_begins(changes, error, sign_teacher, tmp_path):
    """It was when the teacher was accepted, and what it had written stood in the way of the plan that was meant."""
    job = tiny_job()
    with pytest.raises(SpecError, match=error):
        plan(sign_teacher, replace(job, train=job.train.but(**changes)), tmp_path / "plan")
    assert not (tmp_path / "plan").exists()


@pytest.mark.parametrize(
    ("verdicts", "winner", "taken"),
    [
        (("pass", "within_margin", "pass"), "mlp:", 3),
        (("pass", "fail", "pass"), "mlp:16", 2),  # the smallest would pass, but its turn does not come
        (("within_margin", "inconclusive", "pass"), "mlp:16", 2),
        (("inconclusive", "pass", "pass"), None, 1),
    ],
)
def test_verdicts_go_from_large_to_small_until_one_does_not_hold(
    sign_teacher, tmp_path, monkeypatch, verdicts, winner, taken
):
    """Several tries at 2.5 % each, of which the first that passes wins, would err more often than said."""
    told = dict(zip(("mlp:16", "mlp:4", "mlp:"), verdicts, strict=True))
    asked, heard = [], []

    def judged(_teacher, trained, *_others, watch=None):
        asked.append(spelled(trained.networks[0].spec, real=False))
        return Judgement(told[asked[-1]], instances.VERDICT)

    monkeypatch.setattr(sys.modules["distilrl.plan"], "judged", judged)
    monkeypatch.setattr("distilrl.search.returns_of", lambda policies, *_: [10.0] * len(policies))
    sizes = ["mlp:", "mlp:4", "mlp:16"]
    result = plan(
        sign_teacher, tiny_job(env_steps=2400), tmp_path / "plan", sizes=sizes, seeds=1, refine=False,
        watch=heard.append,
    )  # fmt: skip
    assert all(row.reached for row in result.frontier)
    assert asked == ["mlp:16", "mlp:4", "mlp:"][:taken]
    assert result.winner == winner
    assert [row.verdict for row in reversed(result.frontier)] == [*verdicts[:taken], *[None] * (3 - taken)]
    assert [row.of_return for row in reversed(result.frontier)] == [instances.VERDICT] * taken + [None] * (3 - taken)
    assert (tmp_path / "plan" / "winner" / "results.json").exists() == (winner is not None)
    # what it was told in its turn is no verdict of its folder's episodes
    assert len([one for one in heard if isinstance(one, Noticed) and "in its turn and is" in one.words]) == bool(winner)


@pytest.mark.parametrize(
    ("scores", "reached", "turns"),
    [
        ([0.9, 1.0, 1.0, 1.0], [0, 1, 1, 1], [3, 2, 1]),  # of equals the largest
        ([0.9, 1.2, 1.0, 1.1], [1, 1, 1, 1], [1, 0]),
        ([0.9, 1.0, 0.99, 0.9], [1, 1, 1, 1], [2, 1, 0]),  # a fifth of the margin below the best is as good
        ([0.99, 1.0, 0.97, 0.96], [1, 0, 1, 1], [0]),  # who may have no verdict begins no sequence
        ([None, None, None, None], [1, 0, 1, 1], [3, 2, 0]),  # no better than random play: none has a score
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0], []),
    ],
)
def test_the_size_that_scored_best_is_judged_first(scores, reached, turns):
    rows = [
        Row(spec, None, [] if score is None else [score - 0.1, score + 0.1], 0, [], 1.0, 1.0, bool(there))
        for spec, score, there in zip(SPECS, scores, reached, strict=False)
    ]
    margin = None if scores[0] is None else 0.05
    assert [rows.index(row) for row in planning.in_turn(rows, margin)] == turns


def test_only_the_winner_is_disturbed(sign_teacher, tmp_path, monkeypatch):
    phases = []
    monkeypatch.setattr("distilrl.search.returns_of", lambda policies, *_: [10.0] * len(policies))  # two verdicts
    job = replace(tiny_job(env_steps=2400), comparison=Comparison(200, 200, 60, margin=0.2))
    sizes = ["mlp:", "mlp:4"]
    result = plan(
        sign_teacher, job, tmp_path / "plan", sizes=sizes, seeds=1, refine=False, watch=phases.append, report=False
    )
    assert {row.verdict for row in result.frontier} <= set(HOLDS)
    ways = [phase.name for phase in phases if isinstance(phase, Phase) and phase.name.startswith(("random", "noise"))]
    results = json.loads((tmp_path / "plan" / "winner" / "results.json").read_text())
    assert len(ways) == len(set(ways)) == len(results["disturbed"]) == 2
    assert not any(isinstance(one, Noticed) for one in phases), "played again it is the same"


def test_the_config_of_a_plan_says_what_was_asked_for(sign_teacher, tmp_path):
    job = tiny_job(SIGN, TeacherTerm("nll"), check_episodes=3)
    given = PlanOptions(("mlp:", "mlp:3"), 2, Budget(params=60, us=1e6), False)
    plan(sign_teacher, job, tmp_path / "one", **vars(given))
    data = json.loads((tmp_path / "one" / "config.json").read_text())
    assert data["kind"] == "plan"
    assert PlanOptions.from_config(data) == given
    assert Job.from_json(data).to_json() == job.to_json()
    for wrong in ({"seeds": 0}, {"seeds": "2"}, {"budget": {"params": -1}}, {"hurry": True}):
        with pytest.raises(SpecError, match=f"{next(iter(wrong))}|params"):
            PlanOptions.from_config(data | {"given": data["given"] | wrong})


@pytest.mark.parametrize("terms", [(term("centred_regression"),), (term("nll"),), (term(own_loss),)])
def test_a_plan_trains_the_loss_of_its_job(sign_teacher, tmp_path, monkeypatch, terms):
    """The student that a plan on another loss finds is the one that this loss makes."""
    called = []
    original = TeacherTerm.__call__
    monkeypatch.setattr(TeacherTerm, "__call__", lambda self, context: called.append(self) or original(self, context))
    result = plan(
        sign_teacher,
        tiny_job(SIGN, *terms, check_episodes=3),
        tmp_path / "plan",
        sizes=["mlp:4"],
        seeds=1,
        refine=False,
    )
    assert called
    assert set(called) == set(terms)
    assert result.frontier[0].best_score > 0.8


def test_real_actions_find_the_linear_student(tmp_path):
    job = tiny_job(LINEAR, env_steps=4000, learning_rate=1e-2)
    result = plan(linear_teacher(), job, tmp_path / "plan", sizes=["mlp:", "mlp:2@relu", "mlp:8"], seeds=2)
    assert result.winner == "mlp:"
    assert [row.student for row in result.frontier] == ["mlp:", "mlp:2@relu", "mlp:8@tanh"], "as --student reads them"
    stored = load_network(tmp_path / "plan" / "winner" / "student")
    torch.testing.assert_close(stored.network(torch.eye(2))[:, 0], torch.tensor([0.8, -0.3]), atol=0.1, rtol=0)
    assert isinstance(stored.head, Point)


def test_several_choices_at_once(tmp_path):
    result = plan(
        pair_teacher(),
        tiny_job(PAIR, env_steps=4800),
        tmp_path / "plan",
        sizes=["mlp:", "mlp:16"],
        seeds=1,
        refine=False,
    )
    assert result.winner is not None
    assert result.frontier[0].params == 15


planning = sys.modules["distilrl.plan"]  # the package's own name is the function


def test_sizes_between_are_tried(monkeypatch, tmp_path):
    """Where a size falls short and a larger one does not, those between get their chance."""
    tried = []
    original = Search.round

    def noted(self, specs):
        tried.append([spec.describe() for spec in specs])
        return original(self, specs)

    monkeypatch.setattr(Search, "round", noted)
    monkeypatch.setattr(
        "distilrl.search.returns_of", lambda policies, *_: [1e6 * (p.network.spec.params > 20) - 1e3 for p in policies]
    )
    monkeypatch.setattr(Check, "score", lambda self, mean: mean)
    monkeypatch.setattr(planning, "_winner", lambda *_: None)
    teacher, job = linear_teacher(), tiny_job(LINEAR)
    plan(teacher, job, tmp_path / "plan", sizes=["mlp:", "mlp:2", "mlp:16"], seeds=1)
    assert tried[0] == ["mlp:", "mlp:2@tanh", "mlp:16@tanh"]
    assert tried[1]
    assert all(2 < int(name[4:].removesuffix("@tanh")) < 16 for name in tried[1])


def test_budgets_leave_sizes_out(sign_teacher, tmp_path):
    job = tiny_job(check_episodes=2)
    result = plan(
        sign_teacher,
        job,
        tmp_path / "plan",
        sizes=["mlp:4", "mlp:64"],
        seeds=1,
        budget=Budget(params=100),
        refine=False,
    )
    assert [row.student for row in result.frontier] == ["mlp:4"]
    for budget in (Budget(bytes=10), Budget(macs=1), Budget(us=0.0001)):
        with pytest.raises(SpecError, match="No size fits"):
            plan(sign_teacher, job, tmp_path / "none", sizes=["mlp:4"], seeds=1, budget=budget)
    assert not (tmp_path / "none").exists()


def test_a_size_that_is_named_twice_is_tried_once(sign_teacher, tmp_path):
    job, sizes = tiny_job(check_episodes=2), ["mlp:4", "mlp:4@relu", "mlp:"]
    result = plan(sign_teacher, job, tmp_path / "plan", sizes=sizes, seeds=1, refine=False, report=False)
    assert [row.student for row in result.frontier] == ["mlp:", "mlp:4"]


def test_a_plan_without_a_winner_says_so(sign_teacher, tmp_path):
    job = Job(tiny_config(check_episodes=2), Comparison(20, 20, 0, margin=1e-6))
    result = plan(sign_teacher, job, tmp_path / "plan", sizes=["mlp:1"], seeds=1)
    assert result.winner is None
    assert not (tmp_path / "plan" / "winner" / "student").exists()
    with pytest.raises(FileError, match="a plan in which no size was shown to be within the margin"):
        export_policy(tmp_path / "plan", "c")


def test_a_stage_with_reward_is_no_part_of_it(sign_teacher, tmp_path):
    job = tiny_job(env_steps=2400, reward=RewardConfig(env_steps=100_000))
    job = replace(job, comparison=Comparison(200, 200, 0, margin=0.2))
    result = plan(sign_teacher, job, tmp_path / "plan", sizes=["mlp:4"], seeds=1)
    assert result.winner == "mlp:4"
    assert (
        Job.from_json(json.loads((tmp_path / "plan" / "winner" / "config.json").read_text())).train.reward.env_steps
        == 0
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"terms": (*KL, FeatureTerm("hint"))}, "term 'hint' of the recipe 'mine'"),
        ({"terms": (*KL, term("adversarial_kl"))}, "'adversarial_kl'"),
        ({"terms": (*KL, term("discriminator"))}, "'discriminator'"),
        ({"terms": (*KL, term("td")), "n_step": 1}, "'td'"),
        ({"student": StudentConfig(start="svd")}, "'start' of the recipe 'mine'"),
        ({"reused_head": True}, "'reused_head'"),
        ({"behaviour": Behaviour(beta=Schedule(0.5, 0.0, by="score"))}, "'score' of one student"),
        ({"terms": (term("forward_kl", sharpness=Schedule(0.5, 1.0, by="agreement")),)}, "'agreement'"),
        ({"terms": (term("action_regression"),)}, "compares real actions"),
        ({"seed": 899}, "'seed' must lie in 0 to 899"),
    ],
)
def test_what_a_population_cannot_do_is_refused_in_one_sentence(sign_teacher, tmp_path, changes, what):
    with pytest.raises(SpecError, match=what) as error:
        plan(sign_teacher, tiny_job(recipe="mine", **changes), tmp_path / "plan", sizes=["mlp:4"], seeds=2)
    assert str(error.value).count(". ") == 0
    assert not (tmp_path / "plan").exists()


def test_a_plan_that_diverges_says_who(sign_teacher, tmp_path):
    def explodes(*, student, teacher):
        return (student - teacher).sum(1) * 1e38 * 1e38

    with pytest.raises(NotFiniteError, match=r"mlp:4 \(seed 0\).*learning_rate"):
        plan(sign_teacher, tiny_job(SIGN, term(explodes)), tmp_path / "plan", sizes=["mlp:4"], seeds=1)


def poison(population, k):
    """Weights of one student that are NaN, as they become where training diverges."""
    ((members, module),) = [group for group in population.groups if k in group[0]]
    with torch.no_grad():
        if isinstance(module, StackedMLP):
            module.weights[0][members.index(k)] = float("nan")
        else:
            next(module.parameters()).fill_(float("nan"))


def poisoned(monkeypatch, when):
    """Has students diverge in these stretches between checks, {number of the stretch: students}."""
    original = Search._learn

    def learn(self, population, begin, until):
        for k in when.get(self.rounds[-1].checks, ()):
            if k in population.alive:
                poison(population, k)
        original(self, population, begin, until)

    monkeypatch.setattr(Search, "_learn", learn)


@pytest.mark.parametrize(
    ("env", "teacher", "sizes"),
    [
        (SIGN, lambda: make_teacher(sign_network()), ["mlp:", "mlp:4"]),
        (LINEAR, linear_teacher, ["mlp:", "mlp:4@tanh"]),
        (LINEAR, linear_teacher, ["gru:2", "mlp:4@history=2"]),
    ],
    ids=["choices", "real", "memory"],
)
def test_the_others_of_a_plan_go_on_where_one_diverges(tmp_path, monkeypatch, env, teacher, sizes):
    """One seed of one size ended the whole plan, and for good: what is replayed diverges again."""
    poisoned(monkeypatch, {0: [1], 1: [2]})  # one before its first check, one behind it
    monkeypatch.setattr("distilrl.search.returns_of", lambda policies, *_: [-1e3] * len(policies))
    asked = {"sizes": sizes, "seeds": 2, "refine": False, "report": False}
    short = {"env_steps": 900, "sequence": 8, "burn_in": 2}
    events, watch = killed_at()
    whole = plan(teacher(), tiny_job(env, **short), tmp_path / "whole", watch=watch, **asked)
    told = [event.words for event in events if isinstance(event, Noticed)]
    assert len(told) == len(whole.diverged) == 2
    assert all("have become NaN or infinite" in words and words.endswith("it learns no more.") for words in told)
    first, second = (row.student for row in whole.frontier)
    assert whole.diverged == (f"{first} (seed 1)", f"{second} (seed 0)")
    assert whole.frontier[0].best_seed == 0
    # and it is gone on with as it would have gone on
    moment = [n for n, event in enumerate(events) if isinstance(event, Step)][-1]
    with pytest.raises(Killed):
        plan(teacher(), tiny_job(env, **short), tmp_path / "cut", watch=killed_at(moment)[1], **asked)
    again = plan(teacher(), tiny_job(env, **short), tmp_path / "cut", resume=True, **asked)
    assert without_clock(again) == without_clock(whole)
    (ours, state), (theirs, _) = (RunFolder(tmp_path / name).load_state() for name in ("cut", "whole"))
    assert [student["number"] for student in state["rounds"][0]["students"]] == [0, 2, 3]
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name.startswith("round."))


def test_a_plan_all_of_whose_living_students_diverge_keeps_what_was_checked(sign_teacher, tmp_path, monkeypatch):
    poisoned(monkeypatch, {1: range(4)})
    monkeypatch.setattr("distilrl.search.returns_of", lambda policies, *_: [-1e3] * len(policies))
    result = plan(
        sign_teacher, tiny_job(env_steps=2400), tmp_path / "plan", sizes=["mlp:", "mlp:4"], seeds=2, refine=False
    )
    assert len(result.diverged) == 2, "those that had not been dropped"
    assert [row.student for row in result.frontier] == ["mlp:", "mlp:4"]
    assert f"The weights of {', '.join(result.diverged)} became NaN" in RunFolder(tmp_path / "plan").report.read_text()


def test_a_size_of_which_all_diverge_before_a_check_has_no_row(sign_teacher, tmp_path, monkeypatch):
    poisoned(monkeypatch, {0: [0]})
    result = plan(
        sign_teacher, tiny_job(check_episodes=2), tmp_path / "plan", sizes=["mlp:", "mlp:4"], seeds=1, refine=False,
        report=False,
    )  # fmt: skip
    assert [row.student for row in result.frontier] == ["mlp:4"]
    assert result.diverged == ("mlp: (seed 0)",)


def test_a_plan_is_not_gone_on_with_by_another_loss(sign_teacher, tmp_path, monkeypatch):
    """It went on with the edited one, and its config.json said nothing of it."""

    def weighted(weight):
        def mine(*, student, teacher):
            return weight * (student - teacher).square().sum(1)

        return mine

    one, other = weighted(0.5), weighted(2.0)
    monkeypatch.setattr("distilrl.search.returns_of", lambda policies, *_: [-1.0] * len(policies))  # three checks
    events, watch = killed_at()
    out, asked = tmp_path / "plan", {"sizes": ["mlp:4"], "seeds": 1, "refine": False, "report": False}
    job = tiny_job(SIGN, term(one), check_episodes=2)
    plan(sign_teacher, job, tmp_path / "whole", watch=watch, **asked)
    moment = [n for n, event in enumerate(events) if isinstance(event, Step)][-1]
    with pytest.raises(Killed):
        plan(sign_teacher, job, out, watch=killed_at(moment)[1], **asked)
    with pytest.raises(ResumeError, match=r"The code of the loss '.*mine.*' is not what it was"):
        plan(sign_teacher, tiny_job(SIGN, term(other), check_episodes=2), out, resume=True, **asked)


def test_ladders_fit_what_is_seen_and_done():
    head, real = TWO, student_head(Bounds((-1.0,), (1.0,)))
    small = ObsSpec((4,))
    assert ladder(small, head)[0] == ladder(small, real)[0] == "mlp:"
    assert ladder(small, head)[-1] == "mlp:32,32"
    assert ladder(small, real)[-1] == ladder(ObsSpec((100,)), head)[-1] == "mlp:64,64"
    for shape in ((4, 84, 84), (3, 36, 40), (3, 35, 64), (3, 10, 10), (1, 5, 5), (1, 3, 3)):
        obs = ObsSpec(shape, shape, "uint8")
        specs = [NetworkSpec.of(text, obs, 2) for text in ladder(obs, head)]
        assert len({spec.params for spec in specs}) == 6
    beside = ObsSpec((7 + 3 * 20 * 20,), (3, 20, 20))
    assert len([NetworkSpec.of(text, beside, 2) for text in ladder(beside, head)]) == 6


def test_noise_and_hidden_numbers_are_the_students_own(sign_teacher, tmp_path):
    config = tiny_config(noise=(0.0, 0.5), hidden_features=(1,), env_steps=3200)
    result = plan(
        sign_teacher,
        Job(config, Comparison(200, 200, 0, margin=0.2)),
        tmp_path / "plan",
        sizes=["mlp:4"],
        seeds=1,
        refine=False,
    )
    assert result.winner == "mlp:4"
    network = load_network(tmp_path / "plan" / "winner" / "student").network
    assert network.layers[0].weight.shape == (4, 1)


def test_a_real_teacher_of_real_actions(tmp_path):
    """SAC's Pendulum: its Gaussian becomes a point, and its critic says where a mistake costs most."""
    files = (TeacherFile(str(real_teacher("continuous/sac-Pendulum-v1.zip"))),)
    config = tiny_config(check_episodes=4).but(tasks=(TaskFile(EnvRef("Pendulum-v1"), files),), env_steps=4000)
    result = plan(
        None, Job(config, Comparison(10, 10, 0)), tmp_path / "plan", sizes=["mlp:", "mlp:16,16"], seeds=1, refine=False
    )
    linear, deep = result.frontier
    assert deep.best_score > 0.8 > linear.best_score


@pytest.mark.parametrize("env", ["ALE/Pong-v5"])
def test_games_with_sticky_actions_are_played_one_by_one(env):
    """Their episodes are played in parts, of which no one holds those of a single student."""
    info = describe_env(env)
    assert info.atari
    assert not info.deterministic
    spec = NetworkSpec(info.obs.shape, info.action.nvec[0], convs=((2, 8, 8),), hidden=())
    policies = [Policy(build(spec, torch.Generator().manual_seed(k)).eval(), student_head(info.action)) for k in (0, 1)]
    check = Check(tiny_config(env, check_episodes=8), None, keep_states=0)
    check.how = replace(check.how, max_steps=5)
    assert returns_of(policies, check, info) == [check(policy).mean for policy in policies]


def standardised(*, student, teacher):
    """A loss of rows that are compared with the others of their batch."""
    return (student - student.mean(0)).div(student.std(0) + 1).sub(teacher).square().sum(1)


def test_a_loss_by_its_name_sees_one_student_at_a_time(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_losses", SimpleNamespace(standardised=standardised, __name__="my_losses"))
    monkeypatch.setattr("distilrl.objective.imported", lambda _: standardised)
    (batch,) = batches(1)
    found = []
    for terms in ((TeacherTerm(standardised),), (TeacherTerm("my_losses:standardised"),)):
        some = population(SPECS[:3], terms)
        found.append(some.update(batch, START))
    alone = population(SPECS[:1], (TeacherTerm("my_losses:standardised"),)).update(batch, START)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[1][:1], alone)


def cut_plan(teacher, out, watch=None, **changes):
    """A plan of students some of whom are dropped on the way."""
    config = tiny_config(MOVED, env_steps=900, check_episodes=3, learning_rate=4e-3, sequence=8, burn_in=2)
    changes = {"sizes": ["mlp:", "mlp:2", "mlp:8"], "seeds": 2, "report": False} | changes
    return plan(teacher, Job(config, Comparison(50, 50, 0, margin=0.1)), out, watch=watch, **changes)


def test_seconds_of_a_plan_are_those_of_all_its_steps(sign_teacher, tmp_path, monkeypatch):
    """The first ones, in which nothing is learnt yet, were left out."""
    clock, collect = [0.0], Stream.collect

    def taking(*given):
        clock[0] += 1.0
        return collect(*given)

    monkeypatch.setattr("distilrl.search.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(Stream, "collect", taking)
    asked = {"sizes": ["mlp:"], "seeds": 1, "refine": False, "report": False}
    found = plan(sign_teacher, tiny_job(env_steps=640, learning_starts=320), tmp_path / "plan", **asked)
    assert found.train_s == clock[0] > 40


def without_clock(result):
    plain = result.to_json() | {"train_s": 0, "wall_s": 0, "provenance": {}}
    return plain | {"frontier": [row | {"latency_us": 0} for row in plain["frontier"]]}


@pytest.mark.parametrize(
    ("sizes", "moments"),
    [(["mlp:", "mlp:2", "mlp:8"], 5), (["gru:2", "mlp:4@history=2", "mlp:2"], 2)],
    ids=["plain", "memory"],
)
def test_a_resumed_plan_equals_an_unbroken_one(tmp_path, monkeypatch, sizes, moments):
    """Whenever it is killed: behind a check, in the second round, in a verdict, and while the winner is written."""
    planning = sys.modules["distilrl.plan"]
    monkeypatch.setattr(planning, "between_reached", lambda specs, _: [replace(specs[0], hidden=(3,))])
    monkeypatch.setattr("distilrl.population.TURN", 7)  # so that it counts whose turn it was
    teacher = linear_teacher()
    events, watch = killed_at()
    whole = cut_plan(teacher, tmp_path / "whole", watch, sizes=sizes)
    steps = [n for n, event in enumerate(events) if isinstance(event, Step)]
    behind = next(n for n in steps[1:] if isinstance(events[n - 1], Episodes | Phase))
    told = [n for n, event in enumerate(events) if isinstance(event, Phase) and event.name == "verdict"]
    for moment in (behind, steps[-1], *told)[:moments]:
        out = tmp_path / f"cut-{moment}"
        with pytest.raises(Killed):
            cut_plan(teacher, out, killed_at(moment)[1], sizes=sizes)
        with pytest.raises(FileError, match="continue it with --resume"):
            cut_plan(teacher, out, sizes=sizes)
        again, watch = killed_at()
        assert without_clock(cut_plan(teacher, out, watch, sizes=sizes, resume=True)) == without_clock(whole)
        (resumed,) = (event for event in again if isinstance(event, Resumed))
        assert resumed.env_steps > 0
        verdicts = [event for event in again if isinstance(event, Phase) and event.name == "verdict"]
        assert len(verdicts) == sum(n >= moment for n in told), "none is taken twice"
        (ours, _), (theirs, _) = (RunFolder(folder).load_state() for folder in (out, tmp_path / "whole"))
        assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name.startswith("round."))
        if whole.winner is not None:
            for file in ("student/student.safetensors", "episodes.json"):
                assert (out / "winner" / file).read_bytes() == (tmp_path / "whole" / "winner" / file).read_bytes()
        done = cut_plan(teacher, out, sizes=sizes, resume=True)
        assert done.to_json() == read_json(out / "plan.json")


def asked_plan(teacher, out, episodes, watch=None, **changes):
    """Whether a number is above zero: right in every one of fifty episodes is too little to be sure at this margin."""
    job = replace(tiny_job(env_steps=2400), comparison=Comparison(episodes, 3 * episodes, 0))
    changes = {"sizes": ["mlp:", "mlp:4"], "seeds": 1, "refine": False, "report": False} | changes
    return plan(teacher, job, out, watch=watch, **changes)


def test_another_number_may_be_asked_for_after_one_that_was_cut_short():
    """It was said to have been asked for what was never played, and could not be gone on with."""
    search = Search.__new__(Search)
    search.job, search.after, search.folder = replace(tiny_job(), comparison=Comparison(21, 63, 0)), 0, RunFolder("p")
    held = {"mlp:4": SimpleNamespace(worst="pass")}
    search._ask([60, 9000], held, 1)
    assert (search.asked, search.verdicts, search.job.comparison.after) == ([60, 9000, 63], {}, 9060)
    search._ask([60, 63], held, 1)
    assert (search.asked, search.verdicts, search.job.comparison.after) == ([60, 63], held, 60)
    search._ask([60, 9000], {"mlp:4": SimpleNamespace(worst="inconclusive")}, 2)
    assert search.asked == [60, 9000], "an answer that was had is not asked for again with fewer"
    failed = held | {"mlp:": SimpleNamespace(worst="fail")}
    with pytest.raises(ResumeError, match=r"failed when it was asked with up to 9,000 episodes.*--episodes 3000"):
        search._ask([60, 9000], failed, 1)
    with pytest.raises(ResumeError, match=r"go on with Comparison\(max_episodes=50\)"):  # which no option says
        search._ask([20, 50], failed, 1)
    assert search.asked == [60, 9000], "and what failed does not get another chance"


def test_an_undecided_plan_goes_on_with_more_episodes(sign_teacher, tmp_path, monkeypatch):
    """It was begun anew, and its students were trained again."""
    out = tmp_path / "plan"
    first = asked_plan(sign_teacher, out, 17)
    assert (first.undecided, first.asked) == (True, (51,))
    assert next_commands(first, out) == [], "the teacher is no file, so that no command goes on"
    with monkeypatch.context() as patched:
        patched.setattr("distilrl.next_steps.judges_of", lambda _folder: [{"path": "teacher.zip"}])
        ((_, command),) = next_commands(first, out)
    assert command == f"distilrl plan --resume {out} --episodes 68"
    with pytest.raises(ResumeError, match=r"another 'comparison\.episodes'"):
        asked_plan(sign_teacher, out, 16, resume=True)
    assert asked_plan(sign_teacher, out, 17, resume=True).to_json() == first.to_json()
    whole = tmp_path / "whole"
    shutil.copytree(out, whole)

    events, watch = killed_at()
    found = asked_plan(sign_teacher, whole, 200, watch, resume=True)
    assert (found.winner, found.asked, found.undecided) == ("mlp:", (51, 600), False)
    assert not any(isinstance(event, Step) for event in events), "nobody learns anything"
    named = [event.of for event in events if isinstance(event, Judged)]
    assert named == [row.student for row in reversed(found.frontier) if row.verdict], "each is told once"
    verdict = read_json(whole / "winner" / "results.json")["verdict"]
    assert (verdict["result"], verdict["after"]) == ("pass", 51)
    assert found.env_steps == first.env_steps
    assert asked_plan(sign_teacher, whole, 200, resume=True).to_json() == found.to_json()
    # what is decided is not asked again
    with pytest.raises(ResumeError, match=r"another 'comparison\.episodes'"):
        asked_plan(sign_teacher, whole, 400, resume=True)

    # and without its students there is nobody to ask
    bare = tmp_path / "bare"
    shutil.copytree(out, bare)
    shutil.rmtree(bare / "checkpoint")
    with pytest.raises(ResumeError, match="no checkpoint any more, and so no students of which to ask more"):
        asked_plan(sign_teacher, bare, 200, resume=True)
    with pytest.raises(FileError, match=r"ask again with 'distilrl plan --resume .*bare --episodes'"):
        export_policy(bare, "c")

    # killed in its second asking, it goes on there, and not with the first answer
    moment = next(n for n, event in enumerate(events) if isinstance(event, Phase) and event.name == "verdict")
    with pytest.raises(Killed):
        asked_plan(sign_teacher, out, 200, killed_at(moment)[1], resume=True)
    with pytest.raises(ResumeError, match=r"was asked again, with up to 600 episodes, and that was cut short: .* 200"):
        asked_plan(sign_teacher, out, 17, resume=True)
    assert without_clock(asked_plan(sign_teacher, out, 200, resume=True)) == without_clock(found)

    # whoever plays the verdict's episodes again plays those
    played = verify(export_policy(whole, "onnx")["path"])
    assert played.against_student.difference == 0.0
    assert played.return_mean == read_json(whole / "winner" / "results.json")["student"]["return_mean"]


def test_nobody_is_judged_before_the_first_update(tmp_path):
    """Of few steps the first check came before learning began, and half of the students went at random."""
    job = Job(tiny_config(MOVED, env_steps=330, learning_starts=300), Comparison(50, 50, 0, margin=0.5))
    rows = []

    def note(one, k, row, network, whole=Round.note):
        rows.append(row)
        return whole(one, k, row, network)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Round, "note", note)
        plan(linear_teacher(), job, tmp_path / "plan", sizes=["mlp:8"], seeds=2, report=False)
    assert min(row["updates"] for row in rows) > 0


def test_without_scores_there_are_none(tmp_path):
    """They were 0, as those of random play, beside a pass."""
    weak = Teacher.from_callable(lambda obs: torch.zeros(len(obs), 1), kind="mean", name="weak")
    config = tiny_config(MOVED, env_steps=600)
    job = Job(config, Comparison(50, 50, 0, margin_abs=1e6), accept_weak_teacher=True)
    acceptance = plan(weak, job, tmp_path / "plan", sizes=["mlp:"], seeds=2)
    (row,) = acceptance.frontier
    scored = read_json(tmp_path / "plan" / "winner" / "results.json")["student"]["score"] is not None
    assert [one is not None for one in (row.score_mean, row.worst_score, row.best_score)] == [scored] * 3
    assert ("–" in str(acceptance)) == (not scored)


def test_episodes_that_were_not_to_be_asked_about_are_not_after_a_resume_either(sign_teacher, tmp_path):
    """A plan that was gone on with took its verdicts from the first seeds on, whatever its job said."""
    job = replace(tiny_job(env_steps=1600), comparison=Comparison(60, 60, 0, margin=0.2, after=1000))

    def done(resume=False, watch=None):
        how = {"sizes": ["mlp:4"], "seeds": 1, "refine": False, "report": False}
        return plan(sign_teacher, job, tmp_path / "plan", resume=resume, watch=watch, **how)

    def killed(event):
        if isinstance(event, Phase) and event.name == "verdict":
            raise Killed

    with pytest.raises(Killed):
        done(watch=killed)
    (row,) = done(resume=True).frontier
    assert row.of_return.after == 1000


class FlatEnv(SignEnv):
    """Pays everybody the same."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, 1.0, *rest


def test_a_plan_needs_a_margin_where_it_trains_and_says_so_before_it_begins(sign_teacher, tmp_path):
    gymnasium.register("distilrl/FlatEnv-v0", entry_point=FlatEnv, max_episode_steps=50)
    job = Job(tiny_config("distilrl/FlatEnv-v0", env_steps=400), Comparison(60, 60, 0))
    job = replace(job, verdict_env=EnvRef(SIGN), accept_weak_teacher=True)
    with pytest.raises(TeacherError, match="give --margin-abs"):
        plan(sign_teacher, job, tmp_path / "plan", sizes=["mlp:4"], seeds=1, report=False)
    assert not (tmp_path / "plan").exists()
    job = replace(job, comparison=replace(job.comparison, margin_abs=1.0))
    plan(sign_teacher, job, tmp_path / "plan", sizes=["mlp:4"], seeds=1, report=False)


def test_a_plan_too_short_to_learn_says_what_would_help(sign_teacher, tmp_path):
    """It said that the teacher labelled nothing, which labelled everything, after twice the steps."""
    with pytest.raises(SpecError, match=r"learnt in 1600 steps.* raise --steps, lower 'n_envs' \(1600\)"):
        plan(sign_teacher, tiny_job(n_envs=1600), tmp_path / "plan", sizes=["mlp:4"], seeds=1, report=False)


def test_checks_hold_no_more_environments_than_an_evaluation_may(monkeypatch):
    """Up to a hundred, whatever ``--eval-envs`` said."""
    asked = []
    make = episodes.make_vec_env
    monkeypatch.setattr(episodes, "make_vec_env", lambda ref, n, *a, **k: asked.append(n) or make(ref, n, *a, **k))
    info = describe_env(LINEAR)
    head = student_head(info.action)
    networks = [build(NetworkSpec(info.obs.shape, head.width), torch.Generator().manual_seed(n)) for n in range(5)]
    policies = [Policy(network.eval(), head) for network in networks]
    for most in (6, 20):
        returns_of(policies, Check(tiny_config(LINEAR, check_episodes=5, eval_envs=most), None, keep_states=0), info)
        assert asked
        assert max(asked) <= most
        asked.clear()


def test_options_of_a_plan_from_python_are_held_to_their_types(sign_teacher, tmp_path):
    for name, value in (("seeds", 2.5), ("seeds", "3"), ("sizes", [3]), ("budget", {"params": 3})):
        with pytest.raises(SpecError, match=f"'{name}'"):
            plan(sign_teacher, tiny_job(), tmp_path / "plan", **{name: value})
    assert not (tmp_path / "plan").exists()


def test_another_plan_is_not_continued(sign_teacher, tmp_path):
    teacher = linear_teacher()
    with pytest.raises(FileError, match="holds no run"):
        cut_plan(teacher, tmp_path / "none", resume=True)
    events, watch = killed_at()
    cut_plan(teacher, tmp_path / "whole", watch)
    moment = next(n for n, event in enumerate(events) if isinstance(event, Phase) and event.name == "verdict")
    with pytest.raises(Killed):
        cut_plan(teacher, tmp_path / "cut", killed_at(moment)[1])
    with pytest.raises(ResumeError, match="another 'seeds'"):
        cut_plan(teacher, tmp_path / "cut", resume=True, seeds=3)
    folder = RunFolder(tmp_path / "cut")
    tensors, state = folder.load_state()
    rounds = state["rounds"]
    students = rounds[0]["students"]
    for wrong in ({"history": []}, {"history": [1]}, {"return": "x"}):
        told = [{**rounds[0], "students": [students[0] | wrong, *students[1:]]}, *rounds[1:]]
        folder.save_state(tensors, state | {"rounds": told})
        with pytest.raises(ResumeError, match="checkpoint does not fit"):
            cut_plan(teacher, tmp_path / "cut", resume=True)
    folder.save_state(tensors, state | {"rounds": []})
    with pytest.raises(ResumeError, match="checkpoint does not fit"):
        cut_plan(teacher, tmp_path / "cut", resume=True)
