"""The learner: students, their lagged and averaged copies, optimiser, and what stands beside them; one `update` per batch."""

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from distilrl import discriminator, losses
from distilrl.discriminator import Discriminator
from distilrl.errors import SpecError
from distilrl.features import FeatureMaps, start_from
from distilrl.networks import Network, ReusedHead, Share, build_shared, reuse_head
from distilrl.objective import TD_LOSSES, Beside, Outputs, Progress, Term, active, forward, judge, term_loss
from distilrl.replay import Batch
from distilrl.specs import NetworkSpec


class Part(NamedTuple):
    """What one task adds to an update."""

    task: int
    """Number of the task."""
    batch: Batch
    """B transitions of it."""
    progress: Progress
    """How far the task has come."""
    share: float = 1.0
    """Multiplier of its losses."""


def set_learning_rate(optimiser: torch.optim.Optimizer, peak: float, updates: int, fraction: float) -> None:
    """Linear warm-up over 100 updates, cosine decay over the budget."""
    warm = min(1.0, (updates + 1) / 100)
    for group in optimiser.param_groups:
        group["lr"] = peak * warm * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))


def move_average(averages: list[Tensor], parameters: list[Tensor], decay: float, updates: int) -> None:
    """Moves averages towards parameters; young averages forget faster, so that the start is not remembered."""
    with torch.no_grad():
        torch._foreach_lerp_(averages, parameters, 1 - min(decay, updates / (updates + 10)))


