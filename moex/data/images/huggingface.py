"""Images in Hugging Face datasets: of their hub, saved by the library, or in Parquet files."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from moex.data.images.encoded import EncodedFiles
from moex.data.images.labelled import LabelledFiles, check_named_classes, find_shards, rank_in_class
from moex.data.listing import Arrays, Names, Watch, remember
from moex.data.naming import first


class HuggingFaceFiles(EncodedFiles):
    """Rows of a table.

    Args:
        table: with columns `bytes` and `path`, of which one may be None.
        rows: which rows, int64 `[N]`.
        where: the table is, for people.
    """

    def __init__(self, table: Any, rows: npt.NDArray[np.int64], where: str) -> None:
        self._table, self._rows, self._where = table, rows, where

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, index: int) -> str:
        """See `EncodedFiles`."""
        return f"{self._where}: row {self._rows[index]}"

    def read(self, index: int) -> bytes:
        """See `EncodedFiles`."""
        row = self._table[int(self._rows[index])]
        if row["bytes"] is not None:
            return bytes(row["bytes"])
        if row["path"] is None:
            raise OSError(f"{self.name(index)} holds nothing")
        return Path(row["path"]).read_bytes()


def is_saved_dataset(root: Path) -> bool:
    """Whether a folder is what `save_to_disk` leaves: of one split, or of several."""
    return any((root / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_dataset(root: Path, *splits: str, hub: str | None, download: bool) -> Any:
    """A split of a dataset, memory-mapped.

    Args:
        root: of a saved dataset or of Parquet files; not used with a name on the hub.
        splits: the names that the split may have; the first that is there counts.
        hub: the dataset's name on the hub.
        download: whether the hub may be asked for what the library's cache lacks.

    Raises:
        ValueError: the library is not installed, or there is no such dataset or split.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            "dataset.format is huggingface: it needs the library `datasets`, "
            "pip install 'moment-exchange[huggingface]'"
        ) from None
    where = str(root) if hub is None else hub
    try:
        if hub is not None:
            with contextlib.nullcontext() if download else _offline(datasets.config):
                found = datasets.load_dataset(hub)
        elif is_saved_dataset(root):
            found = datasets.load_from_disk(str(root))
        else:
            files = {split: list(map(str, find_shards(root, "parquet", split))) for split in splits}
            found = datasets.load_dataset("parquet", data_files={name: each for name, each in files.items() if each})
    # The library raises whatever happens on its way.
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        fetch = "" if hub is None or download else "; dataset.download=true fetches it"
        raise ValueError(f"{where} cannot be opened as a Hugging Face dataset ({reason[0]}){fetch}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where} is a single split: it must be a dataset with a split {' or '.join(splits)}")
    for split in splits:
        if split in found:
            return found[split]
    raise ValueError(f"{where} has no split {' or '.join(splits)}: it has {', '.join(found)}")


def read_huggingface(
    dataset: Any, *, image: str, label: str, listings: Path, numbered: Sequence[str], where: str
) -> LabelledFiles:
    """The images of a split.

    Args:
        dataset: as `open_dataset` returns it.
        image: the column of the images.
        label: the column of the labels: numbers, or names of classes.
        listings: where the order of the rows is kept; see `moex.data.listing`.
        numbered: the names of the classes that numbers count, from 0 on, unless the dataset itself says that they
            count other classes of these.
        where: it lies, for errors.

    Raises:
        ValueError: there are no such columns, or labels are wrong.
    """
    import datasets

    for key, column in (("image_column", image), ("label_column", label)):
        if column not in dataset.column_names:
            columns = ", ".join(dataset.column_names)
            raise ValueError(f"dataset.{key} is {column!r}: the columns of {where} are {columns}")
    table = dataset.select_columns([image]).cast_column(image, datasets.Image(decode=False)).flatten()
    table = table.rename_columns({f"{image}.{part}": part for part in ("bytes", "path")})

    def look(watch: Watch) -> Arrays:
        for part in files:
            watch(part)
        paths = [path or "" for path in table.select_columns(["path"])[:]["path"]]
        told = _told(dataset, label, numbered, where)
        check_named_classes(dict(zip(paths, told, strict=True)), known=numbered, where=where)
        position = {name: number for number, name in enumerate(sorted(set(told)))}
        rows = sorted(
            (position[name], rank_in_class(path.rpartition("/")[2], name), row)
            for row, (path, name) in enumerate(zip(paths, told, strict=True))
        )
        labels, _, order = zip(*rows, strict=True)
        return {"labels": np.array(labels), "rows": np.array(order)} | Names.of(position).arrays("classes")

    files = [part["filename"] for part in dataset.cache_files]
    found = remember(listings, "\n".join(["huggingface", image, label, *files, *numbered]), look)
    return LabelledFiles(
        HuggingFaceFiles(table, found["rows"], where),
        found["labels"],
        tuple(Names.restore(found, "classes")),
        where,
    )


def _told(dataset: Any, column: str, numbered: Sequence[str], where: str) -> list[str]:
    """The class of each row, by its name."""
    labels: list[Any] = dataset.select_columns([column])[:][column]
    own = getattr(dataset.features[column], "names", None)
    names = own if own and set(own) <= set(numbered) else numbered
    if not labels:
        raise ValueError(f"{where} holds no image")
    if isinstance(labels[0], str):
        return labels
    if wrong := [f"{number} in row {row}" for row, number in enumerate(labels) if not 0 <= number < len(names)]:
        raise ValueError(f"{where}: {len(wrong)} labels are none of 0 to {len(names) - 1}: {first(wrong)}")
    return [names[number] for number in labels]


@contextlib.contextmanager
def _offline(config: Any) -> Iterator[None]:
    """Keeps the library from the network inside the block."""
    former, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = former
