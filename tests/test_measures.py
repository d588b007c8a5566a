"""Measures: numbers of an environment's info beside the return, and the verdicts on them."""

import json
import re
from dataclasses import replace

import instances
import numpy as np
import pytest
from commands import distill as distill_cli
from conftest import SIGN, make_teacher, sign_network
from test_evaluate import policy_of
from tiny_envs import MEASURED, tiny_config

from distilrl import measures, studies
from distilrl.acceptance import accept
from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.comparison import Comparison, compare
from distilrl.config import TaskFile
from distilrl.distill import distill
from distilrl.envs import describe_env
from distilrl.episodes import Play
from distilrl.errors import EnvError, FileError, SpecError
from distilrl.evaluate import play, seeds_from
from distilrl.export import export_policy, verify
from distilrl.files import write_json
from distilrl.heads import Categorical
from distilrl.jobs import Job
from distilrl.measures import Mean, Measure, Measured, rounded
from distilrl.next_steps import next_steps
from distilrl.objective import term
from distilrl.plain import read_as, to_plain
from distilrl.results import Duel, Results
from distilrl.spaces import Choices, EnvRef
from distilrl.stats import share_interval
from distilrl.verdict import RESULTS, non_inferiority

REF = EnvRef(MEASURED)


def of(*texts):
    return tuple(Measure.of(text) for text in texts)


def compared(student, *texts, episodes=100, most=100, **changes):
    """The sign teacher and a student, on these measures."""
    info, comparison = describe_env(REF), Comparison(episodes, most, 0, measures=of(*texts), **changes)
    teacher, how = make_teacher(sign_network()).fitted(info), Play(REF, measures=comparison.measures)
    return compare(teacher, policy_of(student), how, comparison, instances.acceptance(), info)


def numbers(*columns):
    """Sides of `Measured.of` for these (E,), every episode distinct."""
    return [(np.array(column, np.float64), np.arange(len(column))) for column in columns]


@pytest.mark.parametrize(
    ("text", "measure"),
    [
        ("speed", Measure("speed")),
        ("speed=mean", Measure("speed", "mean")),
        ("crashed=max<=0.05", Measure("crashed", "max", "lower", 0.05)),
        ("found>=1e-1", Measure("found", "last", "higher", 0.1)),
        ("energy used=sum<=3", Measure("energy used", "sum", "lower", 3.0)),
    ],
)
def test_a_measure_as_it_is_written(text, measure):
    assert Measure.of(text) == Measure.of(measure.text) == measure


@pytest.mark.parametrize(
    "text", ["", "=max", "speed=median", "speed<=", "speed<=0", "speed<0.1", "speed>=-1", "speed<=nan", "a=max=min"]
)
def test_what_is_no_measure_is_refused(text):
    with pytest.raises(SpecError, match="measure"):
        Measure.of(text)


def test_a_margin_has_a_side():
    with pytest.raises(SpecError, match="both"):
        Measure("speed", margin=1.0)
    with pytest.raises(SpecError, match="twice"):
        Comparison(measures=of("speed", "speed<=1"))


def test_an_episodes_number_is_made_of_its_steps():
    asked = of("step", "step=sum", "step=mean", "step=max", "third", "third=sum", "wrong=mean")
    for workers in (0, 2):
        games = play(policy_of(sign_network()), Play(REF, measures=asked, workers=workers), seeds_from(0, 6))
        assert games.measured.tolist() == [[10.0, 55.0, 5.5, 10.0, 7.0, 7.0, 0.0]] * 6
    wrong = play(policy_of(sign_network(-1.0)), Play(REF, measures=of("wrong=mean"), at_once=4), seeds_from(0, 10))
    assert wrong.measured.tolist() == [[1.0]] * 10
    assert play(policy_of(sign_network()), Play(REF), seeds_from(0, 6)).measured.shape == (6, 0)


