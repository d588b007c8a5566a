"""The learner: pupils (one per task, one body), their optimiser, and one `update` per batch."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from distilrl import discriminator
from distilrl.blocks import ReusedHead
from distilrl.checkpoints import below
from distilrl.config import OptimConfig, StudentConfig
from distilrl.context import Context
from distilrl.discriminator import Discriminator
from distilrl.errors import ResumeError, SpecError
from distilrl.features import FeatureMaps, start_from
from distilrl.heads import Head, Units
from distilrl.memories import Memories
from distilrl.networks import Network, build_shared, reuse_head
from distilrl.objective import FeatureTerm, JudgedTerm, TDTerm, TeacherTerm, Term, active, columns
from distilrl.optimisers import (
    Adam,
    Steps,
    clip_gradients,
    dense_layers,
    make_optimisers,
    move_average,
    set_learning_rate,
)
from distilrl.policies import Policy
from distilrl.replay import Batch
from distilrl.schedules import Progress
from distilrl.specs import NetworkSpec
from distilrl.teachers import Teacher
from distilrl.teachers.told import told


def own_losses(terms: Sequence[Term]) -> dict[str, str]:
    """Digests of the code of losses of somebody's own, by their names, which no config.json tells apart."""
    own = {one.name: one.function for one in terms if isinstance(one, TeacherTerm)}
    return {
        name: hashlib.sha256(told(function).encode()).hexdigest()
        for name, function in own.items() if function is not None
    }  # fmt: skip


def check_own_losses(now: dict[str, str], before: dict[str, str]) -> None:
    """Refuses to go on where such a loss is not what it was, by these digests.

    Raises:
        ResumeError: names the loss.
    """
    if changed := [name for name, code in now.items() if before.get(name) != code]:
        raise ResumeError(
            f"The code of the loss '{changed[0]}' is not what it was when the run began: bring it back, or begin "
            "another run in another folder."
        )


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


