"""One run on many devices: which processes train it, how a machine starts its own, and what they tell each other.

Every process, a rank, does the same; rank 0 writes and prints. Without a process group there is one rank, and what
is shared with the others is simply kept.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from moex.config import RuntimeConfig

T = TypeVar("T")

# Each asks a run to save and to end; SLURM warns by one of the latter two, and W&B's page stops a run by SIGINT.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# The exit code of a run that they ended.
STOPPED = 128 + signal.SIGTERM
# Seconds that the nodes wait for each other at the start.
RENDEZVOUS_PATIENCE = 300
# Seconds that a rank which failed stays, so that one that was killed, and made the others fail, is found first.
MOURNING = 2.0


class StopRequest(Protocol):
    """Whether a run was asked to save and to end; a `threading.Event` is one."""

    def is_set(self) -> bool:
        """Whether it was."""


class RankError(Exception):
    """What ended a run, in words that need no traceback of whoever reads them."""


@dataclass(frozen=True)
class Layout:
    """Which processes train one run.

    Attributes:
        devices: ranks on each node, one a device.
        nodes: machines.
        node_rank: which of the nodes this is.
        rendezvous: HOST:PORT of node 0, where the nodes meet; empty for one node.
    """

    devices: int
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str = ""

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.nodes * self.devices


def layout(runtime: RuntimeConfig, *, visible_gpus: int) -> Layout:
    """The processes that a configuration asks for; what it leaves open is taken from SLURM's step, if it runs in one.

    Args:
        runtime: devices, nodes, node_rank and rendezvous.
        visible_gpus: how many GPUs this machine lends; 0 trains on the CPU.

    Raises:
        ValueError: there are not so many GPUs, a key is missing for several nodes, or srun starts several tasks a
            node.
    """
    devices = runtime.devices or max(1, visible_gpus)
    if visible_gpus and devices > visible_gpus:
        raise ValueError(f"runtime.devices is {devices}: this machine has {visible_gpus} visible GPUs")
    nodes, node_rank, rendezvous = runtime.nodes, runtime.node_rank, runtime.rendezvous
    if nodes is None and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        nodes, node_rank, rendezvous = _slurm_step()
    if nodes is None or nodes == 1:
        return Layout(devices)
    if node_rank is None or rendezvous is None:
        raise ValueError(
            f"runtime.nodes is {nodes}: each node needs its own runtime.node_rank, from 0, and the same "
            "runtime.rendezvous=HOST:PORT, where node 0 listens"
        )
    return Layout(devices, nodes, node_rank, rendezvous)


def _slurm_step() -> tuple[int, int, str]:
    """Nodes, this node's rank and the rendezvous of the step that srun started."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    job = SlurmJobEnvironment()
    tasks, nodes = (int(os.environ[f"SLURM_STEP_NUM_{what}"]) for what in ("TASKS", "NODES"))
    if tasks != nodes:
        raise ValueError(
            f"srun started {tasks} tasks on {nodes} nodes: it must be one a node (--ntasks-per-node=1), "
            "which starts a process for each of its devices"
        )
    # Jobs that share a node differ in their numbers.
    port = 20_000 + int(os.environ["SLURM_JOB_ID"]) % 40_000
    return nodes, job.node, f"{job.hostnames[0]}:{port}"


def check_batch_size(batch_size: int, *, world_size: int, accumulation: int) -> None:
    """Refuses a global batch size that the ranks and their turns cannot share evenly.

    Raises:
        ValueError: with the nearest sizes that work.
    """
    parts = world_size * accumulation
    if batch_size % parts == 0:
        return
    below = batch_size - batch_size % parts
    nearest = f"{below} or {below + parts}" if below else f"{parts}"
    devices = f"{world_size} device{'s' if world_size > 1 else ''}"
    turns = f" × {accumulation} turns (runtime.accumulation)" if accumulation > 1 else ""
    raise ValueError(
        f"batch_size is {batch_size}, the batch of all devices together: on {devices}{turns} "
        f"it must be a multiple of {parts}, such as {nearest}"
    )


def rank() -> int:
    """Which of the ranks this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """Which of this node's ranks this is, from 0: the number of its GPU among the visible ones."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def gather(mine: T) -> list[T]:
    """What each rank has, in the order of the ranks, on every rank. Any picklable object; tensors on the CPU."""
    if world_size() == 1:
        return [mine]
    everyone: list[Any] = [None] * world_size()
    dist.all_gather_object(everyone, mine)
    return everyone


def gather_turns(mine: list[T]) -> list[T]:
    """The items of all ranks, which took them in turns: rank r has the items r, r + W, r + 2W, ... of the W ranks."""
    turns = zip_longest(*gather([(item,) for item in mine]), fillvalue=())
    return list(chain.from_iterable(chain.from_iterable(turns)))


