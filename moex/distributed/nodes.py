"""Which processes train one run, on which machines, and whether they can share a batch."""

import os
from dataclasses import dataclass

from moex.config import RuntimeConfig


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
    nodes, node_rank, rendezvous = node_count(runtime), runtime.node_rank, runtime.rendezvous
    if nodes == 1:
        return Layout(devices)
    if runtime.nodes is None:
        node_rank, rendezvous = _slurm_step(nodes)
    if node_rank is None or rendezvous is None:
        raise ValueError(
            f"runtime.nodes is {nodes}: each node needs its own runtime.node_rank, from 0, and the same "
            "runtime.rendezvous=HOST:PORT, where node 0 listens"
        )
    return Layout(devices, nodes, node_rank, rendezvous)


def node_count(runtime: RuntimeConfig) -> int:
    """How many machines train the run: as configured, or as many as srun started tasks of this command."""
    return runtime.nodes or int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def _slurm_step(tasks: int) -> tuple[int, str]:
    """This node's rank and the rendezvous of the step that srun started."""
    from submitit.slurm.slurm import SlurmJobEnvironment

    class Step(SlurmJobEnvironment):
        """The nodes of the step, which may be fewer than the job's."""

        _env = SlurmJobEnvironment._env | {"nodes": "SLURM_STEP_NODELIST"}

    nodes = int(os.environ["SLURM_STEP_NUM_NODES"])
    if tasks != nodes:
        raise ValueError(
            f"srun started {tasks} tasks on {nodes} nodes: it must be one a node (--ntasks-per-node=1), "
            "which starts a process for each of its devices"
        )
    # Below the ports that systems lend; jobs and steps that share a node differ in their numbers.
    port = 20_000 + (int(os.environ["SLURM_JOB_ID"]) * 7 + int(os.environ["SLURM_STEP_ID"])) % 12_000
    return Step().global_rank, f"{Step().hostnames[0]}:{port}"


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
