"""What plans of the mixing list are drawn for: a small batch, its generators, and a network that keeps its size."""

import numpy as np
import torch
from torch import nn

from moex.augmentation import IMAGES

BATCH, CLASSES = 5, 7
PLACES = (IMAGES, "stem", "stage1", "stage2")


class Net(nn.Sequential):
    """Three layers, whose features are as large as the images, and a linear head."""

    def __init__(self):
        torch.manual_seed(0)
        layers = {name: nn.Conv2d(3, 3, 3, padding=1) for name in PLACES[1:]}
        super().__init__()
        for name, layer in (layers | {"head": nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 9, CLASSES))}).items():
            self.add_module(name, layer)
        self.double()


def batch(batch_size=BATCH):
    generator = torch.Generator().manual_seed(batch_size)
    images = torch.randn(batch_size, 3, 6, 9, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (batch_size,), generator=generator)


def generators(seed=0):
    return {"shared": np.random.default_rng(seed), "own": np.random.default_rng(seed + 1000)}
