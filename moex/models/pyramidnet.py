"""PyramidNet for 32×32 images: Han, Kim and Kim, Deep Pyramidal Residual Networks, CVPR 2017.

Every block is wider than the one before it by the same amount, α̃ divided by the number of blocks (additive
widening). Blocks begin and end with BatchNorm and have no ReLU before their first convolution. ShakeDrop or
stochastic depth can disturb what a block adds to its shortcut, the later the block the more often.
"""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moex.models.resnet import count_blocks, init_convolutions
from moex.models.shake_drop import ShakeDrop


def linear_death_rates(blocks: int, *, last: float) -> list[float]:
    """The rates at which the blocks lose their residuals, from the first to the last: l/L · `last` for block l of L.

    Source: Huang et al., Deep Networks with Stochastic Depth, ECCV 2016, equation 4, which gives the survival rates
    1 - l/L (1 - p_L); Yamada et al. take them over for ShakeDrop. Both recommend `last` = 1 - p_L = 0.5.
    """
    return [block / blocks * last for block in range(1, blocks + 1)]


class Block(nn.Module):
    """A chain of BatchNorm, ReLU and convolutions around a shortcut without parameters.

    Args:
        widths: channels before, between and after the convolutions.
        kernels: the size of each convolution.
        stride: of the block's one strided 3×3 convolution: the first one.
        regularizer: what happens to the residual before the shortcut is added; it has no parameters.
    """

    def __init__(self, widths: list[int], kernels: list[int], *, stride: int, regularizer: nn.Module) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        strides = [stride if index == kernels.index(3) else 1 for index in range(len(kernels))]
        for index, ((before, after), kernel) in enumerate(zip(pairwise(widths), kernels, strict=True)):
            layers.append(nn.BatchNorm2d(before))
            if index > 0:
                layers.append(nn.ReLU(inplace=True))
            layers.append(nn.Conv2d(before, after, kernel, stride=strides[index], padding=kernel // 2, bias=False))
        layers.append(nn.BatchNorm2d(widths[-1]))
        self.residual = nn.Sequential(*layers)
        self.regularizer = regularizer
        self.stride = stride
        self.new_channels = widths[-1] - widths[0]

    def forward(self, features: Tensor) -> Tensor:
        """`[B, widths[0], H, W]` to `[B, widths[-1], H/stride, W/stride]`."""
        shortcut = features
        if self.stride > 1:
            shortcut = F.avg_pool2d(features, self.stride, ceil_mode=True)
        residual: Tensor = self.regularizer(self.residual(features))
        # Trained networks are traced, and TorchScript traces no addition in place by a function.
        if not self.training:
            return residual + F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        output: Tensor = _AddToFirstChannels.apply(residual, shortcut)
        return output


class PyramidNet(nn.Module):
    """PyramidNet-`depth` for small images.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            `bn1`, after the first convolution and before any ReLU, 16×32×32 on CIFAR.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int,
        in_channels: int = 3,
        alpha: float = 240,
        bottleneck: bool = True,
        shake_drop: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        """Builds the network.

        Args:
            depth: 9n+2 with bottleneck blocks, 6n+2 with basic ones.
            num_classes: K.
            in_channels: channels of the images.
            alpha: α̃, by how many channels the last block is wider than the stem's 16.
            bottleneck: blocks of 1×1, 3×3 and 1×1 convolutions, the last four times as wide.
            shake_drop: ShakeDrop's death rate at the last block; 0: no ShakeDrop.
            stochastic_depth: stochastic depth's death rate at the last block; 0: every block stays.

        Raises:
            ValueError: the depth does not fit the kind of block, α̃ is negative, or a death rate is out of its range
                or not the only one.
        """
        super().__init__()
        name = f"pyramidnet{depth} with bottleneck={str(bottleneck).lower()}"
        blocks = count_blocks(name, depth, layers=9 if bottleneck else 6, others=2)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha is {alpha}: it must be 0 or more")
        regularizers = iter(_regularizers(3 * blocks, shake_drop=shake_drop, stochastic_depth=stochastic_depth))
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        # The width grows as a float; Python's round gives the channels.
        growth, width, channels = alpha / (3 * blocks), 16.0, 16
        stages = []
        for stage in range(3):
            stage_blocks = []
            for block in range(blocks):
                width += growth
                inner = round(width)
                widths = [channels, inner, inner, 4 * inner] if bottleneck else [channels, inner, inner]
                kernels = [1, 3, 1] if bottleneck else [3, 3]
                stride = 2 if stage > 0 and block == 0 else 1
                stage_blocks.append(Block(widths, kernels, stride=stride, regularizer=next(regularizers)))
                channels = widths[-1]
            stages.append(nn.Sequential(*stage_blocks))
        self.stage1, self.stage2, self.stage3 = stages
        self.bn_final = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.points = {"stem": "bn1"} | {name: name for name in ("stage1", "stage2", "stage3")}
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        features = self.stage3(self.stage2(self.stage1(self.bn1(self.conv1(images)))))
        features = F.relu(self.bn_final(features))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


class _AddToFirstChannels(torch.autograd.Function):
    """Adds a tensor of fewer channels in place.

    The sum with a shortcut padded with zeros, whose zeros are neither written nor read again.
    """

    @staticmethod
    def forward(residual: Tensor, shortcut: Tensor) -> Tensor:
        residual[:, : shortcut.shape[1]] += shortcut
        return residual

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        residual, shortcut = inputs
        ctx.mark_dirty(residual)
        ctx.channels = shortcut.shape[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient[:, : ctx.channels]


def _regularizers(blocks: int, *, shake_drop: float, stochastic_depth: float) -> list[nn.Module]:
    """What happens to the residual of each block, by the death rates of the last one.

    Stochastic depth drops the residual of a block for the whole batch, as in its paper. The paper multiplies the
    residual by the survival rate in evaluation; torchvision divides it by that rate in training and leaves
    evaluation alone, so that either way evaluation sees the expectation of training. The residual ends in a
    BatchNorm, so the two are the same family of networks: torchvision's weight and bias there stand for the paper's
    times the survival rate. What they begin with and how they step and decay is not rescaled. A dropped residual is
    computed all the same, so the running statistics of its BatchNorms move in every step; the paper skips the block.
    """
    for option, rate in (("shake_drop", shake_drop), ("stochastic_depth", stochastic_depth)):
        if not 0 <= rate < 1:
            raise ValueError(f"{option} is {rate}: it is the death rate of the last block and must be in [0, 1)")
    if shake_drop and stochastic_depth:
        raise ValueError(
            f"shake_drop is {shake_drop} and stochastic_depth is {stochastic_depth}: one of them must be 0, since a "
            "block has room for one"
        )
    if shake_drop:
        return [ShakeDrop(rate) for rate in linear_death_rates(blocks, last=shake_drop)]
    if stochastic_depth:
        # Here, since `import moex` and the networks without it need torch and NumPy alone.
        from torchvision.ops import StochasticDepth

        return [StochasticDepth(rate, "batch") for rate in linear_death_rates(blocks, last=stochastic_depth)]
    return [nn.Identity() for _ in range(blocks)]
