"""How a chain is described in tables and reports: a few words on each of its parts."""

from __future__ import annotations

from dataclasses import dataclass

BY_CHAIN = "defined by the chain"
"""What is said of a part that only the chain's own code knows."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Words on a chain, for people; the defaults are those of a chain that says nothing about itself."""

    inference: str = BY_CHAIN
    """What kind of inference it does."""
    posterior: str = BY_CHAIN
    """The family of q."""
    reparameterisation: str = "used"
    """Where draws are functions of the parameters. By default every latent's are (``walk.draw``)."""
    likelihood: str = BY_CHAIN
    """The family of p(x|z_1)."""
    noising: bool = False
    """Whether each latent is the data with noise, of the data's shape. For a ``MarginalChain`` alone."""
    continuous: bool = False
    """Whether its levels are the numbers in [0, 1], of which T are visited in sampling."""