def test_measuring_changes_no_episode():
    plain, measured = (
        play(policy_of(sign_network()), Play(REF, measures=asked, epsilon=0.5), seeds_from(0, 20))
        for asked in ((), of("step=sum"))
    )
    assert plain.fingerprints.tolist() == measured.fingerprints.tolist()


def test_what_was_measured_tells_episodes_apart():
    """Those of which only the info differed were one draw, so that varying numbers had an interval without a width."""
    games = instances.games([1.0] * 3, measured=[[0.0], [1.0], [0.0]])
    assert len(np.unique(games.units)) == 2
    assert len(np.unique(instances.games([1.0] * 3).units)) == 1


def test_the_worst_that_any_of_the_three_had_is_reckoned_with():
    values = np.arange(100.0)
    chance = np.append(values[1:], 500.0)
    found = Measured.of(Measure.of("cost=sum<=1"), numbers(values, values, chance), np.arange(100), 1, "greedy")
    assert found.verdict.span == 500.0


def test_a_measures_verdict_says_which_seeds_it_passed_over():
    found = compared(sign_network(), "step=sum<=1", "wrong=max", after=7).measures
    assert (found[0].verdict.after, found[1].verdict) == (7, None)


def test_episodes_without_the_number_do_not_count():
    found = compared(sign_network(), "found=mean", "third").measures
    games = play(policy_of(sign_network()), Play(REF, measures=of("found=mean")), seeds_from(30_000_000, 100))
    some = ~np.isnan(games.measured[:, 0])
    assert found[0].teacher.episodes == some.sum() < 100
    assert found[0].teacher.mean == pytest.approx(games.measured[some].mean())
    assert found[1].teacher == Mean(mean=7.0, ci95=(7.0, 7.0), episodes=100)


@pytest.mark.parametrize(("name", "what"), [("word", "'none'"), ("bad", "nan")])
def test_what_is_no_number_names_its_environment(name, what):
    with pytest.raises(
        EnvError, match=rf"MeasuredEnv-v0' gave {what} as '{name}' of its info.* in step 1 .*after seed 0"
    ):
        play(policy_of(sign_network()), Play(REF, measures=of(name)), [0])


def test_games_of_ale_have_none():
    pong = Play(EnvRef("PongNoFrameskip-v4"), measures=of("lives"))
    with pytest.raises(SpecError, match="leave out 'lives', as a measure or a cluster"):
        play(policy_of(sign_network()), pong, [0])


def test_a_number_that_no_episode_has_is_refused_before_training():
    teacher = make_teacher(sign_network()).fitted(describe_env(REF))
    with pytest.raises(SpecError, match="'crash' in its info"):
        accept(teacher, Play(REF, measures=of("crash")), episodes=5)


def test_verdicts_are_of_the_side_that_is_better():
    same = compared(sign_network(), "wrong=max<=0.05", "step=mean")
    assert same.measures[0].verdict.result == "pass"
    assert same.measures[0].verdict.span == 1.0  # in no episode of either was it, in all of random play's
    assert same.measures[0].random.mean == 1.0
    assert same.measures[1].verdict is None
    below, crashed = compared(sign_network(-1.0), "wrong=sum<=5", "wrong=max<=0.05").measures
    (above,) = compared(sign_network(-1.0), "wrong=sum>=5").measures
    assert (below.teacher.mean, below.student.mean, below.difference.difference) == (0.0, 10.0, 10.0)
    assert (below.verdict.result, above.verdict.result, crashed.verdict.result) == ("fail", "pass", "fail")
    assert below.verdict.interval[0] > 5.0  # as it is measured, though lower is better
    assert 0 < below.random.mean < 10
    assert below.verdict.span == 100.0  # twenty margins


def test_what_hardly_varies_is_judged_as_what_does_not_vary():
    rng = np.random.default_rng(1)
    for how, seen in (("sum", np.full(100, 10.0)), ("sum", 10 + 1e-9 * rng.random(100)), ("sum", np.arange(100) % 2)):
        sides = numbers(seen, seen, seen)
        found = Measured.of(Measure("cost", how, "lower", 1.0), sides, np.arange(100), 1, "greedy")
        assert found.verdict.span == 20.0
        assert found.verdict.interval[1] == pytest.approx(4 * 20 / 101)
        assert found.verdict.result == "pass"


