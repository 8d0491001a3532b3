"""The paper's table beside ours: every number against NumPy and SciPy, and never without its mark."""

import numpy as np
import pytest
from scipy import stats

from moex.reporting.manifests import Cell, Number, Row, Table
from moex.reporting.reproduction import as_text, figure, headline, tabulate_cells
from moex.reporting.runs import Run

ERRORS = {"plain": [0.262, 0.265, 0.258], "MoEx": [0.255, 0.256, 0.257], "CutMix": [0.249]}

REPORTED = {"error": 26.3, "std": 0.1, "source": "p", "unconfirmed": True}


def run(seed, error, **changes):
    metrics = {"error": error, "aurra": 1 - error}
    best = {name: value - 0.01 for name, value in metrics.items()}
    return Run(None, {"name": "x", "seed": seed, "recipe": {}, "last": metrics, "best": best} | changes)


def cell(name, *numbers):
    return Cell(experiment=name, paper=[Number(**number) for number in numbers])


@pytest.fixture
def table():
    return Table(
        title="a table",
        metrics=["error", "aurra"],
        seeds=[0, 1, 2],
        columns=["CIFAR-100"],
        rows=[
            Row("plain", cells={"CIFAR-100": cell("a", REPORTED)}),
            Row("MoEx", "plain", {"CIFAR-100": cell("b", {"error": 25.5, "source": "p", "unconfirmed": True},
                                                   {"error": 25.4, "source": "q"})}),
            Row("CutMix", "plain", {"CIFAR-100": cell("c")}),
            Row("nobody", "plain", {"CIFAR-100": cell("d")}),
        ],
    )  # fmt: skip


@pytest.fixture
def results():
    return {
        (name, "CIFAR-100"): [run(seed, error) for seed, error in enumerate(errors)]
        for name, errors in ERRORS.items()
    }


def test_every_number(table, results):
    cells = tabulate_cells(table, results).set_index("method")
    assert cells["n"].tolist() == [3, 3, 1, 0]
    for name, errors in ERRORS.items():
        ours = 100 * np.array(errors)
        assert cells.loc[name, "last error, %"] == pytest.approx(ours.mean(), abs=1e-12)
        assert cells.loc[name, "best error, %"] == pytest.approx(ours.mean() - 1, abs=1e-12)
        assert cells.loc[name, "last AURRA, %"] == pytest.approx(100 - ours.mean(), abs=1e-12)
    assert cells.loc["plain", "gap"] == pytest.approx(100 * np.mean(ERRORS["plain"]) - 1 - 26.3, abs=1e-12)
    # A number that was confirmed comes before one that was not.
    assert cells.loc["MoEx", ["paper error, %", "paper error, % mark"]].tolist() == [25.4, ""]
    ours, theirs = (100 * np.array(ERRORS[name]) for name in ("MoEx", "plain"))
    oracle = stats.ttest_rel(ours, theirs)
    assert cells.loc["MoEx", "difference"] == pytest.approx((ours - theirs).mean(), abs=1e-12)
    assert tuple(cells.loc["MoEx", ["t low", "t high"]]) == pytest.approx(tuple(oracle.confidence_interval(0.95)))
    # There is one test in this table.
    assert cells.loc["MoEx", ["p", "p Holm"]].tolist() == pytest.approx([oracle.pvalue] * 2)
    assert cells.loc["CutMix", "difference"] == pytest.approx(24.9 - 26.2, abs=1e-12)
    assert cells.loc["CutMix", ["t low", "p"]].isna().all()
    assert cells.loc["nobody", ["last error, %", "gap", "difference"]].isna().all()


def test_what_is_read(table, results):
    text = as_text(table, tabulate_cells(table, results)).set_index("method")
    assert text.loc["plain", "paper error, %"] == "26.30 ± 0.10 (unconfirmed)"
    assert text.loc["MoEx", "paper error, %"] == "25.40"
    assert text.loc["CutMix", "paper error, %"] == "–"
    assert text.loc["CutMix", "last error, %"] == "24.90"
    assert text.loc["nobody"].tolist() == ["–", "–", "–", "–", "–", "0", "–", "–", "–", "–"]
    assert text.loc["plain", "difference in error, points [95 %, t]"] == "–"
    assert text.loc["CutMix", "difference in error, points [95 %, t]"] == "-1.30"
    assert text["baseline"].tolist() == ["–", "plain", "plain", "–"]
    assert text.loc["plain", "gap of best, points"] == "-1.13"


def test_several_columns_are_told_apart(table, results):
    table.columns = ["CIFAR-10", "CIFAR-100"]
    table.rows[0].cells["CIFAR-10"] = cell("e")
    text = as_text(table, tabulate_cells(table, results))
    assert text[["method", "on"]].to_numpy().tolist()[:2] == [["plain", "CIFAR-10"], ["plain", "CIFAR-100"]]


def test_where_a_validation_set_chose_the_best_errors_are_compared(table, results):
    assert headline(table, results) == "last"
    for runs in results.values():
        for one in runs:
            one.result["selected_on"] = "validation"
            one.result["validation"] = {"best": {"error": 0.2}}
    # Apart from the last ones.
    results["MoEx", "CIFAR-100"][0].result["best"]["error"] = 0.1
    assert headline(table, results) == "best"
    cells = tabulate_cells(table, results).set_index("method")
    expected = 100 * (np.mean([0.1, 0.246, 0.247]) - np.mean(ERRORS["plain"]) + 0.01)
    assert cells.loc["MoEx", "difference"] == pytest.approx(expected, abs=1e-12)
    one = results["MoEx", "CIFAR-100"][0]
    assert figure(one, table, "validation_error", "best") == pytest.approx(20)
    assert figure(one, table, "validation_error", "last") is None


def test_a_table_of_another_test_set(table):
    table.test_set = "imagenet_a"
    one = run(0, 0.2, test_sets={"imagenet_a": {"last": {"error": 0.9}}})
    assert figure(one, table, "error", "last") == pytest.approx(90)
    assert figure(one, table, "error", "best") is None
    assert figure(run(0, 0.2), table, "error", "last") is None


def test_a_table_without_an_error(table, results):
    """ImageNet-O's: what is known of it is one figure."""
    table.test_set, table.metrics = "imagenet_o", ["aupr"]
    for row, aupr in (("plain", 0.17), ("MoEx", 0.2)):
        for one in results[row, "CIFAR-100"]:
            one.result["test_sets"] = {"imagenet_o": {which: {"aupr": aupr} for which in ("last", "best")}}
    text = as_text(table, tabulate_cells(table, results)).set_index("method")
    assert text.loc["MoEx", "last AUPR, %"] == "20.00 ± 0.00"
    assert text.loc["MoEx", "difference in aupr, points [95 %, t]"] == "+3.00 [+3.00, +3.00]"
    assert text.loc["CutMix", "last AUPR, %"] == "–"
