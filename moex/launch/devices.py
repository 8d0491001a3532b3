"""Which devices a job gets that runs beside others on one machine."""

import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import filelock
import joblib
from hydra.errors import HydraException

from moex.config import RuntimeConfig


def jobs_at_once(asked: int, *, jobs: int) -> int:
    """How many jobs run at once: as many as asked; from -1 downwards, as joblib counts, one for each GPU, or core.

    Raises:
        HydraException: none are asked for.
    """
    if asked == 0:
        raise HydraException("hydra.launcher.n_jobs is 0: it must be 1 or more, or -1 for one job a GPU or core")
    units = len(visible_devices()) or joblib.cpu_count()
    return asked if asked > 0 else min(jobs, max(1, units + 1 + asked))


def visible_devices() -> list[str]:
    """The names of the GPUs that this process may use, as CUDA_VISIBLE_DEVICES writes them. CUDA stays asleep."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:count] if named else [str(index) for index in range(count)]


@contextmanager
def share_machine(runtime: RuntimeConfig, *, at_once: int) -> Iterator[dict[str, str]]:
    """Lends a job its part of this machine, beside others: devices, or threads of the processor.

    Yields:
        What tells its worker, as environment variables.
    """
    visible = visible_devices() if runtime.device != "cpu" else []
    if visible:
        with lease_devices(visible, runtime.devices or max(1, len(visible) // at_once)) as leased:
            yield {"CUDA_VISIBLE_DEVICES": ",".join(leased)}
    else:
        yield {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, joblib.cpu_count() // at_once))}


@contextmanager
def lease_devices(visible: Sequence[str], count: int) -> Iterator[list[str]]:
    """So many of the devices, or all: those that the fewest jobs of this user on this machine hold.

    So a device is shared only where there are too few. The system frees what a command holds at its death.
    """
    root = Path(tempfile.gettempdir(), f"moex-{os.getuid()}")
    root.mkdir(exist_ok=True)
    # A file for each lease, after its device. A part of a GPU has slashes in its name.
    files = {name: f"{name.replace('/', '-')}.device." for name in visible}
    with ExitStack() as leases:
        # One job at a time chooses.
        with filelock.FileLock(root / "choice.lock"):
            holders = {name: sum(map(_is_held, root.glob(files[name] + "*"))) for name in visible}
            chosen = sorted(visible, key=holders.__getitem__)[:count]
            for name in chosen:
                leases.enter_context(filelock.FileLock(root / (files[name] + uuid.uuid4().hex)))
        yield chosen


def _is_held(lease: Path) -> bool:
    """Whether its job goes on; the file of one that has ended is removed."""
    with suppress(filelock.Timeout), filelock.FileLock(lease, timeout=0):
        lease.unlink()
    return lease.exists()
