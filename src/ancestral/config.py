"""Every option of a run, typed, with its default and its bounds: the one place they are stated.

Plain frozen dataclasses: the command line is generated from them, config.json is a dump of them, and
nothing here imports torch, so help texts come at once. ``build.build_chain`` turns a model's options
into a chain.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ancestral import checks

Likelihood = Literal["auto", "gaussian", "bernoulli", "discretized-gaussian", "discretized-logistic"]
Sigma = Literal["auto", "fixed", "shared", "per-pixel", "predicted"]
Binarize = Literal["none", "dynamic", "threshold"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Compile = Literal["auto", "on", "off"]
Network = Literal["auto", "mlp", "conv"]
ImageNetwork = Literal["unet", "transformer"]
Positions = Literal["rotary", "learned"]
Activation = Literal["silu", "relu", "tanh", "gelu"]
Posterior = Literal["top-down", "bottom-up"]
ScheduleName = Literal["linear", "cosine", "sigmoid", "log-linear"]
Prediction = Literal["noise", "data", "mean", "velocity"]
Variance = Literal["beta", "posterior", "learned"]
DiffusionLoss = Literal["simple", "vlb", "min-snr", "hybrid"]

_STRICT: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class DataConfig:
    """Where the data come from, and what is done to them before a model sees them."""

    source: str
    """digits, swiss-roll, moons, a folder of IDX files, or a .npy or .npz file."""
    binarize: Binarize = "none"
    """dynamic draws the bits of a training image anew each time; threshold cuts at one half."""
    validation: float = 0.1
    """Share of the training split that is only watched (at most 1,000 examples); 0 for none."""

    __pydantic_config__: ClassVar = _STRICT

    def __post_init__(self) -> None:
        checks.one_of("binarize", self.binarize, get_args(Binarize))
        checks.number("validation", self.validation, low=0.0, high=0.5)


@dataclass(frozen=True)
class LikelihoodConfig:
    """The law p(x|z) that a decoder ends in."""

    kind: Likelihood = "auto"
    """auto: bernoulli for 2 levels, discretized-logistic for more, gaussian for real numbers."""
    sigma: Sigma = "auto"
    """A fixed number, one learned number, one learned per entry of x, or predicted from z; auto: predicted
    for integers, per-pixel for real numbers."""
    value: float = 0.25
    """sigma itself (fixed) or where it starts, in units of data scaled to [-1, 1] or unit variance."""

    __pydantic_config__: ClassVar = _STRICT

    def __post_init__(self) -> None:
        checks.one_of("likelihood.kind", self.kind, get_args(Likelihood))
        checks.one_of("likelihood.sigma", self.sigma, get_args(Sigma))
        checks.number("likelihood.value", self.value, above=0.0)


@dataclass(frozen=True)
class VAEConfig:
    """A variational autoencoder: one latent vector."""

    kind: ClassVar[str] = "vae"

    latent_dims: int | None = None
    """Size of z. By default 32 for images and the data's own size for vectors."""
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
    training_samples: int = 1
    """Monte Carlo draws per example in the loss."""
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)

    __pydantic_config__: ClassVar = _STRICT

    def __post_init__(self) -> None:
        if self.latent_dims is not None:
            checks.integer("latent_dims", self.latent_dims, low=1, high=1 << 20)
        checks.one_of("network", self.network, get_args(Network))
        checks.one_of("activation", self.activation, get_args(Activation))
        _sizes("hidden", self.hidden)
        checks.integer("width", self.width, low=1, high=1 << 14)
        checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.number("beta", self.beta, low=0.0)
        checks.number("free_bits", self.free_bits, low=0.0)
        checks.integer("training_samples", self.training_samples, low=1, high=100_000)


