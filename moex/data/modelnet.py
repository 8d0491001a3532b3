"""ModelNet10 and ModelNet40 (Wu et al. 2015): shapes of furniture and other things, as clouds of points.

Shapes are the published meshes, whose surfaces are sampled; or points that others have sampled of them.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from moex.data.clouds.files import Clouds, describe_archives, hdf5_files, read_archive, read_hdf5
from moex.data.clouds.meshes import sample_meshes
from moex.data.clouds.publication import (
    FORMATS,
    HDF5,
    MESHES,
    MODELNET10,
    MODELNET40,
    POINTS,
    Place,
    Publication,
    find_place,
    obtain,
)
from moex.data.clouds.scale import CUBE, SCALES, SPHERE, normalise
from moex.data.clouds.source import ResidentClouds
from moex.data.dataset import TEST, TRAIN, DataSet, Samples
from moex.data.listing import Arrays, Watch, remember
from moex.data.naming import class_folders, ending, first
from moex.data.source import Source
from moex.settings import require

SPLITS = (TRAIN, TEST)
# Of spheres on which points are as dense as on ModelNet10's shapes: measured.
RADII = {CUBE: 0.6, SPHERE: 0.5}


@dataclass
class ModelNet(DataSet):
    """What both sets share: `root` holds the folder of one of the forms, or the published archive of meshes.

    Attributes:
        format: `meshes`, `hdf5` or `points`; null: the first of them that lies there.
        points: of a cloud, as a network sees it.
        pool: points that are sampled of a mesh, of which each training batch draws its own.
        scale: `cube`, in which no coordinate is beyond 1, as published with MoEx; `sphere`, in which no point is
            farther than 1.
        cache: the folder in which the points of meshes are kept, so that a second start need not read all files.
    """

    format: str | None = None
    points: int = 1024
    pool: int = 2048
    scale: str = "cube"
    cache: str = "outputs/clouds"

    unaligned = (
        "the points of a cloud have no order. Mix features of whole clouds, with steps=[manifold_mixup] and, of "
        "pointnet2, its points=[stage2]"
    )
    publication: ClassVar[Publication]

    @property
    def shape(self) -> tuple[int, ...]:
        """`[N, 3]`."""
        return (self.points, 3)

    @property
    def channels(self) -> int:
        """The coordinates of a point."""
        return 3

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, by label."""
        return self.publication.classes

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; the seed decides nothing."""
        place = self._obtain()
        return {split: self._read(place, split) for split in SPLITS}

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """Reads the test set alone."""
        return {TEST: self._read(self._obtain(), TEST)}

    def source(self, samples: Samples, *, training: bool, device: torch.device, channels_last: bool) -> Source:
        """See `DataSet`."""
        return ResidentClouds(samples.inputs, samples.labels, points=self.points, device=device)

    def random_inputs(self, count: int) -> Tensor:
        """Points on ellipsoids, which have as many neighbours as on the shapes, on average."""
        directions = functional.normalize(torch.randn(count, *self.shape), dim=-1)
        return RADII[self.scale] * directions * torch.empty(count, 1, 3).uniform_(0.7, 1.3)

    def take(self, samples: Samples, count: int) -> Samples:
        """The samples that a limit leaves: at even distances, since they are ordered by class."""
        total = len(samples.labels)
        return samples.select(np.arange(count) * total // count)

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        super().check(key)
        forms = [kind for kind in FORMATS if kind != HDF5 or self.publication.hdf5]
        require(self.format in (None, *forms), f"{key}.format", self.format, f"{', '.join(forms)}, or null")
        require(self.points >= 1, f"{key}.points", self.points, "1 or more")
        require(self.pool >= self.points, f"{key}.pool", self.pool, f"{key}.points ({self.points}) or more")
        require(self.scale in SCALES, f"{key}.scale", self.scale, " or ".join(SCALES))

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not where the shapes are, but which, if they are not all published meshes."""
        place = find_place(Path(self.root), self.publication, self.format)
        without = {"format", "cache"} | ({"pool"} if place is not None and place.format != MESHES else set())
        acting = {key: value for key, value in super().recipe().items() if key not in without}
        return acting | {"shapes": None if place is None else self._describe(place)}

    def _obtain(self) -> Place:
        place = obtain(Path(self.root), self.publication, wanted=self.format, download=self.download)
        return Place(place.format, place.folder.resolve())

    def _read(self, place: Place, split: str) -> Samples:
        clouds, labels = self._read_clouds(place, split)
        there = clouds.shape[1]
        if there < self.points:
            raise ValueError(
                f"dataset.points is {self.points}: it must be {there} at most, as many as the shapes in "
                f"{place.folder} have"
            )
        return Samples(torch.from_numpy(clouds), torch.from_numpy(labels))

    def _read_clouds(self, place: Place, split: str) -> Clouds:
        """The points of all shapes, normalised, float32 `[N, P, 3]`, and labels, int64 `[N]`."""
        if place.format == MESHES:
            names = _list_meshes(place.folder, self.class_names)[split]
            look = functools.partial(_look, place.folder, names, count=self.pool, scale=self.scale)
            kept = remember(Path(self.cache), f"{self.pool} points of {split} of {place.folder}, {self.scale}", look)
            position = {name: label for label, name in enumerate(self.class_names)}
            return kept["clouds"], np.array([position[name.partition("/")[0]] for name in names], dtype=np.int64)
        if place.format == HDF5:
            clouds, labels = read_hdf5(place.folder, split, self.class_names)
        else:
            clouds, labels = read_archive(place.folder / f"{split}.npz", self.class_names)
        try:
            return normalise(clouds, clouds, self.scale).astype(np.float32), labels
        except ValueError as error:
            raise ValueError(f"{place.folder}: a shape of {split} is none: {error}") from None

    def _describe(self, place: Place) -> str | None:
        """A short text that tells these shapes from others; None for the published meshes."""
        if place.format == POINTS:
            return f"points, {describe_archives([place.folder / f'{split}.npz' for split in SPLITS])}"
        if place.format == HDF5:
            files = itertools.chain.from_iterable(hdf5_files(place.folder, split) for split in SPLITS)
            return f"hdf5, {_digest(f'{path.name} {path.stat().st_size}' for path in files)}"
        meshes = _list_meshes(place.folder, self.class_names)
        if tuple(len(meshes[split]) for split in SPLITS) == self.publication.meshes:
            return None
        names = [name for split in SPLITS for name in meshes[split]]
        return f"{len(names)} meshes, {_digest(names)}"


