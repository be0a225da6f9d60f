"""The samples of a trained chain, measured: which sampler drew them, and how far they are from the data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ancestral._internal.precision import compute_dtype, name_of
from ancestral.core.chain import Chain
from ancestral.evaluation.samples.quality import LEAST, Quality, Ruler
from ancestral.sampling import Sampler, device_of, draw, quick_sampler, usual_final


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


def measure_samples(
    chain: Chain,
    ruler: Ruler,
    *,
    sampler: Sampler | None = None,
    final: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    precision: str = "auto",
) -> MeasuredSamples:
    """The distance of samples of ``chain``, as many as the ruler has examples, and the sampler it is of.

    ``sampler`` is by default ``sampling.quick_sampler``. ``final`` is as in ``sampling.draw``, by default
    ``usual_final``, as in ``ancestral sample``: with equal seed, sampler and precision these are the same samples.
    "draw" with ``Ancestral()`` gives samples of the model that the ELBO is of. The caller's random state is left
    as it was.
    """
    sampler = quick_sampler(chain) if sampler is None else sampler
    final = usual_final(chain) if final is None else final
    samples = draw(
        chain,
        ruler.n,
        sampler=sampler,
        final=final,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
    )
    return measured_samples(chain, samples, ruler, sampler=sampler, final=final, precision=precision)


def measured_samples(
    chain: Chain, samples: Tensor, ruler: Ruler, *, sampler: Sampler, final: str, precision: str = "auto"
) -> MeasuredSamples:
    """The distance of as many of the ``samples`` as the ruler has examples; ``sampler`` drew them."""
    dtype = compute_dtype(precision, device_of(chain), chain)
    return MeasuredSamples(
        sampler.name,
        sampler.taken(chain),
        sampler.calls(chain),
        in_words(sampler, chain),
        final,
        name_of(dtype),
        ruler.measure(samples[: ruler.n]),
    )


def in_words(sampler: Sampler, chain: Chain) -> str:
    """As "ancestral, 50 of 1000 levels"."""
    steps = sampler.taken(chain)
    if sampler.name == "ancestral":
        return "ancestral, all levels" if steps == chain.T else f"ancestral, {steps} of {chain.T} levels"
    more = "" if sampler.calls(chain) == steps else f" ({sampler.calls(chain)} network calls)"
    return f"{sampler.name}, {steps} steps{more}"
