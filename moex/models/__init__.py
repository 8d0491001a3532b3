"""Networks by name: the CIFAR networks, written here, all of torchvision's and timm's, and yours by import path."""

import difflib
import inspect
import pkgutil
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
from moex.points import points_of

__all__ = ["FAMILIES", "create", "points_of"]

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


def create(name: str, *, num_classes: int, in_channels: int = 3, **options: Any) -> nn.Module:
    """Builds a network with freshly drawn weights.

    Args:
        name: with D layers, `resnetD`, `pyramidnetD` (options `alpha`, `bottleneck`, `shake_drop`,
            `stochastic_depth`), `wrnD` (`width`, `dropout`), `densenet_bcD` (`growth_rate`, `memory_saving`),
            `resnextD` (`cardinality`, `base_width`), `vggD` or `preact_resnetD`; `torchvision:NAME` or `timm:NAME`;
            `MODULE:NAME` for a class or function of yours, which takes `num_classes`, `in_channels` and the options.
        num_classes: K.
        in_channels: channels of the images.
        options: passed on to the network.

    Returns:
        The network. `points_of` tells the names of the layers after which a `MomentExchange` can be attached; a
        network of unknown layout has none, and takes module paths.

    Raises:
        ValueError: there is no such network or option, or the network cannot have these channels.
    """
    library, _, foreign = name.partition(":")
    if library == "torchvision":
        return _create_torchvision(foreign, num_classes, in_channels, **options)
    if library == "timm":
        return _create_timm(foreign, num_classes, in_channels, **options)
    if foreign:
        return _build(_import(name), name, num_classes=num_classes, in_channels=in_channels, **options)
    family = re.fullmatch(rf"({'|'.join(FAMILIES)})(\d+)", name)
    if family is None:
        known = [f"{kind}DEPTH" for kind in FAMILIES] + ["torchvision:NAME", "timm:NAME", "MODULE:NAME"]
        raise ValueError(f"there is no network {name!r}: it must be one of {', '.join(known)}")
    return _build(
        FAMILIES[family[1]], name, int(family[2]), num_classes=num_classes, in_channels=in_channels, **options
    )


def _build(build: Callable[..., nn.Module], name: str, *arguments: Any, **options: Any) -> nn.Module:
    """Calls a constructor, whose signature says which options there are."""
    signature = inspect.signature(build, eval_str=True)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ValueError(_describe_option(name, error)) from None
    # An int does for a float.
    kinds: dict[Any, Any] = {int: int, float: int | float, bool: bool}
    for option, value in options.items():
        annotation: Any = signature.parameters[option].annotation if option in signature.parameters else None
        if annotation in kinds and not isinstance(value, kinds[annotation]):
            raise ValueError(f"network {name!r}: {option} is {value!r}: it must be {annotation.__name__}")
    return build(*arguments, **options)


def _describe_option(name: str, error: TypeError) -> str:
    wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"network {name!r} has no option {wrong[1]!r}" if wrong else f"network {name!r} cannot be built: {error}"


def _build_foreign(build: Callable[..., nn.Module], name: str, **options: Any) -> nn.Module:
    """Calls a library's function, which passes options on to wherever one of them may be unknown."""
    try:
        return build(**options)
    except TypeError as error:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if wrong is None or wrong[1] not in options:
            raise
        raise ValueError(_describe_option(name, error)) from None


def _import(path: str) -> Callable[..., nn.Module]:
    try:
        found: Callable[..., nn.Module] = pkgutil.resolve_name(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"there is no network {path!r}: it must be MODULE:NAME, seen from PYTHONPATH ({error})"
        ) from None
    return found


def _create_torchvision(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    import torchvision

    _require_known(name, torchvision.models.list_models(module=torchvision.models), "torchvision")
    if in_channels != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels, not {in_channels}: timm's networks take any"
        )
    build = torchvision.models.get_model_builder(name)
    return _build_foreign(build, f"torchvision:{name}", weights=None, num_classes=num_classes, **options)


def _create_timm(name: str, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    import timm

    _require_known(name, timm.list_models(), "timm")
    named: dict[str, Any] = {"model_name": name, "num_classes": num_classes, "in_chans": in_channels}
    return _build_foreign(timm.create_model, f"timm:{name}", **named, **options)


def _require_known(name: str, known: list[str], library: str) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
        raise ValueError(f"{library} has no network {name!r}: the nearest are {', '.join(nearest)}")
