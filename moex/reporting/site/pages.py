"""The pages of the site: what each template is given."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from moex.reporting.manifests import Table
from moex.reporting.records import provenance
from moex.reporting.reproduction import TITLES, UNCONFIRMED, Results, as_text, headline, tabulate_cells
from moex.reporting.runs import Run
from moex.reporting.site import figures
from moex.reporting.site.answers import (
    Answer,
    conclude,
    find_answers,
    tabulate_answers,
    tabulate_reported,
    tell_progress,
)
from moex.reporting.site.exchange import Exchange, draw_pair
from moex.reporting.site.exhibits import RECORDS, RUNS, STUDIES, TABLES, Exhibit, predictions_of
from moex.reporting.site.pictures import Picture, file_name, to_svg
from moex.reporting.site.throughput import Benchmark, Part, draw_ratios, render_markdown
from moex.reporting.tables import markdown

HEADINGS = {TABLES: "Tables of the paper, and of our own", STUDIES: "Studies", RECORDS: "Records", RUNS: "Other runs"}
# Columns of words; all others hold numbers.
WORDS = {"method", "on", "where", "with MoEx", "error is", "reported", "command", "precision", "hardware", "torch"}
WORDS |= {"baseline", "commit", "run"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, whether it has the mark of unconfirmed numbers, and where it leads."""

    text: str
    unconfirmed: bool = False
    link: str = ""
    anchor: str = ""
    code: bool = False


@dataclass(frozen=True)
class Grid:
    """A table as it is shown: `words` says of which columns are not numbers."""

    columns: Sequence[str]
    words: Sequence[bool]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """What a page has of one kind of runs: whole recipes, or those that were made smaller in one way."""

    kind: str
    legend: str
    grid: Grid
    pictures: Sequence[Picture]
    confusions: Sequence[Picture]
    data: str
    unpredicted: int


