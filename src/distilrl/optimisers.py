"""What makes the steps: Adam, SOAP for dense layers so small that it costs next to nothing, schedules, averages."""

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor, nn

Optimiser = Literal["adam", "soap"]
DenseLayer = tuple[Tensor, Tensor | None]
"""Weight (..., O, I) and bias of a dense layer; None: it has none, as what a cell makes of its own past."""
MOMENTUM = 0.9
SECOND = 0.95
"""Decay of the second moments, of Shampoo's and of Adam's."""
EPSILON = 5e-5
"""In units of the norm of a layer's gradients, so that their scale does not matter; far above what rounding leaves in
directions without one, as of a feature that never varied.
"""
EVERY = 10
"""Steps after which the basis is turned."""


class Soap:
    """Adam in the eigenbasis of each dense layer's gradients, the bias as one more column of its weight.

    Vyas et al. 2025, "SOAP: improving and stabilizing Shampoo using Adam". Departure: young moments are not corrected,
    so the learning rate has to warm up over some tens of steps. Called as torch's optimisers are, and not one of them:
    the first of those imports torch's compiler, which takes longer than a small student's first thousand updates.

    Example::

        optimiser = Soap(dense_layers(network), lr=1e-2)
    """

    def __init__(self, layers: Sequence[DenseLayer], lr: float) -> None:
        """Takes what is trained.

        Args:
            layers: weights (..., O, I) and biases of as many outputs; leading dimensions are layers side by side.
            lr: learning rate; about five times Adam's; gradients of any scale are the same to it.
        """
        self._layers = list(layers)
        self._states: list[dict[str, Any]] = [{} for _ in layers]
        self.param_groups: list[dict[str, Any]] = [
            {"params": [p for layer in self._layers for p in layer if p is not None], "lr": lr}
        ]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Moments and bases of each layer, as `load_state_dict` reads them; the learning rate is the caller's."""
        return {"state": dict(enumerate(self._states))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over moments and bases, to where their layer is; one that is not there has had no step yet."""
        for number, (weight, _) in enumerate(self._layers):
            given = state_dict["state"].get(number, {})
            self._states[number] = {k: v if k == "step" else v.to(weight.device) for k, v in given.items()}

    @torch.no_grad()
    def step(self) -> None:
        """One step of each layer that has a gradient."""
        lr = self.param_groups[0]["lr"]
        for (weight, bias), state in zip(self._layers, self._states, strict=True):
            if weight.grad is None or (bias is not None and bias.grad is None):
                continue
            grad = weight.grad
            if bias is not None:
                grad = torch.cat([grad, bias.grad.view(*weight.shape[:-1], 1)], dim=-1)  # type: ignore[union-attr]
            if not state:
                state.update(_first(grad))
            move = _direction(state, grad)
            weight.sub_(move[..., : weight.shape[-1]], alpha=lr)
            if bias is not None:
                bias.sub_(move[..., -1].reshape(bias.shape), alpha=lr)


def _first(grad: Tensor) -> dict[str, Any]:
    """State of a layer before its first step: of its gradient (..., O, I + 1) the second moments of rows and columns,
    and their eigenvectors; mean and square are of the gradient in their basis.
    """
    left, right = grad @ grad.mT, grad.mT @ grad
    # the strongest first, for `qr` keeps the first ones and fits the others to them
    strongest = (_eigenvectors(one).flip(-1).contiguous() for one in (left, right))  # as a checkpoint has them
    return {
        "left": left, "left_basis": next(strongest), "right": right, "right_basis": next(strongest),
        "mean": torch.zeros_like(grad), "square": torch.zeros_like(grad), "step": torch.zeros(()),
    }  # fmt: skip


def _eigenvectors(moment: Tensor) -> Tensor:
    """Eigenvectors (..., N, N) of products, the weakest first. Of products of few ranks, or far from 1, LAPACK finds
    none in floats, or some that are no basis: then in doubles and of order 1.
    """
    with suppress(RuntimeError):  # which LinAlgError is one of
        basis: Tensor = torch.linalg.eigh(moment)[1]
        identity = torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device)
        if bool(((basis.mT @ basis - identity).abs() < 1e-3).all()):
            return basis
    if not bool(torch.isfinite(moment).all()):  # the weights follow, and whoever checks them says what has happened
        return torch.eye(moment.shape[-1], dtype=moment.dtype, device=moment.device).expand_as(moment)
    size = torch.linalg.diagonal(moment).sum(-1)[..., None, None].double()
    basis = torch.linalg.eigh(moment.double() / torch.where(size > 0, size, 1.0))[1]
    return basis.to(moment.dtype)


def _direction(state: dict[str, Any], grad: Tensor) -> Tensor:
    """Where to go, (..., O, I + 1); moves the state on."""
    left, right, mean, square = state["left_basis"], state["right_basis"], state["mean"], state["square"]
    turned = left.mT @ grad @ right
    mean.lerp_(turned, 1 - MOMENTUM)
    square.lerp_(turned.square(), 1 - SECOND)
    floor = square.sum((-2, -1), keepdim=True).sqrt_().mul_(EPSILON).add_(torch.finfo(grad.dtype).tiny)
    move: Tensor = left @ (mean / square.sqrt().add_(floor)) @ right.mT
    # -- a round of power iteration turns the bases towards the moments' eigenvectors
    _mix(state["left"], grad, grad.mT)
    _mix(state["right"], grad.mT, grad)
    state["step"] += 1
    if int(state["step"]) % EVERY == 0:  # contiguous, for a checkpoint gives them back so
        state["left_basis"] = torch.linalg.qr(state["left"] @ left)[0].contiguous()
        state["right_basis"] = torch.linalg.qr(state["right"] @ right)[0].contiguous()
        mean.copy_((state["left_basis"].mT @ left) @ mean @ (right.mT @ state["right_basis"]))
    return move


def _mix(moment: Tensor, a: Tensor, b: Tensor) -> None:
    """Moves a second moment (..., N, N) towards the product of ``a`` and ``b``, in one operation."""
    (moment.addmm_ if a.ndim == 2 else moment.baddbmm_)(a, b, beta=SECOND, alpha=1 - SECOND)


class Adam:
    """Adam (Kingma & Ba 2015) by PyTorch's own fused kernel, called as `Soap` is, and for the same reason none of
    PyTorch's classes.

    Example::

        optimiser = Adam(network.parameters(), lr=3e-3)
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-5
    ) -> None:
        """Takes what is trained; moments begin at its first step."""
        self._parameters, self._betas, self._eps = list(parameters), betas, eps
        self._states: list[dict[str, Any]] = [{} for _ in self._parameters]
        self.param_groups: list[dict[str, Any]] = [{"params": self._parameters, "lr": lr}]

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Moments of each parameter, as `load_state_dict` reads them; the learning rate is the caller's."""
        return {"state": {number: state for number, state in enumerate(self._states) if state}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over moments, to where their parameter is and in its order in memory; one that is not there has had no
        step yet.
        """
        for number, parameter in enumerate(self._parameters):
            self._states[number] = {}
            if given := state_dict["state"].get(number):
                moments = {k: torch.empty_like(parameter).copy_(given[k]) for k in ("exp_avg", "exp_avg_sq")}
                self._states[number] = {"step": given["step"].reshape(()).to(parameter.device), **moments}

    @torch.no_grad()
    def step(self) -> None:
        """One step of each parameter that has a gradient."""
        gradients = {number: p.grad for number, p in enumerate(self._parameters) if p.grad is not None}
        for number in gradients:
            if not self._states[number]:
                like = self._parameters[number]
                zeros = {"exp_avg": torch.zeros_like(like), "exp_avg_sq": torch.zeros_like(like)}
                self._states[number] = {"step": torch.zeros((), device=like.device), **zeros}
        if not gradients:
            return
        states = [self._states[number] for number in gradients]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            [self._parameters[number] for number in gradients],
            list(gradients.values()),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=self.param_groups[0]["lr"],
            beta1=self._betas[0],
            beta2=self._betas[1],
            weight_decay=0.0,
            eps=self._eps,
            amsgrad=False,
            maximize=False,
        )


Steps = Soap | Adam
"""What makes the steps."""


def dense_layers(module: nn.Module) -> list[DenseLayer]:
    """Weight and bias of each dense layer within a module; what several share counts once."""
    return [(layer.weight, layer.bias) for layer in module.modules() if isinstance(layer, nn.Linear)]


def make_optimisers(
    kind: Optimiser, layers: Sequence[DenseLayer], parameters: Iterable[Tensor], lr: float
) -> dict[str, Steps]:
    """The optimisers of all parameters, by name.

    Args:
        kind: ``"soap"`` takes the layers, and leaves what else there is to Adam.
        layers: weights and biases of dense layers.
        parameters: all that is trained.
        lr: learning rate.
    """
    taken = {id(p) for layer in layers for p in layer if p is not None} if kind == "soap" else set()
    rest = [p for p in parameters if id(p) not in taken]
    made: dict[str, Steps] = {"soap": Soap(layers, lr)} if taken else {}
    return made | ({"adam": Adam(rest, lr)} if rest else {})


def clip_gradients(parameters: Sequence[Tensor], most: float) -> None:
    """Scales all gradients down so that their norm together is at most ``most``; a third of the time that
    `torch.nn.utils.clip_grad_norm_` takes for a small network.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp_max(1.0))


def set_learning_rate(optimisers: Iterable[Steps], peak: float, updates: int, fraction: float) -> None:
    """Linear warm-up over 100 updates, cosine decay over the budget."""
    warm = min(1.0, (updates + 1) / 100)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = peak * warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))


def move_average(averages: list[Tensor], parameters: list[Tensor], decay: float, updates: int) -> None:
    """Moves averages towards parameters; young averages forget faster, so that the start is not remembered."""
    with torch.no_grad():
        torch._foreach_lerp_(averages, parameters, 1 - min(decay, updates / (updates + 10)))
