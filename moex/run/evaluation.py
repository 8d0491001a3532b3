"""Trained networks on data sets: every figure with its interval, and one table of them all."""

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from moex import data
from moex.bootstrap import bootstrap_intervals
from moex.config import RuntimeConfig, parse_test_sets
from moex.config.evaluation import EvaluationConfig
from moex.data import TEST, DataSet, SourceError
from moex.data.images.synsets import synsets
from moex.files import saving, write_text_atomically
from moex.metrics import score, summarise, summarise_scores
from moex.reporting.evaluations import save_table, show_table
from moex.reporting.figures import RELIABILITY, RESPONSE_RATE, reliability_diagram, response_rate_curve
from moex.reporting.style import save_figure
from moex.reporting.sweeps import now
from moex.run.candidates import Candidate, find_candidate
from moex.run.device import choose_device
from moex.run.folder import commit
from moex.run.result import device_name, library_versions, write_predictions
from moex.run.scoring import Outcome, prepare, score_network
from moex.temperature import fit_temperature, hold_out

# What an evaluation's folder holds.
RESULT, PREDICTIONS, FIGURES = "evaluation.json", "predictions.npz", "figures"
# Settings that change no figure.
_SILENT = ("checkpoint", "predictions", "output_root", "table", "batch_size", "device")


@dataclasses.dataclass(frozen=True)
class Scored:
    """One network on one data set.

    Attributes:
        name: of the network, or of the file of predictions.
        label: of the data set.
        outcome: what came out.
        summarise: makes the figures of the scores.
        origin: what is told of both in `evaluation.json`.
    """

    name: str
    label: str
    outcome: Outcome
    summarise: Any
    origin: dict[str, Any]


def evaluate(config: EvaluationConfig, *, command: str, console: Console) -> list[dict[str, Any]]:
    """Scores every network on every data set, saves each outcome in a folder of its own, and prints one table.

    Args:
        config: what to evaluate.
        command: that asked for it.
        console: gets the table.

    Returns:
        The content of each `evaluation.json`.

    Raises:
        ValueError: there is no such network, its weights are another's, or a data set is not there or has other
            classes.
        OSError: a file cannot be read, fetched or written.
    """
    device = choose_device(RuntimeConfig(device=config.device, precision=config.precision))
    scored = _score_predictions(config) if config.predictions else _score_networks(config, device, console, command)
    results = []
    for one in scored:
        result, folder = _result(one, config, device, command), _folder(one, config)
        _save(result, one.outcome, folder, title=f"{one.name} on {one.label}")
        results.append(result)
        console.print(f"  {folder / RESULT}", highlight=False, soft_wrap=True)
    show_table(results, console)
    if config.table is not None:
        save_table(results, Path(config.table))
    return results


def _score_networks(
    config: EvaluationConfig, device: torch.device, console: Console, command: str
) -> Iterator[Scored]:
    runtime = RuntimeConfig(precision=config.precision)
    memory_format = torch.channels_last if runtime.channels_last else torch.contiguous_format
    named = _chosen_data_set(config.dataset)
    prepared = []
    # What is not there is told before anything is scored.
    for checkpoint in config.checkpoint:
        candidate = find_candidate(checkpoint, which=config.weights, model=config.model, dataset=named)
        for label, dataset in _data_sets(config, candidate.dataset).items():
            try:
                parts = prepare(
                    dataset,
                    classes=candidate.classes,
                    count=candidate.count,
                    shape=candidate.dataset.shape,
                    seed=config.seed,
                    device=device,
                    channels_last=runtime.channels_last,
                    limit_test=config.limit,
                )
            except ValueError as error:
                how = "download: true in its entry" if config.test_sets else f"{command} dataset.download=true"
                raise ValueError(f"{candidate.name} on {label}: {error}{data.fetch_hint(error, how)}") from None
            prepared.append((candidate, label, parts))
    for candidate, label, parts in prepared:
        console.print(f"scoring {candidate.name} on {label}", highlight=False, soft_wrap=True)
        model = candidate.model.to(device).to(memory_format=memory_format)
        try:
            outcome = score_network(model, parts, batch_size=config.batch_size, precision=config.precision)
        except (ValueError, SourceError) as error:
            raise ValueError(f"{candidate.name} on {label}: {error}") from None
        yield Scored(candidate.name, label, outcome, parts.dataset.summarise, _origin(candidate, parts.dataset))


def _score_predictions(config: EvaluationConfig) -> Iterator[Scored]:
    """Logits of a network that need not be here; of ImageNet's 1,000 classes, if a data set is to restrict them."""
    dataset = _chosen_data_set(config.dataset)
    for file in config.predictions:
        path = Path(file)
        logits, labels = read_predictions(path, best=config.weights == "best")
        label, make_summary = TEST, _summarise_all_bins
        if dataset is not None:
            label, make_summary = dataset.name, dataset.summarise
            count = logits.shape[1]
            # They may be of the data set's own classes already.
            if count != dataset.num_classes:
                outputs = dataset.outputs(synsets() if count == len(synsets()) else None, count=count)
                logits = logits if outputs is None else outputs.restrict(logits)
        try:
            # What may not be scored is told before anything is made of it.
            summarise(logits, labels)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        scores = {TEST: score(logits, labels)}
        outcome = Outcome(make_summary(scores), scores, logits, labels)
        yield Scored(path.stem, label, outcome, make_summary, {"predictions": file})


