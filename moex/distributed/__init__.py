"""One run on many devices. Every process, a rank, does the same; rank 0 writes and prints."""

from moex.distributed.communication import (
    Agreement,
    broadcast,
    broadcast_buffers,
    gather,
    gather_turns,
    join,
    local_rank,
    rank,
    share_gradients,
    world_size,
)
from moex.distributed.nodes import Layout, check_batch_size, layout, node_count
from moex.distributed.ranks import STOPPED, RankError, StopRequest, run_ranks, stop_on_signals

__all__ = [
    "STOPPED",
    "Agreement",
    "Layout",
    "RankError",
    "StopRequest",
    "broadcast",
    "broadcast_buffers",
    "check_batch_size",
    "gather",
    "gather_turns",
    "join",
    "layout",
    "local_rank",
    "node_count",
    "rank",
    "run_ranks",
    "share_gradients",
    "stop_on_signals",
    "world_size",
]
