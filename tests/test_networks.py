"""Specs, counts, and a standardisation that costs nothing and folds away."""

import pytest
import torch

from distilrl.checkpoints import load_network, save_network
from distilrl.context import numbers_of
from distilrl.errors import FileError, SpecError
from distilrl.files import read_json, write_json
from distilrl.heads import Categorical
from distilrl.networks import build, count_macs
from distilrl.spaces import Choices, ObsSpec
from distilrl.specs import NetworkSpec, spelled, suited
from distilrl.teachers import Teacher

PIXELS = (4, 84, 84)
HEAD = Categorical(Choices((2,)))


@pytest.mark.parametrize(
    ("text", "obs_shape", "actions", "params"),
    [
        ("mlp:", (4,), 2, 10),
        ("mlp:4", (4,), 2, 30),
        ("mlp:16,16", (4,), 2, 386),
        ("mlp:16,16@silu", (4,), 2, 386),
        ("cnn:16,16,16:64", PIXELS, 6, 61_174),
        ("cnn:32,64,64:512", PIXELS, 6, 1_687_206),
        ("cnn:8k8s4,8k4s2,8k3s2:32", PIXELS, 6, 7_998),
        ("cnn:8k8s8,8k4s2:16", PIXELS, 6, 5_254),
    ],
)
def test_parameters_are_those_published(text, obs_shape, actions, params):
    spec = NetworkSpec.parse(text, obs_shape, actions)
    assert spec.params == params
    assert sum(p.numel() for p in build(spec).parameters()) == params
    assert NetworkSpec.parse(spec.describe(), obs_shape, actions) == spec
    assert NetworkSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"widths": [8]}, "Unknown key 'widths' in 'network': remove it or correct its spelling."),
        ({"outputs": 2.5}, "'network.outputs' must be a whole number, got 2.5."),
        ({"hidden": [True]}, "'network.hidden[0]' must be a whole number, got True."),
        ({"cell": {"kind": "rnn", "size": 4}}, "'network.cell.kind' must be one of gru, lstm, got 'rnn'."),
        ({"image": [4, 4]}, "'network.image' must be a list of 3, got 2."),
    ],
)
def test_a_damaged_spec_is_named_by_its_field(change, sentence):
    whole = NetworkSpec.parse("mlp:8", (4,), 2).to_json()
    with pytest.raises(SpecError) as caught:
        NetworkSpec.from_json(whole | change)
    assert str(caught.value) == sentence


def test_a_spec_names_its_activation():
    spec = NetworkSpec.parse("mlp:8@silu", (4,), 2)
    assert (spec.activation, spec.describe()) == ("silu", "mlp:8@silu")
    assert NetworkSpec.parse("mlp:8@relu", (4,), 2).describe() == "mlp:8"


def test_macs_of_the_nature_network():
    assert NetworkSpec.parse("cnn:32,64,64:512", PIXELS, 6).macs == 9_346_048
    assert NetworkSpec.parse("mlp:16,16", (4,), 2).macs == 4 * 16 + 16 * 16 + 16 * 2


@pytest.mark.parametrize(
    ("text", "obs_shape"),
    [
        ("mlp", (4,)), ("mlp:a", (4,)), ("mlp:0", (4,)), ("mlp:64,", (4,)), ("", (4,)), ("resnet:3", (4,)),
        ("cnn:16:64", (4,)),
        ("mlp:64", PIXELS), ("cnn:16,16,16", PIXELS), ("cnn:16,16,16,16:8", PIXELS), ("cnn:8k90s1:8", PIXELS),
        ("mlp:8@mish", (4,)), ("mlp:8@", (4,)), ("mlp:8@silu@tanh", (4,)), ("resnet:4:8@tanh", PIXELS),
        ("cnn:8k8:4", PIXELS), ("cnn:8k0s1:4", PIXELS), ("cnn:8k8s0:4", PIXELS), ("cnn:32,64,64:512", (4, 20, 20)),
    ],
)  # fmt: skip
def test_a_wrong_spec_gets_one_sentence(text, obs_shape):
    with pytest.raises(SpecError) as caught:
        NetworkSpec.parse(text, obs_shape, 6)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(("text", "shape"), [("cnn:4,4:8", PIXELS), ("mlp:8", (3,)), ("mlp:", (3,))])
