"""Runs: training into a folder that can be resumed, moved, evaluated and sampled from."""

from ancestral.experiments.runs.curve import MeasuredCurve, measure_samplers
from ancestral.experiments.runs.fitting import Fitted, RunDiverged, fit, pick_device, resume_run, train_run
from ancestral.experiments.runs.folder import RunFolder, load_run
from ancestral.experiments.runs.loading import examples_of, load_configured, load_data_of
from ancestral.experiments.runs.quality import MeasuredSamples, measure_samples
from ancestral.experiments.runs.tensorboard import TensorBoard

__all__ = [
    "Fitted",
    "MeasuredCurve",
    "MeasuredSamples",
    "RunDiverged",
    "RunFolder",
    "TensorBoard",
    "examples_of",
    "fit",
    "load_configured",
    "load_data_of",
    "load_run",
    "measure_samplers",
    "measure_samples",
    "pick_device",
    "resume_run",
    "train_run",
]
