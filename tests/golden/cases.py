"""Sixteen small chains with weights, data and noise from numpy, and what is measured of each.

When modules move, options change their types or losses change their owner, adapt ``build`` and ``measure``
(and ``RENAMED``): golden.json stays.

The draws there are, by what makes them (the shapes are n examples, k paths for each):

* normal: ``DiagonalNormal`` and ``FlowNormal``, one (n · k, d, …) for each level of a path; ``FullNormal``,
  (n · k, …, d); a DDPM's loss and each level of its ELBO, (n, *shape);
* uniform: a DDPM's levels in its loss, () for "even" and "importance", (n,) for "uniform"; the times in the
  ELBO of continuous time, (n, 1); the start of a systematic resampling (``backward_samples``), (n, 1).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch

from ancestral.config import DDPMConfig, FlowConfig, HVAEConfig, LikelihoodConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.experiments.build import build_chain
from ancestral.objectives import Objective
from ancestral.training.objective import objective_of
from golden.tape import numpy_for, tape

RENAMED = {}
"""Beginnings of parameters' names, as they are now, and what they were when golden.json was written."""

BITS = DataSpec((1, 4, 4), levels=2)
GREY = DataSpec((1, 4, 4), levels=16)
GREY_8 = DataSpec((1, 8, 8), levels=16)
INTEGERS = DataSpec((5,), levels=16)
VECTORS = DataSpec((5,))

_BIT_VAE = {"latent_dims": 3, "network": "mlp", "hidden": (8,)}

CASES = {
    "vae-bernoulli": (VAEConfig(latent_dims=3, network="mlp", hidden=(8, 6)), BITS),
    # The batch's mean KL is above the free bits, and some of its examples are below.
    "vae-gaussian-reweighted": (
        VAEConfig(
            latent_dims=2,
            hidden=(8,),
            activation="tanh",
            beta=0.7,
            free_bits=0.22,
            kl_warmup=10,
            likelihood=LikelihoodConfig(kind="gaussian"),
        ),
        VECTORS,
    ),
    "markov": (
        HVAEConfig(levels=3, posterior="bottom-up", network="mlp", hidden=(6,), latent_dims=(4, 3, 2)),
        BITS,
    ),
    # One of three levels is below the free bits.
    "ladder-vectors": (
        HVAEConfig(
            levels=3, width=6, latent_dims=(3, 2, 2), beta=1.3, free_bits=0.1, kl_warmup=10, kl_balance=True
        ),
        VECTORS,
    ),
    "ladder-images": (
        HVAEConfig(
            levels=2,
            width=8,
            latent_dims=(2,),
            likelihood=LikelihoodConfig(kind="logistic-mixture", components=3),
        ),
        GREY_8,
    ),
    "ddpm-simple": (
        DDPMConfig(
            T=6,
            schedule="cosine",
            prediction="noise",
            variance="posterior",
            loss="simple",
            sampling="uniform",
            channels=(4, 8),
        ),
        GREY_8,
    ),
    "ddpm-vlb": (DDPMConfig(T=8, prediction="noise", variance="learned", loss="vlb", width=8), INTEGERS),
    "ddpm-hybrid": (
        DDPMConfig(
            T=6,
            schedule="sigmoid",
            prediction="velocity",
            variance="learned",
            loss="hybrid",
            network="transformer",
            width=8,
            blocks=1,
            heads=1,
        ),
        GREY,
    ),
    "ddpm-min-snr": (
        DDPMConfig(
            T=25, schedule="linear", prediction="data", variance="beta", loss="min-snr", gamma=3.0, width=8
        ),
        VECTORS,
    ),
    # The ELBO says whether the mean is right, and the loss whether the sampling is as well.
    "ddpm-mean-importance": (
        DDPMConfig(
            T=8, prediction="mean", variance="posterior", loss="simple", sampling="importance", width=8
        ),
        INTEGERS,
    ),
    "ddpm-continuous": (DDPMConfig(T="continuous", schedule="learned", fourier=(1, 2), width=8), INTEGERS),
    "vae-iwae": (VAEConfig(**_BIT_VAE, objective="iwae", training_samples=5), BITS),
    "vae-iwae-backward": (
        VAEConfig(**_BIT_VAE, objective="iwae", training_samples=8, backward_samples=3),
        BITS,
    ),
    "ladder-dreg": (
        HVAEConfig(levels=2, width=6, latent_dims=(3, 2), objective="dreg", training_samples=5),
        VECTORS,
    ),
    "vae-iaf": (VAEConfig(**_BIT_VAE, q="iaf", flow=FlowConfig(hidden=(8,), context=3)), BITS),
    "vae-full": (
        VAEConfig(latent_dims=3, network="mlp", hidden=(8,), q="full", likelihood=LikelihoodConfig()),
        GREY,
    ),
}
"""The options and the data of each chain."""

