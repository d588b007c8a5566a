"""Students that remember: cells by their formulas, sequences from the replay, training, resuming, refusals."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from conftest import SIGN, Killed, killed_after, make_teacher, sign_network
from test_policies import RECALL, recalling
from test_train import ACCEPTANCE, small, without_clock
from torch import nn

from distilrl.acceptance import accept
from distilrl.blocks import Cell, MemoryCell
from distilrl.checkpoints import load_network, save_network
from distilrl.cli import main
from distilrl.collect import Behaviour, Collector
from distilrl.comparison import Comparison
from distilrl.config import OptimConfig, TaskFile
from distilrl.distill import distill
from distilrl.envs import describe_env, make_vec_env
from distilrl.episodes import Play
from distilrl.errors import FileError, SpecError, TeacherError
from distilrl.evaluate import VERDICT_SEEDS, play, seeds_from
from distilrl.export import c, export_policy, int8, int8_c, int8_memory, onnx, qat, verify, web
from distilrl.export.keep import _replayed, write_c
from distilrl.export.last import last_step
from distilrl.export.replay import CFLAGS, Answers, Recording, file_policy, held, open_export
from distilrl.export.steps import steps
from distilrl.files import read_json, write_json
from distilrl.heads import Categorical, head_for
from distilrl.jobs import Job, make_config
from distilrl.learner import Learner, Part, Pupil
from distilrl.memories import Memories
from distilrl.metrics import read_metrics
from distilrl.networks import RecurrentNetwork, build
from distilrl.objective import TeacherTerm, term
from distilrl.plan import plan
from distilrl.policies import Policy
from distilrl.population import Population
from distilrl.replay import Batch, Replay, ReplaySpec
from distilrl.runs import RunFolder
from distilrl.schedules import Progress, Schedule
from distilrl.sensors import Sensors
from distilrl.spaces import Bounds, Choices, EnvRef, Excerpt, ObsSpec
from distilrl.specs import NetworkSpec, has_cell, history_of, spelled, suited
from distilrl.teachers import Teacher, TeacherFile, load_teacher
from distilrl.train import train
from distilrl.verdict import HOLDS
from distilrl.widths import between, scaled

HEAD = Categorical(Choices((2,)))
MEMORIES = ("gru:5", "lstm:4", "mlp:6+gru:5+mlp:3@tanh", "mlp:6@history=3", "mlp:4+lstm:3@history=2")


def drawn(text, shape=(3,), outputs=2, seed=0):
    """A network with memory whose parameters are all of some size."""
    generator = torch.Generator().manual_seed(seed)
    network = build(NetworkSpec.parse(text, shape, outputs), generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return network.requires_grad_(False)


def played(network, obs, begins=()):
    """Numbers of one episode after the other, step by step."""
    state, rows = network.start(1), []
    for index, one in enumerate(obs):
        row, state = network(one.unsqueeze(0), network.start(1) if index in begins else state)
        rows.append(row)
    return torch.cat(rows)


# -- specs


@pytest.mark.parametrize("text", [*MEMORIES, "gru:16+mlp:32,8@silu@history=4", "mlp:32,32@history=3"])
def test_a_spec_with_memory_is_spelled_as_it_is_read(text):
    spec = NetworkSpec.parse(text, (3,), 2)
    assert spec.describe() == text
    assert NetworkSpec.from_json(spec.to_json()) == spec
    assert spec.remembers
    assert history_of(text) == spec.history
    assert has_cell(text) == (spec.cell is not None)
    assert sum(p.numel() for p in build(spec).parameters()) == spec.params


@pytest.mark.parametrize(("text", "params", "macs"), [
    ("gru:16", 3 * 16 * (3 + 16) + 4 * 16 + 17 * 2, 3 * 16 * (3 + 16) + 32),
    ("lstm:8", 4 * 8 * (3 + 8) + 4 * 8 + 9 * 2, 4 * 8 * (3 + 8) + 16),
    ("mlp:8@history=4", 13 * 8 + 9 * 2, 12 * 8 + 16),
])  # fmt: skip
def test_parameters_and_products_are_counted(text, params, macs):
    spec = NetworkSpec.parse(text, (3,), 2)
    assert (spec.params, spec.macs) == (params, macs)


@pytest.mark.parametrize(("text", "way"), [
    ("gru:16@silu", "gru:16+mlp:16"), ("lstm:4@tanh@history=2", "lstm:4+mlp:16"), ("mlp:@tanh", "mlp:16"),
])  # fmt: skip
def test_an_activation_that_no_layer_has_is_refused(text, way):
    with pytest.raises(SpecError) as error:
        NetworkSpec.parse(text, (3,), 2)
    assert str(error.value).endswith(f"and there is none: leave it out, or add one, as in {way}.")
    assert NetworkSpec.parse(f"{way}@silu", (3,), 2).activation == "silu"


def test_what_is_spelled_of_a_network_can_be_read():
    """A teacher of another library may have an activation and no layer for it; so may a size of a plan."""
    spec = NetworkSpec((3,), 2, activation="tanh")
    assert spec.describe() == "mlp:"
    assert replace(spec, cell=Cell("gru", 16)).describe() == "gru:16"


def test_activations_that_suit_are_put_before_the_history():
    assert suited("mlp:32,32@history=3", real=True) == "mlp:32,32@tanh@history=3"
    assert suited("gru:16+mlp:32", real=True) == "gru:16+mlp:32@tanh"
    assert suited("gru:16", real=True) == "gru:16"
    assert suited("mlp:8@silu@history=2", real=True) == "mlp:8@silu@history=2"
    assert spelled(NetworkSpec.parse("mlp:8@history=2", (3,), 2), real=True) == "mlp:8@relu@history=2"


@pytest.mark.parametrize(("text", "told"), [
    ("gru:", "'gru:' is no student with memory"),
    ("gru:16+gru:16", "is no student with memory"),
    ("gru:0", "Every size of a network must be at least 1"),
    ("gru:16+cnn:8", "is no student with memory"),
    ("mlp:8@history=0", "A history must be at least 1, got 0"),
    ("mlp:8@history=x", "'@history=x' of 'mlp:8@history=x' means nothing"),
    ("mlp:8@past=2", "'@past=2' of 'mlp:8@past=2' means nothing"),
    ("mlp:8@history=2@history=3", "says twice"),
    ("mlp:8@history=1000", "is too long"),
])  # fmt: skip
def test_a_wrong_memory_gets_one_sentence(text, told):
    with pytest.raises(SpecError, match=told.replace("'", ".")) as caught:
        NetworkSpec.parse(text, (3,), 2)
    assert "\n" not in str(caught.value)


def test_images_have_a_cell_behind_their_convolutions_and_no_history():
    spec = NetworkSpec.parse("cnn:4k3s2:8+gru:6", (1, 12, 12), 2)
    assert (spec.describe(), spec.cell, spec.hidden) == ("cnn:4k3s2:8+gru:6", Cell("gru", 6), (8,))
    for text, told in (("gru:6", "use e.g. cnn:.*gru:6"), ("cnn:4k3s2:8@history=2", "give the student a cell")):
        with pytest.raises(SpecError, match=told):
            NetworkSpec.parse(text, (1, 12, 12), 2)


def test_a_network_with_memory_is_made_wider_and_narrower_as_others_are():
    spec = NetworkSpec.parse("mlp:8+gru:16+mlp:8@history=2", (3,), 2)
    small_one = scaled(spec, spec.params // 4)
    assert small_one.cell.size < 16
    assert small_one.history == 2
    assert len(small_one.behind) == 1
    assert between(spec, small_one, 0.0) == spec
    assert between(spec, small_one, 1.0) == small_one
    with pytest.raises(SpecError, match="cannot shrink"):
        between(spec, NetworkSpec.parse("mlp:8+lstm:4+mlp:8@history=2", (3,), 2), 0.5)


# -- networks


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_a_cell_is_pytorchs(kind):
    """By copying its weights into torch's own cell, which orders an LSTM's gates otherwise in nothing."""
    torch.manual_seed(0)
    ours = MemoryCell(3, Cell(kind, 5))
    theirs = (nn.GRUCell if kind == "gru" else nn.LSTMCell)(3, 5)
    with torch.no_grad():
        theirs.weight_ih.copy_(ours.inputs.weight)
        theirs.bias_ih.copy_(ours.inputs.bias)
        theirs.weight_hh.copy_(ours.recurrent.weight)
        theirs.bias_hh.zero_()
        if kind == "gru":
            ours.bias.normal_()
            theirs.bias_hh[-5:] = ours.bias
    state = ours.start(4)
    for _ in range(20):
        obs = torch.randn(4, 3)
        other = theirs(obs, state[0] if kind == "gru" else state)
        output, state = ours(ours.inputs(obs), state)
        expected = (other,) if kind == "gru" else other
        torch.testing.assert_close(state, expected)
        assert torch.equal(output, state[0])


@pytest.mark.parametrize(("text", "past"), [("mlp:6+gru:5", 6), ("mlp:8,6+lstm:4+mlp:3", 6), ("gru:5", 0)])
def test_what_is_seen_now_goes_past_a_cell_behind_dense_layers(text, past):
    network = drawn(text)
    assert network.spec.beside_cell == past
    assert sum(p.numel() for p in network.parameters()) == network.spec.params
    for parameter in network.cell.parameters():
        parameter.zero_()  # nothing passes through it
    numbers = network.going_on(torch.randn(4, 3), 2)[0]
    assert (torch.unique(numbers, dim=0).shape[0] == 4) == (past > 0)


@pytest.mark.parametrize("text", [text for text in MEMORIES if "history" not in text])
def test_sequences_are_what_step_by_step_is(text):
    network, obs = drawn(text), torch.randn(3, 12, 3)
    whole = network.going_on(obs.flatten(0, 1), 12)[0]
    torch.testing.assert_close(whole, torch.cat([played(network, one) for one in obs]))


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_the_gradients_of_sequences_are_those_of_the_steps(kind, steps):
    """What is written out by hand against autograd, which goes through the cell step by step."""
    torch.manual_seed(0)
    cell = MemoryCell(3, Cell(kind, 5)).double()
    cell.draw(None)
    gates = torch.randn(4, steps, cell.cell.gates, dtype=torch.float64, requires_grad=True)
    weights = [gates, cell.recurrent.weight, *([cell.bias] if cell.bias is not None else [])]
    outputs, states, begun = [], [], tuple(torch.randn_like(part) for part in cell.start(4))
    state = begun
    for one in gates.unbind(1):
        output, state = cell(one, state)
        outputs.append(output)
        states.append(state)
    slope = torch.randn(4, steps, 5, dtype=torch.float64)
    expected = torch.autograd.grad((torch.stack(outputs, 1) * slope).sum(), weights)
    whole, kept = cell.unrolled(gates, begun)
    found = torch.autograd.grad((whole * slope).sum(), weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    for part, one in zip(kept, zip(*states, strict=True), strict=True):
        assert not part.requires_grad
        torch.testing.assert_close(part, torch.stack(one, 1).detach())


@pytest.mark.parametrize("text", ["gru:5", "lstm:4", "mlp:4+lstm:3"])
def test_a_stretch_goes_on_from_what_is_remembered(text):
    network, obs = drawn(text), torch.randn(12, 3)
    whole, kept = network.going_on(obs, 12)
    first, half = network.going_on(obs[:7], 7)
    second, end = network.going_on(obs[7:], 5, half[-1:])
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(torch.cat([half, end]), kept)
    state = network.start(1)
    for one in obs:
        _, state = network(one.unsqueeze(0), state)
    torch.testing.assert_close(torch.cat(state, 1), kept[-1:])


def test_memories_are_of_the_states_that_are_held():
    memories = Memories(10, 2, torch.device("cpu"))
    assert not memories.before(torch.arange(10)).any()
    memories.keep(torch.tensor([3, -1, 5, 3]), torch.arange(8.0).view(4, 2))
    assert memories.before(torch.tensor([3, 5, 4])).tolist() == [[6.0, 7.0], [4.0, 5.0], [0.0, 0.0]]
    assert not memories.before(torch.tensor([13, 15])).any()  # what took their places
    memories.keep(torch.tensor([13]), torch.ones(1, 2))
    assert not memories.before(torch.tensor([3])).any()
    other = Memories(10, 2, torch.device("cpu"))
    other.load_state(memories.state())
    assert other.before(torch.tensor([13])).tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("rows", [9, 30, 100])
def test_each_step_of_a_sequence_is_known_by_its_number(rows):
    replay = filled(rows=rows)
    batch = replay.batch(replay.draw(500, torch.Generator().manual_seed(0)), generator=torch.Generator().manual_seed(1))
    env, age = batch.obs[:, 0].long(), batch.obs[:, 2].long()
    good = batch.valid.bool()
    assert torch.equal(batch.number[good] % 2, env[good])
    steps = (4, 9)  # of an episode of each environment
    row = batch.obs[:, 1].long() * torch.tensor(steps)[env] + age
    assert torch.equal(batch.number[good] // 2, row[good])
    onward = batch.onward[good]
    over = age[good] == torch.tensor(steps)[env[good]] - 1
    assert (onward[over] == -1).all()
    assert torch.equal(onward[~over][onward[~over] >= 0] - 2, batch.number[good][~over][onward[~over] >= 0])
    assert (onward[~over] >= 0).all()


def test_what_lies_further_back_than_a_sequence_is_remembered():
    """The answer changes half way through episodes of 24 steps, which sequences of 4 that begin with nothing cannot
    know.
    """
    spec = ReplaySpec(2400, 2, ObsSpec((1,)), Choices((2,)), labels=2, sequence=4, burn_in=1)
    replay, none = Replay(spec, torch.device("cpu")), torch.zeros(2)
    begins, answers = torch.tensor([1.0, *[0.0] * 23]), torch.arange(24).ge(12).long()
    for step in np.arange(480) % 24:
        label = 6.0 * nn.functional.one_hot(answers[step].expand(2), 2)
        replay.add(
            begins[step].expand(2, 1), torch.zeros(2, 1), none, torch.full((2,), bool(step == 23)), none.bool(), label
        )
    lost, terms = {}, (TeacherTerm("forward_kl"),)
    for remembers in (True, False):
        rng = torch.Generator().manual_seed(0)
        network = build(NetworkSpec.parse("gru:4", (1,), 2), rng)
        pupil = Pupil(network, HEAD, None, terms, rng, torch.device("cpu"))
        if remembers:
            pupil.remember(replay.places)
        learner = Learner([pupil], terms, OptimConfig(learning_rate=2e-2, average=0.9))
        for number in range(1500):
            batch = replay.batch(replay.draw(32, rng), generator=rng)
            learner.update([Part(0, batch, Progress(number / 1500))])
        numbers = pupil.average.going_on(begins.view(24, 1), 24)[0]
        lost[remembers] = float(nn.functional.cross_entropy(numbers, answers))
    assert lost[True] < 0.1
    assert lost[False] > 0.3


def test_of_a_history_moves_are_seen_and_where_it_is_now():
    network, obs = drawn("mlp:6@history=3"), torch.randn(20, 9) * 5 + 3
    mean, scale, moves = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([0.2, 0.0, 0.3]), torch.tensor([4.0, 2.0, 9.0])
    network.standardise(mean, scale, moves)
    one, two, three = obs.view(20, 3, 3).unbind(1)
    moves = torch.where(scale == 0, 0.0, moves)
    seen = torch.cat([(two - one) * moves, (three - two) * moves, (three - mean) * scale], 1)
    first = network.layers[0]
    expected = network.layers[2](torch.relu(seen @ first.weight.T + first.bias))
    told = network.going_on(obs, 1)[0]
    torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-4)
    # -- what ships is the same function, and the way back is too
    network.fold()
    assert network.obs_moves is None
    torch.testing.assert_close(network.going_on(obs, 1)[0], told, rtol=1e-4, atol=1e-4)
    raw = network.layers[0].weight.clone()
    network.standardise(mean, torch.tensor([0.2, 0.5, 0.3]), torch.tensor([4.0, 2.0, 9.0]))
    network.unfold()
    torch.testing.assert_close(network.going_on(obs, 1)[0], told, rtol=1e-4, atol=1e-4)
    network.fold()
    torch.testing.assert_close(network.layers[0].weight, raw, rtol=1e-4, atol=1e-4)


def test_moves_within_episodes_decide_what_they_count():
    replay = filled(sequence=1, history=2, rows=100)
    assert replay.scale_of_moves().tolist() == pytest.approx([1.0, 1.0, 1.0])  # a step each; the rest does not move
    assert filled(sequence=1, history=2, rows=1).scale_of_moves() is None
    assert filled(sequence=1, history=1).scale_of_moves() is None
    far = replace(replay.spec, sensors=Sensors(noise=(0.0, 0.0, 2.0)))
    replay.spec = far
    assert float(replay.scale_of_moves()[2]) == pytest.approx(1 / 3)  # of a step of 1 and noise on both of its ends
    replay = filled(sequence=1, history=2, rows=100)
    replay._obs += 1e6  # in which floats hold no step of less than a sixteenth
    assert float(replay.scale_of_moves()[2]) == pytest.approx(1e-3, rel=1e-3)


def test_the_end_of_an_episode_is_learnt_from_as_its_middle_is():
    """A state lay at the end of its sequence before, so that the last one of an episode was in that one alone."""
    replay = filled(sequence=8, burn_in=2, rows=400, capacity=450, lengths=(40, 40))
    generator = torch.Generator().manual_seed(0)
    batch = replay.batch(replay.draw(40_000, generator), generator=generator)
    count = torch.bincount(batch.obs[batch.valid.bool(), 2].long())
    assert len(count) == 40
    assert float(count.min() / count.median()) > 0.5
    assert float(count.max() / count.median()) < 1.2


def test_before_the_first_observation_of_an_episode_it_stands_itself():
    network = drawn("mlp:6@history=3")
    one, two, three, four = obs = torch.randn(4, 3)
    windows = [(one, one, one), (one, one, two), (one, two, three), (two, three, four)]
    whole = network.going_on(torch.stack([torch.cat(window) for window in windows]), 1)[0]
    torch.testing.assert_close(played(network, obs), whole)
    torch.testing.assert_close(played(network, torch.cat([obs, obs]), begins=(4,)), torch.cat([whole, whole]))


@pytest.mark.parametrize("text", MEMORIES)
def test_folding_changes_no_answer(text, tmp_path):
    network, obs = drawn(text), torch.randn(12, 3) * 5 + 3
    network.standardise(torch.full((3,), 3.0), torch.tensor([0.2, 0.0, 0.3]))
    before = played(network, obs)
    network.fold()
    torch.testing.assert_close(played(network, obs), before, rtol=1e-4, atol=1e-5)
    save_network(tmp_path, network, HEAD)
    stored = load_network(tmp_path).network
    assert isinstance(stored, RecurrentNetwork)
    assert torch.equal(played(stored, obs), played(network, obs))


# -- the replay


def filled(sequence=6, burn_in=2, history=1, rows=30, capacity=24, n_envs=2, lengths=(4, 9)):
    """A replay whose observation is (environment, episode, step in it), of episodes of as many steps each."""
    spec = ReplaySpec(
        capacity * n_envs, n_envs, ObsSpec((3,)), Choices((2,)), labels=2,
        history=history, sequence=sequence, burn_in=burn_in,
    )  # fmt: skip
    replay, now = Replay(spec, torch.device("cpu")), np.zeros((n_envs, 2), np.int64)
    for _ in range(rows):
        obs = torch.tensor([[env, *now[env]] for env in range(n_envs)], dtype=torch.float32)
        ended = np.array([now[env, 1] == lengths[env % 2] - 1 for env in range(n_envs)])
        label = obs[:, 1:]
        zeros = torch.zeros(n_envs)
        replay.add(obs, torch.zeros(n_envs, 1), zeros, torch.from_numpy(ended), zeros.bool(), label)
        now[:, 1] += 1
        now[ended, 0] += 1
        now[ended, 1] = 0
    return replay


@pytest.mark.parametrize("rows", [3, 9, 30, 100])
def test_a_sequence_is_steps_of_one_episode_in_their_order(rows):
    replay = filled(rows=rows)
    index = replay.draw(500, torch.Generator().manual_seed(0))
    batch = replay.batch(index, generator=torch.Generator().manual_seed(1))
    obs, valid = batch.obs.view(500, 6, 3), batch.valid.view(500, 6).bool()
    assert batch.steps == 6
    assert torch.equal(batch.labels, batch.obs[:, 1:])
    assert bool(valid.any(1).all())  # the state that was drawn is learnt from
    again = replay.batch(index, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.obs, batch.obs)
    for one, good in zip(obs, valid, strict=True):
        used = one[good]
        assert (used[:, :2] == used[0, :2]).all()  # one environment, one episode
        first = int(one[0, 2])
        assert used[:, 2].tolist() == [first + int(k) for k in torch.nonzero(good).flatten()]
        assert not good[:2].any() or first == 0  # memory starts with the episode, or is brought up to it
    known = {
        tuple(o) for o in replay.observations(torch.arange(replay.rows * 2)[: min(rows, replay.rows) * 2]).tolist()
    }
    learnt = {tuple(o) for o in obs[valid].tolist()}
    assert learnt <= known
    if rows == 9:  # nothing was overwritten: every state is learnt from
        assert learnt == known


def test_a_history_ends_where_its_episode_begins():
    replay = filled(sequence=1, history=3)
    index = replay.draw(300, torch.Generator().manual_seed(0))
    windows = replay.batch(index).obs.view(300, 3, 3)
    newest = windows[:, 2]
    for back in (1, 2):
        expected = newest.clone()
        expected[:, 2] = (newest[:, 2] - back).clamp_min(0)
        assert torch.equal(windows[:, 2 - back], expected)


# -- training


def memory_config(text, **changes):
    """Learns what was seen one step before."""
    config = small(env_steps=1200, gap=0.02, agreement=0.9, **({"learning_rate": 2e-2} | changes))
    return config.but(tasks=(TaskFile(RECALL),), network=text, batch_size=128, sequence=8, burn_in=2)


def accepted(teacher):
    return accept(teacher, Play(RECALL), episodes=20)


@pytest.mark.parametrize("text", ["gru:8", "lstm:8", "mlp:8@history=2", "mlp:8"])
def test_a_student_with_memory_learns_what_one_without_cannot(text):
    teacher = recalling()
    acceptance = accepted(teacher)
    found = train(memory_config(text, check_episodes=40), teacher, acceptance=acceptance)
    best = max(row["score"] for row in found.history)
    if text == "mlp:8":
        assert best < 0.5
        return
    assert best > 0.75  # numbers near 0 have hardly a sign
    assert isinstance(found.network, RecurrentNetwork)
    games = play(found.policy, Play(RECALL), range(10_000, 10_050))
    assert games.returns.mean() > 0.75 * acceptance.return_mean


@pytest.mark.parametrize(
    ("text", "moment", "rounds"),
    [("gru:4", 65, 0), ("lstm:3@history=2", 65, 4), ("mlp:4@history=3", 1, 0), ("mlp:4@history=3", 99, 0)],
)
def test_a_resumed_student_remembers_what_it_did(text, moment, rounds, tmp_path):
    teacher = recalling()
    acceptance = accepted(teacher)
    config = memory_config(text, check_every=200).but(env_steps=800, gap=-1.0, round_steps=rounds, updates=1)
    whole = train(config, teacher, acceptance=acceptance, folder=RunFolder(tmp_path / "whole"))
    with pytest.raises(Killed):
        train(
            config, teacher, acceptance=acceptance, folder=RunFolder(tmp_path / "cut"), watch=killed_after(8 * moment)
        )
    resumed = train(config, teacher, acceptance=acceptance, folder=RunFolder(tmp_path / "cut"))
    one, other = (tmp_path / name / "student/student.safetensors" for name in ("cut", "whole"))
    assert one.read_bytes() == other.read_bytes()
    assert without_clock(resumed) == without_clock(whole)


def test_a_student_with_memory_sees_every_step_whoever_drives():
    envs = make_vec_env(RECALL, 2)
    network = drawn("gru:5", (1,))
    spec = ReplaySpec(100, 2, envs.info.obs, envs.info.action, labels=2, sequence=4)
    teacher = recalling()
    driven = Behaviour("teacher", epsilon=Schedule(0.0))
    collector = Collector(envs, Replay(spec, torch.device("cpu")), driven, np.random.default_rng(0), teacher)
    collector.student = Policy(network, HEAD)
    state = network.start(2)
    collector.begin(np.arange(2))
    for _ in range(25):
        obs = collector._obs.clone()
        collector.act()
        _, state = network(obs, state)
        torch.testing.assert_close(collector._student_state, state)
        collector.settle()
        ages = collector.replay._episode_age
        state = tuple(torch.where(ages.view(-1, 1) == 0, torch.zeros_like(part), part) for part in state)
    envs.close()


@pytest.mark.parametrize(("changes", "told"), [
    ({"network": "gru:8", "batch_size": 100}, "must be a multiple of 'sequence'"),
    ({"network": "gru:8", "terms": (term("td"),), "n_step": 1}, "learns from a teacher alone"),
    ({"network": "gru:8", "terms": (term("hint"),)}, "is for students without memory"),
    ({"network": "gru:8", "terms": (term("batch_correlation"),)}, "is for students without memory"),
    ({"network": "mlp:8@history=2", "start": "svd"}, "starts with new weights"),
    ({"network": "mlp:8@history=2", "prune_from": "mlp:16@history=2"}, "is not pruned"),
    ({"network": "gru:8", "sequence": 8, "burn_in": 8}, "nothing is left to learn"),
])  # fmt: skip
def test_what_memory_does_not_do_is_said_before_a_step_is_taken(changes, told):
    with pytest.raises(SpecError, match=told):
        make_config("distil", SIGN).but(**changes)


# -- files


def recording(network, steps=60, seed=0):
    obs = torch.randn(steps, 3, generator=torch.Generator().manual_seed(seed)).numpy()
    begins = np.isin(np.arange(steps), (0, 17, 18, 40))
    return Recording(obs, begins), Recording(obs, begins).numbers(Policy(network, HEAD))


def written(folder, text, name, head=HEAD):
    network, obs = drawn(text, outputs=head.width), ObsSpec((3,))
    if name == "policy.c":
        write_c(folder, c.write(steps(network, "c"), head, obs, "a test"))
    else:
        (folder / name).write_bytes(onnx.write(network, head, obs, {}))
    return network, open_export(folder / name, head, 3)


@pytest.mark.parametrize("name", ["policy.c", "policy.onnx"])
@pytest.mark.parametrize("text", MEMORIES)
def test_a_file_remembers_as_the_student_does(text, name, tmp_path):
    network, file = written(tmp_path, text, name)
    seen, numbers = recording(network)
    found = held(file(seen.obs, seen.begins), numbers, HEAD)
    assert found.alike
    forgetting = held(file(seen.obs, np.ones(60, bool)), numbers, HEAD)
    assert not forgetting.alike, "the test would not see it"


def test_a_graph_has_as_many_parameters_as_the_student_that_was_written(tmp_path):
    """Sizes and places that its operators take were counted among them."""
    network, _ = written(tmp_path, "gru:5", "policy.onnx")
    twice = 2 * 5  # biases of reset and update, which ONNX's operator has on either side
    assert load_teacher(tmp_path / "policy.onnx").params == network.spec.params + twice


@pytest.mark.parametrize("name", ["policy.c", "policy.onnx"])
@pytest.mark.parametrize("text", ["gru:5", "lstm:4", "mlp:6@history=3"])
def test_a_file_with_memory_is_a_policy_of_many_episodes(text, name, tmp_path):
    network, file = written(tmp_path, text, name)
    policy, own = file_policy(file, HEAD), Policy(network, HEAD)
    assert policy.remembers
    states = policy.start(4), own.start(4)
    for index in range(12):
        obs = torch.randn(4, 3)
        (ours, first), (theirs, second) = policy.act(obs, states[0]), own.act(obs, states[1])
        assert torch.equal(ours, theirs)
        ended = torch.tensor([index == 5, False, index == 7, False])
        states = policy.restart(first, ended), own.restart(second, ended)


@pytest.mark.parametrize("text", ["gru:5", "mlp:6+lstm:4+mlp:3@silu", "mlp:6@history=3"])
def test_c_with_memory_is_clean_and_runs_its_example(text, tmp_path):
    head = Categorical(Choices((3, 2)))
    network, file = written(tmp_path, text, "policy.c", head)
    seen, _ = recording(network)
    golden = seen.few(64, remembers=True)
    assert len(golden.obs) == 17
    assert golden.begins.sum() == 1
    answers = file(golden.obs, golden.begins)
    pairs = zip(answers.actions.astype("<i4"), golden.obs, strict=True)
    (tmp_path / "golden.bin").write_bytes(b"".join(action.tobytes() + obs.tobytes() for action, obs in pairs))
    flags = ["-std=c99", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    command = ["cc", *flags, "example.c", "policy.c", "-o", "example"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == "17 of 17 actions as expected\n"
    symbols = subprocess.run(["nm", "-u", "example"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "malloc@" not in symbols.replace("__interceptor_malloc", "")


# -- integers

ROUNDED = ("gru:5", "lstm:4", "mlp:6+gru:5+mlp:3", "mlp:6@history=3", "mlp:4+lstm:3@history=2", "gru:5@history=4")
REAL = head_for(Bounds((-1.0, -2.0), (1.0, 2.0)), "mean", "tanh")


def in_integers(text, head=HEAD, shape=(3,), **changes):
    """A student's integers, what it says itself, and episodes that they were not calibrated on."""
    network = drawn(text, shape, head.width)
    calibrated, seen = recording(network, 1000, seed=1)[0], recording(network, 300)[0]
    layers = steps(network, "int8")
    return (
        int8.quantise(layers, calibrated.obs, calibrated.begins, **changes),
        seen,
        seen.numbers(Policy(network, head)),
    )


