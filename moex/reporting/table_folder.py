"""results/NAME: the summaries of the runs behind a table, and the table and the figures that are made of them alone.

`cells.json` says which run stands for which cell and seed; `runs/` holds `result.json` and `metrics.csv` of each, and
`predictions.json`, what the site's figures need of its predictions.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from moex.files import write_text_atomically
from moex.reporting.figures import compare_learning_curves, compare_with_reported
from moex.reporting.manifests import Table
from moex.reporting.predictions import SUMMARY, write_summary
from moex.reporting.records import FILES, provenance
from moex.reporting.reproduction import BEST, LAST, STD, TITLES, Results, as_text, headline, tabulate_cells
from moex.reporting.runs import RESULT, Run, read_run
from moex.reporting.tables import ABSENT, markdown

CELLS = "cells.json"
RUNS = "runs"


@dataclass(frozen=True, order=True)
class Entry:
    """Which run stands for a cell and a seed.

    Attributes:
        reduced: what was made smaller, in words, such as `epochs × 0.1`; empty for the whole recipe. The two kinds
            never share a table.
        row: of the table.
        column: of the table.
        seed: of the run.
        run: its folder, seen from that of the table.
        duplicate: whether another run of the same cell and seed, which came out otherwise, stands for it.
    """

    reduced: str
    row: str
    column: str
    seed: int
    run: str
    duplicate: bool = False


def add_run(folder: Path, run: Path, *, row: str, column: str, reduced: str) -> Entry:
    """Copies the summary of a finished run into a table's folder, unless it is there.

    Args:
        folder: of the table.
        run: its folder.
        row: of the table.
        column: of the table.
        reduced: what was made smaller; empty: nothing.

    Returns:
        Its entry: a duplicate, where another run stands for the cell and seed and came out otherwise.

    Raises:
        ValueError: it is not a finished run.
    """
    found = read_run(run / RESULT)
    entries = read_entries(folder)
    place = (reduced, row, column, found.seed)
    same_cell = [entry for entry in entries if (entry.reduced, entry.row, entry.column, entry.seed) == place]
    for entry in same_cell:
        if _came_out_alike(read_run(folder / entry.run / RESULT), found):
            _copy_summary(found, folder / entry.run)
            return entry
    recipe = re.sub(r"[^\w.+=,-]+", "_", run.parent.name)
    name = f"{recipe}/seed{found.seed}"
    # One recipe may stand in several cells, with one summary.
    target, number = folder / RUNS / name, 1
    while target.exists() and not _came_out_alike(read_run(target / RESULT), found):
        number += 1
        target = folder / RUNS / f"{name}-{number}"
    target.mkdir(parents=True, exist_ok=True)
    _copy_summary(found, target)
    entry = Entry(reduced, row, column, found.seed, str(target.relative_to(folder)), bool(same_cell))
    lines = ",\n  ".join(json.dumps(asdict(each), ensure_ascii=False) for each in sorted([*entries, entry]))
    write_text_atomically(folder / CELLS, f"[\n  {lines}\n]\n")
    return entry


def read_entries(folder: Path) -> list[Entry]:
    """Which runs stand for which cells; none where there is no file yet.

    Raises:
        ValueError: the file is none of ours.
    """
    path = folder / CELLS
    if not path.exists():
        return []
    try:
        return sorted(Entry(**entry) for entry in json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path} does not say which runs stand for which cells ({error})") from None


def read_results(folder: Path) -> dict[str, Results]:
    """The runs of each cell, by what was made smaller: first those of whole recipes, of which there may be none.

    Raises:
        ValueError: a file is missing or damaged.
    """
    kinds: dict[str, dict[tuple[str, str], list[Run]]] = {}
    for entry in read_entries(folder):
        if not entry.duplicate:
            cells = kinds.setdefault(entry.reduced, {})
            cells.setdefault((entry.row, entry.column), []).append(read_run(folder / entry.run / RESULT))
    return dict(kinds) or {"": {}}


def write_table(folder: Path, table: Table, *, command: str) -> list[Path]:
    """Writes table.md, table.csv, table.tex and the figures of a table's folder, and returns their paths.

    Args:
        folder: with `cells.json` and the runs.
        table: its manifest.
        command: how to make them again.

    Raises:
        ValueError: a file is missing or damaged.
    """
    entries = read_entries(folder)
    sections, frames, latex, paths = [], [], [], []
    for kind, results in read_results(folder).items():
        cells = tabulate_cells(table, results)
        text = as_text(table, cells)
        frames.append(cells.assign(reduced=kind))
        latex.append(f"% {kind or table.title}\n{_latex(text)}")
        figures = _draw(table, results, cells)
        for name, figure in figures.items():
            for ending in ("png", "svg"):
                path = folder / f"{_file_name(name, kind)}.{ending}"
                # The same bytes of the same runs: no date, and no names at random.
                with rc_context({"svg.hashsalt": name}):
                    figure.savefig(path, metadata={"Date": None} if ending == "svg" else None)
                paths.append(path)
        sections.append(_section(table, kind, results, text, [f"{_file_name(name, kind)}.png" for name in figures]))
    runs = [read_run(folder / entry.run / RESULT) for entry in entries if not entry.duplicate]
    page = [
        f"# {table.title}",
        f"Made by `{command}` of the summaries in `{RUNS}/` alone.{f' {table.note.strip()}' if table.note else ''}",
        *sections,
        *_duplicates(folder, entries),
    ]
    if runs:
        summary = f"<details><summary>{len(runs)} runs</summary>"
        page.append(f"## Runs\n\n{summary}\n\n{markdown(provenance(runs))}\n\n</details>")
    texts = {
        "table.md": "\n\n".join(page) + "\n",
        "table.csv": pd.concat(frames).to_csv(index=False),
        "table.tex": "\n".join(latex),
    }
    for name, content in texts.items():
        write_text_atomically(folder / name, content)
    return [*(folder / name for name in texts), *paths]


def _draw(table: Table, results: Results, cells: pd.DataFrame) -> dict[str, Figure]:
    figures = {}
    if cells["n"].any():
        figures["errors"] = compare_with_reported(_points(table, cells))
    for column in table.columns:
        histories = {
            row.name: [run.history for run in results[row.name, column]]
            for row in table.rows
            if (row.name, column) in results
        }
        if histories and table.test_set is None:
            figures[f"curves {column}" if len(table.columns) > 1 else "curves"] = compare_learning_curves(histories)
    return figures


def _latex(text: pd.DataFrame) -> str:
    lines = text.to_latex(index=False, escape=True, column_format="l" + "r" * (text.shape[1] - 1))
    return lines.replace("±", r"$\pm$").replace(ABSENT, "--")


def _points(table: Table, cells: pd.DataFrame) -> pd.DataFrame:
    """What `compare_with_reported` draws of the first metric's best epochs, as published errors are."""
    title = TITLES[table.metrics[0]]
    names = {
        "method": "method",
        "column": "column",
        f"paper {title}": "reported",
        f"paper {title} mark": "mark",
        f"best {title}": "mean",
        f"best {title}{STD}": "std",
    }
    return cells[[*names]].rename(columns=names)


