"""Where a run's numbers go: the terminal, TensorBoard and W&B."""

import dataclasses
import io
import json
import os
import time

import pytest
import wandb
from omegaconf import OmegaConf
from rich.console import Console
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from moex import loggers
from moex.config import parse
from moex.loggers import Loggers, ProgressDisplay
from moex.loggers.tensorboard import TensorBoardLogger
from moex.loggers.wandb import WandbLogger

# A row for each logger: its settings.
LOGGERS = {"tensorboard": {}, "wandb": {"project": "moex"}}


def test_every_logger_has_a_row():
    assert loggers.names() == sorted(LOGGERS)


@pytest.mark.parametrize("name", LOGGERS)
def test_its_settings_are_its_yaml_file(name):
    stored = OmegaConf.to_container(OmegaConf.load(f"configs/logger/{name}.yaml"))
    assert stored == {"every_steps": 50, "use": {name: LOGGERS[name]}}
    assert dataclasses.asdict(parse({"logger": stored}).logger) == stored
    assert loggers.find(name).title


def test_no_such_logger():
    with pytest.raises(ValueError, match=r"no logger 'csv': logger.use may have tensorboard, wandb"):
        parse({"logger": {"use": {"csv": {}}}})


CONFIG = {
    "dataset": {"name": "digits"},
    "model": {"name": "resnet8"},
    "augmentation": {"steps": ["cutmix", "moex"]},
    "optimizer": {"lr": 0.1},
}
ROW = {
    "epoch": 1,
    "train_loss": 2.5,
    "test_error": 0.9123,
    "test_aurra": 0.15,
    "test_rms_calibration_error": 0.042,
    "learning_rate": 0.1,
    "images_per_second": 1234.5,
    "waiting_share": 0.004,
}


def shown(*, terminal):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=160)
    with ProgressDisplay(console, epochs=20, steps_per_epoch=50, done=60) as display:
        display.step(epoch=1, step=40)
        display.loss(2.3456, images_per_second=4321, waiting_share=0.126)
        time.sleep(0.3)  # The bar is drawn ten times a second.
        display.epoch(ROW, split="test")
        display.step(epoch=2, step=0)
    return stream.getvalue()


def test_a_terminal_gets_a_bar_and_lines():
    text = shown(terminal=True)
    speed = "4,321 images/s, 13 % waiting for data"
    for part in ("epoch 2/20", "step 10/50", "step 40/50", "loss 2.346", speed, "left"):
        assert part in text
    # The bar is of all epochs, and says so: 60 of 1,000 steps at first, 90 then.
    before, after = text.split("whole run")[1:][0], text.split("whole run")[-1]
    assert " 6%" in before
    assert any(share in after for share in (" 9%", "10%"))


def test_a_file_gets_lines_alone():
    text = shown(terminal=False)
    assert text.splitlines() == [
        "epoch  1/20  loss 2.500  test error 91.23 %  AURRA 15.00 %  RMS calibration error  4.20 %"
        "  lr 0.1  1,234 images/s"
    ]


def test_tensorboard_forgets_what_is_trained_again(tmp_path, read_tensorboard):
    killed = TensorBoardLogger(tmp_path, done=0, config=CONFIG)
    # From the start, of a run that may never end.
    content = read_tensorboard(tmp_path).PluginTagToContent("hparams")
    parameters = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert parameters["optimizer.lr"].number_value == 0.1
    for step in range(1, 6):
        killed.log({"step/loss": step}, step=step)
    # Not closed: what is logged is on the disk. The last checkpoint was that of step 3.
    session = TensorBoardLogger(tmp_path, done=3, config=CONFIG)
    for step in range(4, 8):
        session.log({"step/loss": 10 * step}, step=step)
    session.close(finished=True)
    events = read_tensorboard(tmp_path).Scalars("step/loss")
    assert [(event.step, event.value) for event in events] == [
        *((step, step) for step in (1, 2, 3)),
        *((step, 10 * step) for step in (4, 5, 6, 7)),
    ]
    killed.close(finished=False)