class Pupil:
    """The student of one task and all that belongs to it: its copies, its temperature, and the helpers that its terms
    ask for.
    """

    def __init__(
        self,
        student: Network,
        head: Head,
        teacher: Teacher | None,
        terms: tuple[Term, ...],
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Makes the copies and the helpers.

        Args:
            student: network in training, on ``device``; its layers may be shared with other pupils.
            head: what its numbers mean.
            teacher: whose labels it learns from.
            terms: the objective.
            generator: source of the helpers' weights.
            device: where they live.
        """
        self.student, self.head = student, head
        self.labels_head = teacher.head if teacher is not None else head
        self.temperature = 1.0
        self.units: Units | None = None
        self.memories: Memories | None = None
        self.average: Network = student
        self.target: Network | None = None
        self.maps: FeatureMaps | None = None
        self.discriminator: Discriminator | None = None
        featured = [term for term in terms if isinstance(term, FeatureTerm)]
        obs = torch.zeros((1, *student.spec.obs_shape), device=device)
        if featured and teacher is not None:
            projected = [term.wanted for term in featured if term.projects]
            self.maps = FeatureMaps(
                [t.wanted for t in featured], projected, student, teacher.network, obs, generator
            ).to(device)
        if any(isinstance(term, JudgedTerm) for term in terms):
            width = head.view(torch.zeros(1, head.width)).shape[1]
            self.discriminator = Discriminator(student.spec, width, generator).to(device)

    @property
    def policy(self) -> Policy:
        """The network in training as a policy."""
        return Policy(self.student, self.head)

    @property
    def copies(self) -> list[Network]:
        """Student, average and lagged copy."""
        return [network for network in (self.student, self.average, self.target) if network is not None]

    def modules(self) -> dict[str, nn.Module]:
        """All that a checkpoint holds, by name."""
        own = {
            "student": self.student,
            "average": self.average,
            "target": self.target,
            "maps": self.maps,
            "discriminator": self.discriminator,
        }
        return {name: module for name, module in own.items() if module is not None}

    def standardise(self, mean: Tensor, scale: Tensor, moves: Tensor | None = None) -> None:
        """Sets the input standardisation of all copies."""
        for network in self.copies:
            network.standardise(mean, scale, moves)

    def set_temperature(self, temperature: float) -> None:
        """Sets the temperature that was found; a reused head then gives numbers of that scale."""
        self.temperature = temperature
        for network in self.copies:
            if isinstance(network.layers[-1], ReusedHead):
                network.scale_head(1 / temperature)

    def set_units(self, units: Units | None) -> None:
        """Sets the units of all copies' heads."""
        self.units = units
        for network in self.copies:
            network.set_units(units)

    def remember(self, places: int) -> None:
        """Makes room for what a student with a cell remembers, in a replay that has room for so many states."""
        if (cell := self.student.spec.cell) is not None:
            self.memories = Memories(places, sum(cell.kept), self.student.obs_mean.device)

    def adopt(self) -> None:
        """Makes the copies equal to a student whose weights were set from outside."""
        for network in self.copies[1:]:
            network.load_state_dict(self.student.state_dict())


def make_pupils(
    specs: Sequence[NetworkSpec],
    heads: Sequence[Head],
    teachers: Sequence[Teacher | None],
    terms: tuple[Term, ...],
    config: StudentConfig,
    generator: torch.Generator,
    device: torch.device,
) -> list[Pupil]:
    """One pupil per task; their students share layers as ``config`` says.

    Args:
        specs: the student's shape for each task.
        heads: what its numbers mean there.
        teachers: whose labels they learn from, their networks on ``device``.
        terms: the objective.
        config: the network in training.
        generator: source of the initial weights.
        device: where the networks live.
    """
    students = build_shared(specs, generator, config.share)
    for student, teacher in zip(students, teachers, strict=True):
        if config.reused_head and teacher is not None:
            reuse_head(student, teacher.plain, generator)
    moved = nn.ModuleList(students).to(device)
    made = zip(moved, heads, teachers, strict=True)
    return [Pupil(student, head, teacher, terms, generator, device) for student, head, teacher in made]  # type: ignore[arg-type]


class Learner:
    """Everything that gradient steps change. One pupil per task, their students with one body: a single task has
    one.
    """

    def __init__(self, pupils: Sequence[Pupil], terms: tuple[Term, ...], optim: OptimConfig) -> None:
        """Makes averages, lagged copies where a term asks for them, and the optimisers.

        Args:
            pupils: one per task.
            terms: the objective.
            optim: how it is learnt.
        """
        self.pupils, self.terms, self.optim = list(pupils), terms, optim
        own = nn.ModuleList(pupil.student for pupil in pupils)
        averaged = _frozen_copies(own)
        lagged = _frozen_copies(own) if any(isinstance(term, TDTerm) for term in terms) else None
        for number, pupil in enumerate(pupils):
            pupil.average = averaged[number]  # type: ignore[assignment]
            pupil.target = lagged[number] if lagged is not None else None  # type: ignore[assignment]
        projectors = [p for pupil in pupils if pupil.maps is not None for p in pupil.maps.parameters()]
        self._parameters: list[Tensor] = list(own.parameters())
        self._averages: list[Tensor] = list(averaged.parameters())
        everything = [*own.parameters(), *projectors]
        self.optimisers = make_optimisers(optim.optimiser, dense_layers(own), everything, optim.learning_rate)
        judges = [p for pupil in pupils if pupil.discriminator is not None for p in pupil.discriminator.parameters()]
        self.discriminators = (
            Adam(judges, discriminator.LEARNING_RATE, betas=(0.5, 0.999), eps=1e-8) if judges else None
        )
        self._columns = {id(term): name for term, name in zip(terms, columns(terms), strict=True)}
        self.updates = 0
        self.errors: Tensor | None = None
        """(B,) TD losses of the last update, from which priorities are made; None where no TD term was active."""

    @property
    def params(self) -> int:
        """Parameters of all students together as they ship; what they share counts once."""
        students = copy.deepcopy(nn.ModuleList(pupil.student for pupil in self.pupils))
        for student in students:
            cast("Network", student).fold()  # without what only training needs
        return sum(p.numel() for p in students.parameters())

    def continue_from(self, wide: "Learner") -> None:
        """Takes over from a learner of a wider student of the same layers: its strongest units, temperature and count
        of updates.

        The optimiser starts anew; its moments are of weights that are gone. Its rate does not warm up again, which
        costs short runs more than the first steps do. Units are ranked by their weights for raw observations: by those
        for standardised ones CartPole's students of two units fall over more often.
        """
        (mine,), (before,) = self.pupils, wide.pupils
        source = copy.deepcopy(before.average)
        source.fold()
        for network in mine.copies:
            network.standardise_as(before.student)
        mine.set_temperature(before.temperature)
        mine.set_units(before.units)
        start_from(mine.student, source, "strongest")
        mine.adopt()
        self.updates = wide.updates
        if mine.maps is not None and before.maps is not None:
            mine.maps.scales.copy_(before.maps.scales)

    @torch.enable_grad()  # whatever an environment's code has set
    def update(self, parts: Sequence[Part]) -> dict[str, Tensor]:
        """One gradient step; returns the mean loss of each active term."""
        optim = self.optim
        optimisers, fraction = self.optimisers.values(), parts[0].progress.fraction
        set_learning_rate(optimisers, optim.learning_rate, self.updates, fraction)
        for optimiser in optimisers:
            optimiser.zero_grad()
        means: dict[str, list[Tensor]] = {}
        loss = self._parameters[0].new_zeros(())
        judged: list[Context] = []
        self.errors = None
        for part in parts:
            now = active(self.terms, part.progress)
            context = self._context(part, [term for term, _ in now])
            for term, weight in now:
                each = term(context)
                if not each.requires_grad:
                    raise SpecError(f"The loss '{term.name}' has no gradient: leave the student's numbers attached.")
                if isinstance(term, TDTerm):
                    self.errors = each.detach()
                    each = each if part.batch.weight is None else each * part.batch.weight
                mean = part.batch.mean(each)
                loss = loss + part.share * weight * mean
                means.setdefault(self._columns[id(term)], []).append(mean.detach())
            judged += [context] if any(isinstance(term, JudgedTerm) for term, _ in now) else []
            if now:
                context.remember()
        if loss.requires_grad:  # else every term's weight is 0 just now
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradients(self._parameters, optim.max_grad_norm)
            for optimiser in optimisers:
                optimiser.step()
        if judged:
            self._train_discriminators(judged)
        self.updates += 1
        move_average(self._averages, self._parameters, optim.average, self.updates)
        if self.updates % optim.target_every == 0:
            self._refresh_targets()
        return {name: torch.stack(values).mean() for name, values in means.items()}

    def diverged(self) -> bool:
        """Whether a weight of a student or of its average is NaN or infinite; waits for the device, so it is for checks
        only.
        """
        return not all(bool(torch.isfinite(tensor).all()) for tensor in (*self._parameters, *self._averages))

    def _context(self, part: Part, terms: list[Term]) -> Context:
        pupil = self.pupils[part.task]
        return Context(
            terms,
            part.batch,
            pupil.student,
            pupil.labels_head,
            target=pupil.target,
            discount=self.optim.gamma**self.optim.n_step,
            temperature=pupil.temperature,
            units=pupil.units,
            progress=part.progress,
            maps=pupil.maps,
            discriminator=pupil.discriminator,
            memories=pupil.memories,
        )

    def _train_discriminators(self, judged: list[Context]) -> None:
        """One step of telling the teacher's policy from the student's."""
        if self.discriminators is None:
            return
        self.discriminators.zero_grad()
        total = torch.stack([context.batch.mean(context.discriminator_loss()) for context in judged]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        self.discriminators.step()

    def _refresh_targets(self) -> None:
        """Makes the lagged copies equal to the students."""
        for pupil in self.pupils:
            if pupil.target is not None:
                pupil.target.load_state_dict(pupil.student.state_dict())

    def _modules(self) -> dict[str, nn.Module]:
        named = [
            (f"{name}.{task}", module)
            for task, pupil in enumerate(self.pupils)
            for name, module in pupil.modules().items()
        ]
        return dict(named)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors, and the numbers beside them."""
        tensors = {
            f"{name}.{k}": v.clone() for name, module in self._modules().items() for k, v in module.state_dict().items()
        }
        for task, pupil in enumerate(self.pupils):
            tensors |= {f"obs_mean.{task}": pupil.student.obs_mean, f"obs_scale.{task}": pupil.student.obs_scale}
            if pupil.student.obs_moves is not None:
                tensors[f"obs_moves.{task}"] = pupil.student.obs_moves
            if pupil.memories is not None:
                tensors |= {f"memories.{task}.{k}": v for k, v in pupil.memories.state().items()}
            if pupil.units is not None:
                tensors |= {f"units.{task}.{k}": getattr(pupil.units, k) for k in ("matrix", "offset")}
        for name, optimiser in self._optimisers().items():
            for index, values in optimiser.state_dict()["state"].items():
                tensors |= {f"{name}.{index}.{k}": v for k, v in values.items()}
        return tensors, {"temperatures": [pupil.temperature for pupil in self.pupils], "updates": self.updates}

    def _optimisers(self) -> dict[str, Steps]:
        judges: dict[str, Steps] = {"judges": self.discriminators} if self.discriminators is not None else {}
        return {**self.optimisers, **judges}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Reads back what `state` gave."""
        for name, module in self._modules().items():
            module.load_state_dict(below(tensors, f"{name}."))
        for task, pupil in enumerate(self.pupils):
            moves = tensors.get(f"obs_moves.{task}")
            for network in pupil.copies:
                network.set_statistics(tensors[f"obs_mean.{task}"], tensors[f"obs_scale.{task}"], moves)
            pupil.temperature = float(state["temperatures"][task])
            if pupil.memories is not None:
                pupil.memories.load_state(below(tensors, f"memories.{task}."))
            if f"units.{task}.matrix" in tensors:
                there = pupil.student.obs_mean.device
                pupil.set_units(Units(*(tensors[f"units.{task}.{one}"].to(there) for one in ("matrix", "offset"))))
        for name, optimiser in self._optimisers().items():
            values: dict[int, dict[str, Tensor]] = {}
            for full, tensor in tensors.items():
                if full.startswith(f"{name}."):
                    _, index, key = full.split(".")
                    values.setdefault(int(index), {})[key] = tensor
            optimiser.load_state_dict(optimiser.state_dict() | {"state": values})
        self.updates = int(state["updates"])


def _frozen_copies(networks: nn.ModuleList) -> nn.ModuleList:
    """Copies without gradient that share among themselves what the networks share."""
    return copy.deepcopy(networks).requires_grad_(False)
