"""Lists that take long to make, such as that of a million files: kept until the place that they list has changed."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import numpy.typing as npt

from moex.files import write_atomically

Arrays = dict[str, npt.NDArray[Any]]
# Of what the files hold; another number, and none of before is found.
VERSION = 1
# Within so many seconds a folder may change twice, and its time but once.
TICK = 2.0


@dataclass(frozen=True)
class Names:
    """Many texts in little memory.

    Attributes:
        content: the texts one after the other, as the system encodes the names of files; uint8.
        ends: where each ends, int64 `[N]`.
    """

    content: npt.NDArray[np.uint8]
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Names":
        """Takes texts in."""
        encoded = [os.fsencode(text) for text in texts]
        return cls(
            np.frombuffer(b"".join(encoded), dtype=np.uint8),
            np.cumsum([len(text) for text in encoded], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.content[start : self.ends[index]].tobytes())

    def __iter__(self) -> Iterator[str]:
        content, start = self.content.tobytes(), 0
        for end in self.ends.tolist():
            yield os.fsdecode(content[start:end])
            start = end

    def arrays(self, name: str) -> Arrays:
        """What a list keeps of it under a name."""
        return {f"{name}_content": self.content, f"{name}_ends": self.ends}

    @classmethod
    def restore(cls, arrays: Arrays, name: str) -> "Names":
        """The reverse of `arrays`."""
        return cls(arrays[f"{name}_content"], arrays[f"{name}_ends"])


# What a look is given: told of each file and folder whose change makes its list void, before it is read.
Watch = Callable[[str], None]


def remember(folder: Path, key: str, look: Callable[[Watch], Arrays]) -> Arrays:
    """What a look finds; what an earlier one found, where nothing that it watched has changed since.

    A folder's size and time of change tell whether names came or went. What cannot be kept or is damaged is looked
    for again, and nobody hears of it; so is what watched nothing. Of several processes that want the same, one looks
    and the others wait.

    Args:
        folder: where lists are kept, each in a file of its own.
        key: tells this list from others: what is listed, and where.
        look: makes the list.
    """
    digest = hashlib.sha256(os.fsencode(f"{VERSION} {key}")).hexdigest()[:32]
    path = folder / f"{digest}.npz"
    known = _read(path)
    if known is None:
        with _alone(path):
            known = _read(path)
            if known is None:
                known = _look(path, look)
    return known


def _look(path: Path, look: Callable[[Watch], Arrays]) -> Arrays:
    watched: list[str] = []
    states: list[tuple[int, int]] = []

    def watch(place: str) -> None:
        states.append(_state(place))
        watched.append(place)

    start = time.time()
    found = look(watch)
    changed = np.array(states, dtype=np.int64).reshape(-1, 2)
    if watched and changed[:, 1].max() < (start - TICK) * 1e9:
        kept = {**found, **Names.of(watched).arrays("watched"), "states": changed}
        with contextlib.suppress(OSError):
            write_atomically(path, lambda file: np.savez(file, allow_pickle=False, **kept))
    return found


def _read(path: Path) -> Arrays | None:
    """What is kept, unless what it watched has changed."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        states, watched = arrays.pop("states"), Names.restore(arrays, "watched")
        if states.tolist() != [list(_state(place)) for place in watched]:
            return None
    # There are more ways to be damaged than names for them.
    except Exception:
        return None
    return arrays


def _state(place: str) -> tuple[int, int]:
    status = os.stat(place)  # noqa: PTH116  (a Path takes as long again, a thousand times)
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other processes away inside the block, where the file system can."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(path.with_suffix(".lock")))
        yield