def opened_integers(folder, rounded, head, obs):
    write_c(folder, int8_c.write(rounded, head, obs, "a test"))
    return open_export(folder / "policy.c", head, int(np.prod(obs.shape)))


@pytest.mark.parametrize("head", [HEAD, REAL], ids=["choice", "real"])
@pytest.mark.parametrize("text", ROUNDED)
def test_integers_remember_to_the_bit_what_their_model_does(text, head, tmp_path):
    """Sequences of several episodes, one of which is one step long, each from a fresh state."""
    rounded, seen, numbers = in_integers(text, head)
    answers = opened_integers(tmp_path, rounded, head, ObsSpec((3,)))(seen.obs, seen.begins)
    np.testing.assert_array_equal(answers.values, rounded.values(seen.obs, seen.begins))
    found = held(answers, numbers, head)
    assert found.consistent
    assert found.distance < 0.05
    off = np.abs(answers.values - numbers.numpy()).max(1)  # what lies beyond the observations of calibration is cut off
    assert np.percentile(off, 98) < 0.03 * numbers.abs().max()
    assert np.abs(rounded.values(seen.obs) - answers.values).max() > 0, "the test would not see a restart"


@pytest.mark.parametrize("text", ROUNDED)
def test_integers_in_onnx_remember_too(text, tmp_path):
    rounded, seen, numbers = in_integers(text)
    (tmp_path / "policy.onnx").write_bytes(onnx.write_int8(rounded, HEAD, ObsSpec((3,)), {}))
    answers = open_export(tmp_path / "policy.onnx", HEAD, 3)(seen.obs, seen.begins)
    np.testing.assert_allclose(answers.values, rounded.values(seen.obs, seen.begins), atol=0.02 * numbers.abs().max())


