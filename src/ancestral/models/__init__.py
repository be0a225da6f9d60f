"""Models: chains of latents made of parts and networks."""

from ancestral.models.ladder_hvae import LadderHVAE
from ancestral.models.markov_hvae import MarkovHVAE
from ancestral.models.vae import VAE

__all__ = ["VAE", "LadderHVAE", "MarkovHVAE"]
