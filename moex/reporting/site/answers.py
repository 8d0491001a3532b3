"""Does MoEx help, where, and by how much: each row with MoEx against its baseline without it."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from moex.reporting.reproduction import (
    HIGH,
    LOW,
    TITLES,
    UNCONFIRMED,
    Results,
    headline,
    reported_number,
    tabulate_cells,
)
from moex.reporting.runs import Run
from moex.reporting.site.exhibits import Exhibit, steps_of
from moex.reporting.tables import ABSENT

# As a step of a mixing list, and in the names of rows.
MOEX, TITLE = "moex", "MoEx"
CALIBRATION = "rms_calibration_error"
LOWER, HIGHER, UNCLEAR, ALONE = "lower", "higher", "no clear difference", "one seed"


@dataclass(frozen=True)
class Answer:
    """A method with MoEx against its baseline, in percent and points.

    Attributes:
        where: name of the table.
        page: of the site, that holds the table.
        column: of the table.
        method: its row.
        baseline: the row that it is compared with.
        which: `last` or `best` epoch, the errors of which are compared.
        reduced: what was made smaller; empty: nothing.
        pairs: seeds that both have.
        theirs: the baseline's mean error.
        ours: the method's.
        difference: the mean of the paired differences.
        low: the lower end of its 95 % interval by Student's t; NaN without one.
        high: the upper end.
        p: of the paired t-test, corrected by Holm within its table; NaN without one.
        calibration: the difference in RMS calibration error of the same epochs; NaN where it was not measured.
    """

    where: str
    page: str
    column: str
    method: str
    baseline: str
    which: str
    reduced: str
    pairs: int
    theirs: float
    ours: float
    difference: float
    low: float
    high: float
    p: float
    calibration: float

    @property
    def place(self) -> str:
        """The table and its column, and what was made smaller."""
        reduced = f", reduced: {self.reduced}" if self.reduced else ""
        return (self.where if self.where == self.column else f"{self.where}: {self.column}") + reduced

    @property
    def verdict(self) -> str:
        """Which way the interval points, if it does."""
        if math.isnan(self.low):
            return ALONE
        return LOWER if self.high < 0 else HIGHER if self.low > 0 else UNCLEAR


def find_answers(exhibits: Iterable[Exhibit]) -> list[Answer]:
    """One for each row with MoEx among its steps whose baseline has none, where they share a seed.

    Of tables about an error: a higher AUPR would be better. Tables and studies are views over runs: what is compared
    in several is told of the first.
    """
    found: dict[tuple[frozenset[tuple[str, int]], ...], Answer] = {}
    for exhibit in exhibits:
        for kind, results in exhibit.results.items():
            if results and exhibit.table.metrics[0].endswith("error"):
                for answer in _of_results(exhibit, kind, results):
                    places = ((answer.method, answer.column), (answer.baseline, answer.column))
                    runs = (frozenset((run.recipe, run.seed) for run in results[place]) for place in places)
                    found.setdefault(tuple(runs), answer)
    return list(found.values())


def tabulate_answers(answers: Sequence[Answer]) -> pd.DataFrame:
    """The table of the front page, as text."""
    rows = []
    for answer in answers:
        interval = "" if math.isnan(answer.low) else f" [{answer.low:+.2f}, {answer.high:+.2f}]"
        rows.append(
            {
                "where": answer.place,
                "with MoEx": answer.method,
                "baseline": answer.baseline,
                "baseline error, %": f"{answer.theirs:.2f}",
                "error, %": f"{answer.ours:.2f}",
                "difference, points [95 %]": f"{answer.difference:+.2f}{interval}",
                "p (Holm)": ABSENT if math.isnan(answer.p) else "< 0.001" if answer.p < 0.001 else f"{answer.p:.3f}",
                "n": str(answer.pairs),
                "error is": answer.verdict,
                "RMS cal. error, points": ABSENT if math.isnan(answer.calibration) else f"{answer.calibration:+.2f}",
            }
        )
    return pd.DataFrame(rows)


def conclude(answers: Sequence[Answer]) -> str:
    """What they say together, in a sentence or two."""
    if not answers:
        return "No run with MoEx stands beside its baseline yet."
    counts = {verdict: sum(answer.verdict == verdict for answer in answers) for verdict in (LOWER, HIGHER, UNCLEAR)}
    parts = [f"{counts[LOWER]} with a lower error", f"{counts[HIGHER]} with a higher one"]
    told = f"{', '.join(parts)}, and {counts[UNCLEAR]} where the 95 % interval holds zero"
    alone = len(answers) - sum(counts.values())
    note = f"; {alone} of one seed, which says little" if alone else ""
    return f"Measured here: {len(answers)} {'comparison' if len(answers) == 1 else 'comparisons'}, {told}{note}."


def tell_progress(exhibits: Iterable[Exhibit]) -> str:
    """How much of what the paper reports is measured."""
    done = needed = 0
    for exhibit in exhibits:
        for row in exhibit.table.rows:
            for column, cell in row.cells.items():
                if cell.paper and cell.experiment is not None:
                    needed += len(exhibit.table.seeds)
                    done += len(exhibit.results.get("", {}).get((row.name, column), ()))
    return f"Of the cells that the paper reports, {done} of {needed} runs are done."


def tabulate_reported(exhibits: Iterable[Exhibit]) -> pd.DataFrame:
    """What the paper reports of rows with MoEx and of their baselines without it, in the first metric of a table."""
    rows = []
    for exhibit in exhibits:
        table = exhibit.table
        metric = table.metrics[0]
        cells = {(row.name, column): cell for row in table.rows for column, cell in row.cells.items()}
        for row in table.rows:
            for column in row.cells:
                if row.against is None or TITLE not in row.name or TITLE in row.against:
                    continue
                pair = [cells.get((name, column)) for name in (row.against, row.name)]
                numbers = [None if cell is None else reported_number(cell, metric) for cell in pair]
                theirs, ours = (None if each is None else getattr(each, metric) for each in numbers)
                if theirs is None or ours is None:
                    continue
                marked = any(number is not None and number.unconfirmed for number in numbers)
                mark = f" ({UNCONFIRMED})" if marked else ""
                rows.append(
                    {
                        "where": f"{exhibit.name}: {column}",
                        "reported": row.name,
                        "baseline, %": f"{theirs:.2f}{mark}",
                        "with MoEx, %": f"{ours:.2f}{mark}",
                        "difference, points": f"{ours - theirs:+.2f}{mark}",
                    }
                )
    return pd.DataFrame(rows)


def _of_results(exhibit: Exhibit, kind: str, results: Results) -> list[Answer]:
    table, which = exhibit.table, headline(exhibit.table, results)
    cells, title = tabulate_cells(table, results), f"{which} {TITLES[table.metrics[0]]}"
    means = {(row["method"], row["column"]): row[title] for _, row in cells.iterrows()}
    against = {row.name: row.against for row in table.rows}
    answers = []
    for _, row in cells.iterrows():
        place, baseline = (row["method"], row["column"]), (against[row["method"]] or "", row["column"])
        ours, theirs = results.get(place, ()), results.get(baseline, ())
        if not row["pairs"] or MOEX not in steps_of(ours[0]) or MOEX in steps_of(theirs[0]):
            continue
        answers.append(
            Answer(
                where=exhibit.name,
                page=exhibit.page,
                column=row["column"],
                method=row["method"],
                baseline=baseline[0],
                which=which,
                reduced=kind,
                pairs=int(row["pairs"]),
                theirs=float(means[baseline]),
                ours=float(means[place]),
                difference=float(row["difference"]),
                low=float(row[f"t{LOW}"]),
                high=float(row[f"t{HIGH}"]),
                p=float(row["p Holm"]),
                calibration=_calibration(ours, theirs, which),
            )
        )
    return answers


def _calibration(ours: Sequence[Run], theirs: Sequence[Run], which: str) -> float:
    """The mean difference over common seeds."""
    first, second = ({run.seed: run.result[which].get(CALIBRATION) for run in runs} for runs in (ours, theirs))
    pairs = [(first[seed], second[seed]) for seed in first.keys() & second.keys()]
    known = [100 * (one - other) for one, other in pairs if one is not None and other is not None]
    return math.fsum(known) / len(known) if known else math.nan
