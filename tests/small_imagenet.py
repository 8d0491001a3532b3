"""ImageNet and ImageNet-A in tiny squares, as data sets that a run may name."""

from dataclasses import dataclass

from moex.data.imagenet import ImageNet
from moex.data.shifted import ImageNetA


@dataclass
class SmallImageNet(ImageNet):
    """In squares of 16 pixels."""

    size: int = 16
    resize: int = 16


@dataclass
class SmallImageNetA(ImageNetA):
    """In squares of 16 pixels."""

    size: int = 16
    resize: int = 16
