"""Runs and studies side by side: what the statistics say, and which folders may stand beside each other."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import instances
import numpy as np
import pytest

from distilrl import compare, figures, stats, studies
from distilrl.cli import main
from distilrl.errors import DistilError, FileError, SpecError
from distilrl.files import read_json, write_json
from distilrl.played import SingleReturns
from distilrl.report import write_studies
from distilrl.summaries import SeedsResults

TEACHER = tuple(float(n % 5) + 98.0 for n in range(60))  # mean 100; random play is 0


def run(path, score, *, seed=0, env="Mine-v0", recipe="distil", teacher=TEACHER, episodes=60):
    """A run folder whose student has this score in every episode, as a share of its teacher's return."""
    found = instances.choices([[1]], seed=seed, recipe=recipe, env=env, environment={"id": env})
    found = replace(found, random=replace(found.random, return_mean=0.0), student=replace(found.student, score=score))
    student = tuple(score * one for one in teacher[:episodes])
    write_json(path / "results.json", found.to_json())
    write_json(path / "episodes.json", instances.episodes(teacher=teacher[:episodes], student=student).to_json())
    return found


def study(path, scores, **about):
    """A study over seeds."""
    runs = [run(path / f"seed-{seed}", score, seed=seed, **about) for seed, score in enumerate(scores)]
    returns = [SingleReturns(teacher=TEACHER, student=tuple(score * one for one in TEACHER)) for score in scores]
    write_json(path / "results.json", SeedsResults.of(runs, returns, 60).to_json())