def read_predictions(path: Path, *, best: bool = False) -> tuple[Tensor, Tensor]:
    """Logits `[N, K]` and labels, int64 `[N]`, of a file as runs and evaluations write it.

    Args:
        path: an `.npz` with the arrays `logits` and `labels`.
        best: whether to take the array `best_logits`.

    Raises:
        ValueError: the file is missing or damaged, or lacks an array.
    """
    wanted = {"logits": "best_logits" if best else "logits", "labels": "labels"}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[key] for name, key in wanted.items()}
    except FileNotFoundError:
        raise ValueError(f"there is no file of predictions {path}") from None
    except (KeyError, OSError, ValueError, EOFError, BadZipFile, TypeError, AttributeError) as error:
        reason = f" (it lacks {error})" if isinstance(error, KeyError) else ""
        raise ValueError(
            f"{path} must be an .npz file with the arrays {' and '.join(wanted.values())}{reason}"
        ) from None
    logits, labels = torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["labels"])
    return logits, labels if labels.is_floating_point() else labels.long()


def _chosen_data_set(values: Mapping[str, Any]) -> DataSet | None:
    """The data set that is named, with its keys; None where none is."""
    if not values.get("name"):
        return None
    return next(iter(parse_test_sets([{**values}], data.find("digits")(), key="dataset").values()))


def _data_sets(config: EvaluationConfig, own: DataSet) -> dict[str, DataSet]:
    """The data sets of an evaluation by their labels; settings that are not given are those of the network's own."""
    chosen: list[Any] = []
    if config.dataset.get("name"):
        usual = data.find(config.dataset["name"], target=config.dataset.get("target"))()
        chosen = [{key: value for key, value in config.dataset.items() if _is_set(usual, key, value)}]
    elif config.dataset or not config.test_sets:
        acting = {item.name: getattr(own, item.name) for item in dataclasses.fields(own)}
        chosen = [acting | config.dataset]
    return parse_test_sets([*chosen, *config.test_sets], own)


def _is_set(usual: DataSet, key: str, value: object) -> bool:
    """Whether a key of a data set's file was changed, or says which it is."""
    return key in ("name", "target") or value != getattr(usual, key, None)


def _summarise_all_bins(scores: Mapping[str, Any]) -> dict[str, float]:
    return summarise_scores(scores[TEST], all_bins=True)


def _origin(candidate: Candidate, dataset: DataSet) -> dict[str, Any]:
    return {"checkpoint": candidate.origin, "weights": candidate.digest, "dataset": dataclasses.asdict(dataset)}


def _result(one: Scored, config: EvaluationConfig, device: torch.device, command: str) -> dict[str, Any]:
    """The content of `evaluation.json`: figures are fractions, unless their name says otherwise."""
    outcome = one.outcome
    intervals = {}
    if config.resamples:
        intervals = bootstrap_intervals(outcome.scores, one.summarise, resamples=config.resamples, seed=config.seed)
    result: dict[str, Any] = {
        "name": one.name,
        "label": one.label,
        "samples": {name: len(scores.loss) for name, scores in outcome.scores.items()},
        "unreadable": outcome.unreadable,
        "figures": outcome.figures,
        "intervals": {name: list(interval) for name, interval in intervals.items()},
    }
    if config.temperature is not None:
        result["temperature"] = _with_temperature(one, config.temperature, seed=config.seed)
    settings = {
        key: value for key, value in vars(config).items() if key not in ("checkpoint", "predictions", "model")
    }
    return (
        result
        | one.origin
        | {
            "settings": settings,
            "device": device_name(device),
            "versions": {"python": platform.python_version()} | library_versions(),
            "command": command,
            **commit(),
            "time": now(),
        }
    )


def _with_temperature(one: Scored, share: float, *, seed: int) -> dict[str, Any]:
    """Fits a temperature on a part of the samples, and scores the others with it and without."""
    logits, labels = one.outcome.logits, one.outcome.labels
    if logits is None or labels is None or len(labels) < 2:
        raise ValueError(f"temperature: {one.label} has several parts, whose logits are not kept, or too few samples")
    held_out, rest = hold_out(len(labels), share, seed=seed)
    temperature = fit_temperature(logits[held_out], labels[held_out])
    return {
        "temperature": temperature,
        "fitted_on": len(held_out),
        "without": one.summarise({TEST: score(logits[rest], labels[rest])}),
        "with": one.summarise({TEST: score(logits[rest] / temperature, labels[rest])}),
    }


def _folder(one: Scored, config: EvaluationConfig) -> Path:
    """Where an outcome is saved: a place of its own for all that decides on the figures."""
    settings = {key: value for key, value in dataclasses.asdict(config).items() if key not in _SILENT}
    text = json.dumps([settings, one.origin], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path(config.output_root) / "evaluations" / f"{one.name}-{digest}" / one.label.replace("/", "_")


def _save(result: dict[str, Any], outcome: Outcome, folder: Path, *, title: str) -> None:
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if outcome.logits is not None and outcome.labels is not None:
        arrays = {"logits": outcome.logits.float().numpy(), "labels": outcome.labels.numpy()}
        write_predictions(folder / PREDICTIONS, arrays)
        with saving(folder / FIGURES):
            (folder / FIGURES).mkdir(exist_ok=True)
            drawn = {RELIABILITY: reliability_diagram, RESPONSE_RATE: response_rate_curve}
            for file, draw in drawn.items():
                save_figure(draw(outcome.logits, outcome.labels, name=title), folder / FIGURES / file)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_text_atomically(folder / RESULT, text)
