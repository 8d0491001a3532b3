"""PyramidNet for 32×32 images: Han, Kim and Kim, Deep Pyramidal Residual Networks, CVPR 2017.

Every block is wider than the one before it by the same amount, α̃ divided by the number of blocks (additive
widening). Blocks begin and end with BatchNorm and have no ReLU before their first convolution.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from moex.models.resnet import init_convolutions


class Block(nn.Module):
    """A chain of BatchNorm, ReLU and convolutions around a shortcut without parameters.

    Args:
        widths: channels before, between and after the convolutions.
        kernels: the size of each convolution.
        stride: of the block's one strided 3×3 convolution: the first one.
    """

    def __init__(self, widths: list[int], kernels: list[int], *, stride: int) -> None:
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
        self.stride = stride
        self.new_channels = widths[-1] - widths[0]

    def forward(self, features: Tensor) -> Tensor:
        """`[B, widths[0], H, W]` to `[B, widths[-1], H/stride, W/stride]`."""
        shortcut = features
        if self.stride > 1:
            shortcut = F.avg_pool2d(features, self.stride, ceil_mode=True)
        output: Tensor = self.residual(features)
        return output + F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))


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
    ) -> None:
        """Builds the network.

        Args:
            depth: 9n+2 with bottleneck blocks, 6n+2 with basic ones.
            num_classes: K.
            in_channels: channels of the images.
            alpha: α̃, by how many channels the last block is wider than the stem's 16.
            bottleneck: blocks of 1×1, 3×3 and 1×1 convolutions, the last four times as wide.

        Raises:
            ValueError: the depth does not fit the kind of block, or α̃ is negative.
        """
        super().__init__()
        layers = 9 if bottleneck else 6
        blocks, remainder = divmod(depth - 2, layers)
        if remainder or blocks < 1:
            below = max(blocks, 1) * layers + 2
            raise ValueError(
                f"pyramidnet{depth} with bottleneck={str(bottleneck).lower()}: the depth is {layers}n+2, "
                f"such as {below} or {below + layers}"
            )
        if alpha < 0:
            raise ValueError(f"alpha is {alpha}: it must be 0 or more")
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
                stage_blocks.append(Block(widths, kernels, stride=2 if stage > 0 and block == 0 else 1))
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
