"""A folder holds one thing: nothing begins where something is, and only the same job is continued."""

import functools
import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import VERDICTS
from conftest import SIGN, Killed, killed_after, make_teacher, sign_network
from test_train import small

from distilrl import runs, series
from distilrl.checkpoints import load_network, save_network, save_tensors
from distilrl.cli import main
from distilrl.comparison import Comparison
from distilrl.config import RewardConfig, TaskFile, TrainConfig
from distilrl.distill import distill
from distilrl.errors import DistilError, FileError, ResumeError, SpecError, TeacherError
from distilrl.events import Replaying, Resumed
from distilrl.files import read_json, write_json
from distilrl.heads import Categorical
from distilrl.jobs import Job
from distilrl.metrics import read_metrics
from distilrl.networks import build
from distilrl.objective import FeatureTerm, term
from distilrl.plan import plan
from distilrl.runs import KINDS, RESUMED, RunFolder, machine, read_config
from distilrl.series import distill_chain, distill_seeds
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher
from distilrl.teaching import train_teacher
from distilrl.train import train
from distilrl.viper import TreeConfig, distill_tree

TREE = TreeConfig(leaves=4, iterations=2, states=100)


def job(**changes):
    return Job(
        small(**({"network": "mlp:2", "env_steps": 480, "updates": 1} | changes)),
        Comparison(100, 100, 0, margin_abs=10.0),
        accept_episodes=5,
    )


