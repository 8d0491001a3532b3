"""What signals mean to a command: let what runs save, and end. A process that waits for workers passes them on."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from moex.distributed.ranks import STOP_SIGNALS


class Stopped(KeyboardInterrupt):
    """A signal asked this process to end; the only argument is its number."""


def raise_on_signals() -> None:
    """From here on, a signal raises `Stopped`, unless it is passed on."""

    def stop(number: int, _: object) -> None:
        raise Stopped(number)

    for number in STOP_SIGNALS:
        signal.signal(number, stop)


@contextmanager
def passing_on(*, may_kill: bool = True) -> Iterator[list[int]]:
    """Passes signals on to this process's workers, as SIGTERM, where they would raise here.

    Args:
        may_kill: whether the second of SIGINT and SIGTERM kills them and theirs. A scheduler may send several, and
            warns by the other signals.

    Yields:
        The signals that have come, in their order.
    """
    received: list[int] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        kill = may_kill and sum(past in (signal.SIGINT, signal.SIGTERM) for past in received) > 1
        for process in psutil.Process().children(recursive=kill):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)

    former = {number: signal.signal(number, pass_on) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
