"""What bounds a step: three floors that no change of the rest can get below, and the largest of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ancestral.experiments.bench.ceilings import Ceilings
from ancestral.training.flops import Work

Bound = Literal["arithmetic", "memory", "host"]


@dataclass(frozen=True)
class Floors:
    """Seconds that one step takes, and how many of them each of three things would take alone."""

    step: float
    arithmetic: float
    """Its products and convolutions at the machine's measured rates."""
    memory: float
    """The bytes it must move at the measured bandwidth."""
    host: float
    """Outside of operations: Python, and calling them; on a GPU, the time without a kernel."""

    @property
    def bound(self) -> Bound:
        """The largest of the three."""
        floors: dict[Bound, float] = {"arithmetic": self.arithmetic, "memory": self.memory, "host": self.host}
        return max(floors, key=floors.__getitem__)

    @property
    def share(self) -> float:
        """The largest floor as a share of the step. What is left went to operations below their ceiling."""
        return max(self.arithmetic, self.memory, self.host) / self.step

    def sentence(self) -> str:
        """The verdict in words."""
        words: dict[Bound, str] = {
            "arithmetic": "arithmetic: at the machine's measured rates it alone would take",
            "memory": "memory: at the measured bandwidth what must be moved would take",
            "host": "the host: Python and the calling of operations take",
        }
        return f"Bound by {words[self.bound]} {self.share:.0%} of the step."

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "by": self.bound,
            "share": self.share,
            "arithmetic_seconds": self.arithmetic,
            "memory_seconds": self.memory,
            "host_seconds": self.host,
        }


def arithmetic_floor(work: Work, ceilings: Ceilings, precision: str) -> float:
    """Seconds of ``work`` at the measured rates of ``precision``, "fp32" or "bf16"."""
    return (
        work.products / ceilings.products[precision]
        + work.convolutions / ceilings.convolution_steps[precision]
    )
