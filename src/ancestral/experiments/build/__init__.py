"""From a model's options and what one example is, to a chain: the one place that chooses networks."""

from ancestral.experiments.build.chain import build_chain

__all__ = ["build_chain"]
