"""The end of a run: `result.json`, `predictions.npz`, the figures, and the table on the screen."""

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
from moex.distributed import broadcast, rank
from moex.engine import predict
from moex.reporting.sweeps import now
from moex.run.build import Run
from moex.run.folder import gather_unreadable, write_metrics

LIBRARIES = ("moex", "torch", "torchvision", "numpy", "pillow", "timm", "scikit-learn")
REPORTED = {
    "error": "error",
    "top5_error": "top-5 error",
    "rms_calibration_error": "RMS calibration error",
    "aurra": "AURRA",
    "ece": "ECE",
}


def finish(run: Run, *, console: Console) -> dict[str, Any]:
    """Evaluates the last and the best weights and writes what a finished run leaves; `result.json` comes last.

    All ranks call it, and rank 0 writes. The metrics of the best epoch are those of its row. Where its weights are
    lost, that is reported, and `predictions.npz` lacks their logits.

    Returns:
        The content of `result.json`: metrics are fractions.
    """
    state, folder = run.state, run.folder
    logits, labels = _predict(run)
    arrays = {"logits": logits.numpy(), "labels": labels.numpy()}
    best_weights = broadcast(_read_best(run, console) if rank() == 0 else None)
    if best_weights is not None:
        state.evaluated.load_state_dict(best_weights)
        arrays["best_logits"] = _predict(run)[0].numpy()
    result = _summary(run, metrics.summarise(logits, labels), unreadable=gather_unreadable(run))
    if rank() > 0:
        return result
    checkpoint.write_atomically(
        folder / "predictions.npz", lambda file: np.savez_compressed(file, allow_pickle=False, **arrays)
    )
    # A run that was killed after its last checkpoint has not written its last row.
    write_metrics(run)
    with checkpoint.saving(folder / "figures"):
        # matplotlib takes a second to start, which a run needs at its end alone.
        from moex.reporting.figures import save_run_figures

        save_run_figures(folder)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    checkpoint.write_text_atomically(folder / "result.json", text)
    return result


def _predict(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    return predict(
        run.state.evaluated, run.test, batch_size=run.evaluation_batch_size, precision=run.training.precision
    )


def _summary(run: Run, measured: dict[str, float], *, unreadable: dict[str, list[int]]) -> dict[str, Any]:
    """The content of `result.json`, with these metrics of the test set after the last epoch."""
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


def show(result: dict[str, Any], folder: Path, console: Console) -> None:
    """Prints the summary of a finished run: a table in percent, and where its figures are."""
    table = Table(title=f"{result['name']}, seed {result['seed']}, {result['epochs']} epochs", title_justify="left")
    table.add_column("test set, %")
    table.add_column("last epoch", justify="right")
    chosen = f"best epoch ({result['best']['epoch']:.0f}, chosen on the {result['selected_on']} set)"
    table.add_column(chosen, justify="right")
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


def _read_best(run: Run, console: Console) -> dict[str, torch.Tensor] | None:
    """The weights of the best epoch; None, and a line, where they are lost."""
    path, epoch = run.folder / "checkpoints" / checkpoint.BEST, run.state.best["epoch"]
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