def broadcast(rank_zeros: T) -> T:
    """What rank 0 has, on every rank. Any picklable object; tensors on the CPU."""
    if world_size() == 1:
        return rank_zeros
    box: list[Any] = [rank_zeros]
    dist.broadcast_object_list(box)
    return box[0]  # type: ignore[no-any-return]


def broadcast_buffers(model: nn.Module) -> None:
    """Gives every rank the buffers of rank 0, whose running statistics are those of the run."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def share_gradients(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with the gradients averaged over the ranks in its backward pass; unchanged on one rank.

    BatchNorm stays each rank's own, and `broadcast_buffers` is left to the evaluation: running statistics do not
    take part in training.
    """
    if world_size() == 1:
        return network
    with warnings.catch_warnings():
        # torch 2.14 renames the argument, and torch 2.11 does not know the new name.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )


class Agreement:
    """What the ranks wish to do after a step, so that all do the same.

    The wishes travel while the step is computed: each rank proposes before it, and all settle on the largest one
    after it. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._largest = torch.zeros(1, dtype=torch.int64)
        self._travelling: dist.Work | None = None

    def propose(self, wish: int) -> None:
        """Sends this rank's wish on its way."""
        if world_size() > 1:
            self._largest.fill_(wish)
            self._travelling = dist.all_reduce(self._largest, op=dist.ReduceOp.MAX, async_op=True)

    def settle(self, wish: int) -> int:
        """The largest of the wishes proposed before; on one rank, `wish` itself."""
        if self._travelling is None:
            return wish
        self._travelling.wait()
        return int(self._largest)


def join(device: torch.device) -> None:
    """Makes this process one of the ranks: gloo between processors, NCCL between GPUs."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def stop_on_signals(stop: Event | threading.Event) -> None:
    """From here on, each of `STOP_SIGNALS` sets `stop`."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stop.set())


@dataclass(frozen=True)
class _Either:
    """Set where one of two requests is."""

    first: StopRequest
    second: StopRequest

    def is_set(self) -> bool:
        return self.first.is_set() or self.second.is_set()


@dataclass(frozen=True)
class _Report:
    """What a rank that failed says, and when."""

    time: float
    text: str


def run_ranks(function: Callable[..., int], *arguments: Any, layout: Layout) -> int:
    """Starts this node's ranks by torch elastic and waits for them.

    A rank that dies, or raises, ends all of them within seconds, and they end with this process. From here on,
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
    spawn = multiprocessing.get_context("spawn")
    reports: SimpleQueue[_Report] = spawn.SimpleQueue()
    stop = spawn.Event()
    stop_on_signals(stop)
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
        # torch would end the ranks at once; here they save first. It needs one to handle, and nobody sends this one.
        signals_to_handle="SIGQUIT",
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // layout.devices)))
    # What failed is told once, below, instead of by each of torch's layers.
    logging.disable(logging.ERROR)
    try:
        codes = elastic_launch(config, _run_rank)(function, arguments, stop, reports)
    except ChildFailedError as error:
        raise RankError(_first_failure(error, reports)) from None
    except dist.DistError as error:
        reason = str(error).splitlines()[0]
        raise RankError(f"the {layout.nodes} nodes did not meet at {layout.rendezvous}: {reason}") from None
    finally:
        logging.disable(logging.NOTSET)
    return max(int(code) for code in codes.values())


def _first_failure(error: ChildFailedError, reports: "SimpleQueue[_Report]") -> str:
    said = []
    while not reports.empty():
        said.append(reports.get())
    which, failure = error.get_first_failure()
    if failure.exitcode < 0:
        return f"rank {which} was ended by {signal.Signals(-failure.exitcode).name}; the same command continues"
    if said:
        return min(said, key=lambda report: report.time).text
    return f"rank {which} ended with exit code {failure.exitcode}"


def _run_rank(
    function: Callable[..., int], arguments: tuple[Any, ...], stop: Event, reports: "SimpleQueue[_Report]"
) -> int:
    threading.Thread(target=_exit_with_the_launcher, daemon=True).start()
    # SLURM signals every process of a job.
    told = threading.Event()
    stop_on_signals(told)
    try:
        code = function(*arguments, _Either(told, stop))
    except Exception as error:
        number = os.environ["RANK"]
        text = str(error) if isinstance(error, RankError) else f"rank {number} failed\n{traceback.format_exc()}"
        reports.put(_Report(time.time(), text))
        time.sleep(MOURNING)
        # Not sys.exit: a communication that waits for ranks which are gone would keep this process.
        os._exit(1)
    if dist.is_initialized():
        dist.destroy_process_group()
    return code


def _exit_with_the_launcher() -> None:
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)
