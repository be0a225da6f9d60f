"""The one measurement of a run: its bounds, its samples and their distances, stored in the run's folder.

``report``, ``compare`` and recipes measure with ``measure_run``. ``evaluate`` and ``score`` share the bounds in
the same store; the samples, ODE likelihoods and pictures of ``evaluate`` are computed anew each time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.precision import compute_dtype, name_of
from ancestral.bounds import Bound, Fitting, IwaeBound, elbo_bound
from ancestral.core.chain import Chain
from ancestral.data import Dataset, chosen, content_hash, subset
from ancestral.data.rows import pieces
from ancestral.evaluation import Evaluation, Ruler, bound_gaps
from ancestral.evaluation.evaluation import Tighter, summarised
from ancestral.evaluation.loop import Progress
from ancestral.evaluation.samples.quality import LEAST
from ancestral.evaluation.store import Store, measure
from ancestral.experiments.runs.curve import measure_samplers
from ancestral.experiments.runs.folder import RunFolder
from ancestral.experiments.runs.quality import check_count, measured_samples
from ancestral.sampling import device_of, draw, quick_sampler, usual_final

GAP_EXAMPLES = 16
"""The test examples that q is fitted to, to separate the encoder's share of the ELBO's gap from the family's."""
FITTING = Fitting(steps=200, learning_rate=0.05, samples=2, rounds=1)
"""One round: a comparison must not take minutes for it. Examples that it leaves unconverged are counted."""
CURVE_CALLS = (5, 10, 20)
"""The network calls at which a diffusion model's samplers are compared: some 170 a sample, in all."""
SHOWN = 64
"""Samples in pictures."""
SAMPLE_SEED = 5
_LEAST_SECONDS = 0.5
"""Drawing is timed for at least this long."""


@dataclass(frozen=True)
class Plan:
    """What is measured of a run."""

    n: int | None = 1000
    """How many test examples are evaluated; None for all."""
    levels: int | None = None
    """Random levels per example for a diffusion model's ELBO; None for the default."""
    importance_samples: int = 32
    """Samples per example for log p(x) of a vae or hvae; 0 for none."""
    quality: int = 500
    """How many samples are measured against as many test examples; 0 for none."""
    curve: bool = False
    """Whether the samplers of a diffusion model are compared at several numbers of network calls."""

    def check(self) -> None:
        """Raise ``ValueError`` for numbers that are not allowed."""
        check_count(self.quality)
        checks.integer("importance_samples", self.importance_samples, low=0)

    def bounds(self, chain: Chain) -> list[Bound]:
        """The ELBO and, for a chain that has one, the importance-weighted bound."""
        elbo = elbo_bound(chain, levels=self.levels if chain.single_levels else None)
        # Over the levels of a diffusion model importance weights are useless.
        weighed = self.importance_samples > 0 and not chain.single_levels
        return [elbo, IwaeBound(self.importance_samples)] if weighed else [elbo]


@dataclass(frozen=True, eq=False)
class RunMeasurement:
    """What was measured of a run."""

    evaluation: Evaluation
    """The bounds, with the ELBO of each example."""
    gaps: dict[str, Any] | None
    """Where the ELBO loses (``evaluation.Gaps``); None where q is fixed or there is no tighter bound."""
    samples: Tensor
    """Samples (ending as ``usual_final``) of ``sampling.quick_sampler``, at least ``SHOWN``: (m, *shape)."""
    rate: float
    """Images per second of the ancestral sampler over all levels."""
    distances: list[dict[str, Any]]
    """``MeasuredSamples`` by each ruler."""
    curve: dict[str, Any] | None
    """``MeasuredCurve`` of a diffusion model, where the plan asks for it."""


def rulers_of(data: Dataset, quality: int) -> list[Ruler]:
    """What ``quality`` samples are measured with: features of a classifier where there are labels, and
    principal components always. None where the data are too few or all alike, or ``quality`` is 0."""
    if quality == 0 or Ruler.room(data) < LEAST or _alike(data):
        return []
    first = Ruler.of(data, n=quality)
    if first.space.name == "components":
        return [first]
    return [first, Ruler.of(data, n=quality, features="components")]


def _alike(data: Dataset) -> bool:
    """Whether all training examples are one."""
    first = data.train.x[:1].to("cpu")
    return all(bool((piece == first).all()) for piece in pieces(data.train.x))