def test_integers_of_a_cell_behind_convolutions(tmp_path):
    network, obs = drawn("cnn:4k3s2:8+gru:5", (2, 12, 12)), ObsSpec((2, 12, 12), (2, 12, 12), "uint8", 2)
    network.standardise(torch.tensor([100.0]), torch.tensor([0.02]))
    network.fold()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 2, 12, 12)).astype(np.uint8)
    seen = Recording(pixels, np.isin(np.arange(60), (0, 13)))
    rounded = int8.quantise(steps(network, "int8"), seen.obs, seen.begins)
    answers = opened_integers(tmp_path, rounded, HEAD, obs)(seen.obs, seen.begins)
    np.testing.assert_array_equal(answers.values, rounded.values(seen.obs, seen.begins))
    assert held(answers, seen.numbers(Policy(network, HEAD)), HEAD).distance < 0.1


@pytest.mark.parametrize("text", ["gru:3", "lstm:3", "mlp:5@history=3"])
def test_integers_with_memory_are_clean_and_as_small_as_they_say(text, tmp_path):
    """Observations far beyond those of calibration too; an episode of example.c is a sequence."""
    rounded, seen, _ = in_integers(text)
    obs = np.concatenate([seen.obs[:9], np.full((3, 3), 1e30, np.float32), -seen.obs[:4] * 100])
    wanted = last_step(HEAD).golden(HEAD.greedy(torch.from_numpy(rounded.values(obs))).numpy())
    (tmp_path / "golden.bin").write_bytes(b"".join(a.tobytes() + o.tobytes() for a, o in zip(wanted, obs, strict=True)))
    source = int8_c.write(rounded, HEAD, ObsSpec((3,)), "a test")
    write_c(tmp_path, source)
    bytes_of = {"gru:3": 6, "lstm:3": 20, "mlp:5@history=3": 20}[text]  # an LSTM's are padded to four
    (tmp_path / "size.c").write_text(
        '#include "policy.h"\n'
        f"char right[sizeof(policy_state) == POLICY_STATE_BYTES && POLICY_STATE_BYTES == {bytes_of} ? 1 : -1];"
    )
    assert "Reentrant" in source.header
    flags = [*CFLAGS, "-Werror", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    for extra in ([], ["-U__SSE2__"]):  # as processors without vectors sum
        command = ["cc", *flags, *extra, "example.c", "policy.c", "size.c", "-o", "example"]
        subprocess.run(command, cwd=tmp_path, check=True)
        done = subprocess.run(["./example", "golden.bin"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "16 of 16 actions as expected\n"), done.stderr


@pytest.mark.parametrize("text", ROUNDED)
def test_no_name_of_the_c_of_integers_hides_another(text, tmp_path):
    rounded, _, _ = in_integers(text)
    write_c(tmp_path, int8_c.write(rounded, HEAD, ObsSpec((3,)), "a test"))
    command = [
        "cc",
        "-std=c99",
        "-pedantic",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wshadow",
        "-Werror",
        "-c",
        "policy.c",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_golden_observations_of_a_memory_are_of_an_episode_that_asks_something_of_it():
    obs = np.arange(40, dtype=np.float32)[:, None]
    short = Recording(obs, np.isin(np.arange(40), (0, 1, 3, 10)))
    assert short.few(64, remembers=True).obs[:, 0].tolist() == list(range(10, 40)), "the first of sixteen steps"
    assert short.few(20, remembers=True).obs[:, 0].tolist() == list(range(3, 10)), "the first of five"
    brief = Recording(obs[:9], np.isin(np.arange(9), (0, 1, 4, 8)))
    assert brief.few(64, remembers=True).obs[:, 0].tolist() == [4, 5, 6, 7], "the longest"
    assert brief.few(64, remembers=True).begins.tolist() == [True, False, False, False]


def test_integers_keep_what_a_cell_forgets_slowly():
    """A GRU whose update gate is nearly 1 takes a thousand steps to come to what it is shown; so do its integers."""
    network = drawn("gru:4")
    cell, size = network.cell, 4
    with torch.no_grad():
        cell.inputs.weight[size : 2 * size], cell.recurrent.weight[size : 2 * size] = 0.0, 0.0
        cell.inputs.bias[size : 2 * size] = 7.0
        cell.inputs.weight[2 * size :] *= 0.2
    seen = Recording(np.ones((1200, 3), np.float32), np.arange(1200) == 0)
    numbers = seen.numbers(Policy(network, HEAD)).numpy()
    values = int8.quantise(steps(network, "int8"), seen.obs, seen.begins).values(seen.obs, seen.begins)
    moved = np.abs(numbers[-1] - numbers[0])
    assert (moved > 0.05).any()
    assert np.abs((values[-1] - values[0]) - (numbers[-1] - numbers[0])).max() < 0.1 * moved.max()


def test_the_table_of_integers_is_the_sigmoid_and_tanh():
    x = np.arange(-(2**17), 2**17, 37)
    real = x / 2.0**int8_memory.GATE_BITS
    sigmoid, tanh = int8_memory.sigmoid(x) / 2.0**15, int8_memory.tanh(x) * int8_memory.STATE_UNIT
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-real)), atol=1e-4)
    np.testing.assert_allclose(tanh, np.tanh(real), atol=2e-4)
    assert int8_memory.sigmoid(np.array([2**24, -(2**24)])).tolist() == [2**15, 0]


