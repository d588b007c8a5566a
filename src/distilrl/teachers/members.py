"""A teacher for each member of a family: the environment shows which member it is, and that member's own answers."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from distilrl.envs import EnvInfo
from distilrl.errors import FileError, TeacherError
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.teacher import Teacher


@dataclass(frozen=True)
class FamilyTeacher(Teacher):
    """Teachers of a family's members, of which each observation asks one; a plain `Teacher` once it is `fitted`. Of
    real actions it has no critic, so that states are drawn evenly.
    """

    member: str = ""
    """Name of the number of an observation that says which."""
    teachers: Mapping[int, Teacher] = field(default_factory=dict)
    """Of each member."""

    def fitted(self, env: EnvInfo) -> Teacher:
        """These teachers as one, for an environment of the family.

        Raises:
            TeacherError: the spaces are not theirs, or their numbers do not mean the same.
        """
        places = env.obs.places(self.member)
        if any(env.obs.codes[place] for place in places if env.obs.codes):
            raise TeacherError(
                f"'{self.member}' of {env.id} is a choice, each of whose options is read as 0 or 1, so that no number "
                "says which member it is: let the environment show the member's number in a Box."
            )
        if len(places) != 1:
            raise TeacherError(
                f"'{self.member}' of {env.id} has {len(places)} numbers, but a member is one: name one, such as "
                f"{self.member}[0]."
            )
        fitted = {number: teacher.fitted(env) for number, teacher in self.teachers.items()}
        first = next(iter(fitted.values()))
        for other in fitted.values():
            if other.head != first.head:
                raise TeacherError(
                    f"The teachers {first.path} and {other.path} answer in different ways ({first.kind}, "
                    f"{other.kind}): train all members' by one algorithm."
                )
            if other.policy.remembers:
                raise TeacherError(f"The teacher {other.path} has memory, and one of a family must not: use it alone.")
        network = _OfMembers({number: one.network for number, one in fitted.items()}, places[0], self.path)
        params = sum(one.params or 0 for one in fitted.values()) or None
        return Teacher(
            network, first.kind, self.format, self.path, self.digest, self.meta, env.obs.shape, first.outputs, params,
            action=first.action, squash=first.squash, exact=tuple(places),
        )  # fmt: skip


def family(file: TeacherFile, load: Callable[[TeacherFile], Teacher]) -> Teacher:
    """Reads a folder that holds a teacher for each member, named by its number: ``0``, ``1``, ... or ``0.zip``, ...

    Args:
        file: the folder, and the answers that go for each; its normalizer too, or that is a folder of theirs, named
            likewise.
        load: reads one of them.

    Raises:
        FileError: there is no such folder, no teacher in it, two of one member, or not the normalizer of each.
    """
    folder = Path(file.path)
    if not folder.is_dir():
        raise FileError(f"{folder} is no folder: put the teacher of each member in one, named by its number.")
    found, normalizer = _by_number(folder), file.normalizer
    if not found:
        raise FileError(f"{folder} holds no teacher that is named by its member's number, such as {folder / '0'}.")
    normalizers: dict[int, str | None] = dict.fromkeys(found, normalizer)
    if normalizer is not None and Path(normalizer).is_dir():
        own = _by_number(Path(normalizer))
        if lacking := sorted(found.keys() - own.keys()):
            raise FileError(
                f"{normalizer} holds no normalizer of member {lacking[0]}: put it there as {lacking[0]}.pkl."
            )
        normalizers = {number: str(own[number]) for number in found}
    teachers = {
        number: load(replace(file, path=str(found[number]), normalizer=normalizers[number], member=None))
        for number in sorted(found)
    }
    told = "".join(f"{number}:{teacher.digest}" for number, teacher in teachers.items())
    return FamilyTeacher(
        nn.Identity(),
        None,
        f"{len(teachers)} members' teachers, the first {next(iter(teachers.values())).format}",
        str(folder),
        hashlib.sha256(f"{file.member} {told}".encode()).hexdigest(),
        {
            "not_executed": sorted({name for one in teachers.values() for name in one.meta.get("not_executed", [])}),
            **({"normalizer": normalizer} if normalizer is not None else {}),
            "of_members": {str(number): f"{file.member} {teacher.digest}" for number, teacher in teachers.items()},
        },
        member=file.member or "",
        teachers=teachers,
    )


def _by_number(folder: Path) -> dict[int, Path]:
    """What lies in a folder under the number of a member."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if named := re.fullmatch(r"(-?[0-9]+)(\.\w+)?", path.name):
            other = found.setdefault(int(named[1]), path)
            if other != path:
                raise FileError(f"{other} and {path} are both of member {int(named[1])}: leave one of them there.")
    return found


WHOLE = 1e-3
"""How far off a whole number a member may be read: what stands for it is a float."""


class _OfMembers(nn.Module):
    """The numbers of the member's own network, in each row."""

    routes = True
    """Which of its networks compute depends on the observation, so that they have no features in common."""

    def __init__(self, networks: Mapping[int, nn.Module], place: int, path: str) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({str(number): network for number, network in networks.items()})
        self.place, self.path = place, path

    def forward(self, obs: Tensor) -> Tensor:
        told = obs[:, self.place]
        if "0" not in self.networks:  # zeros alone are asked to learn shapes, before any environment has answered
            told = torch.where((obs == 0).all(1), float(min(map(int, self.networks))), told)
        members = told.round().long()
        if bool(((told - members).abs() > WHOLE).any()):
            one = float(told[(told - members).abs().argmax()])
            raise TeacherError(
                f"{self.path} is asked for the teacher of member {one:.4g}, which is no whole number: name the number "
                "of the observation that says which member it is, and show it as it is."
            )
        numbers: Tensor | None = None
        for member in sorted(set(members.tolist())):
            if str(member) not in self.networks:
                raise TeacherError(
                    f"{self.path} has no teacher of member {member}, whom the environment drew: train one, as "
                    f"{Path(self.path) / str(member)}, or let it draw others."
                )
            rows = (members == member).nonzero().flatten()
            own = self.networks[str(member)](obs[rows])
            numbers = torch.zeros(len(obs), own.shape[1], device=obs.device) if numbers is None else numbers
            numbers[rows] = own.float()
        return torch.zeros(0, 0) if numbers is None else numbers
