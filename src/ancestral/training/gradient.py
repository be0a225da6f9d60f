"""The loss of a batch and its gradient, step by step or compiled into one graph.

Compiled, the draws of t and noise, the networks, the distributions and the backward pass are one function
of (weights, x) that writes the gradient where the optimiser reads it; on a GPU it is replayed as a CUDA
graph. With gradient checkpointing, which such a function cannot hold, the loss alone is compiled and its
backward pass follows. Either draws the same random numbers as the plain step.

Compiling takes from seconds to minutes, so "auto" does it for runs that are long enough to win that
back, and says when it could not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ancestral._internal.precision import autocast
from ancestral._internal.randomness import own_randomness
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.objectives import Loss, Objective
from ancestral.training.flat import views
from ancestral.training.flops import training_work
from ancestral.training.state import TrainingState

Note = Callable[[str], None]
"""Called with a sentence for the user."""

_RATE = {"cpu": 1.5e11, "cuda": 5e13}
"""FLOP/s that a plain step is taken to reach: constants, so that whether to compile is the same each time."""
_PER_STEP = {"cpu": 2e-3, "cuda": 5e-3}
"""Seconds of a plain step that are not arithmetic."""
_LONG = {"cpu": 120.0, "cuda": 180.0}
"""Seconds from which on a run is long enough to compile for."""
_FEWEST = 200
"""Steps below which no run is compiled."""
_COUNTED = 8
"""Examples on which the arithmetic of a step is counted."""
_GUARDED = 3
"""First compiled steps that may fail: a CUDA graph is captured at the second one."""
_DECOMPOSED = "cpp.use_decompose_tanh"

Parts = tuple[Tensor, Tensor | None, Tensor | None]
"""A batch's examples, labels and mask."""
Compiled = tuple[Tensor, list[str], dict[str, Tensor]]
"""The loss and its terms, (1 + terms,), the terms' names, and what the objective is to observe."""


class Gradient:
    """Computes the loss of a batch and leaves its gradient, per dimension, in the state's buckets."""

    def __init__(self, state: TrainingState, *, note: Note) -> None:
        self.state = state
        self.note = note
        self._compiled: Callable[[Batch], Compiled] | None = None
        self._calls = 0
        """Compiled steps that were guarded."""

    def __call__(self, batch: Batch) -> Loss:
        """The loss of a batch, with everything detached."""
        if self.state.compiled is None:
            self.state.compiled = self._worth_compiling(batch)
        with autocast(self.state.dtype, self.state.device):
            loss = self._computed(batch)
        if loss.seen:
            self.state.objective.observe(loss.seen)
        return loss

    def _computed(self, batch: Batch) -> Loss:
        if not self.state.compiled:
            return self._plain(batch)
        if self._calls >= _GUARDED:
            return self._replayed(batch)
        self._calls += 1
        return self._guarded(batch)

    def _plain(self, batch: Batch) -> Loss:
        loss = self.state.objective.loss(self.state.chain, batch)
        for bucket in self.state.buckets:
            bucket.gradient.zero_()
        # Per dimension, so that one clip and one rate suit data of any size.
        (loss.value / self.state.chain.spec.dims).backward()
        return Loss(loss.value.detach(), loss.terms, loss.seen)

    def _guarded(self, batch: Batch) -> Loss:
        """Compile, or report that it cannot be done and continue without."""
        before = _random_state(self.state.device)
        recomputed = self.state.config.recompute
        if self._compiled is None:
            self._compiled = _compiled_loss(self.state) if recomputed else _compiled(self.state)
        try:
            return self._replayed(batch)
        except Exception as error:
            _set_random_state(before, self.state.device)
            self._compiled = None
            self.state.compiled = False
            # A defect of the chain, and not of compiling it, shows itself here once more.
            loss = self._plain(batch)
            first, *_ = str(error).strip().splitlines() or [type(error).__name__]
            self.note(f"steps are not compiled ({first[:200]}); training continues without.")
            return loss

    def _replayed(self, batch: Batch) -> Loss:
        assert self._compiled is not None
        values, names, seen = self._compiled(batch)
        return Loss(values[0], dict(zip(names, values[1:], strict=True)), seen)

    def _worth_compiling(self, batch: Batch) -> bool:
        config, kind = self.state.config, self.state.device.type
        if config.compile != "auto" or kind not in _LONG:
            return config.compile == "on"
        # On a CPU convolutions are most of a network's time and nearly the same in a graph.
        convolved = any(isinstance(module, nn.Conv2d) for module in self.state.chain.modules())
        if config.steps < _FEWEST or (kind == "cpu" and convolved):
            return False
        seconds = _PER_STEP[kind]
        left = _LONG[kind] / config.steps
        if seconds < left:
            counted = batch.first(_COUNTED)
            with own_randomness(self.state.device), autocast(self.state.dtype, self.state.device):
                flops = training_work(self.state.chain, self.state.objective, counted).total / len(counted)
            seconds += flops * config.batch_size / _RATE[kind]
        return seconds >= left


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """The states of the generators that a step draws from."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    cpu, cuda = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda, device)


class _LossOf(nn.Module):
    """A chain and its objective as one function of a batch's parts, which can be called with other weights."""

    def __init__(self, chain: Chain, objective: Objective) -> None:
        super().__init__()
        self.chain = chain
        self.objective = objective

    def forward(self, *parts: Tensor | None) -> tuple[Tensor, Loss]:
        loss = self.objective.loss(self.chain, Batch(*parts))  # type: ignore[arg-type]
        return loss.value / self.chain.spec.dims, loss


