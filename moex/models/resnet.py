"""ResNet for 32×32 images: He et al., Deep Residual Learning, CVPR 2016, section 4.2.

A 3×3 convolution, three stages of n blocks of two 3×3 convolutions with 16, 32 and 64 channels, global average
pooling and a linear layer: 6n+2 layers. The second and third stage begin with stride 2.
"""

import math

from torch import Tensor, nn
from torch.nn import functional as F


def init_convolutions(model: nn.Module) -> None:
    """Draws each convolution from N(0, 2 / (k·k·channels out)), as the networks' published code does."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, mean=0.0, std=math.sqrt(2 / fan_out))


# More layers would only take long to build.
DEEPEST = 10_000


def count_blocks(name: str, depth: int, *, layers: int, others: int) -> int:
    """The n of a network of `layers`·n + `others` layers.

    Args:
        name: the network's, for the message.
        depth: its number of layers.
        layers: of one block of every stage together.
        others: outside the blocks.

    Raises:
        ValueError: no n gives this depth; the nearest depths are named.
    """
    blocks, remainder = divmod(depth - others, layers)
    if remainder or blocks < 1:
        below = max(blocks, 1) * layers + others
        raise ValueError(f"{name}: the depth is {layers}n+{others}, such as {below} or {below + layers}")
    if depth > DEEPEST:
        raise ValueError(f"{name}: the depth is {DEEPEST:,} at most")
    return blocks


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around an identity shortcut without parameters (option A)."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, features: Tensor) -> Tensor:
        """`[B, in_channels, H, W]` to `[B, channels, H/stride, W/stride]`."""
        residual = self.relu1(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        residual += self.shortcut(features)
        output: Tensor = self.relu2(residual)
        return output

    def shortcut(self, features: Tensor) -> Tensor:
        """Every `stride`-th pixel, with the new channels filled with zeros, half of them on either side."""
        if self.stride == 1 and self.new_channels == 0:
            return features
        before = self.new_channels // 2
        subsampled = features[:, :, :: self.stride, :: self.stride]
        return F.pad(subsampled, (0, 0, 0, 0, before, self.new_channels - before))


class ResNet(nn.Module):
    """ResNet-`depth` for small images.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            the output of the first convolution after BatchNorm and ReLU, 16×32×32 on CIFAR.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3) -> None:
        """Builds the network.

        Args:
            depth: 6n+2.
            num_classes: K.
            in_channels: channels of the images.

        Raises:
            ValueError: the depth is not 6n+2.
        """
        super().__init__()
        blocks = count_blocks(f"resnet{depth}", depth, layers=6, others=2)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
        )
        self.stage1 = _stage(blocks, 16, 16, stride=1)
        self.stage2 = _stage(blocks, 16, 32, stride=2)
        self.stage3 = _stage(blocks, 32, 64, stride=2)
        self.fc = nn.Linear(64, num_classes)
        self.points = {name: name for name in ("stem", "stage1", "stage2", "stage3")}
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, in_channels: int, channels: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride=stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)))
