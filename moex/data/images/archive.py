"""Images in tar archives that are not compressed: where each lies is listed once, and then it is read from there.

Of two layouts: WebDataset's shards, in which `KEY.jpg` comes with its label as `KEY.cls`; and archives of class
folders, or one for each class, as ImageNet's authors publish the training set.
"""

import functools
import json
import os
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moex.data.images.encoded import EncodedFiles
from moex.data.images.labelled import ENDINGS, LabelledFiles, check_named_classes, rank_in_class
from moex.data.listing import Arrays, Names, Watch, remember
from moex.data.naming import ending, first

# Archives that a process keeps open.
OPEN = 64


class ArchiveFiles(EncodedFiles):
    """Members of archives.

    Args:
        archives: their paths.
        holders: which archive holds an image, int64 `[N]`.
        offsets: where in it the image begins, in bytes, int64 `[N]`.
        sizes: of the images, in bytes, int64 `[N]`.
        names: of the members.
    """

    def __init__(
        self,
        archives: Sequence[str],
        holders: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        names: Names,
    ) -> None:
        self._archives, self._holders, self._names = archives, holders, names
        self._offsets, self._sizes = offsets, sizes

    def __len__(self) -> int:
        return len(self._holders)

    def name(self, index: int) -> str:
        """See `EncodedFiles`."""
        return f"{self._archives[self._holders[index]]}: {self._names[index]}"

    def read(self, index: int) -> bytes:
        """See `EncodedFiles`."""
        archive, size = _opened(self._archives[self._holders[index]]), int(self._sizes[index])
        content = os.pread(archive.descriptor, size, int(self._offsets[index]))
        if len(content) < size:
            raise OSError(f"{self.name(index)} is cut off: the archive has changed")
        return content


def check_complete(root: Path, archives: Sequence[Path], *splits: str) -> None:
    """Compares the archives of a split with those that `_info.json` lists, where there is one, as timm's shards have.

    Raises:
        ValueError: there is none at all, or the first that are missing, and how many.
    """
    info, present = root / "_info.json", {path.name for path in archives}
    if not present:
        raise ValueError(f"{root} has no tar archives of the split {' or '.join(splits)}")
    if info.is_file():
        try:
            listed = json.loads(info.read_text())["splits"]
            expected = [name for split in splits if split in listed for name in listed[split]["filenames"]]
        except (ValueError, LookupError, TypeError):
            raise ValueError(f"{info} lists no splits: put the published one in its place, or take it away") from None
        if missing := [name for name in expected if name not in present]:
            raise ValueError(f"{root} lacks {len(missing)} of {len(expected)} archives: {first(missing)}")


def read_archives(archives: Sequence[Path], *, listings: Path, numbered: Sequence[str]) -> LabelledFiles:
    """The images of a split.

    Args:
        archives: of the split, one or more.
        listings: where the list of the members is kept; see `moex.data.listing`.
        numbered: the names of the classes that labels of WebDataset's shards count, from 0 on.

    Raises:
        ValueError: an archive is damaged or compressed, has a member that must not be, or labels are wrong.
        OSError: an archive cannot be read.
    """
    paths = [str(path.absolute()) for path in archives]
    key = "\n".join(["archives", *paths, *numbered])
    found = remember(listings, key, lambda watch: _look(paths, numbered, watch))
    files = ArchiveFiles(paths, found["holders"], found["offsets"], found["sizes"], Names.restore(found, "names"))
    return LabelledFiles(files, found["labels"], tuple(Names.restore(found, "classes")), str(archives[0].parent))


@dataclass(frozen=True)
class _Image:
    """An image in an archive: its class, its name there, and where its bytes are."""

    label: str
    name: str
    offset: int
    size: int

    @property
    def file(self) -> str:
        """Its name without the folders."""
        return self.name.rpartition("/")[2]

    @property
    def key(self) -> str:
        """Its name without the ending."""
        return self.name.rpartition(".")[0]


