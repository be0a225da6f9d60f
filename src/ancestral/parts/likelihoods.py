"""The last law of a chain, p(x|z_1): from a decoder's output to a law over the data.

A likelihood reads ``per_entry`` numbers for each entry of x: decoder output (n, per_entry · C, H, W) or
(n, per_entry · D), in that order of blocks, so that a plain convolution or linear layer can give it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral.core.spec import DataSpec
from ancestral.distributions import Bernoulli, DiagonalNormal, ScaledNormal, full_precision, soft_clamp
from ancestral.distributions.discretized import DiscretizedLogistic, DiscretizedNormal, with_uniform
from ancestral.distributions.mixture import DiscretizedLogisticMixture
from ancestral.parts.scaling import Scaling

SIGMAS = ("fixed", "shared", "per-pixel", "predicted")
"""Where sigma comes from: a given number, one learned number, one learned number for each entry of x,
or a second output of the decoder for each entry of each example."""


class DataDistribution(ABC):
    """A distribution of x with a location and a scale, both in the network's units.

    It is the ``likelihood`` of a diffusion model, whose last step has a mean and a sigma. In an autoencoder
    ``ScaleLikelihood`` makes a ``Likelihood`` of it.
    """

    name: ClassVar[str]
    """What it is called in tables."""
    discrete: ClassVar[bool]
    """Whether it is a distribution over integers."""

    @abstractmethod
    def __call__(self, mean: Tensor, sigma: Tensor) -> Distribution:
        """The distribution of x, batch (n,), for mean and sigma (n, *shape)."""


class NormalData(DataDistribution):
    """N(mean, sigma²) as a density in the data's own units."""

    name = "Gaussian"
    discrete = False

    def __init__(self, scaling: Scaling) -> None:
        self.scaling = scaling

    def __call__(self, mean: Tensor, sigma: Tensor) -> Distribution:
        """As ``DataDistribution``."""
        return ScaledNormal(DiagonalNormal(mean, sigma), self.scaling.shift, self.scaling.scale)


class DiscretizedNormalData(DataDistribution):
    """The normal distribution integrated over the bins of the data's grey levels."""

    name = "discretised Gaussian"
    discrete = True

    def __init__(self, levels: int, *, uniform: float = 0.0) -> None:
        self.levels = levels
        self.uniform = checked_share(uniform)

    def __call__(self, mean: Tensor, sigma: Tensor) -> Distribution:
        """As ``DataDistribution``."""
        return with_uniform(DiscretizedNormal(mean, sigma, self.levels), self.uniform, self.levels)


class DiscretizedLogisticData(DataDistribution):
    """The logistic distribution integrated over the bins of the data's grey levels; sigma is its scale."""

    name = "discretised logistic"
    discrete = True

    def __init__(self, levels: int, *, uniform: float = 0.0) -> None:
        self.levels = levels
        self.uniform = checked_share(uniform)

    def __call__(self, mean: Tensor, sigma: Tensor) -> Distribution:
        """As ``DataDistribution``."""
        return with_uniform(DiscretizedLogistic(mean, sigma, self.levels), self.uniform, self.levels)


def normal_data(scaling: Scaling) -> DataDistribution:
    """The normal distribution that fits the data: discretised for integers, a density for real numbers."""
    levels = scaling.spec.levels
    return NormalData(scaling) if levels is None else DiscretizedNormalData(levels)


class Likelihood(nn.Module, ABC):
    """p(x|z_1) as a function of the decoder's output: the ``likelihood`` of an autoencoder.

    A subclass sets ``per_entry`` and ``discrete`` and defines ``forward``. It must undo the scaling of the data
    (``Scaling.inverse``), as the distribution is of x in the data's units. Compute in full precision
    (``distributions.full_precision``), as a decoder may give bf16.
    """

    per_entry: int
    """How many numbers of the decoder's output it reads for one entry of x."""
    discrete: bool
    """Whether it is a law over integers."""

    @property
    def name(self) -> str:
        """What the family is called in tables: by default, the name of the class."""
        return type(self).__name__

    @abstractmethod
    def forward(self, out: Tensor) -> Distribution:
        """The law of x, batch (n,), given the decoder's output."""


class BernoulliLikelihood(Likelihood):
    """Each entry 0 or 1; the decoder moves the logits of the mean. The data must have 2 levels."""

    per_entry = 1
    discrete = True

    def __init__(self, spec: DataSpec, scaling: Scaling) -> None:
        super().__init__()
        if spec.levels != 2:
            kind = "real-valued" if spec.levels is None else f"integers of {spec.levels} levels"
            raise ValueError(
                f"a Bernoulli likelihood needs data of 2 levels, and these are {kind}. Binarise the data "
                "(--binarize dynamic or threshold), or choose another likelihood."
            )
        self.shape = spec.shape
        self.scaling = scaling

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return "Bernoulli"

    def forward(self, out: Tensor) -> Distribution:
        """Bernoulli(sigmoid(out + logit of the training mean)), the mean kept within [0.005, 0.995]."""
        start = torch.logit((0.5 * (self.scaling.centre + 1.0)).clamp(0.005, 0.995))
        return Bernoulli(full_precision(out).reshape(-1, *self.shape) + start)


