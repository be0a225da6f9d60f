"""Laws whose noise is bent by a normalising flow: inverse autoregressive, of affine maps or of splines.

    z = mu + sigma · T(ε; c),   ε ~ N(0, I)
    log q(z) = log N(ε; 0, I) − log |det ∂T/∂ε| − Σ log sigma

T is a few autoregressive maps, entry i of each depending on the entries before it and on what the encoder
says, c: affine ones (Kingma et al. 2016, IAF) or rational-quadratic splines (Durkan et al. 2019), which
``zuko`` has. T works on the noise and not on mu + sigma ε: there what it reads is of one size for every x,
and inside the splines' domain, [−5, 5]. T is the identity at the start, and the law then N(mu, sigma²).

A draw takes one pass through T and leaves its density behind. The density of any other value takes T's
inverse, as many passes as there are entries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from ancestral._internal import checks
from ancestral._internal.precision import without_autocast
from ancestral._internal.randomness import Noise
from ancestral.distributions.base import Shape, full_precision
from ancestral.distributions.normal import DiagonalNormal

FLOWS = ("iaf", "spline")
_NAMES = {"iaf": "inverse autoregressive flow", "spline": "spline flow"}
LARGEST = 1024
"""Entries that a flow is taken over at most: its masks grow with their square."""
_LEAST_SLOPE = 0.01
"""Of a map along any entry. Its inverse goes through values that are no draws, which must stay finite, and
loses digits where it is steep."""


class NormalizingFlow(nn.Module):
    """T, given c: ``transforms`` autoregressive maps of (…, features), each in the reverse order of the last.

    ``hidden`` are the hidden layers of each map's network, which reads ``context`` numbers beside the
    entries; ``bins`` is the number of a spline's pieces. Raises ``ValueError`` where ``zuko`` is not there.
    """

    def __init__(
        self,
        kind: str,
        features: int,
        context: int,
        *,
        transforms: int = 2,
        hidden: Sequence[int] = (200,),
        bins: int = 8,
    ) -> None:
        super().__init__()
        checks.one_of("the kind of a flow", kind, FLOWS)
        checks.integer("the number of entries that a flow is taken over", features, low=1, high=LARGEST)
        checks.integer("context", context, low=1)
        checks.integer("transforms", transforms, low=1)
        checks.integer("bins", bins, low=2)
        for width in hidden:
            # With fewer units the last entries would be read by none of them.
            checks.integer(f"a hidden layer of a flow over {features} entries", width, low=features)
        self.kind = kind
        self.context = context
        order = torch.arange(features)
        self.maps = nn.ModuleList(
            _map(kind, order if index % 2 == 0 else order.flip(0), context, tuple(hidden), bins)
            for index in range(transforms)
        )

    @property
    def name(self) -> str:
        """What the flow is called in tables."""
        return _NAMES[self.kind]

    def forward(self, eps: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """T(ε; c), (n, …, features), and log |det ∂T/∂ε|, (n, …), in one pass."""
        with without_autocast(eps.device):
            total = eps.new_zeros(())
            for step in self.maps:
                eps, ladj = step(context).call_and_ladj(eps)
                total = total + ladj
        return eps, total

    def inverse(self, value: Tensor, context: Tensor) -> Tensor:
        """The ε with T(ε; c) = value, (n, …, features): as many passes for each map as entries."""
        with without_autocast(value.device):
            for step in reversed(self.maps):
                value = step(context).inv(value)
        return value


def _map(kind: str, order: Tensor, context: int, hidden: tuple[int, ...], bins: int) -> nn.Module:
    """One autoregressive map, the identity at the start."""
    zuko = _zuko(kind)
    if kind == "iaf":
        univariate: Any = zuko.transforms.MonotonicAffineTransform
        shapes: list[tuple[int, ...]] = [(), ()]
    else:
        univariate, shapes = zuko.transforms.MonotonicRQSTransform, [(bins,), (bins,), (bins - 1,)]
    made: nn.Module = zuko.flows.MaskedAutoregressiveTransform(
        len(order),
        context,
        order=order,
        univariate=partial(univariate, slope=_LEAST_SLOPE),
        shapes=shapes,
        hidden_features=hidden,
        activation=nn.ELU,
    )
    hyper = made.hyper
    assert isinstance(hyper, nn.Sequential)
    for parameter in hyper[-1].parameters():
        nn.init.zeros_(parameter)
    return made


def _zuko(kind: str) -> Any:
    try:
        import zuko
    except ModuleNotFoundError as error:
        raise ValueError(
            f"q is {kind!r}, a normalising flow, which needs zuko: pip install 'ancestral[flows]'. Or use q "
            "full, which needs nothing."
        ) from error
    return zuko


class FlowNormal(Distribution):
    """The law of mu + sigma T(ε; c), for a N(mu, sigma²) over (n, d, …), with T over an example's first axis.

    ``context``, c, is (n, contexts, …). A position of an image has an ε and a c of its own and shares T.

    ``log_prob`` of the very tensor that was drawn last is what the draw left, with its graph; of any other
    value, equal copies included, it is worked out by inverting T.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True
    closed_kl: ClassVar[tuple[type[Distribution], ...]] = ()
    """Its KL to any prior is estimated by the log-ratio of the draw."""

    def __init__(self, around: DiagonalNormal, flow: NormalizingFlow, context: Tensor) -> None:
        self.around = around
        self.flow = flow
        self.context = full_precision(context).to(around.loc.dtype).movedim(1, -1)
        self._drawn: _Draw | None = None
        super().__init__(around.batch_shape, around.event_shape, validate_args=False)

    @property
    def centre(self) -> Tensor:
        """Where the noise is 0, (n, d, …): for a law without a mean in closed form, in its place."""
        at, _ = self.flow(torch.zeros_like(self.around.mean).movedim(1, -1), self.context)
        return self.around.loc + self.around.scale * at.movedim(-1, 1)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """mu + sigma T(ε; c) with ε ~ N(0, I)."""
        like, first = self.around.loc, len(sample_shape)
        shape = torch.Size(sample_shape) + self.batch_shape + self.event_shape
        eps = torch.randn(shape, dtype=like.dtype, device=like.device).movedim(1 + first, -1)
        at, ladj = self.flow(eps, self.context.expand(*eps.shape[:-1], -1))
        value = self.around.loc + self.around.scale * at.movedim(-1, 1 + first)
        if first == 0:
            self._drawn = _Draw(value, self._log_density(eps, ladj))
        return value

    def sample_from(self, noise: Noise) -> Tensor:
        """A sample, (n, d, …), with random numbers of ``noise``."""
        eps = noise.normal(self._extended_shape(), self.around.loc).movedim(1, -1)
        at, _ = self.flow(eps, self.context)
        return self.around.loc + self.around.scale * at.movedim(-1, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (n,)."""
        if self._drawn is not None and self._drawn.is_of(value):
            return self._drawn.log_prob
        at = ((value - self.around.loc) / self.around.scale).movedim(1, -1)
        context = self.context.expand(*at.shape[:-1], -1)
        eps = self.flow.inverse(at, context)
        return self._log_density(eps, self.flow(eps, context)[1])

    def _log_density(self, eps: Tensor, ladj: Tensor) -> Tensor:
        normal = -0.5 * (eps.square() + math.log(2.0 * math.pi)).sum(dim=-1) - ladj
        normal = torch.einsum("n...->n", normal)
        return normal - torch.einsum("n...->n", self.around.scale.expand(self._extended_shape()).log())


class _Draw:
    """A value that was drawn, and its log density, (n,)."""

    def __init__(self, value: Tensor, log_prob: Tensor) -> None:
        self.value = value
        self.log_prob = log_prob
        self._version = _version(value)
        self._graph = torch.is_grad_enabled()

    def is_of(self, value: Tensor) -> bool:
        """Whether ``value`` is the tensor drawn, unchanged, and a graph is there where one is kept."""
        kept = self._graph or not torch.is_grad_enabled()
        return value is self.value and kept and _version(value) == self._version


def _version(value: Tensor) -> int:
    """How often a tensor was changed in place; tensors that do not count it are taken to be unchanged."""
    if torch.compiler.is_compiling() or value.is_inference():
        return 0
    return value._version
