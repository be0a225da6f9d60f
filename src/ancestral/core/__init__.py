"""The one idea: a Markov chain of latents, the walks along it, and the terms of its ELBO."""
