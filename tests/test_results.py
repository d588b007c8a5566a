"""results.json: its schema is what the code gives, and what runs write is what the schema says."""

from dataclasses import fields, replace

import instances
import pytest
from conftest import SIGN, make_teacher, sign_network
from results_schema import FILE, schema_of, text
from tiny_envs import LINEAR, linear_teacher, tiny_config, tiny_job

from distilrl import stats
from distilrl.cli.tables import print_results
from distilrl.comparison import Comparison
from distilrl.distill import distill
from distilrl.errors import SpecError
from distilrl.files import read_json, write_json
from distilrl.jobs import Job, make_config
from distilrl.plain import read_as
from distilrl.plan import plan
from distilrl.played import Returns, SingleReturns, mean_in_words
from distilrl.results import Results, TeacherResults, TeacherTrained
from distilrl.summaries import AnyResults, PlanResults, SeedsResults, TasksResults, read_results
from distilrl.teaching import evaluate_policy, train_teacher

TYPES = {"integer": int, "number": (int, float), "string": str, "boolean": bool, "null": type(None)}


def faults(data, rule, whole, where="results"):
    """Where data departs from a schema, of the few words that `schema_of` uses."""
    if "$ref" in rule:
        return faults(data, whole["$defs"][rule["$ref"].split("/")[-1]], whole, where)
    if "anyOf" in rule:
        found = [faults(data, one, whole, where) for one in rule["anyOf"]]
        return min(found, key=len)
    if "enum" in rule:
        return [] if data in rule["enum"] else [f"{where}: {data}"]
    kind = rule.get("type")
    if kind == "object":
        if not isinstance(data, dict):
            return [f"{where}: {data}"]
        known, others = rule.get("properties", {}), rule.get("additionalProperties", True)
        bad = [f"{where}.{name} is missing" for name in rule.get("required", ()) if name not in data]
        bad += [f"{where}.{name} is unknown" for name in data if name not in known and others is False]
        return bad + [
            fault
            for name, value in data.items()
            for fault in faults(value, known.get(name, others or {}), whole, f"{where}.{name}")
        ]
    if kind == "array":
        if not isinstance(data, list):
            return [f"{where}: {data}"]
        each = rule.get("prefixItems") or [rule["items"]] * len(data)
        bad = [] if len(each) == len(data) else [f"{where} has {len(data)} items"]
        return bad + [fault for one, item in zip(data, each, strict=False) for fault in faults(one, item, whole, where)]
    kinds = [kind] if isinstance(kind, str) else kind or []
    good = any(isinstance(data, TYPES[one]) and (one == "boolean") == isinstance(data, bool) for one in kinds)
    return [] if good or not kinds else [f"{where}: {data}"]


def same(path, found, kind):
    """A file is what was returned, what the schema says, and reads back the same."""
    data = read_json(path)
    assert data == found.to_json()
    assert isinstance(found, kind)
    assert read_as(kind, data).to_json() == data
    assert type(read_results(path)) is kind
    assert faults(data, {"$ref": f"#/$defs/{kind.__name__}"}, read_json(FILE)) == []
    assert faults(data, read_json(FILE), read_json(FILE)) == []


def test_the_documents_schema_is_what_the_code_gives():
    written = FILE.read_text(encoding="utf-8")
    assert written == text(), "write it anew: python tests/results_schema.py"


def test_every_field_is_described():
    for name, rule in schema_of(AnyResults)["$defs"].items():
        assert rule["description"], name
        assert all(one["description"].endswith(".") for one in rule["properties"].values()), name


def test_a_run_of_choices_on_cartpole(tmp_path):
    config = make_config("distil", "CartPole-v1", network="mlp:4", env_steps=600, learning_starts=200, check_every=300)
    job = Job(
        config.but(check_episodes=2), Comparison(4, 4, 4, margin_abs=5.0), accept_episodes=2, accept_weak_teacher=True
    )
    network = sign_network()
    teacher = make_teacher(type(network)(network.spec.__class__((4,), 2, hidden=(4,))))
    found = distill(teacher, job, tmp_path / "run")
    same(tmp_path / "run" / "results.json", found, Results)
    assert found.agreement.tables
    assert "dimensions" not in found.to_json()["agreement"]
    assert "chain" not in found.to_json()


