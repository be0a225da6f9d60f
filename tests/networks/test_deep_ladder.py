"""The parts of a deep ladder: where its levels are, where it starts, and that every input counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ancestral.networks.deep_ladder import Bottleneck, DeepTopDown, Plan, deep_parts
from ancestral.networks.ladder import level_sizes


def plan(size=(28, 28), per_size=(0, 2, 3, 1), *, width=64, **options) -> Plan:
    sizes = level_sizes(size, sum(per_size), per_size=per_size)
    return Plan.of(size, sizes, width=width, **{"blocks": 1, "dropout": 0.0, **options})


@pytest.mark.parametrize(
    ("size", "per_size", "expected"),
    [
        ((28, 28), (0, 2, 1), [(14, 14), (14, 14), (7, 7)]),
        ((28, 28), (1, 0, 0, 2), [(28, 28), (4, 4), (4, 4)]),
        ((32, 20), (0, 0, 0, 0, 0, 2), [(1, 1), (1, 1)]),
        ((2, 2), (0, 3, 0), [(1, 1)] * 3),
    ],
)
def test_levels_are_where_they_are_counted(size, per_size, expected):
    assert level_sizes(size, sum(per_size), per_size=per_size) == expected


def test_levels_below_a_single_pixel_are_refused():
    with pytest.raises(ValueError, match=r"8×8 are a single pixel after 3 halvings; give at most 4"):
        level_sizes((8, 8), 2, per_size=(0, 1, 0, 0, 1))


def test_a_plan_counts_halvings_and_narrows_large_images():
    one = plan(per_size=(1, 0, 2, 1))
    assert one.sizes == ((28, 28), (14, 14), (7, 7), (4, 4))
    assert one.places == (0, 2, 2, 3)
    assert [one.width_at(place) for place in range(4)] == [16, 32, 64, 64]
    assert one.middle == 16


def test_blocks_add_little_to_a_deep_stream():
    """The variance that T blocks add is about the same whatever T is, and not as T."""
    added = []
    for T in (8, 64):
        torch.manual_seed(0)
        one = Plan(((8, 8), (4, 4), (2, 2)), (2,) * T, 64)
        u = torch.randn(64, 64, 2, 2)
        blocks = [Bottleneck(one, 2) for _ in range(T)]
        added.append(float(sum(block(u) - u for block in blocks).detach().var()))
    assert added[1] == pytest.approx(added[0], rel=0.5)


def test_every_level_gets_features_of_its_size_and_levels_of_a_size_share_them():
    one = plan()
    parts = deep_parts(3, 6, plan=one, latents=[5] * 6)
    features = parts.bottom_up(torch.randn(2, 3, 28, 28))
    sizes = [(32, 14, 14)] * 2 + [(64, 7, 7)] * 3 + [(64, 4, 4)]
    assert [tuple(f.shape[1:]) for f in features] == sizes
    assert features[0] is features[1]
    assert features[2] is features[4]


def test_a_level_grows_through_the_sizes_that_have_none():
    one = plan(per_size=(0, 0, 0, 2))
    top, last = DeepTopDown(5, one, 3, 3), DeepTopDown(5, one, 3, 0)
    stream, z = torch.randn(2, 64, 4, 4), torch.randn(2, 5, 4, 4)
    assert top(stream, z).shape == (2, 64, 4, 4)
    assert last(stream, z).shape == (2, 16, 28, 28)
    assert not torch.allclose(last(stream, z + 1), last(stream, z))
    assert not torch.allclose(last(stream + torch.randn(64, 4, 4), z), last(stream, z))


def test_what_is_grown_repeats_pixels_and_adds_a_learned_image():
    one = plan(per_size=(0, 1))
    grow = DeepTopDown(5, one, 1, 0).stages[0]
    nn.init.normal_(grow.image)
    u = torch.randn(2, 32, 14, 14)
    plain = grow.narrow(u).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(grow(u), plain + grow.image)


def test_q_starts_at_p_and_reads_stream_and_features(perturb):
    one = plan()
    (net, *_) = deep_parts(1, 1, plan=one, latents=[5] * 6).posteriors
    stream, features = torch.randn(2, 32, 14, 14), torch.randn(2, 32, 14, 14)
    assert torch.equal(net(stream, features), torch.zeros(2, 10, 14, 14))
    perturb(net)
    base = net(stream, features)
    assert not torch.allclose(net(stream + 1, features), base)
    assert not torch.allclose(net(stream, features + 1), base)


def test_examples_do_not_see_each_other(perturb):
    net = perturb(deep_parts(1, 1, plan=plan((8, 8), (0, 1, 1), width=16), latents=[2, 2]).bottom_up.double())
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    for whole, alone in zip(net(x), net(x[2:3]), strict=True):
        torch.testing.assert_close(whole[2:3], alone, atol=1e-12, rtol=0)


def test_dropout_and_blocks_are_everywhere():
    few, many = (
        deep_parts(1, 1, plan=plan(blocks=blocks, dropout=0.25), latents=[2] * 6) for blocks in (1, 2)
    )

    def blocks(module: nn.Module) -> int:
        return sum(isinstance(part, Bottleneck) for part in module.modules())

    for ours, theirs in zip((few.bottom_up, *few.top_downs), (many.bottom_up, *many.top_downs), strict=True):
        assert blocks(theirs) == 2 * blocks(ours) > 0
    # One for every two levels of a size.
    assert blocks(few.bottom_up) == 1 + 2 + 1
    for part in (few.bottom_up, *few.top_downs, *few.posteriors):
        assert {m.p for m in part.modules() if isinstance(m, nn.Dropout)} == {0.25}
