"""Checkpoints outlive kills, damage and full disks."""

import errno
import os

import pytest
import torch

from moex import checkpoint
from moex.files import SaveError, write_atomically


def state(epoch):
    return {"model": {"weight": torch.full((50,), float(epoch))}, "epoch": epoch, "history": [{"loss": 0.1}]}


def load(folder):
    reports = []
    return checkpoint.load(folder, check=lambda _: None, report=reports.append), reports


def test_what_is_saved_is_loaded(tmp_path):
    assert load(tmp_path) == (None, [])
    for epoch in (1, 2):
        checkpoint.write_last(tmp_path / "deep" / "folder", state(epoch))
    loaded, reports = load(tmp_path / "deep" / "folder")
    assert torch.equal(loaded["model"]["weight"], state(2)["model"]["weight"])
    assert loaded["history"] == [{"loss": 0.1}]
    assert reports == []
    assert not list(tmp_path.rglob("*.tmp"))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    # Amid the weights, where the unpickler does not look.
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((4,), 2.0).numpy().tobytes())] ^= 1
    path.write_bytes(content)


def replace_by_text(path):
    path.write_text("not a checkpoint")


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, replace_by_text])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_it_is_used(tmp_path, damage):
    for epoch in (1, 2):
        checkpoint.write_last(tmp_path, state(epoch))
    damage(tmp_path / "last.pt")
    loaded, reports = load(tmp_path)
    assert loaded["epoch"] == 1
    assert len(reports) == 1
    assert "last.pt is damaged" in reports[0]
    assert (tmp_path / "last.pt.damaged").exists()
    # The next save does not put the damaged file where the good one was.
    checkpoint.write_last(tmp_path, state(3))
    truncate(tmp_path / "last.pt")
    assert load(tmp_path)[0]["epoch"] == 1


def test_nothing_whole_is_an_error_that_says_what_to_do(tmp_path):
    for epoch in (1, 2):
        checkpoint.write_last(tmp_path, state(epoch))
    for name in ("last.pt", "previous.pt"):
        empty(tmp_path / name)
    for _ in range(2):  # Asked again, it does not begin from nothing either.
        with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: .*last.pt is damaged .* move"):
            load(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.pt", "previous.pt"}


@pytest.mark.parametrize("renames", [0, 1])
def test_killed_between_any_two_renames(tmp_path, renames, monkeypatch):
    """Dies at each rename of the third save; the second, or the first, is still there."""
    for epoch in (1, 2):
        checkpoint.write_last(tmp_path, state(epoch))
    done, replace = [], type(tmp_path).replace

    def dying(self, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_last(tmp_path, state(3))
    monkeypatch.undo()
    assert load(tmp_path)[0]["epoch"] == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_what_cannot_be_flushed_leaves_the_old_file(tmp_path, number, monkeypatch):
    path = tmp_path / "metrics.csv"
    write_atomically(path, lambda file: file.write(b"old"))
    for epoch in (1, 2):
        checkpoint.write_last(tmp_path, state(epoch))
        checkpoint.write_best(tmp_path, state(epoch))
        checkpoint.write_epoch(tmp_path, state(epoch), epoch=10)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full_disk)
    for name, write in {
        "metrics.csv": lambda: write_atomically(path, lambda file: file.write(b"new")),
        "last.pt": lambda: checkpoint.write_last(tmp_path, state(3)),
        "best.pt": lambda: checkpoint.write_best(tmp_path, state(3)),
        "epoch0010.pt": lambda: checkpoint.write_epoch(tmp_path, state(3), epoch=10),
    }.items():
        with pytest.raises(SaveError, match=rf"cannot write .*{name}: {os.strerror(number)}$"):
            write()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("renames", [0, 1])
def test_a_rename_that_fails_leaves_a_whole_checkpoint(tmp_path, renames, monkeypatch):
    for epoch in (1, 2):
        checkpoint.write_last(tmp_path, state(epoch))
    done, replace = [], type(tmp_path).replace

    def refused(self, target):
        if len(done) == renames:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        done.append(target)
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", refused)
    with pytest.raises(SaveError, match=r"last.pt: Read-only file system"):
        checkpoint.write_last(tmp_path, state(3))
    monkeypatch.undo()
    assert checkpoint.read(checkpoint.present(tmp_path)[0])["epoch"] == 2


def test_code_in_a_checkpoint_is_refused(tmp_path):
    torch.save({"model": print}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt"):
        checkpoint.read(tmp_path / "last.pt")
