"""What the ranks of a run tell each other. Without a process group there is one, which keeps what it would share."""

import warnings
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


def rank() -> int:
    """Which of the ranks this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


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
    # Compiled networks have gradients of other strides, which costs a copy.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
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
    """What the ranks do after a step, so that all do the same.

    Proposals travel while the step is computed: each rank proposes an action before it, and all take the largest
    after it. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self._largest = torch.zeros(1, dtype=torch.int64)
        self._travelling: dist.Work | None = None

    def propose(self, action: int) -> None:
        """Sends this rank's proposal on its way."""
        if world_size() > 1:
            self._largest.fill_(action)
            self._travelling = dist.all_reduce(self._largest, op=dist.ReduceOp.MAX, async_op=True)

    def settle(self, action: int) -> int:
        """The largest of the actions proposed before; on one rank, `action` itself."""
        if self._travelling is None:
            return action
        self._travelling.wait()
        return int(self._largest)


def join(device: torch.device) -> None:
    """Makes this process one of the ranks: gloo between processors, NCCL between GPUs."""
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
