"""Where in a network features can be changed: names of layers, and which dimension of an output is the channels."""

import difflib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

# The layer that suits an exchange of PONO moments: the stem, unless it ends in a LayerNorm, after which they are
# constant; then the second stage, since to fresh weights the first one hardly adds to the stem.
RECOMMENDED = "recommended"


class Layout(NamedTuple):
    """How the stem and the stages of a kind of networks are called."""

    stem: str
    stage: str
    indices: range


# Of torchvision's and timm's networks; the first one that a network has counts.
LAYOUTS = (
    Layout("maxpool", "layer{}", range(1, 5)),  # ResNet, ResNeXt, Wide ResNet
    Layout("features.pool0", "features.denseblock{}", range(1, 5)),  # DenseNet
    Layout("patch_embed", "layers.{}", range(4)),  # timm: Swin
    Layout("patch_embed", "blocks.{}", range(64)),  # timm: ViT, DeiT; a stage is a block
    Layout("conv_proj", "encoder.layers.encoder_layer_{}", range(64)),  # torchvision: ViT
    Layout("stem", "trunk_output.block{}", range(1, 5)),  # torchvision: RegNet
    Layout("stem", "s{}", range(1, 5)),  # timm: RegNet
    Layout("bn1", "blocks.{}", range(16)),  # timm: EfficientNet, MobileNet
    Layout("stem", "stages.{}", range(8)),  # timm: ConvNeXt, ResNetV2
)


def points_of(model: nn.Module) -> dict[str, str]:
    """The named points of a network: the modules after which features can be changed, by names that networks share.

    Args:
        model: any network.

    Returns:
        The paths of `recommended` (where an exchange of PONO moments acts well), of `stem` and of `stage1`,
        `stage2`, ...: what the network's attribute `points` says, or the layout of torchvision's and timm's ResNet,
        ResNeXt, DenseNet, EfficientNet, RegNet, ConvNeXt, ViT, DeiT and Swin. Nothing for other layouts.
    """
    own = getattr(model, "points", None)
    if isinstance(own, Mapping):
        points = {str(name): str(path) for name, path in own.items()}
        return ({RECOMMENDED: points["stem"]} if "stem" in points else {}) | points
    modules = dict(model.named_modules())
    for layout in (*LAYOUTS, *_layouts_of_features(modules)):
        stages = [path for index in layout.indices if (path := layout.stage.format(index)) in modules]
        if layout.stem in modules and len(stages) > 1:
            recommended = stages[1] if _ends_in_layer_norm(modules[layout.stem]) else layout.stem
            named = {f"stage{number}": path for number, path in enumerate(stages, start=1)}
            return {RECOMMENDED: recommended, "stem": layout.stem} | named
    return {}


def _layouts_of_features(modules: Mapping[str, nn.Module]) -> Iterator[Layout]:
    """Networks of torchvision in one sequence: EfficientNet; ConvNeXt and Swin, with a layer between two stages."""
    first = modules.get("features.1")
    if first is not None and list(first.children()):
        between = 2 if _ends_in_layer_norm(modules["features.0"]) else 1
        yield Layout("features.0", "features.{}", range(1, 16, between))


def _ends_in_layer_norm(module: nn.Module) -> bool:
    return isinstance(list(module.modules())[-1], nn.LayerNorm)


def resolve_layer(model: nn.Module, layer: str) -> str:
    """The path of a submodule, given by the name of a point or by its path.

    Raises:
        ValueError: There is none, or it is the model itself.
    """
    points = points_of(model)
    path = points.get(layer, layer)
    if path == "":
        raise ValueError(
            "the layer must be a submodule, not the model itself: hooks of a compiled root are not safe; "
            f"{_describe_names(points)}"
        )
    paths = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if path not in paths:
        nearest = difflib.get_close_matches(layer, {*points, *paths}, n=5, cutoff=0.4)
        suggestion = f"did you mean {', '.join(nearest)}? " if nearest else ""
        raise ValueError(f"no layer {layer!r} in {type(model).__name__}: {suggestion}{_describe_names(points)}")
    return path


def _describe_names(points: Mapping[str, str]) -> str:
    return (f"points: {', '.join(points)}; " if points else "") + "paths: those of model.named_modules()"


class Channels(NamedTuple):
    """What the modules of a layer say of its output.

    Attributes:
        number: of channels.
        ndim: dimensions of an output `[B, C, ...]`; None where the channels come last.
    """

    number: int
    ndim: int | None


def channels_of(model: nn.Module, path: str) -> Channels | None:
    """What is known of the channels after a layer: by its last module that has any, else by the nearest before it."""
    modules = list(model.named_modules())
    inside = [module for name, module in modules if name == path or name.startswith(path + ".")]
    names = [name for name, _ in modules]
    before = [module for _, module in modules[: names.index(path)]] if path in names else []
    found = (_channels(module) for module in (*reversed(inside), *reversed(before)))
    return next((channels for channels in found if channels is not None), None)


def _channels(module: nn.Module) -> Channels | None:
    ndims = {"1d": 3, "2d": 4, "3d": 5}
    ndim = ndims.get(type(module).__name__[-2:])
    if isinstance(module, nn.modules.conv._ConvNd):
        return Channels(module.out_channels, module.weight.ndim)
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return Channels(module.num_features, ndim)
    if isinstance(module, nn.GroupNorm):
        return Channels(module.num_channels, ndim)
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return Channels(module.normalized_shape[-1], ndim)
    if isinstance(module, nn.RNNBase):
        return Channels((module.proj_size or module.hidden_size) * (1 + module.bidirectional), None)
    return Channels(module.out_features, None) if isinstance(module, nn.Linear) else None


def find_channel_dim(
    features: Tensor, channels: Channels | None, *, asked: int | None, layer: str, batch_dim: int = 0
) -> int:
    """The dimension of the channels in a layer's output.

    Args:
        features: `[B, ...]`, or with the samples in another dimension.
        channels: What `channels_of` knows of the layer.
        asked: What the user says; None leaves it to the network.
        layer: Its path, for messages.
        batch_dim: The dimension of the samples. Where it is not the first, they are no layout of a convolution.

    Raises:
        ValueError: What is asked contradicts the network; or nothing is asked, and the network does not tell.
    """
    shape = list(features.shape)
    others = [dim for dim in range(features.ndim) if dim != batch_dim % features.ndim]
    has_channels = [dim for dim in others if channels is not None and shape[dim] == channels.number]
    if channels is not None and channels.ndim == features.ndim and others[0] == 1:
        told: int | None = 1
    elif len(has_channels) == 1 or (features.ndim == 3 and has_channels):
        told = has_channels[-1]
    else:
        told = 1 if features.ndim > 3 and not has_channels and others[0] == 1 else None
    if asked is None:
        if told is None:
            raise ValueError(
                f"the features {shape} after {layer!r} do not tell which dimension holds the channels: give "
                "channel_dim, 1 for [B, C, ...] and -1 for tokens [B, ..., C]"
            )
        return told
    if -features.ndim <= asked < features.ndim and told is not None and has_channels:
        dim = asked % features.ndim
        if dim != told and dim not in has_channels:
            assert channels is not None
            raise ValueError(
                f"channel_dim {asked} of the features {shape} after {layer!r} is not the channels: the layer has "
                f"{channels.number}, so it must be {told if told == 1 else told - features.ndim}"
            )
    return asked
