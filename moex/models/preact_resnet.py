"""Preactivation ResNet for 32×32 images: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016.

Four stages of basic blocks with 64, 128, 256 and 512 channels, as of ImageNet's ResNet-18 and 34, behind a 3×3
convolution that keeps the images' size. BatchNorm and ReLU come before each convolution; nothing follows the sums.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from moex.models.resnet import init_convolutions

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class PreactivationBlock(nn.Module):
    """BatchNorm, ReLU and a 3×3 convolution, twice, beside a shortcut; a 1×1 convolution where the shape changes.

    Args:
        in_channels: before the block.
        channels: after each of its convolutions.
        stride: of the first convolution and of the shortcut.
        activate_shortcut: whether the shortcut begins after the first BatchNorm and ReLU, or before them.
        dropout: probability with which an entry is dropped before the second convolution.
    """

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, activate_shortcut: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != in_channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
        self.activate_shortcut = activate_shortcut

    def forward(self, features: Tensor) -> Tensor:
        """`[B, in_channels, H, W]` to `[B, channels, H/stride, W/stride]`."""
        activated = self.activation(features)
        output: Tensor = self.residual(activated)
        output += self.shortcut(activated if self.activate_shortcut else features)
        return output


class PreactivationResNet(nn.Module):
    """Preactivation ResNet-`depth` for small images.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            the first convolution, before any BatchNorm, 64×32×32 on CIFAR.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3) -> None:
        """Builds the network.

        Args:
            depth: 18 or 34.
            num_classes: K.
            in_channels: channels of the images.

        Raises:
            ValueError: there is no network of this depth.
        """
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"preact_resnet{depth}: the depth is 18 or 34")
        self.stem = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        channels, stages = 64, []
        for index, count in enumerate(BLOCKS[depth]):
            blocks = []
            for block in range(count):
                after, stride = 64 * 2**index, 2 if index > 0 and block == 0 else 1
                # The paper splits the network's first block after its activation, and so its published code
                # splits those that change the shape.
                blocks.append(PreactivationBlock(channels, after, stride=stride, activate_shortcut=block == 0))
                channels = after
            stages.append(nn.Sequential(*blocks))
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.bn_final = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)
        self.points = {name: name for name in ("stem", "stage1", "stage2", "stage3", "stage4")}
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        features = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(images)))))
        features = F.relu(self.bn_final(features))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits
