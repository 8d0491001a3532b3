"""Networks by name: those written here, all of torchvision's and timm's, and yours by import path."""

import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any, get_args

from torch import nn

from moex.models.densenet import DenseNet
from moex.models.libraries import create_timm, create_torchvision, describe_option
from moex.models.named import NAMED, resolve
from moex.models.pointnet2 import PointNet2
from moex.models.preact_resnet import PreactivationResNet
from moex.models.pyramidnet import PyramidNet
from moex.models.resnet import ResNet
from moex.models.resnext import ResNeXt
from moex.models.vgg import VGG
from moex.models.wide_resnet import WideResNet
from moex.points import points_of

__all__ = ["FAMILIES", "NAMED", "NETWORKS", "create", "points_of", "resolve"]

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
# Those that come in one depth.
NETWORKS: dict[str, Callable[..., nn.Module]] = {"pointnet2": PointNet2}


def create(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """Builds a network with freshly drawn weights.

    Args:
        name: with D layers, `resnetD`, `pyramidnetD` (options `alpha`, `bottleneck`, `shake_drop`,
            `stochastic_depth`), `wrnD` (`width`, `dropout`), `densenet_bcD` (`growth_rate`, `memory_saving`),
            `resnextD` (`cardinality`, `base_width`), `vggD` or `preact_resnetD`; `pointnet2` (`dropout`), for clouds
            of points; `torchvision:NAME` or `timm:NAME`; `MODULE:NAME` for a class or function of yours, which takes
            `num_classes`, `in_channels` and the options; or a network of a paper, such as `wrn28_10` or
            `densenet265`, with the options in `NAMED`.
        num_classes: K.
        in_channels: channels of the images, or coordinates of the points.
        options: passed on to the network.

    Returns:
        The network. `points_of` tells the names of the layers after which a `MomentExchange` can be attached; a
        network of unknown layout has none, and takes module paths.

    Raises:
        ValueError: there is no such network or option, or the network cannot have these channels.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a network is {name!r}: it must be a text")
    for key, number in (("num_classes", num_classes), ("in_channels", in_channels)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{key} is {number!r}: it must be a whole number, 1 or more")
    name, options = resolve(name, options)
    library, _, foreign = name.partition(":")
    if library == "torchvision":
        return create_torchvision(foreign, num_classes=num_classes, in_channels=in_channels, **options)
    if library == "timm":
        return create_timm(foreign, num_classes=num_classes, in_channels=in_channels, **options)
    if foreign:
        return _build(_import(name), name, num_classes=num_classes, in_channels=in_channels, **options)
    if name in NETWORKS:
        return _build(NETWORKS[name], name, num_classes=num_classes, in_channels=in_channels, **options)
    family = re.fullmatch(rf"({'|'.join(FAMILIES)})(\d+)", name)
    if family is None:
        known = [f"{kind}DEPTH" for kind in FAMILIES] + [
            *NETWORKS,
            "torchvision:NAME",
            "timm:NAME",
            "MODULE:NAME",
            *NAMED,
        ]
        raise ValueError(f"there is no network {name!r}: it must be one of {', '.join(known)}")
    return _build(
        FAMILIES[family[1]], name, int(family[2]), num_classes=num_classes, in_channels=in_channels, **options
    )


def _build(build: Callable[..., nn.Module], name: str, *arguments: Any, **options: Any) -> nn.Module:
    """Calls a constructor, whose signature says which options there are, and of which types."""
    try:
        signature = inspect.signature(build, eval_str=True)
    # What is annotated may be known to type checkers alone.
    except NameError:
        signature = inspect.signature(build)
    except ValueError as error:
        raise ValueError(f"network {name!r} cannot be built: {error}") from None
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(describe_option(name, error)) from None
    for option, value in options.items():
        annotation: Any = signature.parameters[option].annotation if option in signature.parameters else None
        kinds = get_args(annotation) or (annotation,)
        if set(kinds) <= _WORDS.keys() and not any(_is_a(value, kind) for kind in kinds):
            allowed = " or ".join(_WORDS[kind] for kind in kinds)
            raise ValueError(f"network {name!r}: {option} is {value!r}: it must be {allowed}")
    network = build(*arguments, **options)
    if not isinstance(network, nn.Module):
        raise ValueError(f"network {name!r} is a {type(network).__name__}: it must be a torch.nn.Module")
    return network


# What the values of an option's type are called.
_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    type(None): "null",
}


def _is_a(value: object, kind: type) -> bool:
    """Whether a value is of a type: an int does for a float, and a bool for no number."""
    return isinstance(value, int | float if kind is float else kind) and isinstance(value, bool) <= (kind is bool)


def _import(path: str) -> Callable[..., nn.Module]:
    try:
        found: Callable[..., nn.Module] = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"there is no network {path!r}: it must be MODULE:NAME, seen from PYTHONPATH ({error})"
        ) from None
    if not callable(found):
        raise ValueError(f"there is no network {path!r}: it is a {type(found).__name__}, not a class or a function")
    return found
