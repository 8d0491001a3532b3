"""The end of a run: `result.json`, `predictions.npz`, the figures, and the table on the screen."""

import functools
import json
import platform
import re
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

import moex
from moex import checkpoint, metrics
from moex.data import TEST, VALIDATION, Source, SourceError
from moex.distributed.communication import broadcast, gather, rank
from moex.distributed.ranks import StopRequest
from moex.engine import predict
from moex.files import saving, write_atomically, write_text_atomically
from moex.processor import processor_name
from moex.reporting.predictions import PREDICTIONS
from moex.reporting.runs import RESULT
from moex.reporting.sweeps import now
from moex.run.build import Run
from moex.run.folder import gather_unreadable, write_metrics
from moex.run.scoring import Outcome, score_network
from moex.run.soundness import check_best
from moex.run.training import Stopped

LIBRARIES = (
    "torch",
    "torchvision",
    "torchaudio",
    "numpy",
    "pillow",
    "timm",
    "scikit-learn",
    "soundfile",
    "soxr",
)
# Classes whose confusions are counted: of more, no table or figure can be read.
MOST_CLASSES = 50


class ScoringError(Exception):
    """A test set cannot be scored at the end of a run that is whole without it."""


def finish(run: Run, *, stop: StopRequest, console: Console) -> dict[str, Any]:
    """Evaluates the last and the best weights and writes what a finished run leaves; `result.json` comes last.

    All ranks call it, and rank 0 writes. The metrics of the best epoch are those of its row. Where its weights are
    lost, that is reported, and `predictions.npz` lacks their logits.

    Returns:
        The content of `result.json`: metrics are fractions.

    Raises:
        Stopped: `stop` was set while test sets were to be scored.
        ScoringError: one cannot be scored.
        SourceError: samples cannot be read.
    """
    state, folder = run.state, run.folder
    logits, labels = _predict(run, run.test)
    arrays = {"logits": logits.numpy(), "labels": labels.numpy()}
    outcomes = {"last": _score_test_sets(run, stop, console)}
    best_weights = broadcast(_read_best(run, console) if rank() == 0 else None)
    if best_weights is not None:
        state.evaluated.load_state_dict(best_weights)
        arrays["best_logits"] = _predict(run, run.test)[0].numpy()
        is_last = state.best["epoch"] == state.epoch
        outcomes["best"] = outcomes["last"] if is_last else _score_test_sets(run, stop, console)
    confusion = _count_confusions(run, arrays)
    result = _summary(run, metrics.summarise(logits, labels), outcomes, unreadable=gather_unreadable(run))
    result |= {"confusion": confusion} if confusion else {}
    if rank() > 0:
        return result
    write_predictions(folder / PREDICTIONS, arrays)
    for label in run.test_sets:
        _write_predictions_of_test_set(folder, label, {which: each[label] for which, each in outcomes.items()})
    # A run that was killed after its last checkpoint has not written its last row.
    write_metrics(run)
    with saving(folder / "figures"):
        # matplotlib takes a second to start, which a run needs at its end alone.
        from moex.reporting.figures import save_run_figures

        # Of classes without names, nobody could read it.
        named = (confusion[TEST], run.class_names) if confusion and run.class_names else None
        save_run_figures(folder, name=f"{run.name}, seed {run.seed}", confusion=named)
    write_text_atomically(folder / RESULT, _as_json(result))
    return result


