"""The samplers of a diffusion beside one another: at which calls, and each as it is measured alone."""

from __future__ import annotations

import pytest
import torch

from ancestral.config import DDPMConfig
from ancestral.evaluation import Ruler
from ancestral.experiments.runs import measure_samplers, measure_samples
from ancestral.experiments.runs.curve import CALLS, steps_for
from ancestral.sampling import SAMPLERS, Sampler
from tiny import MODELS, built, images


@pytest.fixture(scope="module")
def ruler() -> Ruler:
    return Ruler.of(images(120), n=12)


def test_steps_take_about_as_many_calls():
    chain = built(DDPMConfig(T=60, channels=(4,), blocks=1, attention=()), images())
    steps = steps_for(chain)
    assert tuple(steps) == SAMPLERS
    for name, counts in steps.items():
        taken = [Sampler.named(name, count).calls(chain) for count in counts]
        assert taken == ([5, 9, 19, 49] if name == "heun" else list(CALLS))
    # With fewer levels than calls, all of them, once.
    assert set(map(tuple, steps_for(built(MODELS["ddpm"], images())).values())) == {(5, 10, 12), (3, 5, 6)}
    assert steps_for(chain, [1])["heun"] == [1]
    with pytest.raises(ValueError, match="calls is 0; it must be at least 1"):
        steps_for(chain, [5, 0])


def test_each_point_is_that_samplers_measurement(ruler):
    chain = built(MODELS["ddpm"], images(120)).train()
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    found = measure_samplers(chain, ruler, calls=[2, 4], seed=3, final="draw", precision="fp32")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert chain.training
    assert (found.final, found.precision) == ("draw", "fp32")
    assert found.curve.samplers == list(SAMPLERS)
    for point in found.curve.points:
        sampler = Sampler.named(point.sampler, point.steps)
        alone = measure_samples(chain, ruler, sampler=sampler, seed=3, final="draw", precision="fp32")
        assert point.quality == alone.quality
        assert point.network_calls == alone.network_calls
    assert found.json() == {"final": "draw", "precision": "fp32", **found.curve.json()}


def test_others_have_no_samplers_to_compare(ruler):
    with pytest.raises(ValueError, match="a curve of samplers is for a ddpm, and this is a VAE"):
        measure_samplers(built(MODELS["vae-mlp"], images()), ruler)
