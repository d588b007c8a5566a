"""The report: what it shows of each kind of run, and what it lets through of a run's files."""

import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import instances
import pytest
import torch
from conftest import SIGN, sign_network
from instances import choices, difference, results

from distilrl import figures, report
from distilrl.checkpoints import save_network
from distilrl.cli import main
from distilrl.config import TaskFile, TrainConfig
from distilrl.errors import EnvError, FileError
from distilrl.events import Noticed
from distilrl.files import read_json, write_json
from distilrl.heads import Categorical
from distilrl.jobs import Job
from distilrl.metrics import write_metrics
from distilrl.next_steps import next_commands
from distilrl.played import SingleReturns
from distilrl.report import animation, write_report
from distilrl.results import TeacherResults, TeacherTrained
from distilrl.runs import RunFolder
from distilrl.spaces import Choices, EnvRef
from distilrl.summaries import SeedsResults, TasksResults
from distilrl.teachers import TeacherFile
from distilrl.verdict import difference_in_words

PNG = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="


def run_folder(path, found, *disagreements, env=None, teacher=(), kind="run"):
    folder = RunFolder(path)
    path.mkdir(parents=True)
    found = found if isinstance(found, dict) else found.to_json()
    write_json(path / "plan.json" if kind == "plan" else folder.results, found)
    write_json(folder.episodes, instances.episodes(*disagreements).to_json())
    write_json(
        folder.config, {"kind": kind, "train": TrainConfig(tasks=(TaskFile(env or EnvRef(SIGN), teacher),)).to_json()}
    )
    row = {"updates": 1, "score": 0.5, "agreement": 0.5}
    write_metrics(folder.metrics, [row | {"env_steps": n, "train_s": n, "return": n} for n in (1, 2)])
    save_network(folder.student, sign_network(), Categorical(Choices((2,))), env=SIGN)
    return folder


class Links(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name.split(":")[-1] in ("src", "href")]


def page_of(folder):
    return write_report(folder.path).read_text(encoding="utf-8")


def words(page):
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run with real actions."""
    return page_of(run_folder(tmp_path_factory.mktemp("page") / "run", results(), difference()))


def test_real_actions_show_their_errors(page):
    said = words(page)
    assert "Pass. The student keeps the score." in said
    assert "differs from the teacher's by -12.50, 98.3 % interval -45.00 to +15.00; a loss of 620.50" in said
    assert "off by 0.123 half-ranges" in said
    assert "a[0]" in said
    assert "0.250, 50% at a bound" in said
    assert "0.500, " not in said, "nothing is at a bound there"
    assert "a[0] 0.750 -0.250 a[1] -1.000 0.125" in said
    assert "error 1.50 half-ranges" in said
    assert "state: 0.5, -2" in said
    assert "teacher ↓ student →" not in said


@pytest.mark.parametrize(("us", "said"), [(41.0, "as fast"), (20.0, "2.0 times faster"), (80.0, "2.0 times as long")])
def test_how_fast_it_decides_is_said_where_it_differs(tmp_path, us, said):
    one = results()
    one = replace(one, teacher=replace(one.teacher, latency_us=40.0), student=replace(one.student, latency_us=us))
    assert f" {said}" in words(page_of(run_folder(tmp_path / "run", one)))


@pytest.mark.parametrize(("params", "said"), [(500, "2.0 times fewer parameters"), (2000, "2.0 times as many")])
def test_how_large_it_is_is_said_either_way(tmp_path, params, said):
    one = results()
    one = replace(one, teacher=replace(one.teacher, params=1000), student=replace(one.student, params=params))
    assert f"It has {said}" in words(page_of(run_folder(tmp_path / "run", one)))


def test_a_small_margin_is_drawn_as_finely_as_it_is_written():
    found = results()
    found = replace(
        found, verdict=replace(found.verdict, margin=0.0044, difference=-0.0061, interval=(-0.0078, -0.0045))
    )
    drawn = figures.verdicts(found)
    assert any("-0.0061 [-0.0078, -0.0045] at 98.3%, margin 0.0044" in one for one in said(drawn))
    assert "−0.0061" in drawn or "-0.0061 " in drawn


def test_a_tree_has_nodes_and_rounds(tmp_path):
    """It had parameters, so many times fewer than its teacher's weights, and updates."""
    folder = run_folder(tmp_path / "run", results(updates=3))
    write_json(folder.tree, {})
    said = words(page_of(folder))
    assert "It has 100 nodes and" in said
    assert "3 rounds" in said
    assert "times fewer parameters" not in said


