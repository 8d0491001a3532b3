"""Draws the README's picture of the method, by running the operator itself on two photographs.

    python scripts/method_figure.py [docs/method.png]

PONO's moments are one mean and one standard deviation at each position, over the channels. Here the channels
are red, green and blue, so that they can be seen: the mean is the light, the deviation the strength of the
colour. The photographs are scikit-learn's sample images (CC BY 2.0; the picture names their authors).
"""

import argparse
import sys
from io import BytesIO
from pathlib import Path

import checkout  # noqa: F401
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn import functional as F

import moex
from moex.command_line import run_main, user_path

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#6B6B6B"
WIDTH, HEIGHT, DPI = 1600, 600, 150
SIDE = 320
CREDITS = (
    "moex.exchange_moments (PONO) on the pixels' red, green and blue. Photographs, cropped: "
    "danielbuechele (temple) and vultilion (flower), Flickr, CC BY 2.0"
)


def main() -> None:
    """Reads the output path from the command line and writes the picture there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=user_path, nargs="?", default=Path("docs/method.png"))
    output: Path = parser.parse_args().output
    output.parent.mkdir(parents=True, exist_ok=True)
    drawn = BytesIO()
    method_figure().savefig(drawn)
    # Without the alpha channel, which is opaque everywhere, the file is a tenth smaller.
    Image.open(drawn).convert("RGB").save(output, optimize=True)
    print(output)


def method_figure() -> Figure:
    """Two photographs, the moments of each, and the first with the moments of the second."""
    photographs = torch.stack([load_photograph(name) for name in ("china.jpg", "flower.jpg")])
    mean, std = moex.moments(photographs)
    normalised = (photographs - mean) / std
    exchanged = moex.exchange_moments(photographs, torch.tensor([1, 0]))

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
    top, bottom, small, large = 315, 65, 185, 370
    show(figure, photographs[0], (30, top, small), BLUE, "$A$, label $y_A$")
    show(figure, mean[0], (280, top, small), BLUE, r"$\mu_A$")
    show(figure, std[0] / std.max(), (485, top, small), BLUE, r"$\sigma_A$")
    # Over three channels, normalised values lie within ±2/√3.
    show(figure, normalised[0] / 2.4 + 0.5, (735, top, small), BLUE, r"$(A-\mu_A)\,/\,\sigma_A$")
    show(figure, photographs[1], (30, bottom, small), ORANGE, "$B$, label $y_B$")
    show(figure, mean[1], (280, bottom, small), ORANGE, r"$\mu_B$")
    show(figure, std[1] / std.max(), (485, bottom, small), ORANGE, r"$\sigma_B$")
    show(figure, exchanged[0], (1190, 155, large), "#222222", "")

    arrow(figure, (222, top + small // 2), (273, top + small // 2), BLUE)
    arrow(figure, (677, top + small // 2), (728, top + small // 2), BLUE)
    arrow(figure, (927, top + small // 2), (1176, 375), BLUE)
    arrow(figure, (222, bottom + small // 2), (273, bottom + small // 2), ORANGE)
    arrow(figure, (677, bottom + small // 2), (1176, 310), ORANGE)
    write(figure, 475, top + small + 22, "the moments of A are removed …", BLUE, size=11)
    write(figure, 905, 125, "… and those of B take their place", ORANGE, size=11)
    write(figure, 1375, 120, r"$\sigma_B\,(A-\mu_A)\,/\,\sigma_A+\mu_B$", size=13)
    write(figure, 1375, 77, r"label $\lambda\,y_A+(1-\lambda)\,y_B$", size=13)
    write(figure, 800, 572, "Moment Exchange: the features of A with the moments of B, and both labels", size=14)
    write(figure, 800, 14, CREDITS, GREY, size=7)
    return figure


def load_photograph(name: str) -> Tensor:
    """One of scikit-learn's sample images: its central square, float32 `[3, SIDE, SIDE]` in [0, 1]."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1).float() / 255
    height, width = pixels.shape[1:]
    left = (width - height) // 2
    square = pixels[:, :, left : left + height]
    return F.interpolate(square[None], size=(SIDE, SIDE), mode="bilinear", antialias=True)[0]


def show(figure: Figure, image: Tensor, place: tuple[int, int, int], colour: str, caption: str) -> None:
    """Places `[C, H, W]` as a framed square, and its caption below; `place` is left, bottom, side in pixels."""
    left, bottom, side = place
    axes = figure.add_axes((left / WIDTH, bottom / HEIGHT, side / WIDTH, side / HEIGHT))
    axes.imshow(image.clamp(0, 1).permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=colour, linewidth=2)
    write(figure, left + side / 2, bottom - 22, caption, colour, size=11)


def write(figure: Figure, x: float, y: float, text: str, colour: str = "#222222", *, size: float) -> None:
    """Writes a text centred at a point in pixels."""
    figure.text(x / WIDTH, y / HEIGHT, text, ha="center", va="center", color=colour, fontsize=size)


def arrow(figure: Figure, start: tuple[int, int], end: tuple[int, int], colour: str) -> None:
    """Draws an arrow between two points in pixels."""
    figure.add_artist(
        FancyArrowPatch(
            (start[0] / WIDTH, start[1] / HEIGHT),
            (end[0] / WIDTH, end[1] / HEIGHT),
            transform=figure.transFigure,
            arrowstyle="-|>",
            mutation_scale=14,
            linewidth=1.8,
            color=colour,
        )
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
