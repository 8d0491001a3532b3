"""The end of a run: `result.json`, `predictions.npz`, the figures, and the table on the screen."""

import dataclasses
import json
import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from moex import checkpoint, metrics
from moex.config import Config, recipe
from moex.distributed import broadcast, rank
from moex.engine import State, evaluate
from moex.logging import write_metrics
from moex.reporting.figures import save_run_figures
from moex.reporting.sweeps import now
from moex.run.build import Sets

LIBRARIES = ("moex", "torch", "torchvision", "numpy", "timm", "scikit-learn")
REPORTED = {
    "error": "error",
    "top5_error": "top-5 error",
    "rms_calibration_error": "RMS calibration error",
    "aurra": "AURRA",
    "ece": "ECE",
}


def finish(state: State, sets: Sets, config: Config, folder: Path, *, console: Console) -> dict[str, Any]:
    """Evaluates the last and the best weights and writes what a finished run leaves; `result.json` comes last.

    All ranks call it, and rank 0 writes. The metrics of the best epoch are those of its row. Where its weights are
    lost, that is reported, and `predictions.npz` lacks their logits.

    Returns:
        The content of `result.json`: metrics are fractions.
    """
    precision = config.runtime.precision
    logits, labels = evaluate(state.evaluated, sets.test, precision=precision)
    measured = metrics.evaluate(logits, labels)
    arrays = {"logits": logits.numpy(), "labels": labels.numpy()}
    best_weights = broadcast(_read_best(state, folder, console) if rank() == 0 else None)
    if best_weights is not None:
        state.evaluated.load_state_dict(best_weights)
        arrays["best_logits"] = evaluate(state.evaluated, sets.test, precision=precision)[0].numpy()
    result = _summary(state, config, measured)
    if rank() > 0:
        return result
    checkpoint.write_atomically(
        folder / "predictions.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)
    )
    # A run that was killed after its last checkpoint has not written its last row.
    write_metrics(folder, state.history)
    with checkpoint.saving(folder / "figures"):
        save_run_figures(folder)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    checkpoint.write_text_atomically(folder / "result.json", text)
    return result


def _summary(state: State, config: Config, measured: dict[str, float]) -> dict[str, Any]:
    """The content of `result.json`, with these metrics of the last epoch."""
    device = state.totals.device
    session = state.sessions[-1]
    return {
        "name": config.name,
        "seed": config.seed,
        "recipe": recipe(config),
        "last": {"epoch": state.epoch, **measured},
        "best": {"epoch": state.best["epoch"], **{name: state.best[f"test_{name}"] for name in measured}},
        "epochs": config.epochs,
        "images_per_second": statistics.median(row["images_per_second"] for row in state.history),
        "seconds": state.seconds,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "world_size": session["world_size"],
        "precision": config.runtime.precision,
        "parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "versions": {"python": platform.python_version()} | library_versions(),
        "command": session["command"],
        "commit": session["commit"],
        "dirty": session["dirty"],
        "sessions": state.sessions,
        "start": state.sessions[0]["start"],
        "end": now(),
        "config": dataclasses.asdict(config),
    }


def show(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Prints the summary of a finished run: a table in percent, and where its figures are."""
    table = Table(title=f"{result['name']}, seed {result['seed']}, {result['epochs']} epochs", title_justify="left")
    table.add_column("test set, %")
    table.add_column("last epoch", justify="right")
    table.add_column(f"best epoch ({result['best']['epoch']:.0f})", justify="right")
    for name, title in REPORTED.items():
        table.add_row(title, *(f"{100 * result[which][name]:.2f}" for which in ("last", "best")))
    console.print(table)
    console.print(
        f"{result['images_per_second']:,.0f} images/s, {result['seconds']:.0f} s on {result['device']}",
        highlight=False,
    )
    for path in sorted((folder / "figures").glob("*.png")):
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    console.print(f"  {folder / 'result.json'}", highlight=False, soft_wrap=True)


def _read_best(state: State, folder: Path, console: Console) -> dict[str, torch.Tensor] | None:
    """The weights of the best epoch; None, and a line, where they are lost."""
    path, epoch = folder / "checkpoints" / checkpoint.BEST, state.best["epoch"]
    try:
        best = checkpoint.read(path)
        if best["epoch"] != epoch:
            raise ValueError(f"{path} is of epoch {best['epoch']:.0f}, not of the best one, {epoch:.0f}")
    except (ValueError, OSError) as error:
        console.print(f"{error}: predictions.npz will lack best_logits", soft_wrap=True)
        return None
    weights: dict[str, torch.Tensor] = best["model"]
    return weights


def device_name(device: torch.device) -> str:
    """The model of the processor or of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def library_versions() -> dict[str, str]:
    """The versions of the libraries that can change a number, where they are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