@pytest.mark.parametrize(("share", "apart"), [(0.97, True), (0.05, False)])
def test_a_margin_close_to_random_play_is_read_apart_from_it(share, apart):
    found = results()
    margin = share * (found.teacher.return_mean - found.random.return_mean)
    drawn = figures.verdicts(replace(found, verdict=replace(found.verdict, margin=margin)))
    heights = {name: y for y, name in re.findall(r'<text [^>]* y="([^"]*)"[^>]*>(margin|random play)<', drawn)}
    assert (heights["margin"] != heights["random play"]) == apart


def test_names_of_dimensions_are_used(tmp_path):
    page = page_of(run_folder(tmp_path / "run", results(protocol={"actions": ["hip", "knee"]}), difference()))
    assert "hip 0.750 -0.250" in words(page)


def test_of_many_dimensions_and_numbers_the_largest_are_shown(tmp_path):
    found = results()
    dimensions = tuple(replace(instances.DIMENSION, rms=0.01 * n) for n in range(40))
    found = replace(found, agreement=replace(found.agreement, dimensions=dimensions))
    action = (0.0,) * 40
    one = difference(teacher_action=action, student_action=(*action[:-1], 1.0), obs=tuple(range(17)))
    said = words(page_of(run_folder(tmp_path / "run", found, one)))
    assert "10 dimensions with smaller errors are left out" in said
    assert "a[9] " not in said.split("Where they disagree")[0]
    assert "a[39] 0.000 1.000" in said
    assert "28 dimensions with smaller errors" in said
    assert "largest of 17 numbers: [5] 5, " in said.replace("&nbsp;", " ").replace("\xa0", " ")


def test_one_choice_is_a_table_with_names(tmp_path):
    found = choices([[90, 10], [0, 0]], protocol={"actions": ["LEFT", "RIGHT"]})
    one = difference(teacher_action=(1,), student_action=(0,), stakes=0.25, image=PNG, obs=None)
    page = page_of(run_folder(tmp_path / "run", found, one))
    assert "teacher ↓ student → LEFT RIGHT LEFT 90 10 RIGHT 0 0" in words(page)
    assert "the two do the same in 95.0 % of the states that the student visits" in words(page)
    assert "each state counted alike, in 90.0 % and 90.0 %." in words(page)
    assert "teacher student RIGHT LEFT the teacher's values differ by 0.25" in words(page)
    assert PNG in Links(page).links
    assert "half-ranges" not in page


def test_several_choices_are_a_table_each_up_to_four(tmp_path):
    wide = [[int(i == j) for j in range(30)] for i in range(30)]
    found = choices([[1, 2], [3, 4]], wide, *[[[1]]] * 4)
    one = difference(teacher_action=(0, 29, 0, 0, 0, 0), student_action=(0, 3, 0, 0, 0, 0))
    said = words(page_of(run_folder(tmp_path / "run", found, one)))
    assert "the two choose alike in 95.0 %" in said
    assert [f"Choice {i}" in said for i in range(6)] == [True] * 4 + [False] * 2
    assert "30 choices are too many for a table; both pick the same in 100.0 % of the states" in said
    assert "The tables of 2 more choices are in results.json" in said
    assert "choice 1 29 3" in said


