"""The ELBO of a data set, split into its terms, with error bars; and tighter bounds on log p(x)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.bounds import (
    DRAWS,
    AisBound,
    Annealing,
    Bound,
    Curve,
    ElboBounded,
    Estimate,
    IwaeBound,
    WeightedBounded,
    code_length,
    elbo_bound,
)
from ancestral.bounds.ais import AisBounded
from ancestral.bounds.iwae import IWAE_SAMPLES
from ancestral.core.chain import Chain
from ancestral.core.entrance import Given
from ancestral.data import Examples, Split, chosen
from ancestral.data.raw import Array
from ancestral.evaluation.loop import Measurement, Progress
from ancestral.evaluation.store import Store, measure

BOUNDS = ("elbo", "iwae", "ais")
ALIVE = 0.01
"""Nats of KL per example from which a latent level counts as alive, i.e. as used."""


@dataclass(frozen=True, eq=False)
class Tighter:
    """A bound on log p(x) that is tighter than the ELBO: a measurement of an ``IwaeBound`` or ``AisBound``."""

    measurement: Measurement

    @property
    def found(self) -> WeightedBounded:
        """The bound of each example."""
        assert isinstance(self.measurement.found, WeightedBounded)
        return self.measurement.found

    @property
    def bound(self) -> str:
        """Its name, "iwae" or "ais"."""
        return str(self.measurement.estimator["name"])

    @property
    def samples(self) -> int:
        """From how many samples an example it is."""
        return self.found.samples

    @property
    def curve(self) -> Curve:
        """From 1, 2, 5, … samples up to all."""
        return self.found.curve

    @property
    def annealing(self) -> Annealing | None:
        """How Markov chains were led; None for importance sampling."""
        how = self.measurement.estimator
        return Annealing(how["temperatures"], how["leapfrog"]) if self.bound == AisBound.name else None

    @property
    def acceptance(self) -> Tensor | None:
        """(n,): the share of their moves that were accepted; None for importance sampling."""
        return self.found.acceptance if isinstance(self.found, AisBounded) else None

    @property
    def estimate(self) -> Estimate:
        """The mean over examples of the bound from all samples."""
        return self.found.estimate

    @property
    def above_one(self) -> Estimate:
        """As ``WeightedBounded.above_one``."""
        return self.found.above_one

    @property
    def words(self) -> str:
        """How it was computed, for a person."""
        if self.acceptance is not None:
            return f"{self.measurement.words}, {float(self.acceptance.mean()):.0%} of moves accepted"
        effective = float(self.curve.effective.mean())
        return f"{self.samples} importance samples, effectively {effective:.3g}"

    def first(self, n: int) -> Tighter:
        """Of the first n examples alone."""
        return self.at(np.arange(n))

    def at(self, places: Array) -> Tighter:
        """Of the examples at these places alone, (k,) whole numbers, in that order."""
        return Tighter(replace(self.measurement, found=self.found.at(torch.from_numpy(places))))

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        found = {
            **self.estimate.json(),
            "bound": self.bound,
            "samples": self.samples,
            "effective_samples": Estimate.of(self.curve.effective).mean,
            "above_one_sample": self.above_one.json(),
            "curve": self.curve.json(),
        }
        if self.annealing is not None and self.acceptance is not None:
            found |= {
                "temperatures": self.annealing.temperatures,
                "leapfrog": self.annealing.leapfrog,
                "acceptance": Estimate.of(self.acceptance).mean,
            }
        return found


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` measured, in nats per example unless said otherwise."""

    n: int
    dims: int
    elbo: Estimate
    bits_per_dim: Estimate | None
    """None where p(x|z_1) is a density: it has no code length."""
    reconstruction: float
    matching: float
    prior: float
    matching_per_level: list[float]
    """For t = 2 … T, the KL (or its estimate) of z_{t−1} given z_t."""
    network_calls_per_image: int
    """Generative steps p(z_{t−1}|z_t) computed for one example's ELBO: T for a path or a sweep."""
    tighter: Tighter | None = field(default=None, repr=False)
    """The bound on log p(x) that was computed beside the ELBO."""
    seconds: float = 0.0
    estimator: dict[str, Any] = field(default_factory=dict)
    """How the ELBO was estimated, as in the commands' JSON: its ``name`` is "path", "sweep" or "sampled"."""
    nats: Tensor | None = field(default=None, repr=False)
    """The ELBO of each example, (n,)."""
    seed: int = 0
    """Of the random draws."""
    total: int | None = None
    """How many examples there are, of which n were chosen (``Split.some``)."""
    T: int = 1
    """The chain's number of latent levels."""

    @property
    def log_likelihood(self) -> Estimate | None:
        """The tighter bound on log p(x); None where only the ELBO was asked for."""
        return None if self.tighter is None else self.tighter.estimate

    @property
    def kl_per_latent(self) -> list[float]:
        """The cost of z_1 … z_T, nats: matching terms, then prior matching."""
        return [*self.matching_per_level, self.prior]

    @property
    def alive(self) -> int:
        """How many latent levels cost more than ``ALIVE`` nats, so are used."""
        return sum(cost > ALIVE for cost in self.kl_per_latent)

    def __str__(self) -> str:
        return "\n".join([f"n = {self.n}, D = {self.dims}", *self.lines()])

    def lines(self) -> list[str]:
        """The figures for a person, one a line."""
        lines = [f"  ELBO            {self.elbo:12.4f} nats"]
        if self.bits_per_dim is not None:
            lines.append(f"  bits/dim        {self.bits_per_dim:12.4f}")
        lines += [
            f"  reconstruction  {self.reconstruction:12.4f} nats",
            f"  matching        {self.matching:12.4f} nats" + ("  (T = 1)" if self.T == 1 else ""),
            f"  prior matching  {self.prior:12.4f} nats",
        ]
        if 1 < self.T <= 100:
            kls = "  ".join(f"z_{t} {cost:.3f}" for t, cost in enumerate(self.kl_per_latent, 1))
            lines.append(f"  KL per latent   {kls}   ({self.alive} of {self.T} alive)")
        if self.tighter is not None:
            lines.append(f"  log p(x)     >= {self.tighter.estimate:12.4f} nats ({self.tighter.words})")
        if self.elbo.stderr_estimator is not None:
            lines.append(
                f"  of the draws    ± {self.elbo.stderr_estimator:.4f} nats in the ELBO, given the examples"
            )
        calls = f"{self.network_calls_per_image} generative steps per example"
        pilot = self.estimator.get("pilot_calls")
        calls += f" and {pilot} in a pilot" if pilot else ""
        return [*lines, f"  cost            {calls}, {self.seconds:.1f} s"]

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON, without what names the run."""
        return {
            "n": self.n,
            "dims": self.dims,
            "elbo": self.elbo.json(),
            "bits_per_dim": None if self.bits_per_dim is None else self.bits_per_dim.json(),
            "terms": {
                "reconstruction": self.reconstruction,
                "matching": self.matching,
                "prior": self.prior,
            },
            "matching_per_level": self.matching_per_level,
            "log_likelihood": None if self.tighter is None else self.tighter.json(),
            "network_calls_per_image": self.network_calls_per_image,
            "estimator": self.estimator,
            "seed": self.seed,
            "examples": chosen(self.n, self.n if self.total is None else self.total),
            "seconds": self.seconds,
        }


def evaluate(
    chain: Chain,
    x: Split | Examples | Given,
    *,
    bound: str = "elbo",
    samples: int | None = None,
    levels: int | None = None,
    draws: str | None = None,
    sweep: bool = False,
    annealing: Annealing = Annealing(),  # noqa: B008
    batch_size: int = 500,
    seed: int = 0,
    n: int | None = None,
    store: Store | None = None,
    split: str = "test",
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate ``chain`` on x, (N, *shape), in the data's own values: a tensor, an array, a split or rows.

    By default on all of x, else on ``n`` examples, which ``Split.some`` draws: always the same ones.
    ``ValueError`` or ``TypeError`` for examples of another shape, type or range than the chain's spec, for a chain
    whose distributions do not fit it, and for a mean code length below 0.

    The ELBO and its terms are always there, by default as ``bounds.default_bound`` estimates it. ``bound`` is
    "elbo", with ``samples`` paths (or sweeps) averaged per example; "iwae", which adds the bound on log p(x)
    from the weights of ``samples`` paths (5,000 by default); or "ais", which adds the one from ``samples``
    annealed Markov chains (one by default), led as ``annealing`` says. A chain whose q(z_t|x) is closed-form
    has no "ais", and "iwae" only with ``samples`` given, as each path takes T network calls; in continuous
    time it has neither.

    ``levels`` estimates the sum of matching terms from that many random t per example instead of sweeping
    over all, for chains whose q(z_t|x) is closed-form; ``draws`` says how these are drawn: "uniform",
    "low-discrepancy" or "importance" (see ``bounds.levels``); ``sweep`` sweeps over all levels however many
    there are. From 2 levels on the error of the draws alone is reported as well. The last batch counts like
    the others; the caller's random state is left as it was. With a ``store``, what was measured before of the
    same weights, examples and options is read from it, and what is measured is stored; ``split`` names the
    examples there.
    """
    checks.one_of("bound", bound, BOUNDS)
    if samples is not None:
        checks.integer("samples", samples, low=1)
    if levels is not None:
        checks.integer("levels", levels, low=1)
    if draws is not None:
        checks.one_of("draws", draws, DRAWS)
    tighter = tighter_bound(chain, bound, samples=samples, annealing=annealing)
    elbo = elbo_bound(
        chain, samples=samples if tighter is None else None, levels=levels, draws=draws, sweep=sweep
    )
    bounds: list[Bound] = [elbo] if tighter is None else [elbo, tighter]
    found = measure(
        chain,
        x,
        bounds,
        store=store,
        n=n,
        split=split,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return summarised(chain, found[0], None if tighter is None else found[1], total=len(x))


def tighter_bound(
    chain: Chain,
    bound: str,
    *,
    samples: int | None = None,
    annealing: Annealing = Annealing(),  # noqa: B008
) -> IwaeBound | AisBound | None:
    """The bound beside the ELBO that options name; None for "elbo". ``ValueError`` where the chain has none."""
    checks.one_of("bound", bound, BOUNDS)
    if bound != "ais" and annealing != Annealing():
        raise ValueError(
            f"an annealing is given and bound is {bound}, which has none. Leave it out, or use bound ais."
        )
    if bound == "elbo":
        return None
    found: IwaeBound | AisBound
    found = AisBound(samples or 1, annealing) if bound == "ais" else IwaeBound(samples or IWAE_SAMPLES)
    found.check(chain)
    if samples is None and chain.single_levels:
        raise ValueError(
            f"bound is iwae for a {type(chain).__name__} and samples is not given: each path takes T = {chain.T} "
            f"network calls, and the usual {IWAE_SAMPLES} of them {IWAE_SAMPLES * chain.T} an image. Give a "
            "number of samples, or use bound elbo."
        )
    return found


def summarised(
    chain: Chain, elbo: Measurement, tighter: Measurement | None = None, *, total: int | None = None
) -> Evaluation:
    """The ELBO and its terms over all measured examples, of ``total``, and the bound beside it."""
    found, dims = elbo.found, chain.spec.dims
    assert isinstance(found, ElboBounded)
    if tighter is not None:
        code_length(chain, tighter.found.estimate)
    mean, per_level = found.estimate, found.matching.mean
    return Evaluation(
        n=elbo.n,
        dims=dims,
        elbo=mean,
        bits_per_dim=code_length(chain, mean),
        reconstruction=Estimate.of(found.reconstruction).mean,
        matching=float(per_level.sum()),
        prior=Estimate.of(found.prior).mean,
        matching_per_level=per_level.tolist(),
        network_calls_per_image=elbo.calls,
        tighter=None if tighter is None else Tighter(tighter),
        seconds=elbo.seconds + (0.0 if tighter is None else tighter.seconds),
        estimator=elbo.estimator,
        nats=found.nats,
        seed=elbo.seed,
        total=elbo.n if total is None else total,
        T=chain.T,
    )
