"""DenseNet-BC for 32×32 images: Huang et al., Densely Connected Convolutional Networks, CVPR 2017.

A 3×3 convolution with 2k channels and three blocks of n layers. A layer reads everything before it in its block,
through a bottleneck of 4k channels (B), and adds k channels; between the blocks, a 1×1 convolution halves the
channels (C) and a pooling the size: 6n+4 layers.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moex.models.resnet import count_blocks, init_convolutions


class DenseLayer(nn.Module):
    """BatchNorm, ReLU and a 1×1 convolution to 4k channels; BatchNorm, ReLU and a 3×3 convolution to k channels.

    Args:
        in_channels: of all features before it in its block.
        growth_rate: k.
        memory_saving: keeps neither the concatenation nor its normalised form for the backward pass, which
            computes both again (Pleiss et al., Memory-Efficient Implementation of DenseNets, 2017).
    """

    def __init__(self, in_channels: int, growth_rate: int, *, memory_saving: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth_rate, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth_rate)
        self.conv2 = nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False)
        self.memory_saving = memory_saving

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features `[B, C_i, H, W]`, whose C_i sum to `in_channels`, to `[B, growth_rate, H, W]`."""
        bottleneck = self._recomputed_bottleneck(features) if self.memory_saving else self._bottleneck(*features)
        new: Tensor = self.conv2(F.relu(self.bn2(bottleneck), inplace=True))
        return new

    def _bottleneck(self, *features: Tensor) -> Tensor:
        bottleneck: Tensor = self.conv1(F.relu(self.bn1(torch.cat(features, dim=1)), inplace=True))
        return bottleneck

    def _recomputed_bottleneck(self, features: list[Tensor]) -> Tensor:
        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            return nullcontext(), _without_running_statistics(self.bn1)

        # A compiled graph updates the running statistics in its forward pass alone, and takes no contexts.
        options: dict[str, Any] = {} if torch.compiler.is_compiling() else {"context_fn": contexts}
        bottleneck: Tensor = checkpoint(
            self._bottleneck, *features, use_reentrant=False, preserve_rng_state=False, **options
        )
        return bottleneck


@contextmanager
def _without_running_statistics(norm: nn.BatchNorm2d) -> Iterator[None]:
    """A batch that is computed a second time is counted in copies, which are thrown away."""
    buffers = dict(norm.named_buffers())
    for name, buffer in buffers.items():
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for name, buffer in buffers.items():
            setattr(norm, name, buffer)


class DenseBlock(nn.Module):
    """Layers that each read the block's input and the outputs of all layers before.

    Args:
        layers: how many.
        in_channels: before the block; after it there are `layers`·k more.
        growth_rate: k.
        memory_saving: see `DenseLayer`.
    """

    def __init__(self, layers: int, in_channels: int, growth_rate: int, *, memory_saving: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(in_channels + index * growth_rate, growth_rate, memory_saving=memory_saving)
            for index in range(layers)
        )

    def forward(self, features: Tensor) -> Tensor:
        """`[B, in_channels, H, W]` to `[B, in_channels + layers·k, H, W]`."""
        everything = [features]
        for layer in self.layers:
            everything.append(layer(everything))
        return torch.cat(everything, dim=1)


class DenseNet(nn.Module):
    """DenseNet-BC-`depth` for small images.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            the first convolution, before any BatchNorm, 2k×32×32 on CIFAR; a stage is a dense block.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: int,
        in_channels: int = 3,
        growth_rate: int = 12,
        memory_saving: bool = False,
    ) -> None:
        """Builds the network.

        Args:
            depth: 6n+4.
            num_classes: K.
            in_channels: channels of the images.
            growth_rate: k, the channels that each layer adds.
            memory_saving: computes concatenations and their BatchNorms a second time in the backward pass instead
                of keeping them. Outputs, gradients and running statistics stay the same.

        Raises:
            ValueError: the depth is not 6n+4, or the growth rate is not positive.
        """
        super().__init__()
        layers = count_blocks(f"densenet_bc{depth}", depth, layers=6, others=4)
        if growth_rate < 1:
            raise ValueError(f"growth_rate is {growth_rate}: it must be 1 or more")
        self.stem = nn.Conv2d(in_channels, 2 * growth_rate, 3, padding=1, bias=False)
        added, widths = layers * growth_rate, [2 * growth_rate]
        for _ in range(2):
            widths.append((widths[-1] + added) // 2)
        self.stage1 = DenseBlock(layers, widths[0], growth_rate, memory_saving=memory_saving)
        self.transition1 = _transition(widths[0] + added, widths[1])
        self.stage2 = DenseBlock(layers, widths[1], growth_rate, memory_saving=memory_saving)
        self.transition2 = _transition(widths[1] + added, widths[2])
        self.stage3 = DenseBlock(layers, widths[2], growth_rate, memory_saving=memory_saving)
        self.bn_final = nn.BatchNorm2d(widths[2] + added)
        self.fc = nn.Linear(widths[2] + added, num_classes)
        self.points = {name: name for name in ("stem", "stage1", "stage2", "stage3")}
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, K]`."""
        features = self.transition1(self.stage1(self.stem(images)))
        features = self.stage3(self.transition2(self.stage2(features)))
        features = F.relu(self.bn_final(features))
        logits: Tensor = self.fc(features.mean(dim=(2, 3)))
        return logits


def _transition(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.AvgPool2d(2),
    )