def test_a_choice_among_hundreds_has_names_and_no_table(tmp_path):
    head = Categorical(Choices((300,), (5,)))
    tables = head.side_by_side(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1, dtype=torch.int64))["tables"]
    assert tables == [[]]
    found = choices([], action=head.to_json())
    said = words(page_of(run_folder(tmp_path / "run", found, difference(teacher_action=(299,), student_action=(0,)))))
    assert "the two do the same in 95.0 %" in said
    assert "too many for a table" not in said
    assert "teacher student 304 5" in said


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_a_folder_whose_name_is_no_text_has_its_report(tmp_path):
    assert "dir" in page_of(run_folder(tmp_path / os.fsdecode(b"dir\xff"), results()))


def test_choices_have_the_numbers_of_the_environment(tmp_path):
    found = choices([[90, 10], [0, 0]], action=Categorical(Choices((2,), (5,))).to_json())
    page = page_of(run_folder(tmp_path / "one", found, difference(teacher_action=(1,), student_action=(0,))))
    assert "teacher ↓ student → 5 6 5 90 10 6 0 0" in words(page)
    assert "teacher student 6 5" in words(page)
    found = choices([[1, 2], [3, 4]], [[1]], action=Categorical(Choices((2, 1), (5, -1), "MultiDiscrete")).to_json())
    said = words(page_of(run_folder(tmp_path / "two", found, difference(teacher_action=(0, 0), student_action=(1, 0)))))
    assert "teacher ↓ student → -1 -1 1" in said
    assert "choice 0 5 6" in said


NO_PICTURES = (
    "javascript:alert(1)",
    "https://example.org/a.png",
    "data:image/svg+xml;base64,AAAA",
    "data:text/html,x",
    f"{PNG}\n",
    "//a/b",
    "HTTPS://EXAMPLE.ORG/A.PNG",
    " https://example.org/a.png",
    f"{PNG}, https://example.org/a.png 2x",
    f'{PNG}" srcset="https://example.org/a.png',
)


def test_only_pictures_are_let_through(tmp_path):
    wrong = [difference(teacher_action=(0,), student_action=(0,), image=image) for image in NO_PICTURES]
    page = page_of(run_folder(tmp_path / "run", choices([[1]]), *wrong))
    assert words(page).count("the teacher's values differ by") == len(NO_PICTURES)
    assert "img" not in Links(page).tags
    assert "example.org" not in page.lower()


def test_nothing_in_a_report_is_loaded_from_elsewhere(tmp_path):
    """Wherever a file of the run may name an address, none comes to where a browser would follow it unasked."""
    away = "https://example.org/a.png"
    found = results(env=away, recipe=away, stopped=away, disturbed={away: results().disturbed["noise_0.1"]})
    one = difference(image=PNG)
    folder = run_folder(tmp_path / "run", found, one, replace(one, image=away))
    page = page_of(folder)
    links = Links(page)
    assert links.tags.count("img") == 1 + page.count('class="play"')
    assert PNG in links.links
    assert all(re.match(r"#|data:image/(png|webp);base64,", link) for link in links.links)
    assert not {"script", "iframe", "link", "object", "embed", "video", "source", "base"} & set(links.tags)
    assert not re.search(r"url\(\s*['\"]?(?!data:|#)|@import|srcset|http-equiv", page)


def test_names_from_files_stay_text(tmp_path):
    bad = "<script>alert(1)</script><img src=x onerror=alert(1)>$\\frac{1}$"
    found = results(
        env=bad,
        recipe=bad,
        stopped=bad,
        protocol={"actions": [bad, bad]},
        disturbed={bad: results().disturbed["noise_0.1"]},
    )
    folder = run_folder(tmp_path / "run", found, difference())
    write_json(folder.teacher, {"meta": {"note": bad}})
    page = page_of(folder)
    assert "The teacher's file: &lt;script&gt;alert(1)" in page
    assert not {"script", "img", "iframe"} & set(Links(page).tags)
    assert all(re.match(r"#|data:image/(png|webp);base64,", link) for link in Links(page).links)


