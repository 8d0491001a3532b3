"""Trained networks: those of our runs, of files of weights, and those that libraries publish."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moex import data, models
from moex.checkpoint import BEST, LAST
from moex.config import read_config
from moex.config.schema import ModelConfig
from moex.data import DataSet
from moex.data.images.synsets import synsets
from moex.models.published import fetch_published, is_published
from moex.models.weights import load_weights, read_weights
from moex.run.build import create_model
from moex.run.folder import CLASSES
from moex.settings import require


@dataclass(frozen=True)
class Candidate:
    """A network, and what has to be known to score it.

    Attributes:
        name: for people, and in the name of a folder.
        model: with its weights, in evaluation mode, on the CPU.
        dataset: what it was trained on, as far as its settings tell: how images are cropped and normalised.
        classes: the names of its outputs; None where they are but numbers.
        count: of its outputs.
        origin: where the weights are from.
        digest: of the weights.
    """

    name: str
    model: nn.Module
    dataset: DataSet
    classes: tuple[str, ...] | None
    count: int
    origin: str
    digest: str


def load(folder: str | Path, *, weights: str = "last") -> nn.Module:
    """The trained network of a run, in evaluation mode, on the CPU.

    Args:
        folder: the run's.
        weights: `last`, those after the last epoch so far, or `best`; of a run with an average, the average.

    Raises:
        ValueError: it is no run's folder, or has no such weights.
    """
    require(weights in ("last", "best"), "weights", weights, "last or best")
    return find_candidate(str(folder), which=weights, model=ModelConfig(name="")).model


def find_candidate(checkpoint: str, *, which: str, model: ModelConfig, dataset: DataSet | None = None) -> Candidate:
    """Finds a trained network.

    Args:
        checkpoint: a run's folder, a file of weights there or elsewhere, or a name that `fetch_published` takes.
        which: of a run's weights, `last` or `best`.
        model: the network of a file outside a run's folder.
        dataset: on which such a file's network was trained, where it has not ImageNet's 1,000 outputs.

    Raises:
        ValueError: there are no such weights, or they are not this network's.
        OSError: published weights cannot be fetched.
    """
    if is_published(checkpoint):
        return _published(checkpoint)
    path = Path(checkpoint).expanduser()
    if (path / "config.yaml").is_file():
        return _of_run(path, path / "checkpoints" / {"last": LAST, "best": BEST}[which])
    if path.is_dir():
        raise ValueError(f"{path} is no run's folder: it holds no config.yaml")
    if (path.parent.parent / "config.yaml").is_file():
        return _of_run(path.parent.parent, path)
    return _of_file(path, model, dataset)


def _of_run(folder: Path, path: Path) -> Candidate:
    config = read_config(folder / "config.yaml")
    weights = read_weights(path)
    count = _count_outputs(weights)
    network = create_model(config, num_classes=count)
    _load(network, weights, path)
    names = folder / CLASSES
    return Candidate(
        name="-".join([*folder.parts[-2:], path.stem]),
        model=network.eval(),
        dataset=config.dataset,
        classes=tuple(names.read_text().split("\n")[:-1]) if names.exists() else config.dataset.class_names,
        count=count,
        origin=str(path),
        digest=_digest(weights),
    )


def _of_file(path: Path, model: ModelConfig, dataset: DataSet | None) -> Candidate:
    weights = read_weights(path)
    if not model.name:
        raise ValueError(
            f"{path} does not say which network it is of: add model=NAME, or model.name=torchvision:NAME"
        )
    count = _count_outputs(weights)
    is_imagenet = count == len(synsets())
    if is_imagenet or dataset is None:
        dataset = _imagenet()
    elif dataset.num_classes != count:
        raise ValueError(
            f"{path} is of a network with {count} outputs, and {dataset.name} has {dataset.num_classes} classes"
        )
    network = models.create(model.name, num_classes=count, in_channels=dataset.channels, **model.options)
    _load(network, weights, path)
    return Candidate(
        name=path.stem,
        model=network.eval(),
        dataset=dataset,
        classes=synsets() if is_imagenet else dataset.class_names,
        count=count,
        origin=str(path),
        digest=_digest(weights),
    )


def _published(name: str) -> Candidate:
    found = fetch_published(name)
    count = _count_outputs(found.weights)
    network = models.create(found.model, num_classes=count)
    _load(network, found.weights, name)
    return Candidate(
        name=name.replace(":", "-"),
        model=network.eval(),
        dataset=replace(_imagenet(), **found.crops),
        classes=synsets() if count == len(synsets()) else None,
        count=count,
        origin=name,
        digest=_digest(found.weights),
    )


def _imagenet() -> Any:
    return data.find("imagenet")()


def _load(network: nn.Module, weights: dict[str, Tensor], origin: Path | str) -> None:
    try:
        load_weights(network, weights)
    except ValueError as error:
        raise ValueError(f"the weights of {origin} are not this network's: {error}") from None


def _count_outputs(weights: dict[str, Tensor]) -> int:
    """The outputs of the last linear layer."""
    matrices: Sequence[Tensor] = [value for value in weights.values() if value.ndim == 2]
    return matrices[-1].shape[0] if matrices else list(weights.values())[-1].shape[0]


def _digest(weights: dict[str, Tensor]) -> str:
    """The first digits of a checksum of all tensors."""
    checksum = hashlib.sha256()
    for name, value in sorted(weights.items()):
        checksum.update(name.encode())
        checksum.update(value.cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return checksum.hexdigest()[:8]
