"""A short run on digits, for the tests of this folder."""

import functools
import threading

import pytest
import torch
from rich.console import Console

from moex import checkpoint
from moex.config import parse
from moex.loggers import Loggers
from moex.run.build import build_run, load_sources, load_test_sets
from moex.run.folder import resume
from moex.run.soundness import check_last
from moex.run.training import train

CPU = torch.device("cpu")


@pytest.fixture
def build():
    """A short run on digits, before its first step."""

    def build_short(output_root, **values):
        short = {"output_root": str(output_root), "limit_train": 128, "limit_test": 50, "epochs": 2}
        config = parse(short | values)
        return build_run(config, load_sources(config, CPU), CPU, test_sets=load_test_sets(config, CPU))

    return build_short


@pytest.fixture
def reopen():
    """Puts a run where the last checkpoint in its folder left it, if there is one."""

    def reopen_run(run, console=None):
        console = console or Console(quiet=True)
        check = functools.partial(check_last, run)
        saved = checkpoint.load(run.folder / "checkpoints", check=check, report=console.print)
        resume(run, saved, "python train.py", console=console)
        return run

    return reopen_run


@pytest.fixture
def go_on():
    """Trains a run to its end, or for one step."""

    def train_quietly(run, *, stop=False):
        event = threading.Event()
        if stop:
            event.set()
        console = Console(quiet=True)
        train(run, stop=event, loggers=Loggers({}, console=console), console=console)

    return train_quietly
