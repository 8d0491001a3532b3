"""Manifests: what a table shows, as data in experiments/.

A table's file has rows, columns and cells, each cell with its experiment and with what the paper reports of it. A
study's, in experiments/study/, varies a key or two of one experiment. Both amount to a `Table`.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from moex.reporting.runs import METRICS

# What a table may show: of ImageNet-C and -O one figure more, and one of what chooses the best epoch.
FIGURES = (*METRICS, "mean_corruption_error", "aupr", "validation_error")


@dataclass
class Number:
    """What the paper, or the code published with it, reports of a cell, in percent.

    `unconfirmed`: it could not be checked against its source, and is never shown without that mark. `std` is the
    error's standard deviation.
    """

    error: float | None = None
    std: float | None = None
    top5_error: float | None = None
    aurra: float | None = None
    rms_calibration_error: float | None = None
    mean_corruption_error: float | None = None
    aupr: float | None = None
    validation_error: float | None = None
    source: str = MISSING
    unconfirmed: bool = False


@dataclass
class Cell:
    """An experiment of configs/experiment/, with what is overridden in it; null: what is reported stands alone."""

    experiment: str | None = MISSING
    overrides: dict[str, Any] = field(default_factory=dict)
    paper: list[Number] = field(default_factory=list)


@dataclass
class Row:
    """A row's cells by their columns; `against` is the row that holds their baselines."""

    name: str = MISSING
    against: str | None = None
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass
class Table:
    """A table: which cells it has, over which seeds, and which metrics it shows of them.

    `overrides` are those of all cells, besides their own. `test_set` is the one of the runs' `test_sets` that it
    shows; null: the test set of their own data.
    """

    title: str = MISSING
    note: str = ""
    test_set: str | None = None
    metrics: list[str] = MISSING
    seeds: list[int] = MISSING
    columns: list[str] = MISSING
    overrides: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = MISSING

    def cells(self) -> Iterator[Cell]:
        """All cells, row by row."""
        for row in self.rows:
            yield from row.cells.values()


@dataclass
class Study:
    """A study of one experiment: `rows`, and `columns` if there are any, each vary one key.

    `against` is the value of the row that holds the baselines.
    """

    title: str = MISSING
    note: str = ""
    metrics: list[str] = MISSING
    seeds: list[int] = MISSING
    experiment: str = MISSING
    overrides: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    rows: dict[str, list[Any]] = MISSING
    against: Any = MISSING

    def sweep(self) -> dict[str, str]:
        """What is varied, as Hydra's multirun takes it: values with commas between them, by their key."""
        varied = {**{key: [value] for key, value in self.overrides.items()}, **self.columns, **self.rows}
        return {key: ",".join(map(_text, values)) for key, values in {**varied, "seed": self.seeds}.items()}

    def table(self) -> Table:
        """Its table: the columns are named by their values, or by the experiment where there is one alone."""
        ((row_key, row_values),) = self.rows.items()
        columns: dict[str, dict[str, Any]] = {self.experiment: {}}
        for key, values in self.columns.items():
            columns = {_text(value): {key: value} for value in values}
        return Table(
            title=self.title,
            note=self.note,
            metrics=self.metrics,
            seeds=self.seeds,
            columns=list(columns),
            rows=[
                Row(
                    name=_text(value),
                    against=None if value == self.against else _text(self.against),
                    cells={
                        column: Cell(self.experiment, {**self.overrides, **varied, row_key: value})
                        for column, varied in columns.items()
                    },
                )
                for value in row_values
            ],
        )


def read_tables(folder: Path, *, experiments: Collection[str]) -> dict[str, Table]:
    """The tables of a folder and of its studies, by name: `cifar`, `study/weight`.

    Args:
        folder: of the manifests.
        experiments: the names of those that there are.

    Raises:
        ValueError: a manifest is not one, or a cell names an experiment that does not exist.
    """
    tables = {path.stem: read_table(path) for path in table_files(folder)}
    tables |= {f"study/{name}": study.table() for name, study in read_studies(folder).items()}
    for name, table in tables.items():
        for cell in table.cells():
            if cell.experiment is not None and cell.experiment not in experiments:
                raise ValueError(
                    f"{folder / name}.yaml: there is no experiment {cell.experiment!r} in configs/experiment"
                )
    return tables


