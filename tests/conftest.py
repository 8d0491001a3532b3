"""What tests of several folders share."""

import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest
import wandb
from program import REPOSITORY, run_here
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from moex.config.composition import offer_schemas
from moex.launch.manifests import offer_manifests

# Files that take minutes, since they start many processes.
LONGEST = (
    "test_sweep.py",
    "test_devices.py",
    "test_train.py",
    "test_streamed_runs.py",
    "test_experiments.py",
    "test_wrong_input.py",
)


def pytest_collection_modifyitems(items):
    """The longest files come first, so that no process of the tests is left with one when the others have ended."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def manifests() -> None:
    """What is composed in a test's own process finds studies and the paper's numbers, as in train.py."""
    offer_schemas()
    offer_manifests(REPOSITORY / "experiments")


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    """`train.py` with some arguments within the test's own process: its exit code, and what was printed."""
    return lambda *arguments: run_here(*arguments, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)


def restore(name: str, title: str) -> Path:
    """The folder of the checkout in which real data lie, restored there once."""
    script = REPOSITORY.parent / "shared" / "data" / "restore.py"
    if not script.exists():
        pytest.skip(f"{title} restored from shared/data beside the checkout, which is not there")
    root = REPOSITORY / "data"
    root.mkdir(exist_ok=True)
    with filelock.FileLock(root / ".lock"):
        subprocess.run([sys.executable, str(script), name, str(root)], check=True, capture_output=True)
    return root


@pytest.fixture(scope="session")
def cifar100_root() -> Path:
    """The folder that holds the real CIFAR-100."""
    return restore("cifar100", "the real CIFAR-100 is")


@pytest.fixture(scope="session")
def speech_commands_root() -> Path:
    """The folder of 2,408 real recordings of Speech Commands 0.02."""
    return restore("speech_commands", "the real recordings are") / "speech_commands_sample"


@pytest.fixture(scope="session")
def modelnet10_root() -> Path:
    """The folder of ModelNet10's real shapes, as points."""
    return restore("modelnet10", "the real shapes of ModelNet10 are") / "modelnet10_points"


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


def wandb_records(path):
    """The messages of W&B's file, for which it has no reader: LevelDB's log, in blocks of 32 KiB, after 7 bytes."""
    content, position, message = path.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (room := 32768 - position % 32768) < 7:
            position += room
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        position += 7
        message += content[position : position + length]
        position += length
        # Of one piece, or its last one.
        if kind in (1, 4):
            yield Record.FromString(message)
            message = b""


@pytest.fixture
def read_wandb_run():
    """What W&B's offline session says of a run before its first row."""

    def read(path):
        return next(record.run for record in wandb_records(path) if record.HasField("run"))

    return read


@pytest.fixture
def read_wandb():
    """The different numbers that W&B's offline sessions in a run's folder hold under a name, in their order."""

    def read(folder, name):
        # Its own process closes the files, some time after Run.finish has returned.
        wandb.teardown()
        numbers = []
        for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
            records = list(wandb_records(path))
            deadline = time.monotonic() + 60
            while not any(record.HasField("exit") for record in records):
                assert time.monotonic() < deadline, f"{path} does not end"
                time.sleep(0.1)
                records = list(wandb_records(path))
            for record in records:
                for item in (*record.history.item, *record.summary.update):
                    if name in (item.key, "/".join(item.nested_key)):
                        numbers.append(json.loads(item.value_json))
        return list(dict.fromkeys(numbers))

    return read