COMMANDS = {
    "run": lambda teacher, out: distill(teacher, job(), out),
    "teacher": lambda teacher, out: train_teacher(small("dqn", env_steps=480), out, episodes=5),
    "seeds": lambda teacher, out: distill_seeds(teacher, job(), out, 2),
    "chain": lambda teacher, out: distill_chain(teacher, job(), out, 1),
    "plan": lambda teacher, out: plan(teacher, job(), out, sizes=["mlp:2"], seeds=1, refine=False),
    "tree": lambda teacher, out: distill_tree(teacher, job(), out, TREE),
}


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of each kind, as its command leaves it."""
    home = tmp_path_factory.mktemp("made")
    pytest.importorskip("sklearn")
    for kind, command in COMMANDS.items():
        command(make_teacher(sign_network()), home / kind)
    return home


def test_every_call_leaves_its_report(made):
    found = {str(page.parent.relative_to(made)) for page in made.rglob("report.html")}
    assert found == {*COMMANDS, "plan/winner"}


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_over_what_another_left(made, sign_teacher, kind, command):
    before = everything(made / kind)
    assert read_json(made / kind / "config.json")["kind"] == kind
    if kind == command and kind in ("seeds", "chain"):
        COMMANDS[command](sign_teacher, made / kind)  # goes on, and there is nothing left to do
        changed = {name for name, data in everything(made / kind).items() if before.get(name) != data}
        assert changed <= {"results.json"}
        return
    with pytest.raises(FileError, match=f"holds {KINDS[kind]}: choose another --out"):
        COMMANDS[command](sign_teacher, made / kind)
    assert everything(made / kind) == before


@pytest.mark.parametrize(
    "name",
    [
        "results.json", "plan.json", "tree.json", "teacher.json", "spec.json", "seed-0/x", "assistant-1/x", "winner/x",
        "student/x",
    ],
)  # fmt: skip
def test_what_is_left_of_anything_is_enough_to_refuse(sign_teacher, tmp_path, name):
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("{}")
    for command in COMMANDS.values():
        with pytest.raises(FileError, match="already holds"):
            command(sign_teacher, tmp_path / "run")
    assert everything(tmp_path / "run") == {name: b"{}"}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("there", [False, True])
def test_what_fails_at_once_leaves_nothing_behind(monkeypatch, tmp_path, command, there):
    def broken(*_, **__):
        raise ZeroDivisionError

    out = tmp_path / "run"
    if there:
        out.mkdir()
    # as the function that somebody's teacher is may be
    monkeypatch.setattr(importlib.import_module("distilrl.distill"), "accept", broken)
    monkeypatch.setattr(importlib.import_module("distilrl.teaching"), "train", broken)
    with pytest.raises(ZeroDivisionError):
        COMMANDS[command](make_teacher(sign_network()), out)
    assert out.exists() == there
    assert not list(tmp_path.rglob("*.*"))


def test_files_of_the_users_are_no_hindrance(sign_teacher, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "seed-corn").mkdir()
    distill(sign_teacher, job(), tmp_path, report=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"learning_rate": 1e-4}, "train.optim.learning_rate"),
        ({"env_steps": 1600}, "train.data.env_steps"),
        ({"seed": 5}, "train.seed"),
        ({"terms": small("dkd").terms}, r"train.terms\[0\].loss"),
        ({"behaviour": replace(small().data.behaviour, name="student")}, "train.data.behaviour.name"),
        ({"reward": RewardConfig(env_steps=100)}, "train.reward.env_steps"),
        ({"tasks": (TaskFile(EnvRef(SIGN, {"max_episode_steps": 9})),)}, r"train.tasks\[0\].env.kwargs"),
    ],
)
def test_another_job_is_not_continued(made, sign_teacher, change, name):
    other = replace(job(), train=job().train.but(**change))
    calls = {
        "run": lambda out: distill(sign_teacher, other, out, resume=True),
        "seeds": lambda out: distill_seeds(sign_teacher, other, out, 2),
        "chain": lambda out: distill_chain(sign_teacher, other, out, 1),
    }
    for kind, call in calls.items():
        before = everything(made / kind)
        with pytest.raises(ResumeError, match=f"begun with another '{name}'"):
            call(made / kind)
        assert everything(made / kind) == before


def test_the_rest_of_the_job_counts_too(made, sign_teacher):
    with pytest.raises(ResumeError, match=r"'comparison.margin_abs' \(10.0, not 2.0\)"):
        distill(
            sign_teacher, replace(job(), comparison=Comparison(100, 100, 0, margin_abs=2.0)), made / "run", resume=True
        )
    with pytest.raises(ResumeError, match=r"'seeds' \(2, not 3\)"):
        distill_seeds(sign_teacher, job(), made / "seeds", 3)
    with pytest.raises(ResumeError, match="'assistants'"):
        distill_chain(sign_teacher, job(), made / "chain", 2)
    with pytest.raises(ResumeError, match="another 'train\\.data\\.env_steps'"):
        train_teacher(small("dqn", env_steps=1600), made / "teacher", resume=True)


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_command_resumes_its_own_kind_only(made, capsys, kind):
    before = everything(made / kind)
    for command in dict.fromkeys(RESUMED.values()):
        own = {name for name, by in RESUMED.items() if by == command}
        if kind not in own:
            assert main([command, "--resume", str(made / kind)]) == 2
            said = " ".join(capsys.readouterr().err.split())
            assert said.startswith("error: ")
            assert said.count(". ") == 0
            assert main([command, "--config", str(made / kind / "config.json"), "--out", str(made / "new")]) == 2
            assert f"is the configuration of {KINDS[kind]}" in " ".join(capsys.readouterr().err.split())
            assert not (made / "new").exists()
    assert everything(made / kind) == before


@pytest.mark.parametrize(
    ("kind", "command", "words"),
    [
        ("seeds", ["export", "--to", "c"], "holds no student of its own: give {0}/seed-0 or {0}/seed-1."),
        ("seeds", ["watch"], "give {0}/seed-0"),
        ("seeds", ["inspect"], "give {0}/seed-0"),
        ("tree", ["export", "--to", "onnx"], "holds a tree, which is written as C: export it to c."),
    ],
)
def test_who_wants_a_student_is_told_where_it_is(made, capsys, kind, command, words):
    assert main([*command, str(made / kind)]) == 2
    assert words.format(made / kind) in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["run", "tree"])
def test_what_cannot_be_drawn_is_watched_as_curves(made, capsys, kind):
    assert main(["watch", str(made / kind)]) == 0
    assert "cannot draw itself" in capsys.readouterr().err
    (made / kind / "watch.svg").unlink()


@pytest.mark.parametrize("kind", ["run", "seeds", "plan", "tree"])
def test_who_wants_what_is_not_there_yet_gets_a_way_out_that_there_is(made, tmp_path, capsys, kind):
    (tmp_path / kind).mkdir()
    shutil.copy(made / kind / "config.json", tmp_path / kind)
    for command in (["report"], ["watch"], ["export", "--to", "c"], ["inspect"]):
        assert main([*command, str(tmp_path / kind)]) == 2
        assert "continue it with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "command"), [("plan", "plan"), ("tree", "tree")])
def test_distill_sends_another_kind_of_folder_to_its_command(made, capsys, kind, command):
    """A plan's was taken for a study over its seeds, and sent back to --resume."""
    assert main(["distill", "--resume", str(made / kind)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"which cannot be continued as a run: give --resume to distilrl {command}" in said


@pytest.mark.parametrize("content", ["[]", '{"frontier": null}', '{"frontier": [1]}'])
def test_a_damaged_plan_is_no_fault_of_ours(tmp_path, capsys, content):
    (tmp_path / "config.json").write_text('{"kind": "plan"}')
    (tmp_path / "plan.json").write_text(content)
    for command in (["watch"], ["export", "--to", "c"]):
        assert main([*command, str(tmp_path)]) == 2
        assert str(tmp_path) in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("content", ["{", "[]", '{"sensors": 1}'])
def test_a_student_beside_damaged_results_is_evaluated(made, tmp_path, capsys, content):
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(content)
    assert main(["evaluate", str(tmp_path / "run"), "--env", SIGN, "--episodes", "10", "--threads", "1"]) == 0
    assert "return" in capsys.readouterr().out


def test_a_damaged_assistant_is_no_fault_of_ours(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"kind": "chain"}')
    (tmp_path / "assistant-1").mkdir()
    (tmp_path / "assistant-1" / "results.json").write_text("[]")
    assert main(["watch", str(tmp_path)]) == 2
    assert "continue it with --resume" in capsys.readouterr().err


def test_a_tree_is_not_resumed_as_a_network(made, sign_teacher):
    with pytest.raises(
        ResumeError, match="holds a tree, which cannot be continued as a run: give --resume to distilrl tree"
    ):
        distill(sign_teacher, job(), made / "tree", resume=True)


def test_a_configuration_that_lacks_what_has_a_default_is_continued(made, sign_teacher, tmp_path):
    ways = {
        "run": lambda out: distill(sign_teacher, job(), out, resume=True, report=False),
        "teacher": lambda out: train_teacher(small("dqn", env_steps=480), out, episodes=5, resume=True, report=False),
    }
    for kind, again in ways.items():
        shutil.copytree(made / kind, tmp_path / kind)
        data = read_json(tmp_path / kind / "config.json")
        del data["train"]["stop"]["drift_threshold"]
        write_json(tmp_path / kind / "config.json", data)
        tensors, state = RunFolder(made / kind).load_state()
        bound = {"state": state, "config": None, "machine": machine()}
        save_tensors(tmp_path / kind / "checkpoint" / "state.safetensors", tensors, bound)
        again(tmp_path / kind)


@pytest.mark.parametrize("kind", ["run", "seeds", "chain", "plan", "tree"])
def test_what_is_finished_is_not_another_teachers(made, kind):
    """A file of the same name may have other weights by now."""
    before, other = everything(made / kind), replace(make_teacher(sign_network()), digest="1" * 64)
    again = COMMANDS | {
        "run": lambda teacher, out: distill(teacher, job(), out, resume=True),
        "plan": lambda teacher, out: plan(teacher, job(), out, sizes=["mlp:2"], seeds=1, refine=False, resume=True),
        "tree": lambda teacher, out: distill_tree(teacher, job(), out, TREE, resume=True),
    }
    with pytest.raises(ResumeError, match="started with another teacher"):
        again[kind](other, made / kind)
    assert everything(made / kind) == before


@pytest.fixture
def words(tmp_path):
    """A command line that distils in few steps; its teacher is in a file."""
    save_network(tmp_path / "teacher", sign_network(), Categorical(Choices((2,))), name="teacher")
    steps = ["--steps", "810", "--episodes", "60", "--disturbed-episodes", "0", "--threads", "1"]
    steps += ["--margin-abs", "10"]  # a chain goes on to its end
    return ["distill", "--teacher", str(tmp_path / "teacher"), "--env", SIGN, "--student", "mlp:2", *steps]


@pytest.mark.parametrize("more", [["--seeds", "2"], ["--assistants", "1"]])
def test_a_series_that_was_cut_short_is_resumed_and_done_again(words, tmp_path, monkeypatch, more):
    monkeypatch.setattr("distilrl.report.write_report", lambda *_given, **_named: None)  # longer than the runs
    calls = []

    def cut(one, *given, **named):
        calls.append(given)
        if len(calls) == 2:
            raise Killed
        return one(*given, **named)

    with monkeypatch.context() as patch:
        for one in (series.distill, series.run_job):  # by which a seed is done, and a link of a chain
            patch.setattr(series, one.__name__, functools.partial(cut, one))
        assert main([*words, *more, "--out", str(tmp_path / "run")]) == 70
    config = str(tmp_path / "run" / "config.json")
    assert main(["distill", "--resume", str(tmp_path / "run")]) in VERDICTS
    assert main(["distill", "--config", config, "--out", str(tmp_path / "again")]) in VERDICTS
    for name in ("seed-0", "seed-1") if more[0] == "--seeds" else ("assistant-1", "."):
        one, two = (read_json(tmp_path / run / name / "student" / "spec.json")["sha256"] for run in ("run", "again"))
        assert one == two
    assert main([*words, *more, "--out", str(tmp_path / "run")]) in VERDICTS
    words[words.index("--margin-abs") + 1] = "15"
    assert main([*words, *more, "--out", str(tmp_path / "run")]) == 2


def test_a_chains_folder_may_be_spelled_in_another_way(words, tmp_path, monkeypatch):
    monkeypatch.setattr("distilrl.report.write_report", lambda *_given, **_named: None)
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--assistants", "1", "--out", str(tmp_path / "run")]) == 0
    assert main([*words, "--assistants", "1", "--out", "run"]) == 0


@pytest.mark.parametrize("command", ["run", "seeds", "chain", "plan", "tree"])
def test_a_weak_teacher_leaves_nothing_that_hinders_the_advised_retry(tmp_path, command):
    weak = make_teacher(sign_network(-1.0))
    with pytest.raises(TeacherError, match="accept-weak-teacher"):
        COMMANDS[command](weak, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # the user's own: it stays
    with pytest.raises(TeacherError):
        COMMANDS[command](weak, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []
    retry = replace(job(), accept_weak_teacher=True)
    with pytest.raises(TeacherError, match="--margin-abs"):
        COMMANDS[command](weak, tmp_path / "run")
    retry = replace(retry, comparison=replace(retry.comparison, margin_abs=1.0))
    distill(weak, retry, tmp_path / "run", report=False)


def test_a_run_of_before_is_not_taken_for_the_folder_of_a_task(made, sign_teacher, tmp_path):
    """A finished run under the name of an environment was overwritten by a run of several in the folder above."""
    shutil.copytree(made / "run", tmp_path / "runs" / RunFolder("x").of_task(SIGN).path.name)
    before = everything(tmp_path)
    two = small(
        network="mlp:4,4", env_steps=480, tasks=(TaskFile(EnvRef(SIGN)), TaskFile(EnvRef("distilrl/LateEnv-v0")))
    )
    with pytest.raises(FileError, match="already holds a run: choose another --out"):
        distill([sign_teacher] * 2, replace(job(), train=two), tmp_path / "runs")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "words", [["report"], ["distill", "--resume"], ["watch"], ["export"], ["evaluate", "--env", SIGN]]
)
def test_a_name_that_no_file_can_have_is_one_sentence(capsys, words):
    """Path.exists raises where it should say no."""
    assert main([*words, "x" * 300]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_weak_teacher_of_one_task_leaves_nothing_either(tmp_path):
    two = small(
        network="mlp:4,4", env_steps=480, tasks=(TaskFile(EnvRef(SIGN)), TaskFile(EnvRef("distilrl/ForgetfulEnv-v0")))
    )
    with pytest.raises(TeacherError):
        distill(
            [make_teacher(sign_network()), make_teacher(sign_network(-1.0))],
            replace(job(), train=two),
            tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_of_runs_that_start_at_once_one_goes_on(tmp_path):
    for number in range(30):
        outcomes, start = [], threading.Barrier(4)

        def begin(folder, seed, outcomes=outcomes, start=start):
            start.wait()
            try:
                folder.begin(Job(TrainConfig(seed=seed)).to_json())
            except FileError as error:
                outcomes.append(str(error))
            else:
                outcomes.append(seed)

        folder = RunFolder(tmp_path / str(number))
        threads = [threading.Thread(target=begin, args=(folder, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (winner,) = [outcome for outcome in outcomes if isinstance(outcome, int)]
        assert all("already holds a run" in outcome for outcome in outcomes if outcome != winner)
        assert json.loads(folder.config.read_text())["train"]["seed"] == winner
        assert [path.name for path in folder.path.iterdir()] == ["config.json"]


def test_claiming_works_without_links_too(tmp_path, monkeypatch):
    def refused(*_given):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    folder = RunFolder(tmp_path / "run")
    folder.begin({"train": {}})
    assert read_config(folder.config) == {"kind": "run", "train": {}}
    monkeypatch.setattr(RunFolder, "_found", lambda _folder: [])
    with pytest.raises(FileError, match="already holds a run"):
        folder.begin({"train": {"seed": 1}})
    assert read_config(folder.config) == {"kind": "run", "train": {}}
    assert [path.name for path in folder.path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reused_head": True}, "has a head to reuse"),
        ({"start": "svd"}, "gives a start"),
        ({"start": "strongest"}, "gives a start"),
        ({"share": "convolutions"}, "no convolutions to share"),
        ({"network": "cnn:8:8"}, "needs (C, H, W)"),
    ],
)
def test_a_student_that_cannot_be_made_is_refused_before_the_first_step(tmp_path, monkeypatch, changes, words):
    def accepted(*_, **__):
        raise AssertionError

    monkeypatch.setattr(importlib.import_module("distilrl.distill"), "accept", accepted)
    rule = Teacher.from_callable(lambda obs: (obs[:, 0] > 0).long(), name="rule")
    envs = (SIGN,) if "start" in changes else (SIGN, "distilrl/LateEnv-v0")  # several tasks start anew
    tasks = tuple(TaskFile(EnvRef(env)) for env in envs)
    with pytest.raises(SpecError, match=re.escape(words)):
        distill([rule] * len(envs), job(**changes, tasks=tasks), tmp_path / "run")
    assert not (tmp_path / "run").exists()


HINT = (term("forward_kl"), FeatureTerm("hint", taps="layers.1=nope"))
BEGUN = {
    "run": lambda teacher, job, out: distill(teacher, job, out),
    "seeds": lambda teacher, job, out: distill_seeds(teacher, job, out, 2),
    "chain": lambda teacher, job, out: distill_chain(teacher, job, out, 1),
    "tree": lambda teacher, job, out: distill_tree(teacher, job, out, TREE),
}


@pytest.mark.parametrize(
    ("command", "changes", "words"),
    [
        ("run", {"network": "mlp:", "dueling": True}, "A dueling head needs a layer before it"),
        ("seeds", {"network": "mlp:", "dueling": True}, "A dueling head needs a layer before it"),
        ("run", {"network": "mlp:", "terms": (FeatureTerm("hint"),)}, "no hidden layer that can be tapped"),
        ("run", {"terms": HINT}, "There is no module 'nope'"),
        ("chain", {"terms": HINT}, "There is no module 'nope'"),
        ("chain", {"prune_from": "mlp:6"}, "'prune_from' is of one student"),
        ("tree", {"noise": (0.1, 0.1, 0.1)}, "'noise' needs one standard deviation per number"),
        ("tree", {"round_steps": 8}, "'round_steps' is 8, but here each step is waited for"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_written(tmp_path, command, changes, words):
    """The teacher was played first, and what was written stood in the way of the run that was meant."""
    wide = make_teacher(build(NetworkSpec((2,), 2, hidden=(64,)), torch.Generator().manual_seed(0)))
    with pytest.raises(SpecError, match=words):
        BEGUN[command](wide, job(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_several_environments_is_refused(tmp_path):
    """All were trained, and one was shown."""
    two = small("dqn", env_steps=480, tasks=tuple(TaskFile(EnvRef(env)) for env in (SIGN, "distilrl/LateEnv-v0")))
    with pytest.raises(SpecError, match="train one for each"):
        train_teacher(two, tmp_path / "run")
    with pytest.raises(SpecError, match="'initial' is the student of one task"):
        train(two, None, initial=sign_network())
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A run that was killed behind its second checkpoint."""
    run, teacher = tmp_path_factory.mktemp("killed") / "run", make_teacher(sign_network())
    with pytest.raises(Killed):
        distill(teacher, job(check_every=160, gap=-9.0), run, watch=killed_after(400))
    return run


@pytest.fixture
def cut(killed, tmp_path):
    """A copy of it, to be damaged."""
    return shutil.copytree(killed, tmp_path / "cut")


def go_on(folder, teacher, watch=lambda _event: None):
    return distill(teacher, job(check_every=160, gap=-9.0), folder, resume=True, watch=watch, report=False)


def test_a_checkpoint_belongs_to_its_configuration(cut, sign_teacher):
    data = read_json(cut / "config.json")
    data["train"]["optim"]["learning_rate"] = 0.5
    write_json(cut / "config.json", data)
    other = Job.from_json(data)
    before = everything(cut)
    with pytest.raises(
        ResumeError, match=r"checkpoint belongs to \('train.optim.learning_rate' was .* and is 0.5\): put"
    ):
        distill(sign_teacher, other, cut, resume=True)
    assert everything(cut) == before


def test_who_goes_on_elsewhere_is_told_what_differs(cut, sign_teacher, monkeypatch):
    events = []
    here = runs.machine()
    monkeypatch.setattr(runs, "machine", lambda: here | {"torch": "3.0", "processor": "abacus DEFAULT"})
    go_on(cut, sign_teacher, events.append)
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert re.fullmatch(r"torch 3.0 \(was .*\)", resumed.moved[0])
    assert re.fullmatch(r"processor abacus DEFAULT \(was .*\)", resumed.moved[1])


def test_a_resumed_run_on_the_same_machine_has_nothing_to_say(cut, sign_teacher):
    events = []
    go_on(cut, sign_teacher, events.append)
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert resumed.moved == ()
    assert resumed.env_steps == [event.total for event in events if isinstance(event, Replaying)][-1] > 0


def test_the_half_of_a_file_that_a_kill_left_in_a_checkpoint_is_cleared_away(cut, sign_teacher):
    (cut / "student").mkdir(exist_ok=True)
    homes = ("checkpoint", "student", ".", "winner/student", "distilrl-SignEnv-v0/student")
    for home in homes[3:]:
        (cut / home).mkdir(parents=True)
    halves = [cut / folder / ".0123456789abcdef.tmp" for folder in homes]
    owns = [cut / "notes.tmp", cut / ".notes.tmp"]
    for half in halves:
        half.write_bytes(bytes(100))
    for own in owns:
        own.write_text("the user's")
    go_on(cut, sign_teacher)
    assert not any(half.exists() for half in halves)
    assert all(own.exists() for own in owns)


def test_damage_to_a_checkpoint_is_found(cut, sign_teacher):
    path = cut / "checkpoint" / "state.safetensors"
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for at in [9, len(whole) - 1, *rng.integers(0, len(whole), 30)]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(FileError, match=r"state.safetensors is not a readable safetensors file \(.*\): copy it"):
            go_on(cut, sign_teacher)
    for end in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(FileError, match=r"state.safetensors is not a readable"):
            go_on(cut, sign_teacher)


TAMPERED = {
    "a tensor is gone": lambda tensors, _state: tensors.pop("average.0.layers.0.bias"),
    "its shape is another": lambda tensors, _state: tensors.update({"adam.0.exp_avg": torch.zeros(7, 3)}),
    "no tensors": lambda tensors, _state: tensors.clear(),
    "no state": lambda _tensors, state: state.clear(),
    "no track": lambda _tensors, state: state.pop("track"),
    "updates are a text": lambda _tensors, state: state.update(updates="x"),
    "tasks are a text": lambda _tensors, state: state.update(tasks="x"),
    "too many tasks": lambda _tensors, state: state["tasks"].append({}),
    "a check is a list": lambda _tensors, state: state["track"]["history"].append([1]),
    "a check without steps": lambda _tensors, state: state["track"]["history"][0].update(env_steps=None),
    "no checks": lambda _tensors, state: state["track"].update(history=None),
    "stopped is no text": lambda _tensors, state: state["track"].update(stopped=True),
    "what was measured is gone": lambda _tensors, state: state["tasks"][0]["measured"].clear(),
    "what was measured is a text": lambda _tensors, state: state["tasks"][0]["measured"].update(entropy="x"),
    "no generator": lambda _tensors, state: state["tasks"][0].update(rng={"a": 1}),
    "a number too large": lambda _tensors, state: state["tasks"][0]["collector"].update(held=[[10**30]]),
    "an array of another shape": lambda _tensors, state: state["tasks"][0]["collector"].update(held=np.zeros((3, 7))),
    "an array is a text": lambda _tensors, state: state["tasks"][0]["collector"].update(held_for="x"),
    "what was kept is cut": lambda tensors, _state: tensors.update({"task.0.kept.0.layers.0.bias": torch.zeros(0)}),
    "a moment is gone": lambda tensors, _state: tensors.pop("adam.0.exp_avg"),
    "two counts of steps": lambda tensors, _state: tensors.update({"adam.0.step": torch.zeros(2)}),
}


@pytest.mark.parametrize(
    ("left", "words"),
    [("checkpoint", "it was being written, continue its run"), ("other", "is damaged, copy it again")],
)
def test_a_student_between_two_writes_is_continued_and_not_copied(made, tmp_path, left, words):
    shutil.copytree(made / "run" / "student", tmp_path / "student")
    (tmp_path / left).mkdir()
    with (tmp_path / "student" / "student.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(FileError, match=words):
        load_network(tmp_path / "student")


@pytest.mark.parametrize("how", TAMPERED)
def test_a_checkpoint_that_was_tampered_with_is_one_sentence(cut, sign_teacher, how):
    tensors, state = RunFolder(cut).load_state()
    TAMPERED[how](tensors, state)
    RunFolder(cut).save_state(tensors, state)
    with pytest.raises(ResumeError, match=r"The checkpoint does not fit this run \(.*\): begin another") as caught:
        go_on(cut, sign_teacher)
    assert "\n" not in str(caught.value)


def test_a_tensorboard_that_cannot_be_imported_is_none(cut, sign_teacher, monkeypatch):
    """Beside another protobuf its import raises a TypeError."""

    class Broken:
        def __getattr__(self, name):
            raise TypeError("Descriptors cannot be created directly.")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Broken())
    go_on(cut, sign_teacher)


def test_the_folder_of_a_task_is_named_so_that_windows_takes_it(tmp_path):
    found = RunFolder(tmp_path).of_task('my_module:Env-v0 {"a": 1}').path.name
    assert found == "my_module-Env-v0 {-a-- 1}"


@pytest.mark.parametrize(
    "how", ["a file in its place", "SummaryWriter", "SummaryWriter.add_scalar", "SummaryWriter.close"]
)
def test_a_place_of_tensorboard_that_cannot_be_written_is_one_sentence(cut, sign_teacher, monkeypatch, how):
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    if how == "a file in its place":
        shutil.rmtree(cut / "tensorboard")
        (cut / "tensorboard").write_text("a file")
    else:

        def full(*_given, **_named):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(f"torch.utils.tensorboard.{how}", full)
    with pytest.raises(FileError, match=r"Cannot write .*tensorboard \(.*\): choose a writable folder") as caught:
        go_on(cut, sign_teacher)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"acceptance": None},
        {"acceptance": {}},
        {"sha256": 3},
        {"sha256": "1" * 64},
        {"head": None},
        {"kind": []},
        {"meta": 3},
        {"params": "x"},
        {"return_mean": "x"},
        {"return_mean": float("inf")},
        {"longest_episode": -1},
    ],
    ids=str,
)
def test_a_teachers_card_that_was_tampered_with_is_one_sentence(cut, sign_teacher, wrong):
    card = read_json(cut / "teacher.json")
    if isinstance(wrong, dict) and set(wrong) <= set(card["acceptance"]):
        wrong = {"acceptance": card["acceptance"] | wrong}
    (cut / "teacher.json").write_text(json.dumps(card | wrong if isinstance(wrong, dict) else wrong))
    with pytest.raises(DistilError) as caught:
        go_on(cut, sign_teacher)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"a,b\n1\n", b"", b"env_steps\nx\n", b"x" * 300_000])
def test_damaged_metrics_are_written_again(cut, sign_teacher, data):
    (cut / "metrics.csv").write_bytes(data)
    go_on(cut, sign_teacher)
    assert [row["env_steps"] for row in read_metrics(cut / "metrics.csv")] == ["160", "320", "480"]


def test_json_that_no_reader_could_take_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    for text in ("[" * 200_000, "1" * 5_000, '{"a": ', "\x00"):
        path.write_text(text)
        with pytest.raises(FileError, match="cannot be read as JSON"):
            read_json(path)
    path.write_text("1" * 101)
    with pytest.raises(FileError, match="larger than 100 bytes"):
        read_json(path, 100)
    monkeypatch.setattr("distilrl.metrics.MAX_JSON_BYTES", 100)
    with pytest.raises(FileError, match="larger than 100 bytes"):
        read_metrics(path)


def test_a_table_of_more_values_than_a_run_can_have_is_refused(tmp_path, monkeypatch):
    """Two hundred bytes of memory were taken for each line of two."""
    (tmp_path / "metrics.csv").write_text("a\n" + "1\n" * 200)
    assert len(read_metrics(tmp_path / "metrics.csv")) == 200
    monkeypatch.setattr("distilrl.metrics.MAX_VALUES", 100)
    with pytest.raises(FileError, match="it holds more values than a run can have"):
        read_metrics(tmp_path / "metrics.csv")


def test_a_configuration_that_is_changed_while_it_runs_is_not_the_checkpoints(sign_teacher, tmp_path):
    """The next checkpoint said that it belonged to what was written, and a resumed run went on with that."""
    folder = RunFolder(tmp_path / "run")
    folder.begin(job().to_json())
    data = read_json(folder.config)
    data["train"]["optim"]["learning_rate"] = 0.5
    write_json(folder.config, data)
    folder.save_state({"w": torch.zeros(1)}, {})
    with pytest.raises(ResumeError, match=r"checkpoint belongs to \('train.optim.learning_rate' was"):
        RunFolder(tmp_path / "run").load_state()


@pytest.mark.parametrize("name", ["checkpoint", "student"])
def test_a_run_whose_parts_lie_elsewhere_is_not_gone_on_with(cut, sign_teacher, tmp_path, name):
    """Through links inside a folder that somebody sent its checkpoints were written, and a folder taken away."""
    thesis = tmp_path / "thesis"
    (cut / name).rename(thesis) if (cut / name).exists() else thesis.mkdir()
    (cut / name).symlink_to(thesis)
    before = everything(thesis)
    with pytest.raises(FileError, match=f"{name} is a symbolic link to a folder: put the folder itself"):
        go_on(cut, sign_teacher)
    assert everything(thesis) == before


def test_where_folders_cannot_be_locked_a_file_is(tmp_path, monkeypatch):
    """NFS locks what is open for writing, so that two runs went into one folder."""
    fcntl = pytest.importorskip("fcntl", reason="no locks of this kind here")
    real = fcntl.flock

    def of_nfs(held, how):
        if stat.S_ISDIR(os.fstat(held).st_mode):
            raise OSError(9, "Bad file descriptor")
        real(held, how)

    monkeypatch.setattr("fcntl.flock", of_nfs)
    with (
        RunFolder(tmp_path / "run").lock(),
        pytest.raises(FileError, match="Another process is at work in"),
        RunFolder(tmp_path / "run").lock(),
    ):
        pass
    with RunFolder(tmp_path / "run").lock():
        pass


def test_a_task_by_itself_is_told_where_to_go_on(tmp_path):
    """It was sent to --config, which refuses it."""
    home = RunFolder(tmp_path / "both" / "CartPole-v1")
    write_json(home.config, job().to_json() | {"kind": "task"})
    with pytest.raises(ResumeError, match=f"continue the run that it is of with --resume {tmp_path / 'both'}"):
        home.check_kind("run")


HOLDER = """
import sys, time
from distilrl.runs import RunFolder, machine
with RunFolder(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_processes_do_not_work_in_one_folder(cut, sign_teacher):
    fcntl = pytest.importorskip("fcntl", reason="no locks of this kind here")
    assert fcntl
    before = everything(cut)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(cut)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(FileError, match="Another process is at work in"):
            go_on(cut, sign_teacher)
        assert everything(cut) == before
        other.kill()
    go_on(cut, sign_teacher)


def test_a_file_system_without_locks_keeps_nobody_out(cut, sign_teacher, monkeypatch):
    def refused(*_given):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refused)
    go_on(cut, sign_teacher)


def test_each_task_has_its_own_numbers_in_its_metrics(sign_teacher, tmp_path):
    """What the student returned while it learned, and the drift, were the first task's in all of them."""
    short = EnvRef(SIGN, {"max_episode_steps": 5})
    two = small(network="mlp:4,4", env_steps=960, tasks=(TaskFile(EnvRef(SIGN)), TaskFile(short)))
    distill([sign_teacher] * 2, replace(job(), train=two), tmp_path / "run", report=False)
    homes = [RunFolder(tmp_path / "run").of_task(label) for label in (SIGN, short.label)]
    first, second = (read_metrics(home.metrics)[-1] for home in homes)
    assert float(first["training_return"]) > 5.0 >= float(second["training_return"])
    assert first.keys() == second.keys()


def test_assistants_that_cannot_be_told_from_the_student_are_refused(sign_teacher, tmp_path):
    """A student without a hidden layer has no wider one of its kind."""
    linear = replace(job(), train=job().train.but(network="mlp:"))
    with pytest.raises(SpecError, match=r"A student of no hidden layer \(mlp:\) has no wider ones"):
        distill_chain(sign_teacher, linear, tmp_path / "chain", 2)
    assert not (tmp_path / "chain").exists()