def test_links_stay_within_the_folder(tmp_path):
    names = ("A-v0", "../..", "..", "javascript:alert(1)", 'B-v0 {"n": 1}')
    found = TasksResults.of([results(env=env) for env in names], 9)
    page = page_of(run_folder(tmp_path / "run", found))
    own = {
        "./A-v0/report.html",
        "./..-../report.html",
        "./--/report.html",
        "./javascript-alert%281%29/report.html",
        "./B-v0%20%7B-n--%201%7D/report.html",
    }
    assert {link for link in Links(page).links if not link.startswith("#")} == own


def test_a_module_that_a_file_names_is_not_imported(tmp_path):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        page = page_of(run_folder(tmp_path / "run", results(), env=EnvRef("evil_module:Evil-v0")))
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module" not in sys.modules
    assert "No animation: A file says that" in words(page)


@pytest.fixture
def named_elsewhere(tmp_path, monkeypatch):
    """A run folder whose teacher lies in a repository, and nothing that would ask for it."""
    pytest.importorskip("huggingface_hub", reason="needs the extra hub")

    def online(*_given, **_named):
        raise AssertionError

    monkeypatch.setattr("socket.getaddrinfo", online)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", online)
    folder = run_folder(tmp_path / "run", results())
    data = read_json(folder.config)
    data["train"]["tasks"][0]["teacher"] = [{"path": "hf://nobody/nothing"}]
    write_json(folder.config, data)
    return folder


def test_a_report_does_not_go_online(named_elsewhere):
    """A folder may name whatever repository it likes as its teacher."""
    assert "No animation: hf://nobody/nothing cannot be had from the Hub" in words(page_of(named_elsewhere))


def test_why_there_is_no_animation(tmp_path):
    page = page_of(run_folder(tmp_path / "drawn", results()))
    assert f"No animation: &#39;{SIGN}&#39; cannot draw itself" in page
    assert "the same episode, step by step" in words(page)
    assert "return so far" in page
    gone = run_folder(tmp_path / "gone", results(), teacher=(TeacherFile(str(tmp_path / "gone.zip")),))
    assert "gone.zip does not exist" in words(page_of(gone))
    with pytest.raises(EnvError, match="cannot draw itself"):
        animation(RunFolder(tmp_path / "drawn"))


def test_plan_seeds_and_a_teachers_training(tmp_path):
    found = instances.plan_results(
        instances.plan_row(of_return=instances.VERDICT), instances.plan_row(student="mlp:9", verdict=None)
    )
    plan = run_folder(tmp_path / "plan", found, kind="plan")
    assert "The smallest student within the margin is mlp:8." in words(page_of(plan))
    assert f"pass {difference_in_words(instances.VERDICT)}" in words(page_of(plan)), "by how much, beside the word"
    found = SeedsResults.of(
        [results(seed=n) for n in (0, 1)], [SingleReturns(teacher=(10.0,) * 60, student=(9.9,) * 60)] * 2, 60
    )
    seeds = run_folder(tmp_path / "seeds", found, kind="seeds")
    assert "2 students from as many training seeds" in words(page_of(seeds))
    made = TeacherTrained(**vars(instances.RETURNS), name="mlp:8", params=100, bytes=400, macs=100)
    trained = TeacherResults(
        env="Mine-v0",
        seed=0,
        recipe="dqn",
        env_steps=2,
        updates=1,
        train_s=1.0,
        stopped="budget used",
        student=made,
        provenance=instances.PROVENANCE,
    )
    page = page_of(run_folder(tmp_path / "teacher", trained, kind="teacher"))
    assert "distilrl train-teacher --config" in page
    assert "agreement" not in page.split("Configuration")[0]


