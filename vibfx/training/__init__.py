"""Training gated graphs: whole, or in parts for a loop of your own."""

from vibfx.gates import information
from vibfx.training.compressor import Compressor
from vibfx.training.controller import Controller
from vibfx.training.engine import Hardware
from vibfx.training.evaluation import Score, evaluate
from vibfx.training.objectives import Distillation, Objective, Supervised
from vibfx.training.optimizers import parameter_groups
from vibfx.training.phases import fine_tune, train
from vibfx.training.shrinking import shrink, unshrink

__all__ = [
    "Compressor",
    "Controller",
    "Distillation",
    "Hardware",
    "Objective",
    "Score",
    "Supervised",
    "evaluate",
    "fine_tune",
    "information",
    "parameter_groups",
    "shrink",
    "train",
    "unshrink",
]
