"""Shards and rounds without anybody else: who hosts them, and where a run is cut, changes nothing in the student."""

import copy
import gc
import sys
import tracemalloc
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from conftest import SIGN, Killed, SignEnv, killed_after
from instances import acceptance
from test_policies import RECALL, recalling
from test_train import small, without_clock

from distilrl.checkpoints import save_tensors
from distilrl.collect import LABELLED, Behaviour
from distilrl.envs import describe_env, make_vec_env
from distilrl.errors import EnvError, ResumeError, SpecError, TeacherError
from distilrl.heads import Categorical
from distilrl.networks import build
from distilrl.policies import Policy
from distilrl.replay import Replay, ReplaySpec
from distilrl.runs import RunFolder
from distilrl.schedules import Progress, Schedule
from distilrl.shards import InProcess, Order, Played, Rows, Setup, Shard
from distilrl.spaces import Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.stream import Stream
from distilrl.tasks import make_tasks
from distilrl.teachers import Teacher
from distilrl.train import train

ACCEPTANCE = acceptance()
LIVELY = Behaviour(epsilon=Schedule(0.3), zeta=1.2, beta=Schedule(0.9, 0.2), greedy_share=0.0)


def rounds(recipe="distil", **changes):
    """A run of 13 rounds of two shards; checks fall into the middle of rounds."""
    how = {"env_steps": 832, "learning_starts": 128, "gap": -1.0, "shards": 2, "round_steps": 8, "check_every": 232}
    config = small(recipe, **(how | changes))
    return config if recipe != "distil" else config.but(behaviour=LIVELY)


def trained(config, teacher, folder=None, **more):
    return train(config, teacher, acceptance=ACCEPTANCE, folder=folder and RunFolder(folder), **more)


def weights(found):
    return [tensor.clone() for tensor in found.network.state_dict().values()]


def same(one, other):
    return without_clock(one) == without_clock(other) and all(map(torch.equal, weights(one), weights(other)))


class Counting:
    """Hosts shards here, and counts rounds."""

    def __init__(self):
        self.most = self.orders = 0

    def host(self, setup):
        counting, inner = self, InProcess().host(setup)

        class Counted:
            flying = 0

            def submit(self, order, played=None):
                self.flying += 1
                counting.orders += 1
                counting.most = max(counting.most, self.flying)
                inner.submit(copy.deepcopy(order), played)

            def take(self):
                self.flying -= 1
                return inner.take()

            def close(self):
                inner.close()

        return Counted()


class Eager:
    """Plays a round at once, each shard apart, in the opposite order: what a fast machine elsewhere does."""

    def host(self, setup):
        shards, done = [Shard(setup, number) for number in range(setup.shards)], []

        class Host:
            def submit(self, order, played=None):
                blocks = {
                    k: shards[k].collect(copy.deepcopy(order), played and played[k])
                    for k in reversed(range(len(shards)))
                }
                done.append([blocks[k] for k in sorted(blocks)])

            def take(self):
                return done.pop(0)

            def close(self):
                for shard in shards:
                    shard.close()

        return Host()


@pytest.mark.parametrize("recipe", ["distil", "dqn"])
def test_who_hosts_the_shards_changes_nothing(sign_teacher, recipe):
    teacher = sign_teacher if recipe == "distil" else None
    counted = Counting()
    config = rounds(recipe, updates=1)
    whole = trained(config, teacher)
    assert same(whole, trained(config, teacher, collectors=counted))
    assert same(whole, trained(config, teacher, collectors=Eager()))
    assert counted.most == 2, "never more than two rounds are in flight"
    assert counted.orders == 832 // 64 + 1


def test_how_many_threads_there_are_changes_nothing_in_what_shards_see(sign_teacher):
    before = torch.get_num_threads()
    blocks = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        shard = Shard(setup_of(sign_teacher), 0)
        blocks.append(shard.collect(Order(None, Progress(0.0), True, 5)))
        assert torch.get_num_threads() == threads
        shard.close()
    torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(*(block.columns for block in blocks), strict=True))


def test_a_shard_elsewhere_may_open_what_the_run_was_trusted_with(sign_teacher, tmp_path, monkeypatch):
    """Read from a config.json, whose files and modules are not the user's own words; another process trusts nothing."""
    monkeypatch.setattr("distilrl.envs.single._trusted", set())
    setup = setup_of(sign_teacher)
    ref = EnvRef.from_json({"id": "conftest:distilrl/SignEnv-v0"})
    Shard(replace(setup, env=ref), 0).close()


class CountedEnv(SignEnv):
    """Says how many of them are open."""

    open = 0

    def __init__(self):
        type(self).open += 1

    def close(self):
        type(self).open -= 1


class Refusing(gymnasium.Wrapper):
    def __init__(self, env):
        raise ValueError("not this one")


