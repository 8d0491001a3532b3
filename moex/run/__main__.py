"""The worker: `python -m moex.run` reads one job, a line of JSON, from standard input and trains it.

`moex.launch` starts it. It ends when its standard input closes, so that no worker outlives its parent.
"""

import dataclasses
import json
import os
import signal
import sys
import threading

from rich.console import Console

from moex.config import parse, run_folder
from moex.logging import create_loggers
from moex.run.build import check_network, choose_device, create_state, load_sets
from moex.run.folder import NonFiniteError, check_folder, claim, read_result, resume
from moex.run.result import finish, show
from moex.run.training import Stopped, train


def main() -> int:
    """Trains what standard input asks for and returns the exit code."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_the_parent, daemon=True).start()
    console = Console()
    try:
        config = parse(job["config"])
        folder = run_folder(config)
        check_folder(folder, config)
        result = read_result(folder)
        if result is not None:
            console.print(f"{folder} is finished: nothing is left to train", soft_wrap=True)
            show(result, folder, console)
            return 0
        device = choose_device(config)
        check_network(config)
        sets = load_sets(config, device)
        state = create_state(config, sets, device)
        lock = claim(folder, config)
        # The process that held it may have finished the run.
        result = read_result(folder)
        if result is not None:
            show(result, folder, console)
            return 0
        resume(state, folder, job["command"], console)
    except (ValueError, OSError) as error:
        # Up to here a failure is a mistake in what was asked for; from here on it would be ours.
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    try:
        with create_loggers(
            config.logger, folder, done=state.global_step, full_config=dataclasses.asdict(config), console=console
        ) as loggers:
            train(state, sets, config, folder, stop=stop, loggers=loggers, console=console)
            result = finish(state, sets, config, folder, console=console)
            loggers.finish(result, figures=sorted((folder / "figures").glob("*.png")), step=state.global_step)
    except Stopped as stopped:
        console.print(str(stopped), soft_wrap=True)
        return 128 + signal.SIGTERM
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    finally:
        lock.release()
    show(result, folder, console)
    return 0


def _exit_with_the_parent() -> None:
    sys.stdin.read()
    # The parent is gone; what was being written aside stays aside, and the next run resumes.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
