"""A run's folder: whose it is, what it holds, and the checkpoints in it."""

import json
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import torch
from omegaconf import OmegaConf
from rich.console import Console
from yaml import YAMLError

from moex import checkpoint
from moex.config import Config, parse, recipe
from moex.distributed import gather, rank, world_size
from moex.engine import State, learning_rate_at
from moex.reporting.sweeps import now

# Seconds that a worker that was just killed may take to go.
PATIENCE = 10.0
# What a run that was killed while it claimed its folder leaves there.
_BEFORE_THE_CONFIGURATION = (".lock", "config.yaml.tmp")


class NonFiniteError(Exception):
    """The loss or a weight is not finite any more."""


def check_folder(folder: Path, config: Config) -> None:
    """Refuses a folder that belongs to another recipe.

    Raises:
        ValueError: with the keys that differ.
    """
    path = folder / "config.yaml"
    if not path.exists():
        if folder.exists() and any(item.name not in _BEFORE_THE_CONFIGURATION for item in folder.iterdir()):
            raise ValueError(f"{folder} holds files and no config.yaml: move it away, or choose another name=")
        return
    try:
        stored = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(stored, dict)
        theirs = parse({str(key): value for key, value in stored.items()})
    except (ValueError, YAMLError) as error:
        raise ValueError(f"{path} is not a configuration of this version ({error}): choose another name=") from None
    ours, others = recipe(config) | {"seed": config.seed}, recipe(theirs) | {"seed": theirs.seed}
    difference = sorted(key for key in ours | others if ours.get(key) != others.get(key))
    if difference:
        raise ValueError(f"{folder} holds another recipe (different: {', '.join(difference)}): choose another name=")


def claim(folder: Path, config: Config) -> filelock.BaseFileLock:
    """Creates the run's folder and its config.yaml, and locks it against a second process.

    Raises:
        ValueError: another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except filelock.Timeout:
        raise ValueError(f"another process trains in {folder}: wait for it, or choose another seed") from None
    text = OmegaConf.to_yaml(OmegaConf.structured(config))
    checkpoint.write_text_atomically(folder / "config.yaml", text)
    return lock


def resume(state: State, saved: dict[str, Any] | None, command: str, *, folder: Path, console: Console) -> None:
    """Puts a run where a checkpoint left it, if there is one, and opens a session of it."""
    if saved is not None:
        state.model.load_state_dict(saved["model"])
        if state.average is not None:
            state.average.model.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scaler.load_state_dict(saved["scaler"])
        if rank() == 0:
            # The sums of all ranks up to here; the others go on from zero.
            state.totals.copy_(torch.tensor(saved["totals"], dtype=torch.float64))
        for name in ("epoch", "step", "history", "best", "epoch_seconds", "seconds", "sessions"):
            setattr(state, name, saved[name])
        console.print(f"continuing {folder} after epoch {state.epoch}, step {state.step}", soft_wrap=True)
        # A run of before there were several devices does not say how many it had.
        before = state.sessions[-1].get("world_size", 1)
        if before != world_size():
            console.print(
                f"on {world_size()} device{'s' if world_size() > 1 else ''} after {before}: partners and BatchNorm's "
                "shares are others from here on, so the numbers will not be those of an unbroken run",
                soft_wrap=True,
            )
    state.sessions.append({"start": now(), "command": command, "world_size": world_size(), **commit()})


def save(state: State, folder: Path, config: Config) -> None:
    """Saves a checkpoint, unless something in it is not finite, and keeps it if the configuration says so.

    All ranks call it, and rank 0 writes.

    Raises:
        NonFiniteError: nothing was saved.
        SaveError: a file could not be written.
    """
    totals = check_finite(state, folder, config)
    if rank() > 0:
        return
    content = {
        "model": state.model.state_dict(),
        "average": None if state.average is None else state.average.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "totals": totals,
        "epoch": state.epoch,
        "step": state.step,
        "history": state.history,
        "best": state.best,
        "epoch_seconds": state.epoch_seconds,
        "seconds": state.seconds,
        "sessions": state.sessions,
    }
    every = config.checkpoint.keep_every_epochs
    if every is not None and state.step == 0 and state.epoch % every == 0:
        # Before the last: killed in between, the run ends this epoch once more, and keeps it again.
        checkpoint.save_epoch(folder / "checkpoints", content, epoch=state.epoch)
    checkpoint.save(folder / "checkpoints", content)


def check_finite(state: State, folder: Path, config: Config) -> list[float]:
    """Looks for a loss or a weight that is not finite, on any rank; waits for the device.

    Returns:
        The sums of all ranks over the current epoch: losses, and wrong predictions.

    Raises:
        NonFiniteError: on every rank, naming the step, its learning rate and the last good checkpoint.
    """
    # Only rank 0's running statistics are the run's.
    weights = state.model.state_dict().values() if rank() == 0 else state.model.parameters()
    finite = all(bool(tensor.isfinite().all()) for tensor in weights)
    totals, bad_steps, finites = zip(*gather((state.totals.tolist(), int(state.first_bad_step), finite)), strict=True)
    bad = min((step for step in bad_steps if step >= 0), default=-1)
    if bad < 0 and all(finites):
        return [sum(column) for column in zip(*totals, strict=True)]
    what, step = ("the loss", bad) if bad >= 0 else ("a weight", max(state.step - 1, 0))
    raise non_finite(what, state, folder, config, step=step)


def non_finite(what: str, state: State, folder: Path, config: Config, *, step: int) -> NonFiniteError:
    """The error that names a step of the current epoch, its learning rate and the last good checkpoint."""
    lr = learning_rate_at(state, config, step=step)
    return NonFiniteError(
        f"{what} is not finite at epoch {state.epoch + 1}, step {step + 1} (learning rate {lr:g}). "
        f"Last good checkpoint: {last_checkpoint(folder) or 'none'}. Try a lower optimizer.lr or another seed."
    )


def write_heartbeat(folder: Path, state: State, config: Config) -> None:
    """Leaves `heartbeat.json`: how far a run is, when that was and where, for whoever watches it."""
    heartbeat = {
        "time": now(),
        "epoch": state.epoch,
        "epochs": config.epochs,
        "step": state.step,
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    text = json.dumps(heartbeat) + "\n"
    # Nothing is lost with it: a disk that is full is told where it matters.
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_text_atomically(folder / "heartbeat.json", text)


def last_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which the run in a folder would continue; None before the first."""
    return next(iter(checkpoint.present(folder / "checkpoints")), None)


def read_result(folder: Path) -> dict[str, Any] | None:
    """`result.json` of a finished run; None for a run that is not."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and the same command writes it again") from None
    return result


def commit() -> dict[str, Any]:
    """The commit that this package comes from, and whether its tree was dirty; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return answer.stdout.strip()

    changes = git("status", "--porcelain", "--", ":/")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else bool(changes)}
