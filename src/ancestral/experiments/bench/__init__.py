"""Speed: a machine's ceilings, the cost of a training step, and which of them bounds it."""

from ancestral.experiments.bench.bound import Bound, Floors, arithmetic_floor
from ancestral.experiments.bench.ceilings import Ceilings, Sizes, measure_ceilings
from ancestral.experiments.bench.machine import Machine, this_machine
from ancestral.experiments.bench.measure import Measured, measure_run, step_cost
from ancestral.training.flops import Work, count_work, training_work

__all__ = [
    "Bound",
    "Ceilings",
    "Floors",
    "Machine",
    "Measured",
    "Sizes",
    "Work",
    "arithmetic_floor",
    "count_work",
    "measure_ceilings",
    "measure_run",
    "step_cost",
    "this_machine",
    "training_work",
]
