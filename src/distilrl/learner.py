"""The learner: student, its lagged and averaged copies, optimiser; one `update` per batch, and its whole state as tensors."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from distilrl.networks import Network, NetworkSpec, build
from distilrl.objective import Progress, Term, active, forward, term_loss
from distilrl.replay import Batch


class Learner:
    """Everything that gradient steps change."""

    def __init__(
        self,
        spec: NetworkSpec,
        terms: tuple[Term, ...],
        *,
        learning_rate: float,
        average: float,
        device: torch.device,
        generator: torch.Generator,
    ) -> None:
        """Builds the networks.

        Args:
            spec: the student's shape.
            terms: the objective.
            learning_rate: of Adam, at its peak.
            average: decay of the weight average per update; 0: the average is the student itself.
            device: where the networks live.
            generator: source of the initial weights.
        """
        self.terms, self.learning_rate, self.decay = terms, learning_rate, average
        self.student = build(spec, generator).to(device)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.target = copy.deepcopy(self.student).requires_grad_(False) if any(not t.needs_teacher for t in terms) else None
        self.optimiser = torch.optim.Adam(self.student.parameters(), lr=learning_rate, eps=1e-5, fused=True)
        self._parameters: list[Tensor] = list(self.student.parameters())
        self._averages: list[Tensor] = list(self.average.parameters())
        self.temperature = 1.0
        self.updates = 0
        self.errors: Tensor | None = None
        """(B,) TD losses of the last update, from which priorities are made."""

    def standardise(self, mean: Tensor, scale: Tensor) -> None:
        """Sets the input standardisation of all copies."""
        for network in self._networks().values():
            network.standardise(mean, scale)

    def update(self, batch: Batch, progress: Progress, discount: float, max_grad_norm: float) -> dict[str, Tensor]:
        """One gradient step; returns the mean loss of each active term."""
        for group in self.optimiser.param_groups:  # linear warm-up over 100 updates, cosine decay over the budget
            warm = min(1.0, (self.updates + 1) / 100)
            group["lr"] = self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(progress.fraction, 1.0)))
        now = active(self.terms, progress)
        outputs = forward([term for term, _ in now], batch, self.student, self.target, discount, self.temperature)
        means: dict[str, Tensor] = {}
        for term, _ in now:
            each = term_loss(term, outputs, batch, self.temperature)
            if not term.needs_teacher:
                self.errors = each.detach()
                each = each if batch.weight is None else each * batch.weight
            means[term.loss] = each.mean()
        loss = sum((weight * means[term.loss] for term, weight in now), start=outputs.values.new_zeros(()))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, max_grad_norm)
        self.optimiser.step()
        self.updates += 1
        self._move_average()
        return {name: value.detach() for name, value in means.items()}

    def _move_average(self) -> None:
        """Moves the average towards the student; young averages forget faster, so that the start is not remembered."""
        decay = min(self.decay, self.updates / (self.updates + 10)) if self.decay else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    def refresh_target(self) -> None:
        """Makes the lagged copy equal to the student."""
        if self.target is not None:
            self.target.load_state_dict(self.student.state_dict())

    def _networks(self) -> dict[str, Network]:
        networks = {"student": self.student, "average": self.average}
        return networks | ({"target": self.target} if self.target is not None else {})

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors, and the numbers beside them."""
        tensors = {f"{name}.{k}": v for name, network in self._networks().items() for k, v in network.state_dict().items()}
        tensors |= {"obs_mean": self.student.obs_mean, "obs_scale": self.student.obs_scale}
        for index, values in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in values.items()}
        return tensors, {"temperature": self.temperature, "updates": self.updates}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads back what `state` gave."""
        for name, network in self._networks().items():
            network.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
        self.standardise(tensors["obs_mean"], tensors["obs_scale"])
        optimiser: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".")
                optimiser.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": optimiser})
        self.temperature, self.updates = float(state["temperature"]), int(state["updates"])
