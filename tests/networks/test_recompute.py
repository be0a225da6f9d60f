"""Gradient checkpointing: the same numbers from fewer saved bytes, for every block of every network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from ancestral.networks import ConvDecoder, ConvEncoder, TimeMLP, Transformer, UNet
from ancestral.networks.attention import SelfAttention
from ancestral.networks.deep_ladder import Plan, deep_parts
from ancestral.networks.ladder import BottomUp, PosteriorNetwork, TopDown, level_sizes
from ancestral.networks.recompute import Block

Call = Callable[[], Tensor]


def unet(dropout: float) -> tuple[nn.Module, Call]:
    net = UNet(1, 2, (8, 8), channels=(16, 32), blocks=1, attention=(8,), heads=2, dropout=dropout)
    z, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    return net, lambda: net(z, t)


def transformer(dropout: float) -> tuple[nn.Module, Call]:
    net = Transformer(1, 2, (8, 8), width=16, depth=3, heads=2, dropout=dropout)
    z, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    return net, lambda: net(z, t)


def time_mlp(dropout: float) -> tuple[nn.Module, Call]:
    net = TimeMLP(5, 5, hidden=16, depth=6, dropout=dropout)
    z, t = torch.randn(9, 5), torch.rand(9)
    return net, lambda: net(z, t)


def conv(dropout: float) -> tuple[nn.Module, Call]:
    encoder = ConvEncoder(1, (16, 16), 4, width=8, dropout=dropout)
    decoder = ConvDecoder(4, 1, (16, 16), width=8, dropout=dropout)
    x = torch.randn(3, 1, 16, 16)
    return nn.ModuleList([encoder, decoder]), lambda: decoder(encoder(x))


def ladder(dropout: float) -> tuple[nn.Module, Call]:
    sizes = level_sizes((8, 8), 2)
    up = BottomUp(1, 16, size=(8, 8), sizes=sizes, spatial=True, blocks=2, dropout=dropout)
    q = PosteriorNetwork(16, 8, spatial=True, dropout=dropout)
    down = TopDown(16, 8, spatial=True, size_below=sizes[0], blocks=2, dropout=dropout)
    x = torch.randn(3, 1, 8, 8)

    def run() -> Tensor:
        features = up(x)
        return down(features[1], q(features[1], features[1])) + features[0]

    return nn.ModuleList([up, q, down]), run


def deep_ladder(dropout: float) -> tuple[nn.Module, Call]:
    plan = Plan.of((8, 8), [(4, 4), (2, 2)], width=16, blocks=2, dropout=dropout)
    parts = deep_parts(1, 1, plan=plan, latents=[4, 4])
    x = torch.randn(3, 1, 8, 8)

    def run() -> Tensor:
        features = parts.bottom_up(x)
        stream = features[1]
        for level in (1, 0):
            stream = parts.top_downs[level](stream, parts.posteriors[level](stream, features[level])[:, :4])
        return stream

    return nn.ModuleList([parts.bottom_up, *parts.posteriors, *parts.top_downs]), run


NETWORKS = [unet, transformer, time_mlp, conv, ladder, deep_ladder]


def blocks_of(net: nn.Module) -> Iterator[Block]:
    return (module for module in net.modules() if isinstance(module, Block))


def set_recompute(net: nn.Module, on: bool) -> None:
    for block in blocks_of(net):
        block.recompute = on


def gradients(net: nn.Module, run: Call, seed: int = 1) -> tuple[Tensor, dict[str, Tensor]]:
    torch.manual_seed(seed)
    net.zero_grad(set_to_none=True)
    loss = (run() - 1.0).square().sum()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def saved_bytes(net: nn.Module, run: Call) -> int:
    """Bytes kept between the forward and the backward pass, each storage once, without the weights'."""
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    storages: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = run()
    assert kept.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("network", NETWORKS)
