"""What a training step keeps for its backward pass."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Recomputable(Protocol):
    """A module that can compute what lies inside it again in the backward pass, instead of keeping it.

    The blocks of our networks are; a user's own module is with an attribute of this name.
    """

    recompute: bool
    """Whether to."""


def recompute_blocks(chain: nn.Module, on: bool) -> None:
    """Turn gradient checkpointing on or off in every module of the chain that offers it."""
    for module in chain.modules():
        if isinstance(module, Recomputable):
            module.recompute = on
