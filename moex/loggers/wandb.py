"""Weights & Biases."""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moex.files import write_text_atomically
from moex.loggers.base import LoggerSettings, final_metrics, named_figures

# Seconds that an upload may take at the end of a run; what is left stays in the folder for `wandb sync`.
UPLOAD_PATIENCE = 300


@dataclass
class WandbSettings(LoggerSettings):
    """Which of W&B's projects a run belongs to."""

    name = "wandb"
    title = "W&B"

    project: str = "moex"

    def open(self, folder: Path, *, done: int, config: Mapping[str, Any]) -> "WandbLogger":
        """See `LoggerSettings`."""
        return WandbLogger(folder, project=self.project, config=config)


class WandbLogger:
    """A run of Weights & Biases: offline, in `<folder>/wandb`, unless WANDB_MODE or a key says otherwise.

    Every session of a run has the same id, which lies in `<folder>/wandb/id`. W&B counts its own steps and takes
    none back, so ours are a value of each row, `global_step`, which its charts take as their abscissa.
    """

    def __init__(self, folder: Path, *, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        self._run = wandb.init(
            id=_run_id(folder),
            resume="allow",
            project=project,
            name="/".join(folder.parts[-2:]),
            # Of the runs of one recipe, which differ in their seeds.
            group=folder.parent.name,
            tags=_tags(config),
            dir=str(folder),
            config=dict(config),
            mode=None if "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False) else "offline",
            # What a terminal shows is drawn with codes that are none to a reader.
            settings=wandb.Settings(
                silent=True, console="off", finish_timeout=UPLOAD_PATIENCE, finish_timeout_raises=True
            ),
        )
        self._run.define_metric("*", step_metric="global_step")

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """See `Logger`."""
        self._run.log({**values, "global_step": step})

    def log_result(self, result: Mapping[str, Any], *, figures: Sequence[Path], step: int) -> None:
        """See `Logger`."""
        import wandb

        images = {name: wandb.Image(str(path)) for name, path in named_figures(figures).items()}
        self._run.log({**images, "global_step": step})
        self._run.summary.update(final_metrics(result))

    def close(self, *, finished: bool) -> None:
        """See `Logger`."""
        self._run.finish(exit_code=0 if finished else 1)


def _tags(config: Mapping[str, Any]) -> list[str]:
    """Data set, network and steps, by which runs of several recipes are found; W&B takes up to 64 letters."""
    names = [config["dataset"]["name"], config["model"]["name"], *config["augmentation"]["steps"]]
    return list(dict.fromkeys(str(name)[:64] for name in names))


def _run_id(folder: Path) -> str:
    """The id of a run in its project: drawn in the first session, and read in those that continue it."""
    path = folder / "wandb" / "id"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        write_text_atomically(path, secrets.token_hex(8))
    return path.read_text()
