"""Options of VAEs and hierarchical VAEs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ancestral._internal import checks
from ancestral.config.likelihood import LikelihoodConfig
from ancestral.config.strict import ABSENT, STRICT, DropoutOf, check_sizes, refuse_unread

Network = Literal["auto", "mlp", "conv"]
Activation = Literal["silu", "relu", "tanh", "gelu"]
Direction = Literal["top-down", "bottom-up"]
LadderBlock = Literal["auto", "basic", "bottleneck"]
ObjectiveName = Literal["elbo", "iwae", "dreg"]
Q = Literal["diagonal", "full", "iaf", "spline"]

SHALLOW = 6
"""Levels up to which a ladder on images is of basic blocks by default."""


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
    """mlp: hidden layers of the encoder, nearest the data first; the decoder mirrors them."""
    activation: Activation = "silu"
    """mlp: between its layers."""
    width: int = 32
    """conv: channels at the image's own size."""
    dropout: float | None = field(default=None, metadata={ABSENT: 0.0})
    """Share of hidden units dropped in training. By default 0.2 in convolutional networks with fewer than 10,000
    training examples, else 0."""
    dropout_of: DropoutOf = field(default="channels", metadata={ABSENT: "units"})
    """What is dropped: whole channels of an example, or each unit by itself. An mlp has single units only."""
    beta: float = 1.0
    """Weight of the KL in the loss; the reported ELBO always has 1."""
    free_bits: float = 0.0
    """Nats of KL per level that cost nothing in the loss."""
    kl_warmup: int = 0
    """Steps over which the weight of the KL in the loss rises from 0; the reported ELBO always has 1."""
    training_samples: int = 1
    """Monte Carlo draws per example in the loss, k."""
    objective: ObjectiveName = "elbo"
    """elbo: its mean over the k draws. iwae: the importance-weighted bound of k draws (of one, the elbo with
    log-ratios for KLs). dreg: the same bound, with a gradient that a large k does not drown in noise."""
    backward_samples: int | None = None
    """iwae, dreg: the gradient through so many of the k draws, chosen by their weights: the same on average,
    for about half of the time where they are few of many. By default through all."""
    samples_warmup: int = 0
    """Steps at the start with fewer draws than k, and less work, for what is learnt first."""
    first_samples: int = 1
    """Draws per example in the first samples_warmup steps, fewer than k; the gradient goes through all of
    them where they are no more than backward_samples."""
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
        if self.dropout is not None:
            checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.one_of("dropout_of", self.dropout_of, get_args(DropoutOf))
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
    posterior: Direction = "top-down"
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
    """bottom-up, mlp: hidden layers between the data and z_1, nearest the data first; by default those of
    hidden."""
    activation: Activation = "silu"
    """bottom-up: of the mlps."""
    width: int = 48
    """top-down: width of the stream; bottom-up: channels of the conv networks. With bottleneck
    blocks it is the width at low resolution: half of it at half the image's size, a quarter at its own."""
    block: LadderBlock = "auto"
    """top-down: residual blocks of two 3x3 convolutions (basic), or of two in a quarter of the channels
    between two 1x1 ones (bottleneck, images only). auto: bottleneck for images and more than 6 levels."""
    blocks: int = 1
    """top-down: residual blocks per level, with bottlenecks per two levels on the way up."""
    dropout: float | None = field(default=None, metadata={ABSENT: 0.0})
    """Share of hidden units dropped in training. By default 0.2 in convolutional networks and ladders with
    fewer than 10,000 training examples, else 0."""
    dropout_of: DropoutOf = field(default="channels", metadata={ABSENT: "units"})
    """What is dropped: whole channels of an example, or each unit by itself. An mlp has single units only."""
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
    objective: ObjectiveName = "elbo"
    """elbo: its mean over the k paths. iwae: the importance-weighted bound of k paths (of one, the elbo with
    log-ratios for KLs). dreg: the same bound, with a gradient that a large k does not drown in noise."""
    backward_samples: int | None = None
    """iwae, dreg: the gradient through so many of the k draws, chosen by their weights: the same on average,
    for about half of the time where they are few of many. By default through all."""
    samples_warmup: int = 0
    """Steps at the start with fewer draws than k, and less work, for what is learnt first."""
    first_samples: int = 1
    """Draws per example in the first samples_warmup steps, fewer than k; the gradient goes through all of
    them where they are no more than backward_samples."""
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.integer("levels", self.levels, low=2, high=1000)
        checks.one_of("posterior", self.posterior, get_args(Direction))
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
        if self.dropout is not None:
            checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.one_of("dropout_of", self.dropout_of, get_args(DropoutOf))
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
        if self.dropout and (self.objective == "dreg" or self.backward_samples is not None):
            what = "objective 'dreg'" if self.objective == "dreg" else "backward_samples"
            raise ValueError(
                f"dropout is {self.dropout:g} with {what}, which asks the posterior's laws twice and "
                "would find other units dropped. Set dropout to 0, or use objective 'iwae' with no "
                "backward_samples."
            )

    def _only_of_its_posterior(self) -> None:
        """Refuse what the networks of its posterior would not read."""
        ladder = self.posterior == "top-down"
        refuse_unread(
            self,
            ("network", "hidden", "first_hidden", "activation")
            if ladder
            else ("block", "blocks", "levels_per_size"),
            where=f"posterior is {self.posterior!r}",
            instead=f"posterior {'bottom-up' if ladder else 'top-down'}",
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
    checks.one_of("objective", config.objective, get_args(ObjectiveName))
    checks.draws(
        "training_samples",
        config.training_samples,
        warmup=config.samples_warmup,
        first=config.first_samples,
        backward=config.backward_samples,
        unweighted="and objective is 'elbo'" if config.objective == "elbo" else None,
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
