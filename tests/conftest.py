"""What tests of several folders share."""

import subprocess
import sys
from pathlib import Path

import filelock
import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def cifar100_root() -> Path:
    """The folder that holds the real CIFAR-100, restored there once per checkout."""
    restore = REPOSITORY.parent / "shared" / "data" / "restore.py"
    if not restore.exists():
        pytest.skip("the real CIFAR-100 is restored from shared/data beside the checkout, which is not there")
    root = REPOSITORY / "data"
    root.mkdir(exist_ok=True)
    with filelock.FileLock(root / ".lock"):
        subprocess.run([sys.executable, str(restore), "cifar100", str(root)], check=True, capture_output=True)
    return root
