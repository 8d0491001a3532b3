"""The table of any runs: what it groups, what it compares, and the numbers against NumPy and SciPy."""

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import stats

from moex.reporting.tables import CHOSEN, DIFFERENCES, HIGH, LOW, PAIRS, as_text, print_table, tabulate

DIFFERENCE = DIFFERENCES["last"]
SCRIPT = Path(__file__).parents[2] / "scripts" / "report.py"
CONFIG = {"augmentation": {"steps": [], "moex": {"norm": "pono"}}, "epochs": 30, "dataset": {"name": "digits"}}
ERRORS = {"plain": [0.31, 0.24, 0.35, 0.28], "pono": [0.21, 0.22, 0.29, 0.20], "in": [0.19, 0.27, 0.30]}
RECIPES = {
    "plain": {},
    "pono": {"augmentation.steps": ["moex"]},
    "in": {"augmentation.steps": ["moex"], "augmentation.moex.norm": "in"},
}


def write_run(folder, *, recipe, seed, error, name="study", **changes):
    config = {**CONFIG, "augmentation": CONFIG["augmentation"] | {"steps": recipe.get("augmentation.steps", [])}}
    metrics = {"error": error, "aurra": 1 - error, "rms_calibration_error": error / 2}
    best = {key: value - 0.01 for key, value in metrics.items()}
    result = {"name": name, "seed": seed, "recipe": recipe, "last": metrics, "best": best, "config": config}
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(result | changes))


@pytest.fixture
def outputs(tmp_path):
    for key, recipe in RECIPES.items():
        for seed, error in enumerate(ERRORS[key]):
            write_run(tmp_path / "outputs" / key / f"seed{seed}", recipe=recipe, seed=seed, error=error)
    return tmp_path / "outputs"


def test_a_row_a_recipe_with_the_keys_that_differ(outputs):
    table = tabulate([outputs])
    assert list(table.columns[:4]) == ["name", "augmentation.moex.norm", "augmentation.steps", "n"]
    # One that does not exchange has no normalisation; another's may be the default, which its recipe leaves out.
    assert table.iloc[:, 1:4].to_numpy().tolist() == [["in", "[moex]", 3], ["pono", "[moex]", 4], ["–", "[]", 4]]
    for row, key in enumerate(["in", "pono", "plain"]):
        errors = 100 * np.array(ERRORS[key])
        assert table.loc[row, "last error, %"] == pytest.approx(errors.mean(), abs=1e-12)
        assert table.loc[row, "last error, % ±"] == pytest.approx(errors.std(ddof=1), abs=1e-12)
        assert table.loc[row, "best error, %"] == pytest.approx(errors.mean() - 1, abs=1e-12)
        assert table.loc[row, "last AURRA, %"] == pytest.approx(100 - errors.mean(), abs=1e-12)


@pytest.mark.parametrize("against", ["augmentation.steps=[]", "augmentation.moex.norm=–,augmentation.steps=[]"])
def test_paired_differences(outputs, against):
    table = tabulate([outputs], against=against).set_index("augmentation.moex.norm")
    for key in ("in", "pono"):
        seeds = len(ERRORS[key])
        ours, theirs = 100 * np.array(ERRORS[key]), 100 * np.array(ERRORS["plain"])[:seeds]
        oracle = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
        assert table.loc[key, DIFFERENCE] == pytest.approx((ours - theirs).mean(), abs=1e-12)
        assert table.loc[key, [DIFFERENCE + LOW, DIFFERENCE + HIGH]].tolist() == pytest.approx(oracle, abs=1e-12)
        assert table.loc[key, DIFFERENCE + PAIRS] == seeds
    assert np.isnan(table.loc["–", DIFFERENCE])


def test_one_common_seed_has_no_interval(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"a{seed}", recipe={}, seed=seed, error=0.2)
    for seed in (1, 2):
        write_run(tmp_path / f"b{seed}", recipe={"epochs": 9}, seed=seed, error=0.1)
    table = tabulate([tmp_path], against="epochs=30")
    assert table["epochs"].tolist() == ["9", "30"]
    assert table[DIFFERENCE][0] == pytest.approx(-10)
    assert np.isnan(table[DIFFERENCE + LOW][0])
    assert as_text(table).iloc[:, -1].tolist() == ["-10.00, 1", ""]


def test_each_column_of_a_study_has_its_own_baseline(tmp_path):
    for model, base in (("resnet", 0.3), ("vgg", 0.5)):
        for number, use in enumerate(["all", "only"]):
            recipe = {"model.name": model, "moments.use": use}
            write_run(tmp_path / model / use, recipe=recipe, seed=0, error=base + 0.1 * number)
    table = tabulate([tmp_path], against="moments.use=all")
    differences = dict(
        zip(zip(table["model.name"], table["moments.use"], strict=True), table[DIFFERENCE], strict=True)
    )
    assert differences["resnet", "only"] == pytest.approx(10)
    assert differences["vgg", "only"] == pytest.approx(10)
    assert np.isnan(differences["vgg", "all"])


