"""Files and folders that a process must not leave behind, where it is ended at once."""

import shutil
from pathlib import Path

_PATHS: set[Path] = set()


def remember(path: Path) -> None:
    """From here on, `remove_all` removes it, if it is there."""
    _PATHS.add(path)


def remove_all() -> None:
    """Removes what is remembered; what cannot be removed stays."""
    for path in list(_PATHS):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists():
            path.unlink()