def test_charts_take_the_colours_of_the_page(page):
    assert "prefers-color-scheme: dark" in page
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "var(--student)" in drawn
    assert not [color for color in figures.VARIABLES if color in drawn]
    for variable in figures.VARIABLES.values():
        assert len(re.findall(rf"{variable}: #", page)) == 2, f"{variable} has a colour in light and one in dark"


def test_checks_without_agreement_are_left_out():
    rows = [{"env_steps": n, "train_s": n, "return": n, "agreement": float("nan")} for n in (1.0, 2.0)]
    assert len(figures.curves(rows, results())) == 1
    assert len(figures.curves([rows[0] | {"agreement": 0.5}, *rows], results())) == 2


def test_the_verdict_is_drawn_with_teacher_margin_and_random_play_on_one_axis(page):
    chart = next(svg for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if "random play" in svg)
    found = results()
    for text in ("teacher", "margin", found.verdict.protocol, f"{found.verdict.difference:+,.2f} "):
        assert text in chart
    for way in found.disturbed.values():
        assert way.verdict.protocol in chart


def said(chart):
    """What a chart says where the pointer rests on it."""
    return [one.text for one in ElementTree.fromstring(chart).iterfind(".//{http://www.w3.org/2000/svg}title")]


def test_charts_say_their_numbers_where_the_pointer_rests():
    found, hostile = results(), '"><script>a & b'
    rows = [{"env_steps": 1200.0, "train_s": 3.5, "return": 9.25, "score": 0.9, "agreement": 0.5}]
    curve, agreed = figures.curves(rows, found)
    assert said(curve) == ["1,200 steps, 3.5 s: return 9.25, score 0.900"]
    assert said(agreed) == ["1,200 steps: agreement 0.500"]
    named = replace(found, verdict=replace(found.verdict, protocol=hostile))
    chart = figures.verdicts(named)
    assert {words.rpartition(": ")[0].partition(" [")[0] for words in said(chart)} == {
        f"{one.protocol}: {one.difference:+,.2f}"
        for one in (named.verdict, *(w.verdict for w in found.disturbed.values()))
    }
    assert "<script>" not in chart
    spread = said(figures.distribution(SingleReturns(teacher=(0.0, 9.0), student=(0.0, 0.0))))
    assert [words.partition(", ")[2] for words in spread] == [
        "episodes: teacher 1, student 2",
        "episodes: teacher 1, student 0",
    ]
    (row,) = said(figures.frontier(instances.plan_results(instances.plan_row(student="mlp:16"))))
    assert row.startswith("mlp:16: ")
    seeds = SeedsResults.of(
        [results(seed=n) for n in (0, 1)], [SingleReturns(teacher=(10.0,) * 60, student=(9.9,) * 60)] * 2, 60
    )
    assert [words.partition(":")[0] for words in said(figures.seeds(seeds))] == ["seed 0", "seed 1", "2 seeds"]
    errors = said(figures.errors(found.agreement.dimensions, [hostile] * len(found.agreement.dimensions)))
    assert errors[0].startswith(f"{hostile}: root mean square ")


@pytest.mark.parametrize("ours", [(5.0, 5.0), (0.0, 9.0), (0.0, 0.0)])
def test_returns_that_do_not_differ_are_drawn_too(ours):
    drawn = figures.distribution(SingleReturns(teacher=(5.0, 5.0) if any(ours) else ours, student=ours))
    assert "return of an episode" in drawn


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: found.pop("agreement"),
        lambda found: found["verdict"].pop("interval"),
        lambda found: found["student"].update(params="many"),
        lambda found: found["student"].update(params=0),
        lambda found: found["teacher"].update(params=10**400),
        lambda found: found["teacher"].update(return_ci95=[1.0]),
        lambda found: found.update(protocol=None),
        lambda found: found["agreement"].update(dimensions=[{}]),
        lambda found: found.update(more=1),
    ],
)
def test_a_damaged_run_is_one_sentence(tmp_path, damage):
    found = results().to_json()
    damage(found)
    folder = run_folder(tmp_path / "run", found)
    with pytest.raises(FileError, match=r"results\.json or a file beside it is damaged \(.*\): take a copy"):
        write_report(folder.path)
    assert not folder.report.exists()