class Learner:
    """Everything that gradient steps change. One student per task, with one body: a single task has one student."""

    def __init__(
        self,
        specs: Sequence[NetworkSpec],
        terms: tuple[Term, ...],
        *,
        learning_rate: float,
        average: float,
        device: torch.device,
        generator: torch.Generator,
        teachers: Sequence[nn.Module | None] = (None,),
        reused_head: bool = False,
        share: Share = "body",
    ) -> None:
        """Builds the networks.

        Args:
            specs: the student's shape for each task.
            terms: the objective.
            learning_rate: of Adam, at its peak.
            average: decay of the weight average per update; 0: the average is the student itself.
            device: where the networks live.
            generator: source of the initial weights.
            teachers: networks on ``device``, one per task, whose features and heads are used where the terms ask for them.
            reused_head: the students end in their teachers' heads.
            share: what the students have in common.
        """
        self.terms, self.learning_rate, self.decay = terms, learning_rate, average
        students = build_shared(specs, generator, share)
        for student, teacher in zip(students, teachers, strict=True):
            if reused_head and teacher is not None:
                reuse_head(student, teacher, generator)
        self.students: list[Network] = list(_together(students).to(device))  # type: ignore[arg-type]
        self.averages: list[Network] = list(_copied(self.students))  # type: ignore[arg-type]
        has_td = any(term.loss in TD_LOSSES for term in terms)
        self.targets: list[Network] = list(_copied(self.students)) if has_td else []  # type: ignore[arg-type]
        self.beside = [_beside(terms, *pair, generator=generator, device=device) for pair in zip(self.students, teachers, strict=True)]
        own, averaged = _together(self.students), _together(self.averages)
        projectors = [p for one in self.beside if one.maps is not None for p in one.maps.parameters()]
        self._parameters: list[Tensor] = list(own.parameters())
        self._averages: list[Tensor] = list(averaged.parameters())
        self.optimiser = torch.optim.Adam([*own.parameters(), *projectors], lr=learning_rate, eps=1e-5, fused=True)
        judges = [p for one in self.beside if one.discriminator is not None for p in one.discriminator.parameters()]
        self.discriminators = torch.optim.Adam(judges, lr=discriminator.LEARNING_RATE, betas=(0.5, 0.999)) if judges else None
        self.temperatures = [1.0] * len(specs)
        self.updates = 0
        self.errors: Tensor | None = None
        """(B,) TD losses of the last update, from which priorities are made."""

    @property
    def params(self) -> int:
        """Parameters of all students together; what they share counts once."""
        return sum(p.numel() for p in self._parameters)

    def standardise(self, task: int, mean: Tensor, scale: Tensor) -> None:
        """Sets the input standardisation of all copies."""
        for network in self._copies(task):
            network.standardise(mean, scale)

    def set_temperature(self, task: int, temperature: float) -> None:
        """Sets the temperature that was found; a reused head then gives values of that scale."""
        self.temperatures[task] = temperature
        for network in self._copies(task):
            if isinstance(network.layers[-1], ReusedHead):
                network.scale_head(1 / temperature)

    def measure_features(self, task: int, obs: Tensor) -> None:
        """Finds the scale of the teacher's features on some states."""
        maps = self.beside[task].maps
        if maps is not None:
            maps.measure(obs)

    def adopt_student(self, task: int = 0) -> None:
        """Makes the copies equal to a student whose weights were set from outside."""
        for network in self._copies(task)[1:]:
            network.load_state_dict(self.students[task].state_dict())

    def continue_from(self, wide: "Learner") -> None:
        """Takes over from a learner of a wider student of the same layers: its strongest units, temperature and count of updates.

        The optimiser starts anew; its moments are of weights that are gone.
        """
        source = copy.deepcopy(wide.averages[0])
        source.fold()
        self.standardise(0, wide.students[0].obs_mean, wide.students[0].obs_scale)
        self.set_temperature(0, wide.temperatures[0])
        start_from(self.students[0], source, "strongest")
        self.adopt_student()
        self.updates = wide.updates
        maps, before = self.beside[0].maps, wide.beside[0].maps
        if maps is not None and before is not None:
            maps.scales.copy_(before.scales)

    def _copies(self, task: int) -> list[Network]:
        return [networks[task] for networks in (self.students, self.averages, self.targets) if networks]

    def update(self, parts: Sequence[Part], discount: float, max_grad_norm: float) -> dict[str, Tensor]:
        """One gradient step; returns the mean loss of each active term."""
        set_learning_rate(self.optimiser, self.learning_rate, self.updates, parts[0].progress.fraction)
        means: dict[str, list[Tensor]] = {}
        loss = self._parameters[0].new_zeros(())
        judged: list[tuple[Part, Outputs]] = []
        for part in parts:
            now = active(self.terms, part.progress)
            outputs = self._forward(part, [term for term, _ in now], discount)
            for term, weight in now:
                each = term_loss(term, outputs, part.batch, self.temperatures[part.task], part.progress)
                if term.loss in TD_LOSSES:
                    self.errors = each.detach()
                    each = each if part.batch.weight is None else each * part.batch.weight
                mean = each.mean()
                loss = loss + part.share * weight * mean
                means.setdefault(term.loss, []).append(mean.detach())
            judged += [(part, outputs)] if outputs.judged is not None else []
        self.optimiser.zero_grad(set_to_none=True)
        if loss.requires_grad:  # else every term's weight is 0 just now
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self._parameters, max_grad_norm)
            self.optimiser.step()
        if judged:
            self._train_discriminators(judged)
        self.updates += 1
        self._move_average()
        return {name: torch.stack(values).mean() for name, values in means.items()}

    def diverged(self) -> bool:
        """Whether a weight of a student or of its average is NaN or infinite; waits for the device, so it is for checks only."""
        return not all(bool(torch.isfinite(tensor).all()) for tensor in (*self._parameters, *self._averages))

    def _forward(self, part: Part, terms: list[Term], discount: float) -> Outputs:
        task = part.task
        target = self.targets[task] if self.targets else None
        return forward(terms, part.batch, self.students[task], target, discount, self.temperatures[task], self.beside[task])

    def _train_discriminators(self, judged: list[tuple[Part, Outputs]]) -> None:
        """One step of telling the teacher's values from the student's."""
        if self.discriminators is None:
            return
        self.discriminators.zero_grad(set_to_none=True)
        total = self._parameters[0].new_zeros(())
        for part, outputs in judged:
            if outputs.teacher_values is None:
                raise SpecError("The term 'discriminator' needs a teacher, but the data carries no teacher values.")
            student, own = self.students[part.task], self.beside[part.task].discriminator
            of_student = judge(own, student, part.batch.obs, outputs.values.detach())
            of_teacher = judge(own, student, part.batch.obs, outputs.teacher_values / self.temperatures[part.task])
            total = total + losses.discriminator_loss(of_student=of_student, of_teacher=of_teacher).mean()
        total.backward()  # type: ignore[no-untyped-call]
        self.discriminators.step()

    def _move_average(self) -> None:
        """Moves the average towards the student."""
        move_average(self._averages, self._parameters, self.decay, self.updates)

    def refresh_target(self) -> None:
        """Makes the lagged copies equal to the students."""
        for target, student in zip(self.targets, self.students, strict=False):
            target.load_state_dict(student.state_dict())

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module] = {}
        for task in range(len(self.students)):
            names = ("student", "average", "target")
            modules |= {f"{name}.{task}": network for name, network in zip(names, self._copies(task), strict=False)}
            beside = {"maps": self.beside[task].maps, "discriminator": self.beside[task].discriminator}
            modules |= {f"{name}.{task}": module for name, module in beside.items() if module is not None}
        return modules

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors, and the numbers beside them."""
        tensors = {f"{name}.{k}": v.clone() for name, module in self._modules().items() for k, v in module.state_dict().items()}
        for task, student in enumerate(self.students):
            tensors |= {f"obs_mean.{task}": student.obs_mean, f"obs_scale.{task}": student.obs_scale}
        for name, optimiser in self._optimisers().items():
            for index, values in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v for k, v in values.items()}
        return tensors, {"temperatures": self.temperatures, "updates": self.updates}

    def _optimisers(self) -> dict[str, torch.optim.Optimizer]:
        both = {"optimiser": self.optimiser, "judges": self.discriminators}
        return {name: optimiser for name, optimiser in both.items() if optimiser is not None}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads back what `state` gave."""
        for name, module in self._modules().items():
            module.load_state_dict({k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")})
        for task in range(len(self.students)):
            self.standardise(task, tensors[f"obs_mean.{task}"], tensors[f"obs_scale.{task}"])
        for name, optimiser in self._optimisers().items():
            values: dict[int, dict[str, Tensor]] = {}
            for full, tensor in tensors.items():
                if full.startswith(f"{name}."):
                    _, index, key = full.split(".")
                    values.setdefault(int(index), {})[key] = tensor
            optimiser.load_state_dict(optimiser.state_dict() | {"state": values})
        self.temperatures, self.updates = [float(t) for t in state["temperatures"]], int(state["updates"])


def _together(networks: Sequence[nn.Module]) -> nn.ModuleList:
    """As one module, in which shared layers are one."""
    return nn.ModuleList(networks)


def _copied(networks: Sequence[nn.Module]) -> nn.ModuleList:
    """Copies without gradient that share among themselves what the networks share."""
    return copy.deepcopy(_together(networks)).requires_grad_(False)


def _beside(
    terms: tuple[Term, ...], student: Network, teacher: nn.Module | None, *, generator: torch.Generator, device: torch.device
) -> Beside:
    """Feature taps and discriminator of one task, where the terms ask for them."""
    wanted = [term for term in terms if term.needs_features]
    maps = judge_ = None
    spec = student.spec
    if wanted and teacher is not None:
        obs = torch.zeros((1, *spec.obs_shape), device=device)
        projected = [term.taps for term in wanted if term.loss == "hint"]
        maps = FeatureMaps([term.taps for term in wanted], projected, student, teacher, obs, generator).to(device)
    if any(term.loss == "discriminator" for term in terms):
        seen = 12 * 12 if len(spec.obs_shape) == 3 else spec.obs_shape[0]
        judge_ = Discriminator(seen, spec.n_actions, generator).to(device)
    return Beside(maps, judge_)