def test_loss_and_gradients_are_the_same(network, dropout, perturb):
    net, run = network(dropout)
    perturb(net)
    loss, plain = gradients(net, run)
    set_recompute(net, True)
    again, recomputed = gradients(net, run)
    assert torch.equal(again, loss)
    assert len(plain) == len(list(net.parameters()))
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, recomputed[name]), name
    other, _ = gradients(net, run, seed=2)
    assert torch.equal(other, loss) == (dropout == 0.0)


@pytest.mark.parametrize("network", NETWORKS)
def test_less_is_kept_for_the_backward_pass(network, perturb):
    net, run = network(0.0)
    perturb(net)
    plain = saved_bytes(net, run)
    set_recompute(net, True)
    assert saved_bytes(net, run) < 0.7 * plain


@pytest.mark.parametrize("network", NETWORKS)
def test_under_autocast_too(network, perturb):
    net, run = network(0.0)
    perturb(net)

    def rough() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            out = run()
        return out.float()

    loss, plain = gradients(net, rough)
    set_recompute(net, True)
    again, recomputed = gradients(net, rough)
    assert torch.equal(again, loss)
    assert all(torch.equal(gradient, recomputed[name]) for name, gradient in plain.items())


def runs_of_blocks(net: nn.Module, run: Call) -> int:
    """How often blocks are computed in a forward and a backward pass."""
    counts = []
    for block in blocks_of(net):
        inner = next(module for module in block.modules() if isinstance(module, nn.Linear | nn.Conv2d))
        inner.register_forward_pre_hook(lambda _m, _i: counts.append(1))
    out = run()
    if out.requires_grad:
        out.sum().backward()
    return len(counts)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_block_is_computed_twice_and_only_in_training(network, perturb):
    net, run = network(0.0)
    perturb(net)
    number = len(list(blocks_of(net)))
    assert number >= 3
    set_recompute(net, True)
    assert runs_of_blocks(net, run) == 2 * number
    net.eval()
    net, run = network(0.0)
    perturb(net.eval())
    set_recompute(net, True)
    assert runs_of_blocks(net, run) == number


@pytest.mark.parametrize("network", NETWORKS)
def test_blocks_are_leaves_and_weights_keep_their_names(network):
    net, _ = network(0.0)
    for block in blocks_of(net):
        assert list(blocks_of(block)) == [block]
    names = list(net.state_dict())
    set_recompute(net, True)
    assert list(net.state_dict()) == names


def test_random_numbers_are_kept_only_where_some_are_drawn():
    assert not any(block.draws_randomly for block in blocks_of(unet(0.0)[0]))
    drawn = [block.draws_randomly for block in blocks_of(unet(0.3)[0])]
    attention = [isinstance(block, SelfAttention) for block in blocks_of(unet(0.3)[0])]
    assert drawn == [not here for here in attention]


def test_hooks_see_a_block_once(perturb):
    net, run = unet(0.0)
    perturb(net)
    set_recompute(net, True)
    seen = []
    for block in blocks_of(net):
        block.register_forward_hook(lambda module, _i, _o: seen.append(module))
    run().sum().backward()
    assert len(seen) == len(set(seen)) == len(list(blocks_of(net)))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("network", "dropout"), [(unet, 0.3), (transformer, 0.3), (ladder, 0.0)])
def test_a_compiler_sees_one_graph_and_differentiates_it(network, dropout, perturb):
    """Against a difference quotient: the second run has to draw what the first drew, compiled as well."""
    net, run = network(dropout)
    perturb(net)
    set_recompute(net, True)
    direction = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    with warnings.catch_warnings():
        # The compiler's own imports warn.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.compiler.reset()
        compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
        _, found = gradients(net, compiled)
        slope = sum((found[name] * v).sum() for name, v in direction.items())
        values, step = [], 1e-6
        for move in (step, -2 * step):
            with torch.no_grad():
                for name, parameter in net.named_parameters():
                    parameter.add_(direction[name], alpha=move)
            values.append(gradients(net, compiled)[0])
    torch.testing.assert_close((values[0] - values[1]) / (2 * step), slope, atol=0, rtol=1e-5)
