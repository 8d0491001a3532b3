"""VGG with BatchNorm for 32×32 images: Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015.

The 3×3 convolutions of configurations A, B, D and E, each followed by BatchNorm and ReLU, in five stages that end
with a pooling. 32×32 images are then a single pixel, and one linear layer takes the place of the paper's three, as
public baselines on CIFAR have it; their convolutions' biases, which BatchNorm would undo, are left out.
"""

from torch import Tensor, nn

from moex.models.resnet import init_convolutions

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """VGG-`depth` with BatchNorm for small images.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            the output of the first convolution after BatchNorm and ReLU, 64×32×32 on CIFAR; a stage's output is
            that of its pooling.
    """

    def __init__(self, depth: int, *, num_classes: int, in_channels: int = 3) -> None:
        """Builds the network.

        Args:
            depth: 11, 13, 16 or 19, the paper's two further linear layers counted.
            num_classes: K.
            in_channels: channels of the images.

        Raises:
            ValueError: there is no network of this depth.
        """
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise ValueError(f"vgg{depth}: the depth is 11, 13, 16 or 19")
        self.stem = _convolution(in_channels, CHANNELS[0])
        before, stages = CHANNELS[0], []
        for index, (count, channels) in enumerate(zip(CONVOLUTIONS[depth], CHANNELS, strict=True)):
            layers: list[nn.Module] = []
            for _ in range(count - 1 if index == 0 else count):
                layers.append(_convolution(before, channels))
                before = channels
            # Rounded up, so that images of less than 32 pixels leave a pixel too.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            stages.append(nn.Sequential(*layers))
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = stages
        self.fc = nn.Linear(CHANNELS[-1], num_classes)
        self.points = {name: name for name in ("stem", "stage1", "stage2", "stage3", "stage4", "stage5")}
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        features = self.stage3(self.stage2(self.stage1(self.stem(images))))
        features = self.stage5(self.stage4(features))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _convolution(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