class ScaleLikelihood(Likelihood):
    """A likelihood with a mean from the decoder and a sigma from one of four places (``SIGMAS``).

    ``family`` is the distribution that they are the location and scale of, such as ``NormalData(scaling)``.
    ``value`` is sigma itself for "fixed" and its starting value for "shared" and "per-pixel", in the
    network's units (the data scaled to [−1, 1] or to unit variance).
    """

    def __init__(
        self, family: DataDistribution, spec: DataSpec, scaling: Scaling, *, sigma: str, value: float
    ) -> None:
        super().__init__()
        checks.one_of("sigma", sigma, SIGMAS)
        self.family = family
        self.discrete = family.discrete
        checks.number("the value of sigma", value, above=0.0)
        self.shape = spec.shape
        self.scaling = scaling
        self.sigma = sigma
        self.per_entry = 2 if sigma == "predicted" else 1
        start = torch.full(spec.shape if sigma == "per-pixel" else (), math.log(value))
        if sigma in ("shared", "per-pixel"):
            self.log_sigma = nn.Parameter(start)
        else:
            # For "predicted" this is where the decoder's second output starts from.
            self.register_buffer("log_sigma", start)

    def mean_and_sigma(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Both in the network's units, (n, *shape) or broadcast to it."""
        out = full_precision(out).reshape(-1, self.per_entry, *self.shape)
        log_sigma: Tensor = self.log_sigma
        if self.sigma == "predicted":
            log_sigma = log_sigma + soft_clamp(out[:, 1], 8.0)
        # A leading axis, so that the batch is (n,) also where sigma is a single number.
        return out[:, 0] + self.scaling.centre, log_sigma.exp().expand(len(out), *self.shape)

    @property
    def name(self) -> str:
        """As ``Likelihood``."""
        return self.family.name

    def forward(self, out: Tensor) -> Distribution:
        """The distribution of x, in the data's units."""
        return self.family(*self.mean_and_sigma(out))


class GaussianLikelihood(ScaleLikelihood):
    """N(D(z), sigma²) for each entry, a density in the data's own units (the notes' decoder)."""

    def __init__(
        self, spec: DataSpec, scaling: Scaling, *, sigma: str = "predicted", value: float = 0.3
    ) -> None:
        super().__init__(NormalData(scaling), spec, scaling, sigma=sigma, value=value)


class DiscretizedGaussianLikelihood(ScaleLikelihood):
    """The normal distribution integrated over the bins of the data's grey levels.

    ``uniform`` is the share of the uniform distribution over the grey levels that is mixed into it.
    """

    def __init__(
        self,
        spec: DataSpec,
        scaling: Scaling,
        *,
        sigma: str = "predicted",
        value: float = 0.3,
        uniform: float = 0.0,
    ) -> None:
        family = DiscretizedNormalData(needs_levels("discretized-gaussian", spec), uniform=uniform)
        super().__init__(family, spec, scaling, sigma=sigma, value=value)


class DiscretizedLogisticLikelihood(ScaleLikelihood):
    """The logistic distribution integrated over the bins of the data's grey levels; sigma is its scale.

    ``uniform`` is the share of the uniform distribution over the grey levels that is mixed into it.
    """

    def __init__(
        self,
        spec: DataSpec,
        scaling: Scaling,
        *,
        sigma: str = "predicted",
        value: float = 0.2,
        uniform: float = 0.0,
    ) -> None:
        family = DiscretizedLogisticData(needs_levels("discretized-logistic", spec), uniform=uniform)
        super().__init__(family, spec, scaling, sigma=sigma, value=value)


class DiscretizedLogisticMixtureLikelihood(Likelihood):
    """A mixture of ``components`` logistic laws over the bins of the data's levels, for each entry of x.

    The decoder's output is the components' logits, then their means, then their log scales. The means start
    spread evenly over [−1, 1], and the scales, in the same units, at ``value``. ``uniform`` is the share of the
    uniform distribution over the grey levels that is mixed into it.
    """

    discrete = True
    spread: Tensor

    def __init__(
        self,
        spec: DataSpec,
        scaling: Scaling,
        *,
        components: int = 5,
        value: float = 0.2,
        uniform: float = 0.0,
    ) -> None:
        super().__init__()
        self.uniform = checked_share(uniform)
        checks.integer("components", components, low=2, high=1000)
        checks.number("the value of sigma", value, above=0.0)
        self.levels = needs_levels("logistic-mixture", spec)
        self.shape = spec.shape
        self.components = components
        self.per_entry = 3 * components
        self.value = value
        ones = [1] * len(spec.shape)
        self.register_buffer("spread", torch.linspace(-1.0, 1.0, components).reshape(-1, *ones))

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"mixture of {self.components} discretised logistics"

    def forward(self, out: Tensor) -> Distribution:
        """The law over 0 … levels − 1."""
        parts = full_precision(out).reshape(-1, 3, self.components, *self.shape)
        scale = self.value * soft_clamp(parts[:, 2], 8.0).exp()
        found = DiscretizedLogisticMixture(parts[:, 0], parts[:, 1] + self.spread, scale, self.levels)
        return with_uniform(found, self.uniform, self.levels)


def checked_share(uniform: float) -> float:
    """The share of a uniform component, checked."""
    checks.number("uniform", uniform, low=0.0, below=1.0)
    return uniform


def needs_levels(name: str, spec: DataSpec) -> int:
    """The number of levels of integer data; real-valued data are refused with the remedy."""
    if spec.levels is None:
        raise ValueError(
            f"a {name} likelihood on real-valued data: it needs integers. Choose gaussian, or give "
            "integer data."
        )
    return spec.levels
