"""Names of files and folders: endings, the folders that are classes, and what an error tells of many."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

# Of those that are at fault, so many are named.
NAMED = 5
_ENDING = re.compile(r"\.[^./]*$")


def ending(path: str) -> str:
    """The ending of a file's name in lower case, such as `.jpg`; nothing where there is none."""
    found = _ENDING.search(path)
    return found[0].lower() if found else ""


def without_ending(path: str) -> str:
    """All of it but the ending."""
    return _ENDING.sub("", path)


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a folder, sorted, hidden ones left out; none where there is no such folder.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return tuple(sorted(entry.name for entry in entries if entry.is_dir() and entry.name[0] != "."))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error.strerror}") from None


def first(offenders: Sequence[str]) -> str:
    """The first of those that are at fault, for an error that says their number itself."""
    return ", ".join(offenders[:NAMED]) + (", ..." if len(offenders) > NAMED else "")