def test_the_statistics_are_those_of_agarwal_et_al():
    rng = np.random.default_rng(0)
    middle, (low, high) = stats.aggregate_iqm([[0.0, 1.0, 2.0, 3.0], [10.0, 1.5, 1.6, -9.0]], rng)
    assert middle == np.mean([1.0, 1.5, 1.6, 2.0])
    assert low < middle < high
    share, (below, above) = stats.performance_profile([[0.0, 1.0], [1.0, 1.0]], [0.5, 1.0], rng)
    assert share.tolist() == [0.75, 0.0]
    assert (below <= share).all()
    assert (share <= above).all()
    better, ends = stats.improvement([[1.0, 2.0], [5.0]], [[1.0, 0.0], [6.0]], rng)
    assert better == pytest.approx(((0.5 + 1 + 1 + 1) / 4 + 0) / 2)
    assert ends is None, "a single run says nothing of others"


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("true", [0.5, 0.9, 0.95])
def test_a_profile_of_few_runs_has_a_band_that_holds_the_truth(runs, true):
    """The bootstrap's had no width where all runs are above a score, and held a share of 0.95 in 15 to 40 %."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        scores = (rng.random(runs) < true).astype(float)
        _, (low, high) = stats.performance_profile([scores], [0.5], rng, resamples=200)
        held += low[0] <= true <= high[0]
    assert held >= 0.9 * 300
    assert stats.performance_profile([[0.9]], [0.5], rng)[1] is None, "a single run says nothing of others"


def test_few_runs_that_are_all_above_leave_a_wide_interval():
    """The lower end is p of (1 - p)² = 1.96² p (1 - p) (1 + 4 ((1 - p)/(2 - p) + p/(1 + p))) / 25 (Newcombe 2006)."""
    rng, best, worst = np.random.default_rng(0), [[2.0, 3.0, 4.0, 5.0, 6.0]], [[1.0, 0.0, 1.5, 0.5, -1.0]]
    above, (low, high) = stats.improvement(best, worst, rng)
    assert (above, high) == (1.0, 1.0)
    assert (1 - low) == pytest.approx(1.96**2 * low * (1 + 4 * ((1 - low) / (2 - low) + low / (1 + low))) / 25)
    below, (least, most) = stats.improvement(worst, best, rng)
    assert (below, least, most) == (0.0, 0.0, pytest.approx(1 - low))
    _, (first, last) = stats.improvement([[2.0, 3.0]] * 4, [[1.0, 2.5]] * 4, rng)
    _, (lower, upper) = stats.improvement([[2.0, 3.0]], [[1.0, 2.5]], rng)
    assert lower < first < 0.75 < last < upper, "four environments say more than one"


@pytest.mark.parametrize("runs", [3, 5])
def test_intervals_of_few_runs_hold_the_truth(runs):
    """A bootstrap alone holds the interquartile mean in 75 and 90 % of them, and the improvement in 57 and 80 %."""
    rng, held = np.random.default_rng(runs), np.zeros(2)
    above = 0.8556  # Φ(0.15 / (0.1 √2))
    for _ in range(300):
        one, other = rng.normal(1.0, 0.1, runs), rng.normal(0.85, 0.1, runs)
        better = stats.improvement([one], [other], rng, 500)[1]
        found = (1.0, stats.aggregate_iqm([one], rng, 500)[1]), (above, better)
        held += [ends[0] <= truth <= ends[1] for truth, ends in found]
    assert held.min() / 300 > 0.92


def test_shared_episodes_make_a_difference_visible():
    rng = np.random.default_rng(0)
    episodes = rng.normal(size=200)
    one, other = (
        episodes + rng.normal(scale=0.01, size=(5, 200)),
        episodes + rng.normal(scale=0.01, size=(5, 200)) - 0.1,
    )
    apart, (low, high) = stats.crossed_difference([one], [other], rng, exact=[False])
    assert apart == pytest.approx(0.1, abs=0.01)
    assert 0.05 < low < high < 0.15
    _, (low, high) = stats.crossed_difference([one], [rng.permuted(other, axis=1)], rng, exact=[False])
    assert low < 0 < high


def test_three_kinds_of_folders_in_one_table(tmp_path):
    study(tmp_path / "good", [0.98, 0.99, 1.0, 0.97, 0.98])
    study(tmp_path / "bad", [0.5, 0.6, 0.55, 0.7, 0.5], recipe="cloning")
    run(tmp_path / "single", 0.9)
    found = compare(tmp_path / "good", tmp_path / "bad", tmp_path / "single")
    good, bad, single = found.rows
    assert (good.name, good.runs, bad.recipe, single.runs) == ("good", 5, "cloning", 1)
    assert good.iqm == pytest.approx(np.mean([0.98, 0.98, 0.99]))
    assert good.iqm_ci95[0] <= good.iqm <= good.iqm_ci95[1]
    assert (single.iqm, single.iqm_ci95) == (pytest.approx(0.9), None), "one run says nothing of others"
    assert [(pair.one, pair.other) for pair in found.pairs] == [("good", "bad"), ("good", "single"), ("bad", "single")]
    assert found.pairs[0].improvement == 1.0
    assert found.pairs[0].difference == pytest.approx(0.984 - 0.57)
    assert found.pairs[0].improvement_ci95 == (pytest.approx(0.643, abs=1e-3), 1.0)
    for pair in found.pairs[1:]:
        assert (pair.improvement_ci95, pair.difference_ci95) == (None, None)
    assert (found.table()[2]["iqm_low"], found.table()[2]["iqm_high"]) == (None, None)
    assert "| bad, single | 0.00 | -0.330 |" in found.to_markdown()
    assert repr(found).splitlines()[0] == "3 studies in Mine-v0"
    assert "<td>good</td><td>5</td><td>0.983</td>" in found._repr_html_()
    assert good.profile[0] == 1.0
    assert good.profile[-1] == 0.0
    assert compare(tmp_path).to_json()["rows"][0]["name"] == "bad", "one folder of several: a row for each"
    assert compare(tmp_path / "good", tmp_path / "bad", tmp_path / "single") == found, "nothing is left to chance"


def test_scores_are_of_the_episodes_that_all_played(tmp_path):
    """Of two students that lose ten everywhere the one that was judged in fewer episodes scored less in every run."""
    teacher = (90.0,) * 20 + (105.0,) * 40
    for name, episodes in (("few", 20), ("many", 60)):
        for seed in range(5):
            path = tmp_path / name / f"seed-{seed}"
            run(path, 0.9, seed=seed)
            lost = tuple(one - 10 for one in teacher[:episodes])
            write_json(path / "episodes.json", instances.episodes(teacher=teacher[:episodes], student=lost).to_json())
    found = compare(tmp_path / "few", tmp_path / "many")
    assert [row.iqm for row in found.rows] == [pytest.approx(80 / 90)] * 2
    assert (found.pairs[0].improvement, found.pairs[0].difference) == (0.5, 0.0)
    assert compare(tmp_path / "many").rows[0].iqm == pytest.approx(90 / 100)


def test_environments_count_alike(tmp_path):
    for name, scores in {"one": (0.9, 0.5), "two": (0.8, 0.7)}.items():
        for env, score in zip(("A-v0", "B-v0"), scores, strict=True):
            study(tmp_path / name / env, [score] * 5, env=env)
    found = compare(tmp_path / "one", tmp_path / "two")
    assert found.envs == ("A-v0", "B-v0")
    assert [row.mean for row in found.rows] == [pytest.approx(0.7), pytest.approx(0.75)]
    assert found.pairs[0].improvement == 0.5
    assert found.pairs[0].difference == pytest.approx(-0.05)


def of_kind(path, kind):
    write_json(path / "config.json", {"kind": kind})


@pytest.mark.parametrize("kind", ["chain", "seeds", "run"])
def test_parts_of_what_is_not_finished_are_no_seeds_of_a_study(tmp_path, kind):
    """A chain's assistants, of several sizes, were."""
    run(tmp_path / "one", 1.0)
    for part, score in (("assistant-1", 1.0), ("assistant-2", 0.5)):
        run(tmp_path / "parts" / part, score)
    of_kind(tmp_path / "parts", kind)
    for given in ([tmp_path / "parts", tmp_path / "one"], [tmp_path / "parts"]):
        with pytest.raises(FileError, match=r"parts has no results\.json yet: continue it with --resume"):
            compare(*given)


