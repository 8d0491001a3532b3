"""What is kept of a run's predictions says what the predictions say."""

import json

import numpy as np
import pytest

from moex.reporting.predictions import SUMMARY, Predictions, read_summary, summarise_predictions, write_summary
from moex.reporting.table_folder import add_run

from .test_table_folder import write_run

SAMPLES, CLASSES = 250, 4


def write_predictions(run, *, seed=0, classes=("a", "b", "c", "d")):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, SAMPLES)
    last, best = (generator.normal(size=(SAMPLES, CLASSES)) + sharp * np.eye(CLASSES)[labels] for sharp in (1, 3))
    np.savez_compressed(run / "predictions.npz", logits=last, labels=labels, best_logits=best)
    (run / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return last, labels, best


def by_hand(logits, labels):
    """Bins and accuracies, one sample after the other."""
    likelihoods = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = sorted(
        ((row.max(), row.argmax() == label) for row, label in zip(likelihoods, labels, strict=True)), reverse=True
    )
    bins = [[answer for answer in answers if low / 15 < answer[0] <= (low + 1) / 15] for low in range(15)]
    accuracies = []
    for percent in range(1, 101):
        first = answers[: -(-percent * len(answers) // 100)]
        accuracies.append(sum(right for _, right in first) / len(first))
    return bins, accuracies


@pytest.mark.parametrize(("of", "place"), [("last", 0), ("best", 2)])
def test_the_numbers_are_those_of_the_predictions(tmp_path, of, place):
    arrays = write_predictions(tmp_path)
    write_summary(tmp_path, tmp_path, of=of)
    kept = read_summary(tmp_path)
    bins, accuracies = by_hand(arrays[place], arrays[1])
    assert kept["of"] == of
    assert kept["classes"] == ["a", "b", "c", "d"]
    assert kept["accuracy"] == pytest.approx(accuracies, abs=1e-5)
    assert kept["bins"]["samples"] == [len(part) for part in bins]
    for part, confidence, accuracy in zip(bins, kept["bins"]["confidence"], kept["bins"]["accuracy"], strict=True):
        assert (confidence is None) == (accuracy is None) == (not part)
        if part:
            assert (confidence, accuracy) == pytest.approx(np.mean(part, axis=0), abs=1e-5)
    assert len((tmp_path / SUMMARY).read_bytes()) < 2500


def test_a_table_keeps_them_with_its_runs_also_of_runs_that_it_has_already(tmp_path):
    run = write_run(tmp_path / "outputs", 0, 0.25)
    entry = add_run(tmp_path / "table", run, row="a", column="b", reduced="")
    assert read_summary(tmp_path / "table" / entry.run) is None
    write_predictions(run)
    assert add_run(tmp_path / "table", run, row="a", column="b", reduced="") == entry
    assert read_summary(tmp_path / "table" / entry.run)["of"] == "last"


def test_where_a_validation_set_chose_they_are_those_of_the_best_weights(tmp_path):
    run = write_run(tmp_path / "outputs", 0, 0.25, selected_on="validation")
    _, labels, best = write_predictions(run)
    entry = add_run(tmp_path / "table", run, row="a", column="b", reduced="")
    kept = read_summary(tmp_path / "table" / entry.run)
    assert kept["of"] == "best"
    assert kept["accuracy"][-1] == pytest.approx(np.mean(best.argmax(axis=1) == labels), abs=1e-5)


def test_best_weights_that_are_lost(tmp_path):
    _, labels, _ = write_predictions(tmp_path)
    with np.load(tmp_path / "predictions.npz") as arrays:
        np.savez(tmp_path / "predictions.npz", logits=arrays["logits"], labels=labels)
    write_summary(tmp_path, tmp_path, of="best")
    assert read_summary(tmp_path)["of"] == "last"


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"of": "last"})])
def test_what_is_no_summary(tmp_path, content):
    (tmp_path / SUMMARY).write_text(content)
    with pytest.raises(ValueError, match=r"predictions.json is no summary of predictions: delete it"):
        read_summary(tmp_path)


def test_few_samples_fill_each_percent():
    three = Predictions(np.array([[3.0, 0], [2, 0], [1, 0]]), np.array([0, 0, 1]), None)
    accuracy = summarise_predictions(three, of="last")["accuracy"]
    assert accuracy[:66] == [1.0] * 66
    assert accuracy[66:] == [pytest.approx(2 / 3, abs=1e-5)] * 34
