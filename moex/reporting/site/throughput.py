"""The pages of `results/benchmark`: speed, as ratios within one run of the benchmark."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt
from markupsafe import Markup

from moex.reporting.site.pictures import TEXT, Picture, file_name, new_figure, plain
from moex.reporting.style import BLUE, GREY

RATIO = "times the first"
TABLE_LINE = re.compile(r"^\|.*$", re.MULTILINE)
MEDIAN_AND_RANGE = re.compile(r"([\d.,]+) \(([\d.,]+) to ([\d.,]+)\)")


@dataclass(frozen=True)
class Part:
    """A section of a benchmark's page.

    Attributes:
        title: what was measured.
        text: its Markdown, without the title.
        rows: of its table, by the headings; the first column's is empty.
    """

    title: str
    text: str
    rows: Sequence[Mapping[str, str]]

    @property
    def ratios(self) -> dict[str, tuple[float, float, float]]:
        """By what was measured, the median, the lowest and the highest multiple of the first one's speed."""
        found = {row[""]: MEDIAN_AND_RANGE.fullmatch(row.get(RATIO, "")) for row in self.rows}
        numbers = {
            name: [float(number.replace(",", "")) for number in each.groups()] for name, each in found.items() if each
        }
        return {name: (median, low, high) for name, (median, low, high) in numbers.items()}


@dataclass(frozen=True)
class Benchmark:
    """A page: on what, of which commit and when it was measured, and its sections."""

    name: str
    provenance: str
    parts: Sequence[Part]


def read_benchmarks(folder: Path) -> list[Benchmark]:
    """The pages of a folder, by name; none where there is no folder."""
    return [_read(path) for path in sorted(folder.glob("*.md"))]


def render_markdown(text: str) -> Markup:
    """Markdown as HTML: what looks like HTML in it is shown as it is written."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    html = html.replace("<table>", '<div class="scroll markdown" tabindex="0"><table class="sortable">')
    return Markup(html.replace("</table>", "</table></div>"))


def draw_ratios(benchmark: Benchmark, part: Part) -> Picture | None:
    """How many times as fast as the first each is, on a logarithmic scale; None where there is nothing to compare."""
    if len(part.ratios) < 2:
        return None
    figure = new_figure(0.6 + 0.4 * len(part.ratios))
    axes = figure.subplots()
    for place, (name, (median, low, high)) in enumerate(part.ratios.items()):
        colour = GREY if place == 0 else BLUE
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
        axes.plot(median, place, "D" if place == 0 else "o", color=colour, fillstyle="none" if place == 0 else "full")
        axes.annotate(
            f"{name}: {median:.2f} ×",
            (0, place - 0.4),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="center",
            color=TEXT,
        )
    ends = np.array(list(part.ratios.values()))
    left, right = 0.8 * ends.min(), 1.25 * ends.max()
    axes.set(xscale="log", xlim=(left, right), ylim=(len(part.ratios) - 0.6, -0.8), yticks=[])
    # The finer ones would touch each other on a long axis.
    steps = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, *((0.8, 1.25, 1.5, 2.5) if right < 6 * left else ()))
    shown = [value for value in steps if left <= value <= right]
    axes.set_xticks(shown, [f"{value:g}" for value in shown], minor=False)
    axes.minorticks_off()
    axes.set_xlabel("times the speed of the first", fontsize=9)
    plain(axes)
    axes.spines["left"].set_visible(False)
    name = file_name("speed", benchmark.name, part.title)
    return Picture(name, figure, part.title, "Median of the rounds, in a line from the lowest to the highest.")


def _read(path: Path) -> Benchmark:
    head, *sections = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)
    parts = []
    for section in sections:
        title, _, text = section.partition("\n")
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE_LINE.findall(text)]
        rows = [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]
        parts.append(Part(title.strip(), text.strip(), rows))
    return Benchmark(path.stem, head.partition("\n")[2].strip(), parts)
