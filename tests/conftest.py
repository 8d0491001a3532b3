"""What tests of several folders share."""

import json
import struct
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

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
    """The records of W&B's offline sessions in a run's folder, a list a session, in their order."""

    def read(folder):
        # Its own process closes the files, some time after Run.finish has returned.
        wandb.teardown()
        paths = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
        return [list(wandb_records(path.read_bytes())) for path in paths]

    return read


def wandb_records(content):
    """Parses a file in LevelDB's log format: blocks of 32 KiB, of fragments with a checksum, a length and a kind."""
    assert content[:4] == b":W&B"
    position, record = 7, b""
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        position += 7
        record += content[position : position + length]
        position += length
        if kind in (1, 4):  # A whole record, or the last fragment of one.
            yield Record.FromString(record)
            record = b""


@pytest.fixture
def wandb_history():
    """The values that the sessions logged by their name, as pairs of global step and value."""

    def history(sessions):
        values = {}
        for record in (record for session in sessions for record in session if record.HasField("history")):
            row = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                values.setdefault(name, []).append((row["global_step"], value))
        return values

    return history