def test_it_is_the_returns_test():
    rng = np.random.default_rng(1)
    theirs = (rng.random(400) < 0.1).astype(float)
    ours = np.where(rng.random(400) < 0.1, 1 - theirs, theirs)
    labels = np.arange(400)
    found = Measured.of(Measure.of("crashed<=0.05"), numbers(theirs, ours, theirs), labels, 3, "greedy").verdict
    same = non_inferiority(-ours, -theirs, 0.05, np.random.default_rng(0), span=1.0, clusters=labels, looks=3)
    assert (found.result, found.distinct, found.confidence) == (same.result, 400, same.confidence)
    assert found.interval == (-same.interval[1], -same.interval[0])
    assert found.difference == -same.difference


def test_no_pair_of_episodes_is_no_verdict():
    nothing = [np.nan] * 60
    found = Measured.of(Measure.of("time<=1"), numbers(nothing, range(60), nothing), np.arange(60), 1, "greedy")
    assert (found.teacher, found.difference) == (None, None)
    assert found.verdict.result == "inconclusive"
    assert "no episode" in found.verdict.reason
    few = Measured.of(
        Measure.of("time<=1"), numbers([1] * 40 + [np.nan] * 20, range(60), nothing), np.arange(60), 1, ""
    )
    assert few.verdict.distinct == 40
    assert "needs 50" in few.verdict.reason


def test_a_measure_that_is_not_decided_plays_on():
    assert compared(sign_network(), "wrong=max<=0.05", episodes=50, most=200).student.episodes == 100
    assert compared(sign_network(), "wrong=max", episodes=100, most=200).student.episodes == 100


