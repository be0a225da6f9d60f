"""The diffusion transformer: its parts against formulas, the whole against a plain reference."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral.networks import Transformer
from ancestral.networks.transformer import Rotary, head_count, rms_scale, rotated, unpatched

EXACT = {"atol": 1e-11, "rtol": 1e-11}


def small(size: tuple[int, int] = (8, 6), **options) -> Transformer:
    return Transformer(2, 3, size, **{"width": 16, "depth": 2, "heads": 2, **options})


def batch(n: int = 3, size: tuple[int, int] = (8, 6)) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 2, *size), torch.rand(n)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize(("size", "patch"), [((8, 8), 2), ((6, 9), 3), ((4, 8), 4), ((5, 3), 1), ((4, 4), 4)])
def test_starts_at_zero_then_depends_on_both(size, patch, positions, perturb):
    net = small(size, patch=patch, positions=positions)
    z, t = batch(2, size)
    assert torch.equal(net(z, t), torch.zeros(2, 3, *size))
    perturb(net)
    assert (net(z, t) != net(z.flip(0), t)).any()
    assert (net(z, t) != net(z, t / 2)).any()


def test_adaln_zero_every_block_starts_as_the_identity():
    net = small()
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    net(*batch())
    assert len(seen) == 2
    assert all(torch.equal(before, after) for before, after in seen)
    assert seen[0][0].any()


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_gradients_reach_every_parameter(positions, unreached):
    net = small(positions=positions, patch=1)
    z, t = batch()
    assert unreached(net, lambda: net(z, t)) == []


@pytest.mark.parametrize(("size", "patch"), [((8, 6), 2), ((6, 9), 3), ((3, 5), 1)])
def test_unpatched_undoes_cutting_into_patches(size, patch):
    x = torch.randn(2, 3, *size)
    tokens = F.unfold(x, patch, stride=patch).transpose(1, 2)
    assert torch.equal(unpatched(tokens, (size[0] // patch, size[1] // patch), patch), x)


def test_a_token_is_a_linear_map_of_its_patch():
    net = small(patch=2).double()
    seen = []
    net.blocks[0].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    z, t = (tensor.double() for tensor in batch())
    net(z, t)
    tokens = F.unfold(z, 2, stride=2).transpose(1, 2) @ net.first.weight.flatten(1).T + net.first.bias
    torch.testing.assert_close(seen[0], tokens, **EXACT)
    assert seen[0].is_contiguous()


# Rotary positions ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("float64")
def test_rotary_is_a_complex_product():
    rows, columns, d = 3, 5, 12
    x = torch.randn(2, rows * columns, 2, 4, d)
    found = rotated(x, Rotary((rows, columns), d)(torch.float64))
    for token in range(rows * columns):
        for plane in range(d // 2):
            place = token // columns if plane < d // 4 else token % columns
            angle = place * 100.0 ** (-(plane % (d // 4)) / (d // 4))
            turned = torch.complex(x[:, token, ..., plane], x[:, token, ..., plane + d // 2])
            turned = turned * complex(math.cos(angle), math.sin(angle))
            torch.testing.assert_close(found[:, token, ..., plane], turned.real, **EXACT)
            torch.testing.assert_close(found[:, token, ..., plane + d // 2], turned.imag, **EXACT)


@pytest.mark.usefixtures("float64")
def test_scores_depend_on_differences_of_positions_only():
    rows, columns, d = 4, 6, 8
    q, k = torch.randn(2, d)
    everywhere = torch.stack([q, k]).expand(1, rows * columns, 2, d)[:, :, :, None]
    turned = rotated(everywhere, Rotary((rows, columns), d)(torch.float64))[0, :, :, 0]
    scores = turned[:, 0] @ turned[:, 1].T
    by_difference: dict[tuple[int, int], list[Tensor]] = {}
    for i in range(rows * columns):
        for j in range(rows * columns):
            apart = (i // columns - j // columns, i % columns - j % columns)
            by_difference.setdefault(apart, []).append(scores[i, j])
    assert len(by_difference) == (2 * rows - 1) * (2 * columns - 1)
    same = [torch.stack(found) for found in by_difference.values()]
    assert max(float(found.max() - found.min()) for found in same) < 1e-12
    means = torch.stack([found.mean() for found in same]).sort().values
    assert float((means[1:] - means[:-1]).min()) > 1e-6
    torch.testing.assert_close(by_difference[0, 0][0], q @ k, **EXACT)


def test_tables_are_exact_before_they_are_rounded_and_are_no_weights():
    rotary = Rotary((64, 64), 16)
    assert rotary.state_dict() == {}
    angle = torch.tensor(63.0, dtype=torch.float64) * 100.0**-0.25
    assert rotary.cos[63, 0, 0, 5] == angle.cos().float()
    assert rotary.sin[63, 0, 0, 13] == angle.sin().float()
    assert [table.dtype for table in rotary(torch.bfloat16)] == [torch.bfloat16] * 2


# The whole -------------------------------------------------------------------------------------------------


def reference(net: Transformer, z: Tensor, time: Tensor) -> Tensor:
    """The network written as its formulas, one example, one head and one token at a time."""
    p, (rows, columns) = net.patch, net.grid
    width = net.last.in_features
    images = []
    for image, embedded in zip(z, F.silu(net.time(time)), strict=True):
        parts = (net.modulation.weight @ embedded + net.modulation.bias).reshape(-1, width)
        tokens = []
        for i in range(rows):
            for j in range(columns):
                cut = image[:, i * p : i * p + p, j * p : j * p + p].flatten()
                tokens.append(net.first.weight.flatten(1) @ cut + net.first.bias)
        h = torch.stack(tokens)
        if net.rotary is None:
            h = h + net.positions
        for number, block in enumerate(net.blocks):
            shift, scale, gate, shift2, scale2, gate2 = parts[6 * number : 6 * number + 6]
            mixed = attention(net, block, normed(h) * (1 + scale) + shift)
            h = h + gate * (mixed @ block.out.weight.T + block.out.bias)
            inner = (normed(h) * (1 + scale2) + shift2) @ block.inner.weight.T + block.inner.bias
            inner = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
            h = h + gate2 * (inner @ block.outer.weight.T + block.outer.bias)
        shift, scale = parts[-2:]
        values = (normed(h) * (1 + scale) + shift) @ net.last.weight.T + net.last.bias
        out = torch.empty(values.shape[1] // p**2, rows * p, columns * p)
        for token, value in enumerate(values):
            i, j = divmod(token, columns)
            out[:, i * p : i * p + p, j * p : j * p + p] = value.reshape(-1, p, p)
        images.append(out)
    return torch.stack(images)


def normed(h: Tensor) -> Tensor:
    centred = h - h.mean(dim=1, keepdim=True)
    return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()


def attention(net: Transformer, block: nn.Module, h: Tensor) -> Tensor:
    width = h.shape[1]
    d = width // block.heads
    q, k, v = (h @ w.T + b for w, b in zip(block.qkv.weight.chunk(3), block.qkv.bias.chunk(3), strict=True))
    out = torch.empty_like(h)
    for head in range(block.heads):
        part = slice(head * d, (head + 1) * d)
        q_head, k_head = (
            gain * x[:, part] / (x[:, part].square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
            for x, gain in ((q, block.gain[head]), (k, block.gain[block.heads + head]))
        )
        if net.rotary is not None:
            q_head, k_head = (turned(x, net.grid[1]) for x in (q_head, k_head))
        weights = (q_head @ k_head.T / math.sqrt(d)).exp()
        out[:, part] = weights / weights.sum(dim=1, keepdim=True) @ v[:, part]
    return out


def turned(x: Tensor, columns: int) -> Tensor:
    """Each token's features as planes, turned by rotation matrices."""
    d = x.shape[1]
    out = torch.empty_like(x)
    for token in range(len(x)):
        for plane in range(d // 2):
            place = token // columns if plane < d // 4 else token % columns
            angle = place * 100.0 ** (-(plane % (d // 4)) / (d // 4))
            cos, sin = math.cos(angle), math.sin(angle)
            a, b = x[token, plane], x[token, plane + d // 2]
            out[token, plane], out[token, plane + d // 2] = cos * a - sin * b, sin * a + cos * b
    return out


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_the_whole_is_its_formulas(positions, perturb):
    net = perturb(small(positions=positions))
    z, t = batch(2)
    with torch.no_grad():
        expected = reference(net, z, t)
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(net(z, t), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_every_pixel_can_reach_every_pixel(positions, perturb):
    net = perturb(small(positions=positions).double())
    z, t = (tensor.double() for tensor in batch(1))
    z.requires_grad_()
    for row, column in ((0, 0), (7, 3)):
        (grad,) = torch.autograd.grad(net(z, t)[0, :, row, column].sum(), z)
        assert grad.all()


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_positions_tell_patches_apart(positions, perturb):
    """Without them, swapping two patches of the input would only swap the output's."""
    net = perturb(small((4, 4), positions=positions)).double()
    z, t = torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.rand(1, dtype=torch.float64)
    swapped = torch.cat([z[..., 2:], z[..., :2]], dim=3)
    out, again = net(z, t), net(swapped, t)
    assert (out - torch.cat([again[..., 2:], again[..., :2]], dim=3)).abs().max() > 1e-4


def test_one_example_knows_nothing_of_the_others(perturb):
    net = perturb(small().double())
    z, t = (tensor.double() for tensor in batch(4))
    alone = torch.cat([net(z[i : i + 1], t[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(net(z, t), alone, atol=1e-10, rtol=1e-10)


def test_memory_format_of_the_input_does_not_matter(perturb):
    net = perturb(small())
    z, t = batch()
    assert torch.equal(net(z, t), net(z.contiguous(memory_format=torch.channels_last), t))


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_bf16_autocast_is_close(positions, perturb):
    net = perturb(small(positions=positions, width=64))
    z, t = batch(16)
    exact = net(z, t)
    (exact_grad,) = torch.autograd.grad(exact.square().mean(), net.blocks[0].qkv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(z, t)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.05 * exact.norm()
    (grad,) = torch.autograd.grad(rough.float().square().mean(), net.blocks[0].qkv.weight)
    assert (grad - exact_grad).norm() < 0.15 * exact_grad.norm()


def test_statistics_are_in_float32_whatever_the_features_are_in():
    x = torch.randn(5, 64, dtype=torch.float64).bfloat16()
    found = rms_scale(x)
    assert found.dtype == torch.float32
    expected = (x.double().square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()
    torch.testing.assert_close(found.double(), expected, atol=0, rtol=1e-6)
    assert rms_scale(x.double()).dtype == torch.float64


def test_no_norm_of_zero_breaks_the_gradient():
    x = torch.zeros(2, 8, requires_grad=True)
    (x * rms_scale(x)).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1e3))


def test_dropout_is_of_hidden_units_in_training_only(perturb):
    net = perturb(small(dropout=0.5))
    z, t = batch()
    assert not torch.equal(net(z, t), net(z, t))
    net.eval()
    assert torch.equal(net(z, t), net(z, t))


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_a_compiler_sees_one_graph(positions, perturb):
    net = perturb(small(positions=positions))
    z, t = batch()
    with warnings.catch_warnings():
        # The compiler's own imports warn.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.compiler.reset()
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(z, t), net(z, t), atol=1e-5, rtol=1e-5)


def test_names_are_stable():
    """A checkpoint is read by these names."""
    names = small().state_dict().keys()
    assert {name.split(".")[0] for name in names} == {"time", "first", "blocks", "last", "modulation"}
    block = {name.removeprefix("blocks.1.") for name in names if name.startswith("blocks.1.")}
    layers = ("qkv", "out", "inner", "outer")
    assert block == {"gain", *(f"{layer}.{part}" for layer in layers for part in ("weight", "bias"))}
    assert set(small(positions="learned").state_dict()) == {*names, "positions"}


@pytest.mark.parametrize(
    ("width", "rotary", "heads"),
    [(16, True, 1), (64, True, 1), (128, True, 2), (384, True, 6), (200, True, 2), (200, False, 2)],
)
def test_heads_by_default(width, rotary, heads):
    assert head_count(width, None, rotary=rotary) == heads


def test_user_mistakes():
    with pytest.raises(ValueError, match=r"patch is 4 and images are 8×6; .* Use one of 1, 2\."):
        small(patch=4)
    with pytest.raises(ValueError, match=r"width is 16 with heads 3; the heads must divide it"):
        small(heads=3)
    with pytest.raises(ValueError, match=r"width is 16 with heads 8; .* multiple of 32"):
        small(heads=8)
    assert small(heads=8, positions="learned").blocks[0].heads == 8
    with pytest.raises(ValueError, match=r"width is 18 with heads 1; .* multiple of 4"):
        small(width=18, heads=None)
    with pytest.raises(ValueError, match="positions is 'sinus'"):
        small(positions="sinus")
    with pytest.raises(ValueError, match="depth is 0"):
        small(depth=0)
    with pytest.raises(ValueError, match=r"images are \(3, 2, 6, 8\)"):
        small()(torch.randn(3, 2, 6, 8), torch.rand(3))
    with pytest.raises(ValueError, match=r"time is \(2,\)"):
        small()(torch.randn(3, 2, 8, 6), torch.rand(2))
