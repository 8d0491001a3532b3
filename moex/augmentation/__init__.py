"""The mixing list: Mixup, CutMix, Cutout, MoEx and their relatives, stacked or one of several.

Each step is a file of this folder, with a class that is found there by its `name`.
"""

from moex.augmentation.base import IMAGES, Draws, OccasionalStep, Operation, PairStep, Step
from moex.augmentation.mixing import Mixing, Plan
from moex.augmentation.settings import AugmentationConfig, settings, step_classes

__all__ = [
    "IMAGES",
    "AugmentationConfig",
    "Draws",
    "Mixing",
    "OccasionalStep",
    "Operation",
    "PairStep",
    "Plan",
    "Step",
    "settings",
    "step_classes",
]