def test_a_baseline_of_other_data_is_none(tmp_path):
    for number, data in enumerate(["cifar10", "cifar100"]):
        recipe = {"dataset.name": data, "epochs": number + 1}
        write_run(tmp_path / data, recipe=recipe, seed=0, error=0.1, name=data)
    assert tabulate([tmp_path], against="cifar10")[DIFFERENCE].isna().all()


def test_a_copied_run_counts_once(outputs, tmp_path):
    write_run(tmp_path / "copy" / "seed0", recipe=RECIPES["plain"], seed=0, error=ERRORS["plain"][0], name="copy")
    pd.testing.assert_frame_equal(tabulate([outputs]), tabulate([outputs, outputs / "plain", tmp_path / "copy"]))
    write_run(tmp_path / "other" / "seed0", recipe=RECIPES["plain"], seed=0, error=0.5)
    with pytest.raises(ValueError, match="are one recipe and seed, and came out differently: leave one out"):
        tabulate([outputs, tmp_path / "other"])


def test_names_are_labels(tmp_path):
    """Runs of one recipe are one row, whatever they are called."""
    for seed, name in enumerate(["table", "study"]):
        write_run(tmp_path / name, recipe={}, seed=seed, error=0.1, name=name)
    table = tabulate([tmp_path])
    assert table[["name", "n"]].to_numpy().tolist() == [["study, table", 2]]
    assert list(table.columns)[:2] == ["name", "n"]


def test_best_says_which_split_chose(tmp_path):
    write_run(tmp_path / "a", recipe={}, seed=0, error=0.1)
    write_run(tmp_path / "b", recipe={"dataset.validation": 0.1}, seed=0, error=0.1, selected_on="validation")
    assert tabulate([tmp_path])[CHOSEN].tolist() == ["validation", "test"]


def test_where_a_validation_set_chose_the_best_errors_are_compared(tmp_path):
    for steps, errors in (([], [0.20, 0.30]), (["moex"], [0.15, 0.27])):
        for seed, error in enumerate(errors):
            recipe = {"augmentation.steps": steps} if steps else {}
            folder = tmp_path / f"{len(steps)}-{seed}"
            write_run(folder, recipe=recipe, seed=seed, error=0.5, selected_on="validation", best={
                "error": error, "aurra": 0.5, "rms_calibration_error": 0.1,
            })  # fmt: skip
    table = tabulate([tmp_path], against="augmentation.steps=[]")
    assert DIFFERENCE not in table
    assert table[DIFFERENCES["best"]].dropna().tolist() == pytest.approx([-4.0])
    assert "-4.00 [-16.71, +8.71], 2" in as_text(table).to_string()


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("epochs=3", r"no baseline 'epochs=3': the runs differ in augmentation.moex.norm, augmentation.steps"),
        ("augmentation.moex.norm=ln", r"augmentation.moex.norm is in, pono, –"),
        ("nobody", r"no baseline 'nobody': the names are study"),
        ("study", r"3 recipes are called 'study': choose the baseline by KEY=VALUE"),
    ],
)
def test_what_is_no_baseline(outputs, against, message):
    with pytest.raises(ValueError, match=message):
        tabulate([outputs], against=against)


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}'])
def test_what_is_no_result(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match="is not a finished run"):
        tabulate([tmp_path])
    with pytest.raises(ValueError, match="holds no finished run"):
        tabulate([tmp_path / "nowhere"])


def test_it_is_printed(outputs):
    stream = StringIO()
    print_table(as_text(tabulate([outputs], against="augmentation.moex.norm=pono")), Console(file=stream, width=1000))
    printed = stream.getvalue()
    assert "[moex]" in printed
    assert f"{np.mean(ERRORS['pono']) * 100:.2f} ± {100 * np.std(ERRORS['pono'], ddof=1):.2f}" in printed
    assert "+6.50 [" in printed


def test_the_command(outputs, tmp_path):
    def call(*arguments):
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    answer = call("outputs", "--csv", "--against", "augmentation.moex.norm=pono")
    assert answer.returncode == 0, answer.stderr
    expected = tabulate([outputs], against="augmentation.moex.norm=pono")
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(answer.stdout), dtype=dict.fromkeys(["name"], str)), expected)
    answer = call("nowhere")
    assert answer.returncode == 1
    assert answer.stderr == "error: nowhere holds no finished run: no result.json is below it\n"
