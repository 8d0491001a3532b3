"""One run on many devices. Every process, a rank, does the same; rank 0 writes and prints."""

from moex.distributed.communication import Agreement as Agreement
from moex.distributed.communication import broadcast as broadcast
from moex.distributed.communication import broadcast_buffers as broadcast_buffers
from moex.distributed.communication import gather as gather
from moex.distributed.communication import gather_turns as gather_turns
from moex.distributed.communication import join as join
from moex.distributed.communication import local_rank as local_rank
from moex.distributed.communication import rank as rank
from moex.distributed.communication import share_gradients as share_gradients
from moex.distributed.communication import world_size as world_size
from moex.distributed.nodes import DevicesConfig as DevicesConfig
from moex.distributed.nodes import Layout as Layout
from moex.distributed.nodes import check_batch_size as check_batch_size
from moex.distributed.nodes import layout as layout
from moex.distributed.nodes import node_count as node_count
from moex.distributed.ranks import STOPPED as STOPPED
from moex.distributed.ranks import RankError as RankError
from moex.distributed.ranks import StopRequest as StopRequest
from moex.distributed.ranks import run_ranks as run_ranks
