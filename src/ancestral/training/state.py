"""All that a training step changes: weights, their average, the optimiser, and the images seen."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ancestral._internal.precision import NAMES, compute_dtype, name_of
from ancestral.config import TrainingConfig
from ancestral.core.chain import Chain
from ancestral.objectives import Objective
from ancestral.training.flat import Bucket, buckets, is_matrix, views
from ancestral.training.memory import recompute_blocks
from ancestral.training.objective import objective_of
from ancestral.training.optimizers.muon import Muon
from ancestral.training.optimizers.soap import Soap

_SLOTS = ("exp_avg", "exp_avg_sq")
_SKIPPED = "training/skipped"
_OBJECTIVE = "objective/"
"""Prefix of the objective's buffers in a checkpoint."""
_OF_OBJECTIVES = ("draws.squares", "draws.counts")
"""Buffers of objectives that version 0.1 stored with the model."""
_OPTIMIZERS: dict[str, type[Muon] | type[Soap]] = {"muon": Muon, "soap": Soap}


def training_dtype(
    config: TrainingConfig, chain: Chain, objective: Objective, device: torch.device
) -> torch.dtype:
    """The dtype in which the chain's networks compute while it is trained with ``config``."""
    rows = config.batch_size * objective.samples
    return compute_dtype(config.precision, device, chain, rows=rows)