def test_a_folder_of_all_kinds_has_a_row_for_each_that_is_finished(tmp_path):
    """A plan was left out, and a teacher beside it refused them all."""
    run(tmp_path / "all" / "run", 0.9)
    run(tmp_path / "all" / "plan" / "winner", 1.0)
    of_kind(tmp_path / "all" / "plan", "plan")
    write_json(tmp_path / "all" / "plan" / "winner" / "student" / "spec.json", {})
    of_kind(tmp_path / "all" / "unfinished", "run")
    of_kind(tmp_path / "all" / "teacher", "teacher")
    write_json(tmp_path / "all" / "teacher" / "results.json", {})
    (tmp_path / "all" / "notes.txt").write_text("of the user")
    assert [(row.name, row.iqm) for row in compare(tmp_path / "all").rows] == [("plan", 1.0), ("run", 0.9)]
    # and where such a folder is a row of its own
    run(tmp_path / "one", 0.5)
    both = compare(tmp_path / "all", tmp_path / "one").rows
    assert [(row.name, row.runs, row.iqm) for row in both] == [("all", 2, 0.95), ("one", 1, 0.5)]


def test_folders_of_one_name_are_told_apart_by_what_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for where in ("long/november/a", "long/november/b", "long/other"):
        run(tmp_path / where / "distil", 1.0)
    found = compare("long/november/a/distil", tmp_path / "long/november/b/distil", "long/other/distil")
    assert [row.name for row in found.rows] == ["november/a/distil", "november/b/distil", "other/distil"]
    with pytest.raises(SpecError, match="named twice"):
        compare("long/other/distil", tmp_path / "long/other/distil")


def test_a_teacher_that_returns_what_random_does_gives_no_score(tmp_path):
    for name in ("a", "b"):
        run(tmp_path / name, 0.9, teacher=(0.0,) * 60)
    with pytest.raises(SpecError, match="has no score: in its first 60 episodes its teacher returns what random"):
        compare(tmp_path / "a", tmp_path / "b")


