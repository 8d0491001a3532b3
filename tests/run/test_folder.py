"""A run's folder belongs to one process, continues to the bit, and never holds what is not finite."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
import torch
from omegaconf import OmegaConf

from moex import checkpoint
from moex.config import parse
from moex.engine import State
from moex.reporting.finished import read_result
from moex.run.folder import NonFiniteError, claim, commit, save
from moex.run.training import Stopped


def test_a_folder_is_claimed_for_a_block_and_no_longer(build, tmp_path):
    run = build(tmp_path)
    lock = filelock.FileLock(run.folder / ".lock")
    with claim(run.folder, run.config):
        stored = OmegaConf.to_container(OmegaConf.load(run.folder / "config.yaml"))
        assert dataclasses.asdict(parse(stored)) == run.config
        with pytest.raises(filelock.Timeout):
            lock.acquire(timeout=0)
    with lock.acquire(timeout=0):
        pass


def test_one_process_at_a_time(build, tmp_path, monkeypatch):
    run = build(tmp_path)
    run.folder.mkdir(parents=True)
    hold = f"""
import filelock, sys
lock = filelock.FileLock({str(run.folder / ".lock")!r})
lock.acquire()
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        monkeypatch.setattr("moex.run.folder.PATIENCE", 0.1)
        with pytest.raises(ValueError, match=r"another process trains in"), claim(run.folder, run.config):
            pass
        holder.stdin.close()
    with claim(run.folder, run.config):
        pass


def same(ours, theirs):
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs


def test_the_state_is_restored_whole(build, tmp_path):
    """Every field of it, but for what is built of the configuration; a new field has to be either."""
    built = {"network", "first_bad_step", "steps_per_epoch"}
    first, second = (build(tmp_path, optimizer={"ema_decay": 0.5}).state for _ in range(2))
    for tensor in [*first.model.state_dict().values(), *first.average.state_dict().values()]:
        tensor.add_(1)
    for group in first.optimizer.param_groups:
        group["lr"] = 0.77
    first.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    second.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    first.totals += 3
    first.epoch, first.step, first.history, first.best = 4, 5, [{"epoch": 4.0}], {"epoch": 2.0}
    first.epoch_seconds, first.seconds = 6.0, 7.0
    checkpoint.write_last(tmp_path, first.state_dict())
    second.load_state_dict(checkpoint.read(tmp_path / "last.pt"))
    restored = {item.name for item in dataclasses.fields(State)} - built
    assert set(first.state_dict()) == restored
    for name in restored:
        ours, theirs = (getattr(state, name) for state in (first, second))
        if hasattr(ours, "state_dict"):
            ours, theirs = ours.state_dict(), theirs.state_dict()
        assert same(ours, theirs), name


