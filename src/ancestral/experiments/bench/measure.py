"""Training steps timed through ``ancestral.train``, and put beside the machine's ceilings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from ancestral._internal.precision import autocast, name_of
from ancestral._internal.randomness import own_randomness
from ancestral.config import RunConfig, TrainingConfig
from ancestral.core.chain import Chain
from ancestral.data import Dataset
from ancestral.experiments.bench.bound import Floors, arithmetic_floor
from ancestral.experiments.bench.ceilings import Ceilings, synchronize
from ancestral.experiments.bench.host import host_share
from ancestral.experiments.bench.memory import held, parameter_traffic, peak, reset_peak, saved_bytes
from ancestral.experiments.runs import RunDiverged, load_configured
from ancestral.experiments.runs.fitting import initial_chain, resident
from ancestral.training import TrainingDiverged, TrainingState, train
from ancestral.training.flops import Work, training_work
from ancestral.training.objective import objective_of
from ancestral.training.state import training_dtype

_WARM, _PROFILED, _LEAST = 5, 3, 5
"""Steps that are not timed, that are profiled, and that are timed at least."""
_GROUP = 10
"""Steps between two waits for a GPU."""


@dataclass(frozen=True)
class Measured:
    """Training steps of one model, timed."""

    model: str
    parameters: int
    batch_size: int
    precision: str
    """Of the networks: "fp32" or "bf16"."""
    work: Work
    """Of one step."""
    moved: int
    """Bytes that one step must move at the least."""
    seconds: list[float]
    """Of each timed step (on a GPU, the mean of each ten)."""
    floors: Floors
    ceiling: float
    """FLOP/s of a matrix product in this precision."""
    memory: int
    """The most bytes held beyond what was held before the model was built."""

    @property
    def step(self) -> float:
        """Seconds of the median step."""
        return statistics.median(self.seconds)

    @property
    def images_per_second(self) -> float:
        """At the median step."""
        return self.batch_size / self.step

    @property
    def flops_per_second(self) -> float:
        """Achieved, at the median step."""
        return self.work.total / self.step

    @property
    def spread(self) -> tuple[float, float]:
        """Seconds of the quickest and the slowest step but a tenth at each end."""
        ordered = sorted(self.seconds)
        cut = len(ordered) // 10
        return ordered[cut], ordered[-1 - cut]

    def json(self) -> dict[str, Any]:
        """As in the command's JSON."""
        low, high = self.spread
        return {
            "model": self.model,
            "parameters": self.parameters,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "flops_per_image": self.work.total / self.batch_size,
            "least_bytes_per_step": self.moved,
            "timed": len(self.seconds),
            "step_seconds": {"median": self.step, "low": low, "high": high},
            "images_per_second": self.images_per_second,
            "flops_per_second": self.flops_per_second,
            "share_of_products": self.flops_per_second / self.ceiling,
            "share_of_ceiling": self.floors.arithmetic / self.step,
            "peak_memory_bytes": self.memory,
            "bound": self.floors.json(),
        }


def measure_run(config: RunConfig, device: torch.device, ceilings: Ceilings, *, seconds: float) -> Measured:
    """Take steps of the run that ``config`` describes, from fresh weights; nothing is written.

    Warm-up, and the compilation that belongs to it, are not in ``seconds``. Raises as training does.
    """
    data = load_configured(config.data)
    before = held(device)
    reset_peak(device)
    chain = initial_chain(config, data).to(device)
    least = _WARM + _PROFILED + _LEAST
    training = replace(config.training, steps=max(config.training.steps, least))
    state = TrainingState(chain, training)
    steps = train(state, resident(data, device))
    try:
        times = _timed(steps, training.steps - _WARM - _PROFILED, device, seconds=seconds)
        # Of memory that was kept from before, some may be used again.
        memory = max(peak(device) - before, 0)
        host = host_share(lambda: next(steps), device, steps=_PROFILED, call=ceilings.call)
    except TrainingDiverged as diverged:
        raise RunDiverged(diverged, None) from diverged
    finally:
        # Ends the generator, which gives the random state back.
        steps.close()
    work, moved = step_cost(chain, data, training, device)
    precision = name_of(state.dtype)
    step = statistics.median(times)
    floors = Floors(
        step,
        arithmetic=arithmetic_floor(work, ceilings, precision),
        memory=moved / ceilings.bandwidth,
        host=host * step,
    )
    return Measured(
        model=config.model.kind,
        parameters=sum(p.numel() for p in chain.parameters()),
        batch_size=training.batch_size,
        precision=precision,
        work=work,
        moved=moved,
        seconds=times,
        floors=floors,
        ceiling=ceilings.products[precision],
        memory=memory,
    )


def step_cost(
    chain: Chain, data: Dataset, training: TrainingConfig, device: torch.device
) -> tuple[Work, int]:
    """The operations of one training step, and the bytes that it must move at the least.

    Bytes: the parameters' (``parameter_traffic``), and what the step keeps for its backward pass, written
    once and read once. A compiled step may keep less.
    """
    objective = objective_of(chain).to(device)
    dtype = training_dtype(training, chain, objective, device)
    with own_randomness(device):
        x = data.batch(torch.arange(training.batch_size)).to(device)
        chain.train()
        with saved_bytes(chain) as saved, autocast(dtype, device):
            work = training_work(chain, objective, x)
    return work, parameter_traffic(chain, averaged=training.ema > 0) + 2 * saved[0]


def _timed(steps: Iterator[object], most: int, device: torch.device, *, seconds: float) -> list[float]:
    for _ in range(_WARM):
        next(steps)
    group = 1 if device.type == "cpu" else min(_GROUP, most)

    def grouped() -> None:
        for _ in range(group):
            next(steps)

    most //= group
    times = times_of(grouped, device, seconds=seconds, least=min(_LEAST, most), most=most)
    return [taken / group for taken in times]


def times_of(
    call: Callable[[], object], device: torch.device, *, seconds: float, least: int, most: int
) -> list[float]:
    """Seconds of each call, of as many as fit in ``seconds``: at least ``least`` and at most ``most``."""
    times: list[float] = []
    synchronize(device)
    end = time.perf_counter() + seconds
    while len(times) < most and (len(times) < least or time.perf_counter() < end):
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return times
