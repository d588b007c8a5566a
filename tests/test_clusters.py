"""Clusters: episodes that belong together, of a patient or a day, are one unit of intervals and verdicts."""

import functools
import json
from dataclasses import replace

import instances
import numpy as np
import pytest
from commands import VERDICTS
from commands import distill as distill_cli
from conftest import make_teacher, sign_network
from test_evaluate import policy_of
from tiny_envs import MEASURED

from distilrl import stats, studies, verify
from distilrl.acceptance import accept
from distilrl.cli import main, parse
from distilrl.comparison import Comparison, compare
from distilrl.envs import describe_env
from distilrl.envs.sync import _number as number_of
from distilrl.episodes import Play
from distilrl.errors import EnvError, SpecError, TeacherError
from distilrl.evaluate import VERDICT_SEEDS, play, seeds_from
from distilrl.measures import Mean, Measure
from distilrl.next_steps import next_steps
from distilrl.plain import read_as
from distilrl.played import SingleReturns, labels_of_all
from distilrl.results import Results
from distilrl.spaces import EnvRef, Unreadable
from distilrl.verdict import HOLDS, MIN_DISTINCT, difference_interval, non_inferiority, verdict_over_seeds

REF = EnvRef(MEASURED)
BY_PATIENT = Play(REF, measures=(Measure("wrong", "max", "lower", 0.2),), cluster="patient")


def judged(cluster, episodes=200, sign=1.0):
    """The sign teacher beside a student that errs now and then, and what it played."""
    info = describe_env(REF)
    teacher, student = make_teacher(sign_network()).fitted(info), policy_of(sign_network(sign))
    student.network.layers[2].bias.data[1] = -0.2
    how = replace(BY_PATIENT, cluster=cluster)
    comparison = Comparison(episodes, episodes, 0, measures=how.measures, cluster=cluster)
    found = compare(teacher, student, how, comparison, instances.acceptance(), info)
    return found, [play(one, how, seeds_from(VERDICT_SEEDS, episodes)) for one in (teacher.policy, student)]


def test_the_environment_says_what_belongs_together():
    """In whatever parts and processes the episodes are played."""
    games = [
        play(policy_of(sign_network()), replace(BY_PATIENT, **how), seeds_from(0, 90))
        for how in ({}, {"at_once": 7}, {"workers": 2})
    ]
    assert len({tuple(one.clusters.tolist()) for one in games}) == 1
    assert games[0].units is games[0].clusters
    assert 20 < len(set(games[0].units.tolist())) < 70
    plain = play(policy_of(sign_network()), replace(BY_PATIENT, cluster=None), seeds_from(0, 90))
    assert plain.clusters is None
    assert len(set(plain.units.tolist())) == len(set(plain.fingerprints.tolist())) == 90
    assert plain.fingerprints.tolist() == games[0].fingerprints.tolist()


def test_a_verdict_counts_clusters():
    found, (theirs, ours) = judged("patient")
    labels, span = ours.clusters, found.verdict.span
    expected = non_inferiority(
        ours.returns, theirs.returns, found.verdict.margin, np.random.default_rng(0), span=span, clusters=labels
    )
    assert found.verdict.interval == expected.interval
    assert found.verdict.distinct == found.student.distinct_episodes == len(set(labels.tolist())) < 70
    assert found.verdict.cluster == found.measures[0].verdict.cluster == "patient"
    assert found.measures[0].verdict.distinct == found.verdict.distinct
    assert len(set(found.episodes.returns.labels(200))) == found.verdict.distinct
    alone, _ = judged(None)
    assert alone.verdict.distinct == 200
    assert alone.verdict.cluster is None
    assert alone.verdict.interval[0] > found.verdict.interval[0], "70 units say less than 200"


def test_few_clusters_give_no_verdict():
    found, _ = judged("patient", episodes=40)
    assert found.verdict.result == "inconclusive"
    assert found.verdict.reason == f"{found.verdict.distinct} clusters by 'patient' are too few: a verdict needs 50"


