"""Figures as wide as a phone's screen allows to read, as SVG that follows the page into the dark.

What a figure says stands in the page, above it: there it wraps. So they have no titles of their own.
"""

import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from moex.reporting.style import BLUE, GREY, ORANGE

# Inches, at 72 points each: at this width, letters of 9 points are 10 pixels high on a screen of 390.
WIDTH = 4.8
GRID = "#E4E4E4"
TEXT = "#1D2125"
# What a colour becomes on a dark page. Okabe and Ito's lighter ones, and greys turned around.
DARK = {BLUE: "#56B4E9", ORANGE: "#E69F00", GREY: "#A9AFB5", GRID: "#33383D", TEXT: "#E3E5E8", "#000000": "#8B9197"}
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True)
class Picture:
    """A figure and what the page says with it.

    Attributes:
        name: of its file, without the ending.
        figure: to be saved.
        title: what it shows, as short as a headline.
        caption: how to read it.
    """

    name: str
    figure: Figure = field(compare=False)
    title: str
    caption: str

    @property
    def file(self) -> str:
        """Its place in the site."""
        return f"figures/{self.name}.svg"


def file_name(*parts: str) -> str:
    """A name for a file that tells these apart."""
    return "-".join(re.sub(r"[^\w+=-]+", "_", part).strip("_").lower() for part in parts if part)


def new_figure(height: float, *, width: float = WIDTH) -> Figure:
    """An empty figure; inches."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06))


def panels(names: Sequence[str], *, height: float = 1.75, columns: int = 2) -> tuple[Figure, list[Axes]]:
    """A figure with a small panel for each name, on one scale, and room for a legend above."""
    rows = -(-len(names) // columns)
    columns = min(columns, len(names))
    figure = new_figure(height * rows + 0.55, width=WIDTH if columns > 1 else 0.75 * WIDTH)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, name in zip(grid, names, strict=False):
        title = textwrap.fill(name, 28, max_lines=2, placeholder="…")
        axes.set_title(title, loc="left", color=TEXT, fontsize=9)
        plain(axes)
    for number in range(len(names), len(grid)):
        grid[number].set_visible(False)
        # What would have been below has its ticks on the panel above.
        grid[number - columns].tick_params(labelbottom=True)
    return figure, list(grid[: len(names)])


def label_edges(figure: Figure, axes: Sequence[Axes], *, x: str, y: str) -> None:
    """Labels the figure's sides once, for all panels."""
    if len(axes) == 1:
        axes[0].set_xlabel(x, fontsize=9)
        axes[0].set_ylabel(y, fontsize=9)
    else:
        figure.supxlabel(x, fontsize=9)
        figure.supylabel(y, fontsize=9)


def plain(axes: Axes) -> None:
    """No box, and a faint grid behind."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """One above all panels, each label once."""
    found: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    if found:
        figure.legend(list(found.values()), list(found), loc="outside upper left", ncols=2, frameon=False)


def to_svg(picture: Picture) -> str:
    """A figure as SVG: the same bytes of the same figure, letters of the reader's system, colours of the page."""
    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": picture.name}):
        picture.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Title": picture.title})
    text = re.sub(r"(font: (?:\w+ )?[\d.]+px|font-family:) [^;\"]*", rf"\1 {FONTS}", file.getvalue())
    rules = ["text { fill: #1d2125 }", "@media (prefers-color-scheme: dark) {", f"text {{ fill: {DARK[TEXT]} }}"]
    for light, dark in DARK.items():
        for key in ("stroke", "fill"):
            rules.append(f'[style*="{key}: {light.lower()}"] {{ {key}: {dark} !important }}')
    return text.replace("<defs>", f"<style>{' '.join([*rules, '}'])}</style>\n<defs>", 1)


def spread(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, lowest and highest of several curves."""
    stacked = np.stack(values)
    return stacked.mean(axis=0), stacked.min(axis=0), stacked.max(axis=0)
