"""A run's folder belongs to one recipe and to one process, and never holds what is not finite."""

import subprocess
import sys
import threading

import pytest
import torch
from rich.console import Console

from moex import checkpoint
from moex.config import parse
from moex.run.folder import NonFiniteError, check_folder, claim, read_result, resume, save
from moex.run.training import Stopped, train

CPU = torch.device("cpu")


def test_a_folder_of_another_recipe_is_refused(build, tmp_path):
    config, folder, _, _ = build(tmp_path)
    check_folder(folder, config)
    claim(folder, config).release()
    check_folder(folder, config)
    other = parse({"epochs": 9, "augmentation": {"steps": ["moex"]}, "limit_train": 128, "limit_test": 50})
    with pytest.raises(ValueError, match=r"holds another recipe \(different: augmentation.steps, epochs\)"):
        check_folder(folder, other)


@pytest.mark.parametrize("text", ["epochs: many", "a_key_of_tomorrow: 1"])
def test_a_configuration_that_is_not_ours_is_refused(build, tmp_path, text):
    config, folder, _, _ = build(tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"is not a configuration of this version"):
        check_folder(folder, config)
    assert (folder / "config.yaml").read_text() == text


def test_files_of_somebody_else_are_left_alone(build, tmp_path):
    config, folder, _, _ = build(tmp_path)
    folder.mkdir(parents=True)
    (folder / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"holds files and no config.yaml"):
        check_folder(folder, config)


def test_killed_while_it_claimed_its_folder(build, tmp_path):
    config, folder, _, _ = build(tmp_path)
    folder.mkdir(parents=True)
    for name in (".lock", "config.yaml.tmp"):
        (folder / name).touch()
    check_folder(folder, config)
    claim(folder, config).release()
    assert (folder / "config.yaml").stat().st_size > 0


def test_one_process_at_a_time(build, tmp_path, monkeypatch):
    config, folder, _, _ = build(tmp_path)
    folder.mkdir(parents=True)
    hold = f"""
import filelock, sys
lock = filelock.FileLock({str(folder / ".lock")!r})
lock.acquire()
print(flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        monkeypatch.setattr("moex.run.folder.PATIENCE", 0.1)
        with pytest.raises(ValueError, match=r"another process trains in"):
            claim(folder, config)
        holder.stdin.close()
    claim(folder, config).release()


def test_fp16_goes_on_with_the_scale_that_overflows_have_left(build, tmp_path):
    def start(name):
        config, folder, sets, state = build(tmp_path / name, epochs=1, batch_size=32, runtime={"precision": "fp16"})
        state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**24})
        return config, folder, sets, state

    def go_on(config, folder, sets, state, *, stop):
        train(state, sets, config, folder, stop=stop, console=Console(quiet=True))

    *run, unbroken = start("unbroken")
    go_on(*run, unbroken, stop=threading.Event())
    stop = threading.Event()
    stop.set()
    *run, broken = start("broken")
    with pytest.raises(Stopped):
        go_on(*run, broken, stop=stop)
    assert broken.scaler.get_scale() == 2.0**23, "the first step overflows"
    *run, resumed = start("broken")
    resume(resumed, run[1], "python train.py", Console(quiet=True))
    assert resumed.scaler.get_scale() == 2.0**23
    go_on(*run, resumed, stop=threading.Event())
    assert resumed.scaler.state_dict() == unbroken.scaler.state_dict()
    for ours, theirs in zip(resumed.model.parameters(), unbroken.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_stopped_and_resumed_it_ends_in_the_same_bits(build, tmp_path, ema_decay):
    values = {"augmentation": {"steps": ["moex"]}, "optimizer": {"ema_decay": ema_decay}}
    config, folder, sets, state = build(tmp_path / "unbroken", **values)
    console = Console(quiet=True)
    train(state, sets, config, folder, stop=threading.Event(), console=console)

    stop = threading.Event()
    stop.set()
    for _ in range(2 * state.steps_per_epoch):  # Stopped after each single step.
        config, folder, sets, broken = build(tmp_path / "broken", **values)
        resume(broken, folder, "python train.py", console)
        with pytest.raises(Stopped, match="saved"):
            train(broken, sets, config, folder, stop=stop, console=console)
    config, folder, sets, broken = build(tmp_path / "broken", **values)
    resume(broken, folder, "python train.py", console)
    train(broken, sets, config, folder, stop=threading.Event(), console=console)
    for ours, theirs in ((broken.model, state.model), (broken.evaluated, state.evaluated)):
        for value, same in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert torch.equal(value, same)
    timing = {"seconds", "images_per_second"}
    for ours, theirs in zip(broken.history, state.history, strict=True):
        assert {key: ours[key] for key in ours.keys() - timing} == {
            key: theirs[key] for key in theirs.keys() - timing
        }
    assert read_result(folder) is None


def test_every_other_epoch_is_kept(build, tmp_path, monkeypatch):
    """Whole, also if the run is killed between keeping an epoch and saving it as the last."""
    values = {"epochs": 5, "checkpoint": {"keep_every_epochs": 2, "every_steps": 1}, "limit_train": 64}
    config, folder, sets, state = build(tmp_path, **values)
    save_last, console = checkpoint.save, Console(quiet=True)

    def killed(folder, content):
        if (content["epoch"], content["step"]) == (2, 0):
            raise KeyboardInterrupt
        save_last(folder, content)

    monkeypatch.setattr(checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(state, sets, config, folder, stop=threading.Event(), console=console)
    monkeypatch.undo()
    assert checkpoint.read(folder / "checkpoints" / "last.pt")["epoch"] == 1
    config, folder, sets, state = build(tmp_path, **values)
    resume(state, folder, "python train.py", console)
    train(state, sets, config, folder, stop=threading.Event(), console=console)
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"last.pt", "previous.pt", "best.pt", "epoch0002.pt", "epoch0004.pt"}
    for epoch in (2, 4):
        kept = checkpoint.read(folder / "checkpoints" / f"epoch{epoch:04}.pt")
        assert (kept["epoch"], kept["step"], len(kept["history"])) == (epoch, 0, epoch)


def test_what_is_not_finite_is_not_saved(build, tmp_path):
    config, folder, _, state = build(tmp_path)
    state.epoch, state.step = 1, 1
    with torch.no_grad():
        state.model.fc.weight[0, 0] = float("inf")
    with pytest.raises(
        NonFiniteError, match=r"a weight is not finite at epoch 2, step 1 \(learning rate 0.01\).*none"
    ):
        save(state, folder, config)
    assert not folder.exists()


def test_a_loss_that_is_not_finite_ends_the_run(build, tmp_path):
    config, folder, sets, state = build(tmp_path, optimizer={"lr": 1e20}, logger={"every_steps": 1})
    with pytest.raises(NonFiniteError, match=r"not finite at epoch 1, step \d \(learning rate 1e\+20\)"):
        train(state, sets, config, folder, stop=threading.Event(), console=Console(quiet=True))