def test_the_error_where_episodes_of_a_cluster_are_alike():
    """Sixty patients of ten episodes; a patient is lost or is not, and just the margin is lost in the mean."""
    rng, margin, labels = np.random.default_rng(0), 0.1, np.repeat(np.arange(60), 10)

    @functools.cache  # units are of one size, so that nothing is drawn: how many are lost is all that counts
    def holds(count, name):
        lost = -(np.arange(60) < count).repeat(10).astype(np.float64)
        units = labels if name == "clusters" else None
        return non_inferiority(lost, np.zeros(600), margin, rng, span=1.0, clusters=units).result in HOLDS

    passes = {"episodes": 0, "clusters": 0}
    for _ in range(300):
        count = int((rng.random(60) < margin).sum())
        for name in passes:
            passes[name] += holds(count, name)
    assert passes["clusters"] <= 15, "2.5 % of 300, and what chance adds in one of a thousand"
    assert passes["episodes"] > 60, "a fifth and more, were they counted as independent"


@pytest.mark.parametrize(
    ("sizes", "lose"),
    [("a tenth ten times as large", "the large"), ("a tenth ten times as large", "any"), ("geometric", "any")],
)
def test_the_error_where_clusters_differ_in_size(sizes, lose):
    """It was up to a third and more where a few large ones hold most of the episodes."""
    rng, margin, count, passes = np.random.default_rng(1), 0.1, 200, 0
    large = np.arange(count) % 10 == 0
    for _ in range(200):
        number = rng.geometric(0.2, count) if sizes == "geometric" else np.where(large, 20, 2)
        share = margin * number.sum() / number[large].sum() if lose == "the large" else margin
        lost = -(rng.random(count) < share * (large | (lose == "any"))).astype(np.float64).repeat(number)
        labels = np.arange(count).repeat(number)
        assert stats.effective(stats.cluster_sums(lost, labels)[1]) >= MIN_DISTINCT
        passes += difference_interval(lost, rng, span=1.0, clusters=labels)[0] > -margin
    assert passes <= 12, "2.5 % of 200, and what chance adds in one of a hundred"


@pytest.mark.parametrize(("count", "percent", "times"), [(200, 2, 15), (150, 3, 10), (100, 5, 5)])
def test_the_error_where_it_is_chance_how_many_clusters_are_large(count, percent, times):
    """And they alone lose. It was up to 20 % of false passes while their number was taken for known."""
    rng, margin, passes = np.random.default_rng(1), 0.1, {"clusters": 0, "repeats": 0}
    mass = percent * times / (percent * times + 100 - percent)
    for _ in range(200):
        large = rng.random(count) < percent / 100
        number = np.where(large, 4 * times, 4)
        lost = -((rng.random(count) < margin / mass) & large).astype(np.float64)
        for name in passes:
            ends = difference_interval(
                lost.repeat(number), rng, span=1.0, clusters=np.arange(count).repeat(number),
                repeats=name == "repeats",
            )  # fmt: skip
            passes[name] += ends[0] > -margin
    assert passes["clusters"] <= 12, "2.5 % of 200, and what chance adds in one of a hundred"
    assert passes["repeats"] > 2 * passes["clusters"] + 4, "what the rule for episodes that coincide would let through"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"teacher": (0.0,) * 3}, "3 of the teacher, 2 of the student and 0 labels"),
        ({"pairs": (0, 1, 2)}, "2 of the teacher, 2 of the student and 3 labels"),
        ({"teacher": (), "student": ()}, "0 of the teacher, 0 of the student"),
    ],
)
def test_single_returns_belong_together(told, words):
    """An episodes.json of two runs ended `compare` in an error of ours, or was believed."""
    with pytest.raises(SpecError, match=words):
        SingleReturns(**{"teacher": (0.0, 1.0), "student": (0.0, 1.0)} | told)