def test_a_damaged_config_beside_results_is_one_sentence(tmp_path):
    folder = run_folder(tmp_path / "run", results())
    write_json(folder.config, folder.read_config() | {"given": "x"})
    with pytest.raises(FileError, match="or a file beside it is damaged"):
        write_report(folder.path)


def test_a_folder_without_a_run_is_one_sentence(tmp_path):
    with pytest.raises(FileError, match="holds no run: give a folder"):
        write_report(tmp_path)


def test_a_path_with_spaces_is_quoted(tmp_path):
    page = page_of(run_folder(tmp_path / "my run", results(), teacher=(TeacherFile("teacher.zip"),)))
    assert re.search(r"--config &#39;[^&]*my run/config\.json&#39; --out", page)


def test_it_says_what_the_student_does_not_see_and_where_it_was_judged(tmp_path, page):
    found = results()
    student = replace(found.student, spec=found.student.spec | {"unseen": [3, 5]})
    elsewhere = EnvRef("my_package:MyEnv-v0", {"members": [100, 200]})
    found = replace(found, student=student, verdict_environment=elsewhere.to_json())
    said = words(page_of(run_folder(tmp_path / "run", found, difference())))
    assert "It does not see numbers 3, 5 of its teacher's observation." in said
    assert "All of this was played in my_package:MyEnv-v0" in said
    assert "where training never was" in said
    assert "does not see" not in words(page)


def test_checks_stand_beside_no_return_of_another_environment():
    """A teacher that is judged elsewhere was drawn as a line above or below whom it taught."""
    rows = [{"env_steps": 100.0, "train_s": 1.0, "return": 5.0, "score": 0.5}]
    here = figures._return_curve(rows, results())
    there = figures._return_curve(rows, replace(results(), verdict_environment={"id": "Other-v0"}))
    assert here.count("stroke-dasharray") == there.count("stroke-dasharray") + 2


def test_what_to_do_next_stands_in_the_page(tmp_path):
    folder = run_folder(tmp_path / "run", choices([[90, 10], [0, 0]]))
    page = words(page_of(folder))
    assert f"What to do next Teacher and student side by side: distilrl watch {folder.path}" in page


def test_ways_of_playing_are_told_apart_where_there_is_little_room():
    """Of a student with sensors two of them had one name, and what differed was cut off."""
    late = "observations 1 step late"
    named = figures._apart([late, f"random actions (0.01), {late}", f"noisy observations (0.005 to 0.06), {late}"])
    assert named == ["undisturbed", "random actions (0.01)", "noisy observations\n(0.005 to 0.06)"]
    assert figures._apart(["greedy"]) == ["greedy"]


def test_a_plan_that_asked_twice_is_made_again_with_both_questions(tmp_path):
    config = TrainConfig(tasks=(TaskFile(EnvRef("CartPole-v1"), (TeacherFile("teacher.zip"),)),))
    write_json(tmp_path / "config.json", Job(config).to_json() | {"kind": "plan"})
    found = instances.plan_results(instances.plan_row(), asked=(300, 1200))
    first, second = report.again(RunFolder(tmp_path), found).splitlines()
    assert first.startswith("distilrl plan --config ")
    assert second == "distilrl plan --resume NEW_FOLDER --episodes 400"
    asked = report.again(RunFolder(tmp_path), replace(found, asked=(300, 400))).splitlines()
    assert asked[1:] == ["# then from Python: resume distilrl.plan in NEW_FOLDER with Comparison(max_episodes=400)"]
    # its winner is made again with the whole
    write_json(tmp_path / "plan.json", found.to_json())
    write_json(tmp_path / "winner" / "config.json", Job(config).to_json() | {"kind": "winner"})
    assert report.again(RunFolder(tmp_path / "winner"), instances.choices([[1]])) == f"{first}\n{second}"