def test_tensorboard_reads_sessions_in_their_order(tmp_path, read_tensorboard, monkeypatch):
    """Also where two begin within a second: its files are named by seconds, and then by processes."""
    time.sleep(1 - time.time() % 1)
    for process, done in ((9999, 0), (10000, 2)):
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        session = TensorBoardLogger(tmp_path, done=done, config=CONFIG)
        for step in (done + 1, done + 2):
            session.log({"step/loss": step}, step=step)
        session.close(finished=True)
    assert [event.step for event in read_tensorboard(tmp_path).Scalars("step/loss")] == [1, 2, 3, 4]


@pytest.mark.usefixtures("no_wandb_key")
def test_wandb_keeps_every_row_and_a_run_for_each_folder(tmp_path, read_wandb):
    ids = set()
    for name in ("seed0", "seed1"):
        folder = tmp_path / name
        folder.mkdir()
        for session, steps in enumerate([(1, 2, 3), (2, 3, 4)]):  # The second continues from a checkpoint of step 1.
            logger = WandbLogger(folder, project="moex", config=CONFIG)
            for step in steps:
                logger.log({"step/loss": session + step / 3}, step=step)
            logger.close(finished=True)
        ids |= {path.stem for path in (folder / "wandb").glob("offline-run-*/*.wandb")}
        losses = [session + step / 3 for session, steps in enumerate([(1, 2, 3), (2, 3, 4)]) for step in steps]
        assert read_wandb(folder, "step/loss") == list(dict.fromkeys(losses))
        assert read_wandb(folder, "global_step") == [1, 2, 3, 4]
    assert len(ids) == 2


@pytest.mark.usefixtures("no_wandb_key")
def test_wandb_knows_a_run_from_its_start(tmp_path, read_wandb_run):
    folder = tmp_path / "digits-resnet8-cutmix+moex-0123abcd" / "seed0"
    folder.mkdir(parents=True)
    logger = WandbLogger(folder, project="moex", config=CONFIG)
    print("\x1b[31mred\x1b[0m")
    logger.close(finished=False)
    wandb.teardown()
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    run = read_wandb_run(path)
    assert (run.run_group, run.display_name) == (folder.parent.name, f"{folder.parent.name}/seed0")
    assert sorted(run.tags) == ["cutmix", "digits", "moex", "resnet8"]
    settings = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert {key: settings[key] for key in CONFIG} == CONFIG
    written = b"".join(file.read_bytes() for file in (folder / "wandb").rglob("*") if file.is_file())
    assert b"\x1b[31m" not in written


class Recorder:
    """A logger that keeps what it is told, and fails at one point."""

    def __init__(self, told, *, fails_at=None):
        self.told, self.fails_at = told, fails_at
        self.tell("create")

    def tell(self, point):
        if point == self.fails_at:
            raise RuntimeError("no [luck]\nat all")
        self.told.append(point)

    def log(self, values, *, step):
        self.tell("log")

    def log_result(self, result, *, figures, step):
        self.tell("log_result")

    def close(self, *, finished):
        self.tell("close")


@pytest.mark.parametrize("point", ["create", "log", "log_result", "close"])
def test_one_that_fails_is_reported_once_and_left_out(point):
    bad, good, console = [], [], Console(file=io.StringIO(), width=200)
    factories = {"bad": lambda: Recorder(bad, fails_at=point), "good": lambda: Recorder(good)}
    with Loggers(factories, console=console) as opened:
        for step in (1, 2):
            opened.log({"loss": 1.0}, step=step)
        opened.log_result({}, figures=[], step=2)
    assert good == ["create", "log", "log", "log_result", "close"]
    assert bad == [*good[: good.index(point)], *(["close"] if point in ("log", "log_result") else [])]
    assert console.file.getvalue() == "warning: bad failed (no [luck]): the run goes on without it\n"


def test_they_hear_whether_the_run_finished():
    class Closed(Recorder):
        def close(self, *, finished):
            self.told.append(finished)

    told = []
    with Loggers({"log": lambda: Closed(told)}, console=Console()):
        pass
    with pytest.raises(KeyboardInterrupt), Loggers({"log": lambda: Closed(told)}, console=Console()):
        raise KeyboardInterrupt
    assert told == ["create", True, "create", False]
