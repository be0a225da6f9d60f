"""Every combination of options that is allowed makes a chain that trains and samples."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ancestral.chain import Chain
from ancestral.config import (
    DDPMConfig,
    HVAEConfig,
    LikelihoodConfig,
    ModelConfig,
    TrainingConfig,
    VAEConfig,
)
from ancestral.data import Dataset
from ancestral.diffusion import DDPM, ContinuousDDPM
from ancestral.hierarchical import LadderHVAE, MarkovHVAE
from ancestral.networks import Transformer
from ancestral.networks.ladder import Residual
from ancestral.training import TrainingState, train
from ancestral.vae import VAE
from tiny import built, images, vectors

DATA = {
    "2 numbers": vectors(40, dims=2),
    "6 numbers": vectors(40, dims=6),
    "8x8": images(30),
    "8x8 bits": images(30, binarize="dynamic"),
    "28x28": images(20, size=28, levels=256),
    "32x32x3": images(20, size=32, channels=3, levels=256),
}
OPTIONS = TrainingConfig(steps=1, batch_size=4, precision="fp32")
KINDS = ("gaussian", "discretized-gaussian", "discretized-logistic")
SIGMAS = ("fixed", "shared", "per-pixel", "predicted")


def works(model: ModelConfig, data: Dataset, *, steps: int | None = None) -> Chain:
    """Build, take a step that reaches every parameter, bound the data and sample (a DDPM in ``steps``)."""
    chain = built(model, data)
    state = TrainingState(chain, OPTIONS)
    (record,) = train(state, data)
    assert bool(torch.isfinite(record.loss))
    untrained = [name for name, p in chain.named_parameters() if p.grad is None]
    assert not untrained
    chain.eval()
    with torch.no_grad():
        elbo = chain.elbo(data.test.x[:2])
    assert elbo.total.shape == (2,)
    continuous = isinstance(chain, ContinuousDDPM)
    assert elbo.matching.shape == (2, 1 if continuous else chain.T - 1)
    assert bool(torch.isfinite(elbo.total).all())
    options = {"steps": steps} if steps else {}
    draw, mean = chain.sample(2, **options), chain.sample(2, final="mean", **options)
    assert draw.shape == mean.shape == (2, *data.spec.shape)
    assert bool(torch.isfinite(mean).all())
    if elbo.discrete:
        assert not draw.is_floating_point()
        assert int(draw.min()) >= 0
        assert max(int(draw.max()), float(mean.max())) <= data.spec.levels - 1
    return chain


@pytest.mark.parametrize("source", DATA)
@pytest.mark.parametrize("network", ["auto", "mlp", "conv"])
def test_a_vae(source, network):
    data = DATA[source]
    model = VAEConfig(network=network, hidden=(5,), width=4, latent_dims=3)
    if network == "conv" and not data.spec.is_image:
        with pytest.raises(ValueError, match="network is 'conv' and the data are vectors"):
            works(model, data)
        return
    assert isinstance(works(model, data), VAE)


@pytest.mark.parametrize("source", ["2 numbers", "8x8", "32x32x3"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_likelihood(source, kind, sigma):
    data = DATA[source]
    model = VAEConfig(
        network="mlp", hidden=(5,), latent_dims=3, likelihood=LikelihoodConfig(kind=kind, sigma=sigma)
    )
    if data.spec.levels is None and kind != "gaussian":
        with pytest.raises(ValueError, match=f"a {kind} likelihood on real-valued data"):
            works(model, data)
        return
    chain = works(model, data)
    assert chain.discrete == (kind != "gaussian")


@pytest.mark.parametrize("source", DATA)
def test_the_likelihood_that_fits_the_data(source):
    data = DATA[source]
    likelihood = works(VAEConfig(network="mlp", hidden=(5,)), data).likelihood
    expected = "Gaussian" if data.spec.levels is None else "DiscretizedLogistic"
    expected = "Bernoulli" if data.spec.levels == 2 else expected
    assert type(likelihood).__name__ == f"{expected}Likelihood"
    sigma = {"Gaussian": "per-pixel", "DiscretizedLogistic": "predicted"}.get(expected)
    assert getattr(likelihood, "sigma", None) == sigma


def test_bernoulli_needs_bits():
    model = VAEConfig(likelihood=LikelihoodConfig(kind="bernoulli"), width=4)
    works(model, DATA["8x8 bits"])
    for source, kind in (("8x8", "integers of 17 levels"), ("2 numbers", "real-valued")):
        with pytest.raises(ValueError, match=f"Bernoulli likelihood on {kind} data.*Binarise"):
            works(model, DATA[source])


@pytest.mark.parametrize("source", DATA)
@pytest.mark.parametrize("posterior", ["top-down", "bottom-up"])
@pytest.mark.parametrize("sizes", [(2, None), (2, (3,)), (3, (4, 3, 2)), (6, (2,))], ids=str)
def test_a_hierarchical_vae(source, posterior, sizes):
    levels, latent_dims = sizes
    model = HVAEConfig(levels=levels, posterior=posterior, latent_dims=latent_dims, hidden=(5,), width=4)
    chain = works(model, DATA[source])
    assert levels == chain.T
    assert isinstance(chain, LadderHVAE if posterior == "top-down" else MarkovHVAE)


@pytest.mark.parametrize("source", DATA)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid", "log-linear", "learned"])
@pytest.mark.parametrize("T", [1, 2, 21])
def test_a_ddpm(source, schedule, T):
    model = DDPMConfig(T=T, schedule=schedule, channels=(4,), blocks=1, width=6)
    if schedule == "linear" and T == 2:
        with pytest.raises(ValueError, match="every beta_t must be in"):
            works(model, DATA[source])
        return
    if schedule != "linear" and T == 21:
        T = 3
        model = replace(model, T=T)
    chain = works(model, DATA[source])
    assert isinstance(chain, DDPM)
    assert chain.T == T


@pytest.mark.parametrize("source", ["2 numbers", "8x8"])
@pytest.mark.parametrize("prediction", ["noise", "data", "mean", "velocity"])
@pytest.mark.parametrize("variance", ["beta", "posterior", "learned"])
@pytest.mark.parametrize("loss", ["simple", "vlb", "min-snr", "hybrid"])
def test_what_a_ddpm_learns(source, prediction, variance, loss):
    model = DDPMConfig(
        T=3, prediction=prediction, variance=variance, loss=loss, channels=(4,), blocks=1, width=6
    )
    untrained = variance == "learned" and loss in ("simple", "min-snr")
    if untrained or (loss == "hybrid" and variance != "learned"):
        message = "gives it no gradient" if untrained else "only trains a learned variance"
        with pytest.raises(ValueError, match=message):
            works(model, DATA[source])
        return
    works(model, DATA[source])


@pytest.mark.parametrize("source", DATA)
@pytest.mark.parametrize("schedule", ["log-linear", "learned"])
@pytest.mark.parametrize("sampling", ["uniform", "even", "importance"])
def test_a_ddpm_of_continuous_time(source, schedule, sampling):
    model = DDPMConfig(T="continuous", schedule=schedule, sampling=sampling, channels=(4,), blocks=1, width=6)
    chain = works(model, DATA[source], steps=3)
    assert isinstance(chain, ContinuousDDPM)
    assert chain.continuous
    assert chain.T == 1000


def test_what_continuous_time_does_not_have():
    for options, message in (
        ({"loss": "simple", "variance": "beta"}, "loss is 'simple'.*there is the bound only"),
        ({"schedule": "cosine"}, "schedule is 'cosine'.*Use schedule log-linear or learned"),
        ({"prediction": "mean"}, "prediction is 'mean'.*continuous time has none"),
    ):
        with pytest.raises(ValueError, match=message):
            built(DDPMConfig(T="continuous", **options), DATA["2 numbers"])


@pytest.mark.parametrize("side", [8, 4])
def test_attention_at_a_side(side):
    model = DDPMConfig(T=2, channels=(4, 8), blocks=1, attention=(side,))
    plain = built(replace(model, attention=()), DATA["8x8"])
    assert len(list(works(model, DATA["8x8"]).parameters())) > len(list(plain.parameters()))
    with pytest.raises(ValueError, match="attention names the side 5"):
        built(replace(model, attention=(5,)), DATA["8x8"])


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("source", ["8x8", "8x8 bits", "32x32x3"])
def test_a_ddpm_with_a_transformer(source, positions):
    model = DDPMConfig(T=3, network="transformer", width=16, blocks=2, patch=4, positions=positions)
    network = works(model, DATA[source]).network
    assert isinstance(network, Transformer)
    assert len(network.blocks) == 2


def test_a_transformer_learns():
    data = DATA["8x8"]
    chain = built(DDPMConfig(T=8, network="transformer", width=32, blocks=2, schedule="cosine"), data)

    @torch.no_grad()
    def bound() -> float:
        torch.manual_seed(0)
        return float(chain.eval().elbo(data.test.x).total.mean())

    before = bound()
    options = replace(OPTIONS, steps=60, batch_size=16, learning_rate=3e-3)
    assert len(list(train(TrainingState(chain, options), data))) == 60
    assert before + 20.0 < bound() < 0.0


def test_a_transformer_that_does_not_fit():
    with pytest.raises(ValueError, match="network is 'transformer' and the data are vectors"):
        built(DDPMConfig(network="transformer"), DATA["2 numbers"])
    with pytest.raises(ValueError, match=r"patch is 3 and images are 8×8; .* Use one of 1, 2, 4, 8"):
        built(DDPMConfig(network="transformer", patch=3), DATA["8x8"])


def test_a_transformer_by_default():
    network = built(DDPMConfig(network="transformer"), DATA["28x28"]).network
    assert (len(network.blocks), network.blocks[0].heads, network.grid) == (6, 2, (14, 14))
    assert built(DDPMConfig(network="transformer", heads=4), DATA["28x28"]).network.blocks[0].heads == 4


def test_sizes_by_default():
    assert built(VAEConfig(), DATA["6 numbers"]).latent_dims == 6
    assert built(VAEConfig(width=4), DATA["8x8"]).latent_dims == 32
    assert built(HVAEConfig(posterior="bottom-up", levels=4), DATA["6 numbers"]).latent_dims == (6, 3, 2, 2)
    assert built(HVAEConfig(posterior="bottom-up", width=4), DATA["8x8"]).latent_dims == (32, 16, 8)
    ladder = built(HVAEConfig(levels=2, width=4), DATA["28x28"])
    assert ladder.latent_shapes == [(8, 14, 14), (8, 7, 7)]
    assert built(HVAEConfig(), DATA["6 numbers"]).latent_shapes == [(2,)] * 3


def test_a_decoder_mirrors_its_encoder():
    chain = built(VAEConfig(network="mlp", hidden=(7, 5), latent_dims=3), DATA["8x8"])
    widths = [
        [(layer.in_features, layer.out_features) for layer in part.modules() if isinstance(layer, nn.Linear)]
        for part in (chain.encoder, chain.decoder)
    ]
    assert widths == [[(64, 7), (7, 5), (5, 6)], [(3, 5), (5, 7), (7, 128)]]
    markov = built(HVAEConfig(posterior="bottom-up", levels=2, hidden=(7, 5)), DATA["6 numbers"])
    assert [layer.out_features for layer in markov.decoder if isinstance(layer, nn.Linear)] == [5, 7, 6]


def test_blocks_and_dropout_reach_every_part():
    ladder = built(HVAEConfig(levels=2, width=4, blocks=3, dropout=0.25), DATA["8x8"])
    for part, count in ((ladder.bottom_up, 6), *((part, 3) for part in ladder.top_downs)):
        assert sum(isinstance(module, Residual) for module in part.modules()) == count
    conv = built(VAEConfig(width=4, dropout=0.25), DATA["8x8"])
    mlp = built(VAEConfig(network="mlp", hidden=(4,), dropout=0.25), DATA["8x8"])
    markov = built(HVAEConfig(posterior="bottom-up", hidden=(4,), width=4, dropout=0.25), DATA["8x8"])
    unet = built(DDPMConfig(channels=(4, 4), dropout=0.25), DATA["8x8"])
    tokens = built(DDPMConfig(network="transformer", width=16, dropout=0.25), DATA["8x8"])
    points = built(DDPMConfig(width=4, dropout=0.25), DATA["2 numbers"])
    for part in (
        *(ladder.bottom_up, *ladder.posteriors, *ladder.top_downs, conv.encoder, conv.decoder),
        *(mlp.encoder, mlp.decoder, *markov.ups, *markov.downs, markov.encoder, markov.decoder),
        *(unet.network.down, unet.network.middle, unet.network.up, points.network),
        tokens.network.blocks,
    ):
        rates = {module.p for module in part.modules() if isinstance(module, nn.Dropout)}
        assert rates == {0.25}


def test_weights_are_the_generators():
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in built(VAEConfig(width=4), DATA["8x8"]).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))
