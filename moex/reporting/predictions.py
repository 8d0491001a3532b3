"""The few numbers that figures need of a run's predictions, small enough to be kept with its summary.

`predictions.npz` holds a row of logits for each sample of the test set; `predictions.json` the bins of a reliability
diagram, accuracy against response rate at each percent, and the names of the classes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from moex import metrics
from moex.files import write_text_atomically

PREDICTIONS, SUMMARY, CLASSES = "predictions.npz", "predictions.json", "classes.txt"
BINS = 15
# Where accuracy against response rate is kept: at each percent.
RATES = np.arange(1, 101) / 100
# A percent of a tenth of a thousandth is seen in no figure.
DIGITS = 5


class Predictions(NamedTuple):
    """What a run answered on its test set, or a summary of it.

    Attributes:
        logits: `[N, K]`, of the last weights.
        labels: `[N]`.
        best_logits: `[N, K]`, of the best weights; None where those are lost.
    """

    logits: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]
    best_logits: npt.NDArray[np.floating] | None


def read_predictions(path: Path) -> Predictions:
    """What `predictions.npz` holds.

    Raises:
        ValueError: it is missing, unreadable or incomplete.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the figures need the folder of a finished run")
    try:
        with np.load(path) as arrays:
            return Predictions(arrays["logits"], arrays["labels"], arrays.get("best_logits"))
    except (BadZipFile, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path} does not hold the arrays logits and labels ({error})") from None


def summarise_predictions(predictions: Predictions, *, of: str) -> dict[str, Any]:
    """The numbers that the figures need.

    Args:
        predictions: of one run.
        of: `last` or `best` weights.

    Returns:
        `of`; `bins` of equal width, with `samples`, mean `confidence` and `accuracy` of each, None where it is empty;
        `accuracy`, that of the most confident percent, two percent, up to all of the predictions.
    """
    logits = predictions.logits if of == "last" or predictions.best_logits is None else predictions.best_logits
    bins = metrics.calibration_bins(logits, predictions.labels, bins=BINS)
    curve = metrics.response_rate_curve(logits, predictions.labels)
    answered = np.ceil(RATES * len(predictions.labels) - 1e-9).astype(int)
    return {
        "of": "last" if logits is predictions.logits else "best",
        "bins": {
            "samples": bins.samples.tolist(),
            "confidence": _rounded(bins.confidence),
            "accuracy": _rounded(bins.accuracy),
        },
        "accuracy": _rounded(curve.accuracy[answered - 1]),
    }


def write_summary(run: Path, target: Path, *, of: str) -> None:
    """Writes `predictions.json` beside the summary of a run; nothing where the run's folder has no predictions.

    Raises:
        ValueError: the predictions are unreadable or incomplete.
    """
    summary = summarise_folder(run, of=of)
    if summary is None:
        return
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in summary.items()]
    write_text_atomically(target / SUMMARY, "{\n" + ",\n".join(lines) + "\n}\n")


def summarise_folder(run: Path, *, of: str) -> dict[str, Any] | None:
    """The summary of what a run's folder holds, with `classes`, if they have names; None without predictions.

    Raises:
        ValueError: the predictions are unreadable or incomplete.
    """
    if not (run / PREDICTIONS).exists():
        return None
    summary = summarise_predictions(read_predictions(run / PREDICTIONS), of=of)
    if (run / CLASSES).exists():
        summary["classes"] = (run / CLASSES).read_text().split("\n")[:-1]
    return summary


def read_summary(folder: Path) -> Mapping[str, Any] | None:
    """The summary that was written beside that of a run; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / SUMMARY
    if not path.exists():
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
        if {"of", "bins", "accuracy"} <= summary.keys():
            return summary
    except (OSError, ValueError, AttributeError):
        pass
    raise ValueError(f"{path} is no summary of predictions: delete it, and reproduce.py --from RUN makes it again")


def _rounded(values: npt.NDArray[np.floating]) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), DIGITS) for value in values]
