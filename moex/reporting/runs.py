"""Finished runs, as their folders tell of them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

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
    """

    folder: Path
    result: dict[str, Any]

    @property
    def name(self) -> str:
        """What people call it; runs of one name may differ in their recipes."""
        return str(self.result["name"])

    @property
    def seed(self) -> int:
        """The seed of all its draws."""
        return int(self.result["seed"])

    @property
    def recipe(self) -> str:
        """What acts on the training, as a text to compare: a recipe and a seed are one run."""
        return json.dumps(self.result["recipe"], sort_keys=True)

    @property
    def selected_on(self) -> str:
        """The split that chose the best epoch."""
        return str(self.result.get("selected_on", "test"))

    @cached_property
    def history(self) -> "pd.DataFrame":
        """Its metrics.csv: a row an epoch.

        Raises:
            ValueError: the file is missing or unreadable.
        """
        import pandas as pd

        try:
            return pd.read_csv(self.folder / "metrics.csv")
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.folder} is not a finished run ({error})") from None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The finished runs below some folders, each recipe and seed once.

    Raises:
        ValueError: there is none below one of the folders, a file is unreadable, or two runs of one recipe and seed
            came out differently.
    """
    runs: dict[tuple[str, int], Run] = {}
    for run in find_results(folders):
        same = runs.setdefault((run.recipe, run.seed), run)
        if any(same.result[which] != run.result[which] for which in ("last", "best")):
            raise ValueError(
                f"{same.folder} and {run.folder} are one recipe and seed, and came out differently: leave one out"
            )
    return list(runs.values())


def find_results(folders: Sequence[Path]) -> list[Run]:
    """All finished runs below some folders.

    Raises:
        ValueError: there is none below one of the folders, or a file is unreadable.
    """
    runs = []
    for folder in folders:
        paths = sorted(folder.rglob("result.json"))
        if not paths:
            raise ValueError(f"{folder} holds no finished run: no result.json is below it")
        runs += [read_run(path) for path in paths]
    return runs


def group_runs(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs of each recipe, by seed; the recipes in the order in which they come."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return [sorted(group, key=lambda run: run.seed) for group in groups.values()]


def names_of(runs: Iterable[Run]) -> str:
    """What people call them."""
    return ", ".join(sorted({run.name for run in runs}))


def splits_of(runs: Iterable[Run]) -> str:
    """Which split chose their best epochs."""
    return ", ".join(sorted({run.selected_on for run in runs}))


def read_run(path: Path) -> Run:
    """The run that a `result.json` tells of.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        result = json.loads(path.read_text())
        missing = sorted({"name", "seed", "recipe", "last", "best"} - set(result))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{path.parent} is not a finished run ({error})") from None
    if missing:
        raise ValueError(f"{path.parent} is not a finished run (result.json lacks {', '.join(missing)})")
    return Run(path.parent, result)
