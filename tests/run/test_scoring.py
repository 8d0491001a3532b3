"""Test sets beside the training set: scored alone, at the end of a run, and refused before it begins."""

import json
import threading

import named_digits
import numpy as np
import pytest
import torch
from program import run_here
from rich.console import Console
from sklearn.metrics import average_precision_score

from moex import models
from moex.data import SourceError
from moex.engine import evaluate, predict
from moex.metrics import summarise
from moex.reporting.finished import show
from moex.run import result, scoring
from moex.run.training import Stopped

CPU = torch.device("cpu")
NAMED = {"target": "named_digits.NamedDigits"}
LABELS = ["named_digits.EvenDigits", "named_digits.OddOnesOut", "named_digits.Parity"]


def prepare(dataset, **changes):
    network = {"classes": named_digits.NAMES, "count": 10, "shape": (1, 8, 8)} | changes
    return scoring.prepare(dataset, **network, seed=0, device=CPU)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return models.create("resnet8", num_classes=10, in_channels=1)


@pytest.fixture(scope="module")
def whole(model):
    """Logits and labels of all ten classes."""
    (source,) = prepare(named_digits.NamedDigits()).parts.values()
    return predict(model, source, batch_size=500, precision="fp32")


def score(model, dataset):
    return scoring.score_network(model, prepare(dataset), batch_size=500, precision="fp32")


