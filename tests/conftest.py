"""What tests of several folders share."""

import re
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import wandb
from composition import CONFIGS
from program import REPOSITORY, run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from moex.reporting.manifests import store_manifests

# Files that take minutes, since they start many processes.
LONGEST = ("test_sweep.py", "test_devices.py", "test_train.py", "test_streamed_runs.py", "test_experiments.py")


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no process of the tests is left with one when the others have ended."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def manifests() -> None:
    """What is composed in a test's own process finds studies and the paper's numbers, as in train.py."""
    store_manifests(REPOSITORY / "experiments", CONFIGS)


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """`train.py` with some arguments within the test's own process: its exit code, and what was printed."""
    return lambda *arguments: run_here(*arguments, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)


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


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Real photographs of ImageNet, JPEG files as they were published."""
    folder = REPOSITORY.parent / "shared" / "data" / "imagenet"
    if not folder.exists():
        pytest.skip("ImageNet's photographs lie in shared/data beside the checkout, which is not there")
    return sorted(folder.rglob("*.JPEG"))


@pytest.fixture
def no_wandb_key(monkeypatch):
    """W&B finds no key on this machine, and nothing that says which mode to take."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/dev/null")
    yield
    # Its own process would otherwise serve the runs that later tests start.
    wandb.teardown()


@pytest.fixture
def read_tensorboard():
    """What TensorBoard reads in a run's folder: scalars, images and hyper-parameters of all its sessions."""

    def read(folder):
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        return events

    return read


@pytest.fixture
def read_wandb():
    """The different numbers that W&B's offline sessions in a run's folder hold under a name, in their order.

    W&B has no reader for these files. Numbers are text in them, after their name; 7 bytes at the beginning of each
    block of 32 KiB stand between what belongs together.
    """

    def read(folder, name):
        # Its own process closes the files, some time after Run.finish has returned.
        wandb.teardown()
        content = b""
        for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
            whole = path.read_bytes()
            content += b"".join(whole[start + 7 : start + 32768] for start in range(0, len(whole), 32768))
        pattern = re.escape(name.encode()) + rb"[^\w.-]{2,4}(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
        # A row is there twice: in the history, and as the latest values.
        return list(dict.fromkeys(float(value) for value in re.findall(pattern, content)))

    return read
