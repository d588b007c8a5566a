"""What the command line says of itself, and what it imports for that."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import instances
import pytest
import torch
from commands import CHOICE

from distilrl.checkpoints import save_network
from distilrl.cli import NAMES, _command, _way_on, main, parse
from distilrl.cli.groups import SeenOptions
from distilrl.cli.options import EnvOptions
from distilrl.cli.searching import Plan
from distilrl.cli.tables import print_next
from distilrl.comparison import Comparison
from distilrl.config import TrainConfig
from distilrl.envs import describe_env, is_trusted
from distilrl.envs.listing import families
from distilrl.files import write_json
from distilrl.heads import head_for
from distilrl.jobs import Job
from distilrl.networks import build
from distilrl.next_steps import USUAL, _said_by_options, next_steps, trust_of
from distilrl.plain import to_plain
from distilrl.played import SingleReturns
from distilrl.recipes import RECIPES
from distilrl.results import TeacherResults, TeacherTrained
from distilrl.runs import RunFolder
from distilrl.sizes import PlanOptions
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec, spelled, suited
from distilrl.summaries import SeedsResults, TasksResults
from distilrl.teachers import TeacherFile
from distilrl.text import typed

EVERYDAY = ("teacher", "env", "student", "out", "recipe", "steps", "seeds", "margin", "resume", "config")
HEAVY = {"torch", "gymnasium", "numpy", "matplotlib", "rich", "tyro", "PIL", "jinja2"}
UNUSED = {"matplotlib", "jinja2", "PIL", "ale_py", "onnx", "onnxruntime", "sklearn", "ray", "wandb", "tensorboard"}


def imported(*words):
    """Top-level modules that a fresh Python has imported once the command has ended, and what it printed."""
    program = "import sys; from distilrl.cli import main; code = main(sys.argv[1:]); "
    program += "print(*sorted(sys.modules)); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    said, _, names = done.stdout.rstrip("\n").rpartition("\n")
    return {name.split(".")[0] for name in names.split()}, said


@pytest.mark.parametrize("words", [(), ("--help",), ("--version",)])
def test_help_and_version_wait_for_no_library(words):
    modules, said = imported(*words)
    assert not modules & HEAVY
    assert "distilrl" in said


@pytest.mark.parametrize("words", [("zoo",), ("fields",), ("zoo", "--help")], ids=" ".join)
def test_what_comes_with_the_project_is_listed_without_pytorch(words):
    modules, said = imported(*words)
    assert not modules & {"torch", "gymnasium", "numpy"}
    assert said.count("\n") > 5


def test_evaluate_imports_nothing_that_it_does_not_use(tmp_path):
    save_network(tmp_path / "teacher", build(NetworkSpec((4,), 2)), CHOICE, name="teacher")
    modules, said = imported("evaluate", str(tmp_path / "teacher"), "--env", "CartPole-v1", "--episodes", "5")
    assert "return" in said
    assert not modules & UNUSED


def test_the_overview_names_every_command_and_fits(capsys):
    assert main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in NAMES)
    assert max(map(len, said.splitlines())) < 80


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help_with_an_example_that_it_reads(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: distilrl {name}")
    said, _, example = said.partition("\nexample:\n")
    assert example == f"  {NAMES[name].example}\n"
    assert max(map(len, said.splitlines()[1:])) <= 80
    ran = []
    monkeypatch.setattr(_command(name), "run", lambda command: ran.append(command))
    assert main(NAMES[name].example.replace("\\\n", "").split()[1:]) == 0
    assert len(ran) == 1


def test_help_of_distill_begins_with_the_everyday_and_ends_with_the_rare(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["distill", "--help"]) == 0
    said = capsys.readouterr().out
    everyday, _, rest = said.partition("learning options")
    listed = re.findall(r"^. (--[a-z-]+)", everyday, re.MULTILINE)
    assert listed == [f"--{name}" for name in EVERYDAY]
    assert everyday.count("(required)") == 4
    assert "(required)" not in rest
    assert re.findall(r"([a-z-]+) options", rest)[-2:] == ["trust", "teacher-file"]


@pytest.mark.parametrize("words", [("--help",), ("zoo",), ("fields",)])
def test_a_reader_who_has_read_enough_ends_it_silently(words):
    """A list that rich writes ended with 1, which is a verdict's."""
    both = os.pipe()
    os.close(both[0])
    program = [sys.executable, "-m", "distilrl", *words]
    done = subprocess.run(program, stdout=both[1], stderr=subprocess.PIPE, text=True, check=False)
    os.close(both[1])
    assert done.returncode == 141
    assert done.stderr == ""


