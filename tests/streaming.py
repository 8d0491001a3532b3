"""`python streaming.py` streams pictures with two workers, slowly; `test_stream.py` sends it and them signals.

A program, since a test cannot kill its own process.
"""

import multiprocessing
import signal
import sys
import time

import torch
from pictures import Files, drawn, requests_of, source_of


class SlowFiles(Files):
    def read(self, index):
        time.sleep(0.01)
        return super().read(index)


received = []


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: received.append(number))
    source = source_of(SlowFiles(drawn(8)), workers=2)
    return source.batches(requests_of([torch.arange(40) % 8] * 10_000))


if __name__ == "__main__":
    batches = main()
    next(batches)
    print(flush=True)
    for _ in sys.stdin:
        next(batches)
        print(*map(int, received), flush=True)
    # What multiprocessing does at the end of a process that has not closed its source.
    for worker in multiprocessing.active_children():
        worker.terminate()
    while multiprocessing.active_children():
        time.sleep(0.01)
    batches.close()
