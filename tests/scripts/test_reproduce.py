"""From a table's name to its runs and to its table: as a user types it, once; the rest in the tests' own process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from moex.config import Config, RuntimeConfig
from moex.data.digits import Digits
from moex.optim import Cosine, Plateau, Step
from moex.reproduction import cost, trainings
from moex.reproduction.cost import Cost, count_samples, measure

SCRIPT = Path(__file__).parents[2] / "scripts" / "reproduce.py"
SMALL = ("--budget", "0.05", "--samples", "100", "limit_test=40", "logger=none")
ON = ("--columns", "all images", "--seeds", "0", *SMALL)
TWO_ROWS = ("digits", "--rows", "MoEx", "no augmentation", *ON)
REDUCED = "epochs × 0.05, 100 training samples"


@pytest.fixture
def reproduce(script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: script("reproduce", *arguments, "--results", "results")


def test_a_table_is_made_continued_and_made_elsewhere(reproduce, tmp_path):
    """Two of its rows first, then all; the second machine has nothing to train."""
    first = subprocess.run(
        [sys.executable, SCRIPT, *TWO_ROWS, "--results", "results", "--launcher", "joblib", "--jobs", "2"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert first.returncode == 0, first.stderr
    assert "0 of 2 runs are finished" in first.stdout
    table = pd.read_csv(tmp_path / "results" / "digits" / "table.csv")
    assert set(table["reduced"]) == {REDUCED}
    assert table.loc[table["n"] == 1, ["method", "column"]].to_numpy().tolist() == [
        ["no augmentation", "all images"],
        ["MoEx", "all images"],
    ]
    assert table["n"].sum() == 2
    table = table[table["n"] == 1].set_index("method")
    for path in tmp_path.glob("outputs/digits-*/seed0/result.json"):
        result = json.loads(path.read_text())
        assert (result["epochs"], result["config"]["limit_train"]) == (2, 100)
        row = {"digits_baseline": "no augmentation", "digits_moex": "MoEx"}[result["name"].split()[0]]
        assert table.loc[row, "last error, %"] == pytest.approx(100 * result["last"]["error"])

    code, printed, _ = reproduce(*TWO_ROWS)
    assert (code, printed.splitlines()[0]) == (0, "2 of 2 runs are finished")
    columns = ("--columns", "all images", "200 images", *ON[2:])
    code, printed, _ = reproduce("digits", "--plan", "--rows", "MoEx", "CutMix", *columns)
    assert code == 0
    assert re.search(r"MoEx +all images +1 of 1 *\n", printed)
    # The same step of other images is not measured again.
    left = re.findall(r"CutMix +(?:all|200) images +0 of 1 +([\d.e+,]+) +– +[\d.]+ min +[\d.]+ min", printed)
    assert len(left) == 2
    assert left[0] == left[1]

    (tmp_path / "outputs").rename(tmp_path / "elsewhere")
    written = (tmp_path / "results").rename(tmp_path / "first")
    whole = tmp_path / "whole" / "seed0"
    whole.mkdir(parents=True)
    (whole / "result.json").write_text(json.dumps(result | {"recipe": {}}))
    code, printed, _ = reproduce("digits", "--table", "--from", "elsewhere", "whole", *ON)
    assert code == 0
    assert f"whole/seed0 ({result['name']}, seed 0) is no run of these cells: left out" in printed
    again = tmp_path / "results" / "digits"
    for name in ("table.md", "table.csv", "cells.json"):
        assert (again / name).read_bytes() == (written / "digits" / name).read_bytes()


def test_the_rest_is_trained_one_seed_of_every_cell_after_the_other(reproduce, tmp_path, monkeypatch):
    commands = []

    class Process(subprocess.Popen):
        def __init__(self, command, **_):
            commands.append(command)
            super().__init__(["true"])

    monkeypatch.setattr(subprocess, "Popen", Process)
    code, printed, _ = reproduce("cifar", "--rows", "ResNet-110", "ResNet-110 + MoEx", "--seeds", "1", "0")
    assert code == 0
    assert "0 of 8 runs are finished" in printed
    *_, jobs = commands[0]
    path = tmp_path / re.fullmatch(r"hydra\.sweeper\.jobs='(.*)'", jobs)[1]
    listed = json.loads(path.read_text())
    assert [job[-1] for job in listed] == ["seed=1"] * 4 + ["seed=0"] * 4
    assert {job[0] for job in listed} == {
        f"+experiment={data}_resnet110_{method}"
        for data in ("cifar10", "cifar100")
        for method in ("baseline", "moex")
    }
    # Nothing was trained, and the paper's numbers are there, with their mark.
    assert "26.28 ± 0.10 (unconfirmed)" in (tmp_path / "results" / "cifar" / "table.md").read_text()


MISTAKES = {
    ("cifra",): "there is no table 'cifra': the nearest are cifar, ",
    ("digits", "--rows", "Mix"): "--rows: there is no 'Mix': the nearest are Mixup, CutMix, MoEx",
    ("digits", "--columns", "x"): "--columns: there is no 'x': it must be one of all images, 200 images",
    ("digits", "--budget", "2"): "--budget is 2: it must be more than 0 and at most 1",
    ("digits", "--samples", "0"): "--samples is 0: it must be 1 or more",
    ("digits", "--jobs", "2"): "--jobs is 2: it belongs to --launcher joblib",
    ("digits", "epoch=3"): "unknown key 'epoch': the nearest are epochs",
    ("digits", "model=resnte20"): "there is no model 'resnte20': the nearest are",
    ("digits", "--from", "nowhere"): "nowhere holds no finished run",
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items(), ids=map(" ".join, MISTAKES))
def test_mistakes(reproduce, tmp_path, arguments, message):
    code, _, complaint = reproduce(*arguments)
    assert code == 1
    assert complaint.startswith(f"error: {message}")
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "results").exists()


SCHEDULES = [
    (Step(milestones=[150, 225]), ["schedule.milestones=[15,22]"]),
    (Step(milestones=[3, 6], warmup_epochs=5), ["schedule.warmup_epochs=0.5", "schedule.milestones=[1]"]),
    (Plateau(patience=5), ["schedule.patience=1"]),
    (Cosine(), []),
]


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES)
def test_a_budget_shortens_the_schedule(schedule, expected):
    config = Config(epochs=300, schedule=schedule)
    assert trainings.Reduction(0.1).overrides(config) == ["epochs=30", *expected]
    assert trainings.Reduction(samples=5000).overrides(config) == ["limit_train=5000"]
    assert trainings.Reduction().overrides(config) == []


def test_what_a_run_costs():
    """An epoch of 1,000 images, and 300 that are evaluated at a third of the cost, at 10 images/s."""
    speed = Cost(10.0, None)
    assert speed.hours({"train": 1000, "test": 300}, 2) == pytest.approx(2 * (1000 + 100) / 10 / 3600)
    assert speed.hours({"train": 1000, "validation": 60, "test": 300}, 2) == pytest.approx(2 * 1020 / 10 / 3600)
    assert count_samples(Config(limit_train=100)) == {"train": 100, "test": 540}
    assert count_samples(Config(dataset=Digits(validation=0.1)))["validation"] == 126


@pytest.mark.parametrize(("longest", "batches"), [(100.0, [16, 64]), (0.0, [16])])
def test_long_steps_are_measured_in_part(monkeypatch, longest, batches):
    sizes = []

    def build(config, *arguments):
        sizes.append(config.batch_size)
        return built(config, *arguments)

    built = cost.build_run
    monkeypatch.setattr(cost, "build_run", build)
    monkeypatch.setattr(cost, "LONG", longest)
    found = measure(Config(runtime=RuntimeConfig(device="cpu")))
    assert sizes == batches
    assert found.images_per_second > 0
    assert found.memory is None
