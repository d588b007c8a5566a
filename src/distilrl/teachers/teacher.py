"""The teacher: a frozen policy and its preprocessing, from raw observations to action values."""

import copy
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from distilrl.envs import EnvInfo
from distilrl.errors import BoundsError, SpecError, TeacherError
from distilrl.heads import Head, Kind, Squash, default_kind, head_for
from distilrl.networks import Network, count_bytes, count_macs
from distilrl.policies import Policy, State
from distilrl.spaces import ActionSpec
from distilrl.teachers.before import BeforeZeros, Called, Newest, Reading, Scaled, bound
from distilrl.teachers.layers import Clamped
from distilrl.teachers.told import told
from distilrl.text import first_line

STAKES_DIRECTIONS, STAKES_RADIUS = 8, 0.3
"""How many directions around the greedy action a critic is asked in, and how far, in half-ranges."""

_WAYS: dict[Kind, str] = {
    "gaussian": (
        "say --kind gaussian where the second half are log standard deviations, export its mean to ONNX where they are "
        "standard deviations or all are parameters of a Beta distribution, or "
    ),
    "logits": "say --kind logits, or --kind q where they are values of choices, or ",
}
"""What a teacher's numbers may be where they are no means."""


@dataclass(frozen=True)
class Teacher:
    """A frozen policy; always in eval mode, never with gradient, never in reduced precision."""

    network: nn.Module
    """Raw observations (B, *obs_shape) to numbers (B, P); its preprocessing is inside."""
    kind: Kind | None
    """What the numbers are: ``q``, ``logits``, ``mean`` or ``gaussian``; None where only the environment can tell
    (`fitted`)."""
    format: str
    """Where it came from, e.g. ``stable-baselines3 DQN 2.9.2``."""
    path: str
    """File or folder that it was read from."""
    digest: str
    """SHA-256 of its file, and of whatever else decides its answers."""
    meta: dict[str, Any] = field(default_factory=dict)
    """What its file said of itself: environment, protocol, returns, objects in it that were not executed."""
    obs_shape: tuple[int, ...] | None = None
    """Shape of one observation; None: any. A `Network` knows its own."""
    outputs: int | None = None
    """Numbers P that it gives; None: whatever the environment asks for. A `Network` knows its own."""
    params: int | None = None
    """Number of parameters; counted where it is not given, None where there is nothing to count."""
    action: ActionSpec | None = None
    """The actions that its file names; None: the environment's (`fitted`)."""
    squash: Squash | None = "clip"
    """How real actions come into their bounds; None where only the user can tell."""
    critic: nn.Module | None = None
    """(observations (B, *obs_shape), actions (B, A) in −1 to 1) to the value (B,) of taking them, where the file brings
    one."""
    reads: tuple[str, ...] = ()
    """Names of the numbers of an observation that it reads; () for all, or where it is `fitted`."""
    scaled: bool = False
    """Its numbers, −1 to 1, stand for the bounds of an action, which are known once it is `fitted`."""
    bounded: bool = False
    """Its numbers end in a tanh, so that it is only to be told what they are where actions have other bounds."""
    any_size: bool = False
    """Its file does not say how large its images are: ``obs_shape`` is one of which its convolutions make as many
    features as its dense layer reads, and the environment's goes where they make as many of that."""
    exact: tuple[int, ...] = ()
    """Places of numbers of an observation that are names and no measurements, such as a member's: no noise falls on
    them."""

    def __post_init__(self) -> None:
        for name in ("network", "critic"):
            object.__setattr__(self, name, _apart(getattr(self, name), self.path))
        for parameter in [*self.network.parameters(), *(self.critic.parameters() if self.critic is not None else ())]:
            parameter.requires_grad_(False)
        if isinstance(self.network, Network):
            self.network.fold()
            object.__setattr__(self, "obs_shape", self.network.spec.obs_shape)
            object.__setattr__(self, "outputs", self.network.spec.outputs)
        if self.params is None:
            object.__setattr__(self, "params", sum(p.numel() for p in self.network.parameters()) or None)
        self.network.eval()
        if self.critic is not None:
            self.critic.eval()

    @classmethod
    def from_callable(
        cls,
        policy: Callable[[Tensor], Any],
        outputs: int | None = None,
        *,
        obs_shape: tuple[int, ...] | None = None,
        kind: Kind | None = None,
        squash: Squash = "clip",
        name: str | None = None,
    ) -> "Teacher":
        """Makes a teacher of a function or a module of yours; a decision rule counts.

        Args:
            policy: takes raw observations, a tensor (B, *obs_shape) as `EnvInfo.obs` describes them, and returns
                numbers (B, P) as ``kind`` says, or the chosen actions as integers counted from 0, (B,) or (B, F);
                tensor or array. It answers each row by that row alone, and the same whenever it is asked: it is asked
                in batches, and about states out of their order. One with memory is an object with ``start(n)``, a tuple
                of tensors whose first dimension is n, and takes (observations, that tuple) to (numbers, the next).
            outputs: numbers P, or None: as many as the environment's actions ask for.
            obs_shape: shape of one observation; None: whatever the environment gives.
            kind: what the numbers are; None: action values where the environment has choices, real actions where it has
                bounds.
            squash: how real actions come into their bounds.
            name: what tells this function from others, so that a run is only resumed with the same: its code and what
                that takes from around it by default, as far as that can be told (of an object its attributes and the
                networks in these). Give one where something there differs from process to process.

        Raises:
            TeacherError: ``outputs`` is no number of numbers.

        Example::

            teacher = Teacher.from_callable(lambda obs: -obs[:, :1], name="P controller")
        """
        if outputs is not None and (not isinstance(outputs, int) or outputs < 1):
            raise TeacherError(f"'outputs' is how many numbers the function gives, got {outputs!r:.60}: leave it out.")
        digest = hashlib.sha256((name or told(policy)).encode())
        if name and isinstance(policy, nn.Module):
            digest.update(told(policy).encode())
        label = str(name or getattr(policy, "__qualname__", type(policy).__name__))
        if isinstance(policy, nn.Module):  # its owner trains, moves and puts it in a mode; frozen, it is copied once
            policy = _copied(policy, label).requires_grad_(False)
        return cls(
            Called(policy),
            kind,
            "Python callable",
            label,
            digest.hexdigest(),
            obs_shape=obs_shape,
            outputs=outputs,
            squash=squash,
        )

    @property
    def name(self) -> str:
        """The network in few words: its spec where it has one."""
        return self.network.spec.describe() if isinstance(self.network, Network) else self.format

    @property
    def plain(self) -> nn.Module:
        """Its network without limits on what it gives: what a student may start from."""
        return self.network.network if isinstance(self.network, Clamped) else self.network

    @property
    def head(self) -> Head:
        """What the numbers mean.

        Raises:
            TeacherError: the file does not say, and the teacher was not `fitted` to its environment yet.
        """
        if self.action is None or self.kind is None:
            raise TeacherError(f"What the numbers of {self.path} mean is known only beside its environment: name it.")
        return head_for(self.action, self.kind, self.squash or "clip")

    def goes_on(self, digest: str, members: Any = None) -> bool:
        """Whether this is the teacher that a run was begun with: its digest is the same, or it is a family that has
        gained members since and changed none of the ``members`` that it had then.
        """
        grown = isinstance(members, dict) and bool(members) and members.items() <= self.members.items()
        return digest == self.digest or grown

    @property
    def members(self) -> dict[str, str]:
        """Digests of a family's teachers, by member; none of others."""
        return dict(self.meta.get("of_members", {}))

    @property
    def in_python(self) -> bool:
        """Whether code of the user's answers: nobody can say all that decides what it does."""
        return any(isinstance(module, Called) for module in self.network.modules())

    @property
    def policy(self) -> Policy:
        """The teacher as a policy that can be played."""
        return Policy(self.network, self.head)

    def size(self) -> dict[str, int | None]:
        """Parameters, bytes and multiply-accumulates; None where they cannot be known."""
        if self.params is None or self.obs_shape is None:
            return {"params": self.params, "bytes": None, "macs": None}
        return {
            "params": self.params,
            "bytes": self._bytes(self.params),
            "macs": _macs(self.network, self.obs_shape),
        }

    def _bytes(self, params: int) -> int:
        """Of its parameters; of what the network holds besides, rows of zeros, no file needs any."""
        held = sum(p.numel() for p in self.network.parameters())
        return count_bytes(self.network) * params // held if held else 4 * params

    def label(self, obs: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Numbers (B, P) in float32 of raw observations (B, *obs_shape), without gradient and what masks make of them,
        and the state after them.
        """
        with torch.no_grad(), torch.autocast(obs.device.type, enabled=False):
            p, state = self.policy.forward(obs, state)
        return self.head.floored(p), state

    def numbers(self, obs: Tensor) -> Tensor:
        """`label` of states out of their order, for a teacher without memory, (B, P)."""
        return self.label(obs)[0]

    def stakes(self, obs: Tensor, p: Tensor) -> Tensor:
        """(B,) how much a small mistake costs in each state.

        The value gap where the numbers are choices; with a critic, how far its value falls around the greedy action:
        Q(s, a) − mean_k Q(s, a + 0.3 ε_k) over fixed Gaussian directions ε_k; 1 where nothing is known.
        """
        if self.critic is None:
            return self.head.stakes(p)
        with torch.no_grad():
            best = self.head.view(p).clamp(-1, 1)
            directions = torch.randn((STAKES_DIRECTIONS, best.shape[1]), generator=torch.Generator().manual_seed(0)).to(
                best.device
            )
            around = torch.cat([torch.zeros_like(directions[:1]), directions]).unsqueeze(1)
            tried = (best + STAKES_RADIUS * around).clamp(-1, 1).flatten(0, 1)
            values: Tensor = self.critic(obs.repeat(len(around), *[1] * (obs.ndim - 1)), tried).view(len(around), -1)
        return (values[0] - values[1:].mean(0)).clamp_min(1e-6)

    def to(self, device: str | torch.device) -> "Teacher":
        """This teacher, with network and critic moved there, in place."""
        for module in (self.network, self.critic):
            if module is not None:
                module.to(device)
        return self

    def before_zeros(self, count: int) -> "Teacher":
        """This teacher for vectors that lack their last ``count`` numbers, which it then reads as zeros.

        Raises:
            TeacherError: it does not read a vector of more numbers than that.
        """
        shape = self.obs_shape
        if shape is not None and (len(shape) != 1 or shape[0] <= count):
            raise TeacherError(
                f"The teacher {self.path} reads observations of shape {shape}, of which the last {count} cannot be "
                "zeros: lower 'zeros', or leave it out."
            )
        critic = self.critic
        return replace(
            self,
            network=BeforeZeros(self.network, count),
            critic=None if critic is None else BeforeZeros(critic, count),
            obs_shape=None if shape is None else (shape[0] - count,),
        )

    def fitted(self, env: EnvInfo) -> "Teacher":
        """This teacher for an environment, what its file left open filled in from the environment's spaces.

        Raises:
            TeacherError: the spaces are not the teacher's; names both.
        """
        if self.reads:
            return self._reading(env)
        self = self._of_size(env)
        self._check_pixels(env)
        if env.atari and self.obs_shape is not None and self.obs_shape[1:] == env.obs.shape[1:]:
            frames = self.obs_shape[0]
            if frames < env.obs.frames and frames != 3:  # a memory stands for those before; three may be colours
                critic = self.critic and Newest(self.critic, frames)
                self = replace(self, network=Newest(self.network, frames), critic=critic, obs_shape=env.obs.shape)
        if self.obs_shape is not None and self.obs_shape != env.obs.shape:
            raise TeacherError(
                f"The teacher {self.path} reads observations of shape {self.obs_shape}, but {env.id} gives "
                f"{env.obs.shape}: {_way_out(self.obs_shape, env, untold=self.format == 'state_dict')}."
            )
        if (places := self._sorted(env)) is not None:
            critic = self.critic and Reading(self.critic, places)
            meta = self.meta | {"observation": _in_order(self.meta["observation"], env)}  # so that it is done once
            self = replace(self, network=Reading(self.network, places), critic=critic, meta=meta)
        usual, squash = default_kind(env.action), self.squash or "clip"
        kind, untold = self.kind or usual, self.squash is None and usual == "mean"
        if untold and kind == "logits":  # so called because of its name, "actor"
            kind = "mean"
        try:
            action = env.action if self.action is None else self.action.within(env.action)
            head = head_for(action, kind, squash)
            if self.outputs not in (None, head.width):
                raise SpecError(f"it gives {self.outputs} numbers")
            ends = head.action.scale() if self.scaled else None
        except BoundsError as error:
            raise TeacherError(f"The teacher {self.path} does not fit {env.id}: {first_line(error)}.") from None
        except SpecError:
            own = (
                self.action.describe()
                if self.action is not None
                else f"{self.outputs or 'some'} numbers ({self.kind or 'of any kind'})"
            )
            guessed = kind == "mean" or (
                self.kind == "logits" and usual == "mean"
            )  # by its name, or by the environment
            ways = [way for other, way in _WAYS.items() if guessed and self._fits(env, other)]
            raise TeacherError(
                f"The teacher {self.path} gives {own}, but {env.id} has {env.action.describe()}: "
                f"{''.join(ways)}choose the environment it was trained in."
            ) from None
        if untold and not self.scaled and not (self.bounded and _stand_for_themselves(head.action)):
            raise TeacherError(
                f"{self.path} does not say how its numbers become an action of {env.id}: say --squash clip where they "
                "are taken as they are, tanh where a tanh brings them into the bounds, or scale where -1 to 1 stand "
                "for the bounds."
            )
        network, meta = bound(self.network, head), self.meta
        if ends is not None:
            network = Scaled(network, *map(torch.from_numpy, ends))
        if self.action is None and head.action.counted_from and self._foreign:
            first = ", ".join(map(str, head.action.counted_from))[:20]
            note = (
                f"Its choices are counted from {first}, as the environment's space says: where it was trained they may "
                "have been counted from 0."
            )
            meta = meta | {"note": f"{meta.get('note', '')} {note}".strip()}
        return replace(
            self, network=network, kind=kind, meta=meta, obs_shape=env.obs.shape, outputs=head.width,
            action=head.action, squash=squash, scaled=False,
        )  # fmt: skip

    def _of_size(self, env: EnvInfo) -> "Teacher":
        """This teacher for images of an environment's size, where its file leaves open how large they are and they fit;
        it says so.
        """
        if not self.any_size or not isinstance(self.network, Network) or self.network.spec.picture is None:
            return self
        own = self.network.spec
        try:
            spec = replace(own, obs_shape=env.obs.shape)
        except SpecError:  # no images, or too small for its convolutions
            return self
        (channels, *usual), (others, *size) = own.obs_shape, env.obs.shape
        if size == usual or others != channels or spec.features != own.features:
            return self
        network = Network(spec)
        network.load_state_dict(self.network.state_dict())
        sides, usual_sides = (" × ".join(map(str, one)) for one in (size, usual))
        note = f"Its file does not say how large its images are: {sides}, as here, fit it as {usual_sides} do."
        return replace(self, network=network, meta=self.meta | {"note": f"{self.meta.get('note', '')} {note}".strip()})

    @property
    def _foreign(self) -> bool:
        """Whether another library wrote its file."""
        return self.meta.get("library") not in (None, "distilrl")

    def _check_pixels(self, env: EnvInfo) -> None:
        """Refuses images of floats where it was trained on bytes, and the other way round, where its file says so.

        Raises:
            TeacherError: they are.
        """
        own, shape = self.meta.get("pixels"), self.obs_shape
        if own is None or shape is None or len(shape) != 3 or not env.obs.pixels or own == env.obs.dtype:
            return
        raise TeacherError(
            f"The teacher {self.path} was trained on images of {own}, but {env.id} gives {env.obs.dtype}: give the "
            "wrapper that it was trained behind, or a function that scales them and calls it (Teacher.from_callable)."
        )

    def _sorted(self, env: EnvInfo) -> tuple[int, ...] | None:
        """Places of the numbers that its Dict's keys name, where an environment's stand in another order.

        Raises:
            TeacherError: they are other keys, or of other sizes.
        """
        parts, names = self.meta.get("observation"), [name.rpartition("[")[0] for name in env.obs.names]
        own = dict(Counter(names))
        if len(own) < 2 and self.meta.get("picture") and self.obs_shape is not None and len(self.obs_shape) == 1:
            raise TeacherError(
                f"The teacher {self.path} reads an image as '{self.meta['picture']}' of a Dict, but {env.id} gives "
                "one row of numbers, in which its pixels stand in another order: choose the environment it was trained "
                "in, without flattening."
            )
        if not isinstance(parts, list) or self.meta.get("library") == "distilrl" or len(own) < 2:
            return None
        if (sum(size for _, size in parts),) != self.obs_shape:  # keys that its file does not print as keys
            return None
        theirs = {key: size for key, size in parts if key in own or not env.obs.image}
        if theirs != own:
            told, has = (", ".join(f"{key} ({size})" for key, size in one.items()) for one in (theirs, own))
            raise TeacherError(
                f"The teacher {self.path} reads {told}, but {env.id} gives {has}: choose the environment it was "
                "trained in, or wrap this one."
            )
        places = [place for key in theirs for place, name in enumerate(names) if name == key]
        places += range(len(names), env.obs.shape[0])  # the image, which is the last in both
        return tuple(places) if places != sorted(places) else None

    def _fits(self, env: EnvInfo, kind: Kind) -> bool:
        """Whether it gives as many numbers as an environment's actions ask for in this kind."""
        try:
            return head_for(env.action, kind).width == self.outputs
        except SpecError:
            return False

    def _places(self, env: EnvInfo) -> tuple[int, ...]:
        """Of the numbers that it reads: where these are its Dict's keys in its own order, of a file of ours in the
        environment's, else in the order in which they were named.

        Raises:
            TeacherError: a key has another size, or a number is named twice.
        """
        own = dict(self.meta.get("observation") or ())
        if len(own) < 2 or set(own) != set(self.reads) or (sum(own.values()),) != self.obs_shape:
            found = [place for text in self.reads for place in env.obs.places(text)]
            if len(set(found)) < len(found):
                raise TeacherError(
                    f"{', '.join(self.reads)} names a number of {env.id} twice, and {self.path} reads each once: name "
                    "it once."
                )
            return tuple(sorted(found) if self.meta.get("library") == "distilrl" else found)
        of_keys = {key: env.obs.places(key) for key in own}
        for key, size in own.items():
            if len(of_keys[key]) != size:
                raise TeacherError(
                    f"The teacher {self.path} reads {size} numbers as {key}, but {env.id} has {len(of_keys[key])}: "
                    "choose the environment it was trained in."
                )
        return tuple(place for places in of_keys.values() for place in places)

    def _reading(self, env: EnvInfo) -> "Teacher":
        """This teacher for an environment of whose observations it reads a part."""
        places = self._places(env)
        if self.obs_shape is not None and self.obs_shape != (len(places),):
            raise TeacherError(
                f"The teacher {self.path} reads observations of shape {self.obs_shape}, but {', '.join(self.reads)} of "
                f"{env.id} has {len(places)} numbers: name what it was trained on."
            )
        network, critic = Reading(self.network, places), self.critic and Reading(self.critic, places)
        meta = {name: value for name, value in self.meta.items() if name != "observation"}  # of which this is a part
        read = replace(self, network=network, critic=critic, obs_shape=env.obs.shape, reads=(), meta=meta)
        return read.fitted(env)


def _in_order(parts: list[list[Any]], env: EnvInfo) -> list[list[Any]]:
    """Keys of a Dict and their sizes, as an environment has them; the image, which is the last in both, stays there."""
    names = list(dict.fromkeys(name.rpartition("[")[0] for name in env.obs.names))
    sizes = dict(parts)
    return [[key, sizes[key]] for key in names] + [[key, size] for key, size in parts if key not in names]


def _macs(network: nn.Module, obs_shape: tuple[int, ...]) -> int | None:
    """Multiply-accumulates of one forward pass of one observation; each weight of a memory is used once in it. None
    where somebody's module does not answer to zeros: no run ends for a count.
    """
    memories = [module for module in network.modules() if isinstance(module, nn.RNNBase)]
    own = sum(p.numel() for memory in memories for p in memory.parameters() if p.ndim == 2)
    try:
        return ((count_macs(network, obs_shape) or 0) + own) or None
    except Exception:
        return None


def _apart(module: Any, path: str) -> Any:
    """A copy of a module that somebody may go on training, which must not be frozen, folded or moved under them."""
    if module is None or not any(parameter.requires_grad for parameter in module.parameters()):
        return module
    return _copied(module, path)


def _copied(module: Any, path: str) -> Any:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever the module keeps beside its weights
        raise TeacherError(
            f"The network of {path} cannot be copied ({type(error).__name__}): give a function that calls it."
        ) from error


def _stand_for_themselves(action: ActionSpec) -> bool:
    """Whether numbers from −1 to 1 can be nothing else than the action: these are its bounds, or it has none."""
    try:
        middle, half = action.scale()
    except BoundsError:
        return True
    return not middle.any() and bool((half == 1).all())


def _way_out(obs_shape: tuple[int, ...], env: EnvInfo, *, untold: bool) -> str:
    """What may bring an environment's observations to a teacher's shape."""
    if env.id == "Ant-v4" and obs_shape == (111,):
        return "give --zeros 84, which is what Ant-v3 gave"
    if env.id.startswith("Ant-v5") and obs_shape == (111,):
        return "give --env-kwargs '{\"include_cfrc_ext_in_observation\": false}' --zeros 84, which is what Ant-v3 gave"
    if env.id.startswith("Humanoid") and obs_shape == (376,):
        return f"name {env.id.replace('v5', 'v4')}, which is what Humanoid-v3 was"
    if env.atari and len(obs_shape) == 3:
        if obs_shape[1:] == env.obs.shape[1:]:
            return (
                "its channels may be colours or frames; if they are the newest frames, give a function that calls it "
                f"on obs[:, -{obs_shape[0]}:] (Teacher.from_callable)"
            )
        return (
            "games of ALE are given so whatever they are made with, so register a function of yours that makes it as "
            "it was trained in, under an id of your own (--env MODULE:ID)"
        )
    if len(obs_shape) == 1 and env.obs.shape == (obs_shape[0] - 1,) and env.obs.image is None:
        return (
            "give --wrapper sb3_contrib.common.wrappers:TimeFeatureWrapper if the time was one number more where it "
            "was trained (RL Zoo's config.yml says so), or choose the environment it was trained in"
        )
    options = _image_options(obs_shape, env)
    if untold and "--resize" in options:  # the shape follows from its tensors alone
        return (
            f"export it to ONNX if its convolutions are padded or pooled, which no state_dict tells; if not, give "
            f"{options}"
        )
    return f"give {options}" if options else "choose the environment it was trained in, or wrap this one"


def _image_options(obs_shape: tuple[int, ...], env: EnvInfo) -> str:
    """Options that make an environment's images of a teacher's shape; empty where none do."""
    if len(obs_shape) != 3 or not env.obs.pixels or env.obs.frames > 1 or env.atari:
        return ""
    (wanted, *size), (channels, *own) = obs_shape, env.obs.shape
    resize = [] if size == own else [f"--resize {size[0]} {size[1]}"]
    if wanted % channels == 0:
        stack = wanted // channels
        return " ".join([*resize, *([f"--stack {stack}"] if stack > 1 else [])])
    return " ".join(["--grey", *resize, *([f"--stack {wanted}"] if wanted > 1 else [])]) if channels == 3 else ""
