"""What a comparison is going to do, and about how long each part takes on this machine."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ancestral._internal.randomness import own_randomness
from ancestral.bounds import Bound, PathBound
from ancestral.config import RunConfig
from ancestral.core.chain import Chain
from ancestral.data import Dataset
from ancestral.evaluation import Ruler
from ancestral.evaluation.loop import bounded, evaluation_mode
from ancestral.experiments.runs.fitting import initial_chain
from ancestral.experiments.runs.measuring import CURVE_CALLS, FITTING, GAP_EXAMPLES, SHOWN, Plan
from ancestral.sampling import SAMPLERS, draw, quick_sampler
from ancestral.sampling.engine import computing, micro_batch
from ancestral.training import TrainingState, train

_STEPS = 2
"""Training steps that are timed, after one that warms up."""
_PROBED = 32
"""Examples whose ELBO is timed."""


@dataclass(frozen=True)
class Stage:
    """A part of a comparison."""

    model: str
    what: str
    seconds: float
    """An estimate from a few steps and calls timed on this machine."""


def planned_stages(
    runs: Sequence[RunConfig],
    data: Dataset,
    plan: Plan,
    rulers: Sequence[Ruler],
    device: torch.device,
    *,
    seeds: int = 1,
) -> list[Stage]:
    """The stages of a comparison of these runs, in their order, from a few timed steps and network calls.

    Nothing is written, and the caller's random state is left as it was.
    """
    stages: list[Stage] = []
    for run in runs:
        chain = initial_chain(run, data).to(device)
        with own_randomness(device):
            step = _seconds_per_step(chain, data, run, device)
            kind = run.model.kind
            stages.append(Stage(kind, f"train {run.training.steps} steps", seeds * step * run.training.steps))
            evaluation = _evaluation(chain, data, plan)
            stages.append(Stage(kind, "evaluate", evaluation))
            stages.append(Stage(kind, "sample and measure samples", _sampling(chain, plan, rulers)))
    return stages


def _seconds_per_step(chain: Chain, data: Dataset, run: RunConfig, device: torch.device) -> float:
    # A copy, as a chain in training shares memory with its optimiser; never compiled, which takes a minute.
    training = replace(run.training, compile="off", steps=max(run.training.steps, _STEPS + 1))
    steps = train(TrainingState(copy.deepcopy(chain), training), data, note=lambda text: None)
    next(steps)
    start = time.perf_counter()
    taken = sum(1 for _ in zip(range(_STEPS), steps, strict=False))
    steps.close()
    return (time.perf_counter() - start) / max(taken, 1)


def _evaluation(chain: Chain, data: Dataset, plan: Plan) -> float:
    """Seconds of all bounds: from the time of one path of a few examples, or of one network call."""
    n = len(data.test) if plan.n is None else min(plan.n, len(data.test))
    bounds: list[Bound] = plan.bounds(chain)
    if chain.denoises:
        size = min(_PROBED, n)
        call = _timed(lambda: _one_call(chain, size))
        return sum(bound.calls(chain) for bound in bounds) * call * n / size
    x = data.test.some(_PROBED).x
    samples = 4
    bound = PathBound(samples)
    seconds = _timed(lambda: bounded(chain, x, [bound])) / (samples * len(x))
    paths = sum(bound.calls(chain) for bound in bounds) / chain.T * n
    if len(bounds) > 1:
        # A step of a fit is a path with its gradient, about three times as long as without.
        paths += 3 * GAP_EXAMPLES * FITTING.steps * FITTING.samples
    return seconds * paths


def _sampling(chain: Chain, plan: Plan, rulers: Sequence[Ruler]) -> float:
    """Seconds of all samples, from the time of one micro-batch or one network call."""
    n = max(SHOWN, *(ruler.n for ruler in rulers), 0)
    size = micro_batch(chain, None)
    batches = math.ceil(n / size)
    if not chain.denoises:
        return batches * _timed(lambda: draw(chain, size, final="mean", seed=0))
    calls = quick_sampler(chain).calls(chain)
    if plan.curve and rulers:
        taken = [min(count, chain.T) for count in CURVE_CALLS]
        # Each sampler takes about as many calls, whatever its steps are.
        calls += len(SAMPLERS) * sum(taken)
    # In the precision of sampling, which may be twice as fast as that of bounds.
    with computing(chain) as computed:
        return batches * calls * _timed(lambda: _one_call(computed.chain, size))


@torch.no_grad()
def _one_call(chain: Chain, n: int) -> None:
    with evaluation_mode(chain):
        denoise = chain.denoiser()
        denoise(denoise.top(n).sample(), denoise.level(1))


def _timed(call: Callable[[], object]) -> float:
    """Seconds of a call, after one that warms up."""
    call()
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
