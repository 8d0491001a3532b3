"""Which processes train one run, and on which machines."""

import os
import re
from dataclasses import dataclass


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


def slurm_tasks() -> int:
    """How many tasks of this command srun started; 1 where it did not."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def slurm_layout(devices: int) -> Layout:
    """The processes of a step that srun started with a task a node, so many devices on each.

    Raises:
        ValueError: it has several tasks a node.
    """
    tasks, nodes = slurm_tasks(), int(os.environ["SLURM_STEP_NUM_NODES"])
    if tasks != nodes:
        raise ValueError(
            f"srun started {tasks} tasks on {nodes} nodes: it must be one a node (--ntasks-per-node=1), "
            "which starts a process for each of its devices"
        )
    # SLURM writes gpu[07-09,12],big1: the first of each bracket, and then the first host.
    host = re.sub(r"\[(\d+)[^]]*\]", r"\1", os.environ["SLURM_STEP_NODELIST"]).partition(",")[0]
    # Below the ports that systems lend; jobs and steps that share a node differ in their numbers.
    port = 20_000 + (int(os.environ["SLURM_JOB_ID"]) * 7 + int(os.environ["SLURM_STEP_ID"])) % 12_000
    return Layout(devices, nodes, int(os.environ["SLURM_PROCID"]), f"{host}:{port}")