def test_what_means_different_things_is_not_put_side_by_side(tmp_path):
    run(tmp_path / "a", 0.9)
    run(tmp_path / "b", 0.9, env="B-v0")
    run(tmp_path / "c", 0.9, teacher=tuple(one + 1 for one in TEACHER))
    run(tmp_path / "d", 0.9)
    data = read_json(tmp_path / "d" / "results.json")
    write_json(tmp_path / "d" / "results.json", data | {"protocol": {"epsilon": 0.05}})
    shutil.copytree(tmp_path / "a", tmp_path / "e")
    data = read_json(tmp_path / "e" / "results.json")
    data["student"]["score"] = None
    write_json(tmp_path / "e" / "results.json", data)
    (tmp_path / "empty").mkdir()
    shutil.copytree(tmp_path / "a", tmp_path / "f")
    data = read_json(tmp_path / "f" / "results.json")
    data["random"]["return_mean"] += 1
    write_json(tmp_path / "f" / "results.json", data)
    for name, change in {"g": {"confidence": 1.0}, "h": {"after": 300}}.items():
        shutil.copytree(tmp_path / "a", tmp_path / name)
        data = read_json(tmp_path / name / "results.json")
        data["verdict"] |= change
        write_json(tmp_path / name / "results.json", data)
    for env, seeds in {"A-v0": 2, "B-v0": 3}.items():
        study(tmp_path / "uneven" / env, [0.9] * seeds, env=env)
    shutil.copytree(tmp_path / "uneven", tmp_path / "uneven2")
    for other, words in {
        "b": "Not both of a and b were judged in B-v0, Mine-v0",
        "c": "different teachers in Mine-v0",
        "d": "different rules of play in Mine-v0",
        "e": "has no score",
        "f": "have random play of",
        "g": "were judged on other episodes",
        "h": "were judged on other episodes",
        "a": "named twice",
        "empty": "holds no run",
    }.items():
        with pytest.raises(DistilError, match=words):
            compare(tmp_path / "a", tmp_path / other)
    with pytest.raises(SpecError, match="uneven has 2 runs in one environment and 3 in another"):
        compare(tmp_path / "uneven", tmp_path / "uneven2")
    with pytest.raises(SpecError, match="Nothing to compare"):
        compare()


def test_the_command_writes_a_table_and_a_figure_and_overwrites_none(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    study(tmp_path / "runs" / "good", [0.98, 0.99, 1.0, 0.97, 0.98])
    study(tmp_path / "runs" / "a|bad", [0.5, 0.6, 0.55, 0.7, 0.5])
    out = tmp_path / "out"
    assert main(["compare", str(tmp_path / "runs"), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert " 0.983 [0.9" in said
    assert max(map(len, said.splitlines())) <= 80
    assert (out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "compare.csv").read_text().splitlines()[0].startswith("name,recipe,student")
    assert "a\\|bad" in (out / "compare.md").read_text()
    assert read_json(out / "compare.json")["pairs"][0]["improvement"] == 0.0
    assert main(["compare", str(tmp_path / "runs"), "--out", str(out)]) == 2
    printed = capsys.readouterr()
    assert "already holds" in printed.err
    assert printed.out == "", "refused before the work"
    assert main(["compare", str(tmp_path / "runs" / "good"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["runs"] == 5


def test_more_studies_than_colours_are_drawn(tmp_path):
    for number in range(10):
        run(tmp_path / f"run-{number}", 0.9)
    assert (write_studies(compare(tmp_path), tmp_path / "out") / "compare.png").stat().st_size > 10_000


def test_studies_may_be_named_in_chinese(tmp_path):
    """A font that lacks the characters warned of each; what is warned of here fails."""
    run(tmp_path / "蒸馏", 0.9)
    run(tmp_path / "重放", 0.8)
    assert (write_studies(compare(tmp_path), tmp_path / "out") / "compare.png").stat().st_size > 10_000


def test_who_stops_a_comparison_may_begin_it_again(tmp_path, monkeypatch):
    """Three files of four were left, and the same command was refused."""
    run(tmp_path / "run", 0.9)
    found, honest = compare(tmp_path / "run"), figures.studies
    monkeypatch.setattr(figures, "studies", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_studies(found, tmp_path / "out")
    monkeypatch.setattr(figures, "studies", honest)
    assert write_studies(found, tmp_path / "out").is_dir()


def test_a_data_frame_where_pandas_is(tmp_path):
    pandas = pytest.importorskip("pandas", reason="the extra pandas is not installed")
    study(tmp_path / "a", [0.9] * 5)
    frame = compare(tmp_path / "a").frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[0, "iqm_low"] == pytest.approx(0.9)


def test_a_study_whose_name_begins_with_a_line_stands_in_the_legend(tmp_path):
    """Matplotlib leaves such out, and warns where nothing is left."""
    for name in ("_old", "_new"):
        run(tmp_path / name, 0.9)
    assert write_studies(compare(tmp_path / "_old", tmp_path / "_new"), tmp_path / "out").is_dir()


def test_folders_on_several_drives_are_told_apart(monkeypatch):
    def apart(_paths):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("os.path.commonpath", apart)
    paths = [Path("/c/runs/distil"), Path("/d/runs/distil")]
    assert [studies._apart(path, paths) for path in paths] == list(map(str, paths))
