"""Options that say how environment, method and settings are made, and what a file may import."""

import json
import sys
from dataclasses import replace

import commands
import gymnasium
import pytest
from conftest import SIGN

from distilrl.cli import main
from distilrl.cli.options import settings_of, with_parts
from distilrl.envs import single
from distilrl.envs.make import _described
from distilrl.errors import EnvError, SpecError
from distilrl.files import read_json, write_json
from distilrl.jobs import make_config
from distilrl.metrics import read_metrics
from distilrl.schedules import Schedule
from distilrl.spaces import EnvRef

MODULE = """
import gymnasium
from conftest import SignEnv
from distilrl import recipe, term

class Halved(gymnasium.RewardWrapper):
    def reward(self, reward):
        return reward / 2

def apart(*, student, teacher):
    return (student - teacher).square().mean(1)

def gentle(info):
    return recipe("distil", info).but(learning_rate=2e-3)

def owned(info):
    return recipe("distil", info).but(terms=(term(apart),))

gymnasium.register("Own-v0", entry_point=SignEnv, max_episode_steps=50)
"""


QUICK = ["--steps", "480", "--set", "learning-starts=160", "--episodes", "60", "--disturbed-episodes", "0"]
QUICK += ["--margin-abs", "10"]  # whatever it has learnt in these steps passes


def distill(teacher, out, *more, **named):
    """The exit code of the shortest distillation."""
    return commands.distill(teacher, out, *QUICK, *more, **named)


@pytest.fixture
def no_report(monkeypatch):
    """A run ends without its report, which takes longer than the run."""
    monkeypatch.setattr(sys.modules["distilrl.distill"], "write_reports", lambda *_given, **_named: None)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's own, which nothing has imported or trusted yet."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(single, "_trusted", set())
    yield name
    sys.modules.pop(name, None)
    gymnasium.registry.pop("Own-v0", None)


def test_a_setting_of_another_group_is_not_taken_for_one_of_the_same_name():
    assert settings_of(("optim.learning-rate=0.01", "env_steps=400", "data.env-steps=300")) == {
        "learning_rate": 0.01, "env_steps": 300,
    }  # fmt: skip
    for text in ("stop.env_steps=400", "teacher.network=mlp:3", "nonsense.learning-rate=0.1"):
        with pytest.raises(SpecError, match=f"--set {text}: write NAME=VALUE"):
            settings_of((text,))


def test_terms_and_the_stage_with_reward_are_set_by_their_place():
    config = make_config("adversarial_states", "CartPole-v1")
    words = ("reward.env_steps=400", "terms.1.radius=0.3", "terms.0.weight=2", "terms.0.teacher-temperature=0.5")
    assert settings_of(words) == {}
    changed = with_parts(config, words)
    assert (changed.reward.env_steps, changed.terms[1].radius) == (400, 0.3)
    assert (changed.terms[0].weight, changed.terms[0].teacher_temperature) == (Schedule(2.0), 0.5)
    assert changed.but(reward=config.reward, terms=config.terms) == config
    assert with_parts(config, ("learning-rate=0.1",)) is config
    acts = with_parts(config, ("data.behaviour.beta=0.25", "data.behaviour.labels.0=0.5")).data.behaviour
    assert (acts.beta, acts.labels) == (Schedule(0.25), (Schedule(0.5),))
    assert acts.epsilon == config.data.behaviour.epsilon, "what is not named stays as the recipe has it"
    for text in ("terms.2.radius=1", "terms.0.radius=1", "terms.radius=1", "reward.nonsense=1"):
        with pytest.raises(SpecError, match=f"--set {text}: the configuration of 'adversarial_states' has no"):
            with_parts(config, (text,))
    for text, words in {"terms.1.radius=far": "radius", "terms=3": "must be a list", "reward=1": "reward"}.items():
        with pytest.raises(SpecError, match=words):
            with_parts(config, (text,))