class TrainingState:
    """A chain in training, with its objective, optimiser and exponential moving average (EMA).

    ``images_seen`` is the only clock: the step, the rate, the data order and all random numbers follow
    from it and the seed. The chain's parameters become views of flat buffers (``flat``) until
    ``release``: do not move the chain to another device or dtype in between.
    """

    def __init__(self, chain: Chain, config: TrainingConfig, objective: Objective | None = None) -> None:
        self.chain = chain
        self.objective = objective_of(chain) if objective is None else objective
        self.objective.check(chain)
        self.config = config
        recompute_blocks(chain, config.recompute)
        self.images_seen = 0
        self.parameters = {name: p for name, p in chain.named_parameters() if p.requires_grad}
        if not self.parameters:
            raise ValueError(f"{type(chain).__name__} has no parameters; there is nothing to train.")
        self.device = next(iter(self.parameters.values())).device
        self.objective.to(self.device)
        self.dtype = training_dtype(config, chain, self.objective, self.device)
        """What networks compute in, decided once: a resumed run keeps it."""
        self.compiled: bool | None = None
        """Whether steps are compiled; None until the first step decides it."""
        self.skipped = torch.zeros((), device=self.device)
        """Steps left out so far, whose gradients were above ``config.skip``."""
        kind = _OPTIMIZERS.get(config.optimizer)
        self.buckets = buckets(self.parameters, is_matrix) if kind else buckets(self.parameters)
        self.ema = views(self.buckets, [bucket.average for bucket in self.buckets])
        """The averaged weights, by name."""
        self.matrix_optimizers = [
            kind(bucket, weight_decay=config.weight_decay, dtype=self.dtype)
            for bucket in self.buckets
            if kind and bucket.apart
        ]
        """One for each bucket of matrices; none where all is AdamW's."""
        self.optimizer = self._adamw([bucket for bucket in self.buckets if not bucket.apart])
        """Of all other buckets; None where there is no other."""

    def _adamw(self, rest: list[Bucket]) -> torch.optim.AdamW | None:
        if not rest:
            return None
        optimizer = torch.optim.AdamW(
            [
                # Biases, gains and single numbers are not decayed.
                {"params": [b.weight], "weight_decay": self.config.weight_decay if b.decayed else 0.0}
                for b in rest
            ],
            lr=self.config.peak_rate,
            betas=(0.9, 0.999),
            fused=True,
        )
        for bucket in rest:
            optimizer.state[bucket.weight] = {
                "step": torch.zeros((), device=self.device),
                **{slot: torch.zeros_like(bucket.average) for slot in _SLOTS},
            }
        return optimizer

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.images_seen // self.config.batch_size

    def learning_rate(self, step: int) -> float:
        """The rate of the step with this number (from 0): linear warm-up, then cosine decay to 0."""
        warmup = min(self.config.warmup, self.config.steps // 10)
        if step < warmup:
            return self.config.peak_rate * (step + 1) / warmup
        share = (step - warmup) / max(self.config.steps - warmup, 1)
        return self.config.peak_rate * 0.5 * (1.0 + math.cos(math.pi * share))

    def clip(self) -> Tensor:
        """Scale the gradient down to norm ``config.clip`` where its own is larger; returns its own."""
        weights = [bucket.weight for bucket in self.buckets]
        norm = torch.nn.utils.get_total_norm([bucket.gradient for bucket in self.buckets])
        # On a CPU the norm is there to look at, and most steps need no scaling; a GPU would have to wait.
        if norm.device.type != "cpu" or float(norm) > self.config.clip:
            torch.nn.utils.clip_grads_with_norm_(weights, self.config.clip, norm)
        return norm

    def too_steep(self, norm: Tensor) -> Tensor | None:
        """1.0 for a gradient whose norm is above ``config.skip``, else 0.0; None where no step is skipped.

        A norm that is not finite is above it: where a bound is 1e23 nats, its gradient may overflow.
        """
        if not self.config.skip:
            return None
        return (~(norm <= self.config.skip)).float()

    def update(self, skip: Tensor | None = None) -> None:
        """One optimiser step from the gradient there is, and one of the average.

        Where ``skip`` is 1.0, nothing is changed but the images seen and the count of skipped steps.
        """
        step = self.step
        rate = self.learning_rate(step)
        for one in self.matrix_optimizers:
            one.step(rate, skip)
        if self.optimizer is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            # What a gradient scaler tells an optimiser: it then leaves weights, moments and its step alone,
            # without the host's knowing.
            self.optimizer.found_inf = skip  # type: ignore[attr-defined]
            self.optimizer.step()
        # The ramp lets the average forget the initial weights in a short run (as in Tan & Le 2019).
        decay = min(self.config.ema, (1.0 + step) / (10.0 + step))
        self._average(1.0 - decay, skip)
        self.images_seen += self.config.batch_size

    @torch.no_grad()
    def _average(self, share: float, skip: Tensor | None) -> None:
        """Move the average by ``share`` of its distance to the weights, but where ``skip`` is 1.0."""
        averages = [bucket.average for bucket in self.buckets]
        weights = [bucket.weight.detach() for bucket in self.buckets]
        if skip is None:
            torch._foreach_lerp_(averages, weights, share)
            return
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, (share * (1.0 - skip)).to(average.dtype))
        self.skipped += skip

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Chain]:
        """The chain with its averaged weights, in evaluation mode; the trained ones come back after."""
        kept = [bucket.weight.detach().clone() for bucket in self.buckets]
        was_training = self.chain.training
        self._write([bucket.average for bucket in self.buckets])
        self.chain.eval()
        try:
            yield self.chain
        finally:
            self._write(kept)
            self.chain.train(was_training)

    def release(self) -> None:
        """Leave the averaged weights in the chain, each parameter in memory of its own again."""
        for name, p in self.parameters.items():
            p.grad = None
            p.data = self.ema[name].clone()

    @torch.no_grad()
    def _write(self, weights: list[Tensor]) -> None:
        for bucket, values in zip(self.buckets, weights, strict=True):
            bucket.weight.copy_(values)

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        """AdamW's two moments of its parameters and what is kept of matrices, with names in a checkpoint."""
        for one in self.matrix_optimizers:
            for name, view in one.moments():
                yield f"optimizer/{name}", view
        if self.optimizer is None:
            return
        rest = [bucket for bucket in self.buckets if not bucket.apart]
        for slot in _SLOTS:
            buffers = [self.optimizer.state[bucket.weight][slot] for bucket in rest]
            for name, view in views(rest, buffers).items():
                yield f"optimizer/{slot}/{name}", view

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, on the CPU, for a checkpoint."""
        out = {f"model/{name}": tensor for name, tensor in model_tensors(self.chain).items()}
        out |= {f"ema/{name}": tensor for name, tensor in self.ema.items()}
        out |= dict(self._moments())
        out |= {f"{_OBJECTIVE}{name}": buffer for name, buffer in self.objective.state_dict().items()}
        if self.config.skip:
            out[_SKIPPED] = self.skipped
        return {name: tensor.detach().cpu().contiguous() for name, tensor in out.items()}

    def decisions(self) -> dict[str, Any]:
        """What the hardware decided where the options said auto, for a checkpoint."""
        return {"precision": name_of(self.dtype), "compiled": bool(self.compiled)}

    @torch.no_grad()
    def restore(
        self, tensors: dict[str, Tensor], images_seen: int, decisions: Mapping[str, Any] | None = None
    ) -> None:
        """Take everything back from ``tensors``, in place. ``ValueError`` when they are of another model."""
        restore_model(self.chain, tensors, "model/")
        for name, average in self.ema.items():
            average.copy_(tensors[f"ema/{name}"])
        for name, moment in self._moments():
            moment.copy_(tensors[name])
        for name, buffer in self.objective.state_dict().items():
            # Version 0.1 kept what an objective remembers in the model.
            found = tensors.get(f"{_OBJECTIVE}{name}", tensors.get(f"model/{name}"))
            if found is None:
                raise ValueError(f"the checkpoint is of another objective: {name} is missing.")
            buffer.copy_(found)
        self.images_seen = images_seen
        if self.config.skip:
            self.skipped.copy_(tensors[_SKIPPED])
        if decisions is not None:
            self.dtype = NAMES.get(decisions.get("precision", ""), self.dtype)
            self.compiled = decisions.get("compiled", self.compiled)
        # The optimisers have not seen the steps that were left out.
        taken = self.step - self.skipped
        for moments in {} if self.optimizer is None else self.optimizer.state.values():
            moments["step"].copy_(taken)
        for one in self.matrix_optimizers:
            one.resume(steps=self.step, taken=taken, dtype=self.dtype)


def model_tensors(chain: Chain) -> dict[str, Tensor]:
    """The chain's parameters and persistent buffers, each once, by name."""
    lasting = chain.state_dict(keep_vars=True)
    named = dict(chain.named_parameters()) | {
        name: buffer for name, buffer in chain.named_buffers() if name in lasting
    }
    return {name: tensor.detach() for name, tensor in named.items()}


@torch.no_grad()
def restore_model(chain: Chain, tensors: dict[str, Tensor], prefix: str) -> None:
    """Copy the tensors named ``prefix`` + name into the chain. ``ValueError`` when they are another's."""
    lasting = model_tensors(chain)
    given = {name.removeprefix("model/") for name in tensors if name.startswith("model/")}
    foreign = {name for name in given - lasting.keys() if name not in _OF_OBJECTIVES}
    if foreign:
        raise ValueError(f"the checkpoint is of another model: this one has no {min(foreign)}.")
    for name, own in lasting.items():
        value = tensors.get(prefix + name)
        # The average is of parameters only: buffers are the model's own.
        value = tensors.get("model/" + name) if value is None else value
        if value is None or value.shape != own.shape:
            found = "missing" if value is None else f"of shape {tuple(value.shape)}"
            raise ValueError(
                f"the checkpoint is of another model: {name} is {found}, and this model has "
                f"{tuple(own.shape)}."
            )
        own.copy_(value)
