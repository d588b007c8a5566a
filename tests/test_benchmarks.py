"""The comparison of methods: its statistics by known answers, the choice of settings, and what its tables count."""

import ast
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import field_speed
import fields
import judge
import latency
import method_settings
import method_tables
import methods
import pictures
import result_tables
import tables
from field_rows import Field, Row, by_hand, single_action
from lines import fill, made
from paired import Paired, crossed_interval, holm, pooled, seed_interval, sign_flip, t_test

from distilrl import EnvRef, Measure, Play, Teacher, describe_env, load_teacher, play
from distilrl.export.card import read_card
from distilrl.export.last import last_step
from distilrl.heads import student_head
from distilrl.specs import NetworkSpec
from distilrl.stats import t_tails

ROOT = Path(__file__).parents[1]


def test_what_scripts_import_is_there():
    root = Path(__file__).parents[1]
    for path in (*root.glob("benchmarks/*.py"), *root.glob("zoo/*.py"), *root.glob("examples/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "distilrl":
                exec(ast.unparse(node), {})


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # none but the two patterns of one sign
        ([1.0, 1.0, 1.0, 1.0, -1.0], 12 / 32),  # two sums of 5 and ten of 3
        ([0.5] * 10, 2 / 1024),
        ([-0.5] * 10, 2 / 1024),
        ([1.0, -1.0], 1.0),
        ([0.0] * 12, 1.0),
        ([0.1, 0.2, 0.3, 0.0], 4 / 16),  # what is equal tells nothing
        ([0.3, -0.1, -0.2], 1.0),  # sums that rounding alone makes differ from 0
    ],
)
def test_sign_flip_by_hand(differences, p):
    assert sign_flip(differences) == p


def test_sign_flip_errs_as_often_as_it_says():
    source = np.random.default_rng(3)
    rejected = sum(sign_flip(source.normal(size=8)) <= 0.05 for _ in range(400))
    assert rejected <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


CARDS = sorted(fields.RESULTS.glob("boards/**/export.json"))


@pytest.mark.parametrize("card", CARDS, ids=lambda path: "/".join(path.parts[-5:-1]))
def test_exports_that_are_kept_can_be_verified(card):
    """Those that a page speaks of, by today's reader."""
    assert [found.name for found, _ in read_card(card).reference.measures] == ["fallen"]


@pytest.mark.parametrize("count", [0, 17])
def test_sign_flip_refuses_what_it_cannot_go_through(count):
    with pytest.raises(ValueError, match=f"got {count}"):
        sign_flip([1.0] * count)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # as R's p.adjust
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_groups_of_differences_are_one_question():
    p = pooled([[0.1, 0.2, 0.0], [0.0, -0.1, 0.1]])
    # of 64 patterns of signs, by hand: those whose sum of (±0.1 ± 0.2) + (±0.1 ± 0.1) is at least 0.3 from 0
    signs = [[1 - 2 * (n >> k & 1) for k in range(4)] for n in range(16)]
    exact = np.mean([abs(np.dot(one, (0.1, 0.2, -0.1, 0.1))) >= 0.3 - 1e-9 for one in signs])
    assert p == pytest.approx(exact, abs=0.01)
    assert pooled([[1.0] * 12] * 3) < 2e-5
    assert pooled([[0.0] * 12]) == 1.0


def test_tails_of_students_t_are_those_of_tables():
    assert t_tails(2.2010, 11) == pytest.approx(0.05, abs=1e-4)
    assert t_tails(12.706, 1) == pytest.approx(0.05, abs=1e-4)
    assert t_tails(0.0, 5.5) == pytest.approx(1.0)
    assert t_tails(3.1058, 11) == pytest.approx(0.01, abs=1e-4)


def test_of_one_episode_the_t_test_is_students():
    """[1, 2, 3]: t = 2 √3 with two degrees of freedom; and where episodes are all that there are, of seeds' means."""
    by_seed = np.array([[1.0], [2.0], [3.0]])
    assert t_test([Paired(by_seed, finite=True)]) == pytest.approx(t_tails(2 * np.sqrt(3), 2))
    assert t_test([Paired(by_seed + np.array([[-0.5, 0.5]]), finite=True)]) == pytest.approx(t_tails(2 * np.sqrt(3), 2))
    assert t_test([Paired(np.zeros((4, 5)))]) == 1.0
    assert t_test([Paired(np.full((4, 5), 0.1))]) == 0.0