def test_a_cell_whose_sums_do_not_fit_is_refused():
    network = build(NetworkSpec.parse("gru:1001", (3,), 2))
    with pytest.raises(SpecError, match="A cell of 1001 numbers cannot be written in integers"):
        int8.quantise(steps(network, "int8"), np.ones((4, 3), np.float32))
    network = build(NetworkSpec.parse("mlp:999+gru:2", (3,), 2))
    with pytest.raises(SpecError, match="A cell of 2 numbers with 999 beside it cannot be written in integers"):
        int8.quantise(steps(network, "int8"), np.ones((4, 3), np.float32))


# -- runs


def test_an_onnx_file_with_memory_is_a_teacher(tmp_path):
    network, _ = written(tmp_path, "lstm:4", "policy.onnx")
    seen, numbers = recording(network)
    teacher = load_teacher(TeacherFile(str(tmp_path / "policy.onnx"), kind="q"))
    torch.testing.assert_close(seen.numbers(Policy(teacher.network, HEAD)), numbers)


def test_a_run_with_memory_from_beginning_to_end(tmp_path):
    """Trained, judged, exported, verified, and taught from: the folder of a student is a teacher's too."""
    job = Job(memory_config("gru:8").but(env_steps=800), Comparison(60, 60, 0))
    result = distill(recalling(), job, tmp_path / "run", report=False)
    assert result.student.name == "gru:8"
    for target, name in (("c", "policy.c"), ("onnx", "policy.onnx")):
        card = export_policy(tmp_path / "run", target)
        assert card["replay"][name]["same_action"] == 1.0
        checked = verify(card["path"])
        assert checked.against_student.difference == 0.0
        assert checked.verdict.result == result.verdict.result
    card = export_policy(tmp_path / "run", "int8")
    assert card["replay"]["policy.c"]["same_action"] > 0.95
    assert card["played"]["policy.c"] == verify(card["path"]).to_json()
    assert card["played"]["policy.onnx"]["against_student"]["difference"] == pytest.approx(0.0, abs=0.05 * 60)
    rounded = load_teacher(TeacherFile(str(tmp_path / "run/export/int8/policy.onnx"), kind="q"))
    games = play(rounded.fitted(describe_env(RECALL)).policy, Play(RECALL), seeds_from(VERDICT_SEEDS, 60))
    assert games.returns.mean() == pytest.approx(card["played"]["policy.onnx"]["return_mean"])
    for target in ("torch", "tflite"):
        with pytest.raises(SpecError, match=f"'{target}' cannot hold that: export it to onnx, c, int8 or web"):
            export_policy(tmp_path / "run", target)
    again = load_teacher(str(tmp_path / "run")).fitted(describe_env(RECALL))
    assert again.policy.remembers
    own = play(again.policy, Play(RECALL), seeds_from(VERDICT_SEEDS, 60)).returns
    assert own.mean() == pytest.approx(result.student.return_mean)