def test_a_run_of_real_actions(tmp_path):
    found = distill(linear_teacher(), Job(tiny_config(LINEAR), tiny_job().comparison), tmp_path / "run")
    same(tmp_path / "run" / "results.json", found, Results)
    assert [one.half_range for one in found.agreement.dimensions] == [4.0]
    assert "tables" not in found.to_json()["agreement"]


def test_a_plan_and_a_teachers_training(tmp_path, sign_teacher):
    planned = plan(sign_teacher, tiny_job(), tmp_path / "plan", sizes=["mlp:"], seeds=2, refine=False)
    same(tmp_path / "plan" / "plan.json", planned, PlanResults)
    short = {"env_steps": 800, "learning_starts": 160, "check_every": 400, "check_episodes": 2, "network": "mlp:4"}
    trained = train_teacher(make_config("dqn", SIGN, **short), tmp_path / "teacher", episodes=4)
    same(tmp_path / "teacher" / "results.json", trained, TeacherResults)


def test_a_teacher_from_nothing_is_judged_as_it_is_checked(tmp_path, monkeypatch):
    """With its sensors and its random actions: it made twice as much where it saw what it never was shown."""
    asked = []
    monkeypatch.setattr(
        "distilrl.teaching.evaluate_policy",
        lambda policy, how, **more: asked.append(how) or evaluate_policy(policy, how, **more),
    )
    short = {"env_steps": 800, "learning_starts": 160, "check_every": 400, "check_episodes": 2, "network": "mlp:4"}
    train_teacher(make_config("dqn", SIGN, **short, delay=1, eval_epsilon=0.1), tmp_path, episodes=4, report=False)
    (how,) = asked
    assert (how.sensors.delay, how.epsilon) == (1, 0.1)


def test_distinct_episodes_of_a_study_are_those_that_all_its_seeds_have():
    """One seed that played on makes no fewer of the first episodes distinct."""
    runs = [instances.results(verdict=replace(instances.VERDICT, distinct=75))] * 5
    once = SingleReturns(teacher=(10.0,) * 100, student=(10.0,) * 100, pairs=tuple(n % 75 for n in range(100)))
    more = SingleReturns(teacher=(10.0,) * 200, student=(10.0,) * 200, pairs=tuple(n % 75 for n in range(200)))
    found = SeedsResults.of(runs, [once] * 4 + [more], 100).verdict
    assert found.distinct == 75
    assert found == SeedsResults.of(runs, [once] * 5, 100).verdict
    alone = [SingleReturns(teacher=(10.0,) * 120, student=(10.0,) * 120)] * 5
    assert SeedsResults.of(runs, alone, 120).verdict.distinct == 120


@pytest.mark.parametrize("episodes", [10, 100])
def test_a_study_of_an_exact_game_is_of_all_its_starts(episodes):
    """However few episodes are asked for: all starts are played, and the first ten may be the easy ones."""
    runs = [instances.results(verdict=replace(instances.VERDICT, confidence=1.0, margin=2.0))] * 5
    student = SingleReturns(teacher=(10.0,) * 30, student=(10.0,) * 10 + (-10.0,) * 20)
    found = SeedsResults.of(runs, [student] * 5, episodes).verdict
    assert (found.result, found.episodes) == ("fail", 30)
    assert found.difference == pytest.approx(-40 / 3)


def test_the_interval_of_a_study_stays_within_what_was_seen():
    """Of 500, 500, 334.8, 500 and 500 in a game that ends at 500 it reached 559."""
    means = [500.0, 500.0, 334.8, 500.0, 500.0]
    first = instances.results()
    runs = [replace(first, student=replace(first.student, return_mean=mean)) for mean in means]
    returns = [SingleReturns(teacher=(500.0,) * 60, student=(mean,) * 60) for mean in means]
    low, high = SeedsResults.of(runs, returns, 60).student.return_ci95
    assert (low, high) == (pytest.approx(stats.t_interval(means)[0]), 500.0)


