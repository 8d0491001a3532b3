"""The figures show the numbers they were given, and save_run_figures says what it lacks."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from moex import metrics
from moex.reporting import figures
from moex.reporting.site import pictures as site
from moex.reporting.style import tell_last_epochs_apart


def history(epochs: int = 20, *, every: int = 1, shift: float = 0.0) -> pd.DataFrame:
    """A metrics.csv, whose test columns are NaN but for each `every`-th epoch."""
    epoch = np.arange(1, epochs + 1)
    table = pd.DataFrame(
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "learning_rate": 0.1 / epoch,
            "train_loss": 3 / epoch,
            "train_error": 0.8 / epoch,
            "test_loss": 3.3 / epoch,
            "test_error": 0.9 / epoch + shift,
            "images_per_second": 1000.0 + epoch,
            "seconds": 2.0 * epoch,
        }
    )
    table.loc[epoch % every != 0, ["test_loss", "test_error"]] = np.nan
    return table


def predictions(samples: int, *, skill: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, samples)
    logits = rng.normal(size=(samples, 10)).astype(np.float32)
    logits[np.arange(samples), labels] += skill
    return logits, labels


def headline(figure: Figure) -> str:
    return figure.get_suptitle()


def write_run(folder: Path, samples: int = 60) -> Path:
    history().to_csv(folder / "metrics.csv", index=False)
    logits, labels = predictions(samples)
    np.savez_compressed(folder / "predictions.npz", logits=logits, labels=labels, best_logits=logits)
    return folder


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (2, 1), (30, 1), (30, 5)])
def test_learning_curves_show_the_history(epochs: int, every: int) -> None:
    table = history(epochs, every=every)
    figure = figures.learning_curves(table)
    error, loss, rate, speed = figure.axes
    tested = table.dropna()
    for line, rows, values in (
        (error.lines[0], table, 100 * table.train_error),
        (error.lines[1], tested, 100 * tested.test_error),
        (loss.lines[0], table, table.train_loss),
        (loss.lines[1], tested, tested.test_loss),
        (rate.lines[0], table, table.learning_rate),
        (speed.lines[0], table, table.images_per_second),
    ):
        np.testing.assert_array_equal(line.get_xdata(), rows.epoch)
        np.testing.assert_array_equal(line.get_ydata(), values)
        bottom, top = line.axes.get_ylim()
        assert bottom == 0
        assert top > max(values)
    assert headline(figure) == f"Test error {90 / epochs:.2f} % after epoch {epochs}"
    assert [axes.get_yscale() for axes in figure.axes] == [
        *["symlog" if epochs == 30 else "linear"] * 2,
        *["linear"] * 2,
    ]


def test_the_last_epochs_are_told_apart() -> None:
    """Of two errors of 1 % and 2 %, after one of 80 %, the space between is a tenth of the axis or more."""
    table = history(3)
    table["test_error"], table["train_error"] = [0.8, 0.02, 0.01], [0.8, 0.01, 0.0]
    for figure in (figures.learning_curves(table), figures.compare_learning_curves({"MoEx": table})):
        axes = figure.axes[0]
        places = axes.transAxes.inverted().transform(axes.transData.transform([(1, 2), (1, 1), (1, 0)]))[:, 1]
        assert places[0] - places[1] > 0.1
        assert places[2] == pytest.approx(0)
        figure.canvas.draw()
        labels = {label.get_text() for label in axes.get_yticklabels()}
        assert {"0", "1", "2", "5", "10", "50"} <= labels


def test_curves_that_end_high_fill_the_axis() -> None:
    table = history(3)
    table["test_error"], table["train_error"] = [0.98, 0.75, 0.7], [0.97, 0.8, 0.75]
    for figure in (figures.learning_curves(table), figures.compare_learning_curves({"MoEx": table})):
        bottom, top = figure.axes[0].get_ylim()
        assert 65 < bottom < 70
        assert 98 < top < 103


def test_the_band_over_seeds_is_whole_where_the_axis_shows_the_range() -> None:
    seeds = [history(3).assign(test_error=errors) for errors in ([0.9, 0.75, 0.7], [0.9, 0.75, 0.6])]
    bottom, top = figures.compare_learning_curves({"MoEx": seeds}).axes[0].get_ylim()
    assert 55 < bottom < 60
    assert 90 < top < 95


def test_panels_that_share_an_axis_are_on_one_scale() -> None:
    """A panel whose errors do not fall far is no reason to hide the last epochs of another."""
    _, panels = site.panels(["falls", "stays"])
    for axes, errors in zip(panels, ([80, 2, 1], [80, 60, 50]), strict=True):
        axes.plot([1, 2, 3], errors)
    assert tell_last_epochs_apart(*panels)
    assert [axes.get_yscale() for axes in panels] == ["symlog", "symlog"]
    assert panels[0].get_ylim() == panels[1].get_ylim() == (0, 104)


def test_each_figure_of_a_run_bears_its_name() -> None:
    logits, labels = predictions(60)
    name = "digits_moex, seed 0"
    for figure in (
        figures.learning_curves(history(), name=name),
        figures.reliability_diagram(logits, labels, name=name),
        figures.response_rate_curve(logits, labels, name=name),
        figures.confusion_matrix([[1, 0], [0, 1]], ["yes", "no"], name=name),
    ):
        assert figure.get_supxlabel() == name


def test_learning_curves_ring_a_lower_error_before_the_last() -> None:
    table = history(10)
    table.loc[9, "test_error"] = 0.5
    figure = figures.learning_curves(table)
    assert headline(figure) == "Test error 50.00 % after epoch 10 (lowest: 10.00 % after epoch 9)"
    np.testing.assert_allclose(figure.axes[0].lines[-1].get_xydata(), [[9, 10]])


def test_learning_curves_with_a_validation_set() -> None:
    table = history(10)
    table["validation_loss"] = table.test_loss + 1
    table["validation_error"] = table.test_error
    table.loc[4, "validation_error"] = 0.01
    figure = figures.learning_curves(table)
    error, loss, *_ = figure.axes
    np.testing.assert_array_equal(error.lines[1].get_ydata(), 100 * table.validation_error)
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), table.validation_loss)
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation", "test"]
    assert (
        headline(figure) == "Test error 9.00 % after epoch 10 (chosen on the validation set: 18.00 % after epoch 5)"
    )
    np.testing.assert_allclose(error.lines[-1].get_xydata(), [[5, 18]])


def test_learning_curves_without_any_evaluation() -> None:
    figure = figures.learning_curves(history(4, every=5))
    assert headline(figure) == "Training error 20.00 % after epoch 4"


def test_learning_curves_refuse_what_is_no_history() -> None:
    with pytest.raises(ValueError, match="lacks the columns train_error, test_loss; it has epoch"):
        figures.learning_curves(history().drop(columns=["train_error", "test_loss"]))
    with pytest.raises(ValueError, match="no epoch yet"):
        figures.learning_curves(history(0))


@pytest.mark.parametrize("samples", [1, 40, 1000])
def test_response_rate_curve_has_the_area_that_its_headline_names(samples: int) -> None:
    logits, labels = predictions(samples)
    figure = figures.response_rate_curve(logits, labels)
    shaded, outline = figure.axes[0].patches
    aurra = metrics.aurra(logits, labels)
    for steps in (shaded, outline):
        data = steps.get_data()
        area = np.sum(data.values * np.diff(data.edges)) / 100**2
        assert area == pytest.approx(aurra, abs=1e-12)
        assert (data.edges[0], data.edges[-1]) == (0, 100)
    assert headline(figure) == f"AURRA {100 * aurra:.1f} %"
    assert figure.axes[0].texts[0].get_text() == f"area = AURRA\n{100 * aurra:.1f} %"


@pytest.mark.parametrize(
    ("wrong", "bottom", "said"),
    [(4, 98, "accuracy, % (from 98 on)"), (100, 75, "accuracy, % (from 75 on)"), (900, 0, "accuracy, %")],
)
def test_the_axis_of_the_response_rate_curve_begins_where_the_curve_is_seen(wrong, bottom, said) -> None:
    logits = np.zeros((1000, 2))
    logits[:, 0] = np.linspace(2, 1, 1000)
    labels = (np.arange(1000) >= 1000 - wrong).astype(int)
    axes = figures.response_rate_curve(logits, labels).axes[0]
    assert (axes.get_ylim(), axes.get_ylabel()) == ((bottom, 100), said)
    lowest = 100 - wrong / 10
    # The curve takes a quarter of the height or more, and the shaded area is not all there is.
    assert 100 - lowest >= (100 - bottom) / 6


@pytest.mark.parametrize("bins", [5, 15])
def test_reliability_diagram_shows_the_bins(bins: int) -> None:
    logits, labels = predictions(500)
    figure = figures.reliability_diagram(logits, labels, bins=bins)
    parts = metrics.calibration_bins(logits, labels, bins=bins)
    filled = parts.samples > 0
    diagram, histogram = figure.axes
    bars, shares = diagram.containers[0], histogram.containers[0]
    np.testing.assert_allclose([bar.get_x() for bar in bars], 100 * parts.edges[:-1][filled])
    np.testing.assert_allclose([bar.get_height() for bar in bars], 100 * parts.accuracy[filled])
    np.testing.assert_allclose([bar.get_height() for bar in shares], 100 * parts.samples[filled] / 500)
    heights = [path.vertices[0, 1] for path in diagram.collections[0].get_paths()]
    np.testing.assert_allclose(heights, 100 * parts.confidence[filled])
    ece = metrics.expected_calibration_error(logits, labels, bins=bins)
    assert f"ECE {100 * ece:.1f} %" in diagram.get_title(loc="left")


@pytest.mark.parametrize(
    ("margin", "right", "message"),
    [
        (40.0, 5, "Overconfident by 50.0 points"),
        (0.0, 10, "Underconfident by 50.0 points"),
        (0.0, 5, "On average as confident as right"),
    ],
)
def test_reliability_diagram_says_which_way_it_errs(margin: float, right: int, message: str) -> None:
    logits = np.tile([margin, 0.0], (10, 1))
    labels = (np.arange(10) >= right).astype(int)
    assert headline(figures.reliability_diagram(logits, labels)) == message


def test_the_confusion_matrix_shows_shares_and_counts() -> None:
    counts = [[8, 2, 0], [0, 0, 0], [1, 0, 3]]
    figure = figures.confusion_matrix(counts, ["yes", "no", "up"])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[80, 20, 0], [0, 0, 0], [25, 0, 75]])
    shown = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert shown == {(0, 0): "8", (0, 1): "2", (2, 0): "1", (2, 2): "3"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["yes", "no", "up"]
    assert headline(figure) == "21.43 % wrong; most often 'up' is taken for 'yes': 1 of 4"


def test_compare_learning_curves_shows_mean_and_range_over_seeds() -> None:
    seeds = [history(shift=shift) for shift in (0.0, 0.01, 0.05)]
    figure = figures.compare_learning_curves({"baseline": history(shift=0.2), "MoEx": seeds})
    axes = figure.axes[0]
    single, mean = axes.lines
    np.testing.assert_allclose(single.get_ydata(), 100 * history(shift=0.2).test_error)
    errors = 100 * np.array([seed.test_error for seed in seeds])
    np.testing.assert_allclose(mean.get_ydata(), errors.mean(axis=0))
    band = axes.collections[1].get_paths()[0].vertices
    for i, epoch in enumerate(seeds[0].epoch):
        edge = band[band[:, 0] == epoch, 1]
        assert (edge.min(), edge.max()) == pytest.approx((errors[:, i].min(), errors[:, i].max()))
    assert not figure.legends
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["baseline: 24.50 % (n = 1)", f"MoEx: 6.50 ± {np.std([0, 1, 5], ddof=1):.2f} % (n = 3)"]
    # Of many recipes the bands would hide each other.
    many = figures.compare_learning_curves({str(number): seeds for number in range(7)}).axes[0]
    assert (len(many.lines), len(many.collections)) == (7, 0)


@pytest.mark.parametrize(
    ("baseline", "moex", "message"),
    [
        ([0.20, 0.21], [0.10, 0.12], "MoEx ends lowest, at 15.50 %"),
        ([0.12, 0.20], [0.10, 0.12], "No recipe ends clearly lowest: 15.50 to 20.50 %"),
        ([0.20], [0.10, 0.12], "No recipe ends clearly lowest: 15.50 to 24.50 %"),
    ],
)
def test_compare_learning_curves_names_a_winner_only_where_the_seeds_agree(
    baseline: list[float], moex: list[float], message: str
) -> None:
    recipes = {"baseline": baseline, "MoEx": moex}
    figure = figures.compare_learning_curves(
        {name: [history(shift=shift) for shift in shifts] for name, shifts in recipes.items()}
    )
    assert headline(figure) == message


def test_compare_learning_curves_draws_the_epochs_that_all_seeds_evaluated() -> None:
    figure = figures.compare_learning_curves({"MoEx": [history(12, every=3), history(9)]})
    assert figure.axes[0].lines[0].get_xdata().tolist() == [3, 6, 9]
    assert headline(figure) == "MoEx ends at 10.00 %"


def test_compare_learning_curves_shows_a_test_set_that_is_seen_once_only_where_there_is_no_other() -> None:
    """A validation set is looked at after each epoch, the test set at the end."""
    validated = history(12, every=12).assign(validation_error=lambda table: 0.5 / table.epoch)
    figure = figures.compare_learning_curves({"MoEx": validated})
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 50 / validated.epoch)
    assert figure.axes[0].get_ylabel().startswith("validation error")
    beside = figures.compare_learning_curves({"MoEx": validated, "baseline": history(12)})
    assert beside.axes[0].get_ylabel().startswith("test error")


def test_compare_learning_curves_tells_many_recipes_apart() -> None:
    figure = figures.compare_learning_curves({f"recipe {i}": history() for i in range(10)})
    assert len(figure.legends[0].get_texts()) == 10
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}) == 10


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "no recipe to compare"),
        ({"MoEx": []}, "'MoEx' has no history"),
        ({"MoEx": history().drop(columns="test_error")}, "lacks the columns test_error"),
        ({"MoEx": [history(4, every=5)]}, "'MoEx' has no epoch with a test error in each of its 1 seeds"),
    ],
)
def test_compare_learning_curves_refuses_what_it_cannot_draw(histories, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figures.compare_learning_curves(histories)


@pytest.mark.parametrize("samples", [1, 60])
def test_save_run_figures_writes_the_pictures(tmp_path: Path, samples: int) -> None:
    paths = figures.save_run_figures(write_run(tmp_path, samples))
    names = ("learning_curves.png", "reliability.png", "response_rate.png")
    assert paths == [tmp_path / "figures" / name for name in names]
    drawings = {path.with_suffix(".svg"): path.with_suffix(".svg").read_bytes() for path in paths}
    assert all(ElementTree.fromstring(drawing).tag.endswith("svg") for drawing in drawings.values())
    for path in paths:
        pixels = imread(path)
        assert min(pixels.shape[:2]) > 500
        # Nothing is cut: the outermost pixels are the white of the canvas.
        for border in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert border.min() == 1
    assert figures.save_run_figures(tmp_path) == paths
    assert {path: path.read_bytes() for path in drawings} == drawings


@pytest.mark.parametrize("name", ["metrics.csv", "predictions.npz"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "does not exist: the figures need the folder of a finished run"),
        (lambda path: path.write_bytes(b""), "is not a table of epochs|does not hold the arrays logits and labels"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00x"), "is not a table of|does not hold the arrays"),
    ],
    ids=["missing", "empty", "garbage"],
)
def test_save_run_figures_names_the_file_it_cannot_use(
    tmp_path: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(write_run(tmp_path) / name)
    with pytest.raises(ValueError, match=message) as error:
        figures.save_run_figures(tmp_path)
    assert str(tmp_path / name) in str(error.value)
    assert not (tmp_path / "figures").exists()


def test_save_run_figures_names_a_missing_array(tmp_path: Path) -> None:
    np.savez(write_run(tmp_path) / "predictions.npz", logits=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"predictions.npz does not hold the arrays logits and labels \(.*labels"):
        figures.save_run_figures(tmp_path)
