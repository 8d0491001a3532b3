"""One rank of a run, from the data to the result."""

import dataclasses
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from moex import checkpoint
from moex.config import parse, run_folder
from moex.data import SourceError
from moex.distributed import STOPPED, Layout, RankError, StopRequest, broadcast, gather, join, rank
from moex.loggers import Loggers, open_loggers
from moex.run.build import Run, build_run, choose_device, load_sources
from moex.run.folder import NonFiniteError, claim, last_checkpoint, read_result, resume
from moex.run.result import finish, show
from moex.run.training import Stopped, TimeOver, train


def train_rank(job: dict[str, Any], layout: Layout, stop: StopRequest) -> int:
    """Trains as one of the ranks of a run.

    Args:
        job: the configuration, and the command that asked for it.
        layout: of all ranks.
        stop: when to save and to end.

    Returns:
        The exit code, the same on every rank. What there is to say was printed by rank 0.

    Raises:
        RankError: a file could not be written, or the samples cannot be had.
    """
    config = parse(job["config"])
    folder = run_folder(config)
    device = choose_device(config)
    if layout.world_size > 1:
        join(device)
    console = Console(quiet=rank() > 0)
    result = saved = fault = None
    with ExitStack() as stack:
        try:
            sources = load_sources(config, device)
            if rank() == 0:
                stack.enter_context(claim(folder, dataclasses.asdict(config)))
                # The process that held it may have finished the run.
                result = read_result(folder)
                saved = checkpoint.load(folder / "checkpoints", report=console.print)
        except (ValueError, OSError) as error:
            # A mistake in what was asked for; what fails from here on is ours.
            fault = str(error)
        faults = [fault for fault in gather(fault) if fault is not None]
        result, saved = broadcast((result, saved))
        if faults:
            return _tell(f"error: {faults[0]}", code=1)
        if result is None:
            if layout.world_size > 1:
                machines = "1 machine" if layout.nodes == 1 else f"{layout.nodes} machines"
                console.print(f"training on {layout.world_size} devices of {machines}", soft_wrap=True)
            try:
                run = build_run(config, sources, device)
                resume(run, saved, job["command"], console=console)
                with _open_loggers(run, console) as loggers:
                    train(run, stop=stop, loggers=loggers, console=console)
                    result = finish(run, console=console)
                    figures = sorted((folder / "figures").glob("*.png"))
                    loggers.log_result(result, figures=figures, step=run.state.global_step)
            except NonFiniteError as error:
                return _tell(f"error: {error}", code=1)
            except Stopped as stopped:
                return _tell(str(stopped), code=STOPPED)
            except TimeOver as over:
                return _tell(str(over), code=0)
            except checkpoint.SaveError as error:
                # This rank alone knows: as an error it ends the others.
                raise RankError(f"{error}\n{_how_to_continue(folder, when='once there is room, ')}") from None
            except SourceError as error:
                raise RankError(f"{error}\n{_how_to_continue(folder)}") from None
    show(result, folder, console)
    return 0


def _open_loggers(run: Run, console: Console) -> Loggers:
    """The loggers of this session; rank 0 alone has any."""
    if rank() > 0:
        return Loggers({}, console=console)
    return open_loggers(run.loggers, run.folder, done=run.state.global_step, config=run.config, console=console)


def _how_to_continue(folder: Path, *, when: str = "") -> str:
    whole = last_checkpoint(folder)
    if whole is None:
        return f"there is no checkpoint yet: {when}the same command starts again"
    return f"{whole} is whole: {when}the same command continues from it"


def _tell(text: str, *, code: int) -> int:
    """Says why a run ends before it is finished, once, and returns the exit code."""
    if rank() == 0:
        print(text, file=sys.stderr if code == 1 else sys.stdout, flush=True)
    return code