STEP = 3
"""The training step, from 0, that the loss is of: warm-ups are at 4 / 10."""
OBSERVED = 3
"""Batches whose losses importance sampling has seen before."""


@dataclass(frozen=True)
class Case:
    """A chain with its weights, a batch x, (n, *shape), and its training loss of such a batch."""

    chain: Chain
    objective: Objective
    x: torch.Tensor

    def loss(self, x):
        """The training loss of x."""
        return self.objective(self.chain, x)


@contextlib.contextmanager
def float64():
    """Have new tensors in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(name):
    """The chain ``name``, told the step, with the batch that it is measured on."""
    config, spec = CASES[name]
    # What the numbers were recorded with, whatever the defaults for few examples are.
    config = replace(config, dropout=0.0)
    if not isinstance(config, DDPMConfig):
        config = replace(config, likelihood=replace(config.likelihood, uniform=0.0))
    chain = build_chain(config, spec, train=data(spec, 20, "train")).double()
    fill(chain)
    objective = objective_of(chain)
    objective.at_step(STEP)
    case = Case(chain, objective, data(spec, 6, "batch"))
    if name == "ddpm-mean-importance":
        observe(case)
    return case


def observe(case):
    """Show the objective the losses of a few batches."""
    with tape("observed"), torch.no_grad():
        for _ in range(OBSERVED):
            case.objective.observe(case.loss(case.x).seen)


def data(spec, n, key):
    """n examples: integers as 8 bits, or correlated vectors that are not centred."""
    generator = numpy_for(f"{key} {spec.shape} {spec.levels}")
    if spec.levels is not None:
        return torch.from_numpy(generator.randint(0, spec.levels, (n, *spec.shape)).astype("uint8"))
    noise = generator.standard_normal((n, *spec.shape))
    return torch.from_numpy(2.0 + noise + 0.5 * noise[:, :1])


@torch.no_grad()
def fill(chain):
    """Give each parameter numbers that depend on its name and shape alone, none of them 0."""
    for name, parameter in chain.named_parameters():
        shape = tuple(parameter.shape)
        noise = torch.from_numpy(numpy_for(golden_name(name)).standard_normal(shape))
        if len(shape) > 1:
            parameter.copy_(noise * (0.4 * parameter[0].numel() ** -0.5))
        else:
            # Of norms and gains around 1; biases and the like around 0.
            gain = name.endswith((".weight", ".gain"))
            parameter.copy_(float(gain) + 0.2 * noise)


def golden_name(name):
    """A parameter's name when golden.json was written."""
    for now, then in RENAMED.items():
        if name.startswith(now):
            return then + name.removeprefix(now)
    return name


def measure(name):
    """What golden.json holds of a chain: its training loss with the gradient, and its ELBO."""
    with float64():
        case = build(name)
        with tape("loss"):
            loss = case.loss(case.x)
            named = {n: p for n, p in case.chain.named_parameters() if p.requires_grad}
            gradients = torch.autograd.grad(loss.value, list(named.values()), materialize_grads=True)
        with tape("elbo"), torch.no_grad():
            elbo = case.chain.elbo(case.x)
    squares = {golden_name(n): float(g.square().sum()) for n, g in zip(named, gradients, strict=True)}
    return {
        "loss": loss.value.item(),
        "terms": {key: float(term) for key, term in sorted(loss.terms.items())},
        "gradient_norm": sum(squares.values()) ** 0.5,
        "gradient_squares": dict(sorted(squares.items())),
        "elbo": {
            "total": float(elbo.total.mean()),
            "reconstruction": float(elbo.reconstruction.mean()),
            "matching": elbo.matching.mean(dim=0).tolist(),
            "prior": float(elbo.prior.mean()),
        },
    }
