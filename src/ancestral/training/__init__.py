"""Training: a readable loop over a state that is a function of (seed, images seen)."""

from ancestral.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ancestral.training.loop import StepRecord, TrainingDiverged, train
from ancestral.training.state import TrainingState

__all__ = [
    "CheckpointError",
    "StepRecord",
    "TrainingDiverged",
    "TrainingState",
    "load_checkpoint",
    "save_checkpoint",
    "train",
]
