"""The worker: `python -m moex.run` reads one job, a line of JSON, from standard input and trains it.

`moex.launch` starts it. On one device it trains itself; for several it starts a rank for each of this machine's. It
ends when its standard input closes, so that no worker outlives its parent, and the ranks end with it.
"""

import json
import os
import sys
import threading
from typing import Any

from rich.console import Console

from moex.config import parse, run_folder
from moex.distributed import RankError, StopRequest, check_batch_size, layout, node_count, run_ranks
from moex.run.build import check_network, visible_gpus
from moex.run.folder import read_result
from moex.run.result import show
from moex.run.session import train_rank


def main() -> int:
    """Trains what standard input asks for and returns the exit code."""
    stop = StopRequest()
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_the_parent, daemon=True).start()
    return run(job, stop)


def run(job: dict[str, Any], stop: StopRequest) -> int:
    """Trains one job on this machine's devices and returns the exit code.

    Args:
        job: the configuration, and the command that asked for it.
        stop: when to save and to end.
    """
    console = Console()
    try:
        config = parse(job["config"])
        folder = run_folder(config)
        result = read_result(folder)
        # Several nodes, which need no folder in common, hear of it from node 0.
        if result is not None and node_count(config.runtime) == 1:
            console.print(f"{folder} is finished: nothing is left to train", soft_wrap=True)
            show(result, folder, console)
            return 0
        processes = layout(config.runtime, visible_gpus=visible_gpus(config))
        check_batch_size(config.batch_size, world_size=processes.world_size, accumulation=config.runtime.accumulation)
        check_network(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    try:
        if processes.world_size == 1:
            return train_rank(job, processes, stop)
        if processes.nodes > 1:
            here = f"node {processes.node_rank} of {processes.nodes}"
            console.print(f"{here} meets the others at {processes.rendezvous}", soft_wrap=True, highlight=False)
        return run_ranks(train_rank, job, processes, layout=processes, stop=stop)
    except RankError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


def _exit_with_the_parent() -> None:
    # Not sys.stdin.read, which holds a lock that a forked process waits for before it does anything.
    while os.read(sys.stdin.fileno(), 1):
        pass
    # The parent is gone; what was being written aside stays aside, and the next run resumes.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