# -- what the student does not see


@pytest.mark.parametrize("text", ["mlp:8", "mlp:8@history=2", "gru:5"])
def test_what_is_not_seen_decides_nothing_and_costs_nothing(text):
    whole = NetworkSpec.parse(text, (5,), 2)
    spec = replace(whole, unseen=(1, 4))
    assert spec.params == replace(whole, obs_shape=(3,)).params
    assert NetworkSpec.from_json(spec.to_json()) == spec
    network = build(spec, torch.Generator().manual_seed(0))
    network.standardise(torch.arange(5.0), torch.tensor([1.0, 9.0, 2.0, 3.0, 9.0]))
    assert network.input_scale.view(-1, 5)[0].tolist() == [1.0, 0.0, 2.0, 3.0, 0.0]
    obs = torch.randn(9, 5)
    other = obs.clone()
    other[:, [1, 4]] = torch.randn(9, 2) * 100
    policy, bare = Policy(network, HEAD), Policy(network.bare(), HEAD)
    seen = [Recording(one.numpy(), np.arange(9) == 0) for one in (obs, other)]
    with torch.no_grad():
        numbers = [one.numbers(policy) for one in seen]
        assert torch.equal(*numbers)
        assert torch.equal(Recording(obs[:, [0, 2, 3]].numpy(), seen[0].begins).numbers(bare), numbers[0])
        network.fold()
        torch.testing.assert_close(seen[1].numbers(policy), numbers[0])


