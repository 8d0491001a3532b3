"""A finished run: its `result.json`, and what the screen says of it."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
    """`result.json` of a finished run; None for a run that is not."""
    path = folder / "result.json"
    if not path.exists():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and the same command writes it again") from None
    return result


def show(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Prints the summary of a finished run: a table in percent for each test set, and where its figures are."""
    chosen = f"best epoch ({result['best']['epoch']:.0f}, chosen on the {result['selected_on']} set)"
    title = f"{result['name']}, seed {result['seed']}, {result['epochs']} epochs"
    own = {which: result[which] for which in ("last", "best")}
    console.print(_table("test set", own, chosen=chosen, title=title))
    for label, figures in result.get("test_sets", {}).items():
        console.print(_table(label, figures, chosen=chosen))
    console.print(
        f"{result['images_per_second']:,.0f} images/s, {result['seconds']:.0f} s on {result['device']}",
        highlight=False,
    )
    for path in sorted((folder / "figures").glob("*.png")):
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    console.print(f"  {folder / 'result.json'}", highlight=False, soft_wrap=True)


def _table(label: str, figures: dict[str, dict[str, float]], *, chosen: str, title: str | None = None) -> Table:
    """The figures of one test set, in percent; those of the best weights may be lost."""
    table = Table(title=title, title_justify="left")
    table.add_column(f"{label}, %")
    table.add_column("last epoch", justify="right")
    table.add_column(chosen, justify="right")
    shown = [name for name in figures["last"] if name not in ("epoch", "loss")]
    for name in shown:
        values = (figures[which][name] if which in figures else None for which in ("last", "best"))
        cells = ("lost" if value is None else f"{100 * value:.2f}" for value in values)
        table.add_row(TITLES.get(name, name.replace("_", " ")), *cells)
    return table
