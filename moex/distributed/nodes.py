"""Which processes train one run, on which machines, and whether they can share a batch."""

import os
import re
from dataclasses import dataclass

from moex.settings import require


@dataclass
class DevicesConfig:
    """Which machines train a run: `devices` processes, one a device, on each of `nodes`."""

    device: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    node_rank: int | None = None
    rendezvous: str | None = None

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        choices = ("auto", "cpu", "cuda")
        require(self.device in choices, f"{key}.device", self.device, f"one of {', '.join(choices)}")
        for name, count in (("devices", self.devices), ("nodes", self.nodes)):
            require(count is None or count >= 1, f"{key}.{name}", count, "1 or more")
        last = (self.nodes or 1) - 1
        is_node = self.node_rank is None or 0 <= self.node_rank <= last
        allowed = f"from 0 to {last}, since {key}.nodes is {self.nodes}"
        require(is_node, f"{key}.node_rank", self.node_rank, allowed)
        address = re.fullmatch(r".+:(\d{1,5})", self.rendezvous or "HOST:1")
        is_address = address is not None and 0 < int(address[1]) < 2**16
        require(is_address, f"{key}.rendezvous", self.rendezvous, "HOST:PORT, where node 0 listens")


@dataclass(frozen=True)
class Layout:
    """Which processes train one run."""

    devices: int  # ranks on each node, one a device
    nodes: int = 1  # machines
    node_rank: int = 0  # which of the nodes this is
    rendezvous: str = ""  # HOST:PORT of node 0, where the nodes meet; empty for one node

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.nodes * self.devices


def layout(runtime: DevicesConfig, *, visible_gpus: int) -> Layout:
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
    nodes = node_count(runtime)
    if nodes == 1:
        return Layout(devices)
    if runtime.nodes is None:
        return Layout(devices, nodes, *_slurm_step(nodes))
    if runtime.node_rank is None or runtime.rendezvous is None:
        raise ValueError(
            f"runtime.nodes is {nodes}: each node needs its own runtime.node_rank, from 0, and the same "
            "runtime.rendezvous=HOST:PORT, where node 0 listens"
        )
    return Layout(devices, nodes, runtime.node_rank, runtime.rendezvous)


def node_count(runtime: DevicesConfig) -> int:
    """How many machines train the run: as configured, or as many as srun started tasks of this command."""
    return runtime.nodes or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def _slurm_step(tasks: int) -> tuple[int, str]:
    """This node's rank and the rendezvous of the step that srun started."""
    nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
    if tasks != nodes:
        raise ValueError(
            f"srun started {tasks} tasks on {nodes} nodes: it must be one a node (--ntasks-per-node=1), "
            "which starts a process for each of its devices"
        )
    # SLURM writes gpu[07-09,12],big1: the first of each bracket, and then the first host.
    host = re.sub(r"\[(\d+)[^]]*\]", r"\1", os.environ["SLURM_STEP_NODELIST"]).partition(",")[0]
    # Below the ports that systems lend; jobs and steps that share a node differ in their numbers.
    port = 20_000 + (int(os.environ["SLURM_JOB_ID"]) * 7 + int(os.environ["SLURM_STEP_ID"])) % 12_000
    return int(os.environ["SLURM_PROCID"]), f"{host}:{port}"


def check_batch_size(batch_size: int, *, world_size: int, accumulation: int) -> None:
    """Refuses a global batch size that the ranks and their turns cannot share evenly.

    Raises:
        ValueError: with the nearest sizes that work.
    """
    parts = world_size * accumulation
    below = batch_size - batch_size % parts
    if below != batch_size:
        turns = f" × {accumulation} turns (runtime.accumulation)" if accumulation > 1 else ""
        raise ValueError(
            f"batch_size is {batch_size}, the batch of all devices together: on {world_size} "
            f"device{'s' if world_size > 1 else ''}{turns} it must be a multiple of {parts}, "
            f"such as {f'{below} or ' if below else ''}{below + parts}"
        )
