"""A mean over examples with its standard error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_SPEC = re.compile(
    r"(?P<place>(?:.?[<>=^])?[-+ ]?)(?P<flags>z?#?)(?P<width>0?\d*)(?P<digits>[,_]?(?:\.\d+)?[eEfFgGn%]?)"
)
"""A number's format, in four parts: where it stands, its flags, its width and its digits."""
UNKNOWN = "–"
"""In the place of a standard error that is unknown."""
_MOST_DIGITS = 12
"""After the point: a double holds about 16 in all."""


@dataclass(frozen=True)
class Estimate:
    """A mean over examples and its standard error, which includes that of any random t or z.

    As text it is "mean ± stderr". A format such as ``.2f`` is for both numbers, and its width, as in
    ``12.2f``, for the mean alone; without digits in it, two significant digits of the standard error are
    shown.
    """

    mean: float
    stderr: float
    """NaN where it is unknown, as it is for a single example; null in JSON, and "–" as text."""
    stderr_estimator: float | None = None
    """That of the random t and z alone, given these examples; None where it was not told apart."""

    @staticmethod
    def of(values: Tensor) -> Estimate:
        """The mean of (n,) values and their standard deviation / √n, unknown for a single value."""
        values = values.double()
        spread = float(values.std()) if len(values) > 1 else math.nan
        return Estimate(float(values.mean()), spread / math.sqrt(len(values)))

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Estimate:
        """The estimate whose ``json`` this is; other keys are left alone."""
        stderr = math.nan if found["stderr"] is None else found["stderr"]
        return Estimate(found["mean"], stderr, found.get("stderr_estimator"))

    def scaled(self, factor: float) -> Estimate:
        """The same in other units."""
        alone = self.stderr_estimator
        return Estimate(
            self.mean * factor, self.stderr * abs(factor), None if alone is None else alone * abs(factor)
        )

    @property
    def known(self) -> bool:
        """Whether there is a standard error."""
        return not math.isnan(self.stderr)

    def json(self) -> dict[str, float | None]:
        """As in the commands' JSON."""
        alone = {} if self.stderr_estimator is None else {"stderr_estimator": self.stderr_estimator}
        return {"mean": self.mean, "stderr": self.stderr if self.known else None, **alone}

    def __format__(self, spec: str) -> str:
        parts = _SPEC.fullmatch(spec)
        if parts is None:
            raise ValueError(
                f"{spec!r} is not a format of an estimate; give one of a number, such as '.4f', or none."
            )
        place, flags, width, digits = parts.groups()
        if digits:
            mean, stderr = digits, digits
        else:
            mean, stderr = self._digits()
        error = f"{self.stderr:{flags}{stderr}}" if self.known else UNKNOWN
        return f"{self.mean:{place}{flags}{width}{mean}} ± {error}"

    def __str__(self) -> str:
        return format(self)

    def _digits(self) -> tuple[str, str]:
        """Formats of the mean and the standard error that show two significant digits of the latter."""
        if self.stderr > 0 and math.isfinite(self.stderr):
            # The exponent after rounding: 0.0996 has the digits of 0.10.
            after_point = max(0, 1 - int(f"{self.stderr:.1e}".partition("e")[2]))
            if after_point <= _MOST_DIGITS:
                return f".{after_point}f", f".{after_point}f"
        return ".6g", ".2g"
