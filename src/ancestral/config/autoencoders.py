"""Options of VAEs and hierarchical VAEs, and of the law that their decoders end in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ancestral import checks
from ancestral.config.strict import STRICT, check_sizes

Likelihood = Literal[
    "auto", "gaussian", "bernoulli", "discretized-gaussian", "discretized-logistic", "logistic-mixture"
]
Sigma = Literal["auto", "fixed", "shared", "per-pixel", "predicted"]
Network = Literal["auto", "mlp", "conv"]
Activation = Literal["silu", "relu", "tanh", "gelu"]
Posterior = Literal["top-down", "bottom-up"]
LadderBlock = Literal["auto", "basic", "bottleneck"]
Objective = Literal["elbo", "iwae", "dreg"]
Q = Literal["diagonal", "full", "iaf", "spline"]

SHALLOW = 6
"""Levels up to which a ladder on images is of basic blocks by default."""


@dataclass(frozen=True)
class LikelihoodConfig:
    """The law p(x|z) that a decoder ends in."""

    kind: Likelihood = "auto"
    """auto: bernoulli for 2 levels, discretized-logistic for more, gaussian for real numbers. A
    logistic-mixture is of several discretised logistics for each entry of x."""
    sigma: Sigma = "auto"
    """A fixed number, one learned number, one learned per entry of x, or predicted from z; auto: predicted
    for integers, per-pixel for real numbers."""
    value: float = 0.25
    """sigma itself (fixed) or where it starts, in units of data scaled to [-1, 1] or unit variance."""
    components: int | None = None
    """logistic-mixture: of how many, by default 5."""

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.one_of("likelihood.kind", self.kind, get_args(Likelihood))
        checks.one_of("likelihood.sigma", self.sigma, get_args(Sigma))
        checks.number("likelihood.value", self.value, above=0.0)
        mixture = self.kind == "logistic-mixture"
        if mixture and self.sigma not in ("auto", "predicted"):
            raise ValueError(
                f"likelihood.sigma is {self.sigma!r} and likelihood.kind is 'logistic-mixture', whose "
                "sigmas are predicted. Leave it out."
            )
        if self.components is not None:
            checks.integer("likelihood.components", self.components, low=2, high=1000)
            if not mixture:
                raise ValueError(
                    f"likelihood.components is {self.components} and likelihood.kind is {self.kind!r}, which "
                    "has one; leave it out, or use likelihood.kind logistic-mixture."
                )


@dataclass(frozen=True)
class FlowConfig:
    """The normalising flow of a posterior that has one (q iaf or spline)."""

    transforms: int = 2
    """Autoregressive maps, one after another, each in the reverse order of the last."""
    hidden: tuple[int, ...] = (200,)
    """Hidden layers of each map's network, none narrower than the latent."""
    context: int = 32
    """How many numbers the flow is told of x (at each position of an image's latent)."""
    bins: int | None = None
    """spline: its pieces, between -5 and 5 standard deviations; by default 8."""

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.integer("flow.transforms", self.transforms, low=1, high=1000)
        check_sizes("flow.hidden", self.hidden)
        checks.integer("flow.context", self.context, low=1, high=1 << 14)
        if self.bins is not None:
            checks.integer("flow.bins", self.bins, low=2, high=1000)


def check_q(q: str, flow: FlowConfig) -> None:
    """Refuse a family of posteriors that there is not, and a flow's options where there is none."""
    checks.one_of("q", q, get_args(Q))
    if q in ("diagonal", "full") and flow != FlowConfig():
        raise ValueError(
            f"an option of a flow is given and q is {q!r}; use q iaf or spline, or none of them."
        )
    if q == "iaf" and flow.bins is not None:
        raise ValueError(f"flow.bins is {flow.bins} and q is 'iaf', which has none; use q spline.")