def _compiled(state: TrainingState) -> Callable[[Batch], Compiled]:
    """One compiled graph."""
    module, buckets = _LossOf(state.chain, state.objective), state.buckets
    names: list[str] = []

    def loss_of(weights: dict[str, Tensor], given: Parts) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        scaled, loss = torch.func.functional_call(module, weights, given)
        names[:] = loss.terms
        return scaled, (_reported(loss), loss.seen)

    def step(
        weights: list[Tensor], gradients: list[Tensor], given: Parts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        named = {f"chain.{name}": view for name, view in views(buckets, weights).items()}
        gradient, (_, (reported, seen)) = torch.func.grad_and_value(loss_of, has_aux=True)(named, given)
        plain = {name.removeprefix("chain."): value for name, value in gradient.items()}
        for bucket, out in zip(buckets, gradients, strict=True):
            out.copy_(bucket.flattened(plain))
        return reported, seen

    graphs = state.device.type == "cuda"
    compiled = torch.compile(step, fullgraph=True, dynamic=False, options=_options(state))
    weights = [bucket.weight.detach() for bucket in buckets]
    gradients = [bucket.gradient for bucket in buckets]
    if graphs:
        # Replayed graphs read and write these where they are, without copying them in.
        for tensor in (*weights, *gradients):
            torch._dynamo.mark_static_address(tensor)

    def call(batch: Batch) -> Compiled:
        with torch.no_grad():
            if graphs:
                torch.compiler.cudagraph_mark_step_begin()
            values, seen = compiled(weights, gradients, (batch.x, batch.y, batch.mask))
            if graphs:
                # A replay writes its results where the last one did.
                values, seen = values.clone(), {name: value.clone() for name, value in seen.items()}
            return values, names, seen

    return call


def _compiled_loss(state: TrainingState) -> Callable[[Batch], Compiled]:
    """As ``_compiled``, with separate graphs for the forward and the backward pass."""
    module = _LossOf(state.chain, state.objective)
    compiled = torch.compile(module, fullgraph=True, dynamic=False, options=_options(state))

    def call(batch: Batch) -> Compiled:
        scaled, loss = compiled(batch.x, batch.y, batch.mask)
        # A replayed graph writes its results where the last one did, and these are copies of them.
        values, seen = _reported(loss), {name: value.clone() for name, value in loss.seen.items()}
        for bucket in state.buckets:
            bucket.gradient.zero_()
        scaled.backward()
        return values, list(loss.terms), seen

    return call


def _reported(loss: Loss) -> Tensor:
    """The loss and its terms, (1 + terms,)."""
    return torch.stack([loss.value.detach(), *(term.detach().to(loss.value) for term in loss.terms.values())])


def _options(state: TrainingState) -> dict[str, Any]:
    # The same random numbers as without compiling, so that a run can be checked against the plain one.
    options: dict[str, Any] = {"fallback_random": True}
    if state.device.type == "cuda":
        options["triton.cudagraphs"] = True
    elif state.dtype == torch.bfloat16 and _DECOMPOSED in torch._inductor.list_options():
        # tanh by one exponential, in a third of the time. It is off by 1e-7 near 0, which is why torch does
        # not do so by itself, and which is nothing beside bf16.
        options[_DECOMPOSED] = True
    return options