def test_nobody_who_reads_errors_is_no_verdict():
    both = os.pipe()
    os.close(both[0])
    done = subprocess.run([sys.executable, "-m", "distilrl", "inspect", "missing.zip"], stderr=both[1], check=False)
    os.close(both[1])
    assert done.returncode == 141


def ended(words, shell):
    """Exit code and error output of a command in a shell."""
    command = f'"{sys.executable}" -m distilrl {words} {shell}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_closed_streams_change_no_exit_code():
    """A run that passed ended with 1, which is a verdict's, where a daemon had closed its output."""
    assert ended("recipes", ">&-") == (0, "")
    assert ended("zoo get nothing", ">&- 2>&-")[0] == 2
    code, said = ended("inspect missing.zip", ">&-")
    assert code == 2
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_place_for_output_is_one_sentence():
    for words in ("zoo", "--help"):
        code, said = ended(words, ">/dev/full")
        assert code == 2
        assert said.startswith("error: output cannot be written (No space left on device)")
        assert len(said.splitlines()) == 1
    assert ended("zoo get nothing", "2>/dev/full")[0] == 2


def test_recipes_are_listed_a_line_each(capsys):
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line[:1].strip()][: len(RECIPES)] == list(RECIPES)
    assert max(map(len, said.splitlines())) < 80


def test_environments_are_listed_by_where_they_come_from(capsys):
    assert main(["envs", "cartpole"]) == 0
    said = capsys.readouterr().out
    assert "classic_control (1):\n  CartPole-v1\n" in said
    assert "PongNoFrameskip" not in said
    assert main(["envs", "pong"]) == 0
    assert "PongNoFrameskip-v4" in capsys.readouterr().out
    assert main(["envs", "nothing-of-this-name"]) == 2
    named = {family.name: family for family in families()}
    assert "tests" not in named
    assert describe_env(named["toy_text"].ids[0]).action.size == 1


def configured(folder, data=None):
    """Writes a config.json of a run in Mine-v0, of which these parts are otherwise."""
    whole = Job(TrainConfig()).to_json() | {"kind": "run"}
    whole["train"]["tasks"] = [{"env": {"id": "Mine-v0"}, "teacher": [{"path": "dqn.zip"}]}]
    parts = data or {}
    train = whole["train"] | parts.get("train", {})
    train["tasks"] = [{"env": {"id": "Mine-v0"}} | task for task in train["tasks"]]
    write_json(folder / "config.json", whole | parts | {"train": train})


def nexts(kind, tmp_path):
    """Results of a kind and the folder that holds them."""
    one = instances.choices([[1]])
    if kind in ("inconclusive", "fail"):
        one = replace(one, verdict=replace(one.verdict, result=kind))
    folder = tmp_path / "my run"
    for home in (folder, folder / "seed-0", folder / "seed-1", folder / "Mine-v0"):
        configured(home)
    if kind == "tree":
        write_json(folder / "tree.json", {})
    if kind == "teacher":
        save_network(folder / "student", build(NetworkSpec((4,), 2), torch.Generator()), head_for(Choices((2,)), "q"))
    made = TeacherTrained(**vars(instances.RETURNS), name="mlp:8", params=1, bytes=4, macs=1)
    about = {"seed": 0, "recipe": "dqn", "env_steps": 1, "updates": 1, "train_s": 1.0, "stopped": "budget used"}
    returns = [SingleReturns(teacher=(10.0,) * 60, student=(9.9,) * 60)] * 2
    results = {
        "teacher": TeacherResults(**about, env="Mine-v0", student=made, provenance=instances.PROVENANCE),
        "seeds": SeedsResults.of([one, replace(one, seed=1)], returns, 60),
        "tasks": TasksResults.of([one, one], 9),
        "plan": instances.plan_results(instances.plan_row()),
        "no plan": instances.plan_results(instances.plan_row(), winner=None),
    }
    return results.get(kind, one), folder


KINDS = ("pass", "inconclusive", "fail", "tree", "teacher", "seeds", "tasks", "plan", "no plan")


@pytest.mark.parametrize("kind", KINDS)
def test_what_to_do_next_are_commands_that_are_read(kind, tmp_path, monkeypatch, capsys):
    results, folder = nexts(kind, tmp_path)
    print_next(results, folder)
    said = capsys.readouterr().err
    steps = list(next_steps(results, folder))
    assert steps
    assert str(folder) in said
    for _, words in steps:
        ran = []
        monkeypatch.setattr(_command(words[0]), "run", lambda command, ran=ran: ran.append(command))
        assert main([str(word) for word in words]) == 0
        assert len(ran) == 1


