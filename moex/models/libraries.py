"""Networks of torchvision and timm by their names there."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from moex.registry import suggest


def create_torchvision(name: str, *, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """A network of torchvision's, by its name there; `densenet265` as well, of which torchvision has the class alone.

    Raises:
        ValueError: there is no such network or option, or the images have other than 3 channels.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    require_known(name, [*known, "densenet265"], "torchvision")
    if in_channels != 3:
        raise ValueError(
            f"torchvision:{name} takes images of 3 channels, not {in_channels}: timm's networks take any"
        )
    if name == "densenet265":
        # As the published code builds it; Huang et al. 2017, table 1, count 264 layers.
        sizes: dict[str, Any] = {"growth_rate": 32, "block_config": (6, 12, 64, 48), "num_init_features": 64}
        sizes = {key: value for key, value in sizes.items() if key not in options} | {"num_classes": num_classes}
        return _build(torchvision.models.DenseNet, f"torchvision:{name}", sizes, options)
    build = torchvision.models.get_model_builder(name)
    return _build(build, f"torchvision:{name}", {"weights": None, "num_classes": num_classes}, options)


def create_timm(name: str, *, num_classes: int, in_channels: int, **options: Any) -> nn.Module:
    """A network of timm's, by its name there.

    Raises:
        ValueError: there is no such network or option.
    """
    import timm

    require_known(name, timm.list_models(), "timm")
    named: dict[str, Any] = {"model_name": name, "num_classes": num_classes, "in_chans": in_channels}
    return _build(timm.create_model, f"timm:{name}", named, options)


def require_known(name: str, known: list[str], library: str) -> None:
    """Refuses a name that a library does not know, with the nearest that it knows."""
    if name not in known:
        nearest = suggest(name, known, otherwise=f"its list_models() names all {len(known):,}")
        raise ValueError(f"{library} has no network {name!r}: {nearest}")


def describe_option(name: str, error: TypeError) -> str:
    """What a constructor's `TypeError` says about the options of a network."""
    wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    return f"network {name!r} has no option {wrong[1]!r}" if wrong else f"network {name!r} cannot be built: {error}"


def _build(
    build: Callable[..., nn.Module], name: str, fixed: Mapping[str, Any], options: Mapping[str, Any]
) -> nn.Module:
    """Calls a library's function, which passes options on to wherever one of them may be unknown, or wrong."""
    for option, value in options.items():
        # A text is true, whatever it says.
        if str(value).lower() in ("yes", "no", "on", "off", "true", "false") and not isinstance(value, bool):
            raise ValueError(f"network {name!r}: {option} is {value!r}: it must be true or false")
    try:
        return build(**fixed, **options)
    except TypeError as error:
        wrong = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if wrong is not None and wrong[1] in options:
            raise ValueError(describe_option(name, error)) from None
        fault: Exception = error
    # Libraries raise whatever comes first, and assert.
    except Exception as error:
        fault = error
    if not options:
        raise fault
    given = ", ".join(f"{option}={value!r}" for option, value in options.items())
    reason = (str(fault).splitlines() or [type(fault).__name__])[0]
    raise ValueError(f"network {name!r} cannot be built with {given}: {reason}") from None
