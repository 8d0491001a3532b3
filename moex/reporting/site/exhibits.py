"""What a site has to show: the tables of `experiments/`, records, and runs from anywhere, all in one form."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moex.reporting.manifests import Cell, Row, Study, Table
from moex.reporting.predictions import read_summary, summarise_folder
from moex.reporting.records import find_runs
from moex.reporting.reproduction import BEST, LAST, Results
from moex.reporting.runs import RESULT, Run, group_runs, names_of, read_run, read_runs
from moex.reporting.table_folder import CELLS, Entry, read_entries, read_results

TABLES, STUDIES, RECORDS, RUNS = "tables", "studies", "records", "runs"
# What is shown where no manifest says it.
SHOWN = ["error", "aurra", "rms_calibration_error"]


@dataclass(frozen=True)
class Exhibit:
    """A table with the runs behind it.

    Attributes:
        kind: `tables` or `studies`, of a manifest; `records` or `runs`, of no manifest.
        name: of its manifest or of its folder.
        table: its rows and columns.
        results: the runs of its cells, by what was made smaller; empty: nothing.
        command: which makes its numbers again; empty: none does all of them.
        axis: the key that a study varies; None: it is none.
        duplicates: runs that came out otherwise than those that stand for their cells, with their entries.
    """

    kind: str
    name: str
    table: Table
    results: Mapping[str, Results]
    command: str = ""
    axis: str | None = None
    duplicates: Sequence[tuple[Entry, Run]] = field(default=())

    @property
    def page(self) -> str:
        """The file of its page."""
        prefix = "" if self.kind in (TABLES, STUDIES) else f"{self.kind.removesuffix('s')}-"
        return f"{prefix}{self.name.replace('/', '-')}.html"

    @property
    def runs(self) -> list[Run]:
        """All its runs, each once, though it may stand in several cells."""
        found = {run.folder: run for results in self.results.values() for runs in results.values() for run in runs}
        return list(found.values())

    @property
    def needed(self) -> int:
        """How many runs fill its cells; 0 where no manifest says."""
        return len(self.table.seeds) * sum(cell.experiment is not None for cell in self.table.cells())

    @property
    def done(self) -> int:
        """How many of them are there, of the whole recipe."""
        seeds = set(self.table.seeds)
        return sum(run.seed in seeds for runs in self.results.get("", {}).values() for run in runs)

    @property
    def reduced(self) -> int:
        """How many runs of smaller recipes are there."""
        return sum(len(runs) for kind, results in self.results.items() if kind for runs in results.values())


def find_exhibits(
    results: Path, tables: Mapping[str, Table], studies: Mapping[str, Study], others: Sequence[Path] = ()
) -> list[Exhibit]:
    """All that there is to show: every table of a manifest, with or without runs, then records, then other runs.

    Args:
        results: the folder of tables' folders and records.
        tables: by name, those of the studies among them.
        studies: by name.
        others: folders of runs, or folders above them.

    Raises:
        ValueError: there is no run at all, or a file is missing or damaged.
    """
    exhibits = [_of_manifest(name, table, studies, results / name) for name, table in tables.items()]
    folders = sorted(path for path in results.glob("*") if path.is_dir() and not (path / CELLS).exists())
    # A folder above tables' folders, such as that of the studies, is no record.
    records = [path for path in folders if any(path.rglob(RESULT)) and not any(path.rglob(CELLS))]
    for path in records:
        command = f"python scripts/report.py --record {path.parent.name}/{path.name}"
        exhibits.append(_of_runs(RECORDS, path.name, path.name, find_runs(path), command))
    for number, path in enumerate(others, 1):
        exhibits.append(_of_runs(RUNS, f"{number}-{path.resolve().name}", str(path), read_runs([path]), ""))
    if not any(exhibit.runs for exhibit in exhibits):
        raise ValueError(
            f"{results} holds no finished run: scripts/reproduce.py digits makes some; or name the folders of others"
        )
    return exhibits


def predictions_of(run: Run) -> Mapping[str, Any] | None:
    """What figures need of its predictions: as they were kept with its summary, or of its own folder; None: neither.

    Raises:
        ValueError: a file is damaged.
    """
    of = BEST if run.selected_on == "validation" else LAST
    return read_summary(run.folder) or summarise_folder(run.folder, of=of)


def steps_of(run: Run) -> list[str]:
    """The steps of its mixing list."""
    augmentation = run.result.get("config", {}).get("augmentation", {})
    return [*augmentation.get("steps", []), *augmentation.get("one_of", [])]


def _of_manifest(name: str, table: Table, studies: Mapping[str, Study], folder: Path) -> Exhibit:
    study = studies.get(name.removeprefix("study/")) if name.startswith("study/") else None
    shown = (folder / CELLS).exists()
    duplicates = [
        (entry, read_run(folder / entry.run / RESULT))
        for entry in (read_entries(folder) if shown else [])
        if entry.duplicate
    ]
    return Exhibit(
        kind=TABLES if study is None else STUDIES,
        name=name,
        table=table,
        results=read_results(folder) if shown else {"": {}},
        command=f"python scripts/reproduce.py {name}",
        axis=None if study is None else next(iter(study.rows)),
        duplicates=duplicates,
    )


def _of_runs(kind: str, name: str, title: str, runs: Iterable[Run], command: str) -> Exhibit:
    """A row for each recipe; the baseline of one with MoEx is the same without it, or else without augmentation."""
    groups = group_runs(runs)
    names = [names_of(group) for group in groups]
    labels = [
        name if names.count(name) == 1 else f"{name} ({group[0].folder.parent.name})"
        for name, group in zip(names, groups, strict=True)
    ]
    label_of = {_recipe(group[0]): label for label, group in zip(labels, groups, strict=True)}
    several = len({_dataset_of(group[0]) for group in groups}) > 1
    rows, results = [], {}
    for label, group in sorted(zip(labels, groups, strict=True), key=lambda pair: bool(steps_of(pair[1][0]))):
        column, steps = _dataset_of(group[0]) if several else name, steps_of(group[0])
        baselines = [_recipe(group[0], without=some) for some in (["moex"], steps) if some and {*some} <= {*steps}]
        against = next((label_of[recipe] for recipe in baselines if recipe in label_of), None)
        rows.append(Row(label, against, {column: Cell(experiment=None)}))
        results[label, column] = group
    columns = list(dict.fromkeys(column for _, column in results))
    table = Table(title=title, metrics=SHOWN, seeds=[], columns=columns, rows=rows)
    return Exhibit(kind, name, table, {"": results}, command)


def _dataset_of(run: Run) -> str:
    return str(run.result.get("config", {}).get("dataset", {}).get("name", ""))


def _recipe(run: Run, *, without: Sequence[str] = ()) -> frozenset[tuple[str, str]]:
    """A run's recipe less some steps of the mixing list and what only they need."""
    recipe = dict(run.result["recipe"])
    for key in ("augmentation.steps", "augmentation.one_of"):
        recipe[key] = [step for step in recipe.get(key, []) if step not in without]
    left = len(recipe["augmentation.steps"] + recipe["augmentation.one_of"])
    dropped = [f"augmentation.{step}." for step in without] if left else ["augmentation."]
    if left == 1:
        dropped.append("augmentation.shared_permutation")
    return frozenset((key, str(value)) for key, value in recipe.items() if not key.startswith(tuple(dropped)))
