from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ancestral.networks import ConvDecoder, ConvEncoder, UNet
from ancestral.networks.attention import SelfAttention
from ancestral.networks.unet import level_sizes


def small(**options) -> UNet:
    return UNet(1, 2, (8, 8), **{"channels": (16, 32), "blocks": 1, **options})


def batch(n: int = 3, size: tuple[int, int] = (8, 8), dtype: torch.dtype = torch.float32):
    return torch.randn(n, 1, *size, dtype=dtype), torch.rand(n, dtype=dtype)


@pytest.mark.parametrize(
    ("size", "channels", "attention"),
    [
        ((2, 2), (8,), ()),
        ((2, 2), (8, 8), (1,)),
        ((8, 8), (8, 16), (8, 4)),
        ((7, 5), (8, 8, 8), (4,)),
        ((13, 8), (8, 16, 16), ()),
        ((28, 28), (8, 8, 16), (7,)),
        ((32, 32), (8, 8, 16), (16,)),
    ],
)
def test_starts_at_zero_then_depends_on_both(size, channels, attention, perturb):
    net = UNet(1, 2, size, channels=channels, blocks=1, attention=attention)
    z, t = batch(2, size)
    assert torch.equal(net(z, t), torch.zeros(2, 2, *size))
    perturb(net)
    assert (net(z, t) != net(z.flip(0), t)).any()
    assert (net(z, t) != net(z, t / 2)).any()


def test_every_pixel_can_reach_every_pixel(perturb):
    net = perturb(small().double())
    z, t = batch(1, dtype=torch.float64)
    z.requires_grad_()
    for row, column in ((0, 0), (7, 3)):
        (grad,) = torch.autograd.grad(net(z, t)[0, :, row, column].sum(), z)
        assert grad.all()


@pytest.mark.parametrize("blocks", [1, 2])
def test_gradients_reach_every_parameter(blocks, unreached):
    net = small(blocks=blocks, attention=(8,), heads=2)
    z, t = batch()
    assert unreached(net, lambda: net(z, t)) == []


def test_each_block_up_reads_what_its_mirror_image_wrote(perturb):
    net = perturb(UNet(1, 1, (7, 7), channels=(16, 32, 32), blocks=2))
    wrote, read = [], []
    for block in net.down:
        block.register_forward_hook(lambda _m, _i, out: wrote.append(out))
    for block in net.up:
        block.register_forward_hook(lambda _m, args, _o: read.append(args[0]))
    net(*batch(2, (7, 7)))
    assert len(wrote) == len(read) == 6
    for skip, both in zip(reversed(wrote), read, strict=True):
        assert torch.equal(both[:, both.shape[1] // 2 :], skip)


def test_the_time_modulates_every_block(perturb):
    net = perturb(small())
    given = []
    for module in net.modules():
        if type(module).__name__ == "ResidualBlock":
            module.register_forward_hook(lambda _m, args, _o: given.append(args[1]))
    net(*batch())
    assert [m.shape for m in given] == [(3, 2 * w) for w in (16, 32, 32, 32, 32, 16)]
    assert all((m[0] != m[1]).all() for m in given)


def test_attention_where_it_is_asked_for():
    net = UNet(1, 1, (28, 28), channels=(8, 8, 8), blocks=2, attention=(14,))
    has = [
        [isinstance(b.attention, SelfAttention) for b in stack] for stack in (net.down, net.middle, net.up)
    ]
    assert has == [
        [False, False, True, True, False, False],
        [True, False],
        [False, False, True, True, False, False],
    ]


def test_one_example_knows_nothing_of_the_others(perturb):
    net = perturb(small(attention=(8,)).double())
    z, t = batch(4, dtype=torch.float64)
    alone = torch.cat([net(z[i : i + 1], t[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(net(z, t), alone, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_format_of_the_input_does_not_matter(channels, perturb):
    net = perturb(UNet(channels, 1, (8, 8), channels=(16, 16), blocks=1))
    z, t = torch.randn(2, channels, 8, 8), torch.rand(2)
    assert torch.equal(net(z, t), net(z.contiguous(memory_format=torch.channels_last), t))


def test_images_stay_channels_last_on_the_way(perturb):
    net = perturb(small(attention=(8,)))
    seen = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.GroupNorm | SelfAttention):
            module.register_forward_hook(lambda _m, _i, out: seen.append(out))
    net(*batch())
    assert len(seen) > 20
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)


def test_weights_are_channels_last_and_stay_so():
    for net in (small(), ConvEncoder(1, (8, 8), 3, width=16), ConvDecoder(3, 1, (8, 8), width=16)):
        for same in (net, copy.deepcopy(net), net.double()):
            kernels = [p for p in same.parameters() if p.dim() == 4]
            assert len(kernels) > 4
            assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_bf16_autocast_is_close(perturb):
    net = perturb(small(attention=(8,)))
    z, t = batch(16)
    exact = net(z, t)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(z, t)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()


def test_a_seed_fixes_weights_and_dropout():
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        net = small(dropout=0.5)
        nn.init.ones_(net.last.weight)
        nn.init.ones_(net.down[0].residual.conv2.weight)
        outputs.append(net(*batch()))
    assert torch.equal(*outputs)
    assert not torch.equal(net(*batch()), outputs[0])


def test_names_are_stable():
    """A checkpoint is read by these names."""
    net = small(attention=(4,))
    assert list(net.buffers()) == []
    names = net.state_dict().keys()
    assert {name.split(".")[0] for name in names} == {
        *("time", "first", "down", "shrink", "middle", "up", "grow", "norm", "last", "modulation")
    }
    block = {name.removeprefix("down.1.") for name in names if name.startswith("down.1.")}
    layers = ("residual.norm1", "residual.conv1", "residual.norm2", "residual.conv2", "residual.shortcut")
    layers += ("attention.norm", "attention.qkv", "attention.out")
    assert block == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def test_weights_load_into_another_network(perturb):
    net, other = perturb(small(attention=(4,))), small(attention=(4,))
    other.load_state_dict({name: value.contiguous() for name, value in net.state_dict().items()})
    z, t = batch()
    assert torch.equal(net(z, t), other(z, t))


def test_levels():
    assert level_sizes((28, 28), (1, 1, 1)) == [(28, 28), (14, 14), (7, 7)]
    assert level_sizes((7, 5), (1, 1, 1, 1)) == [(7, 5), (4, 3), (2, 2), (1, 1)]
    with pytest.raises(ValueError, match=r"4 levels at size 4×4; .* halved 2 times, so give at most 3"):
        level_sizes((4, 4), (8, 8, 8, 8))
    with pytest.raises(ValueError, match="channels is empty"):
        level_sizes((4, 4), ())


def test_user_mistakes():
    with pytest.raises(ValueError, match=r"attention names the side 5, .* sides are 8, 4"):
        small(attention=(8, 5))
    with pytest.raises(ValueError, match="heads is 3 at 32 channels"):
        small(heads=3)
    with pytest.raises(ValueError, match="sides of at least 2"):
        UNet(1, 1, (1, 1), channels=(8,))
    with pytest.raises(ValueError, match=r"images are \(3, 1, 8, 9\)"):
        small()(torch.randn(3, 1, 8, 9), torch.rand(3))
    with pytest.raises(ValueError, match=r"time is \(2,\)"):
        small()(torch.randn(3, 1, 8, 8), torch.rand(2))
    with pytest.raises(ValueError, match="blocks is 0"):
        small(blocks=0)
