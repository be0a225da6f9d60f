"""The samples of a trained chain, measured: which sampler drew them, and how far they are from the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ancestral.chain import Chain
from ancestral.diffusion import DDPM
from ancestral.evaluation.bounds import evaluation_mode
from ancestral.evaluation.quality import LEAST, Quality, Ruler, drawn
from ancestral.precision import name_of
from ancestral.samplers import Sampler, batch, computing
from ancestral.samplers.engine import device_of

STEPS = 50
"""The levels a DDPM's samples take by default: as in ``DDPM.preview``, for the cost's sake."""


def check_count(quality: int) -> None:
    """Refuse a number of samples to measure, as an option gives it, that is neither 0 (none) nor enough."""
    if isinstance(quality, bool) or not isinstance(quality, int) or (quality != 0 and quality < LEAST):
        raise ValueError(f"quality is {quality}; it must be 0, for none, or at least {LEAST} samples.")


@dataclass(frozen=True)
class MeasuredSamples:
    """A distance with the sampler it is of."""

    sampler: str
    """Its name."""
    steps: int
    """The steps it took."""
    network_calls: int
    """Network calls (generative steps, for a VAE) computed for one sample."""
    words: str
    """The sampler in words."""
    final: str
    """Whether samples end as the mean of p(x|z_1) or a draw from it."""
    precision: str
    """What the networks computed in: "fp32" or "bf16"."""
    quality: Quality

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "sampler": self.sampler,
            "words": self.words,
            "steps": self.steps,
            "network_calls_per_sample": self.network_calls,
            "final": self.final,
            "precision": self.precision,
            **self.quality.json(),
        }


def default_sampler(chain: Chain) -> Sampler:
    """The ancestral one; a DDPM's over at most ``STEPS`` of its levels."""
    return Sampler(steps=min(chain.T, STEPS)) if isinstance(chain, DDPM) else Sampler()


def measure_samples(
    chain: Chain,
    ruler: Ruler,
    *,
    sampler: Sampler | None = None,
    final: str = "mean",
    seed: int = 0,
    batch_size: int = 256,
    precision: str = "auto",
) -> MeasuredSamples:
    """The distance of samples of ``chain``, as many as the ruler has examples, and the sampler it is of.

    ``sampler`` is ``default_sampler`` when left out. ``final`` is as in ``samplers.draw``: "mean" is what
    ``ancestral sample`` draws unless told otherwise, and with equal seed, sampler, precision and batch size
    these are the same samples; "draw" with ``Sampler()`` gives samples of the model that the ELBO is of. The
    caller's random state is left as it was.
    """
    rest: Any = {"final": final, "seed": seed, "batch_size": batch_size, "precision": precision}
    return measure_samples_by(chain, [ruler], sampler=sampler, **rest)[0]


def measure_samples_by(
    chain: Chain,
    rulers: Sequence[Ruler],
    *,
    sampler: Sampler | None = None,
    final: str = "mean",
    seed: int = 0,
    batch_size: int = 256,
    precision: str = "auto",
) -> list[MeasuredSamples]:
    """As ``measure_samples``, of the same samples by several rulers of one number of examples."""
    ruler = rulers[0]
    sampler = default_sampler(chain) if sampler is None else sampler
    calls = sampler.calls(chain)
    device = device_of(chain)

    def sample(n: int) -> Tensor:
        return batch(chain, n, sampler=sampler, final=final)

    batches = math.ceil(ruler.n / batch_size)
    with evaluation_mode(chain), computing(chain, calls=calls * batches, precision=precision) as dtype:
        samples = drawn(sample, ruler.n, device=device, seed=seed, batch_size=batch_size)
    words = in_words(sampler, chain)
    return [
        MeasuredSamples(
            sampler.name, sampler.taken(chain), calls, words, final, name_of(dtype), ruler.measure(samples)
        )
        for ruler in rulers
    ]


def in_words(sampler: Sampler, chain: Chain) -> str:
    """As "ancestral, 50 of 1000 levels"."""
    steps = sampler.taken(chain)
    if sampler.name == "ancestral":
        return "ancestral, all levels" if steps == chain.T else f"ancestral, {steps} of {chain.T} levels"
    more = "" if sampler.calls(chain) == steps else f" ({sampler.calls(chain)} network calls)"
    return f"{sampler.name}, {steps} steps{more}"