def _look(archives: Sequence[str], numbered: Sequence[str], watch: Watch) -> Arrays:
    found: list[list[_Image]] = []
    kinds = set()
    for archive in archives:
        watch(archive)
        images, numbers = _members(archive)
        found.append(_label_by_numbers(archive, images, numbers, numbered) if numbers else images)
        kinds.add(bool(numbers))
    where = Path(archives[0]).parent
    if len(kinds) > 1:
        raise ValueError(f"of the archives in {where}, some have labels (KEY.cls), and others have none")
    if not any(found):
        raise ValueError(f"the archives in {where} hold no image ({', '.join(sorted(ENDINGS))})")
    classes = list(numbered) if kinds == {True} else sorted({image.label for images in found for image in images})
    position = {name: label for label, name in enumerate(classes)}
    rows = sorted(
        (position[image.label], rank_in_class(image.file, image.label), holder, image.offset, image.size, image.name)
        for holder, images in enumerate(found)
        for image in images
    )
    labels, _, holders, offsets, sizes, names = zip(*rows, strict=True)
    columns = {"labels": labels, "holders": holders, "offsets": offsets, "sizes": sizes}
    arrays = {name: np.array(column, dtype=np.int64) for name, column in columns.items()}
    return arrays | Names.of(classes).arrays("classes") | Names.of(names).arrays("names")


def _members(path: str) -> tuple[list[_Image], dict[str, bytes]]:
    """The images of an archive, of the class that their folder or the archive names, and what `.cls` members say."""
    images, numbers, refused = [], {}, []
    try:
        with Path(path).open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # A million of them need not be kept.
                archive.members.clear()  # type: ignore[attr-defined]
                parts = [part for part in member.name.split("/") if part not in ("", ".")]
                is_plain = (member.isfile() and not member.issparse()) or member.isdir()
                if member.name.startswith("/") or ".." in parts or not is_plain:
                    refused.append(member.name)
                elif member.isdir() or any(part.startswith(".") for part in parts):
                    continue
                elif ending(parts[-1]) in ENDINGS:
                    label = parts[-2] if len(parts) > 1 else Path(path).stem
                    images.append(_Image(label, "/".join(parts), member.offset_data, member.size))
                elif ending(parts[-1]) == ".cls":
                    key = "/".join(parts).removesuffix(".cls")
                    numbers[key] = os.pread(file.fileno(), min(member.size, 32), member.offset_data)
            # tarfile takes a damaged header for the end.
            if os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset).strip(b"\0"):
                raise tarfile.ReadError(f"a bad header at byte {archive.offset:,}")
    except tarfile.TarError as error:
        raise ValueError(f"{path} is damaged, compressed, or no tar archive ({error})") from None
    if refused:
        raise ValueError(
            f"{path}: {len(refused)} members are refused, since they are links, devices or sparse files, or their "
            f"names lead out of the archive: {first(refused)}"
        )
    return images, numbers


def _label_by_numbers(
    path: str, images: Sequence[_Image], numbers: Mapping[str, bytes], numbered: Sequence[str]
) -> list[_Image]:
    """The images of a shard, of the classes that their numbers say."""
    keys = [image.key for image in images]
    if twice := sorted(key for key, count in Counter(keys).items() if count > 1):
        raise ValueError(f"{path} has {len(twice)} keys with more than one image: {first(twice)}")
    label_of = {str(number).encode(): name for number, name in enumerate(numbered)}
    told = {key: label_of[text.strip()] for key, text in numbers.items() if text.strip() in label_of}
    if wrong := sorted((set(keys) ^ set(told)) | (set(numbers) - set(told))):
        raise ValueError(
            f"{path}: {len(wrong)} keys have no image and label that go together, KEY.jpg and a number from 0 to "
            f"{len(numbered) - 1} in KEY.cls: {first(wrong)}"
        )
    labelled = [replace(image, label=told[key]) for image, key in zip(images, keys, strict=True)]
    check_named_classes({image.name: image.label for image in labelled}, known=numbered, where=path)
    return labelled


@dataclass(frozen=True)
class _Opened:
    """An open file, closed when nobody needs it any more."""

    descriptor: int

    def __del__(self) -> None:
        os.close(self.descriptor)


@functools.lru_cache(maxsize=OPEN)
def _opened(path: str) -> _Opened:
    return _Opened(os.open(path, os.O_RDONLY))
