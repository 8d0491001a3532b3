"""The table of an evaluation: a row for each network on each data set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from moex.files import write_text_atomically
from moex.reporting.tables import ABSENT, markdown, print_table

Result = Mapping[str, Any]

# What is shown of the figures, in this order, and what it is called.
COLUMNS = {
    "error": "error, %",
    "top5_error": "top-5 error, %",
    "aurra": "AURRA, %",
    "rms_calibration_error": "RMS cal. error, %",
    "rms_calibration_error_all_bins": "all bins, %",
    "ece": "ECE, %",
    "aupr": "AUPR, %",
    "mean_corruption_error": "mCE, %",
    "mean_error": "mean error, %",
}
# Results that are printed beside each other: more do not fit a screen of 80 columns.
BESIDE = 3
LOW, HIGH = " from", " to"


def tabulate_evaluations(results: Sequence[Result]) -> pd.DataFrame:
    """A row for each result: figures in percent, each with the ends of its interval, if there are any.

    Args:
        results: contents of `evaluation.json`.
    """
    rows = []
    for result in results:
        row: dict[str, Any] = {
            "network": result["name"],
            "data set": result["label"],
            "n": sum(result["samples"].values()),
        }
        rows.append(row | _figures(result["figures"], result["intervals"]))
        if "temperature" in result:
            tempered = result["temperature"]
            count = row["n"] - tempered["fitted_on"]
            for which, note in (("without", "T = 1"), ("with", f"T = {tempered['temperature']:.3f}")):
                title = f"{result['label']}, {note}"
                rows.append({**row, "data set": title, "n": count} | _figures(tempered[which], {}))
    table = pd.DataFrame(rows)
    order = ["network", "data set", "n", *(column + end for column in COLUMNS.values() for end in ("", LOW, HIGH))]
    return table[[name for name in order if name in table]]


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """What `tabulate_evaluations` returns in fewer columns, as text: figure [interval]."""
    shown: dict[str, list[str]] = {}
    for column in table.columns:
        if column.endswith((LOW, HIGH)):
            continue
        if column in COLUMNS.values():
            ends = (table.get(column + end, pd.Series(index=table.index, dtype=float)) for end in (LOW, HIGH))
            shown[column] = [_interval(*values) for values in zip(table[column], *ends, strict=True)]
        else:
            shown[column] = [f"{value:,}" if column == "n" else str(value) for value in table[column]]
    return pd.DataFrame(shown)


def show_table(results: Sequence[Result], console: Console) -> None:
    """Prints the table of some results, a column for each, a few beside each other."""
    text = as_text(tabulate_evaluations(results))
    for start in range(0, len(text), BESIDE):
        block = text[start : start + BESIDE]
        columns = block.T.reset_index()
        columns.columns = pd.Index(["", *(str(number + 1) for number in block.index)])
        print_table(columns, console, left=("",))


def save_table(results: Sequence[Result], path: Path) -> None:
    """Writes the table, as Markdown, or as CSV with all digits, by the ending of the path."""
    table = tabulate_evaluations(results)
    text = table.to_csv(index=False) if path.suffix == ".csv" else markdown(as_text(table)) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, text)


def _figures(figures: Mapping[str, float], intervals: Mapping[str, Sequence[float]]) -> dict[str, float]:
    row = {}
    for name, title in COLUMNS.items():
        if name in figures:
            row[title] = 100 * figures[name]
            if name in intervals:
                row[title + LOW], row[title + HIGH] = (100 * end for end in intervals[name])
    return row


def _interval(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return ABSENT
    return f"{value:.2f}" + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]")
