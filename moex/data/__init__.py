"""Data sets by name: a file of this folder is one, or a few that differ little; `DataSet` says what it has to be."""

from moex.data.dataset import (
    TEST,
    TRAIN,
    VALIDATION,
    DataSet,
    MissingDataError,
    Samples,
    SmallImages,
    fetch_hint,
    load,
    load_test,
)
from moex.data.outputs import Outputs
from moex.data.source import Request, Source, SourceError
from moex.registry import find_classes, import_class

__all__ = [
    "TEST",
    "TRAIN",
    "VALIDATION",
    "DataSet",
    "MissingDataError",
    "Outputs",
    "Request",
    "Samples",
    "SmallImages",
    "Source",
    "SourceError",
    "fetch_hint",
    "find",
    "load",
    "load_test",
    "names",
]


def names() -> list[str]:
    """The data sets of this folder."""
    return list(find_classes(__name__, DataSet))


def find(name: str, *, target: str | None = None, key: str = "dataset.target") -> type[DataSet]:
    """The class of a data set.

    Args:
        name: one of `names()`; not used with a target.
        target: the import path of somebody else's.
        key: of the configuration that holds the path, for errors.

    Raises:
        ValueError: there is no such data set.
    """
    if target is not None:
        return import_class(target, DataSet, key=key)  # type: ignore[type-abstract]
    known = find_classes(__name__, DataSet)
    if name not in known:
        raise ValueError(f"there is no data set {name!r}: it must be one of {', '.join(known)}")
    return known[name]