@dataclass(frozen=True)
class VAEConfig:
    """A variational autoencoder: one latent vector."""

    kind: ClassVar[str] = "vae"

    latent_dims: int | None = None
    """Size of z. By default 32 for images and the data's own size for vectors."""
    q: Q = "diagonal"
    """The family of q(z|x): a Gaussian, diagonal or with a full covariance, or one that is bent by an
    inverse autoregressive flow (iaf) or a neural spline flow (spline)."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    network: Network = "auto"
    """auto: conv for images, mlp for vectors."""
    hidden: tuple[int, ...] = (200, 200)
    """Hidden layers of the mlp encoder, nearest the data first; the decoder mirrors them."""
    activation: Activation = "silu"
    """Of the mlp."""
    width: int = 32
    """Channels of the conv networks at the image's own size."""
    dropout: float = 0.0
    """Share of hidden units dropped in training."""
    beta: float = 1.0
    """Weight of the KL in the loss; the reported ELBO always has 1."""
    free_bits: float = 0.0
    """Nats of KL per level that cost nothing in the loss."""
    kl_warmup: int = 0
    """Steps over which the weight of the KL in the loss rises from 0; the reported ELBO always has 1."""
    training_samples: int = 1
    """Monte Carlo draws per example in the loss, k."""
    objective: Objective = "elbo"
    """elbo: its mean over the k draws. iwae: the importance-weighted bound of k draws (of one, the elbo with
    log-ratios for KLs). dreg: the same bound, with a gradient that a large k does not drown in noise."""
    backward_samples: int | None = None
    """iwae, dreg: the gradient through so many of the k draws, chosen by their weights: the same on average,
    for about 1/3 + so many/k of the time. By default through all."""
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        if self.latent_dims is not None:
            checks.integer("latent_dims", self.latent_dims, low=1, high=1 << 20)
        check_q(self.q, self.flow)
        checks.one_of("network", self.network, get_args(Network))
        checks.one_of("activation", self.activation, get_args(Activation))
        check_sizes("hidden", self.hidden)
        checks.integer("width", self.width, low=1, high=1 << 14)
        checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.number("beta", self.beta, low=0.0)
        checks.number("free_bits", self.free_bits, low=0.0)
        checks.integer("kl_warmup", self.kl_warmup, low=0)
        checks.integer("training_samples", self.training_samples, low=1, high=100_000)
        _check_objective(self)