def render_site(
    exhibits: Sequence[Exhibit], benchmarks: Sequence[Benchmark], exchange: Exchange, *, command: str
) -> dict[str, str]:
    """The contents of all files by their names, the front page first."""
    environment = Environment(
        loader=PackageLoader("moex.reporting.site"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"command": command, "headings": HEADINGS}
    environment.filters["markdown"] = render_markdown
    answers = find_answers(exhibits)
    files: dict[str, str] = {"index.html": ""}
    pictures: list[Picture] = []

    def render(page: str, template: str, **context: Any) -> None:
        files[page] = environment.get_template(template).render(page=page, **context)

    for exhibit in exhibits:
        sections, data = _sections(exhibit)
        files |= data
        pictures += [picture for part in sections for picture in (*part.pictures, *part.confusions)]
        render(
            exhibit.page,
            "table.html",
            exhibit=exhibit,
            sections=sections,
            sources=_sources(exhibit.table),
            summary=_summarise(exhibit.runs),
            runs=_list_runs(exhibit),
            duplicates=_list_duplicates(exhibit),
        )
    speeds = [
        (benchmark, [(part, draw_ratios(benchmark, part)) for part in benchmark.parts]) for benchmark in benchmarks
    ]
    pictures += [picture for _, parts in speeds for *_, picture in parts if picture is not None]
    render("throughput.html", "throughput.html", speeds=speeds)
    pairs = [draw_pair(pair, number) for number, pair in enumerate(exchange.pairs, 1)]
    pictures += pairs
    render("exchange.html", "exchange.html", exchange=exchange, pictures=pairs)
    overview = [figures.differences(answers)] if answers else []
    pictures += overview
    table = tabulate_answers(answers)
    render(
        "index.html",
        "index.html",
        conclusion=conclude(answers),
        progress=tell_progress(exhibits),
        reported=_grid(tabulate_reported(exhibits)),
        grid=_answers_grid(answers, table),
        pictures=overview,
        cost=_cost(benchmarks),
        groups=[(kind, [each for each in exhibits if each.kind == kind]) for kind in HEADINGS],
        pair=pairs[0] if pairs else None,
    )
    files["data/answers.md"] = (markdown(table) if answers else conclude(answers)) + "\n"
    for name in ("site.css", "site.js"):
        files[name] = environment.get_template(name).render()
    drawn = {picture.file: to_svg(picture) for picture in pictures}
    assert len(drawn) == len(pictures), "two figures have one name"
    return files | drawn


def _sections(exhibit: Exhibit) -> tuple[list[Section], dict[str, str]]:
    sections, data = [], {}
    for kind, results in exhibit.results.items():
        table = exhibit.table
        name = file_name(exhibit.page.removesuffix(".html"), kind)
        cells = tabulate_cells(table, results)
        pictures = []
        kept = {run.folder: predictions_of(run) for runs in results.values() for run in runs}
        if results:
            if exhibit.axis is not None:
                pictures += figures.study_plot(name, cells, table, results, axis=exhibit.axis)
            pictures += figures.reported_and_measured(name, cells, table)
            pictures += figures.learning_curves(name, table, results)
            pictures += figures.reliability(name, table, results, kept)
            pictures += figures.response_rate(name, table, results, kept)
        file = f"data/{name}.csv"
        data[file] = cells.to_csv(index=False)
        unpredicted = sum(summary is None for summary in kept.values())
        text = _first_metric_first(as_text(table, cells), table)
        grid = _grid(text, links=_anchors(table, results, kind))
        confusions = figures.confusions(name, table, results, kept)
        legend = _legend(table, results) if results else ""
        sections.append(Section(kind, legend, grid, pictures, confusions, file, unpredicted))
    return sections, data


def _first_metric_first(text: pd.DataFrame, table: Table) -> pd.DataFrame:
    """What a table is about comes before its other metrics: on a phone, these are a long way off."""
    others = [
        column for column in text if any(str(column).endswith(f" {TITLES[name]}") for name in table.metrics[1:])
    ]
    return text[[*(column for column in text if column not in others), *others]]


def _legend(table: Table, results: Results) -> str:
    which = headline(table, results)
    chooser = "validation" if which == "best" else "test"
    compared = any(row.against for row in table.rows)
    return (
        "Mean ± standard deviation over n seeds, in percent. Last: after the last epoch, without any selection. "
        f"Best: after the epoch that the {chooser} set chose."
    ) + (f" Differences to the baseline are those of {which}, paired by seed." if compared else "")


def _anchors(table: Table, results: Results, kind: str) -> list[str]:
    """For each cell of a table, row by row, where its runs are told of; empty where it has none."""
    places = [(row.name, column) for row in table.rows for column in table.columns if column in row.cells]
    return [f"#{_anchor(kind, *place)}" if results.get(place) else "" for place in places]


def _anchor(kind: str, row: str, column: str) -> str:
    return file_name("runs", kind, row, column)


def _grid(text: pd.DataFrame, *, links: Sequence[str] = ()) -> Grid:
    """Texts as cells; `links`, one a row, are those of the count of seeds."""
    rows = [
        [
            replace(_cell(value), link=link if column == "n" else "")
            for column, value in zip(text.columns, values, strict=True)
        ]
        for values, link in zip(text.to_numpy().tolist(), links or [""] * len(text), strict=True)
    ]
    return Grid(list(text.columns), [column in WORDS for column in text.columns], rows)


def _cell(value: str) -> Cell:
    plain = value.removesuffix(f" ({UNCONFIRMED})")
    is_code = len(plain) > 2 and plain.startswith("`") and plain.endswith("`")
    return Cell(plain.strip("`") if is_code else plain, unconfirmed=plain != value, code=is_code)


def _answers_grid(answers: Sequence[Answer], table: pd.DataFrame) -> Grid:
    grid = _grid(table)
    rows = [
        [replace(cell, link="" if place else answer.page) for place, cell in enumerate(row)]
        for answer, row in zip(answers, grid.rows, strict=True)
    ]
    return replace(grid, rows=rows)


def _sources(table: Table) -> list[tuple[str, bool]]:
    """Where the reported numbers are from, and whether they could not be checked there."""
    numbers = [number for cell in table.cells() for number in cell.paper]
    return list(dict.fromkeys((number.source, number.unconfirmed) for number in numbers))


def _summarise(runs: Iterable[Run]) -> dict[str, str]:
    """On what, with which software and when some runs were made."""
    results = [run.result for run in runs]
    if not results:
        return {}
    days = sorted(result["end"][:10] for result in results)
    commits = (result["commit"][:10] + (" (with changes)" if result["dirty"] else "") for result in results)
    return {
        "hardware": _join(f"{result['device']}, {result['threads']} threads" for result in results),
        "precision": _join(result["precision"] for result in results),
        "torch": _join(result["versions"]["torch"] for result in results),
        "commit": _join(commits),
        "date": days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}",
        "minutes of training": f"{sum(result['seconds'] for result in results) / 60:,.0f}",
    }


def _join(values: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(map(str, values)))


def _list_runs(exhibit: Exhibit) -> Grid | None:
    """Where each number is from: a row for each run of each cell; the first of a cell is where the cell leads."""
    rows: list[list[Cell]] = []
    columns: list[str] = []
    for kind, results in exhibit.results.items():
        for (row, column), runs in results.items():
            text = provenance(runs)
            columns = ["method", "on", *text.columns]
            on = f"{column}, reduced: {kind}" if kind else column
            for number, values in enumerate(text.to_numpy().tolist()):
                anchor = "" if number else _anchor(kind, row, column)
                rows.append([Cell(row, anchor=anchor), Cell(on), *(_cell(str(value)) for value in values)])
    return Grid(columns, [column in WORDS for column in columns], rows) if rows else None


def _list_duplicates(exhibit: Exhibit) -> Grid | None:
    if not exhibit.duplicates:
        return None
    title = TITLES["error"]
    rows = [
        {
            "method": entry.row,
            "on": entry.column,
            "seed": str(entry.seed),
            f"last {title}": f"{100 * run.result['last']['error']:.2f}",
            "hardware": run.result["device"],
            "run": entry.run,
        }
        for entry, run in exhibit.duplicates
    ]
    return _grid(pd.DataFrame(rows))


def _cost(benchmarks: Sequence[Benchmark]) -> list[tuple[Benchmark, list[Part]]]:
    """The benchmarks that measure what MoEx costs in time, with the sections in which they do."""
    parts = [[part for part in each.parts if part.title.startswith("MoEx in every step")] for each in benchmarks]
    return [(benchmark, theirs) for benchmark, theirs in zip(benchmarks, parts, strict=True) if theirs]
