"""The figures of one run, and the learning curves of several.

Each function returns a `matplotlib.figure.Figure` of its own, free of pyplot's global state: it can be saved,
or changed first, in any thread and without a display. Titles state the result.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moex import metrics
from moex.predictions import Array
from moex.reporting.predictions import PREDICTIONS, read_predictions
from moex.reporting.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    LINE_STYLES,
    ORANGE,
    headline,
    mark_epochs,
    new_figure,
    plain,
    save_figure,
    start_at_zero,
    tell_last_epochs_apart,
)

# Up to this many epochs, each is shown as a dot.
FEW_EPOCHS = 12
# So many recipes with names of so many letters are told apart inside the axes.
FEW_RECIPES, SHORT_NAME = 6, 60
# What an axis of percent that ends at 100 may span.
SPANS = (1, 2, 5, 10, 20, 25, 50, 100)

LEARNING_CURVES = "learning_curves.png"
RELIABILITY = "reliability.png"
RESPONSE_RATE = "response_rate.png"
CONFUSION = "confusion.png"


def learning_curves(history: pd.DataFrame, *, name: str | None = None) -> Figure:
    """Draws error and loss, and below them the learning rate and the speed, against the epoch.

    Args:
        history: A row an epoch, as in metrics.csv, with the columns epoch, learning_rate, train_error,
            test_error (fractions), train_loss, test_loss and images_per_second; where there is a validation set,
            validation_error and validation_loss too. Where a value is NaN, as the test columns are after an epoch
            without evaluation, the curve runs on to the next one.
        name: Of the run, which the figure shows below.

    Raises:
        ValueError: A column is missing, or there is no row.
    """
    drawn = ("learning_rate", "train_error", "test_error", "train_loss", "test_loss", "images_per_second")
    _check_history(history, drawn)
    figure = new_figure(9, 4.6)
    (error, loss), (rate, speed) = figure.subplots(2, 2, sharex=True, height_ratios=(3.2, 1))
    parts = [("train", BLUE, "training"), ("validation", GREEN, "validation"), ("test", ORANGE, "test")]
    for axes, quantity, factor in ((error, "error", 100), (loss, "loss", 1)):
        for part, colour, label in parts:
            if f"{part}_{quantity}" in history:
                _draw_curve(axes, history, f"{part}_{quantity}", factor=factor, color=colour, label=label)
        axes.legend(frameon=False, loc="upper right")
    _draw_curve(rate, history, "learning_rate", color=GREY)
    _draw_curve(speed, history, "images_per_second", color=GREY)
    titles = ("error, %", "loss, nats", "learning rate", "images/s")
    for axes, title in zip((error, loss, rate, speed), titles, strict=True):
        plain(axes)
        start_at_zero(axes)
        scale = ", log scale" if axes in (error, loss) and tell_last_epochs_apart(axes) else ""
        axes.set_title(title + scale, loc="left", fontsize=10, color=GREY)
    for axes in (rate, speed):
        axes.set_xlabel("epoch")
        axes.yaxis.set_major_locator(MaxNLocator(2))
        mark_epochs(axes, history["epoch"])
    headline(figure, _summary(history, error), name=name)
    return figure


def reliability_diagram(logits: Array, labels: Array, *, bins: int = 15, name: str | None = None) -> Figure:
    """Draws accuracy against confidence in bins of equal width, and the share of predictions in each bin.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).
        bins: Number of bins that divide [0, 1].
        name: Of the run, which the figure shows below.

    Raises:
        ValueError: As `moex.metrics.calibration_bins`.
    """
    parts = metrics.calibration_bins(logits, labels, bins=bins)
    filled = parts.samples > 0
    left, width = 100 * parts.edges[:-1][filled], 100 / bins
    confidence, accuracy = 100 * parts.confidence[filled], 100 * parts.accuracy[filled]
    share = 100 * parts.samples[filled] / parts.samples.sum()

    figure = new_figure(5.2, 5.6)
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3.6, 1))
    diagram.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--", label="perfectly calibrated")
    diagram.bar(left, accuracy, width, align="edge", color="#8DBFE0", edgecolor="white", label="accuracy")
    ends = left + 0.1 * width, left + 0.9 * width
    diagram.hlines(confidence, *ends, color=ORANGE, linewidth=2.5, label="mean confidence")
    diagram.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %")
    diagram.legend(loc="upper left", fontsize=8, framealpha=0.9, edgecolor="white")
    histogram.bar(left, share, width, align="edge", color=GREY, edgecolor="white")
    histogram.set(xlabel="confidence, %", ylabel="predictions, %")
    for axes in (diagram, histogram):
        plain(axes)

    excess = float(np.sum(share * (confidence - accuracy))) / 100
    if abs(excess) < 0.05:
        message = "On average as confident as right"
    else:
        message = f"{'Overconfident' if excess > 0 else 'Underconfident'} by {abs(excess):.1f} points"
    ece = 100 * metrics.expected_calibration_error(logits, labels, bins=bins)
    rms = 100 * metrics.rms_calibration_error(logits, labels)
    headline(figure, message, f"ECE {ece:.1f} %, RMS calibration error {rms:.1f} %", name=name)
    return figure


def response_rate_curve(logits: Array, labels: Array, *, name: str | None = None) -> Figure:
    """Draws accuracy against the share of samples that are answered, the most confident first.

    The shaded area under the curve, a step function, is AURRA. Where nearly all are right, the axis begins where the
    curve can be seen, and says so.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).
        name: Of the run, which the figure shows below.

    Raises:
        ValueError: As `moex.metrics.response_rate_curve`.
    """
    curve = metrics.response_rate_curve(logits, labels)
    edges, accuracy = 100 * np.append(0, curve.response_rate), 100 * curve.accuracy
    half = (len(accuracy) - 1) // 2

    figure = new_figure(5.2, 4.4)
    axes = figure.subplots()
    # A picture in an SVG, which would else hold a corner for every sample.
    axes.stairs(accuracy, edges, fill=True, color=BLUE, alpha=0.12, linewidth=0, rasterized=True)
    axes.stairs(accuracy, edges, color=BLUE, linewidth=1.8, baseline=None)
    axes.plot(edges[[half + 1, -1]], accuracy[[half, -1]], "o", color=BLUE, clip_on=False, zorder=3)
    area = 100 * metrics.aurra(logits, labels)
    lowest = float(accuracy[len(accuracy) // 20 :].min())
    bottom = 0.0 if lowest < 75 else 100 - next(span for span in SPANS if span >= 2.5 * (100 - lowest))
    # Inside the area where it is tall enough for the words, else above it.
    inside = lowest - bottom > 0.2 * (100 - bottom)
    height = (bottom + lowest) / 2 if inside else accuracy[len(accuracy) // 5 :].max() + 6
    axes.text(50, height, f"area = AURRA\n{area:.1f} %", ha="center", va="center" if inside else "bottom")
    axes.set(xlim=(0, 100), ylim=(bottom, 100))
    axes.set_xlabel("response rate, % (the most confident first)")
    axes.set_ylabel(f"accuracy, % (from {bottom:g} on)" if bottom else "accuracy, %")
    plain(axes)
    detail = f"right: {accuracy[-1]:.1f} % of all predictions, {accuracy[half]:.1f} % of the surer half"
    headline(figure, f"AURRA {area:.1f} %", detail, name=name)
    return figure


def confusion_matrix(counts: npt.ArrayLike, class_names: Sequence[str], *, name: str | None = None) -> Figure:
    """Draws what samples of each class are taken for: in colour their share of the class, in figures their number.

    Args:
        counts: `[K, K]`, as `moex.metrics.confusion_matrix` returns them.
        class_names: Of the K classes.
        name: Of the run, which the figure shows below.
    """
    matrix = np.asarray(counts)
    sizes = matrix.sum(axis=1)
    shares = 100 * matrix / np.maximum(sizes, 1)[:, None]
    side = 2.2 + 0.34 * len(matrix)
    # Wide enough for the headline.
    figure = new_figure(max(side + 0.8, 5.2), side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for (label, prediction), count in np.ndenumerate(matrix):
        if count:
            colour = "white" if shares[label, prediction] > 60 else "#222222"
            axes.text(prediction, label, str(count), ha="center", va="center", fontsize=7, color=colour)
    places = np.arange(len(matrix))
    axes.set_xticks(places, class_names, rotation=90, fontsize=8)
    axes.set_yticks(places, class_names, fontsize=8)
    axes.set(xlabel="prediction", ylabel="label")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the label's samples, %", shrink=0.8)
    wrong = np.where(np.eye(len(matrix), dtype=bool), 0, shares)
    label, prediction = divmod(int(wrong.argmax()), len(matrix))
    message = f"{100 - 100 * matrix.trace() / sizes.sum():.2f} % wrong"
    if wrong.max() > 0:
        often = f"{matrix[label, prediction]} of {sizes[label]}"
        message += f"; most often {class_names[label]!r} is taken for {class_names[prediction]!r}: {often}"
    headline(figure, message, size=9, name=name)
    return figure


def compare_learning_curves(histories: Mapping[str, pd.DataFrame | Sequence[pd.DataFrame]]) -> Figure:
    """Draws the error of several recipes: the mean over seeds in a band from minimum to maximum.

    It is that of the validation set where all have one, since their test sets are not looked at after each epoch.
    Bands of many recipes would hide each other, and are left out.

    Args:
        histories: By the recipe's name, its history (see `learning_curves`; the columns epoch and validation_error
            or test_error are used), or those of its seeds, of which the epochs that all of them evaluated are drawn.

    Raises:
        ValueError: There is no recipe or no history, a column is missing, or seeds share no evaluated epoch.
    """
    if not histories:
        raise ValueError("there is no recipe to compare: histories is empty")
    seeds_of = {
        name: [history] if isinstance(history, pd.DataFrame) else list(history) for name, history in histories.items()
    }
    validated = all("validation_error" in seed for seeds in seeds_of.values() for seed in seeds)
    split = "validation" if validated else "test"
    tables = {name: _error_table(name, seeds, split) for name, seeds in seeds_of.items()}
    figure = new_figure(9, 4.8 + (0.11 * len(tables) if len(tables) > FEW_RECIPES else 0))
    axes = figure.subplots()
    for position, (name, table) in enumerate(tables.items()):
        colour = COLOURS[position % len(COLOURS)]
        style = LINE_STYLES[position // len(COLOURS) % len(LINE_STYLES)]
        final, seeds = table.iloc[-1], table.shape[1]
        spread = f" ± {final.std():.2f}" if seeds > 1 else ""
        label = f"{name}: {final.mean():.2f}{spread} % (n = {seeds})"
        marker = "o" if len(table) <= FEW_EPOCHS else None
        if len(tables) <= FEW_RECIPES:
            axes.fill_between(table.index, table.min(axis=1), table.max(axis=1), color=colour, alpha=0.2, linewidth=0)
        axes.plot(table.index, table.mean(axis=1), color=colour, linestyle=style, marker=marker, label=label)
    axes.set_xlabel("epoch")
    if len(tables) <= FEW_RECIPES and max(map(len, tables)) <= SHORT_NAME:
        axes.legend(loc="upper right", fontsize=9, framealpha=0.9, edgecolor="white")
    else:
        # Below, where many and long names have room.
        columns = 1 if len(tables) <= FEW_RECIPES else 2
        figure.legend(frameon=False, loc="outside lower left", fontsize=9, ncols=columns)
    plain(axes)
    start_at_zero(axes)
    axes.set_ylabel(f"{split} error, %" + (", log scale" if tell_last_epochs_apart(axes) else ""))
    mark_epochs(axes, np.concatenate([table.index for table in tables.values()]))
    message = _outcome({name: table.iloc[-1] for name, table in tables.items()})
    band = " in a band from lowest to highest" if len(tables) <= FEW_RECIPES else ""
    headline(figure, message, f"{split} error after the last epoch ± standard deviation; mean over seeds{band}")
    return figure


def compare_with_reported(cells: pd.DataFrame) -> Figure:
    """Draws what is reported of methods beside what was measured, a panel for each column of their table.

    Args:
        cells: A row a cell, in percent: method, column, reported, mark (`unconfirmed` or empty), mean and std;
            NaN where there is nothing.
    """
    columns, methods = list(dict.fromkeys(cells["column"])), list(dict.fromkeys(cells["method"]))
    figure = new_figure(2.6 + 3.2 * len(columns), 1.5 + 0.32 * len(methods))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        part = cells[cells["column"] == column]
        places = part["method"].map(methods.index)
        marked = part["mark"] != ""
        for rows, marker, label in ((~marked, "D", "reported"), (marked, "d", "reported, unconfirmed")):
            if part.loc[rows, "reported"].notna().any():
                axes.plot(part.loc[rows, "reported"], places[rows], marker, color=GREY, fillstyle="none", label=label)
        axes.errorbar(
            part["mean"], places, xerr=part["std"].fillna(0), fmt="o", color=BLUE, capsize=3, label="measured here"
        )
        axes.set_title(column, loc="left", fontsize=10, color=GREY)
        axes.set_xlabel("best epoch, %")
        plain(axes)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    labels = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels.keys(), loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    measured = cells["mean"].notna().sum()
    headline(figure, f"{measured} of {len(cells)} cells measured")
    return figure


def _outcome(last: Mapping[str, "pd.Series[float]"]) -> str:
    """What the last errors of each recipe's seeds say; a lead that one standard deviation may explain is none."""
    (best, lowest), *others = sorted(last.items(), key=lambda item: float(item[1].mean()))
    if not others:
        return f"{best} ends at {lowest.mean():.2f} %"
    second, highest = others[0][1], others[-1][1]
    lead = second.mean() - lowest.mean()
    if min(len(lowest), len(second)) > 1 and lead > max(lowest.std(), second.std()):
        return f"{best} ends lowest, at {lowest.mean():.2f} %"
    return f"No recipe ends clearly lowest: {lowest.mean():.2f} to {highest.mean():.2f} %"


