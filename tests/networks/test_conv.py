from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ancestral.networks import ConvDecoder, ConvEncoder
from ancestral.networks.conv import ResidualBlock, Upsample
from ancestral.networks.norms import group_width

SIZES = [(2, 2), (2, 5), (3, 3), (4, 4), (7, 5), (8, 8), (9, 6), (13, 13), (28, 28), (32, 32), (64, 64)]


def images(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(size, channels):
    x = torch.randn(2, channels, *size)
    vector = ConvEncoder(channels, size, 5, width=4)(x)
    assert vector.shape == (2, 5)
    assert ConvDecoder(5, channels, size, width=4)(vector).shape == x.shape


@pytest.mark.parametrize(
    ("size", "smallest"),
    [
        ((28, 28), (4, 4)),
        ((8, 8), (4, 4)),
        ((7, 5), (4, 3)),
        ((5, 4), (5, 4)),
        ((2, 2), (2, 2)),
        ((64, 64), (4, 4)),
    ],
)
def test_halved_while_both_sides_are_above_four(size, smallest):
    decoder = ConvDecoder(1, 1, size, width=4)
    assert decoder.sizes[0] == smallest
    assert decoder.sizes[-1] == size


def test_gradients_reach_every_parameter(unreached):
    x, z = torch.randn(4, 1, 7, 7), torch.randn(4, 3)
    encoder, decoder = ConvEncoder(1, (7, 7), 3, width=8), ConvDecoder(3, 1, (7, 7), width=8)
    assert unreached(encoder, lambda: encoder(x)) == []
    assert unreached(decoder, lambda: decoder(z)) == []


def test_residual_block_by_hand(perturb):
    """The formula, with a group norm spelt out: 32 channels are two groups of 16."""
    block = perturb(ResidualBlock(32, 48).double())
    x, modulation = images(2, 32, 5, 6), images(2, 96)

    def silu(h):
        return h * torch.sigmoid(h)

    def normed(h, norm):
        groups = h.reshape(2, -1, 16 * 5 * 6)
        mean, var = groups.mean(dim=2, keepdim=True), groups.var(dim=2, keepdim=True, unbiased=False)
        h = ((groups - mean) / (var + 1e-5).sqrt()).reshape(h.shape)
        return h * norm.weight[:, None, None] + norm.bias[:, None, None]

    h = F.conv2d(silu(normed(x, block.norm1)), block.conv1.weight, block.conv1.bias, padding=1)
    scale, shift = modulation[:, :48].reshape(2, 48, 1, 1), modulation[:, 48:].reshape(2, 48, 1, 1)
    h = normed(h, block.norm2)
    plain, modulated = (
        F.conv2d(silu(g), block.conv2.weight, block.conv2.bias, padding=1)
        for g in (h, h * (1 + scale) + shift)
    )
    straight = torch.einsum("oi,nihw->nohw", block.shortcut.weight, x)
    straight = straight + block.shortcut.bias[:, None, None]
    torch.testing.assert_close(block(x), plain + straight, atol=1e-10, rtol=0)
    torch.testing.assert_close(block(x, modulation), modulated + straight, atol=1e-10, rtol=0)


def test_residual_block_starts_as_its_shortcut():
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(ResidualBlock(16, 16)(x), x)


@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 2), (13, 8)])
def test_upsample_is_doubling_then_a_convolution(size):
    up = Upsample(3, 5).double()
    x = images(2, 3, (size[0] + 1) // 2, (size[1] + 1) // 2)
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = F.conv2d(doubled, up.conv.weight, up.conv.bias, padding=1)[..., : size[0], : size[1]]
    torch.testing.assert_close(up(x, size), expected, atol=1e-12, rtol=0)


def test_upsample_gradients_are_those_of_doubling_then_a_convolution():
    up = Upsample(3, 2).double()
    x = images(2, 3, 4, 4).requires_grad_()
    inputs = (x, up.conv.weight, up.conv.bias)
    g = images(2, 2, 7, 8)
    doubled = F.interpolate(x, scale_factor=2, mode="nearest")
    expected = F.conv2d(doubled, up.conv.weight, up.conv.bias, padding=1)[..., :7, :]
    found = torch.autograd.grad(up(x, (7, 8)), inputs, g)
    for a, b in zip(found, torch.autograd.grad(expected, inputs, g), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


def test_one_example_knows_nothing_of_the_others(perturb):
    encoder = perturb(ConvEncoder(2, (9, 6), 3, width=16).double())
    decoder = perturb(ConvDecoder(3, 2, (9, 6), width=16).double())
    x, z = images(3, 2, 9, 6), images(3, 3)
    for net, whole in ((encoder, x), (decoder, z)):
        alone = torch.cat([net(whole[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(net(whole), alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_format_of_the_input_does_not_matter(channels):
    net = ConvEncoder(channels, (8, 8), 4, width=16)
    x = torch.randn(3, channels, 8, 8)
    assert torch.equal(net(x), net(x.contiguous(memory_format=torch.channels_last)))
    strided = torch.randn(3, 8, 8, 2 * channels).permute(0, 3, 1, 2)[:, ::2]
    assert torch.equal(net(strided), net(strided.contiguous()))


@pytest.mark.parametrize("channels", [1, 2])
def test_images_stay_channels_last_on_the_way(channels):
    seen = []
    encoder = ConvEncoder(channels, (16, 16), 3, width=16)
    decoder = ConvDecoder(3, 2, (16, 16), width=16)
    for module in (*encoder.modules(), *decoder.modules()):
        if isinstance(module, torch.nn.Conv2d | ResidualBlock | Upsample):
            module.register_forward_hook(lambda _m, _i, out: seen.append(out))
    decoder(encoder(torch.randn(2, channels, 16, 16)))
    assert len(seen) > 20
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)


def test_bf16_autocast_is_close(perturb):
    encoder = perturb(ConvEncoder(1, (28, 28), 8, width=16))
    decoder = perturb(ConvDecoder(8, 1, (28, 28), width=16))
    for net, x in ((encoder, torch.randn(4, 1, 28, 28)), (decoder, torch.randn(4, 8))):
        exact = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x)
        assert rough.dtype == torch.bfloat16
        assert (rough.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("channels", "width"),
    [(1, 1), (2, 2), (12, 12), (16, 16), (24, 12), (32, 16), (34, 34), (17, 17), (96, 16)],
)
def test_groups(channels, width):
    assert group_width(channels) == width


def test_user_mistakes():
    with pytest.raises(ValueError, match=r"images are 1×.*sides of at least 2"):
        ConvEncoder(1, (1, 1), 3, width=4)
    with pytest.raises(ValueError, match="images are 8×1"):
        ConvDecoder(3, 1, (8, 1), width=4)
    with pytest.raises(ValueError, match=r"size is \(8,\)"):
        ConvEncoder(1, (8,), 3, width=4)
    with pytest.raises(ValueError, match="width is 0"):
        ConvEncoder(1, (8, 8), 3, width=0)
    with pytest.raises(
        ValueError, match=r"images are \(2, 1, 8, 7\); this network was built for \(n, 1, 8, 8\)"
    ):
        ConvEncoder(1, (8, 8), 3, width=4)(torch.randn(2, 1, 8, 7))