def returns(capsys, *words):
    """Mean return that `evaluate` prints."""
    assert main(["evaluate", *words, "--episodes", "10", "--threads", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["return_mean"]


def test_the_environment_is_made_as_the_options_say(teacher, capsys, own_module):
    assert returns(capsys, teacher, "--env", SIGN) == 10.0
    assert returns(capsys, teacher, "--env", SIGN, "--wrapper", f"{own_module}:Halved") == 5.0
    twice = ["--wrapper", f"{own_module}:Halved"] * 2
    assert returns(capsys, teacher, "--env", SIGN, *twice) == 2.5
    faulty = [teacher, "--env", "distilrl/FaultyEnv-v0"]
    assert returns(capsys, *faulty, "--env-kwargs", "{}") == 10.0
    assert main(["evaluate", *faulty, "--env-kwargs", '{"fault": "step"}']) == 2
    assert "broken in step" in " ".join(capsys.readouterr().err.split())


def test_how_a_teacher_is_accepted_and_how_many_environments_are_held(teacher, tmp_path, no_report):
    words = ["--accept-episodes", "10", "--accept-max-episodes", "15", "--eval-envs", "7"]
    assert distill(teacher, tmp_path / "run", *words) == 0
    config = read_json(tmp_path / "run" / "config.json")
    assert (config["accept_episodes"], config["accept_max_episodes"]) == (10, 15)
    assert config["train"]["compute"]["eval_envs"] == 7
    assert read_json(tmp_path / "run" / "teacher.json")["acceptance"]["episodes"] == 10


def test_any_setting_by_its_name(teacher, tmp_path, no_report):
    words = ["--set", "learning-rate=0.001", "--set", "optim.batch-size=64", "--set", "hidden_features=[1]"]
    words += ["--set", "standardise=no", "--set", 'behaviour={"name": "student"}', "--reward-steps", "640"]
    assert distill(teacher, tmp_path / "run", *words) == 0
    train = read_json(tmp_path / "run" / "config.json")["train"]
    assert train["optim"]["learning_rate"] == 0.001
    assert train["optim"]["batch_size"] == 64
    assert train["optim"]["standardise"] == "no"
    assert train["student"]["hidden_features"] == [1]
    assert train["data"]["behaviour"]["name"] == "student"
    assert train["reward"]["env_steps"] == 640
    assert train["data"]["env_steps"] == 480
    results = read_json(tmp_path / "run" / "results.json")
    assert "then 2 rounds with reward" in results["stopped"]
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    assert int(rows[-1]["env_steps"]) == results["env_steps"] == int(rows[-2]["env_steps"]) + 640
    assert rows[-1]["agreement"] == ""  # nobody is imitated there


def test_a_recipe_of_ones_own(teacher, tmp_path, own_module, no_report):
    assert distill(teacher, tmp_path / "run", "--recipe", f"{own_module}:gentle") == 0
    train = read_json(tmp_path / "run" / "config.json")["train"]
    assert train["recipe"] == f"{own_module}:gentle"
    assert train["optim"]["learning_rate"] == 2e-3
    assert read_json(tmp_path / "run" / "results.json")["recipe"] == f"{own_module}:gentle"


def test_a_loss_of_ones_own_is_imported_from_a_file_where_its_module_is_trusted(
    teacher, tmp_path, own_module, capsys, monkeypatch
):
    run, again = tmp_path / "run", tmp_path / "again"
    monkeypatch.setattr(single, "_trusted", set())
    assert distill(teacher, run, "--recipe", f"{own_module}:owned") == 0
    assert read_json(run / "config.json")["train"]["terms"][0]["loss"] == f"{own_module}:apart"
    assert "nan" not in (run / "metrics.csv").read_text()
    assert f"--trust {own_module}" in (run / "report.html").read_text()
    monkeypatch.setattr(sys.modules["distilrl.distill"], "write_reports", lambda *_given, **_named: None)
    words = ["distill", "--config", str(run / "config.json"), "--out", str(again)]
    monkeypatch.setattr(single, "_trusted", set())
    capsys.readouterr()
    assert main(words) == 2
    assert f"pass --trust {own_module}" in " ".join(capsys.readouterr().err.split())
    assert not again.exists()
    assert main([*words, "--trust", own_module]) == 0
    assert main(["distill", "--resume", str(again), "--trust", own_module]) == 0
    students = [(folder / "student" / "student.safetensors").read_bytes() for folder in (run, again)]
    assert students[0] == students[1]


@pytest.mark.parametrize(
    ("kwargs", "asked"),
    [
        ({"other": "pwn.Car"}, "pwn.Car"),
        ({"config": {"vehicles": ["plain", "pwn:Env-v0"]}}, "pwn"),
        ({"game": "runs/theirs/student/doom"}, "runs/theirs/student/doom"),
        ({"a b": "..\\\\doom.exe"}, None),
    ],
)
def test_what_a_file_makes_an_environment_with_names_no_code_either(own_module, monkeypatch, kwargs, asked):
    """A trusted package imports and runs what its kwargs say: highway-env a class, ViZDoom a program."""
    monkeypatch.setattr(single, "_trusted", {own_module})
    found = EnvRef.from_json({"id": f"{own_module}:Own-v0", "kwargs": kwargs}, "environment")
    with pytest.raises(EnvError, match=r"made with .* which may name code that it runs: pass --trust ") as refused:
        single.find_spec(found)
    single.find_spec(replace(found, named=True))  # written by the user
    if asked is not None:
        assert str(refused.value).endswith(f"--trust {asked} if you trust it.")
        single.trust(asked)
        single.find_spec(found)


@pytest.mark.parametrize("kwargs", [{"split": "held-out", "years": [2013, 2018]}, {"untried": "terminate", "x": 0.5}])
def test_plain_words_are_no_code(own_module, monkeypatch, kwargs):
    monkeypatch.setattr(single, "_trusted", {own_module})
    single.find_spec(EnvRef.from_json({"id": f"{own_module}:Own-v0", "kwargs": kwargs}, "environment"))
    single.find_spec(EnvRef.from_json({"id": "Ant-v5", "kwargs": {"xml_file": "./ant.xml"}}, "environment"))


def test_a_file_imports_no_module_that_is_not_trusted(teacher, tmp_path, own_module, no_report, capsys):
    assert distill(teacher, tmp_path / "run") == 0
    config = read_json(tmp_path / "run" / "config.json")
    config["train"]["tasks"][0]["env"] = {"id": f"{own_module}:Own-v0"}
    write_json(tmp_path / "theirs.json", config)
    again = ["distill", "--config", str(tmp_path / "theirs.json"), "--out", str(tmp_path / "again")]
    capsys.readouterr()
    for more in ([], ["--trust", "another_module"]):
        assert main([*again, *more]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert said.startswith("error: ")
        assert f"pass --trust {own_module} if you trust it" in said
        assert own_module not in sys.modules
        assert not (tmp_path / "again").exists()
    assert main([*again, "--trust", own_module]) == 0
    assert own_module in sys.modules
    # every command that reads the run's environment from its file asks the same
    run = str(tmp_path / "again")
    for words in (["distill", "--resume", run], ["export", run, "--to", "c"], ["watch", run]):
        single._trusted.clear()
        _described.clear()
        capsys.readouterr()
        assert main(words) == 2
        assert f"--trust {own_module}" in " ".join(capsys.readouterr().err.split())
    for words in (["distill", "--resume", run], ["export", run, "--to", "c"], ["report", run]):
        assert main([*words, "--trust", own_module]) == 0
    single._trusted.clear()
    _described.clear()
    assert main(["verify", f"{run}/export/c"]) == 2
    assert main(["verify", f"{run}/export/c", "--trust", own_module]) == 0


def test_what_the_user_names_needs_no_trust(teacher, tmp_path, own_module, no_report):
    assert distill(teacher, tmp_path / "run", env=f"{own_module}:Own-v0") == 0
    assert main(["report", str(tmp_path / "run")]) == 0
