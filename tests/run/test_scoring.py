"""Test sets beside the training set: scored alone, at the end of a run, and refused before it begins."""

import named_digits
import pytest
import torch
from sklearn.metrics import average_precision_score

from moex import models
from moex.engine import predict
from moex.metrics import summarise
from moex.run import scoring

CPU = torch.device("cpu")


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