def test_what_a_function_made_is_done_again_from_python(tmp_path):
    """Commands named it as an environment, which none is."""
    config = TrainConfig(tasks=(TaskFile(EnvRef("make_env"), (TeacherFile("teacher.zip"),)),))
    write_json(tmp_path / "config.json", Job(config).to_json() | {"kind": "run"})
    found = instances.choices([[1]])
    told = report.again(RunFolder(tmp_path), found)
    assert told.startswith("# the environment was made by a function: call distilrl.distill with it")
    assert next_commands(found, tmp_path) == []


def test_where_a_verdict_was_taken_is_told_apart_from_training():
    same, wrapped = {"id": "Mine-v0"}, {"id": "Mine-v0", "wrappers": ["mine:Slow"]}
    found = instances.choices([[1]], environment=same)
    assert report._elsewhere(found) == ""
    assert report._elsewhere(replace(found, verdict_environment={"id": "Other-v0"})) == "Other-v0"
    assert report._elsewhere(replace(found, verdict_environment=wrapped)) == "Mine-v0 with other things around it"


def test_errors_of_actions_without_bounds_are_in_their_own_units():
    real = {"kind": "mean", "action": {"low": [-1.0], "high": [1.0]}}
    found = instances.choices([[1]], action=real)
    assert report._unit(found) == "half-ranges"
    found = replace(found, action=real | {"action": {"low": [None], "high": [1.0]}})
    assert "units of its own" in report._unit(found)


def test_a_choice_keeps_its_number_where_another_has_no_table(tmp_path):
    """Of a choice among hundreds there is none, and those behind it took its number."""
    found = choices([], [[1, 2], [3, 4]], [[1]])
    said = words(page_of(run_folder(tmp_path / "run", found)))
    assert [f"Choice {i}" in said for i in range(3)] == [False, True, True]


def test_watching_a_folder_of_somebody_elses_does_not_go_online(named_elsewhere, capsys):
    assert main(["watch", str(named_elsewhere.path)]) == 2
    assert "hf://nobody/nothing cannot be had from the Hub" in " ".join(capsys.readouterr().err.split())


def test_a_report_that_shows_no_episode_says_so(tmp_path):
    heard = []
    folder = run_folder(tmp_path / "run", results(), env=EnvRef("not_there:Mine-v0"))
    write_report(folder.path, watch=heard.append)
    assert any(isinstance(one, Noticed) and one.words.startswith("The report has no animation: ") for one in heard)


def test_parameters_of_teachers_that_are_not_all_known_are_at_least_so_many(tmp_path):
    one, other = results(env="one"), results(env="other")
    for params, said in ((other.teacher.params, False), (None, True)):
        both = TasksResults.of([one, replace(other, teacher=replace(other.teacher, params=params))], 9)
        page = words(page_of(run_folder(tmp_path / f"run {said}", both)))
        assert ("whose teachers have at least" in page) == said


def test_a_chart_is_told_to_whom_a_screen_is_read_to():
    named = replace(results().verdict, protocol='<"sticky"> & noisy')
    drawn = ElementTree.fromstring(figures.verdicts(replace(results(), verdict=named)))
    assert drawn.get("role") == "img"
    told = drawn.get("aria-label")
    assert told.startswith("student's return − teacher's; ")
    assert '<"sticky"> & noisy: ' in told
    rows = [{"env_steps": 10.0 * n, "train_s": 1.0, "return": float(n), "agreement": 0.5} for n in range(50)]
    curve, agreed = (ElementTree.fromstring(one).get("aria-label") for one in figures.curves(rows, results()))
    assert curve.startswith("return at checks against environment steps; 0 steps, 1.0 s: return 0.00; ")
    assert curve.endswith("; and 10 more")
    assert "agreement 0.500" in agreed