def test_fp16_goes_on_with_the_scale_that_overflows_have_left(build, reopen, go_on, tmp_path):
    def start(name):
        run = build(tmp_path / name, epochs=1, batch_size=32, runtime={"precision": "fp16"})
        run.state.scaler.load_state_dict(run.state.scaler.state_dict() | {"scale": 2.0**24})
        return run

    unbroken = start("unbroken")
    go_on(unbroken)
    broken = reopen(start("broken"))
    with pytest.raises(Stopped):
        go_on(broken, stop=True)
    assert broken.state.scaler.get_scale() == 2.0**23, "the first step overflows"
    resumed = reopen(start("broken"))
    assert resumed.state.scaler.get_scale() == 2.0**23
    go_on(resumed)
    assert resumed.state.scaler.state_dict() == unbroken.state.scaler.state_dict()
    for ours, theirs in zip(resumed.state.model.parameters(), unbroken.state.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("values", [{}, {"optimizer": {"ema_decay": 0.9}}, {"dataset": {"validation": 0.2}}], ids=str)
def test_stopped_and_resumed_it_ends_in_the_same_bits(build, reopen, go_on, tmp_path, values):
    values = values | {"augmentation": {"steps": ["moex"]}}
    unbroken = build(tmp_path / "unbroken", **values)
    go_on(unbroken)
    for _ in range(2 * unbroken.state.steps_per_epoch):  # Stopped after each single step.
        with pytest.raises(Stopped, match="saved"):
            go_on(reopen(build(tmp_path / "broken", **values)), stop=True)
    broken = reopen(build(tmp_path / "broken", **values))
    go_on(broken)
    ours, theirs = broken.state, unbroken.state
    for one, other in ((ours.model, theirs.model), (ours.evaluated, theirs.evaluated)):
        for value, same in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            assert torch.equal(value, same)
    timing = {"seconds", "images_per_second", "waiting_share"}
    for row, same in zip(ours.history, theirs.history, strict=True):
        assert {key: row[key] for key in row.keys() - timing} == {key: same[key] for key in same.keys() - timing}
    assert read_result(broken.folder) is None


def test_every_other_epoch_is_kept(build, reopen, go_on, tmp_path, monkeypatch):
    """Whole, also if the run is killed between keeping an epoch and saving it as the last."""
    values = {"epochs": 5, "checkpoint": {"keep_every_epochs": 2, "every_steps": 1}, "limit_train": 64}
    write_last = checkpoint.write_last

    def killed(folder, content):
        if (content["epoch"], content["step"]) == (2, 0):
            raise KeyboardInterrupt
        write_last(folder, content)

    monkeypatch.setattr(checkpoint, "write_last", killed)
    run = reopen(build(tmp_path, **values))
    with pytest.raises(KeyboardInterrupt):
        go_on(run)
    monkeypatch.undo()
    folder = run.folder / "checkpoints"
    assert checkpoint.read(folder / "last.pt")["epoch"] == 1
    go_on(reopen(build(tmp_path, **values)))
    names = {path.name for path in folder.iterdir()}
    assert names == {"last.pt", "previous.pt", "best.pt", "epoch0002.pt", "epoch0004.pt"}
    for epoch in (2, 4):
        kept = checkpoint.read(folder / f"epoch{epoch:04}.pt")
        assert (kept["epoch"], kept["step"], len(kept["history"])) == (epoch, 0, epoch)


def test_what_is_not_finite_is_not_saved(build, tmp_path):
    run = build(tmp_path)
    run.state.epoch, run.state.step = 1, 1
    with torch.no_grad():
        run.state.model.fc.weight[0, 0] = float("inf")
    with pytest.raises(
        NonFiniteError, match=r"a weight is not finite at epoch 2, step 1 \(learning rate 0.1\).*none"
    ):
        save(run)
    assert not run.folder.exists()


def test_a_loss_that_is_not_finite_ends_the_run(build, go_on, tmp_path):
    run = build(tmp_path, optimizer={"lr": 1e20}, logger={"every_steps": 1})
    with pytest.raises(NonFiniteError, match=r"not finite at epoch 1, step \d \(learning rate 1e\+20\)"):
        go_on(run)


def test_the_commit_is_that_of_a_repository_that_tracks_the_package(tmp_path, monkeypatch):
    """Not that of a project in whose environment it is installed."""

    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        answer = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return answer.stdout.strip()

    package = tmp_path / "venv" / "site-packages" / "moex" / "run"
    package.mkdir(parents=True)
    copied = Path(shutil.copy(sys.modules[commit.__module__].__file__, package))
    (tmp_path / "theirs.py").touch()
    git("init", "--quiet")
    git("add", "theirs.py")
    git("commit", "--quiet", "--message", "theirs")
    monkeypatch.setattr("moex.run.folder.__file__", str(copied))
    assert commit() == {"commit": None, "dirty": None}
    git("add", str(copied))
    git("commit", "--quiet", "--message", "vendored")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.md").touch()
    assert commit() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (tmp_path / "theirs.py").write_text("changed")
    assert commit()["dirty"]
