"""Laws that torch.distributions does not have, or not in the form a chain needs.

All are factorised over the entries of an example and summed over them: the batch is (n,), the event is
everything after it, and ``log_prob`` is (n,). Arguments are not validated at each call (it would cost
a synchronisation with the device); shapes and bounds are checked where values enter the library.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints, register_kl
from torch.nn import functional as F

Shape = torch.Size | list[int] | tuple[int, ...]
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def sum_event(values: Tensor) -> Tensor:
    """Sum over everything but the batch: (n, …) → (n,)."""
    # Not by flattening, which would copy images in channels-last memory.
    return values.sum(dim=tuple(range(1, values.ndim)))


class _Factorised(Distribution):
    """A law over (n, …) that is a product over the entries of each example."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, shape: torch.Size) -> None:
        super().__init__(shape[:1], shape[1:], validate_args=False)


class DiagonalNormal(_Factorised):
    """N(loc, scale²) for each entry, with ``loc`` and ``scale`` broadcast to (n, …).

    Unlike ``Independent(Normal)``, its KL stays exact when two laws nearly coincide, as the thousand
    small matching terms of a DDPM do.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape))

    @property
    def mean(self) -> Tensor:
        """The mean, (n, …)."""
        return self.loc.expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, (n, …)."""
        return self.scale.square().expand(self._extended_shape())

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """loc + scale · ε with ε ~ N(0, I), the reparameterisation trick (Kingma & Welling 2014)."""
        eps = torch.randn(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device
        )
        return torch.addcmul(self.loc, self.scale, eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (n,)."""
        scaled = (value - self.loc) / self.scale
        return sum_event(-0.5 * scaled.square() - self.scale.log() - _HALF_LOG_2PI)


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal_normal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    # With r = log(var_q / var_p): ½ (e^r − 1 − r + (Δμ/σ_p)²); expm1 keeps e^r − 1 − r exact near r = 0.
    log_ratio = 2.0 * (q.scale / p.scale).log()
    shift = (q.loc - p.loc) / p.scale
    return 0.5 * sum_event(torch.expm1(log_ratio) - log_ratio + shift.square())


def standard_normal(n: int, shape: tuple[int, ...], like: Tensor) -> DiagonalNormal:
    """N(0, I) for a batch of n latents of the given shape, with the dtype and device of ``like``."""
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return DiagonalNormal(zero.expand(n, *shape), torch.ones_like(zero).expand(n, *shape))


def full_precision(out: Tensor) -> Tensor:
    """A network's output in at least 32 bits: laws, KLs and likelihoods are never taken in bf16."""
    return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out


def soft_clamp(u: Tensor, bound: float) -> Tensor:
    """bound · tanh(u / bound): the identity near 0, never beyond ±bound, with a gradient everywhere."""
    return bound * torch.tanh(u / bound)


def gaussian(params: Tensor) -> DiagonalNormal:
    """N(mu, sigma²) from a network's output (n, 2d, …): mu, then log sigma, softly kept within ±7."""
    mu, log_sigma = full_precision(params).chunk(2, dim=1)
    return DiagonalNormal(mu, soft_clamp(log_sigma, 7.0).exp())


class Bernoulli(_Factorised):
    """Each entry 0 or 1, P(1) = sigmoid(logits); values may be integers of any kind."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape)

    @property
    def mean(self) -> Tensor:
        """P(1) of each entry, (n, …)."""
        return torch.sigmoid(self.logits)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Zeros and ones, (n, …), as integers of 8 bits."""
        return torch.bernoulli(self.mean.expand(self._extended_shape(torch.Size(sample_shape)))).to(
            torch.uint8
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, (n,)."""
        return -sum_event(
            F.binary_cross_entropy_with_logits(self.logits, value.to(self.logits.dtype), reduction="none")
        )


class Discretized(_Factorised, ABC):
    """A continuous law on the line, cut into ``levels`` bins: a law over 0 … levels − 1.

    Level k stands at 2k / (levels − 1) − 1 in [−1, 1] and owns the bin of half-width 1 / (levels − 1)
    around it; the first and the last bin reach to ∓∞, so that the probabilities sum to 1 (Salimans et
    al. 2017, PixelCNN++, eq. 2; Ho et al. 2020, eq. 13). ``loc`` and ``scale`` are in the units of [−1, 1].
    """

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc = loc
        self.scale = scale
        self.levels = levels
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape))

    @staticmethod
    @abstractmethod
    def log_cdf(z: Tensor) -> Tensor:
        """log F(z) of the standard law, which is symmetric: log(1 − F(z)) = log F(−z)."""

    @staticmethod
    @abstractmethod
    def log_interval(middle: Tensor, gap: Tensor) -> Tensor:
        """log(F(middle + gap/2) − F(middle − gap/2)) of the standard law, without cancellation."""

    @staticmethod
    @abstractmethod
    def standard_draw(like: Tensor) -> Tensor:
        """A draw of the standard law in the shape of ``like``."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of integers (n, …) in 0 … levels − 1, summed to (n,)."""
        return sum_event(self.log_prob_entries(value))

    def log_prob_entries(self, value: Tensor) -> Tensor:
        """Log probability of each entry, (n, …)."""
        width = 2.0 / (self.levels - 1)
        centre = value.to(self.loc.dtype) * width - 1.0
        # The bin's width is kept apart: far from loc, its two edges may round to the same number.
        middle, gap = (centre - self.loc) / self.scale, width / self.scale
        return torch.where(
            value == 0,
            self.log_cdf(middle + 0.5 * gap),
            torch.where(
                value == self.levels - 1,
                self.log_cdf(0.5 * gap - middle),
                self.log_interval(middle, gap),
            ),
        )

    @property
    def mean(self) -> Tensor:
        """The mean level, (n, …), in 0 … levels − 1 and not in general whole: Σ_k P(X > k)."""
        total = torch.zeros_like(self.loc)
        width = 2.0 / (self.levels - 1)
        for level in range(self.levels - 1):
            edge = (level + 0.5) * width - 1.0
            total = total + self.log_cdf((self.loc - edge) / self.scale).exp()
        return total

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Integers, (n, …): a draw of the continuous law, put into its bin."""
        shape = self._extended_shape(torch.Size(sample_shape))
        draw = self.loc + self.scale * self.standard_draw(self.loc.expand(shape))
        level = ((draw + 1.0) * (0.5 * (self.levels - 1))).round().clamp(0, self.levels - 1)
        return level.to(torch.uint8 if self.levels <= 256 else torch.int32)


class DiscretizedLogistic(Discretized):
    """The logistic law over levels (Salimans et al. 2017, with one component)."""

    @staticmethod
    def log_cdf(z: Tensor) -> Tensor:
        """log sigmoid(z)."""
        return F.logsigmoid(z)

    @staticmethod
    def log_interval(middle: Tensor, gap: Tensor) -> Tensor:
        """σ(u) − σ(l) = σ(u) σ(−l) (1 − e^{l−u}), so its logarithm is a sum of exact terms."""
        half = 0.5 * gap
        return F.logsigmoid(middle + half) + F.logsigmoid(half - middle) + log1mexp(gap)

    @staticmethod
    def standard_draw(like: Tensor) -> Tensor:
        """log u − log(1 − u) of a uniform u, kept away from 0 and 1."""
        tiny = torch.finfo(like.dtype).tiny
        u = torch.rand(like.shape, dtype=like.dtype, device=like.device).clamp(min=tiny)
        return u.log() - torch.log1p(-u.clamp(max=1.0 - torch.finfo(like.dtype).eps))


class DiscretizedNormal(Discretized):
    """The normal law over levels (Ho et al. 2020, eq. 13)."""

    @staticmethod
    def log_cdf(z: Tensor) -> Tensor:
        """log Φ(z)."""
        return log_ndtr(z)

    @staticmethod
    def log_interval(middle: Tensor, gap: Tensor) -> Tensor:
        """log(Φ(u) − Φ(l)), taken in the left tail, where Φ has full relative precision.

        In a bin much narrower than sigma even that difference cancels; there the midpoint rule with its
        second-order term, φ(m) h (1 + h² (m² − 1) / 24), is exact to 1e−9.
        """
        narrow = gap * (1.0 + middle.abs()) < 0.03
        # Each branch sees harmless values where the other is taken, so that no gradient is 0 · ∞.
        left = torch.where(narrow, -1.0, -middle.abs())
        width = torch.where(narrow, 1.0, gap)
        wide = log_ndtr(left + 0.5 * width) + log1mexp(_log_ndtr_rise(left, width))
        m, h = torch.where(narrow, middle, 0.0), torch.where(narrow, gap, 0.01)
        series = (
            h.log() - 0.5 * m.square() - _HALF_LOG_2PI + torch.log1p(h.square() * (m.square() - 1.0) / 24.0)
        )
        return torch.where(narrow, series, wide)

    @staticmethod
    def standard_draw(like: Tensor) -> Tensor:
        """ε ~ N(0, 1)."""
        return torch.randn(like.shape, dtype=like.dtype, device=like.device)


class _LogNdtr(torch.autograd.Function):
    """log Φ with a gradient that holds in the tail.

    torch's own is e^(−log Φ(z) − z²/2) / √(2π): the difference of two large numbers, wrong in float32 from
    z = −100 on and without meaning beyond. φ / Φ is √(2/π) / erfcx(−z/√2), exact everywhere.
    """

    @staticmethod
    def forward(z: Tensor) -> Tensor:
        return torch.special.log_ndtr(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        return gradients[0] * (math.sqrt(2.0 / math.pi) / torch.special.erfcx(z * -math.sqrt(0.5)))


def log_ndtr(z: Tensor) -> Tensor:
    """log Φ(z) of the standard normal."""
    out: Tensor = _LogNdtr.apply(z)
    return out


def _log_ndtr_rise(middle: Tensor, gap: Tensor) -> Tensor:
    """log Φ(middle + gap/2) − log Φ(middle − gap/2) for middle ≤ 0, also far in the tail.

    There log Φ(z) = −z²/2 + log( erfcx(−z/√2) / 2 ), and the difference of the squares is −middle · gap.
    """
    low, high = middle - 0.5 * gap, middle + 0.5 * gap
    tail = high < 0
    near = log_ndtr(torch.where(tail, 0.0, high)) - log_ndtr(torch.where(tail, -1.0, low))
    far_high, far_low = torch.where(tail, high, -1.0), torch.where(tail, low, -2.0)
    scaled = [torch.special.erfcx(z * -math.sqrt(0.5)).log() for z in (far_high, far_low)]
    far = -torch.where(tail, middle, -1.5) * torch.where(tail, gap, 1.0) + scaled[0] - scaled[1]
    return torch.where(tail, far, near)


def log1mexp(gap: Tensor) -> Tensor:
    """log(1 − e^{−gap}) for gap > 0, exact for small and for large gaps (Mächler 2012)."""
    small = gap < math.log(2.0)
    # Each branch sees a harmless value where the other is taken, so that no gradient is 0 · ∞.
    near = torch.where(small, gap, torch.ones_like(gap))
    far = torch.where(small, torch.ones_like(gap), gap)
    return torch.where(small, (-torch.expm1(-near)).log(), torch.log1p(-torch.exp(-far)))
