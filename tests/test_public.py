"""The public surface: what `import distilrl` offers, all of it documented and typed."""

import ast
import contextlib
import importlib
import inspect
import re
from functools import partial
from pathlib import Path

import pytest
from conftest import SIGN, make_teacher, sign_network
from tiny_envs import LINEAR, linear_teacher, tiny_config

import distilrl
from distilrl.checkpoints import save_network
from distilrl.cli import main, parse
from distilrl.errors import SpecError
from distilrl.files import read_json
from distilrl.heads import head_for
from distilrl.metrics import read_metrics
from distilrl.recipes import RECIPES, TEACHERLESS
from distilrl.spaces import Choices

DOCS = Path(__file__).parents[1] / "docs"

PUBLIC = {
    "Acceptance", "Agreement", "Behaviour", "Bounds", "Budget", "Categorical", "Choices", "Comparison",
    "ComputeConfig", "DataConfig", "Display", "DistilError", "Duel", "EnvError", "EnvInfo", "EnvRef", "Evaluation",
    "Event", "ExtraError", "FileError", "Gaussian", "Head", "HostileError", "Job", "Machines", "Measure", "Measured",
    "Network",
    "NetworkSpec",
    "NotFiniteError", "ObsSpec", "OptimConfig", "PlanResults", "Play", "Point", "Policy", "Processes", "RECIPES",
    "RayCollectors", "RayExecutor", "Results", "ResumeError", "Returns", "RewardConfig", "RunVerdict", "Schedule",
    "SeedsResults", "Sensors",
    "SpecError", "StopConfig", "StudentConfig", "Studies", "StudyPair", "StudyRow", "SweepRow", "TaskFile",
    "TasksResults", "Teacher", "TeacherError",
    "TeacherFile", "TeacherResults", "Term", "TrainConfig", "Trained", "TreeConfig", "Verified", "Watch",
    "WorkerError", "__version__", "build", "compare", "describe_env", "distill", "distill_chain", "distill_seeds",
    "distill_tree",
    "ensemble", "evaluate_against", "evaluate_policy", "export_policy", "inspect", "inspect_play",
    "load_network", "load_teacher", "make_config", "make_vec_env", "plan", "play", "read_as", "recipe",
    "reptile", "save_network", "silent", "sweep", "term", "train", "train_teacher", "trust", "verify", "write_report",
    "write_studies",
}  # fmt: skip


def test_surface_is_pinned():
    assert set(distilrl.__all__) == PUBLIC
    assert all(hasattr(distilrl, name) for name in PUBLIC)


def test_every_function_has_an_example():
    functions = {name: getattr(distilrl, name) for name in PUBLIC if inspect.isfunction(getattr(distilrl, name))}
    assert len(functions) > 25
    assert [name for name, one in functions.items() if "Example" not in (one.__doc__ or "")] == []


def test_type_checkers_are_told_what_is_imported_on_first_use():
    stub = ast.parse((Path(distilrl.__file__).with_suffix(".pyi")).read_text(encoding="utf-8"))
    told = {
        node.module.removeprefix("distilrl."): tuple(one.name for one in node.names)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
    }
    assert told == distilrl._HOMES
    (everything,) = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert set(ast.literal_eval(everything)) == PUBLIC


def test_a_module_does_not_hide_the_function_of_its_name():
    for name in ("distill", "plan", "sweep", "train"):
        module = importlib.import_module(f"distilrl.{name}")
        assert getattr(distilrl, name) is getattr(module, name)


def test_everything_public_is_documented_and_typed():
    for name in PUBLIC - {"__version__", "RECIPES", "Event", "Term", "Watch"}:
        thing = getattr(distilrl, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing):
            signature = inspect.signature(thing)
            assert signature.return_annotation is not inspect.Signature.empty, name
            assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values()), name


