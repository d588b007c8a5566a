"""Integers learn, choose and are chosen; trees in C."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import sign_network
from test_export import ONE, needs_cc, obs_spec, observations, student, write_c

from distilrl import export
from distilrl.events import silent
from distilrl.export import int8, int8_c, onnx, qat
from distilrl.export.int8_layers import Entry
from distilrl.export.replay import Recording, held, open_export
from distilrl.export.steps import steps, without_offset
from distilrl.export.tree import source
from distilrl.heads import head_for, student_head
from distilrl.networks import Network, build
from distilrl.policies import Policy
from distilrl.sensors import EXACT
from distilrl.spaces import Bounds, Choices, EnvRef, ObsSpec
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher
from distilrl.trees import Tree, TreePolicy

TWO = head_for(Choices((2,)), "q")


def coarse_network():
    """A student whose eight bits are too few: in each layer one weight is so large that the others round to nothing."""
    network = build(NetworkSpec((2,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.layers[0].weight[0] = torch.tensor([0.01, 3.0])
        network.layers[0].weight[1] = torch.tensor([-0.01, 3.0])
        network.layers[2].weight.zero_()
        network.layers[2].weight[1, 0], network.layers[2].weight[0, 1] = 100.0, 100.0
    return network


def sign_states(count=500):
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, (count, 2)).astype(np.float32) * np.array([1, 5], np.float32) + np.array([0, 3], np.float32)


@pytest.mark.parametrize("middle", [0.0, 1000.0])
@pytest.mark.parametrize("shape", [(2,), (2, 6, 6)])
def test_rounding_in_training_is_rounding_in_integers(shape, middle):
    obs = torch.randn((200, *shape), generator=torch.Generator().manual_seed(0)) * 3 + middle
    convs = ((4, 3, 2),) if len(shape) == 3 else ()
    network = build(NetworkSpec(shape, 3, convs=convs, hidden=(8, 8)), torch.Generator().manual_seed(0))
    places = shape[0] if len(shape) == 1 else 1
    network.standardise(torch.full((places,), middle), torch.ones(places))
    network.fold()
    rounded = int8.quantise(steps(network, "int8"), obs.numpy())
    entry = Entry.of(obs.numpy())
    assert entry.shifts == (middle > 0)
    values = qat.rounded(network, obs, entry, rounded.activation_scales).detach().numpy()
    np.testing.assert_allclose(values, rounded.values(obs.numpy()), atol=0.02 * np.abs(values).max())


@pytest.mark.parametrize("unseen", [(), (0, 2)])
@pytest.mark.parametrize("image_bytes", [False, True])
@pytest.mark.parametrize("hidden", [(8,), ()])
def test_rounding_in_training_is_rounding_in_integers_beside_an_image_too(hidden, image_bytes, unseen):
    rng, image = np.random.default_rng(0), (2, 6, 6)
    middle, size = np.array([0.0, 1000.0, 0.0, 0.0]), np.array([1.0, 1.0, 100.0, 0.01])
    pixels = rng.integers(0, 256, (200, 72)) if image_bytes else rng.normal(0, 1, (200, 72))
    obs = np.hstack([rng.uniform(-1, 1, (200, 4)) * size + middle, pixels]).astype(np.float32)
    spec = NetworkSpec((76,), 3, convs=((4, 3, 2),), hidden=hidden, image=image, unseen=unseen)
    network = build(spec, torch.Generator().manual_seed(0))
    qat._standardise(network, obs)
    assert network.obs_mean.shape == (len(spec.seen) + 1,)
    torch.testing.assert_close(network.obs_mean[:-1], torch.from_numpy(obs[:, list(spec.seen)].mean(0)))
    with torch.no_grad():  # so that numbers count as much as where they are learnt
        network.layers[3].weight[:, -len(spec.seen) :] = torch.linspace(-1, 1, len(spec.seen))
    folded = copy.deepcopy(network)
    folded.fold()
    data = torch.from_numpy(obs)
    torch.testing.assert_close(folded(data), network(data), rtol=1e-3, atol=1e-3)
    model = int8.quantise(steps(folded, "int8"), obs, image_bytes=image_bytes)
    assert model.vector is not None
    values = qat.rounded(network, data, model.entry, model.activation_scales, model.vector)
    wanted = model.values(obs)
    np.testing.assert_allclose(values.detach().numpy(), wanted, atol=0.02 * np.ptp(wanted))
    values.sum().backward()
    assert all(float(one.grad.abs().sum()) > 0 for one in network.parameters())


@needs_cc
@pytest.mark.parametrize("name", ["mlp:16,16", "mlp:7", "cnn:4k3s2,3k3s1:8"])
@pytest.mark.parametrize("rounding", ["upper half", "shifted", "registers"])
def test_every_way_to_round_and_to_sum_is_the_model(tmp_path, monkeypatch, name, rounding):
    """The C answers as the model in NumPy does: by the upper half of a product or by a shift, four outputs at once or
    one.
    """
    rounded, obs = int8.quantise(steps(student(name), "int8"), observations(name)), observations(name, 50)
    assert {one.shift in int8_c.UPPER_HALF for one in rounded.steps[:-1]} == {True}
    if rounding == "shifted":
        monkeypatch.setattr(int8_c, "UPPER_HALF", ())
    written = int8_c.write(rounded, ONE, obs_spec(name), "test")
    assert ("shifted(" in written.code) == (rounding == "shifted")
    assert "(action values as differences from their mean)" in written.header
    if rounding == "registers":
        undefined = "#undef __SSE2__\n#undef __ARM_NEON\n"
        written = replace(written, code=undefined + written.code)
    answers = open_export(write_c(tmp_path, written), ONE, obs[0].size)(obs)
    np.testing.assert_array_equal(answers.values, rounded.values(obs))


@needs_cc
@pytest.mark.parametrize("name", ["mlp:16,16", "gru:5", "mlp:6@history=3", "cnn:4k3s2:8"])
def test_numbers_far_from_zero_keep_their_digits_in_integers(tmp_path, name):
    """Kelvins that vary by one, beside a number around 0: the files answer as their model, and that as the student."""
    pixels, rng = name.startswith("cnn"), np.random.default_rng(0)
    shape = (1, 8, 8) if pixels else (2,)
    middle = torch.tensor([300.0] if pixels else [300.0, 0.0])
    obs = (rng.normal(size=(400, *shape)) + (300.0 if pixels else middle.numpy())).astype(np.float32)
    seen, read = Recording(obs, np.arange(400) % 40 == 0), ObsSpec(shape, shape if pixels else None)
    network = build(NetworkSpec.of(name, read, 2), torch.Generator().manual_seed(0)).eval()
    network.standardise(middle, torch.ones(len(middle)))
    network.fold()
    rounded = int8.quantise(steps(network, "int8"), seen.obs, seen.begins)
    wanted = rounded.values(seen.obs, seen.begins)
    numbers = seen.numbers(Policy(network, TWO)).numpy()
    assert np.abs(wanted - numbers).max() < 0.06 * np.ptp(numbers)
    written = write_c(tmp_path, int8_c.write(rounded, TWO, read, "test"))
    np.testing.assert_array_equal(open_export(written, TWO, obs[0].size)(seen.obs, seen.begins).values, wanted)
    (tmp_path / "policy.onnx").write_bytes(onnx.write_int8(rounded, TWO, read, {}))
    answers = open_export(tmp_path / "policy.onnx", TWO, obs[0].size)(seen.obs, seen.begins).values
    np.testing.assert_allclose(answers, wanted, atol=0.03 * np.ptp(numbers))


@pytest.mark.parametrize("scaled", [False, True])
def test_a_student_that_integers_break_learns_to_live_with_them(monkeypatch, scaled):
    monkeypatch.setattr(qat, "UPDATES", 1000)
    obs = sign_states()
    right = obs[:, 0] > 0

    def in_integers(network):
        return float((int8.quantise(steps(network, "int8"), obs).values(obs).argmax(1) == right).mean())

    before = coarse_network()
    teacher = Teacher(sign_network(), "q", "test", "memory", "0" * 64, action=Choices((2,)))
    after = qat.fine_tune(before, teacher, obs, 0.2, scaled_head=scaled)
    assert in_integers(after) > in_integers(before) + 0.1


def test_states_are_drawn_by_what_is_at_stake_there(monkeypatch):
    monkeypatch.setattr(qat, "UPDATES", 1)
    obs, drawn = sign_states(), []
    teacher = Teacher(sign_network(), "q", "test", "memory", "0" * 64, action=Choices((2,)))
    multinomial = torch.multinomial
    monkeypatch.setattr(
        torch, "multinomial", lambda by, *more, **named: (drawn.append(by), multinomial(by, *more, **named))[1]
    )
    qat.fine_tune(coarse_network(), teacher, obs, 0.2)
    states = torch.from_numpy(obs)
    stakes = teacher.stakes(states, teacher.numbers(states))
    torch.testing.assert_close(drawn[0], stakes.clamp_min(1e-9).sqrt())
    assert float(drawn[0].std()) > 0


@pytest.mark.parametrize(("kind", "squash"), [("mean", "tanh"), ("mean", "clip"), ("gaussian", "tanh")])
def test_real_actions_that_integers_break_come_closer_again(monkeypatch, kind, squash):
    monkeypatch.setattr(qat, "UPDATES", 1000)
    obs, action = sign_states(), Bounds((-1.0,), (1.0,))
    theirs = build(NetworkSpec((2,), 2 if kind == "gaussian" else 1, hidden=(16,)), torch.Generator().manual_seed(1))
    teacher = Teacher(theirs, kind, "test", "memory", "0" * 64, action=action, squash=squash)
    ours, head = Network(NetworkSpec((2,), 1, hidden=(16,))), teacher.head.student
    with torch.no_grad():
        for name, tensor in ours.state_dict().items():  # the mean alone
            tensor.copy_(theirs.state_dict()[name][: len(tensor)])
        for tensor in (ours.layers[0].weight, ours.layers[0].bias):
            tensor[0] *= 300.0  # the same function, but one unit spoils the scale that all of them share
        ours.layers[2].weight[:, 0] /= 300.0
        wanted = teacher.head.greedy(teacher.network(torch.from_numpy(obs)))

    def error(network):
        values = int8.quantise(steps(network, "int8"), obs).values(obs)
        return float(head.error(head.greedy(torch.from_numpy(values)), wanted).square().mean().sqrt())

    after = qat.fine_tune(ours, teacher, obs, 0.2, scaled_head=True)  # no temperature for real actions
    assert error(after) < 0.6 * error(ours)


@needs_cc
def test_integers_cut_activations_off_where_they_play_best(monkeypatch):
    network, obs = student("mlp:16,16"), observations("mlp:16,16", 300)
    means = iter([1.0, 3.0, 2.0, 3.0])
    monkeypatch.setattr("distilrl.export.play", lambda *_a, **_k: SimpleNamespace(returns=np.array([next(means)])))
    info = SimpleNamespace(ref=EnvRef("any"), obs=ObsSpec((5,)))
    one = SimpleNamespace(
        stored=SimpleNamespace(head=ONE),
        info=info,
        config=None,
        sensors=EXACT,
        reads=None,
        obs=info.obs,
        bare=lambda n: n,
    )
    chosen = export._Export(one, "int8", Path(), Recording.of(obs), silent)._rounded(network).integers
    expected_scales = [
        int8.quantise(steps(without_offset(network, ONE), "int8"), obs, percentile=percentile).activation_scales
        for percentile in int8.PERCENTILES
    ]
    assert chosen.activation_scales == expected_scales[1]
    assert expected_scales[1] not in (expected_scales[0], expected_scales[2])


# -- trees


def sign_tree(head, below, above):
    """Asks whether the first number is at most 0."""
    return Tree((2,), head, "raw", (0, -1, -1), (0.0, 0.0, 0.0), (1, -1, -1), (2, -1, -1), (below, below, above))


@needs_cc
@pytest.mark.parametrize("start", [(), (5,)])
def test_a_tree_of_one_choice_is_nested_conditions(tmp_path, start):
    head = head_for(Choices((2,), start), "q")
    tree, obs = sign_tree(head, (0,), (1,)), sign_states(50)
    written = source(tree, ObsSpec((2,)), "test")
    assert f"return {5 if start else 0};" in written.code
    answers = open_export(write_c(tmp_path, written), head, 2)(obs)
    assert held(answers, TreePolicy(tree)(torch.from_numpy(obs)), head).alike
    assert (answers.actions[:, 0] == (obs[:, 0] > 0) + (5 if start else 0)).all()


@needs_cc
@pytest.mark.parametrize(
    ("head", "below", "above"),
    [
        (head_for(Choices((2, 3), (5, -1), "MultiDiscrete", (2,)), "q"), (0, 2), (1, 0)),
        (head_for(Bounds((-1.0, -1.0, None), (1.0, 1.0, None)), "mean"), (0.25, -1.0, 7.5), (1.0, 0.5, -3.0)),
        (head_for(Bounds((-1.0, -1.0), (1.0, 1.0)), "mean", "tanh"), (0.25, -0.9), (0.7, 0.5)),
    ],
)
def test_a_tree_of_other_actions_is_a_table(tmp_path, head, below, above):
    tree, obs = sign_tree(head, below, above), sign_states(50)
    written = source(tree, ObsSpec((2,)), "test")
    assert written.weight_bytes == 4 * 2 * (head.width + head.action.size)
    answers = open_export(write_c(tmp_path, written), head, 2)(obs)
    assert held(answers, TreePolicy(tree)(torch.from_numpy(obs)), head).alike


def test_a_large_state_value_does_not_cost_the_choice_among_integers():
    """Values near 100 whose actions differ by a hundredth: rounded with their offset, eight bits would hold nothing
    else.
    """
    rng = torch.Generator().manual_seed(0)
    network, head = build(NetworkSpec((4,), 3, hidden=(16,)), rng), student_head(Choices((3,)))
    with torch.no_grad():
        last = network.layers[-1]
        last.weight.copy_(30 * torch.randn((1, 16), generator=rng) + 0.3 * torch.randn((3, 16), generator=rng))
    obs = torch.randn((500, 4), generator=rng)
    chosen = head.greedy(network(obs))
    same = []
    for one in (network, without_offset(network, head)):
        values = int8.quantise(steps(one, "int8"), obs.numpy()).values(obs.numpy())
        same.append(float((head.greedy(torch.from_numpy(values)) == chosen).float().mean()))
    assert same[0] < 0.8 < 0.95 < same[1]
    assert torch.equal(head.greedy(without_offset(network, head)(obs)), chosen)
    real = head_for(Bounds((-1.0,) * 3, (1.0,) * 3), "mean")
    assert torch.equal(without_offset(network, real)(obs), network(obs))
