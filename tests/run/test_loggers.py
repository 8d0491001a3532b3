"""What TensorBoard and W&B hold of a run, read back from their files; and runs whose loggers fail."""

import json
import sys
import threading
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from moex.config import keys_in_use, parse
from moex.loggers import Loggers, ProgressDisplay, open_loggers
from moex.run.folder import NonFiniteError, claim
from moex.run.result import finish
from moex.run.training import Stopped, train

pytestmark = pytest.mark.usefixtures("no_wandb_key")
FIGURES = ("learning_curves", "reliability", "response_rate")


@pytest.fixture
def session(build, reopen, monkeypatch):
    """A session of a run, as the worker holds it, up to an epoch's step: the folder, and what was printed."""

    def train_session(root, *, until=None, **values):
        logger = {"use": {"tensorboard": {}, "wandb": {}}, "every_steps": 1}
        run = build(root, batch_size=32, logger=logger, **values)
        console, stop = Console(record=True, width=300, file=sys.stderr), threading.Event()
        monkeypatch.setattr(
            ProgressDisplay, "step", lambda _, *, epoch, step: stop.set() if (epoch, step) == until else None
        )
        with claim(run.folder, run.config):
            reopen(run, console)
            done = run.state.global_step
            config = keys_in_use(parse(run.config))
            opened = open_loggers(run.loggers, run.folder, done=done, config=config, console=console)
            with suppress(Stopped, NonFiniteError), opened:
                train(run, stop=stop, loggers=opened, console=console)
                result = finish(run, stop=threading.Event(), console=console)
                figures = sorted((run.folder / "figures").glob("*.png"))
                opened.log_result(result, figures=figures, step=run.state.global_step)
        return run.folder, console.export_text()

    return train_session


def test_both_hold_what_the_run_left(session, tmp_path, read_tensorboard, read_wandb, capfd):
    folder, printed = session(tmp_path, augmentation={"steps": ["moex"]})
    assert "wandb" not in printed + "".join(capfd.readouterr())
    table = pd.read_csv(folder / "metrics.csv")
    result = json.loads((folder / "result.json").read_text())
    final = {f"{which}/{name}": value for which in ("last", "best") for name, value in result[which].items()}
    steps = list(range(1, 9))

    events = read_tensorboard(folder)
    assert set(events.Tags()["scalars"]) == {
        *(f"step/{name}" for name in ("loss", "learning_rate", "images_per_second")),
        *(f"epoch/{name}" for name in table),
        *final,
    }
    assert [event.step for event in events.Scalars("step/loss")] == steps
    for name, column in table.items():
        logged = [(event.step, event.value) for event in events.Scalars(f"epoch/{name}")]
        assert logged == [(4, np.float32(column[0])), (8, np.float32(column[1]))], name
    assert {name: events.Scalars(name)[0].value for name in final} == {
        name: np.float32(value) for name, value in final.items()
    }
    content = events.PluginTagToContent("hparams")
    parameters = HParamsPluginData.FromString(content["_hparams_/session_start_info"]).session_start_info.hparams
    assert parameters["optimizer.lr"].number_value == 0.1
    assert parameters["augmentation.steps"].string_value == "['moex']"
    assert parameters["model.name"].string_value == "resnet8"
    assert "limit_test" in parameters
    assert parameters["augmentation.moex.weight"].number_value == 0.9
    assert not [key for key in parameters if key.startswith(("augmentation.mixup", "moments", "paper"))]
    metrics = HParamsPluginData.FromString(content["_hparams_/experiment"]).experiment.metric_infos
    assert {metric.name.tag for metric in metrics} == set(final)

    for name, column in table.items():
        assert read_wandb(folder, f"epoch/{name}") == list(dict.fromkeys(column)), name
    for name, value in final.items():
        assert value in read_wandb(folder, name), name

    files = next((folder / "wandb").glob("offline-run-*/files"))
    for name in FIGURES:
        figure = folder / "figures" / f"{name}.png"
        (image,) = events.Images(f"figures/{name}")
        assert image.step == 8
        path = tmp_path / "image.png"
        path.write_bytes(image.encoded_image_string)
        with Image.open(path) as theirs, Image.open(figure) as ours:
            assert np.array_equal(np.asarray(theirs), np.asarray(ours))
        (copy,) = (files / "media" / "images" / "figures").glob(f"{name}_*.png")
        assert copy.read_bytes() == figure.read_bytes()


