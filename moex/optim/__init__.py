"""The optimizer, the average of the weights, and the learning rate as a function of where a run stands."""

from moex.optim.average import WeightAverage
from moex.optim.optimizers import OPTIMIZERS, SGD, Adam, AdamW, Optimizer
from moex.optim.schedules import SCHEDULES, Cosine, Plateau, Schedule, Step

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "Cosine",
    "Optimizer",
    "Plateau",
    "Schedule",
    "Step",
    "WeightAverage",
]
