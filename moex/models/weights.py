"""Weights of networks that were trained anywhere: reading them without executing anything, and fitting them.

Names may differ where the networks are the same: what wraps a network adds a prefix, and the published code of
PyramidNet and old DenseNets call the same tensors otherwise, in the same order.
"""

import contextlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from moex.checkpoint import CHECKSUM, verify_content
from moex.files import verify_archive

Weights = Mapping[str, Tensor]

# Where a checkpoint has the weights: an average before the weights that it was taken of.
_PLACES = ("average", "state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")
# What wrappers put before each name: DataParallel and its kind, torch.compile.
_PREFIXES = ("module.", "_orig_mod.")
# Which objects, besides tensors, old checkpoints hold: their arguments and their scores.
_HARMLESS = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
)
# Batches that BatchNorm has seen; weights from before 2018 lack it, and no result depends on it.
_COUNTER = "num_batches_tracked"
# How many of the names that do not fit are told.
_FEW = 5


class _Inert:
    """Stands for an object of a checkpoint that is not needed: takes anything, and does nothing."""

    def __init__(self, *arguments: object, **named: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the weights in a file: safetensors, or any form of torch.save; nothing in it is executed.

    Args:
        path: of a state dict, or of a checkpoint that holds one; of a run's checkpoint, those that are evaluated.

    Returns:
        Tensors on the CPU by their names, without the prefixes of wrappers.

    Raises:
        ValueError: the file is missing or damaged, holds no weights, or cannot be read without executing it.
    """
    if not path.is_file():
        raise ValueError(f"there is no file of weights {path}")
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    found = _find_weights(content)
    if not found:
        keys = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{path} holds no weights: it holds {keys or 'nothing'}")
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in found)), ""):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def load_weights(model: nn.Module, weights: Weights, *, new_head: bool = False) -> None:
    """Gives a network weights, as `fit_weights` finds them.

    Args:
        model: gets them.
        weights: as `read_weights` returns them.
        new_head: whether the last linear layer stays as it is where the weights have other classes.

    Raises:
        ValueError: they are not those of this network; says which names are missing, unknown or of another shape.
    """
    # What is not there was left out on purpose: the head, and counters.
    model.load_state_dict(fit_weights(model, weights, new_head=new_head), strict=False)


def fit_weights(model: nn.Module, weights: Weights, *, new_head: bool = False) -> dict[str, Tensor]:
    """Finds for each tensor of a network the one among some weights: by its name, or by its place in the order.

    Args:
        model: its parameters and buffers stay as they are; may lie on the meta device.
        weights: as `read_weights` returns them.
        new_head: whether the last linear layer may be left out where it has other classes.

    Returns:
        What `load_weights` loads, by the network's names.

    Raises:
        ValueError: they are not those of this network; says which names are missing, unknown or of another shape.
    """
    everything = model.state_dict()
    wanted = {name: value for name, value in everything.items() if not name.endswith(_COUNTER)}
    given = {name: value for name, value in weights.items() if not name.endswith(_COUNTER)}
    if wanted.keys() != given.keys() and _kinds(wanted) == _kinds(given):
        # Other names: the order and the shapes of all tensors agree.
        given = dict(zip(wanted, given.values(), strict=True))
    counters = {name: value for name, value in weights.items() if name in everything and name.endswith(_COUNTER)}
    left_out = _head(wanted, given) if new_head else set()
    missing = [name for name in wanted if name not in given and name not in left_out]
    unknown = [name for name in given if name not in wanted]
    other = [name for name in wanted if name in given and name not in left_out and _differ(wanted, given, name)]
    if missing or unknown or other:
        shapes = [f"{name} {list(given[name].shape)} for {list(wanted[name].shape)}" for name in other]
        faults = {"missing": missing, "unknown": unknown, "of another shape": shapes}
        raise ValueError("; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in faults.items() if names))
    return {name: value for name, value in given.items() if name not in left_out} | counters


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def _read_pickle(path: Path) -> Any:
    """What torch.save wrote: tensors and plain containers; all other objects are inert."""
    names = set(_HARMLESS)
    # Not so for what was written before torch 1.6, or is no checkpoint at all.
    with contextlib.suppress(ValueError):
        names |= set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    stand_ins: list[Any] = [(type("Inert", (_Inert,), {}), name) for name in sorted(names)]
    try:
        if zipfile.is_zipfile(path):
            verify_archive(path)
        with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and CHECKSUM in content:
            verify_content(content)
        return content
    except UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would execute {refused[1]}" if refused else _first_line(error)
        raise ValueError(f"{path} cannot be read without executing what it holds: {reason}") from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError, AssertionError, TypeError) as error:
        raise ValueError(f"{path} is damaged, or no file of weights ({_first_line(error)})") from None


def _find_weights(content: Any) -> dict[str, Tensor]:
    """The tensors by their names, in a state dict or in what holds one."""
    if not isinstance(content, Mapping):
        return {}
    for place in _PLACES:
        if isinstance(content.get(place), Mapping) and (found := _find_weights(content[place])):
            return found
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _kinds(tensors: Weights) -> list[tuple[str, torch.Size]]:
    """What does not change where names do: weight, bias or statistic, and the shape, of each tensor in turn."""
    return [(name.rpartition(".")[2], value.shape) for name, value in tensors.items()]


def _head(wanted: Weights, given: Weights) -> set[str]:
    """The names of the last linear layer, if it has other classes: its weight `[K, features]` and its bias."""
    layers = [name.removesuffix(".weight") for name, value in wanted.items() if value.ndim == 2]
    if not layers:
        return set()
    names = {f"{layers[-1]}.weight", f"{layers[-1]}.bias"} & wanted.keys()
    return names if any(name not in given or _differ(wanted, given, name) for name in names) else set()


def _differ(wanted: Weights, given: Weights, name: str) -> bool:
    return wanted[name].shape != given[name].shape


def _few(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + (", ..." if len(names) > _FEW else "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
