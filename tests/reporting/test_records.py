"""A record tells what its runs' results say, and never replaces one run by another."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from moex.reporting.records import add_runs, find_runs, summarise, write_record

SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"
ERRORS = {"plain": [0.10, 0.14, 0.12], "mixed": [0.08]}


def write_run(folder, name, seed, error, **changes):
    metrics = dict.fromkeys(("error", "top5_error", "rms_calibration_error", "aurra", "ece"), error)
    result = {
        "name": name,
        "seed": seed,
        "recipe": {"model.name": "resnet8", "augmentation.steps": [name]},
        "last": metrics,
        "best": {key: value - 0.01 for key, value in metrics.items()},
        "epochs": 2,
        "images_per_second": 1234.5,
        "seconds": 90.0,
        "device": "A Processor",
        "threads": 2,
        "precision": "bf16",
        "versions": {"torch": "2.14.1"},
        "commit": "0123456789abcdef",
        "dirty": False,
        "config": {},
        "command": f"python train.py +experiment={name} seed={seed}",
        "end": "2026-11-24T05:30:00+00:00",
    }
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result | changes))
    pd.DataFrame({"epoch": [1, 2], "test_error": [0.5, error]}).to_csv(folder / "metrics.csv", index=False)


@pytest.fixture
def outputs(tmp_path):
    for name, errors in ERRORS.items():
        for seed, error in enumerate(errors):
            write_run(tmp_path / "outputs" / name / "recipe" / f"seed{seed}", name, seed, error)
    return tmp_path / "outputs"


def test_a_record_of_runs(outputs, tmp_path):
    record = tmp_path / "results" / "first"
    add_runs(record, [outputs / "plain", outputs / "mixed"])
    page, curves = write_record(record, command="python scripts/report.py results/first")
    text = page.read_text()
    deviation = 100 * np.std(ERRORS["plain"], ddof=1)
    assert f"| plain | 3 | 12.00 ± {deviation:.2f} |" in text
    assert f"| plain | 3 | 11.00 ± {deviation:.2f} |" in text
    assert "| mixed | 1 | 8.00 |" in text
    assert "| `python train.py +experiment=plain seed=2` | 12.00 | 2 | 1.5 | 1,234 | bf16 |" in text
    assert "A Processor, 2 threads | 2.14.1 | 0123456789 | 2026-11-24 |" in text
    assert imread(curves).shape[2] == 4
    before = text
    add_runs(record, [outputs])
    write_record(record, command="python scripts/report.py results/first")
    assert page.read_text() == before


def test_the_page_says_which_split_chose_the_best_epoch(tmp_path):
    write_run(tmp_path / "seed0", "plain", 0, 0.1, selected_on="validation")
    page, _ = write_record(tmp_path, command="python scripts/report.py")
    assert "lowest error on the set that chooses it (validation):" in page.read_text()


def test_the_page_compares_with_a_baseline(outputs, tmp_path):
    add_runs(tmp_path / "record", [outputs])
    page, _ = write_record(tmp_path / "record", command="python scripts/report.py", against="plain")
    text = page.read_text()
    assert "| name | difference in last error, points [95 % interval], n |" in text
    assert "| mixed | -2.00, 1 |" in text


def test_one_run_has_no_deviation(outputs):
    table = summarise(find_runs(outputs), "last").set_index("experiment")
    assert "±" not in table.loc["mixed", "AURRA, %"]
    assert table.loc["plain", "n"] == 3


def test_another_run_is_not_written_over(outputs, tmp_path):
    add_runs(tmp_path / "record", [outputs])
    write_run(tmp_path / "other" / "seed0", "plain", 0, 0.5)
    with pytest.raises(ValueError, match=r"is another run than .*: delete it first"):
        add_runs(tmp_path / "record", [tmp_path / "other"])
    assert summarise(find_runs(tmp_path / "record"), "last")["error, %"].tolist()[-1].startswith("12.00")


def test_nothing_is_copied_where_a_recipe_differs(outputs, tmp_path):
    record = tmp_path / "record"
    add_runs(record, [outputs])
    before = sorted(record.rglob("*"))
    write_run(tmp_path / "other" / "a", "new", 0, 0.5)
    write_run(tmp_path / "other" / "b", "plain", 9, 0.5, recipe={"model.name": "resnet20"})
    with pytest.raises(ValueError, match=r"are both 'plain' and differ in augmentation.steps, model.name"):
        add_runs(record, [tmp_path / "other"])
    assert sorted(record.rglob("*")) == before


def test_a_records_own_runs_may_be_named_again(outputs, tmp_path):
    add_runs(tmp_path / "record", [outputs])
    add_runs(tmp_path / "record", [tmp_path / "record", outputs])
    assert len(find_runs(tmp_path / "record")) == 4


def test_recipes_of_one_name_agree(outputs):
    write_run(outputs / "plain" / "other" / "seed9", "plain", 9, 0.5, recipe={"model.name": "resnet20"})
    with pytest.raises(ValueError, match=r"are both 'plain' and differ in augmentation.steps, model.name"):
        find_runs(outputs)


def test_what_is_not_a_run(outputs, tmp_path):
    with pytest.raises(ValueError, match="holds no finished run"):
        find_runs(tmp_path / "nowhere")
    next(outputs.rglob("metrics.csv")).unlink()
    with pytest.raises(ValueError, match="is not a finished run"):
        find_runs(outputs)


def test_the_command(outputs, tmp_path):
    def call(*arguments):
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    answer = call("--record", "results/digits", outputs)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == ["results/digits/README.md", "results/digits/learning_curves.png"]
    assert "python scripts/report.py --record results/digits`" in (tmp_path / "results/digits/README.md").read_text()
    answer = call("--record", "results/nothing")
    assert answer.returncode == 1
    assert answer.stderr == "error: results/nothing holds no finished run: no result.json is below it\n"
