"""A record: the finished runs that a folder holds, and the page that tells what came out.

A record's folder has `<name>/seed<k>/result.json` and `metrics.csv` of each run, copied from the folders of the
runs, and a README.md and a figure that are made of them alone.
"""

import shutil
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd

from moex.reporting.figures import compare_learning_curves
from moex.reporting.finished import metrics_of
from moex.reporting.runs import METRICS, RESULT, Run, group_runs, names_of, read_runs, splits_of
from moex.reporting.tables import as_text, markdown, tabulate

FILES = (RESULT, "metrics.csv")
CURVES = "learning_curves.png"


def find_runs(*folders: Path) -> list[Run]:
    """The finished runs below some folders, by name and seed.

    Raises:
        ValueError: there is none below one of them, a file is missing or unreadable, runs of one recipe and seed came
            out differently, or those of one name differ in their recipes.
    """
    runs = sorted(read_runs(folders), key=lambda run: (run.name, run.seed))
    for run in runs:
        _ = run.history
    for one, other in pairwise(runs):
        ours, theirs = one.result["recipe"], other.result["recipe"]
        different = sorted(key for key in ours | theirs if ours.get(key) != theirs.get(key))
        if one.name == other.name and different:
            raise ValueError(
                f"{one.folder} and {other.folder} are both {one.name!r} and differ in {', '.join(different)}"
            )
    return runs


def add_runs(record: Path, folders: Sequence[Path]) -> None:
    """Copies the finished runs below some folders into a record; nothing is copied where one does not fit.

    Raises:
        ValueError: as `find_runs`, of these runs and the record's together; or the record holds another run in the
            place of one.
    """
    copies = {
        record / run.name.replace("/", "_") / f"seed{run.seed}" / name: run.folder / name
        for run in find_runs(*folders)
        for name in FILES
    }
    for old, new in copies.items():
        if old.exists() and old.read_bytes() != new.read_bytes():
            raise ValueError(f"{old} is another run than {new}: delete it first if it is to be replaced")
    if any(record.rglob(RESULT)):
        find_runs(record, *folders)
    for new, source in copies.items():
        if not new.exists():
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, new)


def write_record(record: Path, *, command: str, against: str | None = None) -> list[Path]:
    """Writes the page and the figure of a record, and returns their paths.

    Args:
        record: its folder.
        command: how to make them again, for the page.
        against: the baselines that the page compares the others with, as `tabulate` takes them; None: none.

    Raises:
        ValueError: as `find_runs` and `tabulate`.
    """
    runs = find_runs(record)
    differences = "" if against is None else f"{_compare(record, against)}\n\n"
    figure = compare_learning_curves({names_of(group): [run.history for run in group] for group in group_runs(runs)})
    figure.savefig(record / CURVES)
    page = record / "README.md"
    page.write_text(
        f"""# {record.name}

Made by `{command}` from the `result.json` and `metrics.csv` of each run.
Test set; mean ± standard deviation over n seeds.

After the last epoch, without any selection:

{markdown(summarise(runs, "last"))}

{_best_epoch(splits_of(runs))}:

{markdown(summarise(runs, "best"))}

{differences}![learning curves]({CURVES})

## Runs

{markdown(provenance(runs))}
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
    groups = group_runs(runs)
    metrics = [
        name for name in METRICS if any(name in metrics_of(run.result, METRICS) for group in groups for run in group)
    ]
    for group in groups:
        table = 100 * pd.DataFrame([run.result[which] for run in group])
        cells = {METRICS[metric]: _mean_and_deviation(table[metric]) for metric in metrics}
        rows.append({"experiment": names_of(group), "n": len(group)} | cells)
    return pd.DataFrame(rows)


def _compare(record: Path, against: str) -> str:
    table = as_text(tabulate([record], against=against))
    difference = table.columns[-1]
    return f"Each against its baseline, over common seeds:\n\n{markdown(table[['name', difference]])}"


def _best_epoch(splits: str) -> str:
    if splits == "test":
        return "After the epoch with the lowest test error, which is chosen on the test set, as published errors are"
    return f"After the epoch with the lowest error on the set that chooses it ({splits})"


def _mean_and_deviation(values: "pd.Series[float]") -> str:
    deviation = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{deviation}"


def provenance(runs: Iterable[Run]) -> pd.DataFrame:
    """A row for each run: its command, how it came out, and on what, from which commit and when."""
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