@pytest.mark.parametrize("unseen", [(5,), (1, 1), (2, 1), (-1,), (0, 1, 2, 3, 4)])
def test_what_is_not_seen_must_be_there_and_not_all(unseen):
    with pytest.raises(SpecError, match=r"'unseen' must name|sees no number"):
        replace(NetworkSpec.parse("mlp:8", (5,), 2), unseen=unseen)


def test_numbers_are_hidden_by_their_names():
    obs = ObsSpec((6,), names=("pos[0]", "pos[1]", "pos[2]", "vel[0]", "vel[1]", "mode[0]"))
    assert obs.places("vel") == (3, 4)
    assert obs.places("pos[1]") == (1,)
    assert obs.places("pos[1:]") == (1, 2) == obs.places("pos[1:3]")
    assert obs.places("pos[:2]") == (0, 1)
    assert obs.in_ranges([4, 0, 2, 3]) == ["pos[0]", "pos[2]", "vel"]
    for number in range(1, 2**6):
        wanted = tuple(place for place in range(6) if number >> place & 1)
        assert tuple(place for text in obs.in_ranges(wanted) for place in obs.places(text)) == wanted
    for wrong in ("speed", "pos[3]", "vel[2:]", "pos[", ""):
        with pytest.raises(SpecError, match=r"names no number.*pos\[0:3\], vel\[0:2\], mode\[0:1\]"):
            obs.places(wrong)
    assert obs.part((1, 5)).names == ("pos[1]", "mode[0]")


@pytest.fixture(scope="module")
def part_run(tmp_path_factory):
    """The folder of a student that does not see the second of two numbers, though its teacher does."""
    out = tmp_path_factory.mktemp("part") / "run"
    config = small("distil", hidden_features=(1,), env_steps=800).but(network="mlp:8@relu")
    distill(make_teacher(sign_network()), Job(config, Comparison(60, 60, 0)), out, report=False)
    return out


@pytest.mark.parametrize("target", ["c", "onnx", "int8", "torch"])
def test_the_file_of_a_student_reads_what_it_sees(target, part_run, tmp_path):
    """A privileged teacher: the file takes one number an observation."""
    shutil.copytree(part_run, tmp_path / "run")
    card = export_policy(tmp_path / "run", target)
    assert (card["obs"]["shape"], card["obs"]["reads"]) == ([1], [0])
    checked = verify(card["path"])
    assert checked.verdict is not None
    if target == "c":
        assert "#define POLICY_OBS_SIZE 1\n" in (tmp_path / "run/export/c/policy.h").read_text()
        assert checked.against_student.difference == 0.0


@pytest.fixture(scope="module")
def camera_run(tmp_path_factory):
    """The folder of a student that sees the picture alone, beside which its teacher reads numbers."""
    out, info = tmp_path_factory.mktemp("camera") / "run", describe_env(EnvRef("distilrl/MixedEnv-v0"))
    teacher = Teacher.from_callable(lambda obs: obs[:, :2].clamp(-1, 1), 2, name="two numbers")
    config = small(
        "distil", env=info.ref, network="cnn:2k4s4:8", hidden_features=tuple(range(info.obs.vector)), env_steps=400,
        n_envs=8, updates=2,
    )  # fmt: skip
    job = Job(config, Comparison(60, 60, 0, margin_abs=100.0), accept_weak_teacher=True)
    distill(teacher, job, out, report=False)
    return out


@pytest.mark.parametrize(("wraps", "percentile"), [(False, 100.0), (True, 98.0)])
def test_integers_keep_choices_that_a_velocity_decides(wraps, percentile):
    """Rounded as observations, of which a move is about a unit, every tenth choice or so was another."""
    turning = np.cumsum(0.02 * np.sin(np.arange(1000) / 15) + 0.02).astype(np.float32)
    seen = turning.reshape(-1, 1) if not wraps else ((turning + np.pi) % (2 * np.pi) - np.pi).reshape(-1, 1)
    network = drawn("mlp:8@history=2", (1,))
    offsets = torch.linspace(-0.03, 0.03, 8)
    network.layers[0].weight.copy_(torch.tensor([[-40.0, 40.0]]).repeat(8, 1))
    network.layers[0].bias.copy_(-40 * (offsets + 0.02))
    network.layers[2].weight.copy_(torch.stack([torch.ones(8), -torch.ones(8)]))
    network.layers[2].bias.copy_(torch.tensor([-2.5, 2.5]))
    record = Recording(seen, np.arange(1000) == 0)
    numbers = record.numbers(Policy(network, HEAD)).numpy()
    rounded = int8.quantise(steps(network, "int8"), seen, record.begins, moves_percentile=percentile)
    same = (rounded.values(seen, record.begins).argmax(1) == numbers.argmax(1))[1:]
    assert 0.2 < numbers.argmax(1).mean() < 0.8
    assert same.mean() > 0.98


def test_integers_too_coarse_for_a_velocity_are_refused(tmp_path):
    """It was said to be a fault of distilrl, to be reported."""
    network = drawn("mlp:8@history=2", (1,))
    network.layers[0].weight.copy_(torch.linspace(-300, 300, 8).view(8, 1) * torch.tensor([[-1.0, 1.0]]))
    network.layers[2].weight.copy_(torch.tensor([[-1.0], [1.0]]) * torch.linspace(-1, 1, 8))
    walk = np.cumsum(np.random.default_rng(0).choice([-0.003, 0.003], 400)).astype(np.float32).reshape(-1, 1)
    walk[-1] = 10.0  # seen once, and scales go by it
    seen = Recording(walk, np.arange(400) == 0)
    written = int8_c.write(int8.quantise(steps(network, "int8"), seen.obs, seen.begins), HEAD, ObsSpec((1,)), "a test")
    write_c(tmp_path, written)
    with pytest.raises(FileError, match=r"eight bits are too few where.*export to c or onnx"):
        _replayed("policy.c", open_export(tmp_path / "policy.c", HEAD, 1), Policy(network, HEAD), seen, "int8")


@pytest.mark.parametrize("target", ["c", "onnx", "int8", "torch"])
def test_the_file_of_a_student_that_sees_the_picture_alone_takes_the_picture(target, camera_run, tmp_path):
    shutil.copytree(camera_run, tmp_path / "run")
    card = export_policy(tmp_path / "run", target)
    assert (card["obs"]["shape"], card["obs"]["dtype"], card["obs"]["reads"]) == ([3, 12, 16], "uint8", "image")
    checked = verify(card["path"])
    told = Path(card["path"]) / "export.json"
    write_json(told, read_json(told) | {"obs": card["obs"] | {"of": 2 * 10**10}})
    with pytest.raises(FileError, match=r"damaged .*what it reads is more than there is"):
        verify(card["path"])
    if target == "c":
        assert "#define POLICY_OBS_SIZE 576\n" in (tmp_path / "run/export/c/policy.h").read_text()
        assert "typedef uint8_t obs_t;" in (tmp_path / "run/export/c/policy.h").read_text()
        assert checked.against_student.difference == 0.0