def _predict(run: Run, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    return predict(
        run.state.evaluated, source, batch_size=run.evaluation_batch_size, precision=run.training.precision
    )


def _count_confusions(run: Run, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """The confusion matrices of the test set and of the validation set; none where there are many classes.

    They are those of the weights that a validation set chose, if there is one, else of the last; `of` says which.
    """
    if arrays["logits"].shape[1] > MOST_CLASSES:
        return {}
    is_chosen = run.validation is not None and "best_logits" in arrays
    name = "best_logits" if is_chosen else "logits"
    matrices = {TEST: metrics.confusion_matrix(arrays[name], arrays["labels"])}
    if run.validation is not None:
        # The best weights, unless they are lost.
        matrices[VALIDATION] = metrics.confusion_matrix(*_predict(run, run.validation))
    counts = {split: matrix.tolist() for split, matrix in matrices.items()}
    return {"of": "best" if is_chosen else "last", **counts}


def _as_json(result: dict[str, Any]) -> str:
    """A line for each value, and for each list of numbers."""
    text = json.dumps(result, indent=2, ensure_ascii=False)
    return re.sub(r"\[[\d\s,.-]+\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text) + "\n"


def _score_test_sets(run: Run, stop: StopRequest, console: Console) -> dict[str, Outcome]:
    """Scores the weights as they are on every test set, by their labels.

    Raises:
        Stopped: `stop` was set.
        ScoringError: one cannot be scored.
        SourceError: its samples cannot be read; on the rank that was to read them.
    """

    def look_for_stop() -> None:
        if any(gather(stop.is_set())):
            raise Stopped(f"{run.folder} is trained to the end: the same command scores its test sets")

    outcomes = {}
    for label, prepared in run.test_sets.items():
        console.print(f"scoring {label}", highlight=False, soft_wrap=True)
        try:
            outcomes[label] = score_network(
                run.state.evaluated,
                prepared,
                batch_size=run.evaluation_batch_size,
                precision=run.training.precision,
                before_part=look_for_stop,
            )
        except (ValueError, SourceError) as error:
            text = f"test set {label}: {error}. Without it in test_sets, the same command finishes the run"
            raise (ScoringError if isinstance(error, ValueError) else SourceError)(text) from None
    return outcomes


def _write_predictions_of_test_set(folder: Path, label: str, outcomes: dict[str, Outcome]) -> None:
    """Writes logits and labels of a test set of one part, named as those of the run's own are."""
    arrays = {
        {"last": "logits", "best": "best_logits"}[which]: outcome.logits.numpy()
        for which, outcome in outcomes.items()
        if outcome.logits is not None
    }
    labels = outcomes["last"].labels
    if labels is not None:
        path = folder / "test_sets" / re.sub(r"[^\w.+=,-]+", "_", f"{label}.npz")
        with saving(path):
            path.parent.mkdir(exist_ok=True)
        write_predictions(path, arrays | {"labels": labels.numpy()})


def write_predictions(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Writes logits and labels, the whole file or nothing."""
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))


def _summary(
    run: Run,
    measured: dict[str, float],
    outcomes: dict[str, dict[str, Outcome]],
    *,
    unreadable: dict[str, list[int]],
) -> dict[str, Any]:
    """The content of `result.json`: these metrics of the test set after the last epoch, and those of test sets."""
    state, session = run.state, run.sessions[-1]
    rows = {"last": state.history[-1], "best": state.best}
    summary = {
        "name": run.name,
        "seed": run.seed,
        "recipe": run.recipe,
        "last": {"epoch": state.epoch, **measured},
        "best": {"epoch": state.best["epoch"], **{name: state.best[f"test_{name}"] for name in measured}},
        "selected_on": run.selected_on,
    }
    if run.validation is not None:
        summary["validation"] = {
            which: {name: row[f"validation_{name}"] for name in measured} for which, row in rows.items()
        }
    if run.test_sets:
        summary["test_sets"] = {
            label: {which: each[label].figures for which, each in outcomes.items()}
            | ({"unreadable": outcomes["last"][label].unreadable} if outcomes["last"][label].unreadable else {})
            for label in run.test_sets
        }
    return summary | {
        "unreadable": {split: len(samples) for split, samples in unreadable.items()},
        "epochs": run.training.epochs,
        "images_per_second": statistics.median(row["images_per_second"] for row in state.history),
        "seconds": state.seconds,
        "device": device_name(state.totals.device),
        "threads": torch.get_num_threads(),
        "world_size": session["world_size"],
        "precision": run.training.precision,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "versions": {"python": platform.python_version()} | library_versions(),
        "command": session["command"],
        "commit": session["commit"],
        "dirty": session["dirty"],
        "sessions": run.sessions,
        "start": run.sessions[0]["start"],
        "end": now(),
        "config": run.config,
    }


def _read_best(run: Run, console: Console) -> dict[str, torch.Tensor] | None:
    """The weights of the best epoch; None, and a line, where they are lost."""
    path = run.folder / "checkpoints" / checkpoint.BEST
    try:
        best = checkpoint.read(path, check=functools.partial(check_best, run))
    except (ValueError, OSError) as error:
        console.print(f"{error}: predictions.npz will lack best_logits", soft_wrap=True)
        return None
    weights: dict[str, torch.Tensor] = best["model"]
    return weights


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the processor with its instructions."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def library_versions() -> dict[str, str]:
    """The versions of the libraries that can change a number, where they are installed."""
    # Not that of a distribution: `moex` is also another's.
    found = {"moex": moex.__version__}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
