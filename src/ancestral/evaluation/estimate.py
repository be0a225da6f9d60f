"""A mean over examples with its standard error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean over examples and its standard error, which includes that of any random t or z."""

    mean: float
    stderr: float
    stderr_estimator: float | None = None
    """That of the random t and z alone, given these examples; None where it was not told apart."""

    @staticmethod
    def of(values: Tensor) -> Estimate:
        """The mean of (n,) values and their standard deviation / √n (0 for a single value)."""
        values = values.double()
        spread = float(values.std()) if len(values) > 1 else 0.0
        return Estimate(float(values.mean()), spread / math.sqrt(len(values)))

    def scaled(self, factor: float) -> Estimate:
        """The same in other units."""
        alone = self.stderr_estimator
        return Estimate(
            self.mean * factor, self.stderr * abs(factor), None if alone is None else alone * abs(factor)
        )

    def json(self) -> dict[str, float]:
        """As in the commands' JSON."""
        alone = {} if self.stderr_estimator is None else {"stderr_estimator": self.stderr_estimator}
        return {"mean": self.mean, "stderr": self.stderr, **alone}
