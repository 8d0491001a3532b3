"""A record: the finished runs that a folder holds, and the page that tells what came out.

A record's folder has `<name>/seed<k>/result.json` and `metrics.csv` of each run, copied from the folders of the
runs, and a README.md and a figure that are made of them alone.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from moex.reporting.figures import compare_learning_curves

FILES = ("result.json", "metrics.csv")
CURVES = "learning_curves.png"
METRICS = {
    "error": "error, %",
    "top5_error": "top-5 error, %",
    "rms_calibration_error": "RMS calibration error, %",
    "aurra": "AURRA, %",
    "ece": "ECE, %",
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where its files are.
        result: its result.json; metrics are fractions.
        history: its metrics.csv.
    """

    folder: Path
    result: dict[str, Any]
    history: pd.DataFrame

    @property
    def name(self) -> str:
        """The experiment's."""
        return str(self.result["name"])


def find_runs(folder: Path) -> list[Run]:
    """The finished runs below a folder, by name and seed.

    Raises:
        ValueError: there is none, a file is missing or unreadable, or runs of one name differ in their recipes.
    """
    runs = []
    for path in sorted(folder.rglob("result.json")):
        try:
            result = json.loads(path.read_text())
            runs.append(Run(path.parent, result, pd.read_csv(path.with_name("metrics.csv"))))
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.parent} is not a finished run ({error})") from None
    if not runs:
        raise ValueError(f"{folder} holds no finished run: no result.json is below it")
    for name, group in group_by_name(runs).items():
        for run in group[1:]:
            ours, theirs = group[0].result["recipe"], run.result["recipe"]
            different = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
            if different:
                raise ValueError(
                    f"{group[0].folder} and {run.folder} are both {name!r} and differ in {', '.join(different)}"
                )
    return sorted(runs, key=lambda run: (run.name, run.result["seed"]))


def group_by_name(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """The runs of each experiment, in the order in which the experiments come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def add_runs(record: Path, folders: Sequence[Path]) -> None:
    """Copies the finished runs below some folders into a record.

    Raises:
        ValueError: there is none below one of them, or the record holds another run in its place.
    """
    for folder in folders:
        for run in find_runs(folder):
            target = record / run.name / f"seed{run.result['seed']}"
            for name in FILES:
                old, new = target / name, run.folder / name
                if old.exists() and old.read_bytes() != new.read_bytes():
                    raise ValueError(f"{old} is another run than {new}: delete it first if it is to be replaced")
            target.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                shutil.copyfile(run.folder / name, target / name)


def write_record(record: Path, *, command: str) -> list[Path]:
    """Writes the page and the figure of a record, and returns their paths.

    Args:
        record: its folder.
        command: how to make them again, for the page.

    Raises:
        ValueError: as `find_runs`.
    """
    runs = find_runs(record)
    groups = group_by_name(runs)
    figure = compare_learning_curves({name: [run.history for run in group] for name, group in groups.items()})
    figure.savefig(record / CURVES)
    page = record / "README.md"
    page.write_text(
        f"""# {record.name}

Made by `{command}` from the `result.json` and `metrics.csv` of each run.
Test set; mean ± standard deviation over n seeds.

After the last epoch, without any selection:

{markdown(summarise(runs, "last"))}

After the epoch with the lowest test error, which is chosen on the test set, as published errors are:

{markdown(summarise(runs, "best"))}

![learning curves]({CURVES})

## Runs

{markdown(_provenance(runs))}
"""
    )
    return [page, record / CURVES]


def summarise(runs: Iterable[Run], which: str) -> pd.DataFrame:
    """A row an experiment: n and, as text in percent, the mean and standard deviation of each metric.

    Args:
        runs: of any experiments.
        which: `last` or `best` epoch.
    """
    rows = []
    for name, group in group_by_name(runs).items():
        table = 100 * pd.DataFrame([run.result[which] for run in group])
        cells = {title: _mean_and_deviation(table[metric]) for metric, title in METRICS.items()}
        rows.append({"experiment": name, "n": len(group)} | cells)
    return pd.DataFrame(rows)


def _mean_and_deviation(values: "pd.Series[float]") -> str:
    deviation = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation}"


def _provenance(runs: Iterable[Run]) -> pd.DataFrame:
    rows = []
    for run in runs:
        result = run.result
        commit = str(result["commit"])[:10] + (" (with changes)" if result["dirty"] else "")
        rows.append(
            {
                "command": f"`{result['command']}`",
                "error, %": f"{100 * result['last']['error']:.2f}",
                "epochs": result["epochs"],
                "minutes": f"{result['seconds'] / 60:.1f}",
                "images/s": f"{result['images_per_second']:,.0f}",
                "precision": result["precision"],
                "hardware": f"{result['device']}, {result['threads']} threads",
                "torch": result["versions"]["torch"],
                "commit": commit,
                "date": result["end"][:10],
            }
        )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, without its index."""
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
