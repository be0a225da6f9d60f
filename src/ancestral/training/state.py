"""All that a training step changes: weights, their average, the optimiser, and the images seen."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ancestral.chain import Chain
from ancestral.config import TrainingConfig
from ancestral.training.memory import recompute_blocks

_SLOTS = ("exp_avg", "exp_avg_sq", "step")


class TrainingState:
    """A chain in training, with its optimiser and exponential moving average (EMA).

    ``images_seen`` is the only clock: the step, the rate, the data order and all random numbers follow
    from it and the seed.
    """

    def __init__(self, chain: Chain, config: TrainingConfig) -> None:
        self.chain = chain
        self.config = config
        recompute_blocks(chain, config.recompute)
        self.images_seen = 0
        self.parameters = dict(chain.named_parameters())
        if not self.parameters:
            raise ValueError(f"{type(chain).__name__} has no parameters; there is nothing to train.")
        self.optimizer = _adamw(list(self.parameters.values()), config)
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return self.images_seen // self.config.batch_size

    def learning_rate(self, step: int) -> float:
        """The rate of the step with this number (from 0): linear warm-up, then cosine decay to 0."""
        warmup = min(self.config.warmup, self.config.steps // 10)
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        share = (step - warmup) / max(self.config.steps - warmup, 1)
        return self.config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))

    def update(self) -> None:
        """One optimiser step from the gradients there are, and one of the average."""
        step = self.step
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        # The ramp lets the average forget the initial weights in a short run (as in Tan & Le 2019).
        decay = min(self.config.ema, (1.0 + step) / (10.0 + step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema.values()),
                [p.detach() for p in self.parameters.values()],
                1.0 - decay,
            )
        self.images_seen += self.config.batch_size

    @contextlib.contextmanager
    def averaged(self) -> Iterator[Chain]:
        """The chain with its averaged weights, in evaluation mode; the trained ones come back after."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        was_training = self.chain.training
        self._write(self.ema)
        self.chain.eval()
        try:
            yield self.chain
        finally:
            self._write(kept)
            self.chain.train(was_training)

    @torch.no_grad()
    def _write(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors, on the CPU, for a checkpoint."""
        out = {f"model/{name}": tensor for name, tensor in model_tensors(self.chain).items()}
        out |= {f"ema/{name}": tensor for name, tensor in self.ema.items()}
        for name, parameter in self.parameters.items():
            for slot in _SLOTS:
                if parameter in self.optimizer.state:
                    out[f"optimizer/{slot}/{name}"] = self.optimizer.state[parameter][slot]
        return {name: tensor.detach().cpu().contiguous() for name, tensor in out.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], images_seen: int) -> None:
        """Take everything back from ``tensors``, in place. ``ValueError`` when they are of another model."""
        restore_model(self.chain, tensors, "model/")
        for name, parameter in self.parameters.items():
            self.ema[name].copy_(tensors[f"ema/{name}"])
            if f"optimizer/step/{name}" in tensors:
                # Fused AdamW walks raw memory: the moments must lie as the parameter does (channels_last).
                moments = {
                    slot: torch.empty_like(parameter).copy_(tensors[f"optimizer/{slot}/{name}"])
                    for slot in ("exp_avg", "exp_avg_sq")
                }
                count = tensors[f"optimizer/step/{name}"].to(parameter.device, copy=True)
                self.optimizer.state[parameter] = {"step": count, **moments}
        self.images_seen = images_seen


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
    foreign = {n.removeprefix("model/") for n in tensors if n.startswith("model/")} - lasting.keys()
    if foreign:
        raise ValueError(f"the checkpoint is of another model: this one has no {min(foreign)}.")
    for name, own in lasting.items():
        given = tensors.get(prefix + name)
        # The average is of parameters only: buffers are the model's own.
        given = tensors.get("model/" + name) if given is None else given
        if given is None or given.shape != own.shape:
            found = "missing" if given is None else f"of shape {tuple(given.shape)}"
            raise ValueError(
                f"the checkpoint is of another model: {name} is {found}, and this model has "
                f"{tuple(own.shape)}."
            )
        own.copy_(given)


def _adamw(parameters: list[torch.nn.Parameter], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW, fused; biases, gains and single numbers are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.999), fused=True)