@pytest.mark.parametrize("name", ["policy.c", "policy.onnx"])
@pytest.mark.parametrize("text", ["cnn:4k3s2:8+gru:5", "cnn:4k3s2:+lstm:4+mlp:6"])
def test_a_cell_behind_convolutions(text, name, tmp_path):
    network, obs = drawn(text, (2, 12, 12)), ObsSpec((2, 12, 12), (2, 12, 12), "uint8", 2)
    network.standardise(torch.tensor([100.0]), torch.tensor([0.02]))
    network.fold()
    seen = torch.randint(0, 255, (30, 2, 12, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    record = Recording(seen.numpy(), np.isin(np.arange(30), (0, 13)))
    numbers = record.numbers(Policy(network, HEAD))
    whole = torch.cat([network.going_on(seen[:13], 13)[0], network.going_on(seen[13:], 17)[0]])
    torch.testing.assert_close(whole, numbers, rtol=1e-4, atol=1e-5)
    if name == "policy.c":
        written = c.write(steps(network, "c"), HEAD, obs, "a test")
        write_c(tmp_path, written)
        assert written.scratch_bytes > 0
        assert "Not reentrant" in written.header
    else:
        (tmp_path / name).write_bytes(onnx.write(network, HEAD, obs, {}))
    assert held(open_export(tmp_path / name, HEAD, 2 * 144)(record.obs, record.begins), numbers, HEAD).alike


def test_a_cell_has_larger_batches_and_fewer_of_them():
    plain, cell = (make_config("distil", "CartPole-v1", network=text) for text in ("mlp:8", "gru:8"))
    assert cell.optim.batch_size == 4 * plain.optim.batch_size
    assert cell.optim.updates == -(-plain.optim.updates // 2)
    assert make_config("distil", "CartPole-v1", network="gru:8", batch_size=64).optim.batch_size == 64


@pytest.mark.skipif(not all(map(shutil.which, ("clang", "wasm-ld", "node"))), reason="clang, wasm-ld or node is absent")
@pytest.mark.parametrize("text", MEMORIES)
def test_a_page_remembers_as_the_student_does(text, tmp_path):
    network = drawn(text)
    seen, _ = recording(network)
    golden, last = seen.few(64, remembers=True), last_step(HEAD)
    numbers = golden.numbers(Policy(network, HEAD))
    answers = Answers(numbers.numpy(), HEAD.greedy(numbers).numpy())
    module = web.wasm(c.write(steps(network, "c"), HEAD, ObsSpec((3,)), "a test"), last, remembers=True)
    page = web.page(module, "any", text, last, golden.obs, answers, remembers=True)
    around = "const els = {}; const document = {getElementById: i => els[i] ??= {}, body: {dataset: {}}};"
    around += " globalThis.setInterval = () => 0;"
    script = page.split("<script>")[1].split("</script>")[0]
    (tmp_path / "page.js").write_text(f"{around}\n{script}\nconsole.log(els.check.textContent);")
    shown = subprocess.run(["node", str(tmp_path / "page.js")], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("17 of 17 actions as expected")


@pytest.mark.parametrize(
    "recipe", ["svd_start", "strongest_start", "discriminator", "hints", "case_study", "adversarial_states"]
)
def test_every_recipe_takes_a_student_that_sees_less(recipe, sign_teacher):
    config = make_config(recipe, SIGN, network="mlp:8", hidden_features=(0,), env_steps=400, learning_starts=160)
    config = config.but(check_every=200, check_episodes=2, final_episodes=2, batch_size=32, n_envs=8, threads=1)
    found = train(config, sign_teacher, acceptance=ACCEPTANCE)
    assert found.network.spec.params == 8 * 2 + 9 * 2


class TwoViews(gymnasium.ObservationWrapper):
    """What a student's own sensors make of two numbers, three of them, beside what its teacher reads."""

    def __init__(self, env):
        super().__init__(env)
        own = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"student": own, "teacher": env.observation_space})

    def observation(self, obs):
        return {"student": np.array([obs[0] + obs[1], obs[1], obs[1] ** 2], np.float32), "teacher": obs}


class OtherViews(TwoViews):
    """As many numbers, in other parts."""

    def __init__(self, env):
        super().__init__(env)
        teacher, student = (self.observation_space[name] for name in ("teacher", "student"))
        self.observation_space = gymnasium.spaces.Dict({"other": student, "teacher": teacher})

    def observation(self, obs):
        seen = super().observation(obs)
        return {"other": seen["student"], "teacher": seen["teacher"]}


VIEWS = EnvRef(SIGN, wrappers=("test_memory:TwoViews",))


@pytest.mark.parametrize("text", ["mlp:8", "gru:5"])
def test_teacher_and_student_each_have_a_view(text, sign_teacher, tmp_path):
    """The teacher reads its own part of the observation, the student the other, and its file asks for that alone."""
    folder = tmp_path / "teacher"
    fitted = sign_teacher.fitted(describe_env(SIGN))
    save_network(folder, fitted.network, fitted.head, env={"id": SIGN})
    file = TeacherFile(str(folder), reads=("teacher",))
    assert load_teacher(file).digest != load_teacher(str(folder)).digest
    config = make_config(
        "distil", VIEWS, teacher=file, network=text, hidden_features=(3, 4), env_steps=1600, batch_size=64
    )
    config = config.but(learning_starts=160, check_every=400, check_episodes=4, final_episodes=8, n_envs=8, threads=1)
    config = config.but(learning_rate=2e-2, sequence=8, burn_in=2)
    result = distill(None, Job(config, Comparison(60, 60, 0, margin=0.3)), tmp_path / "run", report=False)
    assert result.verdict.result in HOLDS
    assert RunFolder(tmp_path / "run").read_config()["train"]["tasks"][0]["teacher"][0]["reads"] == ["teacher"]
    card = export_policy(tmp_path / "run", "c")
    assert card["obs"]["reads"] == [0, 1, 2]
    assert verify(card["path"], VIEWS).against_student.difference == 0.0


def test_a_verdicts_environment_shows_the_same_numbers(sign_teacher, tmp_path):
    """By as many alone, what was hidden in training were others in the verdict."""
    elsewhere = EnvRef(SIGN, wrappers=("test_memory:OtherViews",))
    job = Job(make_config("distil", VIEWS, hidden_features=(3, 4)), verdict_env=elsewhere)
    with pytest.raises(
        SpecError, match=r"shows other\[0\] where training's shows student\[0\]: both must show the same"
    ):
        distill(replace(sign_teacher, reads=("teacher",)), job, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_teacher_reads_must_be_there(sign_teacher):
    with pytest.raises(SpecError, match=r"'speed' names no number.*student\[0:3\], teacher\[0:2\]"):
        replace(sign_teacher, reads=("speed",)).fitted(describe_env(VIEWS))
    with pytest.raises(
        TeacherError, match=r"shape \(2,\), but student of .* has 3 numbers: name what it was trained on"
    ):
        replace(sign_teacher, reads=("student",)).fitted(describe_env(VIEWS))


def test_a_teacher_reads_in_the_order_in_which_its_numbers_are_named(sign_teacher):
    """A file that reads speed before place was given place before speed, and nothing said so."""
    info = describe_env(VIEWS)
    apart, turned = (
        replace(sign_teacher, reads=names).fitted(info)
        for names in (("student[1]", "teacher[1]"), ("teacher[1]", "student[1]"))
    )
    obs = torch.tensor([[0.0, 2.0, 0.0, 0.0, -3.0]])
    assert torch.equal(apart.numbers(obs), sign_teacher.network(torch.tensor([[2.0, -3.0]])))
    assert torch.equal(turned.numbers(obs), sign_teacher.network(torch.tensor([[-3.0, 2.0]])))
    of_ours = replace(sign_teacher, reads=("teacher[1]", "student[1]"), meta={"library": "distilrl"}).fitted(info)
    assert torch.equal(of_ours.numbers(obs), apart.numbers(obs)), "a file of ours reads as its environment shows"
    with pytest.raises(TeacherError, match=r"names a number of .* twice"):
        replace(sign_teacher, reads=("teacher[1]", "teacher[1]")).fitted(info)


def test_a_stage_with_reward_and_a_plan_take_a_student_that_sees_less(sign_teacher, tmp_path):
    """The first number is hidden, so that places and columns differ."""
    config = small("distil", hidden_features=(0,), env_steps=400)
    config = config.but(reward=replace(config.reward, env_steps=320, directions=2, best=1))
    result = distill(sign_teacher, Job(config, Comparison(60, 60, 0)), tmp_path / "run", report=False)
    assert result.env_steps > 400
    assert result.student.spec["unseen"] == (0,) or result.student.spec["unseen"] == [0]


def test_a_plan_asks_nothing_of_the_student_that_its_job_names(sign_teacher, tmp_path):
    scores = []
    for name in ("mlp:8", "mlp:4@history=3", "gru:4"):
        job = Job(small("distil", env_steps=600).but(network=name, batch_size=64), Comparison(60, 60, 0))
        out = tmp_path / name.partition(":")[2]
        found = plan(sign_teacher, job, out, sizes=["mlp:4"], seeds=1, refine=False, report=False)
        scores.append(found.frontier[0].best_score)
    assert len(set(scores)) == 1


def test_a_file_of_a_part_is_verified_where_it_belongs(part_run, tmp_path, capsys):
    shutil.copytree(part_run, tmp_path / "run")
    path = export_policy(tmp_path / "run", "c")["path"]
    assert main(["verify", str(path), "--env", "CartPole-v1"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "was made for observations of 2 numbers, but CartPole-v1 gives 4: name the right environment" in error


def test_integers_of_a_student_that_sees_less_are_tuned_on_what_it_sees(sign_teacher):
    network = build(replace(NetworkSpec.parse("mlp:8", (2,), 2), unseen=(0,)), torch.Generator().manual_seed(0))
    network.fold()
    obs = np.random.default_rng(0).normal(0, 1, (500, 2)).astype(np.float32)
    tuned = qat.fine_tune(
        network.bare(), sign_teacher.fitted(describe_env(SIGN)), obs, 1.0, reads=Excerpt((1,), ObsSpec((1,)))
    )
    assert tuned.spec.obs_shape == (1,)
    assert tuned.layers[0].weight.shape == (8, 1)


# -- many sizes at once

SIZES = ("gru:3", "mlp:4@history=3", "mlp:5", "mlp:2+lstm:2@history=2")


def sequences(count, steps, history, seed=0):
    """A batch of sequences of vectors of two numbers, some steps of which are not to be learnt from."""
    rng = torch.Generator().manual_seed(seed)
    size, nothing = count * steps, torch.zeros(count * steps)
    number = (torch.arange(steps) + torch.randint(0, 20, (count, 1), generator=rng)).flatten()
    return Batch(
        torch.randn(size, 2 * history, generator=rng), nothing.long().view(-1, 1), nothing, None, nothing.bool(),
        torch.randn(size, 2, generator=rng) * 3, nothing + 1, steps=steps,
        valid=(torch.rand(size, generator=rng) < 0.7).float(), number=number,
        onward=torch.where(torch.rand(size, generator=rng) < 0.8, number + 1, -1),
    )  # fmt: skip


def test_students_with_memory_learn_together_what_each_would_alone():
    terms, optim = (TeacherTerm("forward_kl"),), OptimConfig(learning_rate=1e-2, average=0.9, max_grad_norm=0.5)
    specs = [NetworkSpec.parse(text, (2,), 2) for text in SIZES]
    together, head = Population(specs, range(len(specs)), HEAD, terms, optim, places=30), HEAD
    seen_as = torch.tensor([0.5, -0.5]), torch.tensor([2.0, 0.5]), torch.tensor([3.0, 5.0])
    together.standardise(*seen_as)
    data = [sequences(4, 6, 3, seed) for seed in range(12)]
    for number, batch in enumerate(data):
        losses = together.update(batch, Progress(number / 20))
    for k, spec in enumerate(specs):
        own = build(spec, torch.Generator().manual_seed(k))
        own.standardise(*seen_as)
        pupil = Pupil(own, head, None, terms, torch.Generator(), torch.device("cpu"))
        pupil.remember(30)
        learner = Learner([pupil], terms, optim)
        for number, batch in enumerate(data):
            seen = batch._replace(obs=batch.obs[:, -2 * spec.history :])
            found = learner.update([Part(0, seen, Progress(number / 20))])
        assert float(losses[k]) == pytest.approx(float(next(iter(found.values()))), rel=1e-3)
        obs = Recording(np.random.default_rng(k).normal(0, 1, (9, 2)).astype(np.float32), np.arange(9) == 0)
        ours, theirs = (obs.numbers(Policy(one, HEAD)) for one in (together.network(k), pupil.average))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_who_drives_in_turn_remembers_since_the_turn_began(monkeypatch):
    monkeypatch.setattr("distilrl.population.TURN", 4)
    specs = [NetworkSpec.parse(text, (2,), 2) for text in SIZES]
    some = Population(specs, range(4), HEAD, (TeacherTerm("forward_kl"),), OptimConfig(average=0.0))
    assert some.policy.remembers
    obs = torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(0))
    state, numbers = some.policy.start(3), []
    for step in range(12):
        row, state = some.policy.forward(obs[:, step], state)
        numbers.append(row)
        state = some.policy.restart(state, torch.tensor([False, step == 5, False]))
    for n in range(3):
        for turn in range(3):
            driver, begin = some.network((n + 3 * turn) % 4), 4 * turn
            fresh = np.isin(np.arange(begin, begin + 4), (begin, *((6,) if n == 1 else ())))
            seen = Recording(obs[n, begin : begin + 4].numpy(), fresh)
            shown = torch.stack(numbers)[begin : begin + 4, n]
            torch.testing.assert_close(shown, seen.numbers(Policy(driver, HEAD)), rtol=1e-4, atol=1e-6)


def test_a_plan_finds_the_smallest_memory(tmp_path):
    """What was seen one step before is asked: no size without memory is there, whatever its width."""
    config = memory_config("gru:8", check_episodes=40).but(env_steps=1600, updates=3, sequence=4, burn_in=1)
    job = Job(config, Comparison(60, 60, 0, margin=0.3))
    sizes = ["mlp:16", "mlp:8@history=2", "gru:8"]
    found = plan(recalling(), job, tmp_path / "plan", sizes=sizes, seeds=1, refine=False, report=False)
    reached = {row.student: row.reached for row in found.frontier}
    assert reached == {"mlp:16": False, "mlp:8@history=2": True, "gru:8": True}
    assert [row.params for row in found.frontier] == sorted(row.params for row in found.frontier)
    assert "@history=2" in found.winner or "gru" in found.winner
    made = read_metrics(RunFolder(tmp_path / "plan/winner").metrics)[-1]
    assert 0 < int(made["updates"]) <= 3 * int(made["env_steps"]) / 8, "three for each step of eight environments"
    stored = load_network(tmp_path / "plan/winner/student")
    assert isinstance(stored.network, RecurrentNetwork)
    card = export_policy(tmp_path / "plan", "c")
    assert verify(card["path"]).verdict.result in HOLDS


def test_a_plan_with_cells_says_what_batches_do_not_suit_before_it_begins(tmp_path):
    config = memory_config("mlp:8").but(batch_size=100)
    with pytest.raises(SpecError, match=r"'batch_size' \(100\) must be a multiple of 'sequence'.*gru:4@history=2"):
        plan(recalling(), Job(config, Comparison(60, 60, 0)), tmp_path / "plan", sizes=["gru:4", "mlp:4@history=2"])
    assert not (tmp_path / "plan").exists()


def test_another_student_begins_with_no_memory():
    """A plan's second round has other students, whose memories are of other sizes."""
    envs = make_vec_env(RECALL, 2)
    spec = ReplaySpec(100, 2, envs.info.obs, envs.info.action, labels=2, sequence=4)
    collector = Collector(envs, Replay(spec, torch.device("cpu")), Behaviour(), np.random.default_rng(0), recalling())
    collector.begin(np.arange(2))
    for text in ("gru:5", "gru:5", "lstm:3"):
        network = drawn(text, (1,))
        collector.student = Policy(network, HEAD)
        obs = collector._obs
        collector.act()
        torch.testing.assert_close(collector._student_state, network(obs, network.start(2))[1])
        collector.settle()
    envs.close()
