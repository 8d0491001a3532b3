"""ResNeXt for 32×32 images: Xie et al., Aggregated Residual Transformations, CVPR 2017, section 5.2.

A 3×3 convolution with 64 channels and three stages of n bottleneck blocks with 256, 512 and 1024 channels: 9n+2
layers. ResNeXt-29 8×64d has 8 groups of 64 channels in the 3×3 convolutions of its first stage.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from moex.models.resnet import count_blocks, init_convolutions


class GroupedBottleneck(nn.Module):
    """A 1×1, a grouped 3×3 and a 1×1 convolution beside a shortcut, projected where the channels change.

    Args:
        in_channels: before the block.
        inner: channels of the first two convolutions, all groups together.
        channels: after the block.
        groups: of the 3×3 convolution.
        stride: of the 3×3 convolution and of the projection.
    """

    def __init__(self, in_channels: int, inner: int, channels: int, *, groups: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if channels != in_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, features: Tensor) -> Tensor:
        """`[B, in_channels, H, W]` to `[B, channels, H/stride, W/stride]`."""
        output: Tensor = self.residual(features)
        output += self.shortcut(features)
        return F.relu(output, inplace=True)


class ResNeXt(nn.Module):
    """ResNeXt-`depth` `cardinality`×`base_width`d for small images.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            the output of the first convolution after BatchNorm and ReLU, 64×32×32 on CIFAR.
    """

    def __init__(
        self, depth: int, *, num_classes: int, in_channels: int = 3, cardinality: int = 8, base_width: int = 64
    ) -> None:
        """Builds the network.

        Args:
            depth: 9n+2.
            num_classes: K.
            in_channels: channels of the images.
            cardinality: groups of the 3×3 convolutions.
            base_width: channels of each group in the first stage; the second has twice, the third four times as
                many.

        Raises:
            ValueError: the depth is not 9n+2, or an option is not positive.
        """
        super().__init__()
        blocks = count_blocks(f"resnext{depth}", depth, layers=9, others=2)
        for option, value in (("cardinality", cardinality), ("base_width", base_width)):
            if value < 1:
                raise ValueError(f"{option} is {value}: it must be 1 or more")
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        channels, stages = 64, []
        for stage in range(3):
            inner, after = cardinality * base_width * 2**stage, 256 * 2**stage
            stage_blocks = []
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                stage_blocks.append(GroupedBottleneck(channels, inner, after, groups=cardinality, stride=stride))
                channels = after
            stages.append(nn.Sequential(*stage_blocks))
        self.stage1, self.stage2, self.stage3 = stages
        self.fc = nn.Linear(channels, num_classes)
        self.points = {name: name for name in ("stem", "stage1", "stage2", "stage3")}
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits
