"""Processes that work ahead of a loop: torch's DataLoader, which they neither outlive nor end without a word."""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from moex.data.source import SourceError

Item = TypeVar("Item")
Result = TypeVar("Result")

# What a terminal, a scheduler or a person sends to a whole group of processes, and the run alone answers.
OTHERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Seconds after which a worker notices that its run is gone.
PATIENCE = 1.0
# Why the system may have ended a worker.
CAUSES = {
    signal.SIGKILL: "as the system does where memory runs out",
    signal.SIGBUS: "as the system does where shared memory, /dev/shm, is full",
}


def count_workers() -> int:
    """One for each core that this process may use, of which the ranks of this machine have equal shares."""
    # Where torch elastic starts the ranks, it says how many.
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def work_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Generator[Result, None, None]:
    """What a function makes of items, in their order, by processes that live as long as the generator.

    Args:
        function: as it is when the processes are forked.
        items: read as far ahead as is worked.
        workers: how many processes; with 0, this process works when a result is asked for.
        ahead: items that each of them has before it: as a result comes, so many of each are begun at most.

    Raises:
        SourceError: a worker died.
    """
    if workers == 0:
        yield from map(function, items)
        return
    others = set(multiprocessing.active_children())
    with _left_alone():
        results = iter(
            DataLoader(
                _Results(function),
                batch_size=None,
                sampler=items,
                num_workers=workers,
                prefetch_factor=ahead,
                collate_fn=_as_it_is,
                worker_init_fn=_end_with_the_run,
                # From which the workers' seeds are drawn: not from the loop's own.
                generator=torch.Generator(),
                multiprocessing_context="fork",
            )
        )
    processes = set(multiprocessing.active_children()) - others
    try:
        while (result := _next_result(results, processes)) is not _END:
            yield result
    finally:
        # Their end, unless an error refers to what DataLoader was doing.
        del results
        for process in processes:
            process.terminate()
            process.join()


class _Results(Dataset[Any]):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def __getitem__(self, item: Any) -> Any:
        return self._function(item)


_END: Any = object()


def _as_it_is(result: Any) -> Any:
    return result


def _next_result(results: Iterator[Any], processes: Iterable[BaseProcess]) -> Any:
    """The next result, or `_END`.

    Raises:
        SourceError: a worker died.
    """
    try:
        return next(results, _END)
    except Exception:
        death = _first_death(processes)
        if death is None:
            raise
    # Outside of the handler: what DataLoader raised, in words of its own, refers to the workers.
    raise SourceError(death)


def _first_death(processes: Iterable[BaseProcess]) -> str | None:
    """What became of a process that has ended by itself, or is about to; None if none has."""
    connection.wait([process.sentinel for process in processes], timeout=PATIENCE)
    for process in processes:
        code = process.exitcode
        if code is not None and code < 0:
            number = signal.Signals(-code)
            cause = f", {CAUSES[number]}" if number in CAUSES else ""
            return f"a worker that decodes images was ended by {number.name}{cause}"
        if code:
            return f"a worker that decodes images ended with exit code {code}"
    return None


@contextmanager
def _left_alone() -> Iterator[None]:
    """Signals stay this process's: the children that it starts inside get none, and leave it its handlers."""
    former = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, OTHERS)
    try:
        with warnings.catch_warnings():
            # How many there are is decided elsewhere, and a child does not use its parent's threads.
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if threading.current_thread() is threading.main_thread():
            # DataLoader's would raise wherever the run stands when a worker dies.
            signal.signal(signal.SIGCHLD, former)


def _end_with_the_run(_: int) -> None:
    """In a worker: from here on it ends with its parent, or when that says so, and at nobody else's word."""
    threading.Thread(target=_watch_the_run, daemon=True).start()


def _watch_the_run() -> None:
    run = multiprocessing.parent_process()
    assert run is not None
    while os.getppid() == run.pid:
        received = signal.sigtimedwait(OTHERS, PATIENCE)
        if received is not None and received.si_signo == signal.SIGTERM and received.si_pid == run.pid:
            break
    os._exit(0)
