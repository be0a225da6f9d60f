"""The depths of many images: one for all of them, or an error that names two that differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from ancestral.data.readers.imagefiles.decode import Decoded, Form, OtherForm
from ancestral.data.readers.imagefiles.depth import DEEPEST

_BRIGHT = 1 << 15


class Depths:
    """Takes what was decoded with one form, and says at the end what the values mean."""

    def __init__(self, form: Form) -> None:
        self.form = form
        """What the images are made to."""
        self._first: dict[int, str] = {}
        self._counts: Counter[int] = Counter()
        self._largest = 0

    def take(self, name: str, found: Decoded) -> None:
        """The images of one file, by the name that an error gives it."""
        self._counts[found.white] += len(found.pixels)
        if found.white not in self._first:
            self._first[found.white] = name
        if found.white > 255 and self.form.depth == 16:
            self._largest = max(self._largest, int(found.pixels.max()))

    @property
    def levels(self) -> int | None:
        """The number of grey levels, where the files state it by fewer than 8 bits."""
        return 2**self.form.depth if self.form.depth < 8 else None

    def finish(self) -> list[str]:
        """What there is to say of the depth. Raises ``ValueError`` for depths that do not go together, and
        ``OtherForm`` where images of 16 bits are to be made 8 because others have 8."""
        bits = self.form.depth
        if bits < 8:
            return [f"the images are stored in {bits} bits: grey levels 0 … {2**bits - 1}."]
        if bits == 8:
            return []
        eight = self._counts.pop(255, 0)
        if eight and self._largest > 255:
            if set(self._counts) == {DEEPEST} and self._largest >= _BRIGHT:
                raise OtherForm(replace(self.form, depth=8, shrink=True))
            self._differ(255, max(self._counts), f", with values up to {self._largest:,}")
        if len(self._counts) > 1:
            self._differ(min(self._counts), max(self._counts), "")
        return [
            f"{self._counts.total():,} images are stored in more than 8 bits; their values, up to "
            f"{self._largest:,}, are read as they are."
        ]

    def _differ(self, low: int, high: int, more: str) -> None:
        raise ValueError(
            f"{self._first[low]!r} has white at {low:,} and {self._first[high]!r} at {high:,}{more}; the values "
            "of all images must mean the same. Store them with one depth: all in 8 bits, or all in 16."
        )
