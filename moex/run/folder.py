"""A run's folder: who trains in it, what it holds, and the checkpoints in it."""

import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import torch
from omegaconf import OmegaConf
from rich.console import Console

from moex import checkpoint
from moex.distributed.communication import gather, rank, world_size
from moex.files import write_atomically, write_text_atomically
from moex.reporting.runs import RESULT, read_run
from moex.reporting.sweeps import now
from moex.run.build import Run

# Seconds that a worker that was just killed may take to go.
PATIENCE = 10.0


# A line for each output of the network.
CLASSES = "classes.txt"


class NonFiniteError(Exception):
    """The loss or a weight is not finite any more."""


@contextmanager
def claim(folder: Path, config: dict[str, Any], *, classes: Sequence[str] | None = None) -> Iterator[None]:
    """Creates the run's folder and its config.yaml, and keeps other processes away inside the block.

    Args:
        folder: the run's.
        config: the whole configuration, as a nested dictionary.
        classes: the names of the network's outputs, which classes.txt keeps; None where they are but numbers.

    Raises:
        ValueError: another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=PATIENCE)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(f"another process trains in {folder}: wait for it, or choose another seed") from None
    try:
        text = OmegaConf.to_yaml(OmegaConf.create(config))
        write_text_atomically(folder / "config.yaml", text)
        if classes is not None:
            write_text_atomically(folder / CLASSES, "".join(f"{name}\n" for name in classes))
        yield
    finally:
        lock.release()


def resume(run: Run, saved: dict[str, Any] | None, command: str, *, console: Console) -> None:
    """Puts a run where a checkpoint left it, if there is one, and opens a session of it.

    Raises:
        SourceError: more samples cannot be read than may be.
    """
    state, sessions = run.state, run.sessions
    if saved is not None:
        state.load_state_dict(saved)
        if rank() > 0:
            # Rank 0 has the sums of all ranks up to here; the others go on from zero.
            state.totals.zero_()
        sessions[:] = saved["sessions"]
        for split, samples in saved.get("unreadable", {}).items():
            run.sources[split].know_unreadable(set(samples))
        console.print(f"continuing {run.folder} after epoch {state.epoch}, step {state.step}", soft_wrap=True)
        before = sessions[-1]["world_size"]
        if before != world_size():
            # Of a batch in parts the shares stay, but rank 0 sees more of them, or fewer.
            others = (
                "BatchNorm's running statistics"
                if "runtime.parts" in run.recipe
                else "partners and BatchNorm's shares"
            )
            console.print(
                f"on {world_size()} device{'s' if world_size() > 1 else ''} after {before}: {others} are others from "
                "here on, so the numbers will not be those of an unbroken run",
                soft_wrap=True,
            )
    sessions.append({"start": now(), "command": command, "world_size": world_size(), **commit()})


def save(run: Run) -> None:
    """Saves a checkpoint, unless something in it is not finite, and keeps it if the configuration says so.

    All ranks call it, and rank 0 writes.

    Raises:
        NonFiniteError: nothing was saved.
        SaveError: a file could not be written.
        SourceError: more samples cannot be read than may be.
    """
    totals, unreadable = check_finite(run, memory=True), gather_unreadable(run)
    if rank() > 0:
        return
    state = run.state
    content = state.state_dict() | {
        "totals": torch.tensor(totals, dtype=torch.float64),
        "sessions": run.sessions,
        "unreadable": unreadable,
    }
    every = run.checkpoints.keep_every_epochs
    if every is not None and state.step == 0 and state.epoch % every == 0:
        # Before the last: killed in between, the run ends this epoch once more, and keeps it again.
        checkpoint.write_epoch(run.folder / "checkpoints", content, epoch=state.epoch)
    checkpoint.write_last(run.folder / "checkpoints", content)


def gather_unreadable(run: Run) -> dict[str, list[int]]:
    """The samples of each split that cannot be read, found by any rank and in any session; lets all ranks know them.

    Raises:
        SourceError: on every rank, if they are too many.
    """
    everyone = gather({split: set(source.unreadable) for split, source in run.sources.items()})
    unreadable = {split: set().union(*(found[split] for found in everyone)) for split in run.sources}
    for split, source in run.sources.items():
        source.know_unreadable(unreadable[split])
    return {split: sorted(samples) for split, samples in unreadable.items()}


def check_finite(run: Run, *, memory: bool = False) -> list[float]:
    """Looks for a loss or a weight that is not finite, on any rank; waits for the device.

    Args:
        run: that is trained.
        memory: whether to look at what the optimizer keeps of the weights as well.

    Returns:
        The sums of all ranks over the current epoch: losses, and wrong predictions.

    Raises:
        NonFiniteError: on every rank, naming the step, its learning rate and the last good checkpoint.
    """
    state = run.state
    # Only rank 0's running statistics are the run's.
    weights = [*(state.model.state_dict().values() if rank() == 0 else state.model.parameters())]
    if memory:
        weights += [value for kept in state.optimizer.state.values() for value in kept.values()]
    finite = all(bool(tensor.isfinite().all()) for tensor in weights)
    totals, bad_steps, finites = zip(*gather((state.totals.tolist(), int(state.first_bad_step), finite)), strict=True)
    bad = min((step for step in bad_steps if step >= 0), default=-1)
    if bad < 0 and all(finites):
        return [sum(column) for column in zip(*totals, strict=True)]
    what, step = ("the loss", bad) if bad >= 0 else ("a weight", max(state.step - 1, 0))
    raise non_finite(what, run, step=step)


def non_finite(what: str, run: Run, *, step: int) -> NonFiniteError:
    """The error that names a step of the current epoch, its learning rate and the last good checkpoint."""
    epoch = run.state.epoch
    lr = run.training.learning_rate(epoch, step)
    return NonFiniteError(
        f"{what} is not finite at epoch {epoch + 1}, step {step + 1} (learning rate {lr:g}). "
        f"Last good checkpoint: {checkpoint.newest_whole(run.folder / 'checkpoints') or 'none'}. "
        "Try a lower optimizer.lr or another seed."
    )


def write_heartbeat(run: Run) -> None:
    """Leaves `heartbeat.json`: how far a run is, when that was and where, for whoever watches it."""
    heartbeat = {
        "time": now(),
        "epoch": run.state.epoch,
        "epochs": run.training.epochs,
        "step": run.state.step,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    text = json.dumps(heartbeat) + "\n"
    # Nothing is lost with it: a disk that is full is told where it matters.
    with suppress(OSError):
        run.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomically(run.folder / "heartbeat.json", text)


def write_metrics(run: Run) -> None:
    """Writes metrics.csv, a row an epoch; floats are written so that reading gives the same bits."""
    import pandas as pd

    table = pd.DataFrame(run.state.history)
    write_atomically(run.folder / "metrics.csv", lambda file: table.to_csv(file, index=False))


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which the run in a folder would continue; None before the first."""
    return next(iter(checkpoint.present(folder / "checkpoints")), None)