def measure_run(
    folder: RunFolder,
    chain: Chain,
    data: Dataset,
    plan: Plan,
    *,
    rulers: Sequence[Ruler] | None = None,
    enough: bool = False,
    progress: Progress = lambda done, total: None,
) -> RunMeasurement:
    """All that ``plan`` names of a run, whose ``chain`` is on its device; ``data`` are the run's.

    What the run's folder has is read; the rest is measured and stored there. With ``enough``, bounds of more
    examples or samples than the plan's do as well. ``rulers`` are ``rulers_of(data, plan.quality)``, where they
    are made already.
    """
    plan.check()
    store = folder.store
    bounds = plan.bounds(chain)
    measured = measure(chain, data.test, bounds, store=store, n=plan.n, enough=enough, progress=progress)
    evaluation = summarised(chain, *measured, total=len(data.test))
    rulers = rulers_of(data, plan.quality) if rulers is None else rulers
    samples, rate = _samples(chain, store, max(SHOWN, *(ruler.n for ruler in rulers), 0))
    return RunMeasurement(
        evaluation,
        _gaps(chain, data, evaluation.tighter, store, progress),
        samples,
        rate,
        _distances(chain, data, samples, rulers, store),
        _curve(chain, data, rulers[0], store) if plan.curve and rulers and chain.denoises else None,
    )


def _samples(chain: Chain, store: Store, n: int) -> tuple[Tensor, float]:
    """n samples or more, and images per second of the ancestral sampler over all levels."""
    sampler = quick_sampler(chain)
    key = {"what": "samples", **_how(chain)}
    stored = store.find(key)
    if stored is not None and stored.facts["n"] >= n and (tensors := stored.tensors()) is not None:
        return tensors["samples"], float(stored.facts["images_per_second"])
    start = time.perf_counter()
    # They are on the host when it returns, and so drawn.
    samples = draw(chain, n, sampler=sampler, final=usual_final(chain), seed=SAMPLE_SEED)
    drawn, seconds = n, time.perf_counter() - start
    if seconds < _LEAST_SECONDS:
        # The first draw warmed up and does not count.
        drawn, start = 0, time.perf_counter()
        while (seconds := time.perf_counter() - start) < _LEAST_SECONDS or not drawn:
            draw(chain, n, sampler=sampler, final=usual_final(chain), seed=SAMPLE_SEED)
            drawn += n
    rate = drawn / seconds * sampler.taken(chain) / chain.T
    store.keep(key, {"n": n, "images_per_second": rate}, {"samples": samples.contiguous()})
    return samples, rate


def _how(chain: Chain) -> dict[str, Any]:
    """Which samples are measured."""
    sampler = quick_sampler(chain)
    dtype = compute_dtype("auto", device_of(chain), chain)
    return {
        "sampler": sampler.name,
        "steps": sampler.taken(chain),
        "final": usual_final(chain),
        "seed": SAMPLE_SEED,
        "precision": name_of(dtype),
    }


def _ruler_key(ruler: Ruler, data: Dataset) -> dict[str, Any]:
    return {"features": ruler.space.name, "n": ruler.n, "data": content_hash(data)}


def _distances(
    chain: Chain, data: Dataset, samples: Tensor, rulers: Sequence[Ruler], store: Store
) -> list[dict[str, Any]]:
    found = []
    for ruler in rulers:
        key = {"what": "distance", **_how(chain), **_ruler_key(ruler, data)}
        stored = store.find(key)
        if stored is None:
            measured = measured_samples(
                chain, samples, ruler, sampler=quick_sampler(chain), final=usual_final(chain)
            )
            store.keep(key, {"distance": measured.json()})
            found.append(measured.json())
        else:
            found.append(stored.facts["distance"])
    return found


def _curve(chain: Chain, data: Dataset, ruler: Ruler, store: Store) -> dict[str, Any]:
    key = {"what": "curve", "calls": list(CURVE_CALLS), **_how(chain), **_ruler_key(ruler, data)}
    stored = store.find(key)
    if stored is not None:
        return dict(stored.facts["curve"])
    found = measure_samplers(chain, ruler, calls=CURVE_CALLS, seed=SAMPLE_SEED).json()
    store.keep(key, {"curve": found})
    return found


def _gaps(
    chain: Chain, data: Dataset, tighter: Tighter | None, store: Store, progress: Progress
) -> dict[str, Any] | None:
    if chain.single_levels or tighter is None or tighter.samples == 1:
        return None
    n = min(GAP_EXAMPLES, tighter.measurement.n)
    key = {
        "what": "gaps",
        "n": n,
        "chosen": chosen(n, len(data.test)),
        "bound": tighter.measurement.estimator,
        "seed": tighter.measurement.seed,
        "fitting": [FITTING.steps, FITTING.learning_rate, FITTING.samples, FITTING.rounds],
        "data": content_hash(data),
    }
    stored = store.find(key)
    if stored is not None:
        return dict(stored.facts["gaps"])
    places = subset(len(data.test), n)
    x = data.test.take(places).x
    # A bound of some examples is of these first.
    whole = tighter.measurement.n == len(data.test)
    tighter = tighter.at(places) if whole else tighter.first(n)
    found = bound_gaps(chain, x, tighter=tighter, fitting=FITTING, progress=progress).json()
    store.keep(key, {"gaps": found})
    return found
