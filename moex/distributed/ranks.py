"""How a machine starts its ranks, hears of their failures, and lets them end."""

import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, get_error_handler
from torch.distributed.elastic.rendezvous import RendezvousError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from moex.distributed.nodes import Layout
from moex.distributed.parent import as_parent, end_with_the_parent

# Each asks a run to save and to end; SLURM warns by one of the latter two, and W&B's page stops a run by SIGINT.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# The exit code of a run that they ended.
STOPPED = 128 + signal.SIGTERM
# Seconds that the nodes wait for each other at the start.
RENDEZVOUS_PATIENCE = 300
# Seconds that a rank which failed stays, so that one that was killed, and made the others fail, is found first.
GRACE = 2.0
# Where a node tells the others why it ended.
_FAILURE = "moex/failure"


class RankError(Exception):
    """What ended a run, in words that need no traceback of whoever reads them."""


class StopRequest:
    """Whether one of `STOP_SIGNALS` has asked this process to save and to end, from the creation of this on."""

    def __init__(self) -> None:
        self._received: list[int] = []
        for number in STOP_SIGNALS:
            signal.signal(number, lambda number, _: self._received.append(number))

    def is_set(self) -> bool:
        """Whether one has."""
        return bool(self._received)


def run_ranks(function: Callable[..., int], *arguments: Any, layout: Layout, stop: StopRequest) -> int:
    """Starts this node's ranks by torch elastic, passes a request to stop on to them, and waits for them.

    A rank that dies, or raises, ends all of them within a minute, and they end with this process.

    Args:
        function: of a module, not a closure, since the ranks import it. It is called with the arguments and the
            rank's own `StopRequest`, and returns an exit code.
        arguments: picklable.
        layout: how many ranks, on how many nodes.
        stop: this process's.

    Returns:
        The largest exit code of this node's ranks.

    Raises:
        RankError: a rank died or raised; with what the first of them said.
    """
    os.environ |= as_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // layout.devices)))
    # What failed is told once, below, instead of by each of torch's layers.
    logging.disable(logging.ERROR)
    # In a thread of its own torch elastic leaves the signals to us. Until a rank listens, they wait for it.
    launcher = ThreadPoolExecutor(1, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, STOP_SIGNALS))
    folder = tempfile.mkdtemp(prefix="moex-")
    alone = layout.nodes == 1
    config = LaunchConfig(
        min_nodes=layout.nodes,
        max_nodes=layout.nodes,
        nproc_per_node=layout.devices,
        run_id="moex",
        rdzv_backend="c10d" if alone else "static",
        rdzv_endpoint="127.0.0.1:0" if alone else layout.rendezvous,
        rdzv_configs={"timeout": RENDEZVOUS_PATIENCE, "rank": layout.node_rank},
        local_addr="127.0.0.1" if alone else None,
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
    )
    try:
        ended = launcher.submit(elastic_launch(config, _run_rank), layout, function, arguments)
        ranks: list[Any] = []
        while not ended.done() and not (ranks and stop.is_set()):
            time.sleep(0.1)
            ranks = ranks or multiprocessing.active_children()
            if stop.is_set() and not ranks and not ended.done():
                # The other nodes are still awaited, by a call that nothing interrupts.
                shutil.rmtree(folder)
                os._exit(STOPPED)
        # All do what one of them is asked for.
        for process in ranks if stop.is_set() else ():
            process.terminate()
        return int(max(ended.result().values()))
    except ChildFailedError as error:
        raise RankError(_first_failure(error, layout)) from None
    except (dist.DistError, RendezvousError) as error:
        meeting = f"the {layout.nodes} nodes did not meet at {layout.rendezvous}"
        reason = str(error).splitlines()[0]
        raise RankError(f"{meeting if layout.nodes > 1 else 'the ranks did not start'}: {reason}") from None
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder)


def _run_rank(layout: Layout, function: Callable[..., int], arguments: tuple[Any, ...]) -> int:
    # Of a program that did not see to it in its first line.
    end_with_the_parent()
    stop = StopRequest()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if layout.nodes > 1:
        threading.Thread(target=_exit_with_the_others, args=(layout,), daemon=True).start()
    try:
        code = function(*arguments, stop)
    except Exception as error:
        get_error_handler().record_exception(error)
        time.sleep(GRACE)
        # Not sys.exit: a communication that waits for ranks which are gone would keep this process.
        os._exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()
    return code


def _exit_with_the_others(layout: Layout) -> None:
    """Ends this rank with a rank of another node: NCCL notices that only after minutes."""
    with suppress(dist.DistError):
        store = _nodes_store(layout)
        while not store.check([_FAILURE]):
            time.sleep(GRACE)
    get_error_handler().record_exception(RankError("another node failed"))
    os._exit(1)


def _nodes_store(layout: Layout) -> Any:
    """What the nodes share, a `TCPStore`: it lies with the launcher of node 0."""
    host, _, port = layout.rendezvous.rpartition(":")
    return dist.TCPStore(host, int(port), is_master=False, timeout=timedelta(seconds=30))  # type: ignore[attr-defined]


def _first_failure(error: ChildFailedError, layout: Layout) -> str:
    """What the first rank to fail said, or what became of it; on several nodes, the first of all."""
    rank, failure = error.get_first_failure()
    said = failure.error_file_data["message"]
    if failure.exitcode < 0:
        text = f"rank {rank} was ended by {failure.signal_name()}; the same command continues"
    elif not isinstance(said, dict):
        text = f"rank {rank} ended with exit code {failure.exitcode}"
    elif said["message"].startswith(f"{RankError.__name__}: "):
        text = said["message"].partition(": ")[2]
    else:
        text = f"rank {rank} failed\n{said['extraInfo']['py_callstack']}"
    if layout.nodes > 1:
        if failure.exitcode > 0:
            # It may have failed because a rank of another node was killed, which that node then tells.
            time.sleep(GRACE)
        # The node that is gone has told what it had to.
        with suppress(dist.DistError):
            text = str(_nodes_store(layout).compare_set(_FAILURE, "", text), "utf-8")
    return text