def find_result(folder: Path, *, report: Callable[[str], object]) -> dict[str, Any] | None:
    """`result.json` of a finished run; None for a run that is not.

    A damaged one is kept under another name where there is a checkpoint, from which it is made again.

    Args:
        folder: the run's.
        report: told, in one line, about a damaged one.

    Raises:
        ValueError: it is damaged, and there is no checkpoint.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    try:
        return read_run(path, to_show=True).result
    except ValueError as error:
        if last_checkpoint(folder) is None:
            raise ValueError(f"{error}, and there is no checkpoint: move {folder} elsewhere to train anew") from None
        path.replace(path.with_name(f"{RESULT}.damaged"))
        report(f"{error}: kept as {RESULT}.damaged, and made again from the last checkpoint")
        return None


def commit() -> dict[str, Any]:
    """The commit that this package comes from, and whether its tree was dirty.

    What `results/` holds is no other code: a table grows there while its runs are trained. None outside a checkout,
    and where the repository around the package, such as that of a project in whose environment it is installed, does
    not track it.
    """
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        command = ["git", *arguments]
        try:
            answer = subprocess.run(command, cwd=here.parent, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    if git("ls-files", "--error-unmatch", "--", here.name) is None:
        return {"commit": None, "dirty": None}
    changes = git("status", "--porcelain", "--", ":/", ":(top,exclude)results")
    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
