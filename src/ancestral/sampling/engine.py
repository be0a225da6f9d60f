"""Samples of a chain: seeded example by example, computed in micro-batches, in the faster precision.

Sample i's noise is a function of (seed, i) alone (``randomness.RowNoise``). A network's rows differ in the last
bits between batch shapes, so networks run on micro-batches of one size, the last one padded: the first n of N
samples are equal to the bit for any N, and for another size of micro-batch equal but for rounding.

Only networks compute in another precision or compiled: distributions, coefficients and states stay in fp32 or
better, as in training (``precision``), and a compiled network is the same function up to the order of its sums.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ancestral._internal import checks
from ancestral._internal.allocator import keep_freed_memory
from ancestral._internal.precision import NAMES, autocast, compute_dtype
from ancestral._internal.randomness import RowNoise
from ancestral.core.chain import Chain
from ancestral.models.diffusion.schedules import spread
from ancestral.sampling.samplers import Ancestral, End, Sampler, quick_sampler

PRECISIONS = ("auto", *NAMES)
COMPILES = ("auto", "on", "off")
MANY_CALLS = 3_000
"""Network calls from which on "auto" compiles on a GPU: a compilation takes from twenty seconds to a minute,
and a replayed graph saves some ten milliseconds a call (a guess on the careful side)."""
_GUARDED = 3
"""First compiled calls that may fail: a CUDA graph is captured at the second one."""
MICRO_BATCH = {"cpu": 64, "cuda": 256}
"""Samples that go through the networks at once by default."""

Progress = Callable[[int, int], None]
"""Called with (samples done, samples in all)."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trajectory:
    """States on the way from noise to samples, in the data's units."""

    levels: list[int]
    """The levels kept, from the noise down; the last is 0."""
    states: list[Tensor]
    """At each of them (n, *shape), on the CPU; the last are the samples."""


def draw(
    chain: Chain,
    n: int,
    *,
    sampler: Sampler | None = None,
    final: str = "draw",
    seed: int | None = None,
    condition: Any = None,
    batch_size: int | None = None,
    precision: str = "auto",
    compile: str = "auto",
    progress: Progress = lambda done, total: None,
) -> Tensor:
    """n examples, (n, *shape), in the data's units, on the CPU.

    ``sampler`` is by default the ancestral one over all levels, whose samples with ``final="draw"`` are of the
    model that the ELBO is of. ``final="draw"`` ends with a draw of p(x|z_t) at the last level visited;
    ``final="mean"`` with its mean, of a few-step sampler with the network's prediction of x. ``seed`` decides
    every random number; without one it is drawn from torch's global generator. ``condition`` has n rows, for a
    chain with conditions, which requires it. ``batch_size`` is a micro-batch (default ``MICRO_BATCH``).
    ``precision`` and ``compile`` say how the networks compute (``computing``). ``ValueError`` for options that
    do not fit the chain.
    """
    found = trajectory(
        chain,
        n,
        sampler=sampler,
        final=final,
        frames=1,
        seed=seed,
        condition=condition,
        batch_size=batch_size,
        precision=precision,
        compile=compile,
        progress=progress,
    )
    return found.states[-1]


def trajectory(
    chain: Chain,
    n: int,
    *,
    sampler: Sampler | None = None,
    final: str = "draw",
    frames: int = 10,
    seed: int | None = None,
    condition: Any = None,
    batch_size: int | None = None,
    precision: str = "auto",
    compile: str = "auto",
    progress: Progress = lambda done, total: None,
) -> Trajectory:
    """As ``draw``, with ``frames`` of the states on the way: those of a diffusion model in the data's units."""
    sampler = Ancestral() if sampler is None else sampler
    checks.integer("n", n, low=1)
    checks.integer("frames", frames, low=1)
    checks.one_of("final", final, ("draw", "mean"))
    if condition is None and chain.conditional:
        raise ValueError(
            f"no condition is given and a {type(chain).__name__} has conditions; give n = {n} of them."
        )
    if condition is not None and len(condition) != n:
        raise ValueError(f"there are {len(condition)} conditions for {n} samples; give one for each.")
    size = micro_batch(chain, batch_size)
    seed = int(torch.randint(2**62, ())) if seed is None else seed
    calls = sampler.calls(chain) * math.ceil(n / size)
    kept = spread(sampler.taken(chain) + 1, frames)
    batches: list[list[Tensor]] = []
    levels: list[int] = []
    with computing(chain, calls=calls, precision=precision, compile=compile) as computed:
        for first in range(0, n, size):
            count = min(size, n - first)
            noise = RowNoise(seed, first, size)
            levels, states = [], []
            for index, (t, state) in enumerate(
                sampler.states(computed.chain, size, noise, condition=_rows(condition, first, size))
            ):
                if index in kept or isinstance(state, End):
                    levels.append(t)
                    states.append(_in_data_units(chain, state, final, noise)[:count].cpu())
            batches.append(states)
            progress(first + count, n)
    return Trajectory(levels, [torch.cat(parts) for parts in zip(*batches, strict=True)])


def preview(chain: Chain, n: int, *, seed: int | None = None, condition: Any = None) -> Tensor:
    """n examples for a quick look: means of p(x|z_1), from at most 50 levels of a diffusion model."""
    return draw(chain, n, sampler=quick_sampler(chain), final="mean", seed=seed, condition=condition)


def usual_final(chain: Chain) -> str:
    """How samples end where nothing is chosen: with the mean for images, with a draw for vectors.

    Means of p(x|z_1) have less spread than the data, which a picture hides and a table does not.
    """
    return "mean" if chain.spec.is_image else "draw"