@dataclass(frozen=True)
class HVAEConfig:
    """A hierarchical VAE: a Markov chain of learned latents."""

    kind: ClassVar[str] = "hvae"

    levels: int = 3
    """T, the number of latent levels, at least 2."""
    levels_per_size: tuple[int, ...] | None = None
    """top-down, images: how many of the levels are at the image's own size, at half of it, at a quarter, ...
    By default as many at each, from half the size down to a side of 2."""
    posterior: Posterior = "top-down"
    """top-down (ladder) shares the generative path; bottom-up is the Markov q of the lecture notes."""
    q: Q = "diagonal"
    """The family of q at each level: a Gaussian, diagonal or with a full covariance, or one that is bent by
    an inverse autoregressive flow (iaf) or a neural spline flow (spline)."""
    flow: FlowConfig = field(default_factory=FlowConfig)
    latent_dims: tuple[int, ...] | None = None
    """bottom-up: sizes of z_1 ... z_T. top-down: channels (images) or sizes (vectors) of z_1 ... z_T.
    One number stands for all levels."""
    network: Network = "auto"
    """bottom-up: of the networks between the data and z_1; auto is conv for images, mlp for vectors."""
    hidden: tuple[int, ...] = (200,)
    """bottom-up: hidden layers of each mlp between levels."""
    first_hidden: tuple[int, ...] | None = None
    """bottom-up: hidden layers of the mlps between the data and z_1, nearest the data first; by default
    those of hidden."""
    activation: Activation = "silu"
    """bottom-up: of the mlps."""
    width: int = 48
    """Width of the ladder's stream, or channels of the bottom-up posterior's conv networks. With bottleneck
    blocks it is the width at low resolution: half of it at half the image's size, a quarter at its own."""
    block: LadderBlock = "auto"
    """top-down: residual blocks of two 3x3 convolutions (basic), or of two in a quarter of the channels
    between two 1x1 ones (bottleneck, images only). auto: bottleneck for images and more than 6 levels."""
    blocks: int = 1
    """Residual blocks per level of the ladder, with bottlenecks per two levels on the way up."""
    dropout: float = 0.0
    """Share of hidden units dropped in training."""
    beta: float = 1.0
    """Weight of the KLs in the loss; the reported ELBO always has 1."""
    free_bits: float = 0.0
    """Nats of KL per level that cost nothing in the loss."""
    kl_warmup: int = 0
    """Steps over which the weight of the KLs in the loss rises from 0; the reported ELBO always has 1."""
    kl_balance: bool = False
    """During that warm-up, weigh each level's KL by its share of them all, so that weak levels stay alive."""
    training_samples: int = 1
    """Monte Carlo paths per example in the loss, k."""
    objective: Objective = "elbo"
    """elbo: its mean over the k paths. iwae: the importance-weighted bound of k paths (of one, the elbo with
    log-ratios for KLs). dreg: the same bound, with a gradient that a large k does not drown in noise."""
    backward_samples: int | None = None
    """iwae, dreg: the gradient through so many of the k draws, chosen by their weights: the same on average,
    for about 1/3 + so many/k of the time. By default through all."""
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.integer("levels", self.levels, low=2, high=1000)
        checks.one_of("posterior", self.posterior, get_args(Posterior))
        check_q(self.q, self.flow)
        if self.latent_dims is not None:
            check_sizes("latent_dims", self.latent_dims)
            if len(self.latent_dims) not in (1, self.levels):
                raise ValueError(
                    f"latent_dims has {len(self.latent_dims)} sizes for {self.levels} levels; give one "
                    "for all levels, or one for each."
                )
        checks.one_of("network", self.network, get_args(Network))
        checks.one_of("activation", self.activation, get_args(Activation))
        checks.one_of("block", self.block, get_args(LadderBlock))
        check_sizes("hidden", self.hidden)
        if self.first_hidden is not None:
            check_sizes("first_hidden", self.first_hidden)
        self._only_of_its_posterior()
        self._check_levels_per_size()
        checks.integer("width", self.width, low=1, high=1 << 14)
        checks.integer("blocks", self.blocks, low=1, high=1000)
        checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.number("beta", self.beta, low=0.0)
        checks.number("free_bits", self.free_bits, low=0.0)
        checks.integer("kl_warmup", self.kl_warmup, low=0)
        if not isinstance(self.kl_balance, bool):
            raise ValueError(f"kl_balance is {self.kl_balance!r}; it must be true or false.")
        if self.kl_balance and not self.kl_warmup:
            raise ValueError(
                "kl_balance is on and kl_warmup is 0: balancing ends with the warm-up; give one."
            )
        checks.integer("training_samples", self.training_samples, low=1, high=100_000)
        _check_objective(self)
        if self.objective == "dreg" and self.dropout > 0:
            raise ValueError(
                f"dropout is {self.dropout:g} with objective 'dreg', which asks the posterior's laws twice "
                "and would find other units dropped. Set dropout to 0, or use objective 'iwae'."
            )

    def _only_of_its_posterior(self) -> None:
        """Refuse what the networks of its posterior would not read."""
        ladder = self.posterior == "top-down"
        foreign: dict[str, object] = (
            {"network": "auto", "first_hidden": None, "activation": "silu"}
            if ladder
            else {"block": "auto", "levels_per_size": None}
        )
        other = "bottom-up" if ladder else "top-down"
        for name, default in foreign.items():
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} and posterior is {self.posterior!r}, which has no "
                    f"such option; leave it out, or use posterior {other}."
                )

    def _check_levels_per_size(self) -> None:
        if self.levels_per_size is None:
            return
        counts = self.levels_per_size
        if not isinstance(counts, tuple | list):
            raise ValueError(
                f"levels_per_size is {counts!r}; it must be whole numbers in parentheses, such as (0, 2, 6)."
            )
        for count in counts:
            checks.integer("a number in levels_per_size", count, low=0, high=1000)
        if sum(counts) != self.levels:
            raise ValueError(
                f"levels_per_size has {sum(counts)} levels in all and levels is {self.levels}; make both one."
            )


def _check_objective(config: VAEConfig | HVAEConfig) -> None:
    checks.one_of("objective", config.objective, get_args(Objective))
    if config.backward_samples is not None:
        checks.integer("backward_samples", config.backward_samples, low=1, high=config.training_samples)
        if config.objective == "elbo":
            raise ValueError(
                f"backward_samples is {config.backward_samples} and objective is 'elbo', which has no "
                "weights to choose draws by. Leave it out, or use objective iwae or dreg."
            )
    if config.objective != "elbo":
        if config.objective == "dreg" and config.q in ("iaf", "spline"):
            raise ValueError(
                f"q is {config.q!r} with objective 'dreg', which asks for the density of q at given latents: "
                "of a flow that takes as many passes as a latent has entries. Use q full or diagonal, or "
                "objective 'iwae'."
            )
        weights = {"beta": config.beta, "free_bits": config.free_bits, "kl_warmup": config.kl_warmup}
        for name, value in weights.items():
            plain = 1.0 if name == "beta" else 0.0
            if value != plain:
                raise ValueError(
                    f"{name} is {value:g} with objective {config.objective!r}, which has no KL to weight. "
                    f"Leave {name} at {plain:g}, or use objective 'elbo'."
                )