def test_what_is_refused_leaves_no_environment_open(sign_teacher, monkeypatch):
    """A notebook keeps the traceback, and with it simulators and worker processes."""
    counted = small(env=EnvRef("Counted", factory=CountedEnv))
    described = describe_env(counted.env)
    with pytest.raises(SpecError, match="'initial' must be"):
        make_tasks(counted, sign_teacher, None, build(NetworkSpec((2,), 2, hidden=(3,))), None)
    with pytest.raises(TeacherError, match="observations of shape"):
        Stream(counted, Teacher(build(NetworkSpec((5,), 2)), "q", "x", "memory", "0" * 64))
    with pytest.raises(EnvError, match="not this one"):
        make_vec_env(replace(counted.env, wrappers=("test_shards:Refusing",)), 1)
    monkeypatch.setattr(sys.modules["distilrl.train"], "Learner", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(counted, sign_teacher)
    monkeypatch.setattr("distilrl.shards.Collector", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        InProcess().host(replace(setup_of(sign_teacher), env=counted.env))
    assert described.id == "Counted"
    assert CountedEnv.open == 0


def test_rounds_and_shards_are_part_of_what_decides_the_student(sign_teacher):
    runs = [trained(rounds(**changes), sign_teacher) for changes in ({}, {"shards": 1}, {"round_steps": 4})]
    assert not same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
    assert all(run.history[-1]["return"] > 9.0 for run in runs)


@pytest.mark.parametrize(
    ("recipe", "moments"), [("distil", [27, 40, 70, 103]), ("dqn", [40, 70]), ("rainbow_lite", [40, 103])]
)
def test_a_resumed_run_of_rounds_equals_an_unbroken_one(sign_teacher, tmp_path, recipe, moments):
    """Cut before the first checkpoint, behind one, or just before the end."""
    teacher, config = sign_teacher if recipe == "distil" else None, rounds(recipe, updates=1)
    whole = trained(config, teacher, tmp_path / "whole")
    assert any(row["training_return"] is not None for row in whole.history)
    for moment in moments:
        cut = tmp_path / f"cut {moment}"
        with pytest.raises(Killed):
            trained(config, teacher, cut, watch=killed_after(8 * moment))
        resumed = trained(config, teacher, cut, collectors=Eager())
        assert same(whole, resumed)
        assert (resumed.env_steps, resumed.updates) == (whole.env_steps, whole.updates)
        file = "student/student.safetensors"
        assert (cut / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_run_that_has_ended_is_not_played_again(sign_teacher, tmp_path):
    whole = trained(rounds(), sign_teacher, tmp_path / "run")
    again = trained(rounds(), sign_teacher, tmp_path / "run")
    assert same(whole, again)
    assert again.env_steps == whole.env_steps
    assert again.labelled_states == whole.labelled_states == whole.env_steps


def test_an_environment_that_does_not_replay_says_so_in_rounds_too(sign_teacher, tmp_path):
    config = rounds(env="distilrl/ForgetfulEnv-v0")
    with pytest.raises(Killed):
        trained(config, sign_teacher, tmp_path / "run", watch=killed_after(400))
    with pytest.raises(ResumeError, match="recorded actions"):
        trained(config, sign_teacher, tmp_path / "run")


def setup_of(teacher, env=SIGN, **changes):
    stream = Stream(small(env=env), teacher)
    made = Setup(stream.env, stream.replay.spec, tuple(range(8)), (0, 1), LIVELY, stream.teacher, shards=2)
    stream.close()
    return replace(made, **changes)


def order_of(network, setup, steps=6):
    policy = Policy(network, setup.teacher.head.student) if network is not None else None
    return Order(policy, Progress(0.5), needed=True, steps=steps)


@pytest.mark.parametrize("remembers", [False, True])
def test_a_shard_that_is_lost_is_made_again_without_its_teacher(sign_teacher, random_network, remembers):
    setup = setup_of(recalling(), RECALL) if remembers else setup_of(sign_teacher)
    order = order_of(None if remembers else random_network, setup)
    lost = Shard(setup, 1)
    before = [lost.collect(order) for _ in range(3)]
    calls = []
    setup.teacher.network.register_forward_hook(lambda *_: calls.append(1))
    actions, labels = (np.concatenate([block[k] for block in before]) for k in (1, 7))
    found = Shard(setup, 1)
    found.restore(Played(actions, labels, before[-1].state))
    assert bool(calls) == remembers, "only a teacher with memory must see what it has seen"
    np.testing.assert_equal(tuple(found.collect(order)), tuple(lost.collect(order)))  # the nested state too
    wrong = before[-1].state | {"obs": 1}
    with pytest.raises(ResumeError, match="recorded actions"):
        Shard(setup, 1).restore(Played(actions, labels, wrong))


def test_shards_together_are_the_environments_of_the_stream(sign_teacher, random_network):
    """Shares of the environments are of all of them, seeds are dealt, and no two generators are alike."""
    teacher_drives = Behaviour(beta=Schedule(0.3), epsilon=Schedule(0.0))
    setup = setup_of(sign_teacher, behaviour=teacher_drives, shards=4)
    wrong = copy.deepcopy(random_network)
    with torch.no_grad():
        for tensor in wrong.parameters():
            tensor.zero_()
        wrong.layers[-1].bias[1] = 1.0  # always the second choice
    blocks = [Shard(setup, number).collect(order_of(wrong, setup, 40)) for number in range(4)]
    of_teacher = np.concatenate([(b.actions[..., 0] == b.labels.argmax(-1)).all(0) for b in blocks])
    assert of_teacher.sum() == 2, "0.3 of 8 environments"
    assert len({block.obs[0, env, 0] for block in blocks for env in range(2)}) == 8
    assert all((block.asked == LABELLED).all() for block in blocks)


def test_the_copy_of_a_student_subtracts_from_its_inputs_what_the_student_does(sign_teacher):
    network = build(NetworkSpec((2,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    network.standardise(torch.tensor([0.5, -3.0]), torch.tensor([2.0, 0.1]))
    taken = []

    class Caught:
        def host(self, setup):
            class Host:
                def submit(self, order, played=None):
                    taken.append(order)
                    raise Killed

            return Host()

    stream = Stream(rounds(), sign_teacher, collectors=Caught())
    stream.student = Policy(network, stream.head)
    with pytest.raises(Killed):
        stream.collect(Progress(0.0))
    sent, obs = taken[0].policy.network, torch.randn(20, 2) * 5
    assert torch.equal(sent(obs), network(obs))
    with torch.no_grad():
        network.layers[0].weight.add_(1.0)
    assert not torch.equal(sent(obs), network(obs)), "it is a copy"


def test_images_travel_as_their_newest_frame():
    """And the replay rebuilds the same stacks as of whole observations."""
    for beside in (0, 3):
        shape = (4, 6, 6) if not beside else (beside + 4 * 36,)
        image = (4, 6, 6)
        spec = ObsSpec(shape, image, "uint8" if not beside else "float32", 4)
        whole = ReplaySpec(64, 2, spec, Choices((2,)), labels=2)
        replays, rows = [Replay(whole, torch.device("cpu")) for _ in range(2)], Rows(whole, torch.device("cpu"))
        frames = torch.randint(0, 255, (13, 2, 36))
        for t in range(10):
            stack = frames[t : t + 4].transpose(0, 1)
            obs = stack.reshape(2, *image).to(torch.uint8)
            if beside:
                obs = torch.cat([torch.full((2, beside), float(t)), stack.reshape(2, -1).float()], dim=1)
            nothing = torch.zeros(2, dtype=torch.bool)
            row = (obs, torch.zeros((2, 1), dtype=torch.int64), torch.zeros(2), nothing, nothing)
            replays[0].add(*row, torch.full((2, 2), float(t)), torch.ones(2))
            rows.add(*row, torch.full((2, 2), float(t)), torch.ones(2))
        columns = [torch.from_numpy(column) for column in rows.take()]
        assert columns[0][0].numel() == 2 * (beside + 36)
        for t in range(10):
            replays[1].add(*(column[t] for column in columns))
        index = torch.arange(6, 20)
        assert torch.equal(replays[0].observations(index), replays[1].observations(index))


def pong(**changes):
    """A run of a game of ALE, its teacher, and what is known of that; the finalist is one, for several would play whole
    games.
    """
    config = small(
        env="PongNoFrameskip-v4", network="cnn:2k8s8:4", gap=-1.0, n_envs=4, env_steps=192, learning_starts=64,
        check_every=88, check_episodes=1, finalists=1, batch_size=8, updates=1, **changes,
    )  # fmt: skip
    teacher = Teacher.from_callable(
        lambda obs: (obs[:, -1, 40:60].float().mean((1, 2)) * 10).long() % 6, name="something"
    )
    return config, teacher, acceptance(0.0, -21.0, 10)


@pytest.mark.parametrize("how", [{}, {"shards": 2, "round_steps": 4}], ids=["lockstep", "rounds"])
def test_games_of_ale_resume_and_are_the_same_wherever_they_run(tmp_path, how):
    config, teacher, known = pong(**how)
    whole, elsewhere = train(config, teacher, acceptance=known), Eager() if how else None
    with pytest.raises(Killed):
        train(config, teacher, acceptance=known, folder=RunFolder(tmp_path), watch=killed_after(120))
    resumed = train(config, teacher, acceptance=known, folder=RunFolder(tmp_path), collectors=elsewhere)
    assert same(whole, resumed)


def test_what_goes_wrong_in_a_shard_is_said_as_elsewhere(sign_teacher):
    config = rounds(env="distilrl/FaultyEnv-v0")
    config = config.but(tasks=(replace(config.tasks[0], env=replace(config.env, kwargs={"fault": "step"})),))
    with pytest.raises(EnvError, match="broken in step"):
        trained(config, sign_teacher)
    mad = Teacher.from_callable(lambda obs: obs / 0, outputs=2, kind="q", name="mad")
    with pytest.raises(TeacherError, match="NaN or infinite numbers after 0 steps"):
        trained(rounds(), mad)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shards": 3}, r"'shards' \(3\) must divide 'n_envs' \(8\)"),
        ({"round_steps": 0}, r"'shards' \(2\) are collected in rounds"),
        ({"round_steps": -1}, "'round_steps' must be at least 0"),
        ({"shards": 0}, "'shards' must be at least 1"),
    ],
)
def test_rounds_that_mean_nothing_are_refused(changes, words):
    with pytest.raises(SpecError, match=words):
        rounds(**changes)


def test_whoever_needs_each_step_at_once_refuses_rounds(sign_teacher):
    with pytest.raises(SpecError, match="leave it at 0"):
        Stream(rounds(), sign_teacher)


def test_several_tasks_and_a_student_that_is_pruned(sign_teacher):
    tasks = (rounds().tasks[0], rounds(env="distilrl/LateEnv-v0").tasks[0])
    two = rounds(tasks=tasks)
    runs = [train(two, [sign_teacher] * 2, acceptance=[ACCEPTANCE] * 2, collectors=host) for host in (None, Eager())]
    assert same(*runs)
    pruned = rounds(prune_from="mlp:32")
    assert same(trained(pruned, sign_teacher), trained(pruned, sign_teacher, collectors=Eager()))


@pytest.mark.parametrize("in_rounds", [False, True])
def test_a_step_costs_a_run_a_few_bytes_for_ever(sign_teacher, in_rounds):
    """All that is kept of a step once the replay is full: its action, in a byte, and what was asked of the teacher."""
    more = {"round_steps": 8, "shards": 2} if in_rounds else {}
    config = small(capacity=400, n_envs=4, **more)
    stream = Stream(config, sign_teacher, collectors=InProcess() if in_rounds else None)
    tracemalloc.start()  # before the lists are there: of one that grows only what it grows by is to count
    for _ in range(200):
        stream.collect(Progress(0.5))
    each = []
    for _ in range(2):  # what a process takes once, for a cache or a thread of another, is in one of the two at most
        gc.collect()
        before, start = stream.env_steps, tracemalloc.get_traced_memory()[0]
        for _ in range(500):
            stream.collect(Progress(0.5))
        gc.collect()
        each.append((tracemalloc.get_traced_memory()[0] - start) / (stream.env_steps - before))
    tracemalloc.stop()
    assert min(each) < 4  # of lists it was 45
    assert len(stream.state()[0]["actions"]) >= 1200
    stream.close()


def test_a_checkpoint_of_another_size_leaves_nothing_behind(tmp_path):
    def save(size):
        save_tensors(tmp_path / "state.safetensors", {"actions": torch.zeros(size, 4, 1, dtype=torch.uint8)}, {})

    save(999)
    tracemalloc.start()
    save(1000)
    start = tracemalloc.get_traced_memory()[0]
    for size in range(1001, 1201):
        save(size)
    gc.collect()
    grew = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert grew / 200 < 200


@pytest.mark.parametrize("network", ["gru:4", "mlp:4@history=3"])
def test_a_student_remembers_from_round_to_round(network):
    """Every round brings a new copy of it; a shard that is made anew between rounds goes on alike."""
    setup = setup_of(None, behaviour=Behaviour("student", epsilon=Schedule(0.0)))
    student = Policy(
        build(NetworkSpec.parse(network, (2,), 2), torch.Generator().manual_seed(0)), Categorical(Choices((2,)))
    )

    def order(steps=4):
        return Order(replace(student, network=copy.deepcopy(student.network)), Progress(0.5), False, steps)

    shard = Shard(setup, 0)
    blocks = [shard.collect(order()) for _ in range(3)]
    shard.close()
    whole = Shard(setup, 0)
    assert np.array_equal(whole.collect(order(12)).actions, np.concatenate([block.actions for block in blocks]))
    whole.close()
    made_anew = Shard(setup, 0)
    made_anew.restore(Played(blocks[0].actions, blocks[0].asked, blocks[0].state))
    for block in blocks[1:]:
        again = made_anew.collect(order())
        assert np.array_equal(again.actions, block.actions)
        np.testing.assert_equal(again.state["collector"], block.state["collector"])
    made_anew.close()