def _section(table: Table, kind: str, results: Results, text: pd.DataFrame, figures: Iterable[str]) -> str:
    title = f"## Reduced: {kind}\n\n" if kind else ""
    note = "Not the recipe of the paper: these numbers stand beside each other alone.\n\n" if kind else ""
    which = headline(table, results)
    legend = (
        "Mean ± standard deviation over n seeds, in percent: *last*, after the last epoch, without any selection; "
        f"*best*, after the epoch that the {'validation' if which == 'best' else 'test'} set chose. Differences to "
        f"the baseline are those of *{which}*, paired by seed."
    )
    pictures = "\n\n".join(f"![{name}]({name})" for name in figures)
    return f"{title}{note}{legend}\n\n{markdown(text)}" + (f"\n\n{pictures}" if pictures else "")


def _duplicates(folder: Path, entries: Iterable[Entry]) -> list[str]:
    """What came out otherwise for a cell and seed that has its run: shown, and in no mean."""
    rows = []
    for entry in entries:
        if entry.duplicate:
            result = read_run(folder / entry.run / RESULT).result
            rows.append(
                {
                    "method": entry.row,
                    "on": entry.column,
                    "seed": entry.seed,
                    "last error, %": f"{100 * result['last']['error']:.2f}",
                    "hardware": result["device"],
                    "run": entry.run,
                }
            )
    return [f"## Duplicates, in no mean\n\n{markdown(pd.DataFrame(rows))}"] if rows else []


def _copy_summary(run: Run, target: Path) -> None:
    """Copies what is not there yet; of the predictions, the numbers that figures need."""
    for file in FILES:
        if not (target / file).exists():
            shutil.copyfile(run.folder / file, target / file)
    if not (target / SUMMARY).exists():
        write_summary(run.folder, target, of=BEST if run.selected_on == "validation" else LAST)


def _came_out_alike(one: Run, other: Run) -> bool:
    return all(one.result[which] == other.result[which] for which in ("last", "best"))


def _file_name(name: str, kind: str) -> str:
    return re.sub(r"[^\w.]+", "_", f"{name} {kind}".strip()).lower()