def test_an_environment_is_named_with_all_that_is_around_it(tmp_path):
    results, folder = nexts("inconclusive", tmp_path)
    ref = EnvRef("Mine-v0", {"hard": True}, ("a:B",), True, (84, 80), 4)
    configured(folder, {"train": {"tasks": [{"env": ref.to_json(), "teacher": [{"path": "dqn.zip"}]}]}})
    (_, words), (_, watch), *_ = next_steps(replace(results, environment=ref.to_json()), folder)
    assert watch[-2:] == ["--trust", "a"]
    assert EnvOptions(env_kwargs='{"hard": true}', wrapper=("a:B",), grey=True, resize=(84, 80), stack=4) == (
        parse("evaluate", [str(word) for word in words[1:]]).around
    )


def test_a_teachers_student_learns_where_the_teacher_did(tmp_path):
    results, folder = nexts("teacher", tmp_path)
    env = EnvRef("Mine-v0", {"hard": True}, ("a:B",))
    configured(folder, {"train": {"tasks": [{"env": env.to_json()}]}})
    ((_, words),) = next_steps(results, folder)
    read = parse("distill", [str(word) for word in words[1:]])
    assert (read.env, read.around) == ("Mine-v0", EnvOptions(env_kwargs='{"hard": true}', wrapper=("a:B",)))


@pytest.mark.parametrize(
    ("network", "student"),
    [
        (NetworkSpec((4,), 2, hidden=(8,)), "mlp:16"),
        (NetworkSpec.parse("resnet:4,8,8:16", (1, 84, 84), 2), "cnn:16,16,16:64"),
        (NetworkSpec.parse("cnn:16k3s1:64", (4, 10, 10), 2), "cnn:16k3s1:64"),
    ],
    ids=["vector", "screen", "board"],
)
def test_a_teachers_student_reads_what_the_teacher_read(tmp_path, network, student):
    """Of a board of ten cells it was proposed what no board of that size can be read by."""
    results, folder = nexts("teacher", tmp_path)
    save_network(folder / "student", build(network, torch.Generator()), head_for(Choices((2,)), "q"))
    ((_, words),) = next_steps(results, folder)
    assert words[words.index("--student") + 1] == student
    NetworkSpec.parse(student, network.obs_shape, 2)


def test_what_an_environment_is_made_with_is_trusted_in_what_is_proposed(tmp_path):
    """Each of these commands was refused, and the run's own report had no animation."""
    made = {"id": "my_robots:Arm-v0", "kwargs": {"model": "assets/arm.xml", "steps": 5}}
    configured(tmp_path, {"train": {"tasks": [{"env": made}]}})
    assert trust_of(RunFolder(tmp_path)) == ["--trust", "my_robots", "--trust", "assets/arm.xml"]
    EnvOptions(env_kwargs='{"model": "assets/elbow.xml"}').ref("other_robots:Arm-v0")
    assert is_trusted("assets/elbow.xml")


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"id": "A-v0", "kwargs": {"g": 12.0, "hard": True}}, True),
        ({"id": "B-v0", "kwargs": {"g": 12.0}}, True),
        ({"id": "A-v0"}, False),  # options only add to what training's is made with
        ({"id": "A-v0", "kwargs": {"g": 12.0}, "wrappers": ["mine:Slow"]}, False),
        ({"id": "A-v0", "kwargs": {"g": 12.0}, "stack": 2}, False),
    ],
)
def test_no_plan_is_proposed_that_would_be_judged_elsewhere(there, said):
    results = instances.choices([[1]], environment={"id": "A-v0", "kwargs": {"g": 12.0}}, verdict_environment=there)
    assert _said_by_options(results) == said
    assert _said_by_options(replace(results, verdict_environment=None))


def test_the_next_plan_sees_what_the_student_saw(tmp_path):
    """A search of other observations would say nothing of that student."""
    results, folder = nexts("fail", tmp_path)
    told = {"kind": "mean", "squash": "clip", "normalizer": "n.pkl", "zeros": 3, "divisor": 2.0, "activation": "tanh"}
    file = {"path": "t", "reads": ["obs[0:4]"], "member": "obs[3]", "network": "mlp:4", "output": "q"} | told
    student = {"hidden_features": [1, 3], "noise": [0.0, 0.5, 0.0, 1.0], "delay": 1, "dropout": 0.1, "flicker": 0.5}
    configured(folder, {"train": {"student": student, "tasks": [{"teacher": [file]}]}})
    judged = {"id": "CartPole-v0", "kwargs": {"sutton_barto_reward": True}}
    results = replace(results, environment={"id": "CartPole-v1"}, verdict_environment=judged)
    (_, words), *_ = next_steps(results, folder)
    read = parse("plan", [str(word) for word in words[1:]])
    assert read.seen == SeenOptions(
        hide=("obs[1]", "obs[3]"), student_noise="0,0.5,0,1", student_delay=1, student_dropout=0.1, student_flicker=0.5
    )
    assert read.teacher_file.file("t") == TeacherFile.from_json(file)
    assert (read.judge.verdict_env, read.judge.verdict_env_kwargs) == ("CartPole-v0", '{"sutton_barto_reward": true}')


