"""What makes the steps: SOAP's mathematics, what it leaves alone, and who is trained by what."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from distilrl import NetworkSpec
from distilrl.networks import build
from distilrl.optimisers import Adam, Soap, _first, clip_gradients, dense_layers, make_optimisers, set_learning_rate


def error_after(make, steps=1000, lr=0.01):
    """Of a linear layer that is to find another one, from inputs of very different sizes in directions of their own."""
    generator = torch.Generator().manual_seed(0)
    turn, wanted = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0], torch.randn(8, 3, generator=generator)

    def inputs(count):
        return (torch.randn(count, 8, generator=generator) * torch.logspace(0, -2, 8)) @ turn

    layer = nn.Linear(8, 3)
    nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
    optimiser = make(layer)
    for step in range(steps):
        set_learning_rate([optimiser], lr, step, step / steps)
        obs = inputs(64)
        optimiser.zero_grad()
        (layer(obs) - obs @ wanted).square().mean().backward()
        optimiser.step()
    obs = inputs(4000)
    return float((layer(obs) - obs @ wanted).square().mean().detach())


def test_soap_sees_through_a_rotation_that_adam_does_not():
    soap = error_after(lambda layer: Soap([(layer.weight, layer.bias)], 0.01))
    adam = error_after(lambda layer: torch.optim.Adam(layer.parameters(), 0.01))
    assert soap < 1e-6 < 1e-3 < adam


def test_first_step_is_adams_in_the_eigenbasis():
    weight, bias = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, requires_grad=True)
    grad = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, -1.0]])
    weight.grad, bias.grad = grad[:, :3].clone(), grad[:, 3].clone()
    Soap([(weight, bias)], 1.0).step()
    # the gradient is diagonal in its own singular vectors: 0.1 g over sqrt(0.05) |g| there, so U Vᵀ times that
    left, _, right = torch.linalg.svd(grad, full_matrices=False)
    moved = torch.cat([weight, bias.unsqueeze(1)], 1).detach()
    assert torch.allclose(moved, -0.1 / 0.05**0.5 * left @ right, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_first_gradients_of_few_ranks_and_any_scale_have_a_basis(scale):
    """Of such products LAPACK finds no eigenvectors in floats: a run ended at its first update."""
    generator = torch.Generator().manual_seed(0)
    for rank in (1, 8):
        for _ in range(20):
            left, right = (torch.randn(size, rank, generator=generator) for size in (64, 65))
            left[torch.rand(64, generator=generator) < 0.7] = 0.0
            state = _first(scale * left @ right.T)
            for basis in (state["left_basis"], state["right_basis"]):
                torch.testing.assert_close(basis @ basis.T, torch.eye(len(basis)), atol=1e-5, rtol=0)


def test_gradients_that_are_no_numbers_are_left_to_whoever_checks_the_weights():
    layer = nn.Linear(4, 5)
    optimiser = Soap([(layer.weight, layer.bias)], 0.01)
    layer.weight.grad, layer.bias.grad = torch.full((5, 4), torch.nan), torch.zeros(5)
    optimiser.step()
    assert not torch.isfinite(layer.weight).all()
    clip_gradients([nn.Parameter(torch.ones(2))], 1.0)  # of which none has a gradient


def test_a_feature_without_gradient_keeps_its_weights():
    torch.manual_seed(0)  # of what rounding leaves, one start in twenty moves such a weight by more than 0.001
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(4, 5)
    before = layer.weight.detach().clone()
    optimiser = Soap([(layer.weight, layer.bias)], 0.01)
    for _ in range(200):
        obs = torch.randn(64, 4, generator=generator)
        obs[:, 2] = 0
        optimiser.zero_grad()
        (layer(obs) - torch.randn(64, 5, generator=generator)).square().mean().backward()
        optimiser.step()
    assert torch.allclose(layer.weight[:, 2], before[:, 2], atol=1e-3)
    assert not torch.allclose(layer.weight[:, 0], before[:, 0], atol=1e-2)


def test_layers_side_by_side_are_trained_as_alone():
    # as many outputs as inputs and a bias: a gradient without a null space, whose basis rounding would choose
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(3, 5, 4, generator=generator), torch.randn(3, 1, 5, generator=generator)
    together = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    alone = [(weight[1].clone().requires_grad_(), bias[1, 0].clone().requires_grad_())]
    both, one = Soap([tuple(together)], 0.01), Soap(alone, 0.01)
    for _ in range(25):
        grad = [torch.randn(t.shape, generator=generator) for t in together]
        together[0].grad, together[1].grad = grad
        alone[0][0].grad, alone[0][1].grad = grad[0][1].clone(), grad[1][1, 0].clone()
        both.step(), one.step()
    assert torch.allclose(together[0][1], alone[0][0], atol=1e-3)  # each step moves a weight by about 1e-2
    assert torch.allclose(together[1][1, 0], alone[0][1], atol=1e-3)


@pytest.mark.parametrize(("text", "shape"), [("mlp:8", (4,)), ("cnn:4k3s2:8", (3, 12, 12))])
def test_everything_is_trained_by_one_optimiser(text, shape):
    network = build(NetworkSpec.parse(text, shape, 2))
    made = make_optimisers("soap", dense_layers(network), network.parameters(), 1e-2)
    trained = [id(p) for one in made.values() for group in one.param_groups for p in group["params"]]
    assert sorted(trained) == sorted(id(p) for p in network.parameters())
    assert set(made) == ({"soap", "adam"} if "cnn" in text else {"soap"})


def test_moments_come_back_to_where_their_layer_is():
    """A checkpoint is read on the CPU, wherever the run goes on."""
    here, there = nn.Linear(3, 2), nn.Linear(3, 2, device="meta")
    one, other = (Soap([(layer.weight, layer.bias)], 0.01) for layer in (here, there))
    here(torch.ones(4, 3)).sum().backward()
    one.step()
    other.load_state_dict(one.state_dict())
    (state,) = other.state_dict()["state"].values()
    assert {name: tensor.device.type for name, tensor in state.items()} == {
        name: "cpu" if name == "step" else "meta" for name in one.state_dict()["state"][0]
    }


def test_a_step_does_not_wait_for_torchs_compiler_to_be_imported():
    code = (
        "import sys, torch; from distilrl.optimisers import Soap; layer = torch.nn.Linear(3, 2); "
        "one = Soap([(layer.weight, layer.bias)], 0.01); layer(torch.ones(4, 3)).sum().backward(); one.step(); "
        "print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_adam_is_pytorchs_own():
    """To the bit, channels last or not, and where a parameter gets its first gradient later."""
    generator = torch.Generator().manual_seed(0)
    conv = torch.randn((4, 3, 2, 2), generator=generator).contiguous(memory_format=torch.channels_last)
    mine = [conv.clone().requires_grad_(), torch.randn(5, generator=generator).requires_grad_()]
    theirs = [p.detach().clone().requires_grad_() for p in mine]
    ours, reference = Adam(mine, 1e-2), torch.optim.Adam(theirs, lr=1e-2, eps=1e-5, fused=True)
    for step in range(6):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = None if step < 2 and a.ndim == 1 else torch.randn(a.shape, generator=generator)
            b.grad = None if a.grad is None else a.grad.clone()
        if step == 3:  # a checkpoint holds tensors in plain order
            saved = {
                n: {k: v.clone().contiguous() for k, v in s.items()} for n, s in ours.state_dict()["state"].items()
            }
            ours = Adam(mine, 1e-2)
            ours.load_state_dict({"state": saved})
        ours.step()
        reference.step()
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a, b)


def test_soap_goes_on_from_a_checkpoint_to_the_same_bytes():
    """Also before the first power iteration, while its bases are those of the first gradient."""

    def trained(steps, broken=False):
        generator, layer = torch.Generator().manual_seed(0), nn.Linear(4, 6)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        optimiser = Soap([(layer.weight, layer.bias)], 0.01)
        for step in range(steps):
            if broken and step == 3:  # as a checkpoint gives tensors back: contiguous
                kept = {
                    number: {key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}
                    for number, state in optimiser.state_dict()["state"].items()
                }
                optimiser.load_state_dict({"state": kept})
            obs = torch.randn(64, 4, generator=generator)
            optimiser.zero_grad()
            layer(obs).pow(2).mean().backward()
            optimiser.step()
        return layer.weight.detach()

    assert torch.equal(trained(9), trained(9, broken=True))
