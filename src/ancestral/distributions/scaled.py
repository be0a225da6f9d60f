"""A normal distribution in units of one's choice: computed in the network's units, stated in the data's."""

from __future__ import annotations

from torch import Size, Tensor

from ancestral._internal.randomness import Noise
from ancestral.distributions.base import Factorised, Shape
from ancestral.distributions.normal import DiagonalNormal


class ScaledNormal(DiagonalNormal):
    """x = shift + scale · u with u ~ ``unit``, a normal density in the units of x.

    Densities are computed at u = (x − shift) / scale, so that neither a large ``shift`` nor a tiny ``scale``
    costs digits. Both broadcast to (n, …). Where they are float64, so are ``mean`` and samples.
    """

    def __init__(self, unit: DiagonalNormal, shift: Tensor, scale: Tensor) -> None:
        self.unit = unit
        self.shift = shift
        self.spread = scale
        Factorised.__init__(self, unit.batch_shape, unit.event_shape)

    @property
    def loc(self) -> Tensor:  # type: ignore[override]
        """The mean, broadcast to (n, …)."""
        return self._of(self.unit.loc)

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        """The standard deviation, broadcast to (n, …)."""
        return self.unit.scale * self.spread

    @property
    def mean(self) -> Tensor:
        """The mean, (n, …)."""
        return self._of(self.unit.mean)

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, (n, …)."""
        return self.unit.variance * self.spread.square()

    def rsample(self, sample_shape: Shape = Size()) -> Tensor:  # noqa: B008
        """A sample by reparameterisation, (*sample_shape, n, …)."""
        return self._of(self.unit.rsample(sample_shape))

    def sample_from(self, noise: Noise) -> Tensor:
        """A sample, (n, …), with random numbers of ``noise``."""
        return self._of(self.unit.sample_from(noise))

    def redrawn(self, value: Tensor) -> Tensor:
        """The draw ``value`` once more, with its noise, as a function of the parameters."""
        return self._of(self.unit.redrawn(self._unit(value)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (n,)."""
        volume = self.spread.log().expand(self.event_shape).sum()
        return self.unit.log_prob(self._unit(value)) - volume.to(self.unit.loc.dtype)

    def _of(self, u: Tensor) -> Tensor:
        return u * self.spread + self.shift

    def _unit(self, x: Tensor) -> Tensor:
        return ((x - self.shift) / self.spread).to(self.unit.loc.dtype)
