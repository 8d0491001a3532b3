"""From a table's manifest to its runs: which there are, which are missing, and the jobs that train those."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path

import hydra
import pandas as pd

from moex.config import Config, identify_weights, parse, recipe, run_folder, settle_precision
from moex.reporting.manifests import Cell, Table
from moex.reporting.runs import RESULT, Run, read_run
from moex.reporting.tables import ABSENT
from moex.reproduction.cost import Cost, count_samples, measure
from moex.run.folder import last_checkpoint

FINISHED, UNFINISHED, MISSING = "finished", "unfinished", "missing"


@dataclass(frozen=True)
class Reduction:
    """What is made smaller than the recipe.

    Attributes:
        budget: the share of the epochs, and of the schedule; None: all.
        samples: of the training set; None: all.
    """

    budget: float | None = None
    samples: int | None = None

    @property
    def title(self) -> str:
        """In words; empty for nothing."""
        parts = [] if self.budget is None else [f"epochs × {self.budget:g}"]
        return ", ".join([*parts, *([] if self.samples is None else [f"{self.samples:,} training samples"])])

    def overrides(self, config: Config) -> list[str]:
        """What makes a run of this configuration so small."""
        made = []
        if self.budget is not None:
            made.append(f"epochs={max(1, round(self.budget * config.epochs))}")
            shorter = config.schedule.scaled(self.budget)
            for item in fields(shorter):
                value = getattr(shorter, item.name)
                if value != getattr(config.schedule, item.name):
                    made.append(f"schedule.{item.name}={value}".replace(" ", ""))
        return made if self.samples is None else [*made, f"limit_train={self.samples}"]


@dataclass(frozen=True)
class Training:
    """A run that a table needs.

    Attributes:
        row: of the table.
        column: of the table.
        overrides: which compose it, the seed's among them.
        config: so composed.
    """

    row: str
    column: str
    overrides: list[str]
    config: Config

    @property
    def folder(self) -> Path:
        """Where the run is, or will be."""
        return run_folder(self.config)

    @property
    def state(self) -> str:
        """Finished, unfinished or missing."""
        # A damaged result is made again.
        with suppress(ValueError):
            read_run(self.folder / RESULT)
            return FINISHED
        return MISSING if last_checkpoint(self.folder) is None else UNFINISHED

    @property
    def epochs_done(self) -> int:
        """How many epochs are behind it."""
        path = self.folder / "metrics.csv"
        return len(pd.read_csv(path)) if path.exists() else 0

    def is_of(self, run: Run) -> bool:
        """Whether this is the run, wherever it was made: of the same recipe and seed."""
        return run.seed == self.config.seed and run.result["recipe"] == recipe(self.config)


def list_trainings(
    table: Table,
    *,
    configs: Path,
    seeds: Sequence[int],
    rows: Collection[str],
    columns: Collection[str],
    overrides: Sequence[str],
    reduction: Reduction,
) -> list[Training]:
    """The runs that some cells of a table need: one seed of every cell, then the next.

    Args:
        table: its manifest.
        configs: the folder of the configurations.
        seeds: which.
        rows: which, by name.
        columns: which, by name.
        overrides: which hold for all of them.
        reduction: what is made smaller.

    Raises:
        HydraException: an override cannot be read, or fits none of them.
        ValueError: a configuration is impossible.
    """
    cells = list(_chosen(table, rows, columns))
    composed = []
    with hydra.initialize_config_dir(str(configs.resolve()), version_base="1.3"):
        for row, column, cell in cells:
            own = table.overrides | cell.overrides
            arguments = [
                f"+experiment={cell.experiment}",
                *(f"{key}={value}" for key, value in own.items()),
                *overrides,
            ]
            config = _compose(arguments)
            if smaller := reduction.overrides(config):
                arguments += smaller
                config = _compose(arguments)
            composed.append((row, column, arguments, config))
    return [
        Training(row, column, [*arguments, f"seed={seed}"], replace(config, seed=seed))
        for seed in seeds
        for row, column, arguments, config in composed
    ]


def jobs_of(trainings: Sequence[Training]) -> list[list[str]]:
    """The overrides of what is not finished: a job for each run, whichever cells it stands in."""
    jobs: dict[Path, list[str]] = {}
    for training in trainings:
        if training.state != FINISHED:
            jobs.setdefault(training.folder, training.overrides)
    return list(jobs.values())


def plan(trainings: Sequence[Training], *, report: Callable[[str], None]) -> tuple[pd.DataFrame, float]:
    """What is there of each cell, as text, and what the rest would cost on this machine, by a few steps of it.

    Cells that differ in nothing that a step takes time for, such as CIFAR-10 and CIFAR-100, share what it took.

    Args:
        trainings: the runs.
        report: what is told the name of each network before it is measured, which may take a minute.

    Returns:
        A row for each cell, and the device hours that are left, of the cells whose data are here.
    """
    cells: dict[tuple[str, str], list[Training]] = {}
    for training in trainings:
        cells.setdefault((training.row, training.column), []).append(training)
    costs: dict[str, Cost] = {}
    rows, total = [], 0.0
    for (row, column), cell in cells.items():
        states = Counter(training.state for training in cell)
        begun = f", {states[UNFINISHED]} begun" if states[UNFINISHED] else ""
        values = {"method": row, "on": column, "finished": f"{states[FINISHED]} of {len(cell)}{begun}"}
        if left := [training for training in cell if training.state != FINISHED]:
            config = left[0].config
            names = ("model", "augmentation", "batch_size", "optimizer", "runtime")
            step = str([config.dataset.shape, *(getattr(config, name) for name in names)])
            if step not in costs:
                report(config.model.name)
                costs[step] = measure(config)
            cost, samples = costs[step], count_samples(config)
            values["images/s"] = f"{cost.images_per_second:,.3g}"
            values["memory"] = ABSENT if cost.memory is None else f"{cost.memory / 2**30:.1f} GiB"
            values["a run"] = values["left"] = "no data"
            if samples is not None:
                rest = sum(training.config.epochs - training.epochs_done for training in left)
                hours = [cost.hours(samples, epochs) for epochs in (config.epochs, rest)]
                values["a run"], values["left"] = map(duration, hours)
                total += hours[1]
        rows.append(values)
    return pd.DataFrame(rows).fillna(""), total


def duration(hours: float) -> str:
    """A time in hours, or in minutes where it is less than one."""
    return f"{hours:,.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _chosen(table: Table, rows: Collection[str], columns: Collection[str]) -> Iterator[tuple[str, str, Cell]]:
    for row in table.rows:
        for column, cell in row.cells.items():
            if row.name in rows and column in columns and cell.experiment is not None:
                yield row.name, column, cell


def _compose(overrides: Sequence[str]) -> Config:
    config = parse(hydra.compose("train", overrides=list(overrides)))
    identify_weights(config)
    settle_precision(config.runtime)
    return config
