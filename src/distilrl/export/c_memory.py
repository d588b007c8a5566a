"""C of what a policy with memory keeps from one step to the next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from distilrl.export.steps import CellStep, Step
from distilrl.spaces import ObsSpec

BYTES = {"float": 4, "int32_t": 4, "int16_t": 2, "int8_t": 1}
"""Of C's types."""


@dataclass(frozen=True)
class Kinds:
    """C's types of what is kept."""

    h: str = "float"
    """What a cell gave."""
    c: str = "float"
    """An LSTM's cells."""
    seen: str = "float"
    """Numbers of observations."""
    begun: str = "int32_t"
    """Whether there are any."""


FLOATS, INTEGERS = Kinds(), Kinds("int16_t", "int32_t", "int16_t", "int8_t")


@dataclass(frozen=True)
class Memory:
    """What a policy keeps from one step to the next."""

    cells: tuple[str, ...]
    """Names of what its cell keeps."""
    size: int
    """Numbers in each of them."""
    history: int
    """Observations that it sees at once."""
    obs_size: int
    """Numbers in one of them."""
    kinds: Kinds = FLOATS
    """Of what type they are."""

    @classmethod
    def of(cls, steps: Sequence[Step | CellStep], obs: ObsSpec, kinds: Kinds = FLOATS) -> "Memory | None":
        """The memory of a network; None where it has none."""
        cell = next((step for step in steps if isinstance(step, CellStep)), None)
        size = math.prod(obs.shape)
        history = 1 if obs.image is not None else math.prod(steps[0].in_shape) // size
        if cell is None:
            return cls((), 0, history, size, kinds) if history > 1 else None
        return cls({"gru": ("h",), "lstm": ("c", "h")}[cell.kind], cell.size, history, size, kinds)

    def _members(self) -> list[tuple[str, str, int, str]]:
        """Type, name, numbers and a comment of each member of the structure, the widest first."""
        members = [(getattr(self.kinds, name), name, self.size, "") for name in self.cells]
        if self.history > 1:
            told = " /* observations, the oldest first */"
            members.append((self.kinds.seen, "seen", self.history * self.obs_size, told))
            members.append((self.kinds.begun, "begun", 1, ""))
        return members

    @property
    def bytes(self) -> int:
        """Of the structure that holds it."""
        members = self._members()
        widest = max(BYTES[kind] for kind, *_ in members)
        count = sum(BYTES[kind] * size for kind, _, size, _ in members)
        return -(-count // widest) * widest

    def declaration(self) -> str:
        """The structure, and the function that begins an episode."""
        members = [
            f"    {kind} {name}{f'[{size}]' if name != 'begun' else ''};{told}\n"
            for kind, name, size, told in self._members()
        ]
        return (
            f"#define POLICY_STATE_BYTES {self.bytes}\n\n"
            "/* What the policy remembers of an episode; policy_reset comes before its first step. */\n"
            f"typedef struct {{\n{''.join(members)}}} policy_state;\nvoid policy_reset(policy_state *state);\n\n"
        )

    def reset(self) -> str:
        """Body of ``policy_reset`` and its head."""
        lines = [f"    for (int i = 0; i < {self.size}; i++) state->{name}[i] = 0;\n" for name in self.cells]
        if self.history > 1:
            lines.append("    state->begun = 0; /* the first observation then stands for those before it */\n")
        return f"\nvoid policy_reset(policy_state *state) {{\n{''.join(lines)}}}\n"

    def seen(self, obs: str = "obs") -> str:
        """Statements that put this observation behind those before it; ``obs`` is C's name of its numbers."""
        if self.history == 1:
            return ""
        size, past = self.obs_size, (self.history - 1) * self.obs_size
        new = f"{'' if self.kinds == FLOATS else f'({self.kinds.seen})'}{obs}[{{}}]"
        # a branch and no condition within the loop, which clang 14 gets wrong in WebAssembly's vectors
        return (
            "    if (!state->begun)\n"
            f"        for (int i = {size}; i < {past + size}; i++) state->seen[i] = {new.format(f'i % {size}')};\n"
            f"    for (int i = 0; i < {past}; i++) state->seen[i] = state->seen[i + {size}];\n"
            f"    for (int i = 0; i < {size}; i++) state->seen[{past} + i] = {new.format('i')};\n"
            "    state->begun = 1;\n"
        )