def test_a_number_of_a_cluster_is_kept_to_the_last_digit():
    """Patients numbered from 2**56 on fell together without a word."""
    assert number_of("patient", 2**53) == 2.0**53
    with pytest.raises(
        Unreadable, match=r"72057594037927937 as 'patient' of its info, more digits than a number of 64"
    ):
        number_of("patient", 2**56 + 1)


def test_clusters_that_are_few_for_their_sizes_give_no_verdict():
    labels = np.repeat(np.arange(60), [200, *[1] * 59])
    zeros = np.zeros(len(labels))
    found = non_inferiority(zeros, zeros, 0.5, np.random.default_rng(0), span=1.0, clusters=labels)
    assert found.result == "inconclusive"
    assert found.reason == (
        "60 distinct episodes, which count as 2 because some are much larger, are too few: a verdict needs 50"
    )
    assert stats.effective(np.full(7, 3.0)) == 7.0
    low, high = stats.mean_interval((labels == 0) * 1.0, np.random.default_rng(0), clusters=labels)
    assert high - low > 1.0, "one patient is most of it"
    table = np.zeros((5, len(labels)))
    over = verdict_over_seeds(table, 0.5, np.random.default_rng(0), span=1.0, distinct=60, clusters=labels)
    assert over.result == "inconclusive"


@pytest.mark.parametrize(
    ("name", "error"),
    [("found", "In no step of .* of 100 episodes of .*'found'"), ("patiant", "100 of 100 .*'patiant'")],
)
def test_an_episode_of_no_cluster_is_refused(name, error):
    with pytest.raises(EnvError, match=error):
        play(policy_of(sign_network()), Play(REF, cluster=name, at_once=100), seeds_from(0, 100))


def test_a_cluster_is_not_what_a_policy_does():
    with pytest.raises(EnvError, match="'chosen' of the info differs between teacher and student"):
        judged("chosen", sign=-1.0)


def test_a_cluster_has_a_name():
    with pytest.raises(SpecError, match="'cluster'"):
        Play(REF, cluster="")


def test_a_share_of_clusters_is_no_share_of_episodes():
    """Six patients who are all lost or all saved: as uncertain as six draws, and where sizes differ more so."""
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(60), 5)
    lost = np.repeat(np.arange(60) < 6, 5).astype(np.float64)
    found = Mean.of(lost, "max", rng, labels)
    low, high = stats.share_interval(0.1, 60)
    assert found.ci95[0] <= low
    assert found.ci95[1] >= high
    alone = Mean.of(lost, "max", rng, np.arange(300))
    assert alone.ci95 == stats.share_interval(0.1, 300)
    uneven = np.repeat(np.arange(60), [241, *[1] * 59])
    first = Mean.of((uneven == 0).astype(np.float64), "max", rng, uneven)
    assert first.ci95 == (0.0, 1.0), "the one of eight in ten episodes may be drawn twice, or never"


def test_seeds_and_studies_count_clusters():
    runs = [SingleReturns(teacher=(0.0,) * 6, student=(0.0,) * 6, pairs=pairs) for pairs in ((0, 0, 1, 1, 2, 2), ())]
    assert labels_of_all(runs[:1], 6) == [0, 0, 1, 1, 2, 2]
    assert labels_of_all(runs, 4) == [0, 1, 2, 3], "what one run tells apart is apart"
    rng, labels = np.random.default_rng(0), np.repeat(np.arange(60), 10)
    table, beside = (np.tile(rng.normal(size=60).repeat(10), (5, 1)) for _ in range(2))  # seeds that do not differ
    wide, narrow = (
        np.ptp(verdict_over_seeds(table, 1.0, rng, span=3.0, distinct=60, clusters=units).interval)
        for units in (labels, None)
    )
    assert wide > 2 * narrow
    pair = [table], [beside]
    ends = [stats.crossed_difference(*pair, rng, exact=[False], clusters=units)[1] for units in ([labels], None)]
    assert np.ptp(ends[0]) > 2.5 * np.ptp(ends[1])


