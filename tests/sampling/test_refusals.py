"""What a sampler cannot do is a clear message."""

from __future__ import annotations

import pytest

from ancestral.sampling import SAMPLERS, Ancestral, Ddim, Sampler, draw, trajectory
from few_steps import chain_of
from tiny import MODELS, built, images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "dpm"}, "sampler is 'dpm'; it must be one of ancestral, ddim, dpm"),
        ({"name": "ddim", "steps": 0}, "steps is 0; it must be at least 1"),
        ({"name": "ddim", "eta": 1.5}, "eta is 1.5; it must be a finite number, at least 0 and at most 1"),
        ({"name": "ddim", "eta": float("nan")}, "eta is nan"),
        ({"name": "heun", "eta": 0.0}, "eta is 0 and the sampler is heun: only ddim has an eta"),
        ({"eta": 1.0}, "eta is 1 and the sampler is ancestral"),
        ({"name": "ddim", "spacing": "leading"}, "spacing is 'leading'; it must be one of snr, diffusers"),
        ({"spacing": "snr"}, "the sampler is ancestral, whose steps are even in t"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Sampler.named(**options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_than_levels(name):
    sampler = Sampler.named(name, 31)
    for refuse in (sampler.check, sampler.calls, lambda chain: draw(chain, 2, sampler=sampler)):
        with pytest.raises(ValueError, match="steps is 31; it must be from 1 to 30"):
            refuse(chain_of())


def test_dpm_solver_with_diffusers_spacing_leaves_one_level_out():
    assert Sampler.named("dpm++2m", 29, spacing="diffusers").calls(chain_of()) == 29
    with pytest.raises(ValueError, match="steps with diffusers' spacing is 30; it must be from 1 to 29"):
        Sampler.named("dpm++2m", 30, spacing="diffusers").check(chain_of())


def test_a_mean_is_not_defined_between_levels():
    with pytest.raises(ValueError, match="Use spacing snr, or another sampler"):
        Sampler.named("heun", 5, spacing="diffusers").check(chain_of(prediction="mean"))
    Sampler.named("heun", 5).check(chain_of(prediction="mean"))


def test_only_a_diffusion_has_levels_to_leave_out():
    chain = built(MODELS["vae-mlp"], images())
    assert Ancestral().check(chain) is None
    for sampler in (Ddim(), Ancestral(3)):
        with pytest.raises(ValueError, match="for a VAE: only a diffusion model has levels to leave out"):
            draw(chain, 2, sampler=sampler)


@pytest.mark.parametrize(("what", "value"), [("n", 0), ("batch_size", 0), ("frames", 0), ("final", "median")])
def test_other_numbers(what, value):
    chain, options = chain_of(), {"n": 3, what: value}
    call = trajectory if what == "frames" else draw
    with pytest.raises(ValueError, match=f"{what} is {value!r}"):
        call(chain, options.pop("n"), sampler=Sampler.named("ddim", 2), **options)
