"""A run's folder belongs to one recipe and to one process, and never holds what is not finite."""

import subprocess
import sys
import threading

import pytest
import torch
from rich.console import Console

from moex.config import parse
from moex.logging import Loggers
from moex.run.folder import NonFiniteError, check_folder, claim, read_result, resume, save
from moex.run.training import Stopped, train

CPU = torch.device("cpu")
NO_LOGGERS = Loggers({}, console=Console(quiet=True))


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


def test_stopped_and_resumed_it_ends_in_the_same_bits(build, tmp_path):
    config, folder, sets, state = build(tmp_path / "unbroken", augmentation={"steps": ["moex"]})
    console = Console(quiet=True)
    train(state, sets, config, folder, stop=threading.Event(), loggers=NO_LOGGERS, console=console)

    stop = threading.Event()
    stop.set()
    for _ in range(2 * state.steps_per_epoch):  # Stopped after each single step.
        config, folder, sets, broken = build(tmp_path / "broken", augmentation={"steps": ["moex"]})
        resume(broken, folder, "python train.py", console)
        with pytest.raises(Stopped, match="saved"):
            train(broken, sets, config, folder, stop=stop, loggers=NO_LOGGERS, console=console)
    config, folder, sets, broken = build(tmp_path / "broken", augmentation={"steps": ["moex"]})
    resume(broken, folder, "python train.py", console)
    train(broken, sets, config, folder, stop=threading.Event(), loggers=NO_LOGGERS, console=console)
    for ours, theirs in zip(broken.model.state_dict().values(), state.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    timing = {"seconds", "images_per_second"}
    for ours, theirs in zip(broken.history, state.history, strict=True):
        assert {key: ours[key] for key in ours.keys() - timing} == {
            key: theirs[key] for key in theirs.keys() - timing
        }
    assert read_result(folder) is None


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
        train(state, sets, config, folder, stop=threading.Event(), loggers=NO_LOGGERS, console=Console(quiet=True))
