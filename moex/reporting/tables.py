"""Any finished runs as a table: a row for each recipe, told by the keys in which the recipes differ."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from moex.reporting.comparison import compare
from moex.reporting.runs import METRICS, Run, group_runs, names_of, read_runs, splits_of

# Which metrics, of which epoch.
SHOWN = (("last", "error"), ("best", "error"), ("last", "aurra"), ("last", "rms_calibration_error"))
CHOSEN = "best chosen on"
DIFFERENCES = {which: f"difference in {which} error, points" for which in ("last", "best")}
# Ends of the names of columns that belong to the column before them.
DEVIATION, LOW, HIGH, PAIRS = " ±", " from", " to", " n"
ABSENT = "–"


def tabulate(folders: Sequence[Path], *, against: str | None = None) -> pd.DataFrame:
    """Tabulates the finished runs below some folders: a row for each recipe.

    Args:
        folders: of runs, or of any folders above them.
        against: which recipes are baselines: those that have these values, as `KEY=VALUE[,KEY=VALUE...]` of the
            columns, or the one of this name. Where several are, that of a row is the one that agrees with it in the
            most keys, those of the data set included.

    Returns:
        Names and, as text, the keys in which the recipes differ; n, the number of seeds; means and standard
        deviations (in the column after) in percent, of the last epoch and of the best, and which split chose that
        one. With `against`, the mean difference to the baseline over their common seeds, its 95 % interval by
        Student's t (NaN for a single seed), and the number of these seeds; NaN where there is no baseline. It is
        that of the last errors, or of the best ones where a validation set chose all of them.

    Raises:
        ValueError: as `read_runs`; or no recipe is as `against` says.
    """
    groups = group_runs(read_runs(folders))
    keys = _differing_keys(groups)
    groups.sort(key=lambda group: [_order(_value(group[0], key)) for key in keys])
    table = pd.DataFrame([_row(group, keys) for group in groups])
    if against is None:
        return table
    rows = [{key: _text(_value(group[0], key)) for key in keys} for group in groups]
    baselines = _find_baselines(rows, [names_of(group) for group in groups], against)
    # Errors without any selection on the set that they are measured on: where a validation set chose, the best.
    headline = "best" if all(run.selected_on == "validation" for group in groups for run in group) else "last"
    differences = [
        _paired_difference(group, [] if baseline is None else groups[baseline], headline)
        for group, baseline in zip(groups, baselines, strict=True)
    ]
    return pd.concat([table, pd.DataFrame(differences)], axis=1)


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """What `tabulate` returns in fewer columns, as text: mean ± standard deviation, difference [interval]."""
    shown: dict[str, list[str]] = {}
    for column in table.columns:
        if column.endswith((DEVIATION, LOW, HIGH, PAIRS)):
            continue
        values = table[column]
        if column in DIFFERENCES.values():
            parts = (table[column + end] for end in ("", LOW, HIGH, PAIRS))
            shown[f"{column} [95 % interval], n"] = [_interval_text(*row) for row in zip(*parts, strict=True)]
        elif column + DEVIATION in table:
            pairs = zip(values, table[column + DEVIATION], strict=True)
            shown[column] = [f"{mean:.2f}" + ("" if np.isnan(std) else f" ± {std:.2f}") for mean, std in pairs]
        else:
            shown[column] = [str(value) for value in values]
    return pd.DataFrame(shown)


def print_table(text: pd.DataFrame, console: Console, *, left: Collection[str] = ("name",)) -> None:
    """Prints a table of texts, such as `as_text` makes.

    Args:
        text: a row a line; without its index.
        console: where.
        left: the columns that are not numbers.
    """
    printed = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in text.columns:
        printed.add_column(column, overflow="fold", justify="left" if column in left else "right")
    for row in text.to_numpy():
        printed.add_row(*row)
    console.print(printed, markup=False, highlight=False)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _row(group: Sequence[Run], keys: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": names_of(group), **{key: _text(_value(group[0], key)) for key in keys}}
    row["n"] = len(group)
    for which, metric in SHOWN:
        values = 100 * np.array([run.result[which][metric] for run in group])
        title = f"{which} {METRICS[metric]}"
        row[title] = values.mean()
        row[title + DEVIATION] = values.std(ddof=1) if len(values) > 1 else np.nan
        if which == "best":
            row[CHOSEN] = splits_of(group)
    return row


def _differing_keys(groups: Sequence[Sequence[Run]]) -> list[str]:
    recipes = [group[0].result["recipe"] for group in groups]
    keys = sorted({key for recipe in recipes for key in recipe})
    return [key for key in keys if len({_text(_value(group[0], key)) for group in groups}) > 1]


def _value(run: Run, key: str) -> Any:
    """What a run has for a key that acts on another one: a recipe holds only what differs from the defaults."""
    recipe, config = run.result["recipe"], run.result["config"]
    if key in recipe:
        return recipe[key]
    *parts, leaf = key.split(".")
    if parts[:1] == ["augmentation"] and len(parts) > 1 and parts[1] not in config["augmentation"]["steps"]:
        # Its configuration may have it, and does not use it.
        return ABSENT
    for part in parts:
        config = config.get(part, {})
    return config.get(leaf, ABSENT)


def _text(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _order(value: object) -> tuple[bool, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (not number, float(value) if number else 0.0, _text(value))  # type: ignore[arg-type]


def _find_baselines(rows: Sequence[Mapping[str, str]], names: Sequence[str], against: str) -> list[int | None]:
    """For each row of the keys that differ, which row its baseline is; None where there is none, or it is one."""
    wanted: dict[str, str] = {}
    if "=" in against:
        # A value that is a list has commas too, but no equals sign after them.
        wanted = dict(item.split("=", 1) for item in re.split(r",(?=[\w.]+=)", against))
        if not wanted.keys() <= rows[0].keys():
            raise ValueError(f"no baseline {against!r}: the runs differ in {', '.join(rows[0]) or 'nothing'}")
        found = [i for i, row in enumerate(rows) if all(_equal(row[key], text) for key, text in wanted.items())]
        possible = [f"{key} is {', '.join(dict.fromkeys(row[key] for row in rows))}" for key in wanted]
    else:
        found = [i for i, name in enumerate(names) if against in name.split(", ")]
        possible = [f"the names are {', '.join(sorted(set(names)))}"]
        if len(found) > 1:
            raise ValueError(f"{len(found)} recipes are called {against!r}: choose the baseline by KEY=VALUE")
    if not found:
        raise ValueError(f"no baseline {against!r}: {'; '.join(possible)}")

    def agreement(index: int, row: Mapping[str, str]) -> int:
        """In how many keys a baseline agrees with a row; -1 where its errors are those of other data."""
        equal = {key: rows[index][key] == row[key] for key in row if key not in wanted}
        return sum(equal.values()) if all(equal[key] for key in equal if key.startswith("dataset.")) else -1

    baselines: list[int | None] = []
    for index, row in enumerate(rows):
        agreements = [agreement(i, row) for i in found]
        closest = max(agreements)
        clear = index not in found and closest >= 0 and agreements.count(closest) == 1
        baselines.append(found[agreements.index(closest)] if clear else None)
    return baselines


def _equal(value: str, text: str) -> bool:
    """Whether a value is meant: 1e-3 is 0.001."""
    try:
        return float(value) == float(text)
    except ValueError:
        return value == text.replace(" ", "")


def _paired_difference(group: Sequence[Run], baseline: Sequence[Run], which: str) -> Mapping[str, float]:
    ours, theirs = ({run.seed: 100 * run.result[which]["error"] for run in runs} for runs in (group, baseline))
    difference = compare(ours, theirs)
    low, high = difference.interval or (np.nan, np.nan)
    title = DIFFERENCES[which]
    return {title: difference.mean, title + LOW: low, title + HIGH: high, title + PAIRS: difference.pairs}


def _interval_text(mean: float, low: float, high: float, pairs: float) -> str:
    if np.isnan(mean):
        return ""
    interval = "" if np.isnan(low) else f" [{low:+.2f}, {high:+.2f}]"
    return f"{mean:+.2f}{interval}, {pairs:.0f}"
