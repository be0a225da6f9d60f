from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def perturb() -> Callable[[nn.Module], nn.Module]:
    """Move every weight of a network away from where it started, its zeros above all."""

    def move(module: nn.Module) -> nn.Module:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return module

    return move


@pytest.fixture
def unreached() -> Callable[[nn.Module, Callable[[], Tensor]], list[str]]:
    """Name the parameters that get no gradient, once a few steps have left the zeros of the start."""

    def names(module: nn.Module, run: Callable[[], Tensor]) -> list[str]:
        for _ in range(3):
            module.zero_grad(set_to_none=True)
            (run() - 1.0).square().mean().backward()
            found = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter.sub_(0.1 * parameter.grad)
        return found

    return names
