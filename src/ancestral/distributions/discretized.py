"""Laws over the levels 0 … L − 1 of integer data: continuous laws on the line, cut into bins.

Exact in float32 where the formulas written down plainly are not: far in the tails, in bins much narrower
than the law, and in their gradients. ``WithUniform`` mixes a share of the uniform distribution into one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ancestral._internal.randomness import Noise
from ancestral.distributions.base import Factorised, Shape

if TYPE_CHECKING:
    from ancestral.distributions.mixture import DiscretizedLogisticMixture

_PIECE = 1 << 15
"""Entries whose means are taken at once on a CPU."""
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Discretized(Factorised, ABC):
    """A continuous law on the line, cut into ``levels`` bins: a law over 0 … levels − 1.

    Level k stands at 2k / (levels − 1) − 1 in [−1, 1] and owns the bin of half-width 1 / (levels − 1)
    around it; the first and the last bin reach to ∓∞, so that the probabilities sum to 1 (Salimans et
    al. 2017, PixelCNN++, eq. 2; Ho et al. 2020, eq. 13). ``loc`` and ``scale`` are in the units of [−1, 1].
    """

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc = loc
        self.scale = scale
        self.levels = levels
        shape = torch.broadcast_shapes(loc.shape, scale.shape)
        super().__init__(shape[:1], shape[1:])

    @property
    def entries(self) -> constraints.Constraint:  # type: ignore[override]
        """As ``Factorised``: the grey levels."""
        return constraints.integer_interval(0, self.levels - 1)

    @staticmethod
    @abstractmethod
    def cdf(z: Tensor) -> Tensor:
        """F(z) of the standard law."""

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
    def standard_draw(shape: Sequence[int], like: Tensor, noise: Noise | None) -> Tensor:
        """Independent draws of the standard law, of this shape, with the dtype and device of ``like``.

        Without ``noise`` the random numbers are those of torch's global generators.
        """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of integers (n, …) in 0 … levels − 1, summed to (n,)."""
        return torch.einsum("n...->n", self.log_prob_entries(value))

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

    @staticmethod
    @abstractmethod
    def moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the standard law at z: ∫_{−∞}^z F, the density f, and f″."""

    reach: ClassVar[float]
    """How far from 0 the standard law's tails, summed over points 1 apart, are below 1e−5."""

    @property
    def mean(self) -> Tensor:
        """The mean level, (n, …), in 0 … levels − 1 and not in general whole: Σ_k P(X > k).

        Where the law is narrow only the levels within reach of it are summed. Where it is wide the sum is
        an integral, with the first terms of the Euler–Maclaurin formula (midpoint form) for its ends:
        Σ_{k=a}^{b} g(k) = ∫_{a−½}^{b+½} g − [g′]/24 + 7 [g‴]/5760 − …, here to 1e−5 of a level.
        """
        loc, scale = torch.broadcast_tensors(self.loc, self.scale)
        if self.levels - 1 <= 2 * math.ceil(self.reach):
            mean = self._summed(loc, scale)
        elif loc.device.type != "cpu" or loc.requires_grad or scale.requires_grad:
            gap = 2.0 / (self.levels - 1) / scale
            mean = torch.where(gap > 1.0, self._summed(loc, scale), self._integrated(loc, scale))
        else:
            # In pieces that stay in a core's cache, and each entry in one of the two ways only.
            pieces = zip(loc.flatten().split(_PIECE), scale.flatten().split(_PIECE), strict=True)
            mean = torch.cat([self._sorted(*piece) for piece in pieces]).unflatten(0, loc.shape)
        # Rounding takes sums of probabilities a little beyond 1.
        return mean.clamp(0.0, self.levels - 1.0)

    def _sorted(self, loc: Tensor, scale: Tensor) -> Tensor:
        """The mean of flat entries, each by what its width asks for."""
        wide = scale >= 2.0 / (self.levels - 1)
        if bool(wide.all()):
            return self._integrated(loc, scale)
        mean = self._summed(loc, scale)
        if bool(wide.any()):
            index = wide.nonzero().squeeze(1)
            mean.index_copy_(0, index, self._integrated(loc[index], scale[index]))
        return mean

    def _summed(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Σ P(X > k) over the levels within reach; what is below them is exceeded, each level counts 1."""
        gap = 2.0 / (self.levels - 1) / scale
        half = math.ceil(self.reach)
        count = min(2 * half + 1, self.levels - 1)
        middle = (loc + 1.0) * (0.5 * (self.levels - 1)) - 0.5
        first = (middle.round() - half).clamp(0.0, self.levels - 1.0 - count)
        total, z = first, (middle - first) * gap
        for _ in range(count):
            total, z = total + self.cdf(z), z - gap
        return total

    def _integrated(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Σ P(X > k) over all levels as an integral, for gaps of at most 1 between the edges."""
        gap = 2.0 / (self.levels - 1) / scale
        low = self.moments((loc + 1.0) / scale)
        high = self.moments((loc - 1.0) / scale)
        area, slope, third = (a - b for a, b in zip(low, high, strict=True))
        return area / gap - slope * gap / 24.0 + third * gap**3 * (7.0 / 5760.0)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Integers, (n, …): a draw of the continuous law, put into its bin."""
        return self._binned(self._extended_shape(torch.Size(sample_shape)), None)

    def sample_from(self, noise: Noise) -> Tensor:
        """As ``sample``, (n, …), with random numbers of ``noise``."""
        return self._binned(self._extended_shape(), noise)

    def _binned(self, shape: torch.Size, noise: Noise | None) -> Tensor:
        draw = self.loc + self.scale * self.standard_draw(shape, self.loc, noise)
        level = ((draw + 1.0) * (0.5 * (self.levels - 1))).round().clamp(0, self.levels - 1)
        return level.to(torch.uint8 if self.levels <= 256 else torch.int32)


class DiscretizedLogistic(Discretized):
    """The logistic law over levels (Salimans et al. 2017, with one component)."""

    @staticmethod
    def cdf(z: Tensor) -> Tensor:
        """sigmoid(z)."""
        return torch.sigmoid(z)

    @staticmethod
    def log_cdf(z: Tensor) -> Tensor:
        """log sigmoid(z)."""
        return F.logsigmoid(z)

    @staticmethod
    def log_interval(middle: Tensor, gap: Tensor) -> Tensor:
        """σ(u) − σ(l) = σ(u) σ(−l) (1 − e^{l−u}), so its logarithm is a sum of exact terms."""
        half = 0.5 * gap
        return F.logsigmoid(middle + half) + F.logsigmoid(half - middle) + log1mexp(gap)

    reach = 12.0

    @staticmethod
    def moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log(1 + e^z), p = σ(z) σ(−z), and p (1 − 6 p)."""
        density = torch.sigmoid(z) * torch.sigmoid(-z)
        return F.softplus(z), density, density * (1.0 - 6.0 * density)

    @staticmethod
    def standard_draw(shape: Sequence[int], like: Tensor, noise: Noise | None) -> Tensor:
        """log u − log(1 − u) of a uniform u, kept away from 0 and 1."""
        tiny = torch.finfo(like.dtype).tiny
        if noise is None:
            u = torch.rand(shape, dtype=like.dtype, device=like.device)
        else:
            u = noise.uniform(shape, like)
        u = u.clamp(min=tiny)
        return u.log() - torch.log1p(-u.clamp(max=1.0 - torch.finfo(like.dtype).eps))


class DiscretizedNormal(Discretized):
    """The normal law over levels (Ho et al. 2020, eq. 13)."""

    @staticmethod
    def cdf(z: Tensor) -> Tensor:
        """Φ(z)."""
        return torch.special.ndtr(z)

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

    reach = 5.0

    @staticmethod
    def moments(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z Φ(z) + φ(z), φ(z), and (z² − 1) φ(z)."""
        density = (-0.5 * z.square() - _HALF_LOG_2PI).exp()
        return z * torch.special.ndtr(z) + density, density, (z.square() - 1.0) * density

    @staticmethod
    def standard_draw(shape: Sequence[int], like: Tensor, noise: Noise | None) -> Tensor:
        """ε ~ N(0, 1)."""
        if noise is None:
            return torch.randn(shape, dtype=like.dtype, device=like.device)
        return noise.normal(shape, like)


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


class WithUniform(Factorised):
    """(1 − share) · part + share · uniform, for each entry, over the grey levels 0 … levels − 1.

    No entry has a probability below share / levels, so that no single one costs more than
    log(levels / share) nats, however sure ``part`` is of another grey level.
    """

    def __init__(self, part: Discretized | DiscretizedLogisticMixture, share: float, levels: int) -> None:
        self.part = part
        self.share = share
        self.levels = levels
        self.entries = constraints.integer_interval(0, levels - 1)
        super().__init__(part.batch_shape, part.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of integers (n, …) in 0 … levels − 1, summed to (n,)."""
        return torch.einsum("n...->n", self.log_prob_entries(value))

    def log_prob_entries(self, value: Tensor) -> Tensor:
        """Log probability of each entry, (n, …)."""
        part = self.part.log_prob_entries(value)
        least = part.new_tensor(math.log(self.share / self.levels))
        return torch.logaddexp(part + math.log1p(-self.share), least)

    @property
    def mean(self) -> Tensor:
        """The mean grey level, (n, …), in 0 … levels − 1 and not in general whole."""
        return (1.0 - self.share) * self.part.mean + self.share * 0.5 * (self.levels - 1)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Integers, (*sample_shape, n, …)."""
        draws = self.part.sample(sample_shape)
        return self._mixed(draws, torch.rand(draws.shape, device=draws.device))

    def sample_from(self, noise: Noise) -> Tensor:
        """As ``sample``, (n, …), with random numbers of ``noise``."""
        draws = self.part.sample_from(noise)
        like = torch.empty((), dtype=torch.float32, device=draws.device)
        return self._mixed(draws, noise.uniform(self._extended_shape(), like))

    def _mixed(self, draws: Tensor, u: Tensor) -> Tensor:
        """Where u, uniform on [0, 1), is below the share, the grey level that it then is of."""
        level = (u * (self.levels / self.share)).clamp(max=self.levels - 1).to(draws.dtype)
        return torch.where(u < self.share, level, draws)


def with_uniform(
    part: Discretized | DiscretizedLogisticMixture, share: float, levels: int
) -> Discretized | DiscretizedLogisticMixture | WithUniform:
    """``part`` with a share of the uniform distribution; itself where the share is 0."""
    return WithUniform(part, share, levels) if share > 0.0 else part
