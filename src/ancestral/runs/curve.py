"""The samplers of a trained DDPM beside one another: sample distance against network calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ancestral import checks
from ancestral.chain import Chain
from ancestral.diffusion import DDPM
from ancestral.evaluation import Ruler, SamplerCurve, sampler_curve
from ancestral.evaluation.bounds import evaluation_mode
from ancestral.evaluation.quality import drawn
from ancestral.precision import name_of
from ancestral.samplers import SAMPLERS, Sampler, batch, computing
from ancestral.samplers.engine import device_of

CALLS = (5, 10, 20, 50)
"""The network calls that samplers are compared at."""


@dataclass(frozen=True)
class MeasuredCurve:
    """A curve with how its samples ended, and what the network computed in."""

    final: str
    precision: str
    curve: SamplerCurve

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {"final": self.final, "precision": self.precision, **self.curve.json()}


def check_ddpm(chain: Chain) -> DDPM:
    """The chain, if it is a DDPM: the others have one sampler each."""
    if not isinstance(chain, DDPM):
        raise ValueError(
            f"a curve of samplers is for a ddpm, and this is a {type(chain).__name__}, which has no levels "
            "to leave out. Leave it out."
        )
    return chain


def steps_for(chain: DDPM, calls: Sequence[int] = CALLS) -> dict[str, list[int]]:
    """The steps of each sampler that take about as many network ``calls``, at most T of them.

    Heun takes two calls in each step but the last, so it gets one call less where that number is even.
    """
    for count in calls:
        checks.integer("calls", count, low=1)
    taken = sorted({min(count, chain.T) for count in calls})
    heun = sorted({(count + 1) // 2 for count in taken})
    return {name: heun if name == "heun" else taken for name in SAMPLERS}


def measure_samplers(
    chain: Chain,
    ruler: Ruler,
    *,
    calls: Sequence[int] = CALLS,
    final: str = "mean",
    seed: int = 0,
    batch_size: int = 256,
    precision: str = "auto",
) -> MeasuredCurve:
    """Each sampler of a DDPM at about as many network ``calls``, its samples measured with one ruler.

    All begin from the same noise, so that points differ by the sampler. The ancestral one is over as many
    of the levels. The other options are those of ``measure_samples``.
    """
    ddpm = check_ddpm(chain)
    steps, device = steps_for(ddpm, calls), device_of(ddpm)

    def draw(name: str, count: int) -> tuple[Tensor, int]:
        sampler = Sampler(name, count)

        def sample(n: int) -> Tensor:
            return batch(ddpm, n, sampler=sampler, final=final)

        samples = drawn(sample, ruler.n, device=device, seed=seed, batch_size=batch_size)
        return samples, sampler.calls(ddpm)

    every = sum(Sampler(name, count).calls(ddpm) for name, counts in steps.items() for count in counts)
    every *= math.ceil(ruler.n / batch_size)
    with evaluation_mode(ddpm), computing(ddpm, calls=every, precision=precision) as dtype:
        curve = sampler_curve(draw, ruler, steps=steps)
    return MeasuredCurve(final, name_of(dtype), curve)
