"""Shapes that were sampled by others: the HDF5 form of ModelNet40, and NumPy archives."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moex.data.naming import first

Clouds = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]


def read_archive(path: Path, classes: Sequence[str]) -> Clouds:
    """Clouds `[N, P, 3]` and labels `[N]` of a NumPy archive with `points`, `labels` and the `classes`' names.

    Args:
        path: of the archive.
        classes: by label, for the labels that are returned.

    Raises:
        ValueError: it is missing, damaged, or holds something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            points, labels, names = stored["points"], stored["labels"], stored["classes"]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    # There are more ways to be damaged than names for them.
    except Exception as error:
        raise ValueError(
            f"{path} is refused: it is damaged, or holds no points, labels and classes ({error})"
        ) from None
    return _checked(points, labels, names.astype(str).tolist(), classes, where=path)


def read_hdf5(folder: Path, split: str, classes: Sequence[str]) -> Clouds:
    """Clouds `[N, 2048, 3]` and labels `[N]` of `ply_data_train*.h5`, or `test`: those that `train_files.txt` lists.

    Raises:
        ValueError: h5py is not installed, or files are missing, damaged, or hold something else.
        OSError: one cannot be read.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError(
            "dataset.format is hdf5: it needs the library `h5py`,\npip install 'moment-exchange[hdf5]'"
        ) from None
    names = folder / "shape_names.txt"
    if not names.is_file():
        raise ValueError(f"{names} is missing")
    known, clouds = names.read_text().split(), []
    for path in hdf5_files(folder, split):
        try:
            with h5py.File(path) as file:
                points, labels = np.asarray(file["data"]), np.asarray(file["label"]).reshape(-1)
        except (OSError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is refused: it is damaged, or holds no data and label ({error})") from None
        clouds.append(_checked(points, labels, known, classes, where=path))
    if len({points.shape[1] for points, _ in clouds}) > 1:
        raise ValueError(f"{folder}: the files of {split} have other numbers of points")
    return np.concatenate([points for points, _ in clouds]), np.concatenate([labels for _, labels in clouds])


def hdf5_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, in the order of their list, or without one, of their names.

    Raises:
        ValueError: there are none, or a list names others.
    """
    listed = folder / f"{split}_files.txt"
    if listed.is_file():
        # The published lists have the paths of their authors' machine.
        files = [folder / Path(line).name for line in listed.read_text().split()]
    else:
        files = sorted(folder.glob(f"ply_data_{split}*.h5"))
    if missing := [path.name for path in files if not path.is_file()]:
        raise ValueError(f"{folder} lacks {len(missing)} of the files in {listed.name}: {first(missing)}")
    if not files:
        raise ValueError(f"{folder} has no files ply_data_{split}*.h5")
    return files


def describe_archives(paths: Sequence[Path]) -> str:
    """A short text that tells the content of NumPy archives from others', by the checksums of their members."""
    digest = hashlib.sha256()
    for path in paths:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                digest.update(repr([(member.filename, member.CRC) for member in archive.infolist()]).encode())
    return digest.hexdigest()[:8]


def _checked(points: Any, labels: Any, names: Sequence[str], classes: Sequence[str], *, where: Path) -> Clouds:
    if points.ndim != 3 or points.shape[2] != 3 or labels.shape != points.shape[:1] or not len(points):
        raise ValueError(f"{where} holds {list(points.shape)} and {list(labels.shape)}: it must be [N, P, 3] and [N]")
    if not np.isfinite(points).all():
        raise ValueError(f"{where} has points that are not finite")
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(f"{where} has labels of {labels.min()} to {labels.max()}, and {len(names)} classes")
    if unknown := sorted(set(names) - set(classes)):
        raise ValueError(f"{where} has {len(unknown)} classes that are none of the set's: {first(unknown)}")
    position = {name: label for label, name in enumerate(classes)}
    renumbered = np.array([position[name] for name in names], dtype=np.int64)[labels.astype(np.int64)]
    return points.astype(np.float32), renumbered
