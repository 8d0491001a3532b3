"""Weights that torchvision and timm publish, by name, with the crops that they were trained for."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from moex.models.libraries import require_known

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Published:
    """A network's published weights.

    Attributes:
        model: the name by which `moex.models.create` builds the network.
        weights: by the network's names.
        crops: settings of a data set of images: `size`, `resize`, `interpolation`, `mean`, `std`.
    """

    model: str
    weights: dict[str, Tensor]
    crops: dict[str, Any]


def is_published(name: str) -> bool:
    """Whether a name is one of a library's, rather than a path."""
    return name.partition(":")[0] in LIBRARIES


def fetch_published(name: str) -> Published:
    """Fetches weights, or finds them where the library keeps what it has fetched.

    Args:
        name: `torchvision:NETWORK`, the library's best weights, `torchvision:NETWORK:WEIGHTS`, such as
            `torchvision:resnet50:IMAGENET1K_V1`, or `timm:NETWORK`, whose weights are a part of its name.

    Raises:
        ValueError: there are no such weights.
        OSError: they cannot be fetched.
    """
    library, _, rest = name.partition(":")
    return _torchvision(rest) if library == "torchvision" else _timm(rest)


def _torchvision(name: str) -> Published:
    import torchvision
    from torchvision.models import get_model_weights

    network, _, tag = name.partition(":")
    require_known(network, torchvision.models.list_models(module=torchvision.models), "torchvision")
    entries = get_model_weights(network)
    known = entries.__members__
    if (tag and tag not in known) or not known:
        raise ValueError(f"torchvision:{network} has no weights {tag!r}: they are {', '.join(known) or 'none'}")
    entry = known[tag] if tag else entries.DEFAULT
    preset = entry.transforms()
    crops = {
        "size": preset.crop_size[0],
        "resize": preset.resize_size[0],
        "interpolation": preset.interpolation.value,
        "mean": list(preset.mean),
        "std": list(preset.std),
    }
    try:
        weights = entry.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise OSError(f"{entry.url} could not be fetched ({error}): put it into torch.hub's checkpoints") from None
    return Published(f"torchvision:{network}", weights, crops)


def _timm(name: str) -> Published:
    import timm
    from timm.data.config import resolve_model_data_config

    require_known(name, [*timm.list_models(), *timm.list_models(pretrained=True)], "timm")
    try:
        model: nn.Module = timm.create_model(name, pretrained=True)
    # The hub has errors of its own.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(f"timm:{name} could not be fetched ({reason})") from None
    data = resolve_model_data_config(model)  # type: ignore[no-untyped-call]
    crops = {
        "size": data["input_size"][-1],
        "resize": int(data["input_size"][-1] / data["crop_pct"]),
        "interpolation": data["interpolation"],
        "mean": list(data["mean"]),
        "std": list(data["std"]),
    }
    return Published(f"timm:{name.partition('.')[0]}", model.state_dict(), crops)
