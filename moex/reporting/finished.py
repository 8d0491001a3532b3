"""A finished run: its `result.json`, and what the screen says of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moex.reporting.predictions import PREDICTIONS
from moex.reporting.runs import RESULT, read_run

TITLES = {
    "error": "error",
    "top5_error": "top-5 error",
    "rms_calibration_error": "RMS calibration error",
    "rms_calibration_error_all_bins": "RMS calibration error, all bins",
    "aurra": "AURRA",
    "ece": "ECE",
    "aupr": "AUPR",
}


def read_result(folder: Path) -> dict[str, Any] | None:
    """`result.json` of a finished run; None for a run that is not.

    Raises:
        ValueError: it is damaged, or cannot be read.
    """
    path = folder / RESULT
    return read_run(path, to_show=True).result if path.exists() else None


def metrics_of(result: Mapping[str, Any], metrics: Iterable[str]) -> list[str]:
    """Those of the metrics that say anything: of five classes, the right one is always among the first five."""
    counts = result.get("confusion", {}).get("test")
    return [name for name in metrics if name != "top5_error" or counts is None or len(counts) > 5]


def show(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Prints the summary of a finished run: a table in percent for each test set, and where its figures are."""
    chosen = f"best epoch ({result['best']['epoch']:.0f}, chosen on the {result.get('selected_on', 'test')} set)"
    title = f"{result['name']}, seed {result['seed']}, {result['epochs']} epoch{'s' if result['epochs'] > 1 else ''}"
    own = {which: result[which] for which in ("last", "best")}
    tables = {"test set": own, **result.get("test_sets", {})}
    for number, (label, figures) in enumerate(tables.items()):
        shown = metrics_of(result, (name for name in figures["last"] if name not in ("epoch", "loss")))
        console.print(_table(label, figures, shown, chosen=chosen, title=None if number else title))
    console.print(
        f"{result['images_per_second']:,.0f} images/s, {result['seconds']:.0f} s on {result['device']}",
        highlight=False,
    )
    for path in sorted((folder / "figures").glob("*.png")):
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    console.print(f"  {folder / RESULT}", highlight=False, soft_wrap=True)
    predictions = folder / PREDICTIONS
    if not predictions.exists():
        again = f"without {folder / RESULT}, the same command writes it again from the last checkpoint"
        console.print(f"warning: {predictions} is missing; {again}", highlight=False, soft_wrap=True, markup=False)


def _table(
    label: str, figures: dict[str, dict[str, float]], shown: Iterable[str], *, chosen: str, title: str | None
) -> Table:
    """The figures of one test set, in percent; those of the best weights may be lost."""
    table = Table(title=title, title_justify="left")
    table.add_column(f"{label}, %")
    table.add_column("last epoch", justify="right")
    table.add_column(chosen, justify="right")
    for name in shown:
        values = (figures[which][name] if which in figures else None for which in ("last", "best"))
        cells = ("lost" if value is None else f"{100 * value:.2f}" for value in values)
        table.add_row(TITLES.get(name, name.replace("_", " ")), *cells)
    return table
