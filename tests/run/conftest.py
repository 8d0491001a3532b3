"""A short run on digits, for the tests of this folder."""

import pytest
import torch

from moex import checkpoint
from moex.config import parse, run_folder
from moex.run.build import create_state, load_sets
from moex.run.folder import resume

CPU = torch.device("cpu")


@pytest.fixture
def build():
    """Configuration, folder, sets and state of a short run on digits, before its first step."""

    def build_run(output_root, **values):
        short = {"output_root": str(output_root), "limit_train": 128, "limit_test": 50, "epochs": 2}
        config = parse(short | values)
        sets = load_sets(config, CPU)
        return config, run_folder(config), sets, create_state(config, sets, CPU)

    return build_run


@pytest.fixture
def reopen():
    """Puts a state where the last checkpoint in a folder left it, if there is one."""

    def reopen_run(state, folder, console):
        saved = checkpoint.load(folder / "checkpoints", report=console.print)
        resume(state, saved, "python train.py", folder=folder, console=console)

    return reopen_run
