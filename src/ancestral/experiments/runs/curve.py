"""The samplers of a trained DDPM beside one another: sample distance against network calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.precision import compute_dtype, name_of
from ancestral.core.chain import Chain
from ancestral.evaluation import Ruler, SamplerCurve, sampler_curve
from ancestral.sampling import SAMPLERS, Sampler, device_of, draw, usual_final

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


def check_few_steps(chain: Chain) -> None:
    """Raise ``ValueError`` unless few-step samplers can draw from the chain: others have one sampler each."""
    if not chain.denoises:
        raise ValueError(
            f"a curve of samplers is for a ddpm, and this is a {type(chain).__name__}, which has no levels "
            "to leave out. Leave it out."
        )


def steps_for(chain: Chain, calls: Sequence[int] = CALLS) -> dict[str, list[int]]:
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
    final: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    precision: str = "auto",
) -> MeasuredCurve:
    """Each sampler of a diffusion model at about as many network ``calls``, measured with one ruler.

    All begin from the same noise, so that points differ by the sampler. The ancestral one is over as many
    of the levels. The other options are those of ``measure_samples``.
    """
    check_few_steps(chain)
    ending = usual_final(chain) if final is None else final

    def drawn(name: str, count: int) -> tuple[Tensor, int]:
        sampler = Sampler.named(name, count)
        samples = draw(
            chain,
            ruler.n,
            sampler=sampler,
            final=ending,
            seed=seed,
            batch_size=batch_size,
            precision=precision,
        )
        return samples, sampler.calls(chain)

    curve = sampler_curve(drawn, ruler, steps=steps_for(chain, calls))
    dtype = compute_dtype(precision, device_of(chain), chain)
    return MeasuredCurve(ending, name_of(dtype), curve)
