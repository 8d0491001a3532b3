"""Label smoothing.

Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016, section 7.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from moex.augmentation.base import IMAGES, Draws, Operation, Step
from moex.settings import require


@dataclass(kw_only=True)
class LabelSmoothing(Step):
    """Moves `epsilon` of each label's mass: to the uniform distribution over all classes, or over the others.

    With `spread="others"` it is the published ImageNet code's: 1-ε on the label's own class, ε/(K-1) on each other.
    """

    name: ClassVar[str] = "label_smoothing"
    epsilon: float = 0.1
    spread: str = "all"

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        require(0 <= self.epsilon <= 1, f"{key}.epsilon", self.epsilon, "in [0, 1]")
        require(self.spread in ("all", "others"), f"{key}.spread", self.spread, "one of all, others")

    def draw(self, draws: Draws) -> list[Operation]:
        """Draws nothing."""
        return [Operation(self, IMAGES, (torch.tensor([1 - self.epsilon]),))]

    def mix_labels(self, labels: Tensor, *arguments: Tensor) -> Tensor:
        """Smooths soft labels."""
        (weight,) = arguments
        if self.spread == "others":
            # So much over all classes that the label's own keeps 1-ε.
            classes = labels.shape[1]
            weight = 1 - (1 - weight) * classes / (classes - 1)
        return smooth_labels(labels, weight)


def smooth_labels(labels: Tensor, weight: Tensor) -> Tensor:
    """λY + (1-λ)/K for soft labels Y `[B, K]`; the usual ε is 1-λ."""
    return torch.lerp(torch.full_like(labels, 1 / labels.shape[1]), labels, weight.to(labels.dtype).view(-1, 1))
