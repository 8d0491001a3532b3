"""The published forms of ModelNet: which classes a set has, where its files are, and how they are fetched.

Source: Wu et al., 3D ShapeNets: A Deep Representation for Volumetric Shapes, CVPR 2015.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from moex.data.dataset import MissingDataError
from moex.data.fetching import aside, fetch, make_once

MESHES, HDF5, POINTS = "meshes", "hdf5", "points"
FORMATS = (MESHES, HDF5, POINTS)
# fmt: off
CLASSES10 = (
    "bathtub", "bed", "chair", "desk", "dresser", "monitor", "night_stand", "sofa", "table", "toilet",
)
CLASSES40 = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone", "cup",
    "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard", "lamp", "laptop",
    "mantel", "monitor", "night_stand", "person", "piano", "plant", "radio", "range_hood", "sink", "sofa",
    "stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase", "wardrobe", "xbox",
)
# fmt: on


@dataclass(frozen=True)
class Publication:
    """One of the two sets.

    Attributes:
        name: of the data set here, such as `modelnet10`.
        folder: of the meshes; with the ending `.zip` it is the archive's name.
        url: of the archive, of which no checksum is published: those of its members are verified.
        hdf5: the folder of the form with 2,048 points a shape; None where there is none.
        classes: by label.
        meshes: how many there are for training, and for testing.
    """

    name: str
    folder: str
    url: str
    hdf5: str | None
    classes: tuple[str, ...]
    meshes: tuple[int, int]

    @property
    def archive(self) -> str:
        """The name of the published file."""
        return f"{self.folder}.zip"

    @property
    def points(self) -> str:
        """The folder of the shapes as points, `train.npz` and `test.npz`."""
        return f"{self.name}_points"


MODELNET10 = Publication(
    "modelnet10",
    "ModelNet10",
    "http://3dvision.princeton.edu/projects/2014/3DShapeNets/ModelNet10.zip",
    None,
    CLASSES10,
    (3_991, 908),
)
MODELNET40 = Publication(
    "modelnet40",
    "ModelNet40",
    "http://modelnet.cs.princeton.edu/ModelNet40.zip",
    "modelnet40_ply_hdf5_2048",
    CLASSES40,
    (9_843, 2_468),
)


@dataclass(frozen=True)
class Place:
    """Where the shapes are: a folder, and the form in which they lie there."""

    format: str
    folder: Path


def find_place(root: Path, publication: Publication, wanted: str | None) -> Place | None:
    """The folder of the shapes, which lies in the root or is the root itself: the first form of `FORMATS` there.

    Args:
        root: of the data set.
        publication: which set.
        wanted: the form; None: any.
    """
    for kind in FORMATS if wanted is None else (wanted,):
        for folder in _folders(root, publication, kind):
            if _is_here(folder, publication, kind):
                return Place(kind, folder)
    return None


def obtain(root: Path, publication: Publication, *, wanted: str | None, download: bool) -> Place:
    """The same, unpacked from the archive in the root, and fetched first, where that is needed.

    Raises:
        ValueError: there are neither shapes nor an archive, or the archive is damaged.
        OSError: the archive cannot be fetched or unpacked.
    """
    if (place := find_place(root, publication, wanted)) is not None:
        return place
    from_archive = wanted in (None, MESHES)
    if not from_archive or not (download or (root / publication.archive).exists()):
        message = f"dataset.root is {str(root)!r}: it must hold {_describe(publication, wanted)}"
        raise MissingDataError(message) if from_archive else ValueError(message)
    make_once(
        root,
        publication.folder,
        lambda: find_place(root, publication, MESHES) is not None,
        lambda: _make(root, publication, download=download),
    )
    return Place(MESHES, root / publication.folder)


def _folders(root: Path, publication: Publication, kind: str) -> list[Path]:
    name = {MESHES: publication.folder, HDF5: publication.hdf5, POINTS: publication.points}[kind]
    return [] if name is None else [root / name, root]


def _is_here(folder: Path, publication: Publication, kind: str) -> bool:
    if kind == MESHES:
        return any((folder / name / "train").is_dir() for name in publication.classes)
    if kind == HDF5:
        return any(folder.glob("ply_data_*.h5"))
    return any((folder / f"{split}.npz").is_file() for split in ("train", "test"))


def _describe(publication: Publication, wanted: str | None) -> str:
    forms = {
        MESHES: f"{publication.folder} (CLASS/train/*.off, CLASS/test/*.off) or {publication.archive}",
        HDF5: f"{publication.hdf5} (ply_data_train*.h5, ply_data_test*.h5)" if publication.hdf5 else None,
        POINTS: f"{publication.points} (train.npz, test.npz)",
    }
    return ", or ".join(form for kind, form in forms.items() if form and wanted in (None, kind))


def _make(root: Path, publication: Publication, *, download: bool) -> None:
    """Unpacks the archive, fetched where it is not there."""
    from torchvision.datasets.utils import extract_archive

    archive = root / publication.archive
    if download and not archive.exists():
        fetch(publication.url, archive)
    with aside(root / publication.folder) as partial:
        try:
            extract_archive(archive, partial)
        except zipfile.BadZipFile as error:
            raise MissingDataError(
                f"{archive} ({archive.stat().st_size:,} bytes) is truncated or damaged ({error}): remove it, and "
                "fetch it again"
            ) from None
        unpacked = partial / publication.folder
        if not _is_here(unpacked, publication, MESHES):
            raise ValueError(
                f"{archive} is none of {publication.folder}: it has no folder {publication.folder}/CLASS/train"
            )
        unpacked.rename(root / publication.folder)
