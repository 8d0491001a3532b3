"""How a machine starts its ranks, hears of their failures, and lets them end."""

import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from moex.distributed.nodes import Layout

# Each asks a run to save and to end; SLURM warns by one of the latter two, and W&B's page stops a run by SIGINT.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# The exit code of a run that they ended.
STOPPED = 128 + signal.SIGTERM
# Seconds that the nodes wait for each other at the start.
RENDEZVOUS_PATIENCE = 300
# Seconds that a rank which failed stays, so that one that was killed, and made the others fail, is found first.
MOURNING = 2.0
# Where a node tells the others why it ended.
_FAILURE = "moex/failure"


class StopRequest(Protocol):
    """Whether a run was asked to save and to end; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether it was."""


class RankError(Exception):
    """What ended a run, in words that need no traceback of whoever reads them."""


def stop_on_signals(stop: Event | threading.Event) -> None:
    """From here on, the first of `STOP_SIGNALS` sets `stop`."""
    asked = False

    def ask(*_: object) -> None:
        # A second one may come amid the first, and setting an event within its own setting waits for ever.
        nonlocal asked
        if not asked:
            asked = True
            stop.set()

    for number in STOP_SIGNALS:
        signal.signal(number, ask)


@dataclass(frozen=True)
class _Either:
    """Set where one of two requests is."""

    first: StopRequest
    second: StopRequest

    def is_set(self) -> bool:
        return self.first.is_set() or self.second.is_set()


def run_ranks(function: Callable[..., int], *arguments: Any, layout: Layout) -> int:
    """Starts this node's ranks by torch elastic and waits for them.

    A rank that dies, or raises, ends all of them within a minute, and they end with this process. From here on,
    `STOP_SIGNALS` reach the ranks as a wish to stop.

    Args:
        function: of a module, not a closure, since the ranks import it. It is called with the arguments and a
            `StopRequest`, and returns an exit code.
        arguments: picklable.
        layout: how many ranks, on how many nodes.

    Returns:
        The largest exit code of this node's ranks.

    Raises:
        RankError: a rank died or raised; with what the first of them said.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // layout.devices)))
    # What multiprocessing starts here, and the ranks before they listen, inherit that signals wait.
    former = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    stop = multiprocessing.get_context("spawn").Event()
    stop_on_signals(stop)
    signal.pthread_sigmask(signal.SIG_SETMASK, former)
    outcome: Future[dict[int, int]] = Future()
    # What failed is told once, below, instead of by each of torch's layers.
    logging.disable(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="moex-") as folder:
        launcher = threading.Thread(
            target=_launch, args=(outcome, layout, function, arguments, stop, folder), daemon=True
        )
        launcher.start()
        while not outcome.done():
            time.sleep(0.1)
            if stop.is_set() and not multiprocessing.active_children():
                # The other nodes are still awaited, by a call that nothing interrupts.
                shutil.rmtree(folder)
                os._exit(STOPPED)
        try:
            return max(outcome.result().values())
        except ChildFailedError as error:
            raise RankError(_first_failure(error, layout, Path(folder))) from None
        except (dist.DistError, RendezvousError) as error:
            meeting = f"the {layout.nodes} nodes did not meet at {layout.rendezvous}"
            reason = str(error).splitlines()[0]
            raise RankError(f"{meeting if layout.nodes > 1 else 'the ranks did not start'}: {reason}") from None
        finally:
            logging.disable(logging.NOTSET)


def _launch(
    outcome: "Future[dict[int, int]]",
    layout: Layout,
    function: Callable[..., int],
    arguments: tuple[Any, ...],
    stop: Event,
    folder: str,
) -> None:
    """Waits for the ranks in a thread, so that signals find the main one listening."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    single = layout.nodes == 1
    config = LaunchConfig(
        min_nodes=layout.nodes,
        max_nodes=layout.nodes,
        nproc_per_node=layout.devices,
        run_id="moex",
        rdzv_backend="c10d" if single else "static",
        rdzv_endpoint="127.0.0.1:0" if single else layout.rendezvous,
        rdzv_configs={"timeout": RENDEZVOUS_PATIENCE} | ({} if single else {"rank": layout.node_rank}),
        local_addr="127.0.0.1" if single else None,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )
    try:
        outcome.set_result(elastic_launch(config, _run_rank)(function, arguments, layout, stop, folder))
    except BaseException as error:
        outcome.set_exception(error)


def _run_rank(
    function: Callable[..., int], arguments: tuple[Any, ...], layout: Layout, stop: Event, folder: str
) -> int:
    # SLURM signals every process of a job.
    told = threading.Event()
    stop_on_signals(told)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    threading.Thread(target=_exit_with_the_launcher, daemon=True).start()
    if layout.nodes > 1:
        threading.Thread(target=_exit_with_the_nodes, args=(layout, folder), daemon=True).start()
    try:
        code = function(*arguments, _Either(told, stop))
    except Exception as error:
        number = os.environ["RANK"]
        _report(
            str(error) if isinstance(error, RankError) else f"rank {number} failed\n{traceback.format_exc()}", folder
        )
        time.sleep(MOURNING)
        # Not sys.exit: a communication that waits for ranks which are gone would keep this process.
        os._exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()
    return code


def _report(text: str, folder: str) -> None:
    """Leaves what a rank that failed says, for its launcher; the earliest name is the first failure."""
    aside = Path(folder) / f"{os.getpid()}.tmp"
    aside.write_text(text)
    aside.rename(Path(folder) / f"{time.time_ns()}.failure")


def _first_failure(error: ChildFailedError, layout: Layout, folder: Path) -> str:
    which, failure = error.get_first_failure()
    said = sorted(folder.glob("*.failure"))
    text = f"rank {which} ended with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        text = f"rank {which} was ended by {signal.Signals(-failure.exitcode).name}; the same command continues"
    elif said:
        text = said[0].read_text()
    if layout.nodes > 1:
        if failure.exitcode > 0:
            # It may have failed because a rank of another node was killed, which that node then tells.
            time.sleep(MOURNING)
        # The node that is gone has told what it had to.
        with suppress(dist.DistError):
            text = str(_nodes_store(layout).compare_set(_FAILURE, "", text), "utf-8")
    return text


def _nodes_store(layout: Layout) -> Any:
    """What the nodes share, a `TCPStore`: it lies with the launcher of node 0."""
    host, _, port = layout.rendezvous.rpartition(":")
    return dist.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=30))  # type: ignore[attr-defined]


def _exit_with_the_nodes(layout: Layout, folder: str) -> None:
    """NCCL notices only after minutes that a rank of another node is gone."""
    store = _nodes_store(layout)
    with suppress(dist.DistError):
        while not store.check([_FAILURE]):
            time.sleep(MOURNING)
    _report("another node failed", folder)
    os._exit(1)


def _exit_with_the_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)