@dataclass(frozen=True)
class HVAEConfig:
    """A hierarchical VAE: a Markov chain of learned latents."""

    kind: ClassVar[str] = "hvae"

    levels: int = 3
    """T, the number of latent levels, at least 2."""
    posterior: Posterior = "top-down"
    """top-down (ladder) shares the generative path; bottom-up is the Markov q of the lecture notes."""
    latent_dims: tuple[int, ...] | None = None
    """bottom-up: sizes of z_1 ... z_T. top-down: channels (images) or sizes (vectors) of z_1 ... z_T.
    One number stands for all levels."""
    hidden: tuple[int, ...] = (200,)
    """bottom-up: hidden layers of each mlp between levels."""
    width: int = 48
    """Width of the ladder's stream, or channels of the bottom-up posterior's conv networks."""
    blocks: int = 1
    """Residual blocks per level of the ladder."""
    dropout: float = 0.0
    """Share of hidden units dropped in training."""
    beta: float = 1.0
    """Weight of the KLs in the loss; the reported ELBO always has 1."""
    free_bits: float = 0.0
    """Nats of KL per level that cost nothing in the loss."""
    training_samples: int = 1
    """Monte Carlo paths per example in the loss."""
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)

    __pydantic_config__: ClassVar = _STRICT

    def __post_init__(self) -> None:
        checks.integer("levels", self.levels, low=2, high=1000)
        checks.one_of("posterior", self.posterior, get_args(Posterior))
        if self.latent_dims is not None:
            _sizes("latent_dims", self.latent_dims)
            if len(self.latent_dims) not in (1, self.levels):
                raise ValueError(
                    f"latent_dims has {len(self.latent_dims)} sizes for {self.levels} levels; give one "
                    "for all levels, or one for each."
                )
        _sizes("hidden", self.hidden)
        checks.integer("width", self.width, low=1, high=1 << 14)
        checks.integer("blocks", self.blocks, low=1, high=1000)
        checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.number("beta", self.beta, low=0.0)
        checks.number("free_bits", self.free_bits, low=0.0)
        checks.integer("training_samples", self.training_samples, low=1, high=100_000)


@dataclass(frozen=True)
class DDPMConfig:
    """A denoising diffusion model: fixed noising, learned denoising."""

    kind: ClassVar[str] = "ddpm"

    T: int = 1000
    """Noise levels."""
    schedule: ScheduleName = "log-linear"
    """linear (Ho et al. 2020), cosine (Nichol & Dhariwal 2021), sigmoid (Jabri et al. 2023), or
    log-linear, with equal steps of log-SNR (Kingma et al. 2021), which suits the VLB."""
    first_log_snr: float | None = None
    """log-linear: log-SNR at t = 1. By default where the noise is as wide as one level of integer data (what
    is finer is left to the reconstruction term), but at least 2.5; and 9 for real numbers."""
    last_log_snr: float = -9.0
    """log-linear: log-SNR at t = T."""
    prediction: Prediction = "velocity"
    """What the network is asked for: noise, data (x_0), mean (of the reverse step) or velocity."""
    variance: Variance = "learned"
    """Of the reverse step: beta, the posterior's, or learned between the two."""
    loss: DiffusionLoss = "vlb"
    """simple (squared error of the target), vlb (the exact bound), min-snr, or hybrid (simple, with the
    VLB for the learned variance)."""
    gamma: float = 5.0
    """The cap of min-snr."""
    network: ImageNetwork = "unet"
    """For images; vectors have a residual mlp."""
    channels: tuple[int, ...] | None = None
    """unet: channels of each resolution. By default 48 48 below 16 pixels, 32 64 64 above."""
    blocks: int | None = None
    """unet: residual blocks per resolution, by default 1. transformer: blocks in all, by default 6. Vectors:
    residual blocks in all, by default 1."""
    attention: tuple[int, ...] = ()
    """unet: sides (in pixels) at which it has self-attention, beside the middle."""
    heads: int | None = None
    """Heads of self-attention. By default 1 in the unet, one for every 64 of width in the transformer."""
    patch: int | None = None
    """transformer: side (in pixels) of the squares that are its tokens, a divisor of the image's sides. By
    default 2."""
    positions: Positions = "rotary"
    """transformer: where its tokens are, by rotated queries and keys or by learned vectors."""
    width: int = 128
    """transformer: width of its tokens. Vectors: width of the residual mlp."""
    dropout: float = 0.0
    """Share of hidden units dropped in training."""

    __pydantic_config__: ClassVar = _STRICT

    def __post_init__(self) -> None:
        checks.integer("T", self.T, low=1, high=1_000_000)
        checks.one_of("schedule", self.schedule, get_args(ScheduleName))
        if self.first_log_snr is not None:
            checks.number("first_log_snr", self.first_log_snr, low=-20.0, high=30.0)
        checks.number("last_log_snr", self.last_log_snr, low=-30.0, high=20.0)
        checks.one_of("prediction", self.prediction, get_args(Prediction))
        checks.one_of("variance", self.variance, get_args(Variance))
        checks.one_of("loss", self.loss, get_args(DiffusionLoss))
        checks.number("gamma", self.gamma, above=0.0)
        if self.channels is not None:
            _sizes("channels", self.channels)
            if not self.channels:
                raise ValueError("channels is empty; give at least one number of channels.")
        for name, high in (("blocks", 1000), ("heads", 1 << 10), ("patch", 1 << 10)):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), low=1, high=high)
        _sizes("attention", self.attention)
        checks.integer("width", self.width, low=1, high=1 << 14)
        checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.one_of("network", self.network, get_args(ImageNetwork))
        checks.one_of("positions", self.positions, get_args(Positions))
        self._only_of_its_network()

    def _only_of_its_network(self) -> None:
        """Refuse what the network would not read."""
        unet = self.network == "unet"
        foreign = {"patch": None, "positions": "rotary"} if unet else {"channels": None, "attention": ()}
        other = "transformer" if unet else "unet"
        for name, default in foreign.items():
            if getattr(self, name) not in (default, []):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r} and network is {self.network!r}, which has no such "
                    f"option; leave it out, or use network {other}."
                )


