"""Every combination of options that is allowed makes a chain that trains and samples."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

from ancestral.config import (
    DDPMConfig,
    FlowConfig,
    HVAEConfig,
    LikelihoodConfig,
    ModelConfig,
    Q,
    TrainingConfig,
    VAEConfig,
)
from ancestral.core.chain import Chain
from ancestral.core.walk import has_closed_kl, infer
from ancestral.data import Dataset
from ancestral.models import LadderHVAE, MarkovHVAE
from ancestral.models.diffusion import ContinuousDiffusion, Diffusion
from ancestral.models.vae import VAE
from ancestral.networks import Transformer
from ancestral.networks.deep_ladder import Bottleneck
from ancestral.networks.ladder import Residual
from ancestral.sampling import Ancestral, draw
from ancestral.training import TrainingState, train
from ancestral.training.objective import objective_of
from tiny import built, images, small, vectors

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
    assert elbo.matching.shape == (2, 1 if chain.continuous else chain.T - 1)
    assert bool(torch.isfinite(elbo.total).all())
    sampler = Ancestral(steps)
    drawn, mean = draw(chain, 2, sampler=sampler), draw(chain, 2, sampler=sampler, final="mean")
    assert drawn.shape == mean.shape == (2, *data.spec.shape)
    assert bool(torch.isfinite(mean).all())
    if elbo.discrete:
        assert not drawn.is_floating_point()
        assert int(drawn.min()) >= 0
        assert max(int(drawn.max()), float(mean.max())) <= data.spec.levels - 1
    return chain


@pytest.mark.parametrize("source", DATA)
@pytest.mark.parametrize("network", ["auto", "mlp", "conv"])
def test_a_vae(source, network):
    data = DATA[source]
    size = {"hidden": (5,)} if network == "mlp" else small("vae", data)
    model = VAEConfig(network=network, latent_dims=3, **size)
    if network == "conv" and not data.spec.is_image:
        with pytest.raises(ValueError, match="network is 'conv' and the data are vectors"):
            works(model, data)
        return
    assert isinstance(works(model, data), VAE)


@pytest.mark.parametrize("source", ["2 numbers", "6 numbers", "8x8", "32x32x3"])
@pytest.mark.parametrize("q", get_args(Q))
def test_a_posterior_of_each_family(source, q):
    data = DATA[source]
    flow = FlowConfig() if q in ("diagonal", "full") else FlowConfig(hidden=(6,), context=2)
    common = {"q": q, "flow": flow}
    for model in (
        VAEConfig(latent_dims=3, **common, **small("vae", data)),
        HVAEConfig(levels=2, latent_dims=(3, 1), **common, **small("ladder", data)),
        HVAEConfig(
            levels=3,
            posterior="bottom-up",
            latent_dims=(3, 2, 1),
            **common,
            **small("bottom-up", data),
        ),
    ):
        chain = works(model, data)
        posteriors = [chain.posterior] if isinstance(chain, VAE) else list(chain.laws)
        name = {"diagonal": "DiagonalPosterior", "full": "FullPosterior"}.get(q, "FlowPosterior")
        assert [type(posterior).__name__ for posterior in posteriors] == [name] * chain.T
        links = list(infer(chain, data.test.x[:2]))
        # A bottom-up q has a KL at the top only.
        with_kl = range(1 if isinstance(chain, LadderHVAE) else chain.T, chain.T + 1)
        closed = {link.t for link in links if link.independent and has_closed_kl(link.q, link.p)}
        assert closed == (set() if name == "FlowPosterior" else set(with_kl))


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
    model = VAEConfig(likelihood=LikelihoodConfig(kind="bernoulli"), latent_dims=2)
    works(model, DATA["8x8 bits"])
    for source, kind in (("8x8", "integers of 17 levels"), ("2 numbers", "real-valued")):
        with pytest.raises(
            ValueError, match=f"Bernoulli likelihood needs data of 2 levels, and these are {kind}.*Binarise"
        ):
            works(model, DATA[source])


@pytest.mark.parametrize("source", DATA)
@pytest.mark.parametrize("posterior", ["top-down", "bottom-up"])
@pytest.mark.parametrize("sizes", [(2, None), (2, (3,)), (3, (4, 3, 2)), (6, (2,))], ids=str)
def test_a_hierarchical_vae(source, posterior, sizes):
    levels, latent_dims = sizes
    size = small("ladder" if posterior == "top-down" else "bottom-up", DATA[source])
    model = HVAEConfig(levels=levels, posterior=posterior, latent_dims=latent_dims, **size)
    chain = works(model, DATA[source])
    assert levels == chain.T
    assert isinstance(chain, LadderHVAE if posterior == "top-down" else MarkovHVAE)


@pytest.mark.parametrize("kind", ["bernoulli", "discretized-logistic", "logistic-mixture"])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("per_size", [None, (1, 0, 4), (0, 0, 2, 3)], ids=str)
def test_a_deep_ladder(kind, block, per_size):
    levels = sum(per_size) if per_size else 9
    model = HVAEConfig(
        levels=levels,
        levels_per_size=per_size,
        block=block,
        width=16,
        latent_dims=(2,),
        likelihood=LikelihoodConfig(kind=kind),
        kl_warmup=3,
    )
    chain = works(model, DATA["8x8 bits"] if kind == "bernoulli" else DATA["8x8"])
    assert levels == chain.T
    assert any(isinstance(module, Bottleneck) for module in chain.modules()) == (block == "bottleneck")


def test_deep_ladders_are_of_bottlenecks_by_default():
    for levels, deep in ((6, False), (7, True)):
        chain = built(HVAEConfig(levels=levels, width=4), DATA["8x8"])
        assert any(isinstance(module, Bottleneck) for module in chain.modules()) == deep
    assert built(HVAEConfig(levels=7, width=4), DATA["6 numbers"]).latent_shapes == [(2,)] * 7


@pytest.mark.parametrize(
    "options", [{"block": "bottleneck"}, {"levels_per_size": (3,)}], ids=["block", "levels_per_size"]
)
def test_vectors_have_no_sizes(options):
    with pytest.raises(ValueError, match="the data are vectors, which have no sizes; leave it out"):
        built(HVAEConfig(**options), DATA["6 numbers"])


@pytest.mark.slow
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("source", ["28x28", "32x32x3"])
def test_24_levels_train(source, block):
    """Thirty steps at a high rate: losses that are finite, a bound that rises, a gradient for everything."""
    data = DATA[source]

    @torch.no_grad()
    def bound() -> float:
        torch.manual_seed(0)
        return float(chain.elbo(data.train.x).total.mean())

    torch.manual_seed(0)
    chain = built(HVAEConfig(levels=24, width=8, latent_dims=(2,), block=block, kl_warmup=10), data)
    options = replace(OPTIONS, steps=30, warmup=3, learning_rate=5e-3, skip=1e3)
    before = bound()
    records = list(train(TrainingState(chain, options), data))
    assert len(records) == 30
    assert not any(record.skipped for record in records)
    assert bound() > before
    chain.zero_grad()
    objective_of(chain)(chain.train(), data.train.x[:4]).value.backward()
    dead = [name for name, p in chain.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead
    matching = chain.elbo(data.train.x[:8]).matching.mean(dim=0)
    assert (matching > 0).all()


@pytest.mark.parametrize("source", DATA)
@pytest.mark.parametrize("schedule", ["linear", "cosine", "sigmoid", "log-linear", "learned"])
@pytest.mark.parametrize("T", [1, 2, 21])
def test_a_ddpm(source, schedule, T):
    model = DDPMConfig(T=T, schedule=schedule, blocks=1, **small("ddpm", DATA[source]))
    if schedule == "linear" and T == 2:
        with pytest.raises(ValueError, match="every beta_t must be in"):
            works(model, DATA[source])
        return
    if schedule != "linear" and T == 21:
        T = 3
        model = replace(model, T=T)
    chain = works(model, DATA[source])
    assert isinstance(chain, Diffusion)
    assert chain.T == T


@pytest.mark.parametrize("source", ["2 numbers", "8x8"])
@pytest.mark.parametrize("prediction", ["noise", "data", "mean", "velocity"])
@pytest.mark.parametrize("variance", ["beta", "posterior", "learned"])
@pytest.mark.parametrize("loss", ["simple", "vlb", "min-snr", "hybrid"])
def test_what_a_ddpm_learns(source, prediction, variance, loss):
    size = small("ddpm", DATA[source])
    model = DDPMConfig(T=3, prediction=prediction, variance=variance, loss=loss, blocks=1, **size)
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
    size = small("ddpm", DATA[source])
    model = DDPMConfig(T="continuous", schedule=schedule, sampling=sampling, blocks=1, **size)
    chain = works(model, DATA[source], steps=3)
    assert isinstance(chain, ContinuousDiffusion)
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


def test_a_bottom_up_posterior_may_be_of_mlps_of_the_sizes_of_each_level():
    """The two-layer model of Burda et al. (2016) in small: x-7-7-4, 4-5-5-3, and back."""
    model = HVAEConfig(
        levels=2,
        posterior="bottom-up",
        network="mlp",
        first_hidden=(7, 6),
        hidden=(5,),
        latent_dims=(4, 3),
        activation="tanh",
    )
    chain = works(model, DATA["8x8 bits"])
    assert isinstance(chain, MarkovHVAE)

    def sizes(network: nn.Module) -> list[tuple[int, int]]:
        return [
            (layer.in_features, layer.out_features)
            for layer in network.modules()
            if isinstance(layer, nn.Linear)
        ]

    assert sizes(chain.encoder) == [(64, 7), (7, 6), (6, 8)]
    assert sizes(chain.decoder) == [(4, 6), (6, 7), (7, 64)]
    assert sizes(chain.ups[0]) == [(4, 5), (5, 6)]
    assert sizes(chain.downs[0]) == [(3, 5), (5, 8)]
    assert not any(isinstance(module, nn.SiLU | nn.Conv2d) for module in chain.modules())
    with pytest.raises(ValueError, match="network is 'conv' and the data are vectors"):
        works(replace(model, network="conv"), DATA["6 numbers"])
    with pytest.raises(ValueError, match="network is 'mlp' and posterior is 'top-down'"):
        replace(model, posterior="top-down")
    with pytest.raises(ValueError, match=r"first_hidden is \(7, 6\) and network is 'conv'"):
        built(replace(model, network="conv"), DATA["8x8 bits"])


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
