"""What the parent process makes of a command line, and of signals that come late."""

import io
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from moex import launch

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize(
    "arguments",
    [
        ["seed=1", "dataset=cifar100", "+experiment=digits_moex"],
        ["--multirun", "+experiment=glob(digits_*)"],
        ["-m", "model=choice(resnet20,resnet32)", "seed=range(3)"],
        ["--config-dir=/elsewhere", "model=mine"],
        ["--config-dir", "/elsewhere", "+experiment=mine"],
        ["hydra.verbose=true", "+model.options.alpha=3", "~augmentation.cutout", "++epochs=3"],
    ],
    ids=" ".join,
)
def test_accepted(arguments):
    launch.check_overrides(arguments, CONFIGS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["epoch=3"], "unknown key 'epoch': the nearest are epochs"),
        (["lr=3"], "the nearest are optimizer.lr"),
        (["-m", "model=resnet20,resnet21"], "there is no model 'resnet21': it must be one of densenet_bc_100"),
        (["experiment=digits_moex"], r"with a plus: \+experiment=digits_moex"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(launch.OverrideError, match=message):
        launch.check_overrides(arguments, CONFIGS)


class Worker:
    """Finishes its work although it was told to stop meanwhile."""

    def __init__(self):
        self.stdin, self.told = io.StringIO(), 0

    def terminate(self):
        self.told += 1

    def wait(self):
        signal.raise_signal(signal.SIGINT)
        return 0


@pytest.mark.parametrize("sweep", [False, True])
def test_a_signal_while_a_job_ends_stops_the_sweep_around_it(monkeypatch, sweep, capsys):
    worker = Worker()
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: worker)
    monkeypatch.setattr(launch, "_is_sweep", lambda: sweep)
    monkeypatch.setattr(launch, "_job_command", lambda: "python train.py")
    monkeypatch.setattr(launch, "_exit_codes", [])
    if sweep:
        with pytest.raises(SystemExit) as ended:
            launch.run_job(OmegaConf.create())
        assert ended.value.code == 130
        assert "the same command continues" in capsys.readouterr().err
    else:
        launch.run_job(OmegaConf.create())
        assert launch._exit_codes == [0]
    assert worker.told == 1
