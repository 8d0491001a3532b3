"""Which devices a job gets that runs beside others on one machine."""

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock
import joblib

from moex.config import RuntimeConfig
from moex.launch.command import LaunchError


def jobs_at_once(asked: int, *, jobs: int) -> int:
    """How many jobs run at once: as many as asked; from -1 downwards, as joblib counts, one for each GPU, or core.

    Raises:
        LaunchError: none are asked for.
    """
    if asked == 0:
        raise LaunchError("hydra.launcher.n_jobs is 0: it must be 1 or more, or -1 for one job a GPU or core")
    if asked > 0:
        return asked
    return min(jobs, max(1, (len(visible_devices()) or joblib.cpu_count()) + 1 + asked))


def visible_devices() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES writes them. CUDA stays asleep."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


@contextmanager
def share_machine(runtime: RuntimeConfig, *, at_once: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Lends a job its part of this machine, beside others: devices, or threads of the processor.

    Yields:
        Where it runs, in words, and what tells its worker, as environment variables.
    """
    visible = visible_devices() if runtime.device != "cpu" else []
    if visible:
        with lease_devices(visible, runtime.devices or max(1, len(visible) // at_once)) as leased:
            names = ",".join(leased)
            yield f"on CUDA {names}", {"CUDA_VISIBLE_DEVICES": names}
    else:
        threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, joblib.cpu_count() // at_once))
        yield f"on the CPU, {threads} threads", {"OMP_NUM_THREADS": threads}


@contextmanager
def lease_devices(visible: Sequence[str], count: int) -> Iterator[list[str]]:
    """So many of the devices, or all: those that the fewest jobs of this user on this machine hold.

    So a device is shared only where there are too few. The system frees what a command holds at its death.
    """
    root = Path(tempfile.gettempdir()) / f"moex-{os.getuid()}"
    # A part of a GPU has slashes in its name.
    folders = {name: root / f"device-{name.replace('/', '-')}" for name in visible}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as leases:
        # One job at a time chooses.
        with filelock.FileLock(root / "choice.lock"):
            chosen = sorted(visible, key=lambda name: _count_leases(folders[name]))[:count]
            for name in chosen:
                leases.enter_context(filelock.FileLock(folders[name] / uuid.uuid4().hex))
        yield chosen


def _count_leases(folder: Path) -> int:
    """How many jobs hold the device of a folder; the files of those that have ended are removed."""
    for path in folder.iterdir():
        with suppress(filelock.Timeout), filelock.FileLock(path, timeout=0):
            path.unlink()
    return len(list(folder.iterdir()))
