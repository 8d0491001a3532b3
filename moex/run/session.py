"""One rank of a run, from the data to the result."""

import dataclasses
import functools
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from moex import checkpoint
from moex.config import Config, keys_in_use, parse, run_folder
from moex.config.fastest import slow_precision
from moex.data import TRAIN, SourceError, fetch_hint
from moex.distributed.communication import broadcast, gather, join, rank, world_size
from moex.distributed.nodes import Layout
from moex.distributed.ranks import STOPPED, RankError, StopRequest
from moex.files import SaveError
from moex.loggers import Loggers, open_loggers
from moex.processor import instructions, keep_freed_memory
from moex.reporting.finished import show
from moex.run.build import Run, build_run, load_sources, load_test_sets, read_initial_weights
from moex.run.checks import check_batches
from moex.run.device import choose_device
from moex.run.folder import NonFiniteError, claim, find_result, last_checkpoint, resume
from moex.run.result import ScoringError, device_name, finish
from moex.run.soundness import check_last
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
        RankError: the data cannot be read, another process trains in the folder, something is not finite any more,
            the samples cannot be had, or a file could not be written.
    """
    config = parse(job["config"])
    folder = run_folder(config)
    device = choose_device(config.runtime)
    keep_freed_memory()
    if layout.world_size > 1:
        join(device)
    console = Console(quiet=rank() > 0)
    report = functools.partial(console.print, soft_wrap=True, markup=False, highlight=False)
    result = fault = weights = None
    with ExitStack() as stack:
        try:
            sources = load_sources(config, device)
            check_batches(config, len(sources[TRAIN]), world_size=layout.world_size)
            test_sets = load_test_sets(config, device)
            if rank() == 0:
                if last_checkpoint(folder) is None:
                    weights = read_initial_weights(config)
                stack.enter_context(claim(folder, dataclasses.asdict(config), classes=config.dataset.class_names))
                # The process that held it may have finished the run.
                result = find_result(folder, report=report)
        except (ValueError, OSError) as error:
            # A mistake in what was asked for; what fails from here on is ours.
            fault = f"{error}{fetch_hint(error, job['command'] + ' dataset.download=true')}"
        _raise_first(fault)
        result, weights = broadcast((result, weights))
        if result is None:
            if layout.world_size > 1:
                machines = "1 machine" if layout.nodes == 1 else f"{layout.nodes} machines"
                console.print(f"training on {layout.world_size} devices of {machines}", soft_wrap=True)
            try:
                run = build_run(config, sources, device, test_sets=test_sets, weights=weights)
                for line in introduce(run, config):
                    report(line)
                resume(run, _load_checkpoint(run, report), job["command"], console=console)
                with _open_loggers(run, keys_in_use(config), console) as loggers:
                    train(run, stop=stop, loggers=loggers, console=console)
                    result = finish(run, stop=stop, console=console)
                    figures = sorted((folder / "figures").glob("*.png"))
                    loggers.log_result(result, figures=figures, step=run.state.global_step)
            except (NonFiniteError, ScoringError) as error:
                raise RankError(str(error)) from None
            except (Stopped, TimeOver) as end:
                report(str(end))
                return STOPPED if isinstance(end, Stopped) else 0
            except SaveError as error:
                # This rank alone knows: as an error it ends the others.
                raise RankError(f"{error}\n{_how_to_continue(folder, when='once there is room, ')}") from None
            except SourceError as error:
                raise RankError(f"{error}\n{_how_to_continue(folder)}") from None
    show(result, folder, console)
    return 0


def _load_checkpoint(run: Run, report: Callable[[str], object]) -> dict[str, Any] | None:
    """The checkpoint that the run goes on from, read by rank 0, on every rank.

    Raises:
        RankError: there are checkpoints, and none is whole.
    """
    saved = fault = None
    if rank() == 0:
        try:
            saved = checkpoint.load(
                run.folder / "checkpoints", check=functools.partial(check_last, run), report=report
            )
        except (ValueError, OSError) as error:
            fault = str(error)
    _raise_first(fault)
    return broadcast(saved)


def _raise_first(fault: str | None) -> None:
    """Ends all ranks with the first of their faults, if one has any."""
    if faults := [fault for fault in gather(fault) if fault is not None]:
        raise RankError(faults[0])


def introduce(run: Run, config: Config) -> list[str]:
    """What is going to be trained, a line each; and a word of what is slow here."""
    training, device = run.training, run.state.totals.device
    is_cpu = device.type == "cpu"
    count = torch.get_num_threads()
    threads = f", {count} thread{'s' if count > 1 else ''}" if is_cpu else ""
    layout = ", channels last" if config.runtime.channels_last else ""
    compiled = ", compiled" if config.runtime.compile else ""
    if config.runtime.replays_graphs(device.type, world_size=world_size()):
        compiled += ", CUDA graphs"
    sizes = ", ".join(f"{len(source):,} {split}" for split, source in run.sources.items())
    parameters = sum(parameter.numel() for parameter in run.state.model.parameters())
    settings = " ".join(f"{key}={_text(value)}" for key, value in run.recipe.items())
    slow = slow_precision(training.precision, instructions()) if is_cpu else ""
    return [
        f"folder      {run.folder}",
        f"device      {device_name(device)}{threads}; {training.precision}{layout}{compiled}",
        f"data        {config.dataset.name}: {sizes}",
        f"parameters  {parameters:,} of {config.model.name}",
        f"recipe      {settings or 'all defaults'}",
        *([f"warning: {slow}"] if slow else []),
    ]


def _text(value: object) -> str:
    """A value as on a command line, in short."""
    return json.dumps(value).replace('"', "").replace(", ", ",")


def _open_loggers(run: Run, config: dict[str, Any], console: Console) -> Loggers:
    """The loggers of this session; rank 0 alone has any."""
    if rank() > 0:
        return Loggers({}, console=console)
    return open_loggers(run.loggers, run.folder, done=run.state.global_step, config=config, console=console)


def _how_to_continue(folder: Path, *, when: str = "") -> str:
    whole = checkpoint.newest_whole(folder / "checkpoints")
    if whole is None:
        return f"there is no checkpoint yet: {when}the same command starts again"
    return f"{whole} is whole: {when}the same command continues from it"
