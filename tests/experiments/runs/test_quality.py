"""Samples of a chain, measured: which sampler they are of, and that nothing else changes them."""

from __future__ import annotations

import pytest
import torch

from ancestral._internal.precision import compute_dtype, name_of
from ancestral.config import DDPMConfig
from ancestral.evaluation import Ruler
from ancestral.experiments.runs import measure_samples
from ancestral.experiments.runs.quality import check_count
from ancestral.sampling import SAMPLERS, Ancestral, Sampler, draw
from tiny import MODELS, built, images, vectors
from toys import Affine, Joint, TopDownGaussian, spd


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    return Ruler.of(images(120), n=20)


def precision_of(chain) -> str:
    return name_of(compute_dtype("auto", torch.device("cpu"), chain))


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
    assert (first.sampler, first.steps, first.network_calls) == ("ancestral", chain.T, chain.T)
    assert (first.words, first.precision) == ("ancestral, all levels", precision_of(chain))


def test_a_ddpm_of_many_levels_takes_fifty_unless_told(ruler):
    chain = built(DDPMConfig(T=60, channels=(4,), blocks=1, attention=()), images(120))
    calls = []
    chain.network.register_forward_hook(lambda *_: calls.append(1))
    every = "ancestral, all levels"
    for sampler, taken, words in (
        (None, 50, "ancestral, 50 of 60 levels"),
        (Ancestral(7), 7, "ancestral, 7 of 60 levels"),
        (Ancestral(60), 60, every),
        (Ancestral(), 60, every),
    ):
        calls.clear()
        found = measure_samples(chain, ruler, sampler=sampler)
        assert found.steps == found.network_calls == len(calls) == taken
        assert found.words == words
    with pytest.raises(ValueError, match="steps is 61; it must be from 1 to 60"):
        measure_samples(chain, ruler, sampler=Ancestral(61))


@pytest.mark.parametrize("name", SAMPLERS[1:])
def test_any_sampler_is_measured(name, ruler):
    """Its samples are those of ``draw``, from the same seed."""
    chain = built(MODELS["ddpm"], images(120)).eval()
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    sampler, calls = Sampler.named(name, 4), []
    chain.network.register_forward_hook(lambda *_: calls.append(1))
    found = measure_samples(chain, ruler, sampler=sampler, final="draw", seed=3)
    assert found.network_calls == len(calls) == (7 if name == "heun" else 4)
    assert (found.sampler, found.steps, found.final) == (name, 4, "draw")
    assert found.words == f"{name}, 4 steps" + (" (7 network calls)" if name == "heun" else "")
    assert found.quality == ruler.measure(draw(chain, ruler.n, sampler=sampler, seed=3))


def test_a_chain_of_ones_own_is_measured_at_its_floor():
    """With p the distribution of the data itself, samples are as far off as training examples."""
    joint = Joint(1, torch.zeros(2), torch.eye(2)).extend(
        0, [1], Affine(spd(2, 0), torch.tensor([3.0, -1.0]), spd(2, 1))
    )
    chain = TopDownGaussian(joint, 1)
    data = vectors(4000)
    marginal = joint.marginal(0)
    generator = torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(marginal.covariance)
    for split in (data.train, data.test):
        split.x.copy_(torch.randn(split.x.shape, generator=generator) @ root.T + marginal.bias)
    made = Ruler.of(data)
    found = measure_samples(chain, made, final="draw").quality
    assert found.sample.frechet < 4.0 * made.floor.frechet
    assert abs(found.sample.kernel.mean) < 5.0 * found.sample.kernel.stderr
    with pytest.raises(ValueError, match="3 steps for a TopDownGaussian: only a diffusion model has levels"):
        measure_samples(chain, made, sampler=Ancestral(3))


@pytest.mark.parametrize("count", [-1, 1, 7, True, 9.0])
def test_counts(count):
    check_count(0)
    check_count(8)
    with pytest.raises(ValueError, match=f"quality is {count}; it must be 0, for none, or at least 8"):
        check_count(count)