def test_logits_are_those_of_the_data_sets_classes(model, whole):
    logits, labels = whole
    even = labels % 2 == 0
    outcome = score(model, named_digits.EvenDigits())
    assert torch.equal(outcome.logits, logits[even][:, [8, 6, 4, 2, 0]])
    assert torch.equal(outcome.labels, 4 - labels[even] // 2)
    expected = summarise(outcome.logits, outcome.labels)
    assert expected.items() <= outcome.figures.items()
    assert outcome.figures["rms_calibration_error_all_bins"] >= expected["rms_calibration_error"]


def test_of_several_outputs_for_a_class_the_largest_counts(model, whole):
    outcome = score(model, named_digits.Parity())
    logits, labels = whole
    error = (logits.argmax(1) % 2 != labels % 2).double().mean().item()
    assert outcome.figures["error"] == pytest.approx(error)
    assert torch.equal(outcome.logits[:, 1], logits[:, 1::2].amax(1))


def test_several_parts_make_one_figure_and_keep_no_logits(model, whole):
    logits, labels = whole
    confidence = logits[:, [8, 6, 4, 2, 0]].double().softmax(1).amax(1)
    outcome = score(model, named_digits.OddOnesOut())
    assert outcome.figures == {"aupr": pytest.approx(average_precision_score(labels % 2, -confidence), abs=1e-6)}
    assert outcome.logits is outcome.labels is None
    assert list(outcome.scores) == ["in", "out"]


def test_a_logit_that_is_not_finite(model):
    broken = torch.nn.Sequential(model, torch.nn.Threshold(1e9, float("nan")))
    with pytest.raises(ValueError, match=r"(\d+) of \1 samples of 'test' have logits that are not finite"):
        score(broken, named_digits.EvenDigits())


REFUSED = {
    "classes of another world": ({"classes": ["cat", "dog"], "count": 2}, r"5 of 5 classes are none .*2: eight, six"),
    "numbers": ({"classes": None, "count": 10}, r"the network's 10 are but numbers, so which is which"),
    "inputs": ({"shape": (3, 32, 32)}, r"its inputs are \[1, 8, 8\], and the network's are \[3, 32, 32\]"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_a_network_that_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        prepare(named_digits.EvenDigits(), **changes)


def test_classes_without_names_are_the_outputs_by_their_numbers():
    assert prepare(named_digits.Digits(), classes=None).outputs is None
    assert prepare(named_digits.Digits()).outputs is None
    with pytest.raises(ValueError, match="its own 10 classes are but numbers"):
        prepare(named_digits.Digits(), count=7)


def test_a_run_scores_its_last_and_its_best_weights(build, reopen, go_on, tmp_path):
    run = reopen(build(tmp_path, limit_test=None, dataset=NAMED, test_sets=[{"target": label} for label in LABELS]))
    go_on(run)
    for part, samples in (("in", {2, 4}), ("out", {7})):
        source = run.test_sets[LABELS[1]].parts[part]
        source.__class__ = type("Skipping", (type(source),), {"unreadable": samples})
    console = Console(record=True, width=300)
    finished = result.finish(run, stop=threading.Event(), console=console)
    assert list(run.test_sets) == LABELS
    assert json.loads((run.folder / "result.json").read_text())["test_sets"] == finished["test_sets"]
    with np.load(run.folder / "predictions.npz") as arrays:
        own = {"last": arrays["logits"], "best": arrays["best_logits"]}
        labels = arrays["labels"]
    even = labels % 2 == 0
    for which, logits in own.items():
        block = finished["test_sets"][LABELS[0]][which]
        assert block["error"] == np.mean(2 * (4 - logits[even][:, 8::-2].argmax(1)) != labels[even])
        assert list(finished["test_sets"][LABELS[1]][which]) == ["aupr"]
    with np.load(run.folder / "test_sets" / f"{LABELS[0]}.npz") as arrays:
        np.testing.assert_array_equal(arrays["logits"], own["last"][even][:, 8::-2])
        np.testing.assert_array_equal(arrays["best_logits"], own["best"][even][:, 8::-2])
    assert not (run.folder / "test_sets" / f"{LABELS[1]}.npz").exists()
    assert finished["test_sets"][LABELS[1]]["unreadable"] == 3
    assert "unreadable" not in finished["test_sets"][LABELS[0]]
    show(finished, run.folder, console)
    printed = console.export_text()
    for line in (f"scoring {LABELS[0]}", f"{LABELS[1]}, %", "AUPR", "RMS calibration error, all bins"):
        assert line in printed


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    options = ("dataset.target=named_digits.NamedDigits", "epochs=1", "limit_train=64", "model=resnet8")
    return lambda *arguments: run_here(*options, *arguments, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)


MISTAKES = {
    "files": ("{target: named_digits.EvenDigits, missing: true}", "EvenDigits,missing=True: nowhere is missing"),
    "inputs": ("cifar10", "cifar10: its inputs are [3, 32, 32], and the network's are [1, 8, 8]"),
}


@pytest.mark.parametrize(("entry", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_before_the_run_creates_anything(tmp_path, here, entry, message):
    code, printed = here(f"test_sets=[{entry}]")
    assert code == 1, printed
    assert printed.startswith("error: test_sets: ")
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_says_what_scores_it_on_another_test_set(tmp_path, here):
    code, printed = here("test_sets=[{target: named_digits.EvenDigits}]")
    assert code == 0, printed
    (path,) = tmp_path.rglob("result.json")
    before = path.read_bytes()
    assert list(json.loads(before)["test_sets"]) == LABELS[:1]
    code, printed = here("test_sets=[{target: named_digits.EvenDigits},digits]")
    assert code == 0, printed
    folder = path.parent.relative_to(tmp_path)
    command = f"python evaluate.py checkpoint={folder} dataset=digits"
    assert f"not scored at its end: digits; this does it: {command}" in printed
    assert path.read_bytes() == before


def test_a_test_set_that_cannot_be_scored_leaves_the_run_to_be_finished(build, reopen, go_on, tmp_path, monkeypatch):
    run = reopen(build(tmp_path, dataset=NAMED, test_sets=[{"target": LABELS[0]}]))
    go_on(run)
    with monkeypatch.context() as broken:
        broken.setattr(type(run.test_sets[LABELS[0]].parts["test"]), "batches", unreadable)
        broken.setattr(result, "_predict", lambda *_: (torch.zeros(1, 10), torch.zeros(1, dtype=torch.int64)))
        with pytest.raises(SourceError, match=r"test set .*EvenDigits: a.jpg .*Without it in test_sets"):
            result.finish(run, stop=threading.Event(), console=Console(quiet=True))
    assert not (run.folder / "result.json").exists()
    again = reopen(build(tmp_path, dataset=NAMED))
    go_on(again)
    assert "test_sets" not in result.finish(again, stop=threading.Event(), console=Console(quiet=True))


def test_asked_to_stop_it_scores_no_further_part(build, reopen, go_on, tmp_path, monkeypatch):
    run = reopen(build(tmp_path, dataset=NAMED, test_sets=[{"target": LABELS[1]}]))
    go_on(run)
    stop, scored = threading.Event(), []

    def evaluate_and_stop(*arguments, **options):
        stop.set()
        scored.append(evaluate(*arguments, **options))
        return scored[-1]

    monkeypatch.setattr(scoring, "evaluate", evaluate_and_stop)
    with pytest.raises(Stopped, match="is trained to the end: the same command scores its test sets"):
        result.finish(run, stop=stop, console=Console(quiet=True))
    assert len(scored) == 1
    assert not (run.folder / "result.json").exists()
    again = reopen(build(tmp_path, dataset=NAMED, test_sets=[{"target": LABELS[1]}]))
    assert list(result.finish(again, stop=threading.Event(), console=Console(quiet=True))["test_sets"]) == LABELS[1:2]


def unreadable(source, requests):
    raise SourceError("a.jpg cannot be read")
    yield