def test_after_a_failure_the_next_plan_learns_where_the_student_learnt_and_is_judged_where_it_was(tmp_path):
    results, folder = nexts("fail", tmp_path)
    judged = {"id": "Mine-v0", "kwargs": {"members": [100, 200]}}
    results = replace(results, environment={"id": "Mine-v0"}, verdict_environment=judged)
    file = {"path": "t.zip", "normalizer": "n.pkl"}
    configured(folder, {"train": {"tasks": [{"teacher": [file]}]}})
    (_, words), *_ = next_steps(results, folder)
    read = parse("plan", [str(word) for word in words[1:]])
    assert read.teacher_file.file("t.zip") == TeacherFile.from_json(file)
    assert (read.env, read.around) == ("Mine-v0", EnvOptions())
    assert (read.judge.verdict_env, read.judge.verdict_env_kwargs) == (None, '{"members": [100, 200]}')


def test_the_next_plan_is_judged_as_the_run_was(tmp_path):
    """A looser question would be another one."""
    results, folder = nexts("fail", tmp_path)
    job = Job(TrainConfig(), Comparison(80, 240, margin=0.01), accept_episodes=40, accept_max_episodes=80)
    job = replace(job, train=job.train.but(eval_epsilon=0.02, seed=7, eval_envs=4, workers=2))
    config = job.to_json()
    config["train"]["tasks"] = [{"teacher": [{"path": "t.zip"}]}]
    configured(folder, config)
    (_, words), *_ = next_steps(replace(results, environment={"id": "Mine-v0"}), folder)
    read = parse("plan", [str(word) for word in words[1:]])
    assert (read.margin, read.margin_abs, read.episodes, read.eval_epsilon) == (0.01, None, 80, 0.02)
    assert (read.seed, read.workers, read.judge.eval_envs) == (7, 2, 4)
    assert (read.judge.accept_episodes, read.judge.accept_max_episodes) == (40, 80)
    job = replace(job, comparison=Comparison(margin=0.01, margin_abs=2.5), accept_weak_teacher=True)
    configured(folder, job.to_json() | {"train": config["train"]})
    (_, words), *_ = next_steps(replace(results, environment={"id": "Mine-v0"}), folder)
    read = parse("plan", [str(word) for word in words[1:]])
    assert (read.margin_abs, read.judge.accept_weak_teacher) == (2.5, True)
    assert "--margin" not in words


def test_what_is_usual_is_the_default():
    config = Job(TrainConfig()).to_json()
    for path, usual in USUAL.values():
        data = config
        for name in path.split("."):
            data = data[name]
        assert data == usual, path
    assert PlanOptions().seeds == Plan().seeds


def test_a_file_to_ship_is_proposed_of_seeds_that_hold_and_of_a_tree_where_it_lies(tmp_path):
    results, folder = nexts("seeds", tmp_path)
    for result, proposed in (("pass", ["evaluate", "export", "compare"]), ("inconclusive", ["compare"])):
        judged = replace(results, verdict=replace(results.verdict, result=result))
        assert [words[0] for _, words in next_steps(judged, folder)] == proposed
    results, folder = nexts("tree", tmp_path)
    assert next(words for _, words in next_steps(results, folder) if words[0] == "verify")[1] == folder / "export" / "c"


def test_a_run_that_was_interrupted_says_whom_to_trust(tmp_path):
    _, folder = nexts("pass", tmp_path)
    tasks = [{"env": EnvRef("my_package:Mine-v0", wrappers=("its:W",)).to_json()}]
    run = {"tasks": tasks, "terms": [{"kind": "teacher", "loss": "my_losses:huber"}, {"loss": "forward_kl"}]}
    write_json(folder / "config.json", {"train": run, "verdict_env": EnvRef("other:Env-v0").to_json()})
    trusted = [word for name in ("my_package", "its", "other", "my_losses") for word in ("--trust", name)]
    assert trust_of(RunFolder(folder)) == trusted
    words = shlex.join(["distilrl", "distill", "--resume", str(folder), *trusted])
    assert _way_on("distill", SimpleNamespace(resume=folder)) == f"; continue with: {words}"
    (folder / "config.json").write_text("{", encoding="utf-8")
    assert _way_on("distill", SimpleNamespace(resume=folder)).endswith(shlex.join(["--resume", str(folder)]))


