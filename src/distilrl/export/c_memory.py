"""C of what a policy with memory keeps from one step to the next."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distilrl.export.steps import CellStep, Step
from distilrl.spaces import ObsSpec


@dataclass(frozen=True)
class Memory:
    """What a policy keeps from one step to the next."""

    cells: Mapping[str, int]
    """Names and sizes of what its cell keeps."""
    history: int
    """Observations that it sees at once."""
    obs_size: int
    """Numbers in one of them."""

    @classmethod
    def of(cls, steps: Sequence[Step | CellStep], obs: ObsSpec) -> "Memory | None":
        """The memory of a network; None where it has none."""
        cell = next((step for step in steps if isinstance(step, CellStep)), None)
        names = {} if cell is None else {"gru": ("h",), "lstm": ("h", "c")}[cell.kind]
        size = math.prod(obs.shape)
        history = 1 if obs.pixels else math.prod(steps[0].in_shape) // size
        if cell is None and history == 1:
            return None
        return cls(dict.fromkeys(names, cell.out_shape[0]) if cell is not None else {}, history, size)

    @property
    def bytes(self) -> int:
        """Of the structure that holds it."""
        seen = 4 * self.history * self.obs_size + 4 if self.history > 1 else 0
        return 4 * sum(self.cells.values()) + seen

    def declaration(self) -> str:
        """The structure, and the function that begins an episode."""
        members = [f"    float {name}[{size}];\n" for name, size in self.cells.items()]
        if self.history > 1:
            members.append(f"    float seen[{self.history * self.obs_size}]; /* observations, the oldest first */\n")
            members.append("    int32_t begun;\n")
        return (
            f"#define POLICY_STATE_BYTES {self.bytes}\n\n"
            "/* What the policy remembers of an episode; policy_reset comes before its first step. */\n"
            f"typedef struct {{\n{''.join(members)}}} policy_state;\nvoid policy_reset(policy_state *state);\n\n"
        )

    def reset(self) -> str:
        """Body of ``policy_reset`` and its head."""
        lines = [
            f"    for (int i = 0; i < {size}; i++) state->{name}[i] = 0.0f;\n" for name, size in self.cells.items()
        ]
        if self.history > 1:
            lines.append("    state->begun = 0; /* the first observation then stands for those before it */\n")
        return f"\nvoid policy_reset(policy_state *state) {{\n{''.join(lines)}}}\n"

    def seen(self) -> str:
        """Statements that put this observation behind those before it."""
        if self.history == 1:
            return ""
        size, past = self.obs_size, (self.history - 1) * self.obs_size
        # a branch and no condition within the loop, which clang 14 gets wrong in WebAssembly's vectors
        return (
            "    if (!state->begun)\n"
            f"        for (int i = {size}; i < {past + size}; i++) state->seen[i] = obs[i % {size}];\n"
            f"    for (int i = 0; i < {past}; i++) state->seen[i] = state->seen[i + {size}];\n"
            f"    for (int i = 0; i < {size}; i++) state->seen[{past} + i] = obs[i];\n"
            "    state->begun = 1;\n"
        )
