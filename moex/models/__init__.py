"""Networks by name: the CIFAR networks, written here, and all of torchvision's and timm's."""

import difflib
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from moex.models.densenet import DenseNet
from moex.models.preact_resnet import PreactivationResNet
from moex.models.pyramidnet import PyramidNet
from moex.models.resnet import ResNet
from moex.models.resnext import ResNeXt
from moex.models.vgg import VGG
from moex.models.wide_resnet import WideResNet

# Longest names first, so that none is found inside another.
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "preact_resnet": PreactivationResNet,
    "densenet_bc": DenseNet,
    "pyramidnet": PyramidNet,
    "resnext": ResNeXt,
    "resnet": ResNet,
    "vgg": VGG,
    "wrn": WideResNet,
}
LIBRARIES = ("torchvision", "timm")


def create(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """Builds a network with freshly drawn weights.

    Args:
        name: with D layers, `resnetD`, `pyramidnetD` (options `alpha`, `bottleneck`, `shake_drop`,
            `stochastic_depth`), `wrnD` (`width`, `dropout`), `densenet_bcD` (`growth_rate`, `memory_saving`),
            `resnextD` (`cardinality`, `base_width`), `vggD` or `preact_resnetD`; `torchvision:NAME` or `timm:NAME`.
        num_classes: K.
        in_channels: channels of the images.
        options: passed on to the network.

    Returns:
        The network. Its attribute `points` maps names such as `stem` and `stage1` to the modules after which a
        `MomentExchange` can be attached; a network of unknown layout has none, and takes module paths.

    Raises:
        ValueError: there is no such network or option, or the network cannot have these channels.
    """
    library, _, foreign = name.partition(":")
    if foreign and library in LIBRARIES:
        create_foreign = _create_timm if library == "timm" else _create_torchvision
        model = _with_options(create_foreign, name, foreign, num_classes, in_channels, **options)
        model.points = points_of(model)  # type: ignore[assignment]
        return model
    family = re.fullmatch(rf"({'|'.join(FAMILIES)})(\d+)", name)
    if family is None:
        known = [f"{kind}DEPTH" for kind in FAMILIES] + [f"{kind}:NAME" for kind in LIBRARIES]
        raise ValueError(f"there is no network {name!r}: it must be one of {', '.join(known)}")
    return _with_options(
        FAMILIES[family[1]], name, int(family[2]), num_classes=num_classes, in_channels=in_channels, **options
    )


def points_of(model: nn.Module) -> dict[str, str]:
    """The named points of a torchvision or timm network, by its layout.

    Args:
        model: any network.

    Returns:
        `stem` and stages of ResNet's and DenseNet's layouts and of timm's vision transformers, whose features
        are tokens (`channel_dim=-1`); nothing for other layouts.
    """
    layouts = (
        {"stem": "maxpool"} | {f"stage{index}": f"layer{index}" for index in range(1, 5)},
        {"stem": "features.pool0"} | {f"stage{index}": f"features.denseblock{index}" for index in range(1, 5)},
        {"stem": "patch_embed"} | {f"stage{index}": f"blocks.{index - 1}" for index in range(1, 65)},
    )
    modules = {path for path, _ in model.named_modules()}
    for layout in layouts:
        found = {name: path for name, path in layout.items() if path in modules}
        if "stem" in found and len(found) > 1:
            return found
    return {}


def _with_options(build: Callable[..., nn.Module], name: str, *arguments: Any, **options: Any) -> nn.Module:
    try:
        return build(*arguments, **options)
    except TypeError as error:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if wrong is not None:
            raise ValueError(f"network {name!r} has no option {wrong[1]!r}") from None
        raise ValueError(f"network {name!r} cannot be built with the options {options}: {error}") from None


def _create_torchvision(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    import torchvision

    _require_known(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    if in_channels != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels, not {in_channels}: timm's networks take any"
        )
    # Some of torchvision's networks announce that their initialisation is slow.
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)
    return model


def _create_timm(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    import timm

    _require_known(name, timm.list_models(), "timm")
    model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_channels, **options)
    return model


def _require_known(name: str, known: list[str], library: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise ValueError(f"{library} has no network {name!r}: the nearest are {', '.join(nearest)}")