@pytest.mark.parametrize("deviations", [(0.1, 0.0, 0.1), (0.0, 0.3, 0.1), (0.1, 0.5, 0.5), (0.0, 0.0, 1.0)])
def test_where_episodes_are_common_to_all_seeds_the_t_test_errs_as_often_as_it_says(deviations):
    """Sign flips over seeds alone reject in half of the cases where episodes differ more than seeds do."""
    of_seed, of_episode, rest = deviations
    source, wrong, missed, count = np.random.default_rng(0), 0, 0, 200
    for number in range(count):
        table = source.normal(0, of_seed, (12, 1)) + source.normal(0, of_episode, (1, 100))
        paired = Paired(table + source.normal(0, rest, (12, 100)))
        wrong += t_test([paired]) <= 0.05
        if number % 4 == 0:
            low, high = crossed_interval([paired])
            missed += not low < 0 < high
    assert wrong / count <= 0.08
    assert missed / (count // 4) <= 0.12  # a bootstrap of twelve seeds is narrower than Student's t


def test_twelve_seeds_can_tell_and_ten_hardly():
    """The least p-value of a whole family of methods, which is why there are twelve seeds."""
    tested = len(methods.METHODS) - len({method_tables.DEFAULT, "dqn"})
    assert tested * sign_flip([1.0] * len(methods.SEEDS)) < 0.02
    assert tested * sign_flip([1.0] * 10) > 0.045


def test_intervals_stay_within_what_a_score_can_be():
    low, high = seed_interval([1.0] * 9 + [0.2, 0.1, 1.0])
    assert 0.1 <= low < high <= 1.0
    assert seed_interval([1.0] * 12) == (1.0, 1.0)


def test_which_methods_have_a_temperature():
    without = {method for method in methods.METHODS if not method_settings.has_temperature(method)}
    assert without == {"cloning", "dqfd", "dqn"}
    assert len(method_settings.grid("distil")) == 8
    assert len(method_settings.grid("cloning")) == 4
    assert {share for _, share in method_settings.grid("policy_distillation")} == {None, 0.15, 0.5}


def test_a_setting_of_the_grid_is_in_the_configuration():
    config = method_settings.config_of("policy_distillation", "CartPole-v1", 1e-2, 0.5)
    assert (config.optim.learning_rate, config.optim.entropy_share) == (1e-2, 0.5)
    assert config.terms[0].teacher_temperature is None
    printed = method_settings.config_of("policy_distillation", "CartPole-v1", 1e-2, None)
    assert printed.terms[0].teacher_temperature == 0.01
    own = method_settings.config_of(methods.SHIPPED[0], "CartPole-v1")
    assert own.optim.learning_rate == method_settings.make_config("distil", "CartPole-v1").optim.learning_rate


def _tried(scores):
    return [
        {"method": "distil", "learning_rate": rate, "entropy_share": share, "score": score}
        for (rate, share), score in scores.items()
        for _ in range(6)
    ]


def test_the_best_setting_is_chosen_and_the_recipes_own_among_equals():
    scores = dict.fromkeys(method_settings.grid("distil"), 0.9)
    found = method_settings.chosen("distil", _tried(scores), 6)
    assert (found["learning_rate"], found["entropy_share"]) == (3e-3, 0.15)  # nearest to 5e-3 and 0.15
    found = method_settings.chosen("distil", _tried(scores | {(1e-3, 0.5): 0.905}), 6)
    assert found["learning_rate"] == 3e-3
    found = method_settings.chosen("distil", _tried(scores | {(1e-3, 0.5): 0.92}), 6)
    assert (found["learning_rate"], found["entropy_share"]) == (1e-3, 0.5)
    assert method_settings.chosen("distil", _tried(scores)[:-1], 6) is None


def test_the_grid_goes_on_where_the_choice_lies_at_its_upper_edge(monkeypatch, tmp_path):
    """Of the small student alone the highest rate wins: it alone is tried at one beyond."""

    def tried(folder, env, method, student, seed, learning_rate, entropy_share):
        return {"score": 100 * (learning_rate if student == "mlp:3" else -learning_rate)}

    monkeypatch.setattr(methods, "OUT", tmp_path)
    monkeypatch.setattr(methods, "SETTINGS", tmp_path / "settings.json")
    monkeypatch.setattr(methods, "tried", tried)
    methods.choose(Path(), ["distil"], 1)
    rows = made(tmp_path / "choose.jsonl")
    assert {row["student"] for row in rows if row["learning_rate"] == method_settings.BEYOND} == {"mlp:3"}
    assert len(rows) == (2 * 8 + 2) * 3 * 2  # settings × environments × seeds
    found = json.loads((tmp_path / "settings.json").read_text())
    assert found["small"]["distil"]["learning_rate"] == method_settings.BEYOND
    assert found["comfortable"]["distil"]["learning_rate"] == min(method_settings.RATES)
    methods.choose(Path(), ["distil"], 1)
    assert made(tmp_path / "choose.jsonl") == rows  # nothing is made twice


@pytest.mark.parametrize("path", tables.documents(), ids=lambda path: path.name)
def test_tables_of_the_documents_are_those_of_the_raw_results(path):
    text = path.read_text(encoding="utf-8")
    assert tables.filled(text) == text, "write them anew: python benchmarks/tables.py --write"


@pytest.mark.parametrize("path", tables.documents(), ids=lambda path: path.name)
def test_no_table_of_figures_is_typed_by_hand(path):
    """A column of figures stands to the right, and an interval behind its mean: such a table is made of raw results."""
    text = re.sub(r"<!-- result \S+ -->\n.*?<!-- end -->", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    typed = [line for line in text.splitlines() if line.startswith("|") and re.search(r"-:|\d \[[−-]?\d", line)]
    assert not typed, "put it between <!-- result NAME --> and <!-- end -->: see benchmarks/result_tables.py"


def _run(returns, distinct, **protocol):
    side = {"episodes": len(returns), "distinct_episodes": distinct}
    verdict = {"result": "pass", "margin": 5.0, "margin_share": 0.05, "looks": 3, "confidence": 1 - 0.05 / 3}
    return {
        "student": side, "teacher": side, "verdict": verdict | {"difference": float(np.mean(returns))},
        "protocol": {"epsilon": 0.0, "sticky_actions": 0.0} | protocol,
    }  # fmt: skip


def test_a_run_of_before_is_judged_by_todays_rule(tmp_path):
    """Equal returns are a pass to a bootstrap; today few distinct episodes are none, nor are few whose interval is
    wide.
    """
    for returns, distinct, result in (
        ([0.0] * 100, 29, "inconclusive"),
        ([0.0] * 60, 60, "inconclusive"),
        ([0.0] * 300, 300, "pass"),
    ):
        episodes = {"returns": {"student": returns, "teacher": [0.0] * len(returns)}}
        (tmp_path / "episodes.json").write_text(json.dumps(episodes))
        found = tables.rejudged(_run(returns, distinct), tmp_path)
        assert (found.result, found.distinct, found.confidence) == (result, distinct, pytest.approx(1 - 0.05 / 3))
        assert ("distinct" in found.protocol) == (distinct < len(returns))
    assert tables.rejudged(_run(returns, 300, epsilon=0.01), tmp_path).protocol == "300 episodes, random actions (0.01)"
    with pytest.raises(ValueError, match="which"):
        tables.rejudged(_run(returns, 60), tmp_path)


def test_verdicts_whose_episodes_are_not_there_say_by_which_rule():
    old, new = ({"verdict": {"result": "pass"} | more} for more in ({}, {"protocol": "greedy"}))
    assert result_tables.counted([old, old]) == "2 pass (earlier rule)"
    assert result_tables.counted([new]) == "1 pass"
    worse = {"verdict": {"result": "pass", "interval": [-2.0, -1.0]}}
    assert result_tables.counted([old, worse]) == "1 pass, 1 within margin (earlier rule)"


def _double(seed):
    return {"twice": 2 * seed}


def test_lines_are_made_once_and_lie_beside_what_they_were_made_with(tmp_path):
    path, machine = tmp_path / "new" / "lines.jsonl", tmp_path / "new" / "machine.json"
    for _ in range(2):
        fill(path, _double, [{"seed": 1}, {"seed": 2}])
        assert [row["twice"] for row in made(path)] == [2, 4]
    assert json.loads(machine.read_text())["threads"] == 1
    machine.write_text("{}")
    fill(path, _double, [{"seed": 3}])
    assert machine.read_text() == "{}"


def test_every_table_has_results():
    """A block whose raw results are gone would say so, and be as its script makes it."""
    for page in (*ROOT.glob("*.md"), ROOT / "benchmarks" / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert "\nNot run.\n" not in page.read_text(encoding="utf-8"), page


def test_what_made_results_is_beside_them():
    folders = [one for one in (ROOT / "benchmarks" / "results").iterdir() if one.is_dir()]
    assert folders
    assert not [one.name for one in folders if not (one / "machine.json").is_file()]


def test_tables_do_not_depend_on_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "CartPole" in tables.case_study.table(range(5), ["CartPole-v1"])
    assert "CartPole" in tables.memory.markdown()


@pytest.mark.parametrize("name", judge.RUNS)
def test_students_that_lie_in_the_results_can_be_judged_again(name):
    """A tree of an earlier format could not be read any more, and ended the queue."""
    assert load_teacher(judge.RESULTS / name).params


def test_environments_of_the_choice_are_not_the_tables():
    assert tuple(methods.TABLE) == method_tables.ENVS
    assert not {task.env for task in methods.TABLE.values()} & {task.env for task in methods.TUNING.values()}
    assert not set(methods.TUNING_SEEDS) & set(methods.SEEDS)
    for task in (*methods.TABLE.values(), *methods.TUNING.values()):
        assert tuple(map(method_tables.kind_of, task.students)) == method_tables.KINDS


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """Eight seeds of four methods, of which one is always worse, one equal, and one diverged once."""
    monkeypatch.setattr(method_tables, "OUT", tmp_path)
    monkeypatch.setattr(method_tables, "SEEDS", range(8))
    used = {"learning_rate": 3e-3, "entropy_share": 0.15}
    chosen = {m: used | {"own": used, "tried": [used | {"score": 0.9}]} for m in ("distil", "cloning", "dkd", "dist")}
    (tmp_path / "settings.json").write_text(json.dumps({"comfortable": {}, "small": chosen}))
    rest = {"params": 42, "updates": 9, "agreement": 0.5}
    rows = [
        {
            "method": "teacher",
            "student": "",
            "seed": 0,
            "returns": [10.0] * 4,
            "random": 0.0,
            "margin": 0.5,
            "span": 10.0,
            "steps": 5,
            "noise": 9.0,
        }
    ]
    for seed in range(8):
        at = {"student": "mlp:2", "seed": seed, **used}
        good = {"returns": [10.0, 10.0, 9.0, 9.0], "noise": 8.0, **rest}
        rows += [at | {"method": "distil"} | good, at | {"method": "dkd"} | good]
        rows += [at | {"method": "cloning", **rest, "returns": [5.0, 5.0, 5.0, 5.0 - seed / 100]}]
        rows += [at | {"method": "dist"} | ({"diverged": "NaN"} if seed == 0 else good)]
        rows += [at | {"method": "dist", "learning_rate": 1e-2, **rest, "returns": [0.0] * 4}]  # of a choice given up
    (tmp_path / "CartPole-v1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _forget()
    yield
    _forget()


def _forget():
    for kept in (method_tables.settings, method_tables.runs_of, method_tables.wholes):
        kept.cache_clear()


def test_differences_are_paired_and_corrected(lines):
    runs = method_tables.runs_of("CartPole-v1")
    found = method_tables.differences(runs, "mlp:2")
    assert found["cloning"].p == pytest.approx(3 * 2 / 2**8)
    assert found["cloning"].survives
    assert found["dkd"].p == 1.0
    assert runs.scores("mlp:2", "dist")[0] == 0.0  # diverged: random play
    assert found["dist"].mean == pytest.approx(-0.95 / 8)
    assert not found["dist"].survives
    assert "behind `cloning` (−0.45)" in method_tables.surviving()


def test_the_table_shows_them(lines):
    text = method_tables.methods("CartPole-v1")
    (cloning,) = [line for line in text.splitlines() if "cloning" in line]
    assert "**−0.45 [−0.50, −0.40]**" in cloning
    assert "| 0.003 |" not in cloning
    assert "| 0.023 |" in cloning
    assert text.index("distil]") < text.index("cloning]")
    assert method_tables.methods("Acrobot-v1") == "Not run."
    assert "0.003, 0.15" in method_tables.chosen()


def test_what_all_environments_say_together(lines):
    text = method_tables.overall()
    assert [row.split("]")[0].strip("| [") for row in text.splitlines()[2:]] == ["dkd", "dist", "cloning"]
    (cloning,) = [line for line in text.splitlines() if "cloning" in line]
    assert "**−0.45 [−0.50, −0.40]**" in cloning
    assert "| 0.0" in cloning


def test_the_page_of_a_method_says_what_is_shown_of_it(lines):
    said = method_tables.against_default("cloning")
    assert said.startswith("Difference to the default over all: **−0.45 [−0.50, −0.40]** of the score (corrected p 0.0")
    assert said.endswith("Shown to be ahead: none; behind: CartPole-v1 `mlp:2` (−0.45).")
    assert method_tables.against_default("dkd").endswith("ahead: none; behind: none.")
    assert method_tables.against_default("distil") == method_tables.against_default("dqn") == ""


def test_a_method_is_shown_when_all_of_its_runs_are_there(lines, monkeypatch):
    path = method_tables.OUT / "CartPole-v1.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [row for row in rows if (row["method"], row["seed"]) != ("cloning", 7)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    _forget()
    assert "cloning" not in method_tables.methods("CartPole-v1") + method_tables.overall()
    assert "dist]" in method_tables.methods("CartPole-v1")
    monkeypatch.setattr(method_tables, "SEEDS", range(9))
    _forget()
    assert method_tables.methods("CartPole-v1") == "Not run."
    assert method_tables.surviving() == method_tables.overall() == "Not run."


def _fields_line(student, seed, params, result, *, measures=()):
    verdict = {"result": result, "margin": 1.0, "difference": -0.25, "interval": [-0.5, 0.0]}
    verdict |= {"span": 30.0, "confidence": 0.95}
    side = {"return_mean": 9.5, "params": params, "bytes": 4 * params, "name": student, "episodes": 100}
    results = {
        "teacher": {"return_mean": 10.0, "params": 1000, "bytes": 4000}, "random": {"return_mean": 1.0},
        "student": side, "verdict": verdict, "measures": list(measures),
        "provenance": {"date": "2026-11-30T00:00:00"},
    }  # fmt: skip
    return {"row": "Task", "student": student, "seed": seed, "exports": {"c": 3 * params}, "results": results}


@pytest.fixture
def a_field(tmp_path, monkeypatch):
    """A field of one environment; gives what writes its lines."""
    row = Row(
        "CartPole-v1", "teacher", ("mlp:8", "mlp:4", "tree:8"), rules={"lean": by_hand(lambda obs, rng: obs[2] > 0)}
    )
    monkeypatch.setattr(fields, "OUT", tmp_path)
    monkeypatch.setattr(fields, "field", lambda name: Field("A field", "", "page.md", "extra", {"Task": row}))
    return lambda rows: (tmp_path / "driving.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))


def test_the_smallest_that_passes_with_every_seed_is_shown(a_field):
    lines = [_fields_line("mlp:8", seed, 50, "pass") for seed in range(2)]
    lines += [_fields_line("mlp:4", seed, 20, result) for seed, result in enumerate(("pass", "fail"))]
    a_field([*lines, {"row": "Task", "student": "rule: lean", "seed": 0, "return_mean": 4.0}])
    speed = {"field": "driving", "row": "Task", "student_c_us": 0.1234, "teacher_pytorch_us": 30.2}
    (fields.OUT / "speed.jsonl").write_text(
        "".join(
            json.dumps(speed | one) + "\n" for one in ({"student": "mlp:4", "student_c_us": 9}, {"student": "mlp:8"})
        )
    )
    ((task, params, returned, rules, student, size, octets, microseconds, *_, times),) = fields.table("driving")
    assert (task, params, returned, rules) == ("Task", "1,000", "10.00", "random 1.000; lean 4.000")
    assert (student, size, octets, times) == ("`mlp:8`", "50", "150", "20")
    assert microseconds == "0.12 (30)"
    found = fields.found("driving")["Task"]
    assert found.held
    assert found.unlearnt == ("lean", 4.0)


def test_several_training_seeds_are_told_as_such(a_field, monkeypatch):
    lines = [_fields_line("mlp:8", seed, 50, result) for seed, result in enumerate(("pass", "within_margin", "pass"))]
    lines[0]["results"]["student"]["return_mean"] = 8.0
    a_field(lines)
    assert fields.found("driving")["Task"].returned == 9.0
    monkeypatch.setattr(fields, "fields", lambda: {"driving": fields.field("driving")})
    assert "| `mlp:8` | 2 × pass, 1 × within margin | 9.000 (10.00) |" in tables.fields_in_full()
    assert "| Task (20 ×) | none | none |" in tables.of_fields()
    assert fields.listed()[0]["return"] == 9.0


def test_verdicts_of_the_earlier_rule_are_marked(a_field, monkeypatch):
    """Each by itself, unless a later one shows that the rules agree there; what is exact reckons with nothing."""
    lines = [_fields_line("mlp:8", seed, 50, "pass") for seed in range(3)]
    for line in lines[:2]:
        line["results"]["provenance"]["date"] = "2026-11-26T07:43:02"
    lines[1]["results"]["verdict"]["confidence"] = 1.0
    lines[0]["results"]["teacher"]["return_mean"] = 13.0
    a_field(lines)
    monkeypatch.setattr(fields, "fields", lambda: {"driving": fields.field("driving")})
    shown = "| `mlp:8` | 1 × pass†, 2 × pass | 9.500 (11.00) |"
    assert shown in tables.fields_in_full(), "beside the teacher of all three"
    assert fields.NOTES[0] in tables.fields_in_full()
    assert fields.NOTES[1] in fields.markdown("driving.zh-CN")
    lines[2]["results"]["verdict"]["span"] = 20.0
    a_field(lines)
    assert "†" not in tables.fields_in_full()


def test_a_rule_is_measured_as_students_are(a_field, monkeypatch):
    from tiny_envs import MEASURED

    def rule(ref, seeds):
        policy = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long()).fitted(describe_env(ref)).policy
        return play(policy, Play(ref, measures=(Measure("step", "max"),)), seeds)

    one = Row(MEASURED, "teacher", ("mlp:8",), rules={"sign": rule})
    monkeypatch.setattr(fields, "field", lambda name: Field("A field", "", "page.md", "extra", {"Task": one}))
    line = _fields_line("mlp:8", 0, 50, "pass", measures=[{"name": "step", "how": "max"}])
    line["results"]["environment"] = EnvRef(MEASURED).to_json()
    line["results"]["teacher"]["episodes"] = 20
    a_field([line])
    found = fields.line("driving", "Task", "rule: sign", 0)
    assert found["episodes"] == found["measured"]["step"]["episodes"] == 20


def test_a_tree_is_compared_in_bytes(a_field):
    a_field([_fields_line("mlp:8", 0, 50, "pass"), _fields_line("tree:8", 0, 15, "within_margin")])
    ((*_, student, size, _, microseconds, _, _, verdicts, times),) = fields.table("driving")
    assert microseconds == "-"
    assert (student, size, verdicts, times) == ("`tree:8`", "15 nodes", "1 × within margin", "67")  # 4,000 of 60 bytes
    ((*_, size, _, _, _, _, verdicts, _),) = fields.table("driving", chinese=True)
    assert (size, verdicts) == ("15 个节点", "1 × 差，但在余量内")


def test_what_is_measured_beside_the_return_counts_too(a_field):
    measure = {"name": "crashed", "how": "max", "teacher": {"mean": 0.1}, "student": {"mean": 0.3}, "random": None}
    verdict = {"result": "fail", "margin": 0.05, "difference": 0.2, "interval": [0.1, 0.3]}
    a_field([_fields_line("mlp:8", 0, 50, "pass", measures=[measure | {"verdict": verdict}])])
    assert not fields.found("driving")["Task"].held
    task, crashed = fields.table("driving")
    assert task[4] == "`mlp:8` (none; the nearest)"
    assert crashed[0] == "crashed (max)"
    assert crashed[9:11] == ["+0.200 [+0.100, +0.300] of 0.050", "1 × fail"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a compiler of C")
@pytest.mark.parametrize("student", ["mlp:3", "gru:3", "tree:4"])
def test_what_ships_is_timed(tmp_path, student):
    info = describe_env("CartPole-v1")
    spec = None if fields.is_tree(student) else replace(NetworkSpec.parse(student, (4,), 2), unseen=(1, 3)).to_json()
    shown = {"name": student, "params": 7, "spec": spec}
    policy = field_speed.written(tmp_path, shown, info, student_head(info.action))
    assert f"POLICY_OBS_SIZE {2 if spec else 4}" in (tmp_path / "policy.h").read_text()
    in_c = latency.timer_in_c(tmp_path, last_step(policy.head), False, 10, policy.remembers, tmp_path / "timer")
    assert in_c() > 0


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a compiler of C")
def test_a_field_is_timed_beside_its_teacher(monkeypatch):
    """The script called the timer as it had been before."""
    pytest.importorskip("lettuce_greenhouse_gym", reason="lettuce-greenhouse-gym is not installed")
    monkeypatch.setattr(field_speed, "ROUNDS", 1)
    assert all(us > 0 for us in field_speed.line("environment", "Sensor-v0", "").values())


def test_a_rule_plays_on_seeds_of_its_own_making():
    lean = by_hand(lambda obs, rng: obs[2] > 0)
    found = lean(EnvRef("CartPole-v1"), [5, 6])
    assert found.tolist() == lean(EnvRef("CartPole-v1"), [5, 6]).tolist()
    assert 20 < found[0] != found[1] < 100


def test_a_field_has_one_name():
    root = Path(__file__).parents[1]
    for about in fields.fields().values():
        assert about.title == about.title.lower()
        pages = {about.page: about.title.capitalize(), about.page.replace(".md", ".zh-CN.md"): about.title_zh}
        for page, title in pages.items():
            assert (root / page).read_text(encoding="utf-8").startswith(f"# {title}")


def test_what_the_command_lists_is_of_the_raw_results():
    assert json.loads(tables.FIELDS.read_text()) == fields.listed(), (
        "write it anew: python benchmarks/tables.py --write"
    )


def test_the_best_single_action_is_one_of_those_there_are():
    ref, seeds = EnvRef("CartPole-v1"), range(100, 110)
    found = single_action()(ref, seeds).returns
    assert any(np.array_equal(found, by_hand(lambda *_, action=action: action)(ref, seeds)) for action in (0, 1))
    pendulum = EnvRef("Pendulum-v1")
    still = by_hand(lambda *_: 0.0)(pendulum, seeds)
    assert single_action()(pendulum, seeds).returns == pytest.approx(still, rel=1e-4)


@pytest.mark.parametrize("name", sorted(pictures.FIGURES))
def test_a_figure_of_the_documents_draws_the_raw_results(name):
    text = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    assert f"numbers {pictures.digest(pictures.FIGURES[name]())}" in text, (
        f"draw it anew: python benchmarks/pictures.py {name}"
    )


@pytest.mark.parametrize("name", ["trading", "greenhouse", "sensor"])
def test_curves_come_step_by_step_and_are_whole_where_nothing_moves(name):
    drawn = (ROOT / "docs" / "pictures" / f"{name}.svg").read_text(encoding="utf-8")
    clips = ElementTree.fromstring(drawn).findall(".//{*}clipPath/{*}rect")
    assert clips
    for rect in clips:
        (course,) = rect
        first, _, begun, last = course.get("values").split(";")
        assert first == last == rect.get("width")
        assert float(begun) == 0
    plain = re.sub(r"><animate[^>]*/></rect>", "/>", drawn)
    assert pictures.moving(plain) == drawn
