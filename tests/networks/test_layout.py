"""Images stay in channels-last memory through every operation, forward and backward, in fp32 and in bf16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ancestral.networks import ConvDecoder, ConvEncoder, UNet
from ancestral.networks.conv import channels_last
from ancestral.networks.deep_ladder import Plan, deep_parts
from ancestral.networks.ladder import BottomUp, Head, PosteriorNetwork, TopDown, level_sizes
from ancestral.training.objective import objective_of
from tiny import MODELS, built, images

N = 5
"""Examples: no kernel has this many outputs, so a tensor with this many rows is of images."""
SIZE = (14, 10)
SIZES = {SIZE, (7, 5), (4, 3), (8, 6)}
"""Of images on the way, with one that is cropped; unlike those of attention's products."""
LAYERS = {
    *("convolution", "convolution_backward", "native_group_norm", "native_group_norm_backward"),
    *("silu", "silu_backward", "upsample_nearest2d", "upsample_nearest2d_backward"),
}
WORK = LAYERS | {"add", "addcmul", "mul", "cat", "constant_pad_nd", "native_dropout", "_to_copy", "clone"}
"""Operations that write images. The others are views, and the products of attention."""

Step = Callable[[], Tensor]


class Watch(TorchDispatchMode):
    """Writes down each image that an operation was given or gave in another order, and each one cast."""

    def __init__(self, operations: set[str]) -> None:
        super().__init__()
        self.operations = operations
        self.seen = 0
        self.astray: list[str] = []
        self.casts: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in self.operations:
            given, gave = images_in(args), images_in(out)
            self.seen += len(gave)
            self.astray += [f"{name} {tuple(x.shape)} {x.stride()}" for x in given + gave if not ordered(x)]
            if name == "_to_copy":
                self.casts += [tuple(image.shape) for image in given]
        return out


def images_in(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        is_image = values.dim() == 4 and len(values) == N and tuple(values.shape[2:]) in SIZES
        # With one channel both orders are the same memory.
        return [values] if is_image and values.shape[1] > 1 else []
    return (
        [image for value in values for image in images_in(value)] if isinstance(values, list | tuple) else []
    )


def ordered(x: Tensor) -> bool:
    """Whether a pixel's channels are side by side, in an image or in a part cut from one."""
    strides = x.stride()
    return strides[1] == 1 and strides[0] >= strides[2] >= strides[3] >= x.shape[1]


def noise(channels: int, size: tuple[int, int]) -> Tensor:
    return channels_last(torch.randn(N, channels, *size))


def unet() -> tuple[nn.Module, Step]:
    net = UNet(3, 6, SIZE, channels=(16, 32, 32), attention=(7,), heads=2, dropout=0.1)
    z, t = noise(3, SIZE), torch.rand(N)
    return net, lambda: net(z, t)


def conv() -> tuple[nn.Module, Step]:
    encoder = ConvEncoder(3, SIZE, 8, width=16, dropout=0.1)
    decoder = ConvDecoder(8, 6, SIZE, width=16, dropout=0.1)
    x = noise(3, SIZE)
    return nn.ModuleList([encoder, decoder]), lambda: decoder(encoder(x))


def ladder() -> tuple[nn.Module, Step]:
    """Two levels as ``LadderHVAE`` uses them: the first stream is one parameter for all examples."""
    sizes = level_sizes(SIZE, 2)
    up = BottomUp(3, 16, size=SIZE, sizes=sizes, spatial=True, dropout=0.1)
    posteriors = [PosteriorNetwork(16, 8, spatial=True) for _ in sizes]
    downs = [TopDown(16, 4, spatial=True, size_below=below) for below in (SIZE, sizes[0])]
    head = Head(16, 6, spatial=True, kernel=3)
    start = nn.Parameter(torch.randn(16, *sizes[1]))
    net = nn.ModuleList([up, *posteriors, *downs, head, nn.ParameterList([start])])
    x = noise(3, SIZE)

    def draw(level: int, stream: Tensor, features: list[Tensor]) -> Tensor:
        mu, sigma = posteriors[level](stream, features[level]).float().chunk(2, dim=1)
        return torch.addcmul(mu, sigma, noise(4, sizes[level]))

    def run() -> Tensor:
        features, stream = up(x), start.expand(N, *start.shape)
        for level in (1, 0):
            stream = downs[level](stream, draw(level, stream, features))
        return head(stream)

    return net, run


def deep_ladder() -> tuple[nn.Module, Step]:
    """Three levels, two of them at one size, as ``LadderHVAE`` uses them."""
    plan = Plan.of(SIZE, [(7, 5), (4, 3), (4, 3)], width=64, blocks=1, dropout=0.1)
    parts = deep_parts(3, 6, plan=plan, latents=[4, 4, 4])
    start = nn.Parameter(parts.start)
    modules = [parts.bottom_up, parts.head, *parts.posteriors, *parts.top_downs, nn.ParameterList([start])]
    x = noise(3, SIZE)

    def run() -> Tensor:
        features, stream = parts.bottom_up(x), start.expand(N, *start.shape)
        for level in (2, 1, 0):
            mu, sigma = parts.posteriors[level](stream, features[level]).float().chunk(2, dim=1)
            z = torch.addcmul(mu, sigma, noise(4, parts.latent_shapes[level][1:]))
            stream = parts.top_downs[level](stream, z)
        return parts.head(stream)

    return nn.ModuleList(modules), run


NETWORKS = [unet, conv, ladder, deep_ladder]
LADDERS = [ladder, deep_ladder]


def watched(step: Step, operations: set[str], *, bf16: bool) -> Watch:
    with Watch(operations) as watch:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = step()
        out.backward(torch.ones_like(out))
    return watch


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_operation_of_a_network_keeps_the_order(network, bf16, perturb):
    net, step = network()
    perturb(net)
    # A ladder's first stream is put in order by a copy.
    watch = watched(step, WORK - {"clone"} if network in LADDERS else WORK, bf16=bf16)
    assert watch.seen > 50
    assert watch.astray == []


@pytest.mark.parametrize("network", NETWORKS)
def test_features_are_not_cast_on_the_way(network, perturb):
    net, step = network()
    perturb(net)
    assert watched(step, WORK, bf16=False).casts == []
    casts = [shape for shape in watched(step, WORK, bf16=True).casts if shape[1] >= 16]
    # A ladder's first stream is a parameter: both that read it cast it, and its gradient.
    width = {ladder: 16, deep_ladder: 64}.get(network)
    assert casts == ([(N, width, 4, 3)] * 4 if width else [])


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("model", ["vae-conv", "ladder", "bottom-up", "ddpm"])
def test_every_layer_of_a_chain_keeps_the_order(model, bf16, perturb, monkeypatch):
    """But for the parameters of laws, whose gradients come from formulas over the data's order."""
    monkeypatch.setitem(globals(), "SIZES", {(14, 14), (7, 7), (4, 4), (8, 8)})
    data = images(size=14, channels=3)
    chain = perturb(built(MODELS[model], data)).train()
    objective = objective_of(chain)
    watch = watched(lambda: objective(chain, data.train.x[:N]).value, LAYERS, bf16=bf16)
    assert watch.seen > 20
    laws = (f"({N}, 6, 14, 14)", f"({N}, 4,")
    assert [line for line in watch.astray if not any(shape in line for shape in laws)] == []
