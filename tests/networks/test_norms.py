"""The norm, its modulation and silu as one: values and gradients of the three layers, from less memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral.networks.norms import norm_silu


def written_out(norm: nn.GroupNorm, x: Tensor, modulation: Tensor | None) -> Tensor:
    h = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
    if modulation is not None:
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
        h = h * (1 + scale) + shift
    return h * torch.sigmoid(h)


def case(*, modulated: bool, dtype: torch.dtype = torch.float64, last: bool = True):
    torch.manual_seed(0)
    norm = nn.GroupNorm(2, 12).to(dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(3, 12, 5, 4, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    modulation = torch.randn(3, 24, dtype=dtype, requires_grad=True) if modulated else None
    inputs = [x, norm.weight, norm.bias, *([modulation] if modulation is not None else [])]
    return norm, x, modulation, inputs


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("modulated", [True, False])
def test_values_and_gradients_are_those_of_the_formula(modulated, last):
    norm, x, modulation, inputs = case(modulated=modulated, last=last)
    ours, theirs = norm_silu(norm, x, modulation), written_out(norm, x, modulation)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert ours.stride() == x.stride()
    # A gradient may come in either layout.
    for upstream in (torch.randn_like(ours), torch.randn(ours.shape, dtype=ours.dtype)):
        for a, b in zip(
            torch.autograd.grad(ours, inputs, upstream, retain_graph=True),
            torch.autograd.grad(theirs, inputs, upstream, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("modulated", [True, False])
def test_gradients_are_slopes(modulated):
    norm, x, modulation, _ = case(modulated=modulated)
    if modulation is None:
        assert torch.autograd.gradcheck(lambda u: norm_silu(norm, u), x)
    else:
        assert torch.autograd.gradcheck(lambda u, m: norm_silu(norm, u, m), (x, modulation))


def test_in_bf16_it_is_as_near_as_bf16_is():
    norm, x, modulation, inputs = case(modulated=True, dtype=torch.float32)
    half = x.detach().bfloat16().requires_grad_()
    ours, theirs = norm_silu(norm, half, modulation.bfloat16()), written_out(norm, x, modulation)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), theirs, rtol=0.03, atol=0.03)
    upstream = torch.randn_like(theirs)
    for a, b in zip(
        torch.autograd.grad(ours, [half, *inputs[1:]], upstream.bfloat16()),
        torch.autograd.grad(theirs, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.03 * float(b.abs().max()))


def kept_bytes(call) -> int:
    """Bytes kept for the backward pass, each memory once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = call()
        out.sum()
    return sum(kept.values())


def test_one_image_is_kept_and_not_three():
    norm, x, modulation, _ = case(modulated=True)
    small = 20 * 24 * 8
    ours = kept_bytes(lambda: norm_silu(norm, x, modulation))
    assert x.nbytes <= ours < x.nbytes + small
    assert kept_bytes(lambda: written_out(norm, x, modulation)) > 2 * x.nbytes


def test_without_a_gradient_nothing_differs():
    norm, x, modulation, _ = case(modulated=True)
    with torch.no_grad():
        torch.testing.assert_close(norm_silu(norm, x, modulation), written_out(norm, x, modulation))
