"""Which devices a job gets that runs beside others on one machine."""

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
import joblib
import torch


def jobs_at_once(asked: int, *, jobs: int) -> int:
    """How many of a sweep's jobs run at the same time.

    Args:
        asked: so many; from -1 downwards, as joblib counts, one for each GPU, or core without GPUs, or fewer.
        jobs: how many there are.
    """
    if asked > 0:
        return asked
    return min(jobs, max(1, (len(visible_devices()) or joblib.cpu_count()) + 1 + asked))


def visible_devices() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES writes them. CUDA stays asleep."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


@contextmanager
def lease_devices(visible: Sequence[str], count: int) -> Iterator[list[str]]:
    """So many of the devices, or all: those that the fewest jobs of this user on this machine hold.

    So a device is shared only where there are too few. The system frees what a job holds at its death.
    """
    folder = Path(tempfile.gettempdir()) / f"moex-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    with ExitStack() as leases:
        # One job at a time chooses.
        with filelock.FileLock(folder / "choice.lock"):
            holders = {name: _count_holders(folder / _file_name(name)) for name in visible}
            chosen = sorted(visible, key=holders.__getitem__)[:count]
            for name in chosen:
                path = folder / _file_name(name) / uuid.uuid4().hex
                path.parent.mkdir(exist_ok=True)
                leases.enter_context(filelock.FileLock(path))
        yield chosen


def _file_name(device: str) -> str:
    # A part of a GPU has slashes in its name.
    return f"device-{device.replace('/', '-')}"


def _count_holders(folder: Path) -> int:
    """How many jobs hold the device of a folder; the files of those that have ended are removed."""
    holders = 0
    for path in folder.glob("*"):
        try:
            with filelock.FileLock(path, timeout=0):
                path.unlink()
        except filelock.Timeout:
            holders += 1
    return holders
