"""A network of three layers in which an exchange is easy to follow."""

import torch
from torch import Tensor, nn

PERM = torch.tensor([2, 0, 1, 3])


class SmallNet(nn.Module):
    """Stem, block and head, with a map of points."""

    points = {"stem": "norm", "block": "block.0"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def stem(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))

    def top(self, features: Tensor) -> Tensor:
        return self.head(self.block(features.relu()).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.stem(images))
