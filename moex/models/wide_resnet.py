"""Wide ResNet for 32×32 images: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016.

WRN-depth-width: a 3×3 convolution with 16 channels and three stages of n preactivation blocks that are `width`
times as wide as ResNet's, with dropout between their two convolutions: 6n+4 convolutions, those of the three
shortcuts that change the channels counted.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from moex.models.preact_resnet import PreactivationBlock
from moex.models.resnet import count_blocks, init_convolutions


class WideResNet(nn.Module):
    """WRN-`depth`-`width` for small images.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            the first convolution, before any BatchNorm, 16×32×32 on CIFAR.
    """

    def __init__(
        self, depth: int, *, num_classes: int, in_channels: int = 3, width: int = 10, dropout: float = 0.0
    ) -> None:
        """Builds the network.

        Args:
            depth: 6n+4.
            num_classes: K.
            in_channels: channels of the images.
            width: the stages have 16, 32 and 64 times as many channels.
            dropout: probability with which an entry is dropped between the convolutions of a block.

        Raises:
            ValueError: the depth is not 6n+4, the width not positive, or the probability of dropout not in [0, 1).
        """
        super().__init__()
        blocks = count_blocks(f"wrn{depth}", depth, layers=6, others=4)
        if width < 1:
            raise ValueError(f"width is {width}: it must be 1 or more")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}: it must be in [0, 1)")
        self.stem = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(blocks, 16, 16 * width, stride=1, dropout=dropout)
        self.stage2 = _stage(blocks, 16 * width, 32 * width, stride=2, dropout=dropout)
        self.stage3 = _stage(blocks, 32 * width, 64 * width, stride=2, dropout=dropout)
        self.bn_final = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        self.points = {name: name for name in ("stem", "stage1", "stage2", "stage3")}
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        features = F.relu(self.bn_final(features))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _stage(blocks: int, in_channels: int, channels: int, *, stride: int, dropout: float) -> nn.Sequential:
    widths, strides = [in_channels] + [channels] * (blocks - 1), [stride] + [1] * (blocks - 1)
    return nn.Sequential(
        *(
            PreactivationBlock(before, channels, stride=step, activate_shortcut=before != channels, dropout=dropout)
            for before, step in zip(widths, strides, strict=True)
        )
    )