def test_stopped_and_resumed_it_is_one_run(session, tmp_path, read_tensorboard, read_wandb):
    for until in ((0, 3), (1, 2)):
        folder, _ = session(tmp_path, until=until)
        assert not (folder / "result.json").exists()
    session(tmp_path)
    table = pd.read_csv(folder / "metrics.csv")
    events = read_tensorboard(folder)
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 9))
    assert [event.value for event in events.Scalars("epoch/train_loss")] == [*np.float32(table["train_loss"])]

    sessions = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(sessions) == 3
    assert len({path.stem for path in sessions}) == 1  # Its id, by which `wandb sync` makes them one run.
    assert read_wandb(folder, "epoch/train_loss") == table["train_loss"].tolist()
    assert read_wandb(folder, "global_step") == list(range(1, 9))


def test_a_run_that_diverges_is_logged_up_to_there(session, tmp_path, read_tensorboard, read_wandb):
    folder, _ = session(tmp_path, optimizer={"lr": 1e6}, schedule={"name": "step"})
    assert not (folder / "result.json").exists()
    assert read_tensorboard(folder).Scalars("step/loss")
    assert read_wandb(folder, "step/learning_rate")


def full(*_, **__):
    raise OSError(28, "No space left on device")


def missing(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)


FAILURES = {
    "TensorBoard is not installed": ("TensorBoard", lambda patch: missing(patch, "torch.utils.tensorboard")),
    "TensorBoard's disk is full": ("TensorBoard", lambda patch: patch.setattr(RecordWriter, "flush", full)),
    "TensorBoard's figures": ("TensorBoard", lambda patch: patch.setattr(SummaryWriter, "add_image", full)),
    "TensorBoard's hyper-parameters": (
        "TensorBoard",
        lambda patch: patch.setattr("torch.utils.tensorboard.summary.hparams", full),
    ),
    "TensorBoard's end": ("TensorBoard", lambda patch: patch.setattr(SummaryWriter, "close", full)),
    "W&B is not installed": ("W&B", lambda patch: missing(patch, "wandb")),
    "W&B's key is none": ("W&B", lambda patch: patch.setenv("WANDB_API_KEY", "too short")),
    "W&B's start": ("W&B", lambda patch: patch.setattr("wandb.init", full)),
    "W&B's rows": ("W&B", lambda patch: patch.setattr("wandb.Run.log", full)),
    "W&B's figures": ("W&B", lambda patch: patch.setattr("wandb.Image", full)),
    "W&B's end": ("W&B", lambda patch: patch.setattr("wandb.Run.finish", full)),
}


@pytest.fixture(scope="module")
def without():
    """The result without loggers, computed once."""
    return {}


@pytest.mark.parametrize(("name", "break_it"), FAILURES.values(), ids=FAILURES.keys())
def test_a_logger_that_fails_does_not_end_the_run(
    session, tmp_path, without, monkeypatch, name, break_it, read_tensorboard, read_wandb
):
    if not without:
        with monkeypatch.context() as patch:
            patch.setattr(f"{__name__}.open_loggers", lambda *_, console, **__: Loggers({}, console=console))
            folder, printed = session(tmp_path / "without")
            assert "warning" not in printed
            without |= json.loads((folder / "result.json").read_text())
    break_it(monkeypatch)
    folder, printed = session(tmp_path)
    (warning,) = (line for line in printed.splitlines() if "warning" in line)
    assert warning.startswith(f"warning: {name} failed (")
    assert warning.endswith("): the run goes on without it")
    result = json.loads((folder / "result.json").read_text())
    assert (result["last"], result["best"]) == (without["last"], without["best"])
    if name == "W&B":
        assert len(read_tensorboard(folder).Images("figures/reliability")) == 1
    else:
        assert len(read_wandb(folder, "epoch/test_error")) == 2