def test_an_inconclusive_verdict_is_followed_by_a_question_of_its_own(tmp_path):
    """On other episodes, about the same margin and play, against the teacher as the run read it."""
    results, folder = nexts("inconclusive", tmp_path)
    results = replace(results, protocol={"epsilon": 0.01}, verdict=replace(results.verdict, margin=12.34))
    file = {"path": "t.zip", "normalizer": "n.pkl", "reads": ["obs[0]"], "kind": "mean"}
    configured(folder, {"train": {"tasks": [{"teacher": [file]}]}})
    (_, words), *_ = next_steps(results, folder)
    read = parse("evaluate", [str(word) for word in words[1:]])
    assert (read.against, read.teacher_file.file("t.zip")) == ("t.zip", TeacherFile.from_json(file))
    assert (read.margin_abs, read.epsilon, read.fresh, read.episodes) == (12.34, 0.01, True, 4300), (
        "as many as can decide"
    )


@pytest.mark.parametrize("plan", [False, True])
def test_what_is_told_of_a_file_is_told_of_the_one_beside_a_folder(plan, tmp_path, monkeypatch):
    """A plan's student lies in its winner, and the plan itself was taken for a file."""
    home = tmp_path / "plan"
    configured(home, {"kind": "plan" if plan else "run"})
    save_network(
        home / "winner" / "student" if plan else home / "student",
        build(NetworkSpec((4,), 2), torch.Generator()),
        head_for(Choices((2,)), "q"),
    )
    words = ["evaluate", str(home), "--env", "CartPole-v1", "--against", "t.zip", "--normalizer", "n.pkl"]
    assert files_of(words, monkeypatch) == {
        str(home): TeacherFile(str(home)),
        "t.zip": TeacherFile("t.zip", normalizer="n.pkl"),
    }


