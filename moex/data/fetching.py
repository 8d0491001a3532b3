"""Archives that data sets are published as: fetched, and unpacked by one of the processes that want them."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import filelock


def make_once(root: Path, name: str, is_there: Callable[[], bool], make: Callable[[], object]) -> None:
    """Makes what is not there in a folder, which the ranks of a run and the jobs of a sweep want at the same time.

    Args:
        root: the folder, which need not be there.
        name: of what is made.
        is_there: whether another process has made it.
        make: makes it.
    """
    root.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(root / f".{name}.lock"):
        if not is_there():
            make()


def fetch(url: str, archive: Path) -> None:
    """Fetches a file in the place of another.

    Raises:
        OSError: that fails; there is none then.
    """
    from torchvision.datasets.utils import download_url

    archive.unlink(missing_ok=True)
    try:
        download_url(url, archive.parent, archive.name)
    except (URLError, RuntimeError, OSError) as error:
        archive.unlink(missing_ok=True)
        raise OSError(
            f"{url} could not be fetched ({error}): put it into {archive.parent} by hand, or set dataset.root"
        ) from None


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A place beside a folder for what is to become it, and is moved there when it is whole; the rest is removed."""
    partial = folder.with_name(f".{folder.name}.partial")
    # What a killed process left.
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)
