"""How networks are computed while sampling: in the faster precision, and compiled where that pays.

It is the networks only: laws, coefficients and states stay in fp32 or better, as in training (``precision``),
and a compiled network is the same function up to the order of its sums.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ancestral import checks
from ancestral.allocator import keep_freed_memory
from ancestral.chain import Chain
from ancestral.diffusion import DDPM
from ancestral.precision import NAMES, autocast, compute_dtype

PRECISIONS = ("auto", *NAMES)
COMPILES = ("auto", "on", "off")
MANY_CALLS = 3_000
"""Network calls from which on "auto" compiles on a GPU: a compilation takes from twenty seconds to a minute,
and a replayed graph saves some ten milliseconds a call (not measured here: a guess on the careful side)."""


@contextlib.contextmanager
def computing(
    chain: Chain,
    *,
    calls: int = 0,
    precision: str = "auto",
    compile: str = "auto",
    backend: str = "inductor",
) -> Iterator[torch.dtype]:
    """Within it, the chain's networks compute in the chosen way, without gradients. Yields their dtype.

    ``precision`` is "fp32", "bf16" or "auto" (``precision.compute_dtype``). ``compile`` is "on", "off" or
    "auto", which compiles a DDPM's network on a GPU for at least ``MANY_CALLS`` of the ``calls`` that are to
    come; where compiling fails, a note on standard error says so and sampling goes on without. Batches that
    are smaller than the first one are filled up to its size, so that one compilation serves all: the network
    is taken to treat each example by itself. ``backend`` is torch.compile's.

    ``ValueError`` for an unknown name, or ``compile="on"`` for a chain that is not a DDPM.
    """
    checks.one_of("precision", precision, PRECISIONS)
    checks.one_of("compile", compile, COMPILES)
    if compile == "on" and not isinstance(chain, DDPM):
        raise ValueError(
            f"compile is on for a {type(chain).__name__}: only a DDPM's network is called often enough to "
            "be compiled for sampling. Leave it out."
        )
    device = device_of(chain)
    dtype = compute_dtype(precision, device, chain)
    if device.type == "cpu":
        keep_freed_memory()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(autocast(dtype, device))
        if isinstance(chain, DDPM) and _worth_compiling(compile, calls, device):
            stack.enter_context(_compiled(chain.network, device, backend))
        yield dtype


def device_of(chain: nn.Module) -> torch.device:
    """Where the chain's weights are; the CPU for one without."""
    tensors = itertools.chain(chain.parameters(), chain.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def _worth_compiling(compile: str, calls: int, device: torch.device) -> bool:
    return compile == "on" or (compile == "auto" and device.type == "cuda" and calls >= MANY_CALLS)


@contextlib.contextmanager
def _compiled(network: nn.Module, device: torch.device, backend: str) -> Iterator[None]:
    """The network with its forward compiled; afterwards it is what it was."""
    # An attribute of the instance stands before the class's method, and its hooks are called as before.
    before = vars(network).get("forward")
    network.forward = _Forward(network, graphs=device.type == "cuda", backend=backend)
    try:
        yield
    finally:
        if before is None:
            del network.forward
        else:
            network.forward = before


class _Forward:
    """A network's forward as one graph for one size of batch, or the plain one where there is no graph."""

    def __init__(self, network: nn.Module, *, graphs: bool, backend: str) -> None:
        self.plain = network.forward
        self.graphs = graphs and backend == "inductor"
        self.backend = backend
        self.graph: Callable[[Tensor, Tensor], Tensor] | None = None
        self.buffers: tuple[Tensor, Tensor] | None = None
        self.failed = False

    def __call__(self, z: Tensor, time: Tensor) -> Tensor:
        """As the network's own, z (n, …) and time (n,)."""
        if self.failed:
            return self._plainly(z, time)
        if self.buffers is not None:
            return self._replayed(z, time)
        try:
            return self._replayed(z, time)
        except Exception as error:
            self.failed = True
            # A defect of the network, and not of compiling it, shows itself here once more.
            out = self._plainly(z, time)
            first, *_ = str(error).strip().splitlines() or [type(error).__name__]
            print(f"the network is not compiled ({first[:200]}); sampling goes on without.", file=sys.stderr)
            return out

    def _plainly(self, z: Tensor, time: Tensor) -> Tensor:
        out: Tensor = self.plain(z, time)
        return out

    def _replayed(self, z: Tensor, time: Tensor) -> Tensor:
        """Through buffers of one size and layout, as for others it would compile anew."""
        if self.graph is None:
            self.graph = self._compiled()
        if self.buffers is None or len(z) > len(self.buffers[0]):
            # As zeros_like would not: contiguous, and dense where ``time`` is one number expanded.
            self.buffers = (z.new_zeros(z.shape), time.new_zeros(time.shape))
        for buffer, values in zip(self.buffers, (z, time), strict=True):
            buffer[: len(z)] = values
        if self.graphs:
            torch.compiler.cudagraph_mark_step_begin()
        # A replay writes its result where the last one did.
        return self.graph(*self.buffers)[: len(z)].clone()

    def _compiled(self) -> Callable[[Tensor, Tensor], Tensor]:
        options: dict[str, Any] | None = {"triton.cudagraphs": True} if self.graphs else None
        graph: Callable[[Tensor, Tensor], Tensor] = torch.compile(
            self.plain, fullgraph=True, dynamic=False, backend=self.backend, options=options
        )
        return graph
