"""Bounded replay of labelled states and transitions, on any device, with every random draw from a generator passed in.

Rows are vector steps: row t of N environments holds what was seen, done and answered at step t. Images that stack
frames of time, alone or beside a vector, store each frame once; the stack is rebuilt on sampling, with zeros before the
first frame of an episode, as ALE makes it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from distilrl.devices import doubled
from distilrl.draws import Draws
from distilrl.errors import SpecError
from distilrl.scales import FURTHEST, MOST_COUNTED, of_pixels, scale_of
from distilrl.sensed import Chance, Sensed
from distilrl.sensors import EXACT, Sensors
from distilrl.spaces import ActionSpec, ObsSpec

FLAG_TERMINATED, FLAG_TRUNCATED = 1, 2
MOST_BYTES = 4 << 30
"""A replay holds no more bytes of observations than this, whatever its capacity."""


class Batch(NamedTuple):
    """B sampled transitions."""

    obs: Tensor
    """(B, *obs_shape)."""
    action: Tensor
    """(B, F) int64 or (B, A) float32."""
    reward: Tensor
    """(B,) n-step return, discounted within its n steps."""
    next_obs: Tensor | None
    """(B, *obs_shape), n steps on; None where the objective does not look ahead."""
    terminated: Tensor
    """(B,) bool: the episode terminated within the n steps."""
    labels: Tensor | None
    """(B, P) the teacher's numbers for obs; None where no teacher labels the data."""
    stakes: Tensor
    """(B,) how much a small mistake costs there (`Teacher.stakes`); 1 where no teacher labels the data."""
    next_labels: Tensor | None = None
    """(B, P) the teacher's numbers for next_obs; None where it is, or nobody labels the data."""
    weight: Tensor | None = None
    """(B,) importance weights of TD terms, at most 1; None where transitions were not drawn by priority."""
    steps: int = 1
    """Steps in a row of an episode: B is made of sequences of so many, one after the other."""
    valid: Tensor | None = None
    """(B,) float, 1 where something may be learnt and 0 where a sequence has ended, or its state is not yet what it
    would be; None: everywhere."""
    number: Tensor | None = None
    """(B,) of each step of a sequence, by which a state is known for as long as it is held (`Memories`); None: there
    are no sequences."""
    onward: Tensor | None = None
    """(B,) the number of the state after each step; -1 where its episode, or the sequence, has ended."""
    exact: Tensor | None = None
    """(B, *obs_shape) what is there, where the student sees it otherwise and `ReplaySpec.exact_too` asks for it."""

    def split(self, size: int) -> list["Batch"]:
        """Batches of ``size`` transitions each, in order; B must be a multiple of it, and it one of a sequence."""
        count = len(self.obs) // size
        pieces = [torch.split(part, size) if isinstance(part, Tensor) else [part] * count for part in self]
        return [Batch(*one) for one in zip(*pieces, strict=True)]

    def mean(self, each: Tensor) -> Tensor:
        """The mean of a number per transition (..., B) over those from which something may be learnt, (...)."""
        if self.valid is None:
            return each.mean(-1)
        return (each * self.valid).sum(-1) / self.valid.sum().clamp_min(1.0)


@dataclass(frozen=True)
class ReplaySpec:
    """Shape of a replay."""

    capacity: int
    """States it holds at most; rounded down to whole rows."""
    n_envs: int
    """Environments N."""
    obs: ObsSpec
    """What is observed."""
    action: ActionSpec
    """What is done."""
    labels: int = 0
    """Numbers P of a teacher's label; 0: nobody labels."""
    n_step: int = 0
    """Steps that a transition looks ahead; 0: states only."""
    stakes_exponent: float = 0.0
    """Exponent e of `Replay.draw`; 0: uniform."""
    by_error: bool = False
    """Draw by what `set_priorities` was told last; new rows by the largest of it."""
    history: int = 1
    """Vector observations that `Replay.observations` puts together, the oldest first; before the first of an episode,
    that one again."""
    sequence: int = 1
    """Steps in a row of an episode that are drawn together."""
    burn_in: int = 0
    """First steps of a sequence that are not learnt from, where it does not begin with its episode."""
    sensors: Sensors = EXACT
    """How the student sees what is there."""
    exact_too: bool = False
    """Whether batches also hold what is there: for a teacher's features, which are of that."""

    @property
    def labelled(self) -> bool:
        """Whether a teacher's labels are stored."""
        return self.labels > 0


