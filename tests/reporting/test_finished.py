"""What the screen says of a finished run."""

import pytest
from rich.console import Console

from moex.reporting.finished import show

FIGURES = {"error": 0.25, "top5_error": 0.0, "aurra": 0.9, "loss": 0.5}


def result(*, epochs=3, classes=10):
    counts = [[0] * classes for _ in range(classes)]
    return {
        "name": "digits",
        "seed": 4,
        "epochs": epochs,
        "selected_on": "test",
        "last": {"epoch": epochs, **FIGURES},
        "best": {"epoch": 1, **FIGURES},
        "confusion": {"of": "last", "test": counts},
        "test_sets": {"others": {"last": FIGURES, "best": FIGURES}},
        "images_per_second": 1234.5,
        "seconds": 6.7,
        "device": "a CPU",
    }


@pytest.fixture
def shown(tmp_path):
    (tmp_path / "predictions.npz").touch()

    def show_result(**settings):
        console = Console(record=True, width=300)
        show(result(**settings), tmp_path, console)
        return console.export_text()

    return show_result


@pytest.mark.parametrize(("epochs", "said"), [(1, "seed 4, 1 epoch\n"), (2, "seed 4, 2 epochs\n")])
def test_epochs_are_counted_as_people_do(shown, epochs, said):
    assert said in "\n".join(line.rstrip() for line in shown(epochs=epochs).splitlines())


@pytest.mark.parametrize(("classes", "times"), [(3, 0), (5, 0), (6, 2)])
def test_the_five_first_of_five_classes_say_nothing(shown, classes, times):
    assert shown(classes=classes).count("top-5 error") == times


def test_predictions_that_are_gone_are_missed(shown, tmp_path):
    assert "missing" not in shown()
    (tmp_path / "predictions.npz").unlink()
    (warning,) = (line for line in shown().splitlines() if "missing" in line)
    assert warning == (
        f"warning: {tmp_path}/predictions.npz is missing; without {tmp_path}/result.json, "
        "the same command writes it again from the last checkpoint"
    )
