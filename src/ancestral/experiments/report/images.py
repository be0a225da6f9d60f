"""Examples as images in a page: grids and frames, as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ancestral.core.spec import DataSpec
from ancestral.evaluation.pictures import image_bytes, image_grid

_WIDE = 480
"""Pixels to which a grid is enlarged by a whole factor, so that browsers that smooth do little harm."""


def grid(x: Tensor, spec: DataSpec, *, columns: int | None = None) -> str:
    """Images (n, *shape) in a grid, as a data URI."""
    return _uri(image_grid(_bytes(x, spec), columns), enlarged=True)


def frames(states: Sequence[Tensor], spec: DataSpec, *, columns: int | None = None) -> tuple[str, float]:
    """Grids of images beside one another, one for each of the states, (n, *shape), and one's width /
    height."""
    sheets = [image_grid(_bytes(state, spec), columns) for state in states]
    height, width = sheets[0].shape[:2]
    return _uri(np.concatenate(sheets, axis=1), enlarged=False), width / height


def _bytes(x: Tensor, spec: DataSpec) -> np.ndarray:
    return image_bytes(x.detach().cpu().double().numpy(), spec)


def _uri(sheet: np.ndarray, *, enlarged: bool) -> str:
    from PIL import Image

    if enlarged:
        factor = max(1, _WIDE // sheet.shape[1])
        sheet = sheet.repeat(factor, axis=0).repeat(factor, axis=1)
    # Pillow knows one, three and four channels; of two, the first is shown.
    sheet = sheet[:, :, 0] if sheet.shape[2] in (1, 2) else sheet[:, :, :4]
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, format="PNG", optimize=True)
    return data_uri(file.getvalue(), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """A file inside the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