def test_standardisation_is_what_it_says_and_folds_away(text, shape):
    network = build(NetworkSpec.parse(text, shape, 5), torch.Generator().manual_seed(0))
    pixels = len(shape) == 3
    obs = torch.randint(0, 256, (7, *shape), dtype=torch.uint8) if pixels else torch.randn(7, *shape) * 9 + 4
    mean, scale = (
        (torch.tensor([90.0]), torch.tensor([0.02]))
        if pixels
        else (torch.tensor([4.0, 3.0, -1.0]), torch.tensor([0.1, 2.0, 0.5]))
    )
    plain = network((obs.float() - mean) * scale)
    network.standardise(mean, scale)
    torch.testing.assert_close(network(obs), plain, rtol=1e-4, atol=1e-4)
    network.fold()
    assert network.obs_mean.abs().sum() == 0
    torch.testing.assert_close(network(obs), plain, rtol=1e-4, atol=1e-4)


def test_scale_head_scales_the_outputs():
    network = build(NetworkSpec((3,), 4, hidden=(5,)), torch.Generator().manual_seed(1))
    obs = torch.randn(6, 3)
    before = network(obs)
    network.scale_head(0.01)
    torch.testing.assert_close(network(obs), before * 0.01)


def test_bytes_and_floats_give_the_same():
    network = build(NetworkSpec.parse("cnn:4,4:8", PIXELS, 5))
    obs = torch.randint(0, 256, (3, *PIXELS), dtype=torch.uint8)
    torch.testing.assert_close(network(obs), network(obs.float()))


def test_a_folder_may_be_named_by_a_text(tmp_path):
    network = build(NetworkSpec((2,), 2, hidden=(4,)), torch.Generator().manual_seed(0))
    save_network(str(tmp_path / "student"), network, HEAD)
    assert torch.equal(load_network(str(tmp_path / "student")).network(torch.ones(1, 2)), network(torch.ones(1, 2)))


MIXED = ObsSpec((5 + 3 * 12 * 16,), (3, 12, 16))


def some_network(text, obs, seed):
    """A network whose layers are none of them 0, and states, a mean and a scale for it."""
    rng = torch.Generator().manual_seed(seed)
    network = build(NetworkSpec.of(text, obs, 4), rng)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    shape = network.obs_mean.shape
    states = 40 * torch.rand((9, *obs.shape), generator=rng) + 5
    return network, states, 30 * torch.rand(shape, generator=rng), 0.02 + 0.5 * torch.rand(shape, generator=rng)


KINDS = [
    ("mlp:", ObsSpec((3,))),
    ("mlp:8,8", ObsSpec((3,))),
    ("cnn:4k3s2,4k3s1:8", ObsSpec((3, 12, 16), (3, 12, 16))),
    ("cnn:4k3s2:", ObsSpec((3, 12, 16), (3, 12, 16))),
    ("cnn:4k3s2:8", MIXED),
    ("cnn:4k3s2:", MIXED),
    ("cnn:4k3s2,4k3s1:8,8", MIXED),
]


