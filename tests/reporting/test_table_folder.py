"""A table's folder: the summaries of runs, and what is made of them alone, again and again the same."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from summaries import outcome

from moex.reporting.manifests import Cell, Number, Row, Table
from moex.reporting.table_folder import Entry, add_run, read_entries, write_table

ERRORS = {"plain": [0.262, 0.265, 0.258], "MoEx": [0.255, 0.256, 0.257]}
TABLE = Table(
    title="A table",
    note="With a note.",
    metrics=["error"],
    seeds=[0, 1, 2],
    columns=["digits"],
    rows=[
        Row("plain", cells={"digits": Cell("a", paper=[Number(26.0, source="p", unconfirmed=True)])}),
        Row("MoEx", "plain", {"digits": Cell("b")}),
        Row("CutMix", "plain", {"digits": Cell("c")}),
    ],
)


def write_run(folder, seed, error, *, recipe="recipe", **changes):
    result = outcome({"error": error}, seed=seed, name="x", recipe={}, epochs=2) | changes
    run = folder / recipe / f"seed{seed}"
    run.mkdir(parents=True)
    (run / "result.json").write_text(json.dumps(result))
    pd.DataFrame({"epoch": [1, 2], "test_error": [0.5, error]}).to_csv(run / "metrics.csv", index=False)
    return run


@pytest.fixture
def folder(tmp_path):
    for row, errors in ERRORS.items():
        for seed, error in enumerate(errors):
            run = write_run(tmp_path / "outputs", seed, error, recipe=f"digits-{row}")
            add_run(tmp_path / "table", run, row=row, column="digits", reduced="")
    return tmp_path / "table"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_is_written(folder):
    paths = write_table(folder, TABLE, command="python scripts/reproduce.py x")
    assert {path.name for path in paths} == {
        *(f"table.{ending}" for ending in ("md", "csv", "tex")),
        *(f"{name}.{ending}" for name in ("errors", "curves") for ending in ("png", "svg")),
    }
    page = (folder / "table.md").read_text()
    assert "| plain | 26.00 (unconfirmed) | 26.17 ± 0.35 | 26.17 ± 0.35 | 3 | +0.17 | – | – |" in page
    assert "| CutMix | – | – | – | 0 | – | – | – |" in page
    assert "`python train.py seed=2` | 25.80 | 2 | 1.5 | 1,234 | fp32 | A Processor, 2 threads" in page
    table = pd.read_csv(folder / "table.csv")
    assert table["last error, %"][1] == pytest.approx(100 * np.mean(ERRORS["MoEx"]), abs=1e-12)
    assert r"26.17 $\pm$ 0.35" in (folder / "table.tex").read_text()
    for name in ("errors", "curves"):
        pixels = imread(folder / f"{name}.png")
        # Nothing is cut: the outermost pixels are the white of the canvas.
        assert all(border.min() == 1 for border in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


def test_once_more_it_is_the_same(folder):
    write_table(folder, TABLE, command="x")
    before = contents(folder)
    write_table(folder, TABLE, command="x")
    assert contents(folder) == before


def test_runs_of_another_machine_are_added_once(folder, tmp_path):
    before = read_entries(folder)
    again = write_run(tmp_path / "elsewhere", 1, ERRORS["MoEx"][1], recipe="digits-MoEx", device="Another")
    assert add_run(folder, again, row="MoEx", column="digits", reduced="") in before
    assert read_entries(folder) == before


def test_what_came_out_otherwise_is_shown_and_not_averaged(folder, tmp_path):
    other = write_run(tmp_path / "elsewhere", 1, 0.4, recipe="digits-MoEx", device="Another")
    entry = add_run(folder, other, row="MoEx", column="digits", reduced="")
    assert entry.duplicate
    assert entry == add_run(folder, other, row="MoEx", column="digits", reduced="")
    write_table(folder, TABLE, command="x")
    page = (folder / "table.md").read_text()
    assert "| MoEx | – | 25.60 ± 0.10 |" in page
    assert "| MoEx | digits | 1 | 40.00 | Another | runs/digits-MoEx/seed1-2 |" in page
    assert json.loads((folder / entry.run / "result.json").read_text())["last"]["error"] == 0.4


def test_what_is_reduced_has_a_table_of_its_own(folder, tmp_path):
    for seed in (0, 1):
        run = write_run(tmp_path / "outputs", seed, 0.5, recipe="reduced")
        add_run(folder, run, row="MoEx", column="digits", reduced="epochs × 0.1")
    write_table(folder, TABLE, command="x")
    whole, reduced = (folder / "table.md").read_text().split("## Reduced: epochs × 0.1")
    assert "| MoEx | – | 25.60 ± 0.10 |" in whole
    assert "50.00" not in whole
    assert "| MoEx | – | 50.00 ± 0.00 | 50.00 ± 0.00 | 2 |" in reduced
    assert (folder / "errors_epochs_0.1.png").exists()


def test_one_recipe_may_stand_in_two_cells(folder):
    run = folder / "runs" / "digits-MoEx" / "seed0"
    entry = add_run(folder, run, row="CutMix", column="digits", reduced="")
    assert replace(entry, row="MoEx") in read_entries(folder)


def test_without_runs_there_is_the_paper_alone(tmp_path):
    (tmp_path / "empty").mkdir()
    write_table(tmp_path / "empty", TABLE, command="x")
    assert "| plain | 26.00 (unconfirmed) | – | – | 0 |" in (tmp_path / "empty" / "table.md").read_text()


@pytest.mark.parametrize("content", ["{", '[{"row": 1}]', "3"])
def test_what_is_no_list_of_cells(folder, content):
    (folder / "cells.json").write_text(content)
    with pytest.raises(ValueError, match=r"cells.json does not say which runs stand for which cells"):
        write_table(folder, TABLE, command="x")


def test_what_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="is not a finished run"):
        add_run(tmp_path / "table", tmp_path, row="a", column="b", reduced="")
    assert Entry("", "a", "b", 0, "x") < Entry("", "a", "b", 1, "x")