class Replay:
    """Ring buffer of rows; `add` in time order, `draw` indices by weight, `batch` the rows behind them."""

    def __init__(self, spec: ReplaySpec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.stack = spec.obs.frames
        beside, (first, *others) = spec.obs.vector, spec.obs.shape
        shape = (beside + (first - beside) // self.stack, *others)
        dtype = torch.uint8 if spec.obs.dtype == "uint8" else torch.float32
        held = min(spec.capacity, MOST_BYTES // (math.prod(shape) * dtype.itemsize))
        self._sensed = Sensed(spec.sensors, spec.history, spec.sequence, self.stack, spec.n_step, device)
        latest = self._sensed.latest
        self._behind = max(self.stack + latest, spec.history + latest, spec.burn_in + 1 if spec.sequence > 1 else 1)
        self.rows = max(held // spec.n_envs, self._behind + spec.n_step + spec.sequence)
        grid = (self.rows, spec.n_envs)
        self._obs = torch.zeros((*grid, *shape), dtype=dtype, device=device)
        kind = torch.from_numpy(np.zeros(0, spec.action.numpy)).dtype
        self._action = torch.zeros((*grid, spec.action.size), dtype=kind, device=device)
        self._reward = torch.zeros(grid, device=device)
        self._flags = torch.zeros(grid, dtype=torch.uint8, device=device)
        self._age = torch.zeros(grid, dtype=torch.int64, device=device)
        self._labels = torch.zeros((*grid, spec.labels), device=device)
        self._stakes = torch.zeros(grid, device=device)
        self._labelled = torch.zeros(self.rows, dtype=torch.bool, device=device)
        self._drawable = torch.zeros(self.rows, dtype=torch.bool, device=device)
        self._draws = Draws(*grid)
        self._episode_age = torch.zeros(spec.n_envs, dtype=torch.int64, device=device)
        self._newest = 1.0
        self.added = 0

    def __len__(self) -> int:
        """Number of states held."""
        return self._held * self.spec.n_envs

    @property
    def places(self) -> int:
        """States that it has room for."""
        return self.rows * self.spec.n_envs

    @property
    def _held(self) -> int:
        """Number of rows held."""
        return min(self.added, self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        tensors = (self._obs, self._action, self._reward, self._flags, self._age, self._labels, self._stakes)
        return sum(t.numel() * t.element_size() for t in tensors)

    def add(
        self,
        obs: Tensor,
        action: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        labels: Tensor | None = None,
        stakes: Tensor | None = None,
        *,
        needed: bool = True,
    ) -> None:
        """Adds one row: N observations, what was done there, and what came of it.

        A row without labels in a labelled replay holds its place in time but is never drawn.

        Args:
            obs: (N, *obs_shape).
            action: (N, F) or (N, A).
            reward: (N,).
            terminated: (N,) bool.
            truncated: (N,) bool.
            labels: (N, P) the teacher's numbers for obs.
            stakes: (N,) what a mistake costs there; 1 where it is left out.
            needed: whether a row without labels is not to be drawn.
        """
        row = self.added % self.rows
        beside = self.spec.obs.vector
        frame = self._obs.shape[2] - beside
        self._obs[row, :, :beside] = obs[:, :beside]
        self._obs[row, :, beside:] = obs[:, obs.shape[1] - frame :]
        self._action[row], self._reward[row] = action, reward
        self._flags[row] = terminated.to(torch.uint8) * FLAG_TERMINATED + truncated.to(torch.uint8) * FLAG_TRUNCATED
        self._age[row] = self._episode_age
        if self.spec.labelled and labels is not None:
            self._labels[row] = labels
        self._stakes[row] = 1.0 if stakes is None else stakes
        self._labelled[row] = labels is not None or not self.spec.labelled
        self._drawable[row] = bool(self._labelled[row]) or not needed
        if self.weighted:
            own = self._newest if self.spec.by_error else doubled(self._stakes[row]).pow(self.spec.stakes_exponent)
            self._draws.weigh(row, own)
        self._episode_age = torch.where(terminated | truncated, 0, self._episode_age + 1)
        self.added += 1
        self._update_ready(row)

    def _update_ready(self, row: int) -> None:
        """Marks which rows may be drawn: their stack is whole, and the n steps ahead are known and not cut by a
        limit.
        """
        for ahead in range(self._behind):  # this one, and the oldest: what lies before them was just overwritten
            self._draws.allow((row + ahead) % self.rows, False)
        first = row - self.spec.n_step
        if self.added <= self.spec.n_step:
            return
        usable = torch.ones(self.spec.n_envs, dtype=torch.bool, device=self.device)
        alive = usable.clone()
        for step in range(self.spec.n_step):
            flags = self._flags[(first + step) % self.rows]
            usable &= ~(alive & (flags == FLAG_TRUNCATED))
            alive &= flags == 0
        self._draws.allow(first % self.rows, usable & self._drawable[first % self.rows] & self._drawable[row])

    @property
    def ready(self) -> bool:
        """Whether there is a state to draw."""
        return len(self._draws) > 0

    @property
    def weighted(self) -> bool:
        """Whether some states are drawn more often than others."""
        return self.spec.by_error or self.spec.stakes_exponent > 0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Indices (count,) of states, drawn with replacement; of sequences, states that lie in them.

        With an exponent e > 0, four draws of five have probability proportional to stakes^e (of action values the gap
        between the teacher's best and worst; VIPER samples so with e = 1); the fifth is uniform.

        Raises:
            SpecError: no state is `ready`.
        """
        if not self.ready:
            raise SpecError(
                f"None of the {len(self)} states in the replay may be drawn yet: collect more, or let the teacher "
                "label more steps "
                f"(a transition needs labels at both of its ends, {self.spec.n_step} steps apart)."
            )
        drawn = (self._draws.weighted if self.weighted else self._draws.uniform)(count, generator)
        return drawn.to(self.device)

    def importance_weights(self, index: Tensor) -> Tensor:
        """(1 / probability)^½ of drawn states, scaled to a largest of 1, (B,) (Schaul et al. 2016; ½ as in Dopamine's
        Rainbow).
        """
        weight = self._draws.probabilities(index).rsqrt()
        return (weight / weight.max()).float().to(self.device)

    def set_priorities(self, index: Tensor, errors: Tensor, exponent: float) -> None:
        """From now on states are drawn by (|error| + 0.001)^exponent, both (B,); ``errors`` are TD losses."""
        priority = (doubled(errors).abs() + 1e-3).pow(exponent)
        priority = priority.nan_to_num(nan=1.0, posinf=1.0)  # of what has diverged, as the next check will say
        self._draws.weigh_each(index, priority)
        self._newest = max(self._newest, float(priority.max()))

    @property
    def priorities(self) -> Tensor:
        """(rows, N) and, behind them, a row of what new states get: all that `set_priorities` has done."""
        known = self._draws.weights
        return torch.cat([known, torch.full_like(known[:1], self._newest)])

    @priorities.setter
    def priorities(self, saved: Tensor) -> None:
        self._draws.weigh_all(saved[:-1])
        self._newest = float(saved[-1, 0])

    def observations(self, index: Tensor, late: Tensor | None = None) -> Tensor:
        """Observations (B, *obs_shape) behind flat indices (B,); with a history (B, H · D).

        Args:
            index: of the states.
            late: (B, H) by how many steps each observation of a history is late, the oldest first; None: none is.
        """
        flat = self._obs.view(self.rows * self.spec.n_envs, -1)
        if self.spec.history > 1 or late is not None:
            back = torch.arange(self.spec.history - 1, -1, -1, device=self.device)
            back = torch.minimum(back if late is None else back + late, self._before(index).unsqueeze(1))
        if self.spec.history == 1 and late is not None:
            index = (index - back[:, 0] * self.spec.n_envs) % len(flat)
        if self.spec.history > 1:
            return flat[(index.unsqueeze(1) - back * self.spec.n_envs) % len(flat)].flatten(1)
        if self.stack == 1:
            return flat[index].view(len(index), *self.spec.obs.shape)
        back = torch.arange(self.stack - 1, -1, -1, device=self.device)
        source = (index.unsqueeze(1) - back * self.spec.n_envs) % len(flat)
        stacks = flat.index_select(0, source.view(-1)).view(len(index), self.stack, -1)
        # by number: a mask writes every row to leave most as they are
        before = (back > self._before(index).unsqueeze(1)).view(-1).nonzero().view(-1)
        stacks.view(len(source.view(-1)), -1).index_fill_(0, before, 0)
        if beside := self.spec.obs.vector:
            return torch.cat([stacks[:, -1, :beside], stacks[:, :, beside:].flatten(1)], dim=1)
        return stacks.view(len(index), *self.spec.obs.shape)

    def batch(self, index: Tensor, gamma: float = 1.0, generator: torch.Generator | None = None) -> Batch:
        """The transitions behind flat indices (B,); where sequences are drawn, those of the sequences."""
        valid = number = onward = None
        if self.spec.sequence > 1:
            index, valid, number, onward = self._sequences(index, generator)
        total, n_envs = self.places, self.spec.n_envs
        reward = torch.zeros(len(index), device=self.device)
        terminated = torch.zeros(len(index), dtype=torch.bool, device=self.device)
        rewards, flags = self._reward.view(-1), self._flags.view(-1)
        for step in range(self.spec.n_step):
            at = (index + step * n_envs) % total
            reward += (gamma**step) * rewards[at] * ~terminated
            terminated |= (flags[at] & FLAG_TERMINATED) > 0
        look_ahead, ahead = self.spec.n_step > 0, (index + self.spec.n_step * n_envs) % total
        labels = self._labels.view(total, -1)
        draws = self._sensed.draws(len(index), generator)
        return Batch(
            obs=self._seen(index, draws),
            action=self._action.view(total, -1)[index],
            reward=reward if look_ahead else rewards[index],
            next_obs=self._seen(ahead, draws, self.spec.n_step) if look_ahead else None,
            terminated=terminated,
            labels=labels[index] if self.spec.labelled else None,
            stakes=self._stakes.view(-1)[index],
            next_labels=labels[ahead] if self.spec.labelled and look_ahead else None,
            steps=self.spec.sequence,
            valid=valid,
            number=number,
            onward=onward,
            exact=self.observations(index) if self.spec.exact_too and not self.spec.sensors.exact else None,
        )

    def _seen(self, index: Tensor, draws: Chance, ahead: int = 0) -> Tensor:
        """Observations behind flat indices (B,) as the student senses them, so many steps ``ahead`` of the states that
        the draws are of: late as `Sensed.late` says it, with black frames and noise.
        """
        late, came = self._sensed.late(draws, ahead)
        obs = self.observations(index, late)
        back = 0 if late is None else torch.minimum(late[:, 0], self._before(index))
        obs = self._sensed.flickering(obs, back, draws, ahead)
        return obs if came is None else self._sensed.blurred(obs, self._age.view(-1)[index], came, draws, ahead)

    def _before(self, index: Tensor) -> Tensor:
        """How many steps of its episode before a state are held, (B,)."""
        return torch.minimum(self._age.view(-1)[index], self._place(index))

    def _place(self, index: Tensor) -> Tensor:
        """How many rows before that of a state are held, (B,)."""
        oldest = self.added - self._held
        return (torch.div(index, self.spec.n_envs, rounding_mode="floor") - oldest) % self.rows

    def _sequences(self, index: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The steps of a sequence around each state (W,), from which of them something may be learnt, their numbers and
        those of the states after them, (W · L) each.

        A state lies anywhere behind the burn-in of its sequence, by chance: were it always the last one, states near
        an episode's end would lie in few sequences and hardly be learnt from. Of a sequence that would begin before
        its episode there is what lies in it, all of it learnt from. So each state of an episode is learnt from about
        as often, but for the last ones, down to half as often.
        """
        n_envs, total, length = self.spec.n_envs, self.places, self.spec.sequence
        ages = self._age.view(-1)
        place = torch.randint(self.spec.burn_in, length, index.shape, generator=generator).to(self.device)
        back = torch.minimum(self._before(index), place)
        whole = (back == ages[index]).unsqueeze(1)
        ahead = torch.arange(length, device=self.device)
        first = (index - back * n_envs) % total
        steps = (first.unsqueeze(1) + ahead * n_envs) % total
        held = (self._place(index) - back).unsqueeze(1) + ahead < self._held
        there = held & (ages[steps] == ages[first].unsqueeze(1) + ahead)
        there &= ahead < (length - place + back).unsqueeze(1)
        valid = there & self._draws.allowed(steps) & (whole | (ahead >= self.spec.burn_in))
        begun = (self.added - self._held + self._place(first)) * n_envs + first % n_envs
        number = begun.unsqueeze(1) + ahead * n_envs
        onward = torch.where(there & (self._flags.view(-1)[steps] == 0), number + n_envs, -1)
        return steps.flatten(), valid.flatten().float(), number.flatten(), onward.flatten()

    def standardisation(self) -> tuple[Tensor, Tensor]:
        """Mean of the observations held and the scale of `scale_of`, with the noise through which the student sees
        them: (1,) over all pixels of images, (D,) for vectors, (D + 1,) of both.
        """
        held = self._obs[: self._held].flatten(0, 1)
        if self.spec.obs.pixels:
            return of_pixels(held)
        beside = self.spec.obs.vector
        vector = held[:, :beside]
        std, mean = torch.std_mean(vector, 0)
        noise = self._noise()
        scale = scale_of(mean, torch.hypot(std, noise), (vector - mean).abs().amax(0), self._reach())
        still = self.still()
        mean = torch.where(still.isnan(), mean, still)  # to the bit
        scale[~still.isnan() & (noise > 0)] = 0.0  # it will be forgotten: until then the noise is all that it says
        if beside == held.shape[1]:
            return mean, scale
        image = of_pixels(held[:, beside:])
        return torch.cat([mean, image[0]]), torch.cat([scale, image[1]])

    def still(self) -> Tensor:
        """What numbers of a vector are that were the same in all states, and far from 0, as a pressure in pascals may
        be: (D,), NaN of all others; (0,) of images alone.

        A weight learns nothing of such a number, and would be folded into the bias times all of it, in which floats and
        eight bits lose the rest.
        """
        if self.spec.obs.pixels:
            return torch.zeros(0, device=self.device)
        held = self._obs[: self._held].flatten(0, 1)[:, : self.spec.obs.vector]
        first = held[0].float()
        far = (first.abs() > FURTHEST).nonzero()[:, 0]  # few as a rule: all others need not be looked through
        found = far[(held[:, far] == held[0, far]).all(0)]
        return torch.full_like(first, torch.nan).index_copy(0, found, first[found])

    def scale_of_moves(self) -> Tensor | None:
        """What brings to 1 how far each number moves in a step of an episode, (D,), with the student's noise; None
        where it has no history, or no episode has a second step yet.
        """
        if self.spec.history == 1:
            return None
        held, age = self._obs[: self._held], self._age[: self._held]
        follows = age[1:] == age[:-1] + 1
        follows[(self.added - 1) % self.rows :][:1] = False  # behind the newest lies the oldest
        moved = (held[1:] - held[:-1])[follows]
        if len(moved) == 0:
            return None
        far = (moved.square().mean(0) + 2 * self._noise().square()).sqrt()
        states = held.flatten(0, 1)
        scale = scale_of(states.mean(0), far, moved.abs().amax(0), self._reach())
        # weights for observations are as large, with opposite signs, and what they have in common is lost in floats
        return scale.clamp_max(MOST_COUNTED / states.abs().amax(0).clamp_min(1e-6))

    def _noise(self) -> Tensor:
        """Standard deviations of the noise through which the student sees a vector, (D,)."""
        return torch.tensor(self.spec.sensors.noise or [0.0] * self.spec.obs.vector, device=self.device)

    def _reach(self) -> Tensor:
        """Largest absolute value that the space allows each number of a vector, (D,); infinite where it says none."""
        known = self.spec.obs.reach[: self.spec.obs.vector] or [math.inf]
        return torch.tensor([math.inf if n is None else n for n in known], device=self.device)

    def labels(self, rows: int | None = None) -> Tensor:
        """All labels held, (labelled rows · N, P); with ``rows`` those of the last so many, the newest first."""
        if rows is not None:
            return self._labels.flatten(0, 1)[self.newest(rows, labelled=True)]
        return self._labels[: self._held][self._labelled[: self._held]].flatten(0, 1)

    def newest(self, rows: int, *, labelled: bool) -> Tensor:
        """Indices of the states of the last ``rows`` rows; with ``labelled``, of the last such that the teacher
        labelled.
        """
        order = torch.arange(self.added - 1, self.added - 1 - self._held, -1, device=self.device) % self.rows
        if labelled:
            order = order[self._labelled[order]]
        return (
            order[:rows].unsqueeze(1) * self.spec.n_envs + torch.arange(self.spec.n_envs, device=self.device)
        ).flatten()