@pytest.mark.parametrize(
    ("text", "obs"), KINDS, ids=lambda value: value if isinstance(value, str) else str(value.shape)
)
@pytest.mark.parametrize("seed", range(4))
def test_folding_keeps_the_function_and_unfolding_is_its_inverse(text, obs, seed):
    network, states, mean, scale = some_network(text, obs, seed)
    raw = network(states)
    network.standardise(mean, scale)
    network.unfold()
    torch.testing.assert_close(network(states), raw, rtol=1e-3, atol=1e-3)  # the same function of raw states
    network.fold()
    assert not network.obs_mean.any()
    assert bool((network.obs_scale == 1).all())
    torch.testing.assert_close(network(states), raw, rtol=1e-3, atol=1e-3)
    network.standardise(mean, scale)
    before = network(states)
    assert not torch.allclose(before, raw, rtol=1e-2, atol=1e-2)
    network.fold()
    torch.testing.assert_close(network(states), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", ["cnn:4k3s2:8", "cnn:4k3s2:"])
def test_an_image_beside_a_vector_is_standardised_apart(text):
    network, states, mean, scale = some_network(text, MIXED, 0)
    plain = states.clone()
    plain[:, :5] = (states[:, :5] - mean[:5]) * scale[:5]
    plain[:, 5:] = (states[:, 5:] - mean[5]) * scale[5]
    expected = network(plain)
    network.standardise(mean, scale)
    torch.testing.assert_close(network(states), expected, rtol=1e-4, atol=1e-4)


def test_what_is_hidden_beside_an_image_stays_hidden():
    network, states, mean, scale = some_network("cnn:4k3s2:8", MIXED, 1)
    scale[2] = 0.0
    network.standardise(mean, scale)
    network.fold()
    other = states.clone()
    other[:, 2] += 100
    assert torch.equal(network(other), network(states))


def test_an_image_beside_a_vector_survives_its_file_and_counts_its_operations(tmp_path):
    network, states, mean, scale = some_network("cnn:4k3s2:8", MIXED, 2)
    network.standardise(mean, scale)
    save_network(tmp_path, network, Categorical(Choices((4,))))
    stored = load_network(tmp_path).network
    torch.testing.assert_close(stored(states), network(states), rtol=1e-4, atol=1e-4)
    convolved = 4 * 5 * 7
    assert stored.spec.params == (3 * 9 * 4 + 4) + ((convolved + 5) * 8 + 8) + (8 * 4 + 4)
    assert stored.spec.macs == 3 * 9 * convolved + (convolved + 5) * 8 + 8 * 4
    assert NetworkSpec.from_json(stored.spec.to_json()) == stored.spec


@pytest.mark.parametrize("real", [True, False])
@pytest.mark.parametrize("text", ["mlp:", "mlp:8@relu", "mlp:8@tanh", "mlp:8,4@silu"])
def test_a_spec_is_spelled_so_that_it_is_read_back(text, real):
    spec = NetworkSpec.parse(text, (3,), 2)
    words = spelled(spec, real=real)
    assert NetworkSpec.parse(suited(words, real=real), (3,), 2) == spec
    assert words == (text if real else text.removesuffix("@relu"))


@pytest.mark.parametrize("text", ["cnn:4k3s2:+gru:4", "cnn:4k3s2:+lstm:4", "cnn:4k3s2:6+gru:4", "cnn:4k3s2:6"])
def test_an_image_beside_a_vector_is_folded_where_the_vector_comes_in(text):
    spec = NetworkSpec.parse(text, (3 + 64,), 2, image=(1, 8, 8))
    network = build(spec, torch.Generator().manual_seed(0))
    obs = torch.randn(6, 67, generator=torch.Generator().manual_seed(1))
    network.standardise(torch.tensor([0.3, 20.0, 0.0, 5.0]), torch.tensor([2.0, 0.02, 1.0, 0.5]))
    told = numbers_of(network, obs, 1)
    network.fold()
    torch.testing.assert_close(numbers_of(network, obs, 1), told, rtol=1e-4, atol=1e-4)
    network.standardise(torch.tensor([0.3, 20.0, 0.0, 5.0]), torch.tensor([2.0, 0.02, 1.0, 0.5]))
    network.unfold()
    torch.testing.assert_close(numbers_of(network, obs, 1), told, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("damage", [{"network": {"outputs": "four"}}, {"network": None}, {"head": {"kind": "mind"}}])
def test_a_damaged_spec_is_named(tmp_path, damage):
    network, *_ = some_network("mlp:4", ObsSpec((3,)), 2)
    save_network(tmp_path, network, Categorical(Choices((4,))))
    write_json(tmp_path / "spec.json", read_json(tmp_path / "spec.json") | damage)
    with pytest.raises(FileError, match=r"spec\.json is damaged"):
        load_network(tmp_path)


def test_a_number_far_from_0_takes_nothing_from_the_others():
    """Folded into the bias, a clock of 1.7e9 rounded off what stood beside it."""
    network = build(NetworkSpec((2,), 2, hidden=(8,)), torch.Generator().manual_seed(0))
    obs = torch.randn(64, 2, generator=torch.Generator().manual_seed(1))
    network.standardise(torch.zeros(2), torch.ones(2))
    still = obs.clone()
    still[:, 1] = 0.0
    near = network(still)
    network.standardise(torch.tensor([0.0, 1.7e9]), torch.ones(2))
    still[:, 1] = 1.7e9
    torch.testing.assert_close(network(still), near)
    network(still).sum().backward()
    assert (network.layers[0].weight.grad[:, 1] == 0).all()


def test_a_module_of_float_images_is_counted():
    """Asked with bytes alone it ended a run behind its verdict."""

    class Floats(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 2, 3)

        def forward(self, obs):
            return self.conv(obs).flatten(1)

    assert count_macs(Floats(), (1, 5, 5)) == 2 * 9 * 9
    broken = Teacher.from_callable(Broken(), 2, obs_shape=(3,), name="broken")
    assert broken.size()["macs"] is None


class Broken(torch.nn.Linear):
    """Answers nothing to zeros."""

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, obs):
        if not obs.any():
            raise RuntimeError("not of zeros")
        return super().forward(obs)