ModelConfig = VAEConfig | HVAEConfig | DDPMConfig
MODELS: dict[str, type[VAEConfig] | type[HVAEConfig] | type[DDPMConfig]] = {
    config.kind: config for config in (VAEConfig, HVAEConfig, DDPMConfig)
}


@dataclass(frozen=True)
class TrainingConfig:
    """How a chain is trained. Counts are in steps of one batch."""

    steps: int = 3000
    """Optimiser steps in all."""
    batch_size: int = 128
    """Examples per step."""
    seed: int = 0
    """Decides the initial weights, the data order and every random draw."""
    learning_rate: float = 2e-3
    """Peak of the rate, after the warm-up and before the cosine decay to 0."""
    warmup: int = 100
    """Steps over which the rate rises from 0 (at most a tenth of all steps)."""
    weight_decay: float = 0.01
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient of the loss per dimension; larger ones are scaled down to it."""
    ema: float = 0.999
    """Decay of the weights' moving average, which is what is evaluated; ramped up from 0. 0 for none."""
    precision: Precision = "auto"
    """Of the networks in training: auto is bf16 where the hardware multiplies it faster. Laws,
    likelihoods and evaluation are fp32 always."""
    compile: Compile = "auto"
    """Compile the loss and its gradient into one graph: auto does in runs that are long enough to win back
    the minute that it takes, but for convolutions on a CPU, which gain little."""
    recompute: bool = False
    """Gradient checkpointing: blocks keep their inputs only and are computed again in the backward pass: the
    same gradients for less memory and one forward pass more. A plain mlp has no blocks."""
    log_every: int = 50
    """Steps between records of the loss."""
    evaluate_every: int = 500
    """Steps between held-out ELBOs (0: only at the end)."""
    sample_every: int = 1000
    """Steps between grids of samples (0: only at the end)."""
    checkpoint_every: int = 500
    """Steps between checkpoints (0: only at the end)."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""

    __pydantic_config__: ClassVar = _STRICT

    def __post_init__(self) -> None:
        checks.integer("steps", self.steps, low=1)
        checks.integer("batch_size", self.batch_size, low=1)
        checks.integer("seed", self.seed, low=0, high=2**63 - 1)
        checks.number("learning_rate", self.learning_rate, above=0.0, high=10.0)
        checks.integer("warmup", self.warmup, low=0)
        checks.number("weight_decay", self.weight_decay, low=0.0)
        checks.number("clip", self.clip, above=0.0)
        checks.number("ema", self.ema, low=0.0, below=1.0)
        checks.one_of("precision", self.precision, get_args(Precision))
        checks.one_of("compile", self.compile, get_args(Compile))
        if not isinstance(self.recompute, bool):
            raise ValueError(f"recompute is {self.recompute!r}; it must be true or false.")
        checks.integer("log_every", self.log_every, low=1)
        checks.integer("evaluate_every", self.evaluate_every, low=0)
        checks.integer("sample_every", self.sample_every, low=0)
        checks.integer("checkpoint_every", self.checkpoint_every, low=0)
        checks.integer("keep", self.keep, low=1)


@dataclass(frozen=True)
class RunConfig:
    """All of a run: what ``config.json`` holds."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig


def _sizes(what: str, sizes: object) -> None:
    if not isinstance(sizes, tuple | list):
        raise ValueError(f"{what} is {sizes!r}; it must be whole numbers in parentheses, such as (64, 32).")
    for size in sizes:
        checks.integer(f"a number in {what}", size, low=1, high=1 << 20)
