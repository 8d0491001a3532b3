"""A table of the paper beside what finished runs say: paper, ours, the gap, and each method against its baseline."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moex.reporting.comparison import Difference, compare, correct_by_holm
from moex.reporting.manifests import Cell, Number, Row, Table
from moex.reporting.runs import METRICS, Run
from moex.reporting.tables import ABSENT

# The runs of a cell, by the names of its row and its column.
Results = Mapping[tuple[str, str], Sequence[Run]]

UNCONFIRMED = "unconfirmed"
TITLES = {**METRICS, "mean_corruption_error": "mCE, %", "aupr": "AUPR, %", "validation_error": "validation error, %"}
LAST, BEST = "last", "best"
# Ends of the names of columns that belong to the column before them.
STD, LOW, HIGH = " std", " low", " high"


def figure(run: Run, table: Table, metric: str, which: str) -> float | None:
    """A figure of a run in percent, as a table shows it; None where the run has none.

    Args:
        run: finished.
        table: says which test set it is of.
        metric: one of `moex.reporting.manifests.FIGURES`.
        which: `last` or `best` epoch.
    """
    result = run.result
    if metric == "validation_error":
        block, metric = result.get("validation", {}), "error"
    elif table.test_set is not None:
        block = result.get("test_sets", {}).get(table.test_set, {})
    else:
        block = result
    value = block.get(which, {}).get(metric)
    return None if value is None else 100 * float(value)


def headline(table: Table, results: Results) -> str:
    """Which epoch's errors are compared: those that no test set selected.

    The last; where a validation set chose the best of all runs, the best.
    """
    chosen = {run.selected_on for runs in results.values() for run in runs}
    return BEST if chosen == {"validation"} else LAST


def tabulate_cells(table: Table, results: Results) -> pd.DataFrame:
    """A row for each cell of a table, all figures in percent, differences in points; NaN where there is nothing.

    Its columns are `method` and `column`; `n`, the number of seeds; for each metric of the table `paper`, what is
    reported, its mark, and mean and standard deviation after the last and the best epoch; `gap`, ours less the
    paper's, of best epochs, as published errors are; `baseline`, the row that it is compared with, and the paired
    difference to that in the first metric, over common seeds, with its intervals by Student's t and by the bootstrap,
    its p-value, and that corrected by Holm for all differences of the table.
    """
    metric, which = table.metrics[0], headline(table, results)
    rows: list[dict[str, Any]] = []
    differences: list[Difference] = []
    for row, column, cell in _cells(table):
        runs = results.get((row.name, column), ())
        values: dict[str, Any] = {"method": row.name, "column": column, "n": len(runs)}
        for name in table.metrics:
            values |= _figures(runs, table, cell, name)
        rows.append(values)
        baseline = results.get((row.against, column), ()) if row.against else ()
        values["baseline"] = row.against or ""
        differences.append(
            compare(
                *({run.seed: value for run, value in _values(one, table, metric, which)} for one in (runs, baseline))
            )
        )
    corrected = correct_by_holm([difference.p for difference in differences])
    for values, difference, p in zip(rows, differences, corrected, strict=True):
        values |= _columns(difference, p)
    return pd.DataFrame(rows)


def as_text(table: Table, cells: pd.DataFrame) -> pd.DataFrame:
    """What `tabulate_cells` returns, to be read: paper, ours, gap, and the difference to the baseline."""
    metric = table.metrics[0]
    shown: dict[str, list[str]] = {"method": list(cells["method"])}
    if len(table.columns) > 1:
        shown["on"] = list(cells["column"])
    for name in table.metrics:
        title = TITLES[name]
        paper = f"paper {title}"
        if cells[paper].notna().any():
            shown[paper] = [_reported(row, paper) for _, row in cells.iterrows()]
        for which in (LAST, BEST):
            column = f"{which} {title}"
            shown[column] = [_mean_text(row[column], row[column + STD]) for _, row in cells.iterrows()]
    shown["n"] = [str(count) for count in cells["n"]]
    if cells["gap"].notna().any():
        shown["gap of best, points"] = [_signed(value) for value in cells["gap"]]
    if cells["difference"].notna().any():
        compared = zip(cells["baseline"], cells["difference"], strict=True)
        shown["baseline"] = [ABSENT if math.isnan(difference) else name for name, difference in compared]
        shown[f"difference in {metric.replace('_', ' ')}, points [95 %, t]"] = [
            _with_interval(row, "difference", "t") for _, row in cells.iterrows()
        ]
        if cells[f"bootstrap{LOW}"].notna().any():
            shown["[95 %, bootstrap]"] = [_interval_text(row, "bootstrap") for _, row in cells.iterrows()]
    if cells["p"].notna().any():
        shown["p (Holm)"] = [
            ABSENT if math.isnan(row["p"]) else f"{_p_text(row['p'])} ({_p_text(row['p Holm'])})"
            for _, row in cells.iterrows()
        ]
    return pd.DataFrame(shown)


def _cells(table: Table) -> Iterable[tuple[Row, str, Cell]]:
    for row in table.rows:
        for column in table.columns:
            if column in row.cells:
                yield row, column, row.cells[column]


def _values(runs: Iterable[Run], table: Table, metric: str, which: str) -> list[tuple[Run, float]]:
    found = ((run, figure(run, table, metric, which)) for run in runs)
    return [(run, value) for run, value in found if value is not None]


def _figures(runs: Sequence[Run], table: Table, cell: Cell, metric: str) -> dict[str, Any]:
    title = TITLES[metric]
    number = reported_number(cell, metric)
    paper = np.nan if number is None else getattr(number, metric)
    values: dict[str, Any] = {
        f"paper {title}": paper,
        f"paper {title}{STD}": number.std if number is not None and metric == "error" and number.std else np.nan,
        f"paper {title} source": "" if number is None else number.source,
        f"paper {title} mark": UNCONFIRMED if number is not None and number.unconfirmed else "",
    }
    for which in (LAST, BEST):
        ours = np.array([value for _, value in _values(runs, table, metric, which)])
        values[f"{which} {title}"] = ours.mean() if len(ours) else np.nan
        values[f"{which} {title}{STD}"] = ours.std(ddof=1) if len(ours) > 1 else np.nan
    if metric == table.metrics[0]:
        values["gap"] = values[f"{BEST} {title}"] - paper
    return values


def reported_number(cell: Cell, metric: str) -> Number | None:
    """What is reported of a metric: a confirmed number before one that is not."""
    numbers = [number for number in cell.paper if getattr(number, metric) is not None]
    return min(numbers, key=lambda number: number.unconfirmed, default=None)


def _columns(difference: Difference, p: float | None) -> dict[str, float]:
    t, bootstrap = difference.interval or (np.nan, np.nan), difference.bootstrap or (np.nan, np.nan)
    return {
        "difference": difference.mean,
        f"t{LOW}": t[0],
        f"t{HIGH}": t[1],
        f"bootstrap{LOW}": bootstrap[0],
        f"bootstrap{HIGH}": bootstrap[1],
        "p": np.nan if difference.p is None else difference.p,
        "p Holm": np.nan if p is None else p,
        "pairs": difference.pairs,
    }


def _reported(row: "pd.Series[Any]", paper: str) -> str:
    mark = f" ({row[f'{paper} mark']})" if row[f"{paper} mark"] else ""
    return _mean_text(row[paper], row[paper + STD]) + mark


def _mean_text(mean: float, std: float) -> str:
    if math.isnan(mean):
        return ABSENT
    return f"{mean:.2f}" + ("" if math.isnan(std) else f" ± {std:.2f}")


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _signed(value: float) -> str:
    return ABSENT if math.isnan(value) else f"{value:+.2f}"


def _with_interval(row: "pd.Series[Any]", name: str, interval: str) -> str:
    if math.isnan(row[name]):
        return ABSENT
    return " ".join(filter(None, (f"{row[name]:+.2f}", _interval_text(row, interval, absent=""))))


def _interval_text(row: "pd.Series[Any]", name: str, *, absent: str = ABSENT) -> str:
    low, high = row[name + LOW], row[name + HIGH]
    return absent if math.isnan(low) else f"[{low:+.2f}, {high:+.2f}]"
