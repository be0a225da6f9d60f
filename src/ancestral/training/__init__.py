"""Training: a readable loop over a state that is a function of (seed, images seen)."""

from ancestral.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from ancestral.training.loop import StepRecord, TrainingDiverged, train
from ancestral.training.objective import build_objective, objective_of
from ancestral.training.state import TrainingState

__all__ = [
    "CheckpointError",
    "StepRecord",
    "TrainingDiverged",
    "TrainingState",
    "build_objective",
    "load_checkpoint",
    "objective_of",
    "save_checkpoint",
    "train",
]
