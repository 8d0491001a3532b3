"""The figures of a table's page: each method above its baseline, in a panel of its own."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from moex.reporting.figures import confusion_matrix
from moex.reporting.manifests import Table
from moex.reporting.predictions import RATES
from moex.reporting.reproduction import BEST, STD, TITLES, Results, headline
from moex.reporting.runs import Run
from moex.reporting.site.answers import HIGHER, LOWER, Answer
from moex.reporting.site.pictures import (
    TEXT,
    Picture,
    file_name,
    label_edges,
    legend,
    new_figure,
    panels,
    plain,
    spread,
)
from moex.reporting.style import BLUE, GREY, ORANGE, tell_last_epochs_apart

# What figures need of the predictions of runs, by their folders; None where nothing is known of them.
Kept = Mapping[Path, Mapping[str, Any] | None]
Draw = Callable[[Axes, Any, dict[str, Any]], None]
METHOD = {"color": BLUE, "linestyle": "-", "label": "the method"}
BASELINE = {"color": GREY, "linestyle": "--", "label": "its baseline"}
NOT_COMPARED = {"color": BLUE, "linestyle": "-", "label": None}
# Up to this many points, each is marked.
FEW = 12
# Predictions in a bin of which the accuracy says something.
FEWEST = 10


def reported_and_measured(name: str, cells: pd.DataFrame, table: Table) -> list[Picture]:
    """Errors of the best epochs, as published ones are, beside what is reported: a figure a column."""
    title, pictures = TITLES[table.metrics[0]], []
    for column in table.columns:
        part = cells[cells["column"] == column]
        if not part["n"].any():
            continue
        # Rows about which nothing is known take no room.
        part = part[(part["n"] > 0) | part[f"paper {title}"].notna()]
        places = np.arange(len(part))
        figure = new_figure(0.9 + 0.27 * len(part))
        axes = figure.subplots()
        marked = (part[f"paper {title} mark"] != "").to_numpy()
        paper = part[f"paper {title}"].to_numpy(dtype=float)
        for rows, marker, label in ((~marked, "D", "reported"), (marked, "d", "reported, unconfirmed")):
            if np.isfinite(paper[rows]).any():
                axes.plot(paper[rows], places[rows], marker, color=GREY, fillstyle="none", label=label)
        deviation = part[f"best {title}{STD}"].fillna(0)
        axes.errorbar(
            part[f"best {title}"], places, xerr=deviation, fmt="o", color=BLUE, capsize=3, label="measured here"
        )
        axes.set_yticks(places, part["method"])
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.set_xlabel(f"best epoch, {title}", fontsize=9)
        plain(axes)
        axes.grid(visible=False, axis="y")
        legend(figure, [axes])
        pictures.append(
            Picture(
                file_name(name, "errors", column),
                figure,
                f"Measured{' and reported' if np.isfinite(paper).any() else ''}: {column}",
                "Mean of the best epochs over seeds ± one standard deviation.",
            )
        )
    return pictures


def learning_curves(name: str, table: Table, results: Results) -> list[Picture]:
    """Errors by epoch, of the validation set where all runs have one; no figure of a test set that is seen once."""
    if table.test_set is not None:
        return []
    # A test set is not looked at after each epoch where there is a validation set.
    split = "validation" if headline(table, results) == BEST else "test"

    def read(run: Run) -> "pd.Series[float]":
        return 100 * run.history.set_index("epoch")[f"{split}_error"].dropna()

    def draw(axes: Axes, runs: "Sequence[pd.Series[float]]", style: dict[str, Any]) -> None:
        common = pd.concat(runs, axis=1, join="inner")
        mean, low, high = spread([common.iloc[:, place].to_numpy() for place in range(common.shape[1])])
        _line(axes, common.index.to_numpy(), mean, low, high, style)

    def finish(axes: Sequence[Axes]) -> None:
        top = max(each.dataLim.ymax for each in axes)
        axes[0].set_ylim(0, 1.05 * top if top > 0 else 1)
        tell_last_epochs_apart(*axes)
        axes[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))

    return _multiples(
        name,
        "curves",
        table,
        results,
        read,
        draw,
        finish,
        title="Learning curves",
        caption=f"Mean {split} error over seeds, in a band from the lowest to the highest; on a logarithmic scale "
        "where it ends far below its beginning.",
        x="epoch",
        y=f"{split} error, %",
    )


def reliability(name: str, table: Table, results: Results, kept: Kept) -> list[Picture]:
    """Accuracy against confidence, the predictions of all seeds together."""

    def draw(axes: Axes, summaries: Sequence[Mapping[str, Any]], style: dict[str, Any]) -> None:
        samples, confidence, accuracy = (
            np.array([[np.nan if value is None else value for value in each["bins"][key]] for each in summaries])
            for key in ("samples", "confidence", "accuracy")
        )
        total = samples.sum(axis=0)
        filled = total >= FEWEST
        means = [np.nansum(samples * values, axis=0)[filled] / total[filled] for values in (confidence, accuracy)]
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=":")
        axes.plot(100 * means[0], 100 * means[1], linewidth=1.3, **style)
        # Area by the share of all predictions.
        axes.scatter(
            100 * means[0], 100 * means[1], s=160 * total[filled] / total.sum(), color=style["color"], linewidths=0
        )

    def finish(axes: Sequence[Axes]) -> None:
        axes[0].set(xlim=(0, 100), ylim=(0, 100))

    return _multiples(
        name,
        "reliability",
        table,
        results,
        lambda run: kept[run.folder],
        draw,
        finish,
        title="Reliability",
        caption="Accuracy against confidence in 15 bins, all seeds together; a dot's area is its share of the "
        f"predictions, and bins of less than {FEWEST} are left out. Below the dotted line, confidence is too high.",
        x="confidence, %",
        y="accuracy, %",
    )


def response_rate(name: str, table: Table, results: Results, kept: Kept) -> list[Picture]:
    """Accuracy among the most confident predictions, whose area is AURRA."""

    def draw(axes: Axes, summaries: Sequence[Mapping[str, Any]], style: dict[str, Any]) -> None:
        mean, low, high = spread([100 * np.array(each["accuracy"], dtype=float) for each in summaries])
        _line(axes, 100 * RATES, mean, low, high, style)

    def finish(axes: Sequence[Axes]) -> None:
        lowest = min(each.dataLim.ymin for each in axes)
        axes[0].set(xlim=(0, 100), ylim=(max(0, lowest - 0.05 * (100 - lowest)), 100 + 0.02 * (100 - lowest)))

    return _multiples(
        name,
        "response_rate",
        table,
        results,
        lambda run: kept[run.folder],
        draw,
        finish,
        title="Accuracy against response rate",
        caption="Accuracy where only the most confident share is answered: mean over seeds, in a band from the "
        "lowest to the highest. The area below is AURRA.",
        x="response rate, %",
        y="accuracy, %",
    )


def study_plot(name: str, cells: pd.DataFrame, table: Table, results: Results, *, axis: str) -> list[Picture]:
    """The first metric against what a study varies, a panel for each column."""
    which = headline(table, results)
    title = TITLES[table.metrics[0]]
    shown = [column for column in table.columns if cells.loc[cells["column"] == column, "n"].any()]
    names = [row.name for row in table.rows]
    numbers = pd.to_numeric(pd.Series(names), errors="coerce")
    # Between names there is nothing that a line could tell.
    are_numbers = numbers.notna().all()
    marks = "o-" if are_numbers else "o"
    figure, grid = panels(shown, columns=1, height=2.4)
    for axes, column in zip(grid, shown, strict=True):
        part = cells[(cells["column"] == column) & (cells["n"] > 0)]
        order = part["method"].map(names.index)
        places = numbers[order].to_numpy() if are_numbers else order
        values, deviation = part[f"{which} {title}"], part[f"{which} {title}{STD}"].fillna(0)
        axes.errorbar(places, values, yerr=deviation, fmt=marks, color=BLUE, capsize=3, linewidth=1.3)
        baseline = next(row.name for row in table.rows if row.against is None)
        level = part.loc[part["method"] == baseline, f"{which} {title}"]
        if len(level):
            axes.axhline(level.iloc[0], color=GREY, linestyle="--", linewidth=1, label=f"baseline: {baseline}")
    if not are_numbers:
        grid[0].set_xticks(range(len(names)), names, rotation=20, ha="right")
    label_edges(figure, grid, x=axis, y=f"{which} {title}")
    legend(figure, grid)
    caption = "Mean over seeds ± one standard deviation."
    return [Picture(file_name(name, "study"), figure, f"The error by {axis}", caption)]


def confusions(name: str, table: Table, results: Results, kept: Kept) -> list[Picture]:
    """What is taken for what, a figure for each cell with few classes, all seeds together."""
    pictures = []
    for row, column in ((row.name, column) for row in table.rows for column in table.columns):
        runs = results.get((row, column), ())
        counts = [run.result["confusion"]["test"] for run in runs if "confusion" in run.result]
        if not counts or len({len(each) for each in counts}) > 1:
            continue
        classes = (kept[runs[0].folder] or {}).get("classes") or [str(label) for label in range(len(counts[0]))]
        on = f", {column}" if len(table.columns) > 1 else ""
        pictures.append(
            Picture(
                file_name(name, "confusion", row, column),
                confusion_matrix(np.sum(counts, axis=0), classes),
                f"{row}{on}",
                f"Test samples of {len(counts)} {'seed' if len(counts) == 1 else 'seeds'}: labels down, predictions "
                "across.",
            )
        )
    return pictures


def differences(answers: Sequence[Answer]) -> Picture:
    """Each method with MoEx less its baseline: points of error, with intervals; where they hold zero, hollow."""
    figure = new_figure(0.85 + 0.46 * len(answers))
    axes = figure.subplots()
    styles = {LOWER: (BLUE, "o", "full", "lower error"), HIGHER: (ORANGE, "s", "full", "higher error")}
    for place, answer in enumerate(answers):
        colour, marker, fill, label = styles.get(answer.verdict, (GREY, "D", "none", "no clear difference"))
        if not np.isnan(answer.low):
            axes.plot([answer.low, answer.high], [place, place], color=colour, linewidth=1.6)
        axes.plot(answer.difference, place, marker, color=colour, fillstyle=fill, markersize=6, label=label)
        text = f"{answer.method} · {answer.place}"
        text = text if len(text) <= 62 else text[:61] + "…"
        axes.annotate(
            text, (0, place - 0.42), xycoords=("axes fraction", "data"), fontsize=8, va="center", color=TEXT
        )
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set(ylim=(len(answers) - 0.5, -0.85), yticks=[])
    axes.set_xlabel("error with MoEx less that of the baseline, points", fontsize=9)
    plain(axes)
    axes.spines["left"].set_visible(False)
    legend(figure, [axes])
    caption = "Mean paired difference over seeds with its 95 % interval by Student's t; one seed has none."
    return Picture("differences", figure, "Every method with MoEx, less its baseline", caption)


def _multiples(
    name: str,
    what: str,
    table: Table,
    results: Results,
    read: Callable[[Run], Any],
    draw: Draw,
    finish: Callable[[Sequence[Axes]], None],
    *,
    title: str,
    caption: str,
    x: str,
    y: str,
) -> list[Picture]:
    """A figure for each column: a panel for each row that has a baseline, or is nobody's."""
    pictures = []
    for column in table.columns:
        found: dict[str, list[Any]] = {}
        for row in table.rows:
            values = [value for run in results.get((row.name, column), ()) if (value := read(run)) is not None]
            if values:
                found[row.name] = values
        compared = {row.name: row.against for row in table.rows if row.name in found and row.against in found}
        shown = [name for name in found if name in compared or name not in compared.values()]
        if not shown:
            continue
        figure, grid = panels(shown)
        for axes, row_name in zip(grid, shown, strict=True):
            against = compared.get(row_name)
            if against is not None:
                draw(axes, found[against], BASELINE)
            draw(axes, found[row_name], NOT_COMPARED if against is None else METHOD)
        finish(grid)
        label_edges(figure, grid, x=x, y=y)
        legend(figure, grid)
        seeds = sorted({len(values) for values in found.values()})
        on = f": {column}" if len(table.columns) > 1 else ""
        count = f" n = {seeds[0]}." if len(seeds) == 1 else f" n = {seeds[0]} to {seeds[-1]}."
        pictures.append(Picture(file_name(name, what, column), figure, title + on, caption + count))
    return pictures


def _line(
    axes: Axes, x: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray, style: dict[str, Any]
) -> None:
    axes.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)
    axes.plot(x, mean, marker="o" if len(x) <= FEW else None, markersize=3, linewidth=1.4, **style)
