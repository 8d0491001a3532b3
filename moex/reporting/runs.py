"""Finished runs, as their folders tell of them."""

import json
from collections.abc import Iterable, Mapping, Sequence
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


RESULT = "result.json"
# What each result.json has, and of which kind; and what is shown at a run's end besides.
_KINDS: dict[str, type] = {"name": str, "seed": int, "recipe": dict, "last": dict, "best": dict}
_SHOWN: dict[str, type] = {"epochs": int, "images_per_second": float, "seconds": float, "device": str}


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
        paths = sorted(folder.rglob(RESULT))
        if not paths:
            raise ValueError(f"{folder} holds no finished run: no {RESULT} is below it")
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


def read_run(path: Path, *, to_show: bool = False) -> Run:
    """The run that a `result.json` tells of.

    Args:
        path: the file.
        to_show: whether it has to hold what is shown at a run's end, which tables do not need.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        result = json.loads(path.read_text())
        _check(result, _KINDS | _SHOWN if to_show else _KINDS, metrics=["epoch", *METRICS] if to_show else ["error"])
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is not a finished run: it holds no {RESULT}") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.parent} is not a finished run: {RESULT} is damaged ({error})") from None
    return Run(path.parent, result)


def _check(result: Any, kinds: Mapping[str, type], *, metrics: Iterable[str]) -> None:
    """Looks whether the content of a `result.json` is one.

    Raises:
        ValueError: the first thing that it lacks, or that is of another kind.
    """
    if not isinstance(result, dict):
        raise ValueError(f"it holds {json.dumps(result)[:40]}, not the outcome of a run")
    if missing := [key for key in kinds if key not in result]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    outcomes = {f"{which}.{metric}": (which, metric) for which in ("last", "best") for metric in metrics}
    for key, kind in kinds.items():
        # An int does for a float.
        if not isinstance(result[key], int | float if kind is float else kind):
            raise ValueError(f"{key} is {result[key]!r}")
    for key, (which, metric) in outcomes.items():
        if not isinstance(result[which].get(metric), int | float):
            raise ValueError(f"{key} is {result[which].get(metric)!r}")