def test_a_study_says_what_became_of_its_measures(capsys):
    """The return passes with each student, and two of three crash: the exit code is that of the measure, so say it."""
    became = ("fail", "pass", "fail")
    runs = [instances.results(seed=seed, measures=(instances.measured(one),)) for seed, one in enumerate(became)]
    found = SeedsResults.of(runs, [SingleReturns(teacher=(10.0,) * 60, student=(9.9,) * 60)] * 3, 60)
    assert (found.worst, found.measured) == ("fail", {"crashed (max)": "fail"})
    assert "crashed (max): fail with 2 of 3 students" in str(found)
    print_results(found)
    assert "crashed (max): fail with 2 of 3 students" in " ".join(capsys.readouterr().err.split())


def test_seeds_and_tasks_are_told_apart(tmp_path):
    runs = [instances.results(seed=0), instances.choices([[1, 2], [3, 4]], seed=1)]
    made = TeacherTrained(**vars(instances.RETURNS), name="mlp:8", params=1, bytes=4, macs=1)
    told = [
        SeedsResults.of(runs, [SingleReturns(teacher=(10.0,) * 60, student=(9.9,) * 60)] * 2, 60),
        TasksResults.of(runs, 9),
        *runs,
    ]
    about = {"seed": 0, "recipe": "dqn", "env_steps": 1, "updates": 1, "train_s": 1.0, "stopped": "budget used"}
    told.append(TeacherResults(**about, env="Mine-v0", student=made, provenance=instances.PROVENANCE))
    for number, found in enumerate(told):
        write_json(tmp_path / f"{number}.json", found.to_json())
        same(tmp_path / f"{number}.json", found, type(found))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data.pop("verdict"), "lacks 'verdict'"),
        (lambda data: data["student"].update(score="good"), "'Results.student.score' must be a number"),
        (lambda data: data.update(notes=1), "Unknown key 'notes'"),
    ],
)
def test_damage_is_found_by_the_reader_and_by_the_schema(damage, words):
    data = instances.results().to_json()
    damage(data)
    with pytest.raises(SpecError, match=words):
        read_as(Results, data)
    assert faults(data, schema_of(Results), schema_of(Results))


def test_what_is_told_of_returns_has_a_line_each():
    assert list(schema_of(Returns)["$defs"]["Returns"]["properties"]) == [one.name for one in fields(Returns)]


@pytest.mark.parametrize(
    ("mean", "ends", "told"),
    [
        (0.8751, (0.861, 0.889), "0.875 [0.861, 0.889]"),
        (12.5, (10.0, 15.0), "12.50 [10.00, 15.00]"),
        (0.00412, (0.0041, 0.00414), "0.004120 [0.004100, 0.004140]"),
        (10.0, (10.0, 10.0), "10.00 [10.00, 10.00]"),
        (0.0, (0.0, 0.0), "0.00 [0.00, 0.00]"),
        (21.0, None, "21.00 exactly"),
        (0.00412, None, "0.00412 exactly"),
        (-0.0, None, "-0.00 exactly"),
    ],
)
def test_a_return_is_told_as_finely_as_it_is_known(mean, ends, told):
    assert mean_in_words(mean, ends) == told


def test_results_show_themselves_as_a_short_table():
    found = instances.results()
    lines = repr(found).splitlines()
    assert lines[0] == f"{found.env}, {found.student.name}, {found.recipe}: pass"
    assert lines[1].split() == ["return", "parameters", "MACs", "µs"]
    assert [line.split()[0] for line in lines[2:4]] == ["teacher", "student"]
    assert "-12.50 [-45.00, +15.00] at 98.3%, margin 620.50" in lines[4]
    assert len({len(line) for line in lines[1:4]}) == 1, "columns are aligned"
    assert "the smallest within the margin is" in repr(instances.plan_results(instances.plan_row()))


def test_a_notebook_shows_names_from_files_as_text():
    found = replace(instances.results(), env="<script>alert(1)</script>")
    page = found._repr_html_()
    assert "<script>" not in page
    assert page.count("<tr>") == 4
    assert "<th>parameters</th>" in page