def save_run_figures(
    folder: Path, *, name: str | None = None, confusion: tuple[npt.ArrayLike, Sequence[str]] | None = None
) -> list[Path]:
    """Draws the figures of a run, most of them from what is in its folder, and returns the paths of the pictures.

    Beside each PNG lies the same as SVG.

    Args:
        folder: Holds `metrics.csv` and `predictions.npz` (arrays `logits` and `labels`); the pictures go to
            its subfolder `figures`.
        name: of the run, which the figures show below.
        confusion: What `confusion_matrix` draws; None: nothing.

    Raises:
        ValueError: One of the two files is missing, unreadable or incomplete.
    """
    history = _read_history(folder / "metrics.csv")
    logits, labels, _ = read_predictions(folder / PREDICTIONS)
    figures = {
        LEARNING_CURVES: learning_curves(history, name=name),
        RELIABILITY: reliability_diagram(logits, labels, name=name),
        RESPONSE_RATE: response_rate_curve(logits, labels, name=name),
    }
    if confusion is not None:
        figures[CONFUSION] = confusion_matrix(*confusion, name=name)
    target = folder / "figures"
    target.mkdir(exist_ok=True)
    for file, figure in figures.items():
        save_figure(figure, target / file)
    return [target / file for file in figures]


def _read_history(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"{path} does not exist: the figures need the folder of a finished run")
    try:
        return pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table of epochs ({error})") from None


