"""The folder of a worker's temporary files, which goes with it.

Libraries remove theirs at the end of a process, as W&B does, and so not where it is killed, nor in one that
`multiprocessing` has copied.
"""

import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moex.leftovers import remember


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Lets this process, and those that it starts, keep temporary files in a folder that is removed at the end."""
    usual = Path(tempfile.gettempdir())
    # What torch has compiled serves later runs.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(usual / f"torchinductor_{getpass.getuser()}"))
    folder = Path(tempfile.mkdtemp(prefix="moex-"))
    remember(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        os.environ["TMPDIR"] = tempfile.tempdir = str(usual)
        shutil.rmtree(folder, ignore_errors=True)
