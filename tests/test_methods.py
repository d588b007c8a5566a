"""Every recipe lowers its own terms; several tasks, chains, families, drift, hidden and noisy observations."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from commands import distill as distill_cli
from conftest import SIGN, Killed, SignEnv, killed_after, make_teacher, sign_network
from test_train import ACCEPTANCE, small

from distilrl.checkpoints import load_network, save_network
from distilrl.cli import main
from distilrl.collect import Behaviour
from distilrl.comparison import Comparison
from distilrl.config import TaskFile, TrainConfig
from distilrl.distill import distill
from distilrl.envs import trust
from distilrl.episodes import Play
from distilrl.errors import SpecError, TeacherError
from distilrl.evaluate import play
from distilrl.events import Noticed, silent
from distilrl.heads import Categorical
from distilrl.jobs import Job
from distilrl.networks import Network, build
from distilrl.next_steps import judges_of
from distilrl.objective import term
from distilrl.policies import Policy
from distilrl.recipes import RECIPES, TEACHERLESS
from distilrl.report import _cast
from distilrl.runs import RunFolder
from distilrl.schedules import Progress, Schedule
from distilrl.sensors import Sensors
from distilrl.series import distill_chain, distill_seeds, reptile
from distilrl.spaces import Choices, EnvRef
from distilrl.specs import NetworkSpec
from distilrl.tasks import make_tasks
from distilrl.teachers import Teacher, TeacherFile, ensemble
from distilrl.teaching import evaluate_policy
from distilrl.text import as_file_name
from distilrl.train import train

WITH_REWARD = ("qdagger", "kickstarting", "finetune", "transfer", "dqfd", "reward_aware")


class WideSignEnv(SignEnv):
    """SignEnv with three numbers and three actions, of which the last is never right."""

    observation_space = gymnasium.spaces.Box(-100, 100, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def _observe(self):
        super()._observe()
        self.obs = np.append(self.obs, np.float32(0.5))
        return self.obs


class TurnedSignEnv(SignEnv):
    """SignEnv in which the right actions are the other way round once training has made 4,000 steps."""

    clock = 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.training = seed < 10_000_000
            if seed == 0:
                TurnedSignEnv.clock = 0
        return super().reset(seed=seed, options=options)

    def step(self, action):
        TurnedSignEnv.clock += self.training
        turned = TurnedSignEnv.clock > 4000
        self.obs = self.obs + 10 * turned  # what is seen moves too
        obs, reward, terminated, truncated, info = super().step(action)
        return obs + np.float32(6 * turned), reward, terminated, truncated, info


for env in (WideSignEnv, TurnedSignEnv):
    if f"distilrl/{env.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"distilrl/{env.__name__}-v0", entry_point=env, max_episode_steps=50)

Q_OF_TWO = Categorical(Choices((2,)))
WIDE, TURNED = "distilrl/WideSignEnv-v0", "distilrl/TurnedSignEnv-v0"


def wide_network():
    network = Network(NetworkSpec((3,), 3, hidden=(4,)))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[0].weight[0, 0], network.layers[0].weight[1, 0] = 1.0, -1.0
        network.layers[2].weight[1, 0] = network.layers[2].weight[0, 1] = 1.0
        network.layers[2].bias[2] = -1.0
    return network


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"attention", *TEACHERLESS}))
def test_each_recipe_lowers_its_own_terms(sign_teacher, name):
    changes = {"gamma": 0.5, "n_step": 1} if name in WITH_REWARD else {}
    if name in ("strongest_start", "transfer"):  # a start that is right already, and a term that is felt late
        changes |= {"env_steps": 2400, "check_every": 200}
    else:
        changes |= {"env_steps": 560, "check_every": 80, "learning_starts": 80, "check_episodes": 2}
    config = small(name, gap=-20.0, **changes)
    if name == "dynamic":
        config = config.but(behaviour=replace(config.data.behaviour, labels=(Schedule(1.0),)))
    history = train(config, sign_teacher, acceptance=ACCEPTANCE).history
    for one in config.terms:
        seen = [row[f"loss/{one.name}"] for row in history if row[f"loss/{one.name}"] is not None]
        assert len(seen) >= 2, one.name
        if one.name != "discriminator":  # a game has no end to fall to
            assert min(seen[1:]) < seen[0], (one.name, seen)


def test_attention_needs_maps():
    with pytest.raises(SpecError, match="maps of convolutions"):
        small("attention")


def two_tasks(tmp_path, **changes):
    save_network(tmp_path / "sign", sign_network(), Q_OF_TWO, name="teacher")
    save_network(tmp_path / "wide", wide_network(), Categorical(Choices((3,))), name="teacher")
    both = ((SIGN, "sign"), (WIDE, "wide"))
    tasks = tuple(TaskFile(EnvRef(env_id), (TeacherFile(str(tmp_path / name)),)) for env_id, name in both)
    known = {"network": "mlp:16,8", "env_steps": 6400, "gap": -20.0}
    return small("distil", tasks=tasks, **(known | changes))


@pytest.mark.parametrize("mix", ["one", "all"])
def test_one_student_of_two_tasks_with_different_spaces(tmp_path, mix):
    job = Job(two_tasks(tmp_path, mix=mix, env_steps=3200, learning_rate=0.01), Comparison(200, 200, 0))
    results = distill(None, job, tmp_path / "run", report=False)
    assert [run.verdict.result for run in results.tasks] == ["pass", "pass"]
    assert results.verdict.result == "pass"
    assert results.student.params == (2 * 16 + 16) + (3 * 16 + 16) + (16 * 8 + 8) + (8 * 2 + 2) + (8 * 3 + 3)
    folder = RunFolder(tmp_path / "run")
    bodies = [load_network(folder.of_task(env_id).student).network.layers[2].weight for env_id in (SIGN, WIDE)]
    assert torch.equal(*bodies)
    for env_id in (SIGN, WIDE):
        one = folder.of_task(env_id)
        assert main(["report", str(one.path)]) == 0
        assert Job.from_json(one.read_config()).train.env.id == env_id
        assert main(["evaluate", str(one.path), "--env", env_id, "--episodes", "5"]) == 0
    assert main(["report", str(folder.path)]) == 0
    page = folder.report.read_text(encoding="utf-8")
    assert "One network of" in page
    assert "distilrl-WideSignEnv-v0/report.html" in page


@pytest.mark.parametrize(("network", "told"), [("mlp:16", True), ("mlp:16,8", False)])
def test_students_that_share_no_layer_are_told_of(tmp_path, network, told):
    """One layer behind observations of two shapes is nothing in common: two students, and no word of it."""
    events = []
    distill(
        None, Job(two_tasks(tmp_path, network=network, env_steps=480), Comparison(20, 20, 0)), tmp_path / "run",
        report=False, watch=events.append,
    )  # fmt: skip
    words = [event.words for event in events if isinstance(event, Noticed) and "share no layer" in event.words]
    assert bool(words) == told


def test_tasks_of_one_folder_are_refused():
    """The second's student was written over the first's."""
    one = TaskFile(EnvRef(SIGN))
    for other in (replace(one.env, stack=2), replace(one.env, id=SIGN.upper())):
        with pytest.raises(SpecError, match=r"Two tasks would have one folder, that of (?i:distilrl.SignEnv-v0)"):
            small("distil", tasks=(one, replace(one, env=other)), network="mlp:16,8")


def test_folders_of_tasks_have_names_that_a_disk_takes(tmp_path):
    long = [EnvRef(SIGN, {"members": [*range(100), end]}).label for end in (1, 2)]
    names = [RunFolder(tmp_path).of_task(label).path.name for label in long]
    assert len(set(names)) == 2
    assert max(len(name.encode()) for name in names) <= 120
    assert RunFolder(tmp_path).of_task('a:B-v0 {"é": "?"}').path.name == "a-B-v0 {-é-- ---}"
    assert len(as_file_name("é" * 200).encode()) <= 120
    assert [as_file_name(text) for text in ("..", ".", "", "...", ".a")] == ["--", "-", "-", "---", ".a"]


@pytest.mark.parametrize("mix", ["one", "all"])
def test_several_tasks_resume_to_the_same_bytes(tmp_path, mix):
    config = two_tasks(tmp_path, mix=mix, env_steps=2000, check_every=200, check_episodes=5, updates=2)
    teachers = [make_teacher(sign_network()), make_teacher(wide_network())]
    known = {
        "acceptance": [ACCEPTANCE, replace(ACCEPTANCE, return_mean=20 * ACCEPTANCE.return_mean)]
    }  # the second stays behind
    train(config, teachers, folder=RunFolder(tmp_path / "whole"), **known)

    with pytest.raises(Killed):
        train(config, teachers, folder=RunFolder(tmp_path / "cut"), watch=killed_after(1100), **known)
    train(config, teachers, folder=RunFolder(tmp_path / "cut"), **known)
    for env_id in (SIGN, WIDE):
        one, two = (
            RunFolder(tmp_path / name).of_task(env_id).student / "student.safetensors" for name in ("whole", "cut")
        )
        assert one.read_bytes() == two.read_bytes()
    tensors, _ = RunFolder(tmp_path / "cut").load_state()
    steps = [len(tensors[f"task.{number}.actions"]) for number in range(2)]
    assert sum(steps) * config.data.n_envs == config.data.env_steps
    assert steps[1] > 1.5 * steps[0] if mix == "one" else steps[0] == steps[1], (
        "a task that is behind gets more of the steps"
    )


def test_a_study_over_seeds_is_of_one_task(tmp_path):
    with pytest.raises(SpecError, match="study over seeds is of one task"):
        distill_seeds(None, Job(two_tasks(tmp_path)), tmp_path / "run", 2)
    assert not (tmp_path / "run").exists()


def test_a_study_whose_last_seed_is_none_is_refused_before_the_first(sign_teacher, tmp_path):
    job = Job(small(seed=898), Comparison(2, 2, 0))
    with pytest.raises(SpecError, match="'seed' must lie in 0 to 899"):
        distill_seeds(sign_teacher, job, tmp_path / "run", 3)
    assert not (tmp_path / "run").exists()


def test_tasks_on_the_command_line(tmp_path, capsys):
    config = two_tasks(tmp_path)
    assert config.tasks[1].env.id == WIDE
    tasks = [f"--task={env_id}={tmp_path / name}" for env_id, name in ((SIGN, "sign"), (WIDE, "wide"))]
    rest = [
        "--student",
        "mlp:16,8",
        "--steps",
        "6400",
        "--episodes",
        "200",
        "--disturbed-episodes",
        "0",
        "--threads",
        "1",
    ]
    assert main(["distill", *tasks, "--out", str(tmp_path / "run"), *rest]) == 0
    printed = capsys.readouterr()
    assert "all tasks: pass" in printed.err
    assert printed.out.strip() == str(tmp_path / "run" / "report.html")
    for wrong, message in (
        (["--task", "nothing"], "ENV=TEACHER"),
        ([*tasks, "--env", SIGN], "takes the place"),
        ([tasks[0], tasks[0]], "environment of its own"),
    ):
        assert main(["distill", *wrong, "--out", str(tmp_path / "bad"), *rest]) == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "bad").exists()


def test_a_chain_of_assistants(tmp_path, capsys):
    teacher = Network(NetworkSpec((2,), 2, hidden=(64, 64)))
    wide = train(
        small("distil", network="mlp:64,64", env_steps=1200, learning_rate=0.01, gap=-1.0),
        make_teacher(sign_network()),
        acceptance=ACCEPTANCE,
    )
    teacher = wide.network
    save_network(tmp_path / "teacher", teacher, Q_OF_TWO, name="teacher")
    command = [
        "distill",
        "--teacher",
        str(tmp_path / "teacher"),
        "--env",
        SIGN,
        "--student",
        "mlp:4,4",
        "--assistants",
        "2",
    ]
    rest = ["--episodes", "200", "--disturbed-episodes", "0", "--threads", "1", "--out", str(tmp_path / "run")]
    rest += ["--steps", "2000"]
    for quick in ("learning-rate=0.01", "learning-starts=400", "check-every=400"):
        rest += ["--set", quick]
    assert main([*command, *rest]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    sizes = [link["params"] for link in results["chain"]]
    assert len(sizes) == 3
    assert teacher.spec.params > sizes[0] > sizes[1] > sizes[2] == 2 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2
    known = json.loads((tmp_path / "run" / "assistant-2" / "config.json").read_text())
    assert known["train"]["tasks"][0]["teacher"][0]["path"] == str(tmp_path / "run" / "assistant-1")
    assert results["teacher"]["params"] == teacher.spec.params, "the verdict is about the first teacher"
    for home in (tmp_path / "run", tmp_path / "run" / "assistant-2"):  # and so is the picture
        players, *_ = _cast(RunFolder(home))
        assert players["teacher"].network.spec.params == teacher.spec.params
    assert "The chain" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    # an assistant says of itself what it is, wherever it goes
    away = tmp_path / "away"
    shutil.copytree(tmp_path / "run" / "assistant-2", away)
    assert judges_of(RunFolder(away)) == judges_of(RunFolder(tmp_path / "run"))
    assert judges_of(RunFolder(away))[0]["path"] == str(tmp_path / "teacher")
    assert main(["distill", "--resume", str(tmp_path / "run" / "assistant-2")]) == 2
    assert f"continue its chain with --resume {tmp_path / 'run'}" in " ".join(capsys.readouterr().err.split())
    assert main([*command, "--seeds", "2", *rest]) == 2


def test_scores_of_a_chain_are_about_its_first_teacher(sign_teacher):
    """Where it is looked whether a student is good enough, it was held against the assistant that taught it."""
    weak = make_teacher(build(NetworkSpec((2,), 2, hidden=(4,)), torch.Generator().manual_seed(0)))
    config = small("distil", gap=-10.0, env_steps=400, final_episodes=20)
    (task,) = make_tasks(config, weak, ACCEPTANCE, None, None, sign_teacher)
    (alone,) = make_tasks(config, sign_teacher, ACCEPTANCE, None, None)
    student = sign_network()
    for one in (task, alone):
        one.best_network = lambda place: student
    assert task.teacher.path == weak.path
    assert task.again(0, 0, silent, paired=True) == alone.again(0, 0, silent, paired=True)
    for one in (task, alone):
        one.stream.close()


def test_assistants_see_what_is_there(tmp_path):
    """Who teaches does; an assistant that had learnt to act on late observations labelled exact ones."""
    job = Job(
        small("distil", network="mlp:2@history=2", env_steps=600, delay=1, noise=(0.1, 0.0)), Comparison(60, 60, 0)
    )
    wide = build(NetworkSpec((2,), 2, hidden=(16,)), torch.Generator().manual_seed(0))
    teacher, job = make_teacher(wide), replace(job, accept_weak_teacher=True)
    job = replace(job, comparison=replace(job.comparison, margin_abs=100.0))
    distill_chain(teacher, job, tmp_path / "run", 1, report=False)
    homes = (tmp_path / "run" / "assistant-1", tmp_path / "run")
    seen = [TrainConfig.from_json(RunFolder(home).read_config()["train"]).student.sensors for home in homes]
    assert seen == [Sensors(), Sensors((0.1, 0.0), delay=1)]


def test_assistants_see_what_is_hidden_from_the_student(tmp_path):
    """They were as blind as the last student, which then learnt from that."""
    job = Job(small("distil", network="mlp:2", env_steps=400, hidden_features=(1,)), Comparison(60, 60, 0))
    job = replace(job, accept_weak_teacher=True, comparison=replace(job.comparison, margin_abs=100.0))
    wide = make_teacher(build(NetworkSpec((2,), 2, hidden=(16,)), torch.Generator().manual_seed(0)))
    distill_chain(wide, job, tmp_path / "run", 1, report=False)
    homes = (tmp_path / "run" / "assistant-1", tmp_path / "run")
    unseen = [load_network(home / "student").network.spec.unseen for home in homes]
    assert unseen == [(), (1,)]


@pytest.mark.parametrize(
    ("recipe", "changes", "error"),
    [
        ("distil", {"network": "mlp:2", "noise": (1.0, 2.0, 3.0)}, "'noise' needs one standard deviation per number"),
        ("distil", {"network": "mlp:2", "flicker": 0.5}, "'flicker' is about an observation that is an image"),
        ("dynamic", {"network": "gru:1"}, "an assistant of this student remembers, so that it must see every step"),
    ],
)
def test_what_a_chain_cannot_do_is_said_before_it_begins(recipe, changes, error, tmp_path):
    """Its last student's sensors were looked at when all assistants were trained and judged."""
    wide = make_teacher(build(NetworkSpec((2,), 2, hidden=(64,)), torch.Generator().manual_seed(0)))
    with pytest.raises(SpecError, match=error):
        distill_chain(wide, Job(small(recipe, **changes)), tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()


def test_a_chain_ends_where_the_verdict_fails(tmp_path):
    job = Job(
        small("distil", network="mlp:2", env_steps=400, learning_starts=392), Comparison(200, 200, 0, margin=1e-6)
    )
    results = distill_chain(make_teacher(sign_network()), job, tmp_path / "run", 2)
    assert results.chain[-1].verdict == "fail"
    assert len(results.chain) == 1
    assert not (tmp_path / "run" / "student").exists()
    ended = str(RunFolder(tmp_path / "run").lacking("student"))
    assert "is a chain that ended at assistant-1, whose verdict is fail" in ended
    assert f"give {tmp_path / 'run' / 'assistant-1'}, or make another" in ended


def test_a_chain_that_ended_says_who_was_not_trained(tmp_path, capsys):
    save_network(tmp_path / "teacher", sign_network(), Q_OF_TWO, name="teacher")
    short = ["--assistants", "1", "--steps", "400", "--set", "learning-starts=392", "--margin", "0.000001"]
    first = partial(distill_cli, str(tmp_path / "teacher"), tmp_path / "run", *short, "--disturbed-episodes", "0")
    for command in (partial(first, student="mlp:2"), partial(main, ["distill", "--resume", str(tmp_path / "run")])):
        assert command() == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "The chain ended at assistant 1, whose verdict is fail: mlp:2 was not trained." in said
    report = (tmp_path / "run" / "assistant-1" / "report.html").read_text(encoding="utf-8")
    assert "The chain ended here, where the verdict is fail: mlp:2 was not trained." in report
    assert f"distilrl distill --config {tmp_path / 'run' / 'config.json'}" in report, "done again, it is the chain"


def test_a_drift_calls_the_teacher_back(sign_teacher):
    config = small("dynamic", env=TURNED, env_steps=8000, check_every=400, learning_starts=400)
    rows = train(config, sign_teacher, acceptance=ACCEPTANCE).history
    asked = np.diff([0, *(row["labelled_states"] for row in rows)])
    steps = np.array([row["env_steps"] for row in rows])
    drift = np.array([row["drift"] for row in rows])
    before, after = (steps > 2400) & (steps <= 4000), (steps > 4400) & (steps <= 5600)
    assert asked[before].mean() < 100, "a twentieth of the steps is labelled once the score is there"
    assert drift[before].max() < 0.3 < drift[after].max()
    assert asked[after].max() > 300, "and all of them after the drift"


class WorldsEnv(SignEnv):
    """One whose second number is of its world, another one in each episode."""

    def reset(self, **given):
        self.world = None
        super().reset(**given)
        self.world = self.np_random.normal()
        return self._observe(), {}

    def _observe(self):
        seen = super()._observe()
        seen[1] = self.world or 0.0
        return seen


if "distilrl/WorldsEnv-v0" not in gymnasium.registry:
    gymnasium.register("distilrl/WorldsEnv-v0", entry_point=WorldsEnv, max_episode_steps=50)


@pytest.mark.parametrize("network", ["mlp:8", "mlp:8@history=4"])
def test_a_world_that_is_hidden_is_no_drift(sign_teacher, network):
    """That of the last few episodes is never that of all before, so that the teacher was asked throughout."""
    config = small(
        "dynamic", env="distilrl/WorldsEnv-v0", hidden_features=(1,), env_steps=4000, check_every=400,
        learning_starts=400, network=network,
    )  # fmt: skip
    rows = train(config, sign_teacher, acceptance=ACCEPTANCE).history
    assert max(row["drift"] for row in rows) < 0.3


def test_share_of_labels_is_spread_evenly():
    behaviour = Behaviour(labels=(Schedule(0.25), Schedule(0.0, 1.0, by="drift")))
    assert [behaviour.labels_step(i, Progress(0.0)) for i in range(8)] == [False, False, False, True] * 2
    assert all(behaviour.labels_step(i, Progress(0.0, drift=1.0)) for i in range(8))


def test_unlabelled_steps_never_ask_and_resume_the_same(sign_teacher, tmp_path):
    config = small("distil", gap=-20.0, env_steps=800, check_every=200, behaviour=Behaviour(labels=(Schedule(0.5),)))
    calls = []

    def counted(obs):
        calls.append(len(obs))
        return sign_teacher.network(obs)

    teacher = Teacher.from_callable(counted, 2, obs_shape=(2,))
    whole = train(config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "whole"))
    assert whole.labelled_states == 400

    with pytest.raises(Killed):
        train(config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"), watch=killed_after(450))
    train(config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"))
    one, two = (tmp_path / name / "student" / "student.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()


def test_a_student_that_does_not_see_a_feature_does_not_use_it(sign_teacher):
    trained = train(small("distil", hidden_features=(1,), env_steps=3200), sign_teacher, acceptance=ACCEPTANCE)
    assert trained.network.layers[0].weight.shape[1] == 1
    assert evaluate_policy(trained.network, SIGN, episodes=20).return_mean > 9.5
    blind = train(small("distil", hidden_features=(0,)), sign_teacher, acceptance=ACCEPTANCE)
    assert evaluate_policy(blind.network, SIGN, episodes=20).return_mean < 7.5
    for wrong in ({"hidden_features": (2,)}, {"noise": (1.0,)}):
        with pytest.raises(SpecError, match=next(iter(wrong))):
            train(small("distil", **wrong), sign_teacher, acceptance=ACCEPTANCE)


def test_a_student_that_sees_through_noise_is_judged_through_it(sign_teacher, tmp_path):
    job = Job(small("distil", noise=(2.0, 0.0)), Comparison(20, 20, 20))
    results = distill(sign_teacher, job, tmp_path / "run", report=False)
    assert results.student.return_mean < 9.0 < results.teacher.return_mean
    for found in results.disturbed.values():
        assert found.student.return_mean < 9.0 < found.teacher.return_mean
    policy = Policy(sign_teacher.network, Q_OF_TWO)
    clean = play(policy, Play(EnvRef(SIGN)), range(10)).returns.mean()
    noisy = play(policy, Play(EnvRef(SIGN), sensors=Sensors((2.0, 0.0))), range(10)).returns.mean()
    assert noisy < clean == 10.0


def test_a_run_goes_on_from_a_network(sign_teacher):
    first = train(small("distil", env_steps=3200), sign_teacher, acceptance=ACCEPTANCE)
    short = small("distil", env_steps=408, learning_starts=400, check_every=400, updates=1, seed=3, gap=-20.0)
    from_it = train(short, sign_teacher, acceptance=ACCEPTANCE, initial=first.network)
    fresh = train(short, sign_teacher, acceptance=ACCEPTANCE)
    assert from_it.history[-1]["return"] > 9.5 > fresh.history[-1]["return"]


def test_reptile_gives_a_start_from_which_less_is_to_learn(sign_teacher):
    config = small("distil", env_steps=800, learning_starts=400, check_every=800, learning_rate=0.01)
    start = reptile(config, [SIGN, SIGN], sign_teacher, rounds=5)
    short = small("distil", env_steps=440, learning_starts=400, check_every=440, updates=1, seed=9, gap=-20.0)
    warm, cold = (
        train(short, sign_teacher, acceptance=ACCEPTANCE, initial=initial).history[-1] for initial in (start, None)
    )
    assert warm["loss/forward_kl"] < 0.5 * cold["loss/forward_kl"]
    with pytest.raises(SpecError, match="family"):
        reptile(config, [SIGN, WIDE], sign_teacher, rounds=2)


def test_the_best_teacher_of_each_state():
    sure, unsure = sign_network(), sign_network(-1.0)
    with torch.no_grad():
        sure.layers[0].weight[1, 0] = 0.0  # knows positive numbers only
        unsure.layers[0].weight[0, 0] = 0.0
    unsure.layers[2].weight.data.neg_()
    best = ensemble([make_teacher(sure), make_teacher(unsure)], torch.randn(8, 2), "best")
    assert evaluate_policy(best, SIGN, episodes=20).return_mean == 10.0
    assert evaluate_policy(make_teacher(unsure), SIGN, episodes=20).return_mean < 10.0
    policy = replace(make_teacher(sign_network()), kind="logits")
    with pytest.raises(TeacherError, match="by value"):
        ensemble([policy, make_teacher(sure)], torch.randn(8, 2), "best")
    with pytest.raises(TeacherError, match="by 'mean' or 'best', not by 'worst'"):  # whose mean it was
        ensemble([make_teacher(sure), make_teacher(unsure)], torch.randn(8, 2), "worst")


def test_terms_of_tasks_and_labels_survive_json(tmp_path):
    config = two_tasks(tmp_path, behaviour=Behaviour(labels=(Schedule(0.5), Schedule(0.0, 1.0, by="drift"))))
    config = config.but(terms=(term("hint", taps="all"), term("forward_kl", sharpness=Schedule(0.5, 1.0))))
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_every_recipe_has_a_page():
    taught = set(RECIPES) - set(TEACHERLESS)
    pages = {path.stem for path in (Path(__file__).parents[1] / "docs" / "methods").glob("*.md")}
    assert pages == taught


def pruned(**changes):
    return small("distil", network="mlp:3,3", prune_from="mlp:24,24", gap=-20.0, check_every=200, **changes)


def test_a_student_that_is_good_while_it_is_too_wide_is_pruned_all_the_same(sign_teacher):
    trained = train(pruned().but(gap=2.0, agreement=0.0), sign_teacher, acceptance=ACCEPTANCE)
    assert trained.stopped.startswith("good enough")
    assert trained.network.spec.hidden == (3, 3)
    assert 800 <= trained.env_steps < 1600


def test_a_student_is_pruned_while_it_learns(sign_teacher, tmp_path):
    config = pruned(updates=2, learning_rate=0.01)
    trained = train(config, sign_teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "whole"))
    assert trained.network.spec.hidden == (3, 3)
    assert evaluate_policy(trained.network, SIGN, episodes=20).return_mean > 9.5
    for moment in (450, 1250):  # within a stage, and after them
        out = RunFolder(tmp_path / f"cut{moment}")
        with pytest.raises(Killed):
            train(config, sign_teacher, acceptance=ACCEPTANCE, folder=out, watch=killed_after(moment))
        train(config, sign_teacher, acceptance=ACCEPTANCE, folder=out)
        one, two = (folder.student / "student.safetensors" for folder in (out, RunFolder(tmp_path / "whole")))
        assert one.read_bytes() == two.read_bytes()


def test_what_cannot_shrink_is_refused(sign_teacher):
    for wide, message in (("mlp:2,2", "cannot shrink"), ("mlp:24", "cannot shrink"), ("mlp:24,24@tanh", "activation")):
        with pytest.raises(SpecError, match=message):
            train(pruned().but(prune_from=wide), sign_teacher, acceptance=ACCEPTANCE)
    with pytest.raises(SpecError, match="new weights"):
        pruned(start="svd")


@pytest.mark.parametrize("recipe", ["kickstarting", "transfer"])
def test_a_teacher_whose_terms_have_faded_labels_nothing_any_more(sign_teacher, tmp_path, recipe):
    """From half of the budget on reward alone is left; so the teacher is not asked, and a resumed run does not ask
    either.
    """
    config = small(recipe, gap=-20.0, check_every=200, gamma=0.5, n_step=1, updates=1)
    asked = []

    def counted(obs):
        asked.append(len(obs))
        return sign_teacher.network(obs)

    teacher = Teacher.from_callable(counted, 2, obs_shape=(2,), name="counted")
    whole = train(config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "whole"))
    labelled = {row["env_steps"]: row["labelled_states"] for row in whole.history}
    assert labelled[800] == 800, "the step that begins at half of the budget is the first that needs no label"
    assert {labelled[steps] for steps in labelled if steps > 800} == {800}
    assert whole.history[-1]["loss/forward_kl"] is None
    assert whole.history[-1]["loss/double_td"] is not None
    assert whole.history[-1]["updates"] > whole.history[len(whole.history) // 2]["updates"], (
        "what is not labelled is learnt from"
    )
    with pytest.raises(Killed):
        train(config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"), watch=killed_after(1300))
    resumed = train(config, teacher, acceptance=ACCEPTANCE, folder=RunFolder(tmp_path / "cut"))
    one, two = (tmp_path / name / "student" / "student.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()
    assert resumed.labelled_states == 800


@pytest.mark.parametrize(
    "changes",
    [
        {"behaviour": Behaviour("teacher")},
        {"terms": (term("double_td"), term("forward_kl", weight=0.1))},
        {"terms": (term("td", bonus=1.0),)},
    ],
)
def test_a_teacher_that_is_needed_must_be_there(changes):
    """Whoever acts or is compared with; without one, a run would be of another method than it says."""
    with pytest.raises(SpecError, match="needs a teacher"):
        train(small("dqn", **changes))


def squared(*, student, teacher):
    """A loss of one's own."""
    return (student - teacher).square().mean(dim=1)


def test_a_loss_of_ones_own_is_kept_by_its_name_and_resumed_from_python(sign_teacher, tmp_path):
    job = Job(small("distil", terms=(term(squared),), env_steps=400, gap=-20.0), Comparison(20, 20, 0))
    results = distill(sign_teacher, job, tmp_path / "run", report=False)
    known = json.loads((tmp_path / "run" / "config.json").read_text())
    assert known["train"]["terms"][0]["loss"] == "test_methods:squared"
    again = distill(sign_teacher, job, tmp_path / "run", resume=True, report=False)
    assert again.student.return_mean == results.student.return_mean
    with pytest.raises(SpecError, match=r"names the loss 'test_methods:squared'.*--trust test_methods"):
        distill(sign_teacher, Job.from_json(known), tmp_path / "other")
    trust("test_methods")
    other = distill(sign_teacher, Job.from_json(known), tmp_path / "other", report=False)
    assert other.student.return_mean == results.student.return_mean


def test_a_teacher_that_faded_may_leave_the_replay(sign_teacher):
    """Its last labels are overwritten long before the end; what is measured of them then stays as it was."""
    config = small("kickstarting", gap=-20.0, gamma=0.5, n_step=1, capacity=320)
    history = train(config, sign_teacher, acceptance=ACCEPTANCE).history
    assert all(0 <= row["agreement"] <= 1 for row in history)
    assert history[-1]["drift"] == 0.0
