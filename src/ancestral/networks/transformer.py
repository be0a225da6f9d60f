"""A diffusion transformer: an image and a time to an image of the same size (DiT, Peebles & Xie 2023).

The image is cut into square patches, each a token. Blocks of self-attention and an MLP, both scaled,
shifted and gated by the time (adaLN-zero), keep tokens as (n, tokens, width) in contiguous memory; a
linear layer puts them back into pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.networks.attention import attend
from ancestral.networks.conv import channels_last, channels_last_, check_image, check_size
from ancestral.networks.dropout import Dropout
from ancestral.networks.mlp import zero_
from ancestral.networks.recompute import Block
from ancestral.networks.time import TimeEmbedding, check_no_condition, check_time

POSITIONS = ("rotary", "learned")
HEAD_WIDTH = 64
"""How wide the heads are by default."""
_EPS = 1e-6
_ROTARY_BASE = 100.0

Tables = tuple[Tensor, Tensor]
"""Cosines and sines of a rotation, each (tokens, 1, 1, head width)."""


class Transformer(nn.Module):
    """z (n, in_channels, H, W) and time (n,) to (n, out_channels, H, W). It starts as the constant 0.

    ``depth`` blocks over (H / patch) · (W / patch) tokens of ``width``, with ``heads`` heads (by default
    one for every 64 of width, as far as they divide it). ``positions``: "rotary" turns queries and keys by
    their row and column, so that attention sees differences of positions only; "learned" adds a vector
    for each position to its token. Widths and head widths that are multiples of 16 are fastest.

    Raises ``ValueError`` for a patch that does not divide both sides, heads that do not divide the width,
    and rotary positions with a head width that is no multiple of 4.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        *,
        width: int,
        depth: int,
        patch: int = 2,
        heads: int | None = None,
        positions: str = "rotary",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        checks.integer("in_channels", in_channels, low=1)
        checks.integer("out_channels", out_channels, low=1)
        checks.integer("depth", depth, low=1)
        checks.number("dropout", dropout, low=0.0, below=1.0)
        checks.one_of("positions", positions, POSITIONS)
        self.patch = patch
        self.grid = grid(size, patch)
        self.shape = (in_channels, size[0], size[1])
        heads = head_count(width, heads, rotary=positions == "rotary")
        self.time = TimeEmbedding(width + width % 2)
        # A convolution of this stride is the linear map of each patch, and leaves the tokens in order.
        self.first = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.rotary = Rotary(self.grid, width // heads) if positions == "rotary" else None
        if positions == "learned":
            self.positions = nn.Parameter(0.02 * torch.randn(math.prod(self.grid), width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS, elementwise_affine=False)
        self.last = nn.Linear(width, out_channels * patch**2)
        zero_(self.last)
        # One product for the modulations of all blocks: many small ones cost more.
        self.modulation = nn.Linear(self.time.features, (6 * depth + 2) * width)
        zero_(self.modulation)
        channels_last_(self)

    def forward(self, z: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """The network's value, (n, out_channels, H, W), for z (n, in_channels, H, W) and time (n,)."""
        check_image(z, self.shape)
        check_time(time, len(z))
        check_no_condition(condition)
        # In channels-last memory pixels are tokens already.
        h: Tensor = self.first(channels_last(z)).permute(0, 2, 3, 1).flatten(1, 2)
        tables = None if self.rotary is None else self.rotary(h.dtype)
        if self.rotary is None:
            h = h + self.positions.to(h.dtype)
        modulation = self.modulation(F.silu(self.time(time))).unflatten(1, (-1, 1, h.shape[-1]))
        *parts, shift, scale = modulation.unbind(1)
        for i, block in enumerate(self.blocks):
            h = block(h, tables, *parts[6 * i : 6 * i + 6])
        out = self.last(torch.addcmul(shift, self.norm(h), 1 + scale))
        return unpatched(out, self.grid, self.patch)


class TransformerBlock(Block):
    """h + gate · attention(norm(h)), then h + gate · mlp(norm(h)), the norms scaled and shifted by the time.

    Queries and keys are divided by their root mean square over a head, times one learned gain per head
    (QK-norm), so that scores stay bounded and bf16 does for them: statistics are taken in float32 at least.
    A gain per head, unlike one per feature, costs no pass over the queries and keys of its own.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        # The modulation is the affine part of the norms.
        self.norm = nn.LayerNorm(width, eps=_EPS, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.gain = nn.Parameter(torch.ones(2 * heads))
        self.out = nn.Linear(width, width)
        self.inner = nn.Linear(width, 4 * width)
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(4 * width, width)

    def compute(self, h: Tensor, tables: Tables | None, *parts: Tensor) -> Tensor:
        """(n, tokens, width) to the same. ``parts``: shift, scale and gate of each half, (n, 1, width)."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        mixed = self.attention(torch.addcmul(shift, self.norm(h), 1 + scale), tables)
        h = torch.addcmul(h, gate, mixed)
        inner = self.inner(torch.addcmul(mlp_shift, self.norm(h), 1 + mlp_scale))
        return torch.addcmul(h, mlp_gate, self.outer(self.dropout(F.gelu(inner, approximate="tanh"))))

    def attention(self, h: Tensor, tables: Tables | None) -> Tensor:
        """Self-attention of tokens, (n, tokens, width)."""
        qkv = self.qkv(h).unflatten(2, (3, self.heads, -1))
        # Queries and keys at once, (n, tokens, 2, heads, head width).
        both, v = qkv[:, :, :2], qkv[:, :, 2]
        scale = rms_scale(both) * self.gain.view(2, self.heads, 1)
        both = (both if tables is None else rotated(both, tables)) * scale.to(both.dtype)
        q, k = both.unbind(2)
        mixed = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class Rotary(nn.Module):
    """Rotations by a token's row and column (Su et al. 2021; axial, with the base of Heo et al. 2024).

    Features i and i + d/2 of a head of width d are one plane. It is turned by row · ω_i in the first half
    of the planes and by column · ω_i in the second, ω_i = 100^(−i / (d/4)) for i = 0 … d/4 − 1.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, grid: tuple[int, int], head_width: int) -> None:
        super().__init__()
        quarter = head_width // 4
        omega = _ROTARY_BASE ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
        rows, columns = torch.arange(grid[0]), torch.arange(grid[1])
        turns = rows.repeat_interleave(grid[1]), columns.repeat(grid[0])
        angles = torch.cat([turn[:, None] * omega for turn in turns], dim=1)[:, None, None]
        exact = {
            "cos": torch.cat([angles.cos(), angles.cos()], dim=-1),
            "sin": torch.cat([-angles.sin(), angles.sin()], dim=-1),
        }
        for name, table in exact.items():
            self.register_buffer(name, table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, dtype: torch.dtype) -> Tables:
        """The tables in ``dtype``."""
        return self.cos.to(dtype), self.sin.to(dtype)


def rotated(x: Tensor, tables: Tables) -> Tensor:
    """x, (n, tokens, …, …, d), with each plane (x_i, x_{i+d/2}) turned by its token's angle."""
    cos, sin = tables
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), sin)


def rms_scale(x: Tensor) -> Tensor:
    """1 / √(mean(x²) + 1e-6) over the last dimension, (…, 1), in float32 at least."""
    exact = torch.promote_types(x.dtype, torch.float32)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
    return (norm.square() / x.shape[-1] + _EPS).rsqrt()


def unpatched(tokens: Tensor, grid: tuple[int, int], patch: int) -> Tensor:
    """(n, tokens, channels · patch²) to (n, channels, H, W), with tokens row by row, as their pixels are."""
    pixels = tokens.unflatten(2, (-1, patch, patch)).unflatten(1, grid)
    return pixels.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def grid(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """How many patches an image of ``size`` has in each direction; all its pixels must be in one."""
    check_size(size)
    checks.integer("patch", patch, low=1)
    if size[0] % patch or size[1] % patch:
        fits = [side for side in range(1, min(size) + 1) if not (size[0] % side or size[1] % side)]
        raise ValueError(
            f"patch is {patch} and images are {size[0]}×{size[1]}; it must divide both sides. Use one of "
            f"{', '.join(map(str, fits))}."
        )
    return size[0] // patch, size[1] // patch


def head_count(width: int, heads: int | None, *, rotary: bool) -> int:
    """``heads``, or by default one for every 64 of width, as far as they fit; refused where they do not."""
    checks.integer("width", width, low=1)
    unit = 4 if rotary else 1
    if heads is None:
        most = max(width // HEAD_WIDTH, 1)
        heads = next((number for number in range(most, 0, -1) if width % (unit * number) == 0), 1)
    checks.integer("heads", heads, low=1)
    if width % (unit * heads):
        each = " and, with rotary positions, leave a multiple of 4 to each" if rotary else ""
        raise ValueError(
            f"width is {width} with heads {heads}; the heads must divide it{each}. Use a width that is a "
            f"multiple of {unit * heads}."
        )
    return heads