def test_version_has_a_changelog_entry():
    changelog = (DOCS.parent / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {distilrl.__version__}" in changelog


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """The method of the documents as a module of the user's own."""
    text = (DOCS / "adding-a-method.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.splitlines()) < 30
    (tmp_path / "my_module.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("my_module")
    monkeypatch.delitem(importlib.sys.modules, "my_module")


@pytest.mark.parametrize("env", [SIGN, LINEAR])
def test_the_method_that_the_documents_add_runs_as_printed(env, printed, tmp_path):
    short = tiny_config(env)
    changes = {"data": short.data, "stop": short.stop, "compute": short.compute, "network": "mlp:8"}
    config = distilrl.make_config(printed.steady, env, **changes).but(env_steps=3200, gap=-20.0, stakes_exponent=0.0)
    teacher = make_teacher(sign_network()) if env == SIGN else linear_teacher()
    job = distilrl.Job(config, distilrl.Comparison(100, 200, 0))
    results = distilrl.distill(teacher, job, tmp_path / "run", report=False)
    assert results.recipe == "steady"
    assert not (tmp_path / "run" / "report.html").exists()
    assert results.student.score > 0.95
    losses = [float(row["loss/my_module:change"]) for row in read_metrics(tmp_path / "run" / "metrics.csv")]
    assert losses[3] < losses[0] / 2
    named = distilrl.make_config("my_module:steady", env, **changes)
    assert named.terms == config.terms
    assert read_json(tmp_path / "run" / "config.json")["train"]["terms"][-1]["loss"] == "my_module:change"


def test_a_method_of_ones_own_keeps_what_it_sets(printed, tmp_path, monkeypatch):
    """The options' defaults took the place of its seed and of its way of playing."""
    source = "import my_module\n\ndef own(info):\n    return my_module.steady(info).but(seed=7, eval_epsilon=0.01)\n"
    (tmp_path / "other_module.py").write_text(source, encoding="utf-8")
    seen = []
    monkeypatch.setattr(
        "distilrl.cli.making.distill", lambda _, job, *_args, **_kwargs: seen.append(job.train) or 1 / 0
    )
    words = ["distill", "--teacher", "t", "--env", SIGN, "--student", "mlp:2", "--recipe", "other_module:own"]
    for more in ([], ["--seed", "0"]):
        with contextlib.suppress(ZeroDivisionError):
            main([*words, *more, "--out", str(tmp_path / "run")])
    assert [(config.seed, config.eval_epsilon) for config in seen] == [(7, 0.01), (0, 0.01)]


@pytest.mark.parametrize(
    ("make", "command"),
    [
        (distilrl.distill, "distill"),
        (partial(distilrl.distill_chain, assistants=1), "distill"),
        (partial(distilrl.plan, sizes=["mlp:2"], seeds=1), "plan"),
        (partial(distilrl.distill_tree, config=distilrl.TreeConfig(4, 2, states=80)), "tree"),
    ],
    ids=["distill", "chain", "plan", "tree"],
)
def test_a_teachers_file_is_named_in_the_runs_config(tmp_path, make, command):
    """So that the command line goes on with what Python began, and Python with what the command line began."""
    save_network(tmp_path / "teacher", sign_network(), head_for(Choices((2,)), "q"), name="teacher")
    config = tiny_config(SIGN).but(env_steps=800, learning_starts=400, network="mlp:2")
    job = distilrl.Job(config, distilrl.Comparison(60, 60, 0))
    results = make(tmp_path / "teacher", job, out=tmp_path / "run", report=False)
    found = read_json(tmp_path / "run" / "config.json")
    files = found.get("given", {}).get("teacher") or found["train"]["tasks"][0]["teacher"]
    assert [file["path"] for file in files] == [str(tmp_path / "teacher")]
    if "resume" in inspect.signature(make).parameters:
        again = make(tmp_path / "teacher", job, out=tmp_path / "run", resume=True, report=False)
        assert again == results, "what is read back is what was given"
    assert main([command, "--resume", str(tmp_path / "run")]) in (0, 1, 3)


def test_episodes_are_counted_in_whole_numbers():
    with pytest.raises(SpecError, match=r"'episodes' must be a whole number, got 3\.5"):
        distilrl.evaluate_policy(make_teacher(sign_network()), SIGN, episodes=3.5)


def test_collectors_share_the_shards_that_are_asked_for_also_of_a_recipe_with_rounds(tmp_path, monkeypatch):
    text = "import distilrl\n\n\ndef mine(info):\n    return distilrl.recipe('distil', info).but(round_steps=8)\n"
    (tmp_path / "my_rounds.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    save_network(tmp_path / "teacher", sign_network(), head_for(Choices((2,)), "q"), name="teacher")
    words = ["--teacher", str(tmp_path / "teacher"), "--env", SIGN, "--student", "mlp:2", "--recipe", "my_rounds:mine"]
    words += ["--collectors", "2", "--set", "shards=4", "--out", str(tmp_path / "run")]
    job = parse("distill", words)._job()[0]
    assert (job.train.data.round_steps, job.train.data.shards) == (8, 4)


@pytest.mark.parametrize("loss", ["<lambda>", "<locals>"])
def test_a_loss_that_no_file_could_name_is_refused_before_training(loss, tmp_path, monkeypatch, capsys):
    text = "import distilrl\n\n\ndef mine(info):\n    {}\n"
    text += "    return distilrl.recipe('distil', info).but(terms=(distilrl.term(loss),))\n"
    made = "loss = lambda student, teacher: (student - teacher).square().mean(1)"
    if loss == "<locals>":
        made = "def loss(student, teacher):\n        return (student - teacher).square().mean(1)"
    (tmp_path / "my_unnamed.py").write_text(text.format(made))
    monkeypatch.syspath_prepend(str(tmp_path))
    save_network(tmp_path / "teacher", sign_network(), head_for(Choices((2,)), "q"), name="teacher")
    words = ["distill", "--teacher", str(tmp_path / "teacher"), "--env", SIGN, "--student", "mlp:2"]
    assert main([*words, "--recipe", "my_unnamed:mine", "--out", str(tmp_path / "run")]) == 2
    assert "has a loss without a name of its own (my_unnamed:mine.<locals>" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_the_documents_configurations_are_of_either_kind_of_action(printed):
    assert [one.loss for one in printed.choices.terms] == ["forward_kl", printed.change]
    assert [one.loss for one in printed.real.terms] == ["action_regression", printed.change]
    assert printed.real.env.id == "Pendulum-v1"


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in TEACHERLESS])
def test_every_page_says_whether_it_reads_real_actions(name):
    lines = (DOCS / "methods" / f"{name}.md").read_text(encoding="utf-8").splitlines()
    (said,) = [line for line in lines if line.startswith("**Actions.**")]
    needs = RECIPES[name].needs
    kind = next((one for one in ("one choice", "choices", "image") if one in needs), "")
    begin = {
        "one choice": "A single choice",
        "choices": "Choices only",
        "image": "Images, with choices or real actions",
    }
    assert said.startswith(f"**Actions.** {begin.get(kind, 'Choices and real actions')}")
    assert bool(RECIPES[name].lacks(distilrl.describe_env(LINEAR))) == (
        kind != ""
    )  # LinearEnv has vectors and real actions