def test_from_the_command_line_to_the_file_that_ships(teacher, tmp_path, capsys):
    """The run, its report, the card, the file's own verdict and what is proposed speak of the same clusters."""
    out, asked = tmp_path / "run", ["--measure", "wrong=max<=0.9", "--cluster", "patient", "--margin-abs", "9"]
    code = distill_cli(teacher, out, *asked, "--disturbed-episodes", "0", env=MEASURED)
    assert code in VERDICTS
    printed = " ".join(capsys.readouterr().err.split())
    results = read_as(Results, json.loads((out / "results.json").read_text()))
    assert results.verdict.cluster == "patient"
    assert 50 <= results.verdict.distinct <= 70
    units = f"{results.verdict.distinct} clusters by 'patient'"
    assert f"played: greedy; units: {units}" in printed
    assert f"at most 0.9 above; units: {units}" in printed
    assert f"{results.verdict.distinct} clusters by patient" in (out / "report.html").read_text(encoding="utf-8")
    assert main(["export", str(out), "--to", "onnx"]) == 0
    shipped = verify(out / "export" / "onnx")
    assert shipped.verdict.cluster == "patient"
    assert shipped.verdict.interval == results.verdict.interval
    assert shipped.distinct_episodes == results.verdict.distinct
    for result in ("inconclusive", "fail"):
        (_, words), _ = next_steps(replace(results, verdict=replace(results.verdict, result=result)), out)
        assert words[words.index("--cluster") + 1] == "patient"
        parse(words[0], [str(word) for word in words[1:]])


@pytest.mark.parametrize("command", ["plan", "tree"])
def test_a_search_counts_clusters_too(command, teacher, tmp_path):
    words = ["--teacher", teacher, "--env", MEASURED, "--out", str(tmp_path / "out"), "--cluster", "patient"]
    job, _, _ = parse(command, words)._job(command, 0)
    assert job.comparison.cluster == "patient"


def test_of_one_cluster_nothing_follows_and_actions_settle_none():
    teacher = make_teacher(sign_network()).fitted(describe_env(REF))
    with pytest.raises(TeacherError, match=r"episodes of 1 clusters by 'one'"):
        accept(teacher, replace(BY_PATIENT, cluster="one"), episodes=10)
    with pytest.raises(EnvError, match="'chosen' of the info differs between the teacher and random play"):
        accept(teacher, replace(BY_PATIENT, cluster="chosen"), episodes=10)


def test_studies_of_different_units_are_not_compared(teacher, tmp_path):
    for name, more in (("one", ["--cluster", "patient"]), ("other", [])):
        asked = ["--margin-abs", "9", "--disturbed-episodes", "0", "--episodes", "60", "--steps", "1200", *more]
        assert distill_cli(teacher, tmp_path / name, *asked, env=MEASURED) in VERDICTS
    with pytest.raises(SpecError, match="count different units"):
        studies.compare(tmp_path / "one", tmp_path / "other")


def test_a_part_says_whether_its_number_is_a_cluster(tmp_path):
    how = Play(REF, measures=(Measure("patient"),), parts=tmp_path / "parts")
    play(policy_of(sign_network()), how, seeds_from(0, 10))
    again = play(policy_of(sign_network()), replace(how, measures=(), cluster="patient"), seeds_from(0, 10))
    assert again.clusters is not None


def test_a_policy_by_itself_and_beside_another(teacher, capsys):
    asked = ["--env", MEASURED, "--cluster", "patient", "--episodes", "300"]
    assert main(["evaluate", teacher, *asked]) == 0
    assert "clusters)" in capsys.readouterr().out
    assert main(["evaluate", teacher, "--against", teacher, *asked, "--margin", "0.5", "--json"]) == 0
    duel = json.loads(capsys.readouterr().out)
    assert duel["verdict"]["cluster"] == "patient"
    assert duel["verdict"]["distinct"] == duel["policy"]["distinct_episodes"] <= 70
    assert main(["evaluate", teacher, "--env", MEASURED, "--cluster", "patiant", "--episodes", "9"]) == 2
    assert "'patiant'" in capsys.readouterr().err
