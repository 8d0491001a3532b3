"""Images in a folder for each class."""

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moex.data.images.encoded import EncodedFiles
from moex.data.images.labelled import ENDINGS, LabelledFiles, leads_out, rank_in_class, refuse_links
from moex.data.listing import Arrays, Names, Watch, remember
from moex.data.naming import class_folders, ending, first


class FolderFiles(EncodedFiles):
    """Files below a folder for each class.

    Args:
        folder: of the folders of classes.
        classes: their names.
        labels: which holds a file, int64 `[N]`.
        names: of the files, as seen from there.
    """

    def __init__(self, folder: str, classes: Sequence[str], labels: npt.NDArray[np.int64], names: Names) -> None:
        self._folder, self._classes, self._labels, self._names = folder, classes, labels, names

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """See `EncodedFiles`."""
        return f"{self._folder}/{self._classes[self._labels[index]]}/{self._names[index]}"

    def read(self, index: int) -> bytes:
        """See `EncodedFiles`."""
        return Path(self.name(index)).read_bytes()

    def digest(self) -> bytes:
        """Tells these images from others: by the names of classes and files, and the size of the first of each class.

        Raises:
            OSError: one of these is not there any more.
        """
        firsts = np.flatnonzero(np.diff(self._labels, prepend=-1)).tolist()
        sizes = [os.stat(self.name(index)).st_size for index in firsts]  # noqa: PTH116  (as in `listing`)
        names = Names.of(self._classes)
        parts = (names.content, names.ends, self._labels, self._names.content, self._names.ends, np.array(sizes))
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).digest()


def read_folder(folder: Path, *, root: Path, listings: Path) -> LabelledFiles:
    """The images of a split: those below `folder/CLASS/`, also in folders of their own there.

    Hidden files and folders are left out, and files whose ending is not that of an image.

    Args:
        folder: of the folders of classes.
        root: no symbolic link may lead out of it.
        listings: where the list of the files is kept; see `moex.data.listing`.

    Raises:
        ValueError: there is no such folder, it has no folders, one of them holds no image, or a link leads elsewhere.
        OSError: a folder cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    here, inside = folder.resolve(), root.resolve()
    found = remember(listings, f"folder {here} in {inside}", lambda watch: _look(here, inside, watch))
    classes = tuple(Names.restore(found, "classes"))
    labels = np.repeat(np.arange(len(classes)), found["counts"])
    files = FolderFiles(str(here), classes, labels, Names.restore(found, "names"))
    return LabelledFiles(files, labels, classes, str(here))


def _look(folder: Path, root: Path, watch: Watch) -> Arrays:
    watch(str(folder))
    classes = class_folders(folder)
    if not classes:
        raise ValueError(f"{folder} has no folders of classes")
    refuse_links([str(folder)] if leads_out(folder, root) else [], root)
    outside = {label for label in classes if leads_out(folder / label, root)}
    refused = [f"{folder}/{label}" for label in sorted(outside)]
    found = {
        label: sorted(
            _images(f"{folder}/{label}", "", root, refused, watch),
            key=functools.partial(rank_in_class, label=label),
        )
        for label in classes
        if label not in outside
    }
    refuse_links(refused, root)
    if empty := [label for label, names in found.items() if not names]:
        raise ValueError(
            f"{len(empty)} of the {len(classes)} folders in {folder} hold no image "
            f"({', '.join(sorted(ENDINGS))}): {first(empty)}"
        )
    names = Names.of(itertools.chain.from_iterable(found.values()))
    counts = np.array([len(images) for images in found.values()], dtype=np.int64)
    return {"counts": counts} | Names.of(classes).arrays("classes") | names.arrays("names")


def _images(folder: str, prefix: str, root: Path, refused: list[str], watch: Watch) -> Iterator[str]:
    """The images below a folder, as seen from there; links that must not be followed are added to `refused`."""
    watch(folder)
    with os.scandir(folder) as entries:
        for entry in entries:
            is_folder, path = entry.is_dir(), prefix + entry.name
            if entry.name.startswith(".") or not (is_folder or ending(entry.name) in ENDINGS):
                continue
            # A link to a folder could lead around in a circle.
            if entry.is_symlink() and (is_folder or leads_out(Path(entry.path), root)):
                refused.append(entry.path)
            elif is_folder:
                yield from _images(entry.path, f"{path}/", root, refused, watch)
            else:
                yield path
