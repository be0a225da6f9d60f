"""Samples of a chain, measured: which sampler they are of, and that nothing else changes them."""

from __future__ import annotations

import pytest
import torch

from ancestral.config import DDPMConfig
from ancestral.evaluation import Ruler
from ancestral.runs import measure_samples
from ancestral.runs.quality import check_count, levels_taken
from tiny import MODELS, built, images, vectors
from toys import Affine, Joint, TopDownGaussian, spd


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    return Ruler.of(images(120), n=20)


@pytest.mark.parametrize("kind", MODELS)
def test_a_measurement_is_a_function_of_the_seed(kind, ruler):
    chain = built(MODELS[kind], images(120)).train()
    with torch.no_grad():
        for parameter in chain.parameters():  # a new ladder makes the same of every z
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = measure_samples(chain, ruler, seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert chain.training
    assert measure_samples(chain, ruler, seed=2) == first
    assert measure_samples(chain, ruler, seed=3).quality.sample != first.quality.sample
    assert measure_samples(chain, ruler, seed=2, final="draw").quality.sample != first.quality.sample
    assert first.quality.floor == ruler.floor
    assert (first.network_calls, first.sampler) == (chain.T, "ancestral, all levels")


def test_a_ddpm_of_many_levels_takes_fifty_unless_told(ruler):
    chain = built(DDPMConfig(T=60, channels=(4,), blocks=1, attention=()), images(120))
    calls = []
    chain.network.register_forward_hook(lambda *_: calls.append(1))
    for steps, taken in ((None, 50), (7, 7), (60, 60)):
        calls.clear()
        found = measure_samples(chain, ruler, steps=steps)
        assert found.network_calls == len(calls) == taken
        assert found.sampler == (
            "ancestral, all levels" if taken == 60 else f"ancestral, {taken} of 60 levels"
        )
    for steps in (0, 61):
        with pytest.raises(ValueError, match=f"steps is {steps}; it must be from 1 to 60"):
            levels_taken(chain, steps)


def test_a_chain_of_ones_own_is_measured_at_its_floor():
    """With p the law of the data itself, samples are as far from the test examples as training ones are."""
    joint = Joint(1, torch.zeros(2), torch.eye(2)).extend(
        0, [1], Affine(spd(2, 0), torch.tensor([3.0, -1.0]), spd(2, 1))
    )
    chain = TopDownGaussian(joint, 1)
    data = vectors(4000)
    law = joint.marginal(0)
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(law.covariance)
    for split in (data.train, data.test):
        split.x.copy_(torch.randn(split.x.shape, generator=generator) @ root.T + law.bias)
    made = Ruler.of(data)
    found = measure_samples(chain, made, final="draw").quality
    assert found.sample.frechet < 4.0 * made.floor.frechet
    assert abs(found.sample.kernel.mean) < 5.0 * found.sample.kernel.stderr
    with pytest.raises(ValueError, match="steps is 3, for a ddpm, and this is a TopDownGaussian"):
        measure_samples(chain, made, steps=3)


@pytest.mark.parametrize("count", [-1, 1, 7, True, 9.0])
def test_counts(count):
    check_count(0)
    check_count(8)
    with pytest.raises(ValueError, match=f"quality is {count}; it must be 0, for none, or at least 8"):
        check_count(count)
