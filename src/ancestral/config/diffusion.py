"""Options of denoising diffusion."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ancestral._internal import checks
from ancestral.config.strict import ABSENT, STRICT, DropoutOf, check_sizes, refuse_unread

ImageNetwork = Literal["unet", "transformer"]
Positions = Literal["rotary", "learned"]
ScheduleName = Literal["linear", "cosine", "sigmoid", "log-linear", "learned"]
PredictionName = Literal["noise", "data", "mean", "velocity"]
VarianceName = Literal["beta", "posterior", "learned"]
DiffusionLoss = Literal["simple", "vlb", "min-snr", "hybrid"]
LevelSampling = Literal["uniform", "even", "importance"]


@dataclass(frozen=True)
class DDPMConfig:
    """A denoising diffusion model: fixed noising, learned denoising."""

    kind: ClassVar[str] = "ddpm"

    T: int | Literal["continuous"] = 1000
    """Noise levels; or continuous, the limit of many: trained and evaluated at random times, for loss vlb,
    schedule log-linear or learned, and any prediction but the mean."""
    schedule: ScheduleName = "log-linear"
    """linear (Ho et al. 2020), cosine (Nichol & Dhariwal 2021), sigmoid (Jabri et al. 2023); log-linear, with
    equal steps of log-SNR, which suits the VLB, or learned, which starts so (both Kingma et al. 2021)."""
    first_log_snr: float | None = None
    """log-linear: log-SNR at t = 1; learned: where that starts. By default where the noise is as wide as one
    level of integer data (what is finer is left to the reconstruction term), but at least 2.5; and 9 for
    real numbers."""
    last_log_snr: float = -9.0
    """log-linear: log-SNR at t = T; learned: where that starts."""
    prediction: PredictionName = "velocity"
    """What the network is asked for: noise, data (x_0), mean (of the reverse step) or velocity."""
    variance: VarianceName = "learned"
    """Of the reverse step: beta, the posterior's, or learned between the two."""
    loss: DiffusionLoss = "vlb"
    """simple (squared error of the target), vlb (the exact bound), min-snr, or hybrid (simple, with the
    VLB for the learned variance)."""
    gamma: float = 5.0
    """The cap of min-snr."""
    sampling: LevelSampling = "even"
    """Of the levels that a batch is trained at: uniform, even (spread over the batch), or importance (even,
    and more often where the loss was large; Nichol & Dhariwal 2021). Each is unbiased."""
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
    fourier: tuple[int, ...] = ()
    """Exponents n of the sin(2^n π z) and cos(2^n π z) that the network reads beside z: (7, 8) is for 8-bit
    data. By default none."""
    dropout: float | None = field(default=None, metadata={ABSENT: 0.0})
    """Share of hidden units dropped in training. By default 0.1 in the unet and 0.2 for vectors with
    fewer than 10,000 training examples, else 0."""
    dropout_of: DropoutOf = field(default="channels", metadata={ABSENT: "units"})
    """What is dropped: whole channels of an example, or each unit by itself. An mlp has single units only."""

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        if isinstance(self.T, str):
            if self.T != "continuous":
                raise ValueError(f"T is {self.T!r}; it must be a whole number, or continuous.")
        else:
            checks.integer("T", self.T, low=1, high=1_000_000)
        checks.one_of("schedule", self.schedule, get_args(ScheduleName))
        if self.first_log_snr is not None:
            checks.number("first_log_snr", self.first_log_snr, low=-20.0, high=30.0)
        checks.number("last_log_snr", self.last_log_snr, low=-30.0, high=20.0)
        checks.one_of("prediction", self.prediction, get_args(PredictionName))
        checks.one_of("variance", self.variance, get_args(VarianceName))
        checks.one_of("loss", self.loss, get_args(DiffusionLoss))
        checks.number("gamma", self.gamma, above=0.0)
        checks.one_of("sampling", self.sampling, get_args(LevelSampling))
        if self.channels is not None:
            check_sizes("channels", self.channels)
            if not self.channels:
                raise ValueError("channels is empty; give at least one number of channels.")
        for name, high in (("blocks", 1000), ("heads", 1 << 10), ("patch", 1 << 10)):
            if getattr(self, name) is not None:
                checks.integer(name, getattr(self, name), low=1, high=high)
        check_sizes("attention", self.attention)
        check_sizes("fourier", self.fourier, low=-4, high=12)
        checks.integer("width", self.width, low=1, high=1 << 14)
        if self.dropout is not None:
            checks.number("dropout", self.dropout, low=0.0, below=1.0)
        checks.one_of("dropout_of", self.dropout_of, get_args(DropoutOf))
        checks.one_of("network", self.network, get_args(ImageNetwork))
        checks.one_of("positions", self.positions, get_args(Positions))
        self._only_what_is_read()

    def _only_what_is_read(self) -> None:
        """Refuse what the network, the schedule or the loss would not read (the data's part: ``build``)."""
        unet = self.network == "unet"
        refuse_unread(
            self,
            ("patch", "positions") if unet else ("channels", "attention"),
            where=f"network is {self.network!r}",
            instead=f"network {'transformer' if unet else 'unet'}",
        )
        if self.schedule not in ("log-linear", "learned"):
            refuse_unread(
                self,
                ("first_log_snr", "last_log_snr"),
                where=f"schedule is {self.schedule!r}",
                instead="schedule log-linear or learned",
            )
        if self.loss != "min-snr":
            refuse_unread(self, ("gamma",), where=f"loss is {self.loss!r}", instead="loss min-snr")
