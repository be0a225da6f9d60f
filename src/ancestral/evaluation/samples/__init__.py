"""How far samples are from data: feature spaces, distances, and their floor."""