def test_a_share_has_a_width_where_none_was_seen():
    assert share_interval(0.0, 100) == pytest.approx((0.0, 0.03699), abs=1e-5)
    assert share_interval(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert Mean.of(np.ones(100), "max", np.random.default_rng(0), np.arange(100)).ci95[0] < 0.97
    # a sum that was 1 in every episode may be 2 in the next, and is no share of them
    assert Mean.of(np.ones(100), "sum", np.random.default_rng(0), np.arange(100)).ci95 == (1.0, 1.0)


def test_a_count_that_was_never_above_one_is_no_share():
    """Its margin of two says that it may be more: the same question has the same answer if random play had a three."""
    none = np.zeros(50)
    found = [
        Measured.of(
            Measure.of("lost=last<=2"), numbers(none, none, np.append(none[1:], most)), np.arange(50), 1, "greedy"
        )
        for most in (0.0, 3.0)
    ]
    assert [one.verdict.span for one in found] == [40.0, 40.0]
    assert [one.verdict.result for one in found] == ["inconclusive"] * 2
    for margin, span in ((0.05, 1.0), (0.1, 2.0)):  # of what never was, nobody knows whether it is a share
        measure = Measure.of(f"crashed<={margin}")
        found = Measured.of(measure, numbers(none, none, none), np.arange(50), 1, "greedy")
        assert found.verdict.span == span
    shares = Measured.of(measure, numbers(none, none, np.append(none[1:], 1.0)), np.arange(50), 1, "greedy")
    assert shares.verdict.span == 1.0


def test_numbers_are_rounded_by_their_size():
    assert [rounded(number) for number in (0.01234, 25.34, 12345.6, 0.0, -1e-17)] == [
        "0.0123",
        "25.3",
        "12,346",
        "0",
        "0",
    ]
    assert rounded(0.05, "+") == "+0.05"


def job(*texts, **changes):
    return Job(tiny_config(MEASURED), Comparison(60, 60, 0, measures=of(*texts), **changes))


def test_results_hold_them(sign_teacher, tmp_path):
    asked = job("wrong=max<=0.5", "step", margin_abs=5.0)
    found = distill(sign_teacher, asked, tmp_path / "run", report=False)
    data = json.loads((tmp_path / "run" / "results.json").read_text())
    assert read_as(Results, data).to_json() == data
    assert [one["name"] for one in data["measures"]] == ["wrong", "step"]
    assert found.measured == {"wrong (max)": found.measures[0].verdict.result}
    assert Job.from_json(json.loads((tmp_path / "run" / "config.json").read_text())) == asked
    with pytest.raises(Exception, match="margin"):
        distill(sign_teacher, job("wrong=max<=0.4", "step", margin_abs=5.0), tmp_path / "run", resume=True)


def test_each_of_several_tasks_is_measured(sign_teacher, tmp_path):
    asked = job("wrong=max<=0.01", margin_abs=20.0)
    tasks = (TaskFile(REF), TaskFile(EnvRef(MEASURED, {"max_episode_steps": 50})))
    both = replace(asked, train=asked.train.but(tasks=tasks, terms=(term("forward_kl", weight=1e-9),)))
    found = distill([sign_teacher, sign_teacher], both, tmp_path / "run", report=False)
    assert [list(run.measured) for run in found.tasks] == [["wrong (max)"]] * 2
    assert {run.verdict.result for run in found.tasks} <= {"pass", "within_margin"}, "nothing fails this margin"
    assert found.worst == found.verdict.result == min((run.worst for run in found.tasks), key=RESULTS.index) == "fail"
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "wrong (max): fail" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_a_task_that_lacks_what_is_measured_is_refused_before_training(sign_teacher, tmp_path):
    asked = job("wrong=max<=0.01")
    both = replace(asked, train=asked.train.but(tasks=(TaskFile(REF), TaskFile(EnvRef(SIGN)))))
    with pytest.raises(SpecError, match=SIGN):
        distill([sign_teacher, sign_teacher], both, tmp_path / "run", report=False)
    assert not (tmp_path / "run").exists()


def test_a_failed_measure_is_not_hidden(teacher, tmp_path, capsys):
    """The return has a margin that nothing fails, and a student that does not see what counts is wrong in every
    episode.
    """
    asked = ["--measure", "wrong=max<=0.01", "--measure", "found=mean", "--margin-abs", "20"]
    short = ["--hide", "obs[0]", "--steps", "1200", "--episodes", "60", "--disturbed-episodes", "0"]
    out = tmp_path / "run"
    code = distill_cli(teacher, out, *asked, *short, env=MEASURED, student="mlp:2")
    printed = " ".join(capsys.readouterr().err.split())
    assert "verdict: within margin" in printed
    assert "wrong (max): fail" in printed
    assert code == 1
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<p class="verdict fail">wrong (max): fail.</p>' in page
    assert "found (mean)" in page
    again = ["distill", "--config", str(out / "config.json"), "--out", str(tmp_path / "again")]
    assert main(again) == code
    results = read_as(Results, json.loads((out / "results.json").read_text()))
    (_, words), (_, watch) = next_steps(results, out)  # nothing is to be shipped yet
    assert (words[0], watch[0]) == ("plan", "watch")
    assert [words[n + 1] for n, word in enumerate(words) if word == "--measure"] == ["wrong=max<=0.01", "found=mean"]
    assert studies.compare(out).rows[0].passed == 0
    assert main(["export", str(out), "--to", "c"]) == 0
    card = json.loads((out / "export" / "c" / "export.json").read_text())
    assert (card["student_verdict"], card["student_measures"]) == ("fail", {"wrong (max)": "fail"})
    capsys.readouterr()
    assert main(["verify", str(out / "export" / "c")]) == 1, "the file fails with its student"
    assert "wrong (max): fail" in " ".join(capsys.readouterr().err.split())
    played = verify(out / "export" / "c")
    assert (played.verdict.result, played.worst) == ("within_margin", "fail")
    for of_file, of_run in zip(played.measures, results.measures, strict=True):
        assert replace(of_file, difference=of_run.difference) == of_run
        assert of_file.difference.difference == of_run.difference.difference
    assert main(["export", str(out), "--to", "int8"]) == 1, "integers are judged by all that is claimed"
    episodes = json.loads((out / "episodes.json").read_text())
    (out / "episodes.json").write_text(json.dumps(episodes | {"measured": []}))
    with pytest.raises(FileError, match=r"does not hold what .*results\.json says was measured"):
        export_policy(out, "c", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_reason_speaks_of_the_measures_own_values():
    """Where lower is better, its interval is that of the numbers and not of their negatives."""
    (measure,) = of("wrong=mean<=0.05")
    theirs = np.random.default_rng(0).random((60, 1))
    pairs = np.arange(60)
    judged = measures._verdict(measure, theirs[:, 0], theirs[:, 0], pairs, 1.0, 1, "distinct episodes")
    assert re.search(r"were all values equal, the interval would still reach 0\.\d+", judged.reason)


def test_a_measure_that_is_open_is_asked_about_on_other_episodes(tmp_path):
    """With the return's margin and its own, though the return is proven."""
    results = replace(instances.choices([[1]]), measures=compared(sign_network(), "wrong=max<=0.001").measures)
    assert (results.verdict.result, results.worst) == ("pass", "inconclusive")
    tasks = [{"env": {"id": MEASURED}, "teacher": [{"path": "dqn.zip"}]}]
    measures = [to_plain(one) for one in of("wrong=max<=0.001")]
    write_json(tmp_path / "config.json", {"train": {"tasks": tasks}, "comparison": {"measures": measures}})
    (_, words), (_, watch) = next_steps(results, tmp_path)
    assert (words[0], words[-2:], watch[0]) == ("evaluate", ["--measure", "wrong=max<=0.001"], "watch")


def test_a_measure_that_is_not_understood_is_a_users_mistake(teacher, tmp_path, capsys):
    assert distill_cli(teacher, tmp_path / "run", "--measure", "wrong=often", env=MEASURED) == 2
    assert "'wrong=often'" in capsys.readouterr().err


def test_a_policy_by_itself_is_measured(teacher, capsys):
    """``wrong`` is true of no step of the right policy; the shell's way and Python's are one."""
    asked = ["--measure", "wrong=max", "--measure", "step=sum", "--measure", "third=max", "--episodes", "30"]
    assert main(["evaluate", teacher, "--env", MEASURED, *asked]) == 0
    printed = capsys.readouterr().out
    assert "wrong (max): 0 [0, 0.114]" in printed
    assert "step (sum): 55 [55, 55]" in printed
    assert main(["evaluate", teacher, "--env", MEASURED, *asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measures"]["third (max)"] == {"mean": 7.0, "ci95": [7.0, 7.0], "episodes": 30}


def test_a_policy_is_measured_against_another(teacher, tmp_path, capsys):
    """One that keeps the return and loses a measure is no pass, whoever asks."""
    flawed = tmp_path / "flawed"
    save_network(flawed, sign_network(-1.0), Categorical(Choices((2,))))
    asked = ["--measure", "wrong=max<=0.05", "--measure", "step=sum", "--episodes", "100", "--margin-abs", "20"]
    duel = ["evaluate", str(flawed), "--against", teacher, "--env", MEASURED, *asked]
    assert main(duel) == 1
    printed = " ".join(capsys.readouterr().err.split())
    assert "verdict: within margin" in printed
    assert "measured against policy random" in printed
    assert "wrong (max): fail (policy - against +1 " in printed
    assert main([*duel, "--json"]) == 1
    found = read_as(Duel, json.loads(capsys.readouterr().out))
    assert (found.worst, found.holds, found.measured) == ("fail", False, {"wrong (max)": "fail"})
    assert found.measures[1].verdict is None
    assert main(["evaluate", teacher, "--against", teacher, "--env", MEASURED, *asked]) == 0


def test_a_number_close_to_a_thousand_is_written_out():
    assert [rounded(one) for one in (999.4, 999.6, -999.6, 1000.0)] == ["999", "1,000", "-1,000", "1,000"]
