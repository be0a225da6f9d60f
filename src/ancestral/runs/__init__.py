"""Runs: training into a folder that can be resumed, moved, evaluated and sampled from."""

from ancestral.runs.fitting import Fitted, RunDiverged, fit, pick_device, resume_run, train_run
from ancestral.runs.folder import RunFolder, load_run

__all__ = [
    "Fitted",
    "RunDiverged",
    "RunFolder",
    "fit",
    "load_run",
    "pick_device",
    "resume_run",
    "train_run",
]