@dataclass
class ModelNet10(ModelNet):
    """3,991 shapes of 10 classes to train on, and 908 to test on."""

    name: str = "modelnet10"

    publication = MODELNET10


@dataclass
class ModelNet40(ModelNet):
    """9,843 shapes of 40 classes to train on, and 2,468 to test on."""

    name: str = "modelnet40"

    publication = MODELNET40


def _list_meshes(folder: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """The files of each split as seen from the folder, by class and name.

    Raises:
        ValueError: classes have no meshes, or there are others.
        OSError: a folder cannot be read.
    """
    found = [name for name in class_folders(folder) if not name.startswith("_")]
    if others := sorted(set(found) - set(classes)):
        raise ValueError(f"{folder} has {len(others)} folders that are no classes of the set: {first(others)}")
    meshes: dict[str, list[str]] = {}
    for split in SPLITS:
        names = {name: _off_files(folder / name / split) for name in classes}
        if empty := [name for name, files in names.items() if not files]:
            raise ValueError(
                f"{folder} has no meshes (CLASS/{split}/*.off) of {len(empty)} of {len(classes)} classes: "
                f"{first(empty)}"
            )
        meshes[split] = [f"{name}/{split}/{file}" for name in classes for file in names[name]]
    return meshes


def _off_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if ending(path.name) == ".off" and path.name[0] != ".")


def _look(folder: Path, names: Sequence[str], watch: Watch, *, count: int, scale: str) -> Arrays:
    """Samples all meshes, and names all whose change makes the points void."""
    for watched in (
        *sorted({str((folder / name).parent) for name in names}),
        *(f"{folder}/{name}" for name in names),
    ):
        watch(watched)
    return {"clouds": sample_meshes(folder, names, count=count, scale=scale)}


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