def table_files(folder: Path) -> list[Path]:
    """The manifests of the tables in a folder."""
    return sorted(folder.glob("*.yaml"))


def read_table(path: Path) -> Table:
    """A table of its manifest.

    Raises:
        ValueError: it is not one.
    """
    table = _read(path, Table)
    _check(table, path)
    return table


def read_studies(folder: Path) -> dict[str, Study]:
    """The studies of a folder of manifests, by name.

    Raises:
        ValueError: a manifest is not one.
    """
    return {path.stem: read_study(folder, path.stem) for path in sorted((folder / "study").glob("*.yaml"))}


def read_study(folder: Path, name: str) -> Study:
    """A study of a folder of manifests.

    Raises:
        ValueError: its manifest is not one.
    """
    path = folder / "study" / f"{name}.yaml"
    study = _read(path, Study)
    if len(study.rows) != 1 or len(study.columns) > 1:
        raise ValueError(f"{path}: rows must vary one key, and columns one or none")
    _check(study.table(), path)
    return study


def paper_numbers(tables: dict[str, Table]) -> dict[str, list[dict[str, Any]]]:
    """What is reported of each experiment, as plain dictionaries that name the table; unset keys are left out.

    What is reported of a cell that overrides something is not the experiment's.
    """
    numbers: dict[str, list[dict[str, Any]]] = {}
    for name, table in tables.items():
        own = {"table": name} if table.test_set is None else {"table": name, "test_set": table.test_set}
        for cell in table.cells():
            if cell.experiment is None or table.overrides or cell.overrides:
                continue
            for number in cell.paper:
                values = {
                    key: value for key, value in vars(number).items() if value is not None and value is not False
                }
                numbers.setdefault(cell.experiment, []).append(own | values)
    return numbers


def _text(value: object) -> str:
    """A value as on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


Manifest = TypeVar("Manifest", Table, Study)


def _read(path: Path, schema: type[Manifest]) -> Manifest:
    try:
        manifest = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.load(path)))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        where = "" if error.full_key is None or error.full_key in reason else f"{error.full_key}: "
        raise ValueError(f"{path}: {where}{reason}") from None
    except (OSError, YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    assert isinstance(manifest, schema)
    return manifest


def _check(table: Table, path: Path) -> None:
    """Looks for what the types do not say.

    Raises:
        ValueError: the first fault, with its place and what would be right.
    """

    def require(condition: bool, key: str, value: object, allowed: str) -> None:
        if not condition:
            raise ValueError(f"{path}: {key} is {value!r}: it must be {allowed}")

    names = [row.name for row in table.rows]
    require(set(table.metrics) <= set(FIGURES), "metrics", table.metrics, f"of {', '.join(FIGURES)}")
    require(len(set(table.seeds)) == len(table.seeds) > 0, "seeds", table.seeds, "one or more different numbers")
    require(len(set(names)) == len(names), "the list of the rows' names", names, "without repetition")
    for row in table.rows:
        own = [name for name in names if name != row.name]
        require(row.against in [None, *own], f"against of {row.name!r}", row.against, f"one of {', '.join(own)}")
        unknown = set(row.cells) - set(table.columns)
        for number in (number for cell in row.cells.values() for number in cell.paper):
            told = any(getattr(number, figure, None) is not None for figure in FIGURES)
            require(told, f"a number of {row.name!r}", number.source, f"one with {', '.join(FIGURES)}, or several")
        require(not unknown, f"a column of {row.name!r}", ", ".join(unknown), f"one of {', '.join(table.columns)}")