def files_of(words, monkeypatch):
    """What a command is told of each file, by its path."""
    seen = {}
    monkeypatch.setattr("distilrl.cli.using.load_together", lambda files: [seen.setdefault(f.path, f) for f in files])
    monkeypatch.setattr("distilrl.cli.using.unused", lambda teacher: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        parse(words[0], words[1:]).run()
    return seen


def test_what_is_told_of_a_family_is_told_of_its_folder(tmp_path, monkeypatch):
    """Beside a file of another library it was told of that, which is no folder."""
    (tmp_path / "family").mkdir()
    family = str(tmp_path / "family")
    words = ["evaluate", "p.onnx", "--env", "CartPole-v1", "--against", family, "--teacher-member", "m"]
    told = {"p.onnx": TeacherFile("p.onnx"), family: TeacherFile(family, member="m")}
    assert files_of(words, monkeypatch) == told


@pytest.mark.parametrize("sensor", [{"noise": [0.1, 0.2]}, {"delay": 1}, {"dropout": 0.1}, {"flicker": 0.5}])
def test_a_duel_of_a_student_with_sensors_is_proposed(sensor, tmp_path):
    """`evaluate` shows it what it saw in its run."""
    results, folder = nexts("inconclusive", tmp_path)
    config = {"train": {"student": sensor, "tasks": [{"teacher": [{"path": "t"}]}]}}
    configured(folder, config)
    assert any(words[0] == "evaluate" for _, words in next_steps(results, folder))


def test_a_plan_hides_what_it_is_told_to(monkeypatch, tmp_path):
    """And its batches suit a cell, where a size has one."""
    asked = []
    monkeypatch.setattr("distilrl.cli.searching.plan", lambda _, job, *_args, **_kwargs: asked.append(job) or 1 / 0)
    words = ["plan", "--teacher", "t", "--env", "CartPole-v1", "--hide", "obs[1]", "--out", str(tmp_path / "plan")]
    for sizes in (["mlp:8"], ["mlp:8", "gru:4"]):
        with pytest.raises(ZeroDivisionError):
            parse("plan", [*words[1:], "--sizes", *sizes]).run()
    plain, cell = (job.train for job in asked)
    assert plain.student.hidden_features == cell.student.hidden_features == (1,)
    assert cell.optim.batch_size == 4 * plain.optim.batch_size


def test_what_follows_a_chain_is_about_its_first_teacher(tmp_path):
    """And not about the assistant that taught last."""
    results, folder = nexts("inconclusive", tmp_path)
    last = {"train": {"tasks": [{"teacher": [{"path": "chain/assistant-1"}]}]}}
    configured(folder, last | {"kind": "chain", "given": {"assistants": 1, "teacher": [{"path": "first.zip"}]}})
    (_, words), *_ = next_steps(results, folder)
    assert parse("evaluate", [str(word) for word in words[1:]]).against == "first.zip"
    failed = replace(results, verdict=replace(results.verdict, result="fail"))
    (_, words), *_ = next_steps(failed, folder)
    assert parse("plan", [str(word) for word in words[1:]]).teacher == ("first.zip",)


def test_a_plan_without_a_winner_goes_on_where_it_helps(tmp_path):
    """As it is, with more episodes, where these were too few, else anew with more steps than it was granted."""
    folder = tmp_path / "plan"
    unclear = instances.plan_results(instances.plan_row(verdict="inconclusive"), winner=None, asked=(60, 240))
    results = instances.plan_results(instances.plan_row(verdict="fail"), winner=None, env_steps=2672)
    job = Job(TrainConfig().but(env_steps=8000), Comparison(20, 60)).to_json()
    tasks = [{"teacher": [{"path": "a.zip"}]}]
    configured(folder, job | {"kind": "plan", "train": job["train"] | {"tasks": tasks}})
    ((_, words),) = next_steps(unclear, folder)
    read = parse("plan", [str(word) for word in words[1:]])
    assert (read.resume, read.episodes) == (folder, 320)
    ((_, words),) = next_steps(results, folder)
    read = parse("plan", [str(word) for word in words[1:]])
    assert (read.steps, read.config) == (16_000, folder / "config.json")


@pytest.mark.parametrize("student", ["gru:4", "mlp:8@history=3"])
def test_after_a_student_with_memory_failed_wider_ones_with_memory_are_tried(student, tmp_path):
    results, folder = nexts("fail", tmp_path)
    spec = NetworkSpec.parse(student, (4,), 2)
    made = replace(results.student, spec=to_plain(spec.to_json()))
    (_, words), *_ = next_steps(replace(results, student=made), folder)
    sizes = [NetworkSpec.parse(text, (4,), 2) for text in parse("plan", [str(word) for word in words[1:]]).sizes]
    assert sizes[-1] == spec
    assert all(one.remembers for one in sizes)
    assert [round(one.params / spec.params) for one in sizes[:-1]] == [4, 2]


def test_a_rectified_student_is_followed_by_rectified_ones(tmp_path):
    """Of real actions the command line's own is tanh, which integers cannot hold."""
    results, folder = nexts("fail", tmp_path)
    spec = NetworkSpec.parse("mlp:8+gru:4@relu", (4,), 2)
    made = replace(results.student, spec=to_plain(spec.to_json()), name=spelled(spec, real=True))
    (_, words), *_ = next_steps(replace(results, student=made), folder)
    sizes = parse("plan", [str(word) for word in words[1:]]).sizes
    assert all(suited(text, real=True) == text for text in sizes)
    assert all("@relu" in text for text in sizes)


@pytest.mark.parametrize(
    ("spec", "target", "others"),
    [
        (NetworkSpec((4,), 2, hidden=(8,)), "c", "onnx, int8, torch or web"),
        (NetworkSpec.parse("gru:4", (4,), 2), "c", "onnx, int8 or web"),
        (NetworkSpec.parse("mlp:8@tanh", (4,), 2), "c", "onnx, torch or web"),
        (NetworkSpec.parse("lstm:4+mlp:8@tanh", (4,), 2), "c", "onnx or web"),
        (NetworkSpec.parse("cnn:4k3s2:8", (67,), 2, image=(1, 8, 8)), "c", "onnx, int8, torch or web"),
        (NetworkSpec.parse("resnet:4:8", (1, 8, 8), 2), "onnx", "torch"),
        (NetworkSpec((1, 8, 8), 2, hidden=(8,)), "onnx", "torch"),
    ],
)
def test_a_file_is_proposed_that_can_hold_the_student(spec, target, others, tmp_path):
    results, folder = nexts("pass", tmp_path)
    made = replace(results.student, spec=to_plain(spec.to_json()))
    why, words = next(pair for pair in next_steps(replace(results, student=made), folder) if pair[1][0] == "export")
    assert (why, words[3]) == (f"a file to ship; to {others} too", target)


def test_a_plan_that_was_stopped_in_its_second_asking_goes_on_there(tmp_path):
    _, folder = nexts("no plan", tmp_path)
    command = parse("plan", ["--resume", str(folder), "--episodes", "400"])
    words = shlex.join(["--resume", str(folder), "--episodes", "400"])
    assert _way_on("plan", command) == f"; continue with: distilrl plan {words}"
    assert _way_on("plan", parse("plan", ["--resume", str(folder)])).endswith(shlex.quote(str(folder)))


def test_modules_of_both_environments_are_trusted_in_what_follows(tmp_path):
    """Of the verdict's, where training is elsewhere, and the other way round."""
    results, folder = nexts("pass", tmp_path)
    tasks = [{"env": {"id": "mine:Env-v0"}, "teacher": [{"path": "t"}]}]
    configured(folder, {"train": {"tasks": tasks}, "verdict_env": {"id": "CartPole-v1"}})
    judged = replace(results, environment={"id": "mine:Env-v0"}, verdict_environment={"id": "CartPole-v1"})
    assert [words[-2:] for _, words in next_steps(judged, folder)] == [["--trust", "mine"]] * 2
    configured(folder, {"kind": "plan", "verdict_env": {"id": "mine:Env-v0"}})
    plan = instances.plan_results(instances.plan_row(), verdict_environment={"id": "mine:Env-v0"})
    assert [words[-2:] for _, words in next_steps(plan, folder)] == [["--trust", "mine"]] * 2


def test_who_stops_a_command_that_is_being_read_is_told_no_more():
    assert _way_on("compare", None) == ""
    assert _way_on("distill", None) == ""


@pytest.mark.parametrize("kind", ["teacher", "fail", "no plan"])
def test_what_follows_in_the_folder_where_one_stands_is_named_beside_it(kind, tmp_path, monkeypatch):
    """A finished run in `--out .` ended as a damaged one."""
    results, folder = nexts(kind, tmp_path)
    monkeypatch.chdir(folder)
    named = [word for _, words in next_steps(results, Path()) for word in words if "my run-" in str(word)]
    assert len(named) == 1
    assert Path(named[0]).parent == tmp_path


def test_a_command_that_a_file_fills_with_control_characters_is_none_for_the_terminal(tmp_path, capsys):
    results, folder = nexts("inconclusive", tmp_path)
    measure = {"name": "\x1b]0;mine\x1b\\hello", "how": "last", "better": None, "margin": None}
    comparison = Job(TrainConfig()).to_json()["comparison"] | {"measures": [measure]}
    configured(folder, {"comparison": comparison})
    print_next(results, folder)
    said = capsys.readouterr().err
    assert "?]0;mine?" in said
    assert "\x1b]0" not in said


def test_commands_are_typed_as_the_shell_of_the_system_takes_them():
    words = ["distilrl", "watch", "runs\\my run"]
    assert typed(words, windows=True) == 'distilrl watch "runs\\my run"'
    assert typed(words, windows=False) == "distilrl watch 'runs\\my run'"


def test_a_folder_whose_name_begins_with_a_dash_is_no_option():
    assert typed(["watch", Path("-run"), "--trust", "a"]) == f"watch .{os.sep}-run --trust a"


def test_an_unclear_measure_asks_for_as_many_episodes_as_can_decide_it(tmp_path):
    """The return had passed, and a thousand episodes could not have settled the measure."""
    results, folder = nexts("pass", tmp_path)
    unclear = replace(instances.VERDICT, result="inconclusive", margin=0.002, span=1.0)
    results = replace(results, measures=(replace(instances.measured(), verdict=unclear),))
    assert results.worst == "inconclusive"
    (_, words), *_ = next_steps(results, folder)
    assert words[words.index("--episodes") + 1] == "2200"


def test_too_few_clusters_want_more_of_them(tmp_path):
    """Of forty days a thousand episodes are forty days again."""
    results, folder = nexts("inconclusive", tmp_path)
    verdict = replace(results.verdict, distinct=40, cluster="day", reason="40 clusters by 'day' are too few")
    (why, _), *_ = next_steps(replace(results, verdict=verdict), folder)
    assert why.endswith("on other episodes and more of them, if they bring more than these 40 clusters by 'day'")


def test_of_episodes_that_repeat_themselves_more_are_no_others(tmp_path):
    """Of twenty starts a thousand episodes are twenty again: random actions make others of them."""
    results, folder = nexts("inconclusive", tmp_path)
    results = replace(results, student=replace(results.student, episodes=300))
    for epsilon, asked in ((0.0, "0.01"), (0.05, "0.1")):
        few = replace(
            results, verdict=replace(results.verdict, distinct=20, cluster=None), protocol={"epsilon": epsilon}
        )
        (why, words), *_ = next_steps(few, folder)
        assert why.endswith("more of them, with random actions that tell them apart")
        assert words[words.index("--epsilon") + 1] == asked
    (_, words), *_ = next_steps(replace(few, verdict=replace(few.verdict, distinct=300)), folder)
    assert words[words.index("--epsilon") + 1] == "0.05"
    wild = replace(few, protocol={"epsilon": 0.7})
    (_, words), *_ = next_steps(wild, folder)
    assert words[words.index("--epsilon") + 1] == "1"


def test_the_best_of_a_study_is_asked_again_before_it_ships(tmp_path):
    """It was chosen by the verdicts' own episodes."""
    results, folder = nexts("seeds", tmp_path)
    results = replace(results, verdict=replace(results.verdict, result="pass"))
    proposed = [words for _, words in next_steps(results, folder)]
    assert [words[0] for words in proposed] == ["evaluate", "export", "compare"]
    assert "--fresh" in proposed[0]
    assert proposed[0][1] == proposed[1][1]


def test_a_script_is_no_module_to_be_trusted(tmp_path):
    _, folder = nexts("pass", tmp_path)
    env = EnvRef("Mine-v0", wrappers=("__main__:Mine", "mine:Mine")).to_json()
    configured(folder, {"train": {"tasks": [{"env": env, "teacher": [{"path": "t.zip"}]}]}})
    assert trust_of(RunFolder(folder)) == ["--trust", "mine"]


@pytest.mark.parametrize("command", ["train-teacher", "plan"])
@pytest.mark.parametrize(("option", "value", "setting"), [
    ("--threads", "1", "threads=2"), ("--workers", "0", "workers=1"), ("--check-episodes", "5", "check-episodes=7"),
    ("--network", "mlp:4", "network=mlp:8"), ("--steps", "400", "env-steps=600"),
    ("--stop-return", "5", "at-return=6"), ("--eval-envs", "5", "eval-envs=6"),
    ("--student-delay", "1", "delay=2"), ("--student-noise", "0.1", "noise=[0.2]"),
])  # fmt: skip
def test_an_option_and_a_setting_of_one_thing_are_refused(tmp_path, capsys, command, option, value, setting):
    """The setting won without a word."""
    only = {"--check-episodes": "plan", "--network": "train-teacher", "--stop-return": "train-teacher"}
    only |= dict.fromkeys(("--eval-envs", "--student-delay", "--student-noise"), "plan")
    if only.get(option, command) != command or (command == "plan" and option == "--steps"):
        return
    words = [command, "--env", "CartPole-v1", "--out", str(tmp_path / "out"), option, value, "--set", setting]
    words += ["--teacher", "missing.zip"] if command == "plan" else []
    assert main(words) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"and {option} are of one thing: leave one of them out" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value", "setting"), [
    ("--behaviour", "student", "data.behaviour.name=teacher"), ("--reward-steps", "400", "reward.env_steps=500"),
    ("--eval-envs", "5", "eval-envs=6"), ("--student-dropout", "0.1", "student.dropout=0.2"),
    ("--student-flicker", "0.1", "flicker=0.2"), ("--behaviour", "student", 'behaviour={"name": "teacher"}'),
])  # fmt: skip
def test_an_option_of_distill_and_a_setting_of_one_thing_are_refused(tmp_path, capsys, option, value, setting):
    """The option won without a word."""
    words = ["distill", "--env", "CartPole-v1", "--teacher", "missing.zip", "--student", "mlp:4"]
    assert main([*words, "--out", str(tmp_path / "out"), option, value, "--set", setting]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"and {option} are of one thing: leave one of them out" in said
    assert not (tmp_path / "out").exists()


def test_a_teacher_is_judged_with_random_actions_where_its_own_get_stuck(tmp_path):
    words = ["--env", "CartPole-v1", "--out", str(tmp_path), "--eval-epsilon", "0.01"]
    assert parse("train-teacher", words)._config()[1].eval_epsilon == 0.01


def test_episodes_without_an_environment_are_refused(capsys):
    assert main(["inspect", "missing.zip", "--episodes", "50"]) == 2
    assert "--episodes are played in an environment: give --env too" in " ".join(capsys.readouterr().err.split())


def test_one_task_of_a_run_is_not_made_again_as_a_run_of_its_own(tmp_path, capsys):
    """Its config.json names it first, and so another order of everything random."""
    data = Job(TrainConfig()).to_json() | {"kind": "task"}
    data["train"]["tasks"] = [{"env": {"id": name}, "teacher": [{"path": "t.zip"}]} for name in ("A-v0", "B-v0")]
    write_json(tmp_path / "config.json", data)
    assert main(["distill", "--config", str(tmp_path / "config.json"), "--out", str(tmp_path / "again")]) == 2
    assert "one task of a run of several, which this command does not make" in " ".join(capsys.readouterr().err.split())
    assert main(["sweep", str(tmp_path / "config.json"), "--out", str(tmp_path / "swept")]) == 2
    assert "one task of a run of several, and a sweep is of single runs" in " ".join(capsys.readouterr().err.split())


def test_help_is_broken_where_the_terminal_ends_and_not_where_the_source_does(monkeypatch, capsys):
    """Lines of a word or two stood in between."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["distill", "--help"]) == 0
    lines = [line.strip("│| ") for line in capsys.readouterr().out.splitlines()]
    assert "each with commas." not in lines
    assert "(last," not in lines
    assert any("each with commas." in line for line in lines)
