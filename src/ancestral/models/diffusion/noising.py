"""Where the noise levels of a chain come from: a fixed table, or γ = −log SNR as a function on [0, 1].

The levels 1 … T of a function are its values at T places evenly spread over [0, 1], both ends among them:

    γ_t = γ((t − 1) / (T − 1)),   log ᾱ_t = log sigmoid(−γ_t),   1 − ᾱ_t / ᾱ_s = −expm1(log ᾱ_t − log ᾱ_s),

which is VDM's −expm1(softplus(γ_s) − softplus(γ_t)) (Kingma et al. 2021, appendix E): everything is in
float64, keeps its relative precision at both ends, and has a gradient in γ.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ancestral._internal import checks
from ancestral.models.diffusion.schedules import Schedule


class Noising(nn.Module, ABC):
    """The noise levels 1 … T of a chain, and what its network is told of them."""

    T: int

    @abstractmethod
    def log_alpha_bar(self, levels: Tensor) -> Tensor:
        """log ᾱ at whole levels in 0 … T, of any shape, float64."""

    @abstractmethod
    def time(self, levels: Tensor) -> Tensor:
        """What the network is told at levels in [1, T], also between two whole ones: about 0 … 1."""

    @property
    @abstractmethod
    def schedule(self) -> Schedule:
        """The levels as they are now, on the CPU and apart from the weights."""

    @torch.no_grad()
    def times(self) -> Tensor:
        """``time`` at the levels 0 … T, (T + 1,), float64, on the CPU; that of level 0 is of level 1."""
        device = next((tensor.device for tensor in (*self.parameters(), *self.buffers())), None)
        levels = torch.arange(self.T + 1, device=device).clamp(min=1)
        return self.time(levels.double()).double().cpu()

    @property
    def learned(self) -> bool:
        """Whether training changes the levels."""
        return False

    def variance_loss(self, u: Tensor, squares: Tensor) -> Tensor | None:
        """What a learned schedule adds to a loss (``learned.LearnedSchedule``); None for a fixed one."""
        return None


class FixedNoising(Noising):
    """The levels of a ``Schedule``. The network is told t / T."""

    table: Tensor

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.T = schedule.T
        self.fixed = schedule
        self.register_buffer("table", schedule.log_alpha_bar.clone(), persistent=False)

    def log_alpha_bar(self, levels: Tensor) -> Tensor:
        """As ``Noising``."""
        return self.table[levels]

    def time(self, levels: Tensor) -> Tensor:
        """t / T."""
        return levels / self.T

    @property
    def schedule(self) -> Schedule:
        """The schedule it was made of."""
        return self.fixed


class Gamma(Noising):
    """Levels of a rising function γ on [0, 1], from −``first`` to −``last`` where it starts.

    The network is told (γ + ``first``) / (``first`` − ``last``), whatever becomes of γ, so that one time
    always is one noise level: it is in [0, 1] as long as γ is within the ends it started from. The time takes
    no gradient: at its best a network's error is stationary in what it is told, so the gradient through the
    time has mean 0, and through the embedding's fast waves it is far larger than all others (on digits its
    spread over batches was forty times that of the rest).
    """

    def __init__(self, T: int, *, first: float, last: float) -> None:
        super().__init__()
        checks.integer("T", T, low=1)
        if not last < first:
            raise ValueError(f"first is {first:g} and last is {last:g}; log-SNR must fall.")
        self.T = T
        self.start = -first
        self.width = first - last

    @abstractmethod
    def gamma(self, u: Tensor) -> Tensor:
        """γ at u in [0, 1], float64, (n,)."""

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor:
        """dγ/du > 0 at u in [0, 1], float64, (n,)."""

    def place(self, levels: Tensor) -> Tensor:
        """The u of levels in [1, T], float64."""
        return (levels.double() - 1.0) / max(self.T - 1, 1)

    def log_alpha_bar_at(self, u: Tensor) -> Tensor:
        """log ᾱ at u in [0, 1], float64."""
        return F.logsigmoid(-self.gamma(u))

    def time_at(self, u: Tensor) -> Tensor:
        """What the network is told at u in [0, 1], float64, without a gradient."""
        return (self.gamma(u).detach() - self.start) / self.width

    def log_alpha_bar(self, levels: Tensor) -> Tensor:
        """As ``Noising``."""
        value = self.log_alpha_bar_at(self.place(levels.clamp(min=1)))
        return torch.where(levels > 0, value, torch.zeros_like(value))

    def time(self, levels: Tensor) -> Tensor:
        """As ``Noising``; between two whole levels γ is interpolated."""
        if not levels.is_floating_point():
            return self.time_at(self.place(levels))
        below = levels.floor()
        low, high = (self.time_at(self.place(level)) for level in (below, (below + 1.0).clamp(max=self.T)))
        return low + (levels - below) * (high - low)

    @property
    def schedule(self) -> Schedule:
        """As ``Noising``."""
        with torch.no_grad():
            device = next((p.device for p in self.parameters()), torch.device("cpu"))
            table = self.log_alpha_bar(torch.arange(self.T + 1, device=device)).cpu()
        return Schedule.from_log_alpha_bar(table, name=type(self).__name__)


class LogLinear(Gamma):
    """γ rises evenly: log-SNR falls from ``first`` to ``last`` (as ``Schedule.log_linear``)."""

    def __init__(self, T: int, *, first: float = 9.0, last: float = -9.0) -> None:
        super().__init__(T, first=first, last=last)

    def gamma(self, u: Tensor) -> Tensor:
        """As ``Gamma``."""
        return self.start + self.width * u.double()

    def slope(self, u: Tensor) -> Tensor:
        """As ``Gamma``."""
        return torch.full_like(u, self.width, dtype=torch.float64)