def micro_batch(chain: Chain, batch_size: int | None) -> int:
    """The size of a micro-batch: ``batch_size``, or what suits the chain's device."""
    if batch_size is None:
        return MICRO_BATCH.get(device_of(chain).type, MICRO_BATCH["cuda"])
    checks.integer("batch_size", batch_size, low=1)
    return batch_size


def _in_data_units(chain: Chain, state: Tensor | End, final: str, noise: RowNoise) -> Tensor:
    if isinstance(state, End):
        return state.value(final, noise)
    return chain.denoiser().in_data_units(state) if chain.denoises else state


def _rows(condition: Any, first: int, size: int) -> Any:
    """The conditions of a micro-batch, the last one repeated where it is padded."""
    if condition is None:
        return None
    index = torch.arange(first, first + size).clamp(max=len(condition) - 1)
    return condition[index.to(condition.device)]


@dataclass(frozen=True)
class Computed:
    """A chain whose networks compute as was asked."""

    chain: Chain
    dtype: torch.dtype
    """What the networks compute in."""


@contextlib.contextmanager
def computing(
    chain: Chain,
    *,
    calls: int = 0,
    precision: str = "auto",
    compile: str = "auto",
    backend: str = "inductor",
) -> Iterator[Computed]:
    """Within it, networks compute in the chosen way, without gradients and dropout. Yields the chain to use.

    ``precision`` is "fp32", "bf16" or "auto" (``precision.compute_dtype``). ``compile`` is "on", "off" or
    "auto", which compiles a diffusion model's network on a GPU for at least ``MANY_CALLS`` of the ``calls``
    that are to come; where compiling fails, a warning is logged and sampling continues without. ``backend`` is
    torch.compile's.

    ``ValueError`` for an unknown name, or ``compile="on"`` for a chain that is no diffusion model.
    """
    checks.one_of("precision", precision, PRECISIONS)
    checks.one_of("compile", compile, COMPILES)
    if compile == "on" and not chain.denoises:
        raise ValueError(
            f"compile is on for a {type(chain).__name__}: only a diffusion model's network is called often "
            "enough to be compiled for sampling. Leave it out."
        )
    device = device_of(chain)
    dtype = compute_dtype(precision, device, chain)
    if device.type == "cpu":
        keep_freed_memory()
    was_training = chain.training
    chain.eval()
    try:
        with torch.no_grad(), autocast(dtype, device):
            yield Computed(_compiled(chain, compile, calls, device, backend), dtype)
    finally:
        chain.train(was_training)


def device_of(chain: nn.Module) -> torch.device:
    """Where the chain's weights are; the CPU for one without."""
    tensors = itertools.chain(chain.parameters(), chain.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _compiled(chain: Chain, compile: str, calls: int, device: torch.device, backend: str) -> Chain:
    """The chain, or one that shares all but its network, which is compiled."""
    worth = compile == "on" or (compile == "auto" and device.type == "cuda" and calls >= MANY_CALLS)
    if not (worth and chain.denoises):
        return chain
    network = CompiledNetwork(chain.network, graphs=device.type == "cuda", backend=backend)  # type: ignore[arg-type]
    return chain.with_network(network)  # type: ignore[operator]


class CompiledNetwork(nn.Module):
    """A network of (z, time) as one graph for one size of batch, or the plain one where there is no graph."""

    def __init__(self, network: nn.Module, *, graphs: bool, backend: str = "inductor") -> None:
        super().__init__()
        self.network = network
        self.graphs = graphs and backend == "inductor"
        self.backend = backend
        self.graph: Callable[[Tensor, Tensor], Tensor] | None = None
        self.buffers_: tuple[Tensor, Tensor] | None = None
        self.failed = False
        self.calls = 0
        self.train(network.training)

    def forward(self, z: Tensor, time: Tensor, condition: Any = None) -> Tensor:
        """As the network, z (n, …) and time (n,). With a condition it is not compiled."""
        if self.failed or condition is not None:
            return self._plainly(z, time, condition)
        if self.calls >= _GUARDED:
            return self._replayed(z, time)
        self.calls += 1
        try:
            return self._replayed(z, time)
        except Exception as error:
            self.failed = True
            self.graph = self.buffers_ = None
            # A defect of the network, and not of compiling it, shows itself here once more.
            out = self._plainly(z, time)
            first, *_ = str(error).strip().splitlines() or [type(error).__name__]
            _LOG.warning("the network is not compiled (%s); sampling continues without.", first[:200])
            return out

    def _plainly(self, z: Tensor, time: Tensor, condition: Any = None) -> Tensor:
        out: Tensor = self.network(z, time) if condition is None else self.network(z, time, condition)
        return out

    def _replayed(self, z: Tensor, time: Tensor) -> Tensor:
        """Through buffers of one size and layout, as for others it would compile anew."""
        if self.graph is None:
            self.graph = self._compiled()
        if self.buffers_ is None or z.shape != self.buffers_[0].shape:
            # As zeros_like would not: contiguous, and dense where ``time`` is one number expanded.
            self.buffers_ = (z.new_zeros(z.shape), time.new_zeros(time.shape))
            if self.graphs:
                for buffer in self.buffers_:
                    torch._dynamo.mark_static_address(buffer)
        for buffer, values in zip(self.buffers_, (z, time), strict=True):
            buffer.copy_(values)
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        # A replay writes its result where the last one did.
        return self.graph(*self.buffers_).clone()

    def _compiled(self) -> Callable[[Tensor, Tensor], Tensor]:
        options: dict[str, Any] | None = {"triton.cudagraphs": True} if self.graphs else None
        graph: Callable[[Tensor, Tensor], Tensor] = torch.compile(
            self.network, fullgraph=True, dynamic=False, backend=self.backend, options=options
        )
        return graph
