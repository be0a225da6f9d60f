"""Optimizers of matrices, beside AdamW."""

from ancestral.training.optimizers.muon import Muon
from ancestral.training.optimizers.soap import Soap

__all__ = ["Muon", "Soap"]
