"""A ladder of twenty levels and more on images, for little arithmetic: most of it at low resolution.

The parts are those of ``ladder``, made as in Child 2021 (VDVAE): bottleneck blocks of 1×1, 3×3, 3×3 and
1×1 convolutions, whose last layer starts 1/√T smaller so that the stream stays as wide as in a shallow
ladder; features that all levels of one size share; nearest-neighbour growth; and a learned image added
wherever the stream grows. Unlike there, a norm opens each block, and half the image's size has half the
width and its own size a quarter: at 28×28 an operation costs sixteen times what it costs at 7×7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ancestral.networks.conv import Pointwise, channels_last, channels_last_, halved
from ancestral.networks.dropout import Dropout
from ancestral.networks.ladder import Head, Parts, Size, laid_out, zero
from ancestral.networks.norms import group_norm, norm_silu
from ancestral.networks.recompute import Block

_SQUEEZE = 4
"""A block computes in so many times fewer channels than the stream has."""
_POINT = 2
"""Up to this side an image's pixels are mixed by the layers above and below alone."""


@dataclass(frozen=True)
class Plan:
    """What the parts of one ladder have in common.

    ``sizes`` are the image's own and each half of the one before, down to the top level's; ``places`` is
    which of them each level has, the level nearest the data first.
    """

    sizes: tuple[Size, ...]
    places: tuple[int, ...]
    width: int
    blocks: int = 1
    dropout: float = 0.0

    @classmethod
    def of(cls, size: Size, levels: Sequence[Size], *, width: int, blocks: int, dropout: float) -> Plan:
        """For images of ``size`` and levels of the sizes ``levels``."""
        sizes = [size]
        while sizes[-1] != levels[-1]:
            sizes.append(halved(sizes[-1]))
        return cls(tuple(sizes), tuple(sizes.index(level) for level in levels), width, blocks, dropout)

    def width_at(self, place: int) -> int:
        """The stream's width there: all of it from a quarter of the image's size down."""
        return max(self.width >> max(2 - place, 0), 1)

    @property
    def middle(self) -> int:
        """How many channels blocks compute in."""
        return max(self.width // _SQUEEZE, 1)

    def mixing(self, place: int) -> nn.Module:
        """A convolution of squeezed images there."""
        # Where there are hardly any neighbours, a 3×3 kernel is mostly multiplied with the zeros around.
        point, n = min(self.sizes[place]) <= _POINT, min(self.middle, self.width_at(place))
        return Pointwise(n, n) if point else nn.Conv2d(n, n, 3, padding=1)

    def bottlenecks(self, place: int, number: int) -> nn.Sequential:
        """``number`` residual blocks for the stream there."""
        return nn.Sequential(*(Bottleneck(self, place) for _ in range(number)))


class Bottleneck(Block):
    """u + leave(silu(second(silu(first(silu(enter(silu(norm(u))))))))).

    A stream that is no wider than the squeezed one has no ``enter`` and no ``leave``.
    """

    def __init__(self, plan: Plan, place: int) -> None:
        super().__init__()
        width, depth = plan.width_at(place), len(plan.places)
        self.norm = group_norm(width)
        self.squeezed = width > plan.middle
        if self.squeezed:
            self.enter = Pointwise(width, plan.middle)
        self.first = plan.mixing(place)
        self.second = plan.mixing(place)
        self.dropout = Dropout(plan.dropout)
        if self.squeezed:
            self.leave = Pointwise(plan.middle, width)
        shrink(self.leave if self.squeezed else self.second, depth)
        channels_last_(self)

    def compute(self, u: Tensor) -> Tensor:
        """(n, width, H, W) → (n, width, H, W)."""
        h = norm_silu(self.norm, u)
        h = F.silu(self.first(F.silu(self.enter(h)) if self.squeezed else h))
        if not self.squeezed:
            return u + self.second(self.dropout(h))
        out: Tensor = u + self.leave(self.dropout(F.silu(self.second(h))))
        return out


@torch.no_grad()
def shrink(layer: nn.Module, depth: int) -> nn.Module:
    """The layer with its starting weights divided by √depth (Child 2021, section 3.2), and no bias yet.

    A sum of ``depth`` such layers' outputs is then about as wide as one of them was.
    """
    for parameter in layer.parameters():
        parameter.mul_(depth**-0.5 if parameter.dim() > 1 else 0.0)
    return layer


class DeepBottomUp(nn.Module):
    """x → the features of every level, nearest the data first: one image for all levels of a size.

    A size has ``blocks`` blocks for every two of its levels; one without levels that is on the way has
    ``blocks``, but for the image's own, where blocks would cost more than all others.
    """

    def __init__(self, channels: int, plan: Plan) -> None:
        super().__init__()
        self.places = plan.places
        self.entry = nn.Conv2d(channels, plan.width_at(0), 3, padding=1)
        self.norms = nn.ModuleList(group_norm(plan.width_at(place)) for place in range(len(plan.sizes)))
        self.shrink = nn.ModuleList(
            nn.Conv2d(plan.width_at(place - 1), plan.width_at(place), 3, stride=2, padding=1)
            for place in range(1, len(plan.sizes))
        )
        self.sizes = nn.ModuleList()
        for place in range(len(plan.sizes)):
            levels = plan.places.count(place)
            pairs = (levels + 1) // 2 if levels else min(place, 1)
            self.sizes.append(plan.bottlenecks(place, pairs * plan.blocks))
        channels_last_(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(n, channels, H, W) → a list of (n, width, …), one for each level."""
        features = [self.read(0, self.sizes[0](self.entry(channels_last(x))))]
        for place, shrink in enumerate(self.shrink, start=1):
            features.append(self.read(place, self.sizes[place](shrink(features[-1]))))
        return [features[place] for place in self.places]

    def read(self, place: int, u: Tensor) -> Tensor:
        """What levels and the next size read of the images there: once for all of them."""
        norm = self.norms[place]
        assert isinstance(norm, nn.GroupNorm)
        return norm_silu(norm, u)


class DeepPosteriorNetwork(Block):
    """Features and stream of a level → how q departs from p there, (n, outputs, …); 0 at the start."""

    def __init__(self, outputs: int, plan: Plan, place: int) -> None:
        super().__init__()
        width = plan.width_at(place)
        middle = min(plan.middle, width)
        self.of_stream = Pointwise(width, middle)
        self.of_features = Pointwise(width, middle)
        self.first = plan.mixing(place)
        self.second = plan.mixing(place)
        self.dropout = Dropout(plan.dropout)
        self.out = zero(Pointwise(middle, outputs))
        channels_last_(self)

    def compute(self, stream: Tensor, features: Tensor) -> Tensor:
        """Two (n, width, …) → (n, outputs, …)."""
        # What is joined is summed: in a few channels, unlike joined images, it is little to write.
        joined = self.of_features(features) + self.of_stream(F.silu(laid_out(stream, features.dtype)))
        h = F.silu(self.second(F.silu(self.first(F.silu(joined)))))
        out: Tensor = self.out(self.dropout(h))
        return out


class Grow(nn.Module):
    """The stream at the next larger size: its width there, every pixel repeated, and a learned image."""

    def __init__(self, plan: Plan, place: int) -> None:
        super().__init__()
        self.size = plan.sizes[place]
        self.narrow = Pointwise(plan.width_at(place + 1), plan.width_at(place))
        self.image = nn.Parameter(torch.zeros(plan.width_at(place), *self.size))
        channels_last_(self)

    def forward(self, u: Tensor) -> Tensor:
        """(n, width, h, w) → (n, width, H, W) of the larger size."""
        narrow = self.narrow(u)
        grown = F.interpolate(narrow, size=self.size, mode="nearest")
        return grown + laid_out(self.image[None], grown.dtype)


class DeepTopDown(nn.Module):
    """One level of generation: takes z in, and brings the stream to the size of the level below."""

    def __init__(self, latent: int, plan: Plan, place: int, below: int) -> None:
        super().__init__()
        self.entry = shrink(Pointwise(latent, plan.width_at(place)), len(plan.places))
        stages: list[nn.Module] = []
        for larger in range(place - 1, below - 1, -1):
            stages += [Grow(plan, larger), plan.bottlenecks(larger, plan.blocks)]
        self.stages = nn.Sequential(*(stages or [plan.bottlenecks(place, plan.blocks)]))

    def forward(self, stream: Tensor, z: Tensor) -> Tensor:
        """(n, width, …) and (n, latent, …) → (n, width, …) at the size of the level below."""
        entered = self.entry(channels_last(z))
        out: Tensor = self.stages(laid_out(stream, entered.dtype) + entered)
        return out


def deep_parts(
    channels: int, outputs: int, *, plan: Plan, latents: Sequence[int], said: Sequence[int] | None = None
) -> Parts:
    """All parts of a ladder on images of ``channels`` that ends in ``outputs`` numbers a pixel.

    ``latents`` are the channels of z_1 … z_T, of which the posteriors say ``said`` numbers a pixel each: by
    default twice as many, a mean and a log sigma.
    """
    said = [2 * latent for latent in latents] if said is None else said
    belows = (0, *plan.places[:-1])
    top = plan.places[-1]
    return Parts(
        DeepBottomUp(channels, plan),
        Head(plan.width_at(0), outputs, spatial=True, kernel=3),
        posteriors=[
            DeepPosteriorNetwork(numbers, plan, place)
            for numbers, place in zip(said, plan.places, strict=True)
        ],
        top_downs=[
            DeepTopDown(latent, plan, place, below)
            for latent, place, below in zip(latents, plan.places, belows, strict=True)
        ],
        priors=[
            Head(plan.width_at(place), 2 * latent, spatial=True)
            for latent, place in zip(latents[:-1], plan.places[:-1], strict=True)
        ],
        # Not zeros: the norm of an image of zeros has a gradient some hundred times any other.
        start=torch.randn(plan.width_at(top), *plan.sizes[top]),
        latent_shapes=[
            (latent, *plan.sizes[place]) for latent, place in zip(latents, plan.places, strict=True)
        ],
    )