def _check_history(history: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [column for column in ("epoch", *columns) if column not in history]
    if missing:
        raise ValueError(f"the history lacks the columns {', '.join(missing)}; it has {', '.join(map(str, history))}")
    if history.empty:
        raise ValueError("the history has no epoch yet: there is nothing to draw")


def _error_table(name: str, seeds: Sequence[pd.DataFrame], split: str) -> pd.DataFrame:
    """The error in percent: a row an epoch, a column a seed."""
    if not seeds:
        raise ValueError(f"{name!r} has no history: give one table, or one for each seed")
    error = f"{split}_error"
    for seed in seeds:
        _check_history(seed, (error,))
    columns = [100 * seed.set_index("epoch")[error] for seed in seeds]
    table = pd.concat(columns, axis=1, join="inner", keys=range(len(seeds))).dropna()
    if table.empty:
        raise ValueError(f"{name!r} has no epoch with a {split} error in each of its {len(seeds)} seeds")
    return table


def _draw_curve(
    axes: Axes, history: pd.DataFrame, column: str, *, color: str, factor: float = 1, label: str | None = None
) -> None:
    values = history[["epoch", column]].dropna()
    marker = "o" if len(values) <= FEW_EPOCHS else None
    axes.plot(
        values["epoch"], factor * values[column], color=color, marker=marker, markersize=4, linewidth=1.6, label=label
    )


def _summary(history: pd.DataFrame, axes: Axes) -> str:
    """The headline of the learning curves; the test error of an earlier, better epoch is ringed among the errors.

    The better epoch is that of the lowest validation error; without a validation set, of the lowest test error.
    """
    tested = history.dropna(subset="test_error")
    if tested.empty:
        last = history.iloc[-1]
        return f"Training error {100 * last['train_error']:.2f} % after epoch {last['epoch']:.0f}"
    chooses = "validation_error" if "validation_error" in tested else "test_error"
    last, best = tested.iloc[-1], tested.sort_values(chooses, kind="stable").iloc[0]
    message = f"Test error {100 * last['test_error']:.2f} % after epoch {last['epoch']:.0f}"
    if best[chooses] < last[chooses]:
        axes.plot(best["epoch"], 100 * best["test_error"], "o", markersize=9, markerfacecolor="none", color=ORANGE)
        why = "lowest" if chooses == "test_error" else "chosen on the validation set"
        message += f" ({why}: {100 * best['test_error']:.2f} % after epoch {best['epoch']:.0f})"
    return message
