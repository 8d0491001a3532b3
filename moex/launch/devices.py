"""Which devices a job gets that runs beside others on one machine."""

import getpass
import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock
import torch


def share_of_slot(slot: int, visible: Sequence[str], *, devices: int | None, jobs: int) -> list[str]:
    """The devices of the job in one slot: jobs share a device only where there are too few.

    Args:
        slot: the job's place among those that run at the same time, from 0.
        visible: the names of all devices.
        devices: how many a job takes; None: what is there, divided by the jobs.
        jobs: how many run at the same time.
    """
    count = devices or max(1, len(visible) // jobs)
    return [visible[(slot * count + place) % len(visible)] for place in range(min(count, len(visible)))]


def visible_devices() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES writes them. CUDA stays asleep."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


@contextmanager
def lease_slot() -> Iterator[int]:
    """The smallest number that no other job of this user on this machine holds; the system frees it at death."""
    folder = Path(tempfile.gettempdir()) / f"moex-{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    for slot in itertools.count():
        lock = filelock.FileLock(folder / f"slot{slot}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            continue
        try:
            yield slot
        finally:
            lock.release()
        return
