"""Options of the law that a decoder ends in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ancestral._internal import checks
from ancestral.config.strict import ABSENT, STRICT, refuse_unread

LikelihoodName = Literal[
    "auto", "gaussian", "bernoulli", "discretized-gaussian", "discretized-logistic", "logistic-mixture"
]
Sigma = Literal["auto", "fixed", "shared", "per-pixel", "predicted"]


MIXED = ("discretized-gaussian", "discretized-logistic", "logistic-mixture")
"""The kinds that may have a uniform component."""


@dataclass(frozen=True)
class LikelihoodConfig:
    """The law p(x|z) that a decoder ends in."""

    kind: LikelihoodName = "auto"
    """auto: bernoulli for 2 levels, discretized-logistic for more, gaussian for real numbers. A
    logistic-mixture is of several discretised logistics for each entry of x."""
    sigma: Sigma = "auto"
    """A fixed number, one learned number, one learned per entry of x, or predicted from z; auto: predicted
    for integers, per-pixel for real numbers."""
    value: float = 0.25
    """sigma itself (fixed) or where it starts, in units of data scaled to [-1, 1] or unit variance."""
    components: int | None = None
    """logistic-mixture: of how many, by default 5."""
    uniform: float | None = field(default=None, metadata={ABSENT: 0.0})
    """Share of the uniform distribution that is mixed into a discretized or logistic-mixture likelihood, so that
    no pixel's code length grows without limit. By default 1 / (n + 1) for n training examples."""

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.one_of("likelihood.kind", self.kind, get_args(LikelihoodName))
        checks.one_of("likelihood.sigma", self.sigma, get_args(Sigma))
        checks.number("likelihood.value", self.value, above=0.0)
        if self.uniform is not None:
            checks.number("likelihood.uniform", self.uniform, low=0.0, below=1.0)
        if self.kind != "auto":
            self.refuse_uniform(self.kind)
        if self.kind == "bernoulli":
            self.refuse_sigma("likelihood.kind is 'bernoulli'")
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

    def refuse_uniform(self, kind: str) -> None:
        """Reject a uniform component of a likelihood of this kind, if it has none."""
        if self.uniform and kind not in MIXED:
            raise ValueError(
                f"likelihood.uniform is {self.uniform:g} and the likelihood is {kind}; it is an option of "
                f"{', '.join(MIXED[:-1])} and {MIXED[-1]}. Leave it out."
            )

    def refuse_sigma(self, where: str) -> None:
        """Refuse what a Bernoulli law would not read."""
        refuse_unread(
            self,
            ("sigma", "value"),
            where=where,
            instead="a likelihood.kind that has a sigma",
            prefix="likelihood.",
        )
