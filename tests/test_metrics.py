"""moex.metrics against slow loops that follow the definitions, and against torchmetrics."""

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from moex import metrics


def draw(samples: int, classes: int, *, seed: int = 0, skill: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Predictions that are right more often than chance, without ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, samples)
    logits = 2 * rng.normal(size=(samples, classes))
    logits[np.arange(samples), labels] += skill
    return logits, labels


def confidences(logits: np.ndarray, labels: np.ndarray) -> list[tuple[float, bool]]:
    """(confidence, is correct) of every sample, in rising order of confidence."""
    result = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        exponentials = [math.exp(value - max(row)) for value in row]
        probabilities = [value / sum(exponentials) for value in exponentials]
        result.append((max(probabilities), row.index(max(row)) == label))
    return sorted(result)


def slow_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    hits = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        ranking = sorted(range(len(row)), key=lambda index: -row[index])  # stable: the lower index first
        hits += label in ranking[:k]
    return hits / len(labels)


def slow_aurra(logits: np.ndarray, labels: np.ndarray) -> float:
    correct = [right for _, right in reversed(confidences(logits, labels))]
    return sum(sum(correct[:k]) / k for k in range(1, len(correct) + 1)) / len(correct)


def slow_rms_calibration_error(logits: np.ndarray, labels: np.ndarray, bin_size: int, *, all_bins: bool) -> float:
    ranked = confidences(logits, labels)
    bins = [(i * bin_size, (i + 1) * bin_size) for i in range(len(ranked) // bin_size)]
    bins[-1] = (bins[-1][0], len(ranked))
    total = 0.0
    for first, end in bins if all_bins else bins[:-1]:
        members = ranked[first:end]
        gap = sum(c for c, _ in members) / len(members) - sum(right for _, right in members) / len(members)
        total += len(members) / len(ranked) * gap**2
    return math.sqrt(total)


def slow_expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int) -> float:
    ranked = confidences(logits, labels)
    total = 0.0
    for i in range(bins):
        members = [(c, right) for c, right in ranked if i / bins < c <= (i + 1) / bins]
        total += abs(sum(c for c, _ in members) - sum(right for _, right in members))
    return total / len(ranked)


SHAPES = [(1, 2), (7, 3), (99, 10), (100, 10), (250, 10), (437, 100), (1000, 7)]


@pytest.mark.parametrize(("samples", "classes"), SHAPES)
@pytest.mark.parametrize("k", [1, 2])
def test_accuracy_equals_the_loop_and_torchmetrics(samples: int, classes: int, k: int) -> None:
    logits, labels = draw(samples, classes)
    value = metrics.accuracy(logits, labels, k=k)
    assert value == slow_accuracy(logits, labels, k)
    theirs = multiclass_accuracy(
        torch.from_numpy(logits), torch.from_numpy(labels), classes, top_k=k, average="micro"
    )
    assert value == pytest.approx(theirs.item(), abs=1e-7)


@pytest.mark.parametrize(("samples", "classes"), SHAPES)
def test_aurra_equals_the_loop(samples: int, classes: int) -> None:
    logits, labels = draw(samples, classes)
    assert metrics.aurra(logits, labels) == pytest.approx(slow_aurra(logits, labels), abs=1e-12)


def test_aurra_of_three_samples_by_hand() -> None:
    # From the most confident: right, wrong, right. Accuracies 1/1, 1/2, 2/3.
    logits, labels = np.array([[9.0, 0.0], [0.0, 5.0], [1.0, 0.0]]), np.array([0, 0, 0])
    assert metrics.aurra(logits, labels) == pytest.approx((1 + 1 / 2 + 2 / 3) / 3, abs=1e-15)
    curve = metrics.response_rate_curve(logits, labels)
    np.testing.assert_allclose(curve.response_rate, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(curve.accuracy, [1, 1 / 2, 2 / 3])


@pytest.mark.parametrize("all_bins", [False, True])
@pytest.mark.parametrize(
    ("samples", "bin_size"),
    [(1000, 100), (1099, 100), (200, 100), (399, 100), (57, 10), (12, 5), (20, 1), (7500, 100)],
)
def test_rms_calibration_error_equals_the_loop(samples: int, bin_size: int, all_bins: bool) -> None:
    logits, labels = draw(samples, 10)
    value = metrics.rms_calibration_error(logits, labels, bin_size=bin_size, all_bins=all_bins)
    expected = slow_rms_calibration_error(logits, labels, bin_size, all_bins=all_bins)
    assert value == pytest.approx(expected, abs=1e-12)


def test_rms_calibration_error_as_published_leaves_out_the_most_confident_bin_but_counts_its_samples() -> None:
    # Two samples a bin: the least confident two are wrong at 1/2, the others wrong at nearly 1.
    logits, labels = np.array([[0.0, 0.0]] * 2 + [[0.0, 40.0]] * 3), np.array([1, 1, 0, 0, 0])
    published = metrics.rms_calibration_error(logits, labels, bin_size=2)
    assert published == pytest.approx(math.sqrt(2 / 5 * 0.5**2))
    complete = metrics.rms_calibration_error(logits, labels, bin_size=2, all_bins=True)
    assert complete == pytest.approx(math.sqrt(2 / 5 * 0.5**2 + 3 / 5 * 1**2))


@pytest.mark.parametrize("all_bins", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 99, 100, 199])
def test_a_single_bin_always_counts(samples: int, all_bins: bool) -> None:
    logits, labels = draw(samples, 10)
    ranked = confidences(logits, labels)
    gap = abs(sum(c for c, _ in ranked) - sum(right for _, right in ranked)) / samples
    value = metrics.rms_calibration_error(logits, labels, bin_size=100, all_bins=all_bins)
    assert value == pytest.approx(gap, abs=1e-12)
    assert value > 0


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize(("samples", "classes"), SHAPES)
def test_expected_calibration_error_equals_the_loop_and_torchmetrics(samples: int, classes: int, bins: int) -> None:
    logits, labels = draw(samples, classes)
    value = metrics.expected_calibration_error(logits, labels, bins=bins)
    assert value == pytest.approx(slow_expected_calibration_error(logits, labels, bins), abs=1e-12)
    theirs = multiclass_calibration_error(
        torch.from_numpy(logits).softmax(1), torch.from_numpy(labels), classes, n_bins=bins, norm="l1"
    )
    assert value == pytest.approx(theirs.item(), abs=1e-6)


def test_calibration_bins_hold_every_prediction_once() -> None:
    logits, labels = draw(300, 10)
    bins = metrics.calibration_bins(logits, labels, bins=20)
    ranked = confidences(logits, labels)
    np.testing.assert_allclose(bins.edges, [i / 20 for i in range(21)])
    assert bins.samples.sum() == 300
    for i in range(20):
        members = [(c, right) for c, right in ranked if i / 20 < c <= (i + 1) / 20]
        assert bins.samples[i] == len(members)
        if members:
            assert bins.confidence[i] == pytest.approx(np.mean([c for c, _ in members]))
            assert bins.accuracy[i] == pytest.approx(np.mean([right for _, right in members]))
        else:
            assert math.isnan(bins.confidence[i])
            assert math.isnan(bins.accuracy[i])


@pytest.mark.parametrize(("samples", "classes"), SHAPES)
def test_the_confusion_matrix_equals_scikit_learns(samples: int, classes: int) -> None:
    logits, labels = draw(samples, classes)
    theirs = sklearn.metrics.confusion_matrix(labels, logits.argmax(1), labels=range(classes))
    np.testing.assert_array_equal(metrics.confusion_matrix(logits, labels), theirs)


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin() -> None:
    # Confidences 1/2 and 1.
    bins = metrics.calibration_bins(np.array([[0.0, 0.0], [999.0, 0.0]]), np.array([0, 0]), bins=2)
    assert bins.samples.tolist() == [1, 1]


@pytest.mark.parametrize("classes", [2, 5, 6, 100])
def test_summarise_gathers_the_metrics(classes: int) -> None:
    logits, labels = draw(250, classes)
    top5 = metrics.accuracy(logits, labels, k=min(5, classes))
    loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
    expected = {
        "error": 1 - metrics.accuracy(logits, labels),
        "top5_error": 1 - top5,
        "rms_calibration_error": metrics.rms_calibration_error(logits, labels),
        "aurra": metrics.aurra(logits, labels),
        "ece": metrics.expected_calibration_error(logits, labels),
        "loss": loss,
    }
    result = metrics.summarise(logits, labels)
    assert list(result) == list(expected)
    assert result == pytest.approx(expected, abs=1e-12)
    assert all(type(value) is float for value in result.values())


def test_equal_logits_rank_by_class_index() -> None:
    logits = np.array([[1.0, 3.0, 3.0, 3.0]] * 4)
    hits = [[metrics.accuracy(logits[:1], [label], k=k) for k in (1, 2, 3, 4)] for label in range(4)]
    assert hits == [[0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert np.argmax(logits[0]) == torch.from_numpy(logits[0]).argmax() == 1


def test_tied_confidences_give_the_average_aurra_over_their_orders() -> None:
    # Four equally confident predictions, one of them right, after a surer one that is right.
    surer, tied = (5.0, True), [(1.0, True), (1.0, False), (1.0, False), (1.0, False)]
    totals = []
    for place in range(4):
        correct = [1.0] + [float(i == place) for i in range(4)]
        totals.append(np.mean(np.cumsum(correct) / np.arange(1, 6)))
    logits = np.array([[margin, 0.0] for margin, _ in [surer, *tied]])
    labels = np.array([int(not right) for _, right in [surer, *tied]])
    assert metrics.aurra(logits, labels) == pytest.approx(np.mean(totals), abs=1e-15)


def test_tied_confidences_are_shared_between_the_bins_they_fall_into() -> None:
    # All four are confident at 1/2, two are right: perfectly calibrated, however the bins cut them.
    logits = np.zeros((4, 2))
    for labels in ([0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 0, 0]):
        assert metrics.rms_calibration_error(logits, labels, bin_size=2, all_bins=True) == 0


METRICS: list[Callable[..., object]] = [
    metrics.accuracy,
    metrics.aurra,
    metrics.rms_calibration_error,
    metrics.expected_calibration_error,
    metrics.summarise,
    metrics.response_rate_curve,
    metrics.calibration_bins,
    metrics.confusion_matrix,
]
every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.__name__)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Any finite logits; small integers among them make ties within and between samples common."""
    samples, classes = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    values = st.integers(-2, 2).map(float) | st.floats(allow_nan=False, allow_infinity=False, width=32)
    logits = draw(hnp.arrays(np.float64, (samples, classes), elements=values))
    return logits, draw(hnp.arrays(np.int64, samples, elements=st.integers(0, classes - 1)))


@settings(deadline=None)
@given(predictions(), st.randoms(use_true_random=False), st.integers(1, 12))
def test_no_result_depends_on_the_order_of_the_samples(data, random, bin_size) -> None:
    logits, labels = data
    order = list(range(len(labels)))
    random.shuffle(order)
    assert metrics.summarise(logits, labels) == metrics.summarise(logits[order], labels[order])
    for all_bins in (False, True):
        first, second = (
            metrics.rms_calibration_error(*inputs, bin_size=bin_size, all_bins=all_bins)
            for inputs in (data, (logits[order], labels[order]))
        )
        assert first == second


@settings(deadline=None)
@given(predictions())
def test_every_metric_is_a_fraction(data) -> None:
    logits, labels = data
    result = metrics.summarise(logits, labels)
    assert result.pop("loss") >= 0
    assert all(0 <= value <= 1 for value in result.values())
    assert 0 <= metrics.rms_calibration_error(logits, labels, bin_size=3, all_bins=True) <= 1
    curve = metrics.response_rate_curve(logits, labels)
    assert curve.accuracy.mean() == result["aurra"]
    assert curve.accuracy[-1] == pytest.approx(1 - result["error"])


@pytest.mark.parametrize(("sign", "fraction"), [(1, 1.0), (-1, 0.0)])
def test_perfect_and_hopeless_predictions(sign: int, fraction: float) -> None:
    labels = np.arange(300) % 2
    logits = sign * 1e4 * np.eye(2)[labels]
    assert metrics.accuracy(logits, labels) == metrics.aurra(logits, labels) == fraction
    assert metrics.expected_calibration_error(logits, labels) == 1 - fraction
    assert metrics.rms_calibration_error(logits, labels, all_bins=True) == 1 - fraction


@every_metric
def test_arrays_tensors_and_lists_give_the_same(metric: Callable[..., object]) -> None:
    logits, labels = draw(20, 4)
    expected = metric(logits, labels)
    read_only = logits.copy()
    read_only.flags.writeable = False
    for form in (
        (torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)),
        (torch.from_numpy(logits), labels.astype(np.uint8)),
        (np.asfortranarray(logits), labels.astype(np.int32)),
        (read_only, labels.tolist()),
        (logits.tolist(), torch.from_numpy(labels).int()),
    ):
        np.testing.assert_equal(metric(*form), expected)


@every_metric
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precisions_are_scored_in_float64(metric: Callable[..., object], dtype: torch.dtype) -> None:
    logits, labels = draw(20, 4)
    rounded = torch.from_numpy(logits).to(dtype)
    np.testing.assert_equal(metric(rounded, labels), metric(rounded.double(), labels))


def test_scores_of_batches_give_the_metrics_of_the_logits_to_the_last_bit() -> None:
    logits, labels = (torch.from_numpy(array) for array in draw(437, 100))
    parts = [metrics.score(*batch) for batch in zip(logits.float().split(50), labels.split(50), strict=True)]
    scores = metrics.Scores(*(torch.cat(part) for part in zip(*parts, strict=True)))
    assert metrics.summarise_scores(scores) == metrics.summarise(logits.float(), labels)
    assert torch.equal(scores.correct, logits.argmax(1) == labels)


def test_the_lines_that_score_on_a_gpu_give_what_numpy_gives() -> None:
    """To a few roundings of float64: exponentials and the order of a sum are the library's own."""
    logits, labels = draw(300, 10)
    ours, theirs = metrics._score(np, logits, labels), metrics._score(torch, *map(torch.from_numpy, (logits, labels)))
    for array, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_loss_tells_of_logits_that_are_not_finite(value: float) -> None:
    loss = metrics.score(torch.tensor([[0.0, value], [0.0, 1.0]]), torch.tensor([0, 0])).loss
    assert loss.isnan().tolist() == [True, False]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_metric
def test_tensors_on_a_gpu(metric: Callable[..., object]) -> None:
    logits, labels = map(torch.from_numpy, draw(20, 4))
    np.testing.assert_equal(metric(logits.cuda(), labels.cuda()), metric(logits, labels))


GOOD, LABELS = np.zeros((3, 4)), np.array([0, 1, 2])


def with_value(value: float) -> np.ndarray:
    logits = GOOD.copy()
    logits[1:, 2] = value
    return logits


BAD_INPUTS = {
    "nan": (with_value(np.nan), LABELS, r"2 of 3 samples have NaN or infinite logits; .* sample 1"),
    "infinite": (with_value(np.inf), LABELS, r"2 of 3 samples have NaN or infinite logits; .* sample 1"),
    "minus infinite": (with_value(-np.inf), LABELS, r"2 of 3 samples have NaN or infinite logits"),
    "empty": (np.zeros((0, 4)), np.zeros(0, dtype=int), r"no sample"),
    "empty lists": (np.zeros((0, 4)), [], r"no sample"),
    "too few labels": (GOOD, LABELS[:2], r"\[N, K\] and \[N\], not \[3, 4\] and \[2\]"),
    "one-hot labels": (GOOD, np.eye(4, dtype=int)[:3], r"\[N, K\] and \[N\], not \[3, 4\] and \[3, 4\]"),
    "flat logits": (GOOD[0], LABELS, r"\[N, K\] and \[N\], not \[4\] and \[3\]"),
    "integer logits": (GOOD.astype(int), LABELS, r"logits must be floating point, not int64"),
    "bool logits": (torch.zeros(3, 4, dtype=torch.bool), LABELS, r"logits must be floating point, not bool"),
    "complex logits": (GOOD.astype(complex), LABELS, r"logits must be floating point, not complex128"),
    "float labels": (GOOD, LABELS.astype(float), r"labels must be integers, .* not float64"),
    "bool labels": (GOOD, LABELS > 0, r"labels must be integers, .* not bool"),
    "label K": (GOOD, [0, 4, 9], r"2 of 3 labels are outside \[0, 4\), .* labels\[1\] = 4"),
    "negative label": (GOOD, [0, 1, -1], r"1 of 3 labels are outside \[0, 4\), .* labels\[2\] = -1"),
    "no class": (np.zeros((3, 0)), LABELS, r"3 of 3 labels are outside \[0, 0\)"),
}


@every_metric
@pytest.mark.parametrize(("logits", "labels", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_inputs_are_refused(metric: Callable[..., object], logits, labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(logits, labels)


def test_bad_options_are_refused() -> None:
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k must be 1 to 4, the number of classes, not {k}"):
            metrics.accuracy(GOOD, LABELS, k=k)
    with pytest.raises(ValueError, match="bin_size must be 1 sample or more, not 0"):
        metrics.rms_calibration_error(GOOD, LABELS, bin_size=0)
    for metric in (metrics.expected_calibration_error, metrics.calibration_bins):
        with pytest.raises(ValueError, match="bins must be 1 or more, not 0"):
            metric(GOOD, LABELS, bins=0)


def test_a_test_set_is_scored_in_an_instant() -> None:
    logits, labels = draw(10_000, 100)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        metrics.summarise(logits, labels)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1


def test_the_aupr_of_out_of_distribution_detection_equals_scikit_learns() -> None:
    """With ties within a kind and between both, and where all are tied."""
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    for steps in (1, 3, 20, 10**6):
        inside = rng.integers(1, steps + 1, 300) ** 0.5 / steps**0.5
        outside = rng.integers(1, steps + 1, 57) / steps
        theirs = average_precision_score([0] * 300 + [1] * 57, -np.concatenate([inside, outside]))
        ours = metrics.aupr_out_of_distribution(torch.from_numpy(inside), outside.tolist())
        assert ours == pytest.approx(theirs, abs=1e-14)
        shuffled = metrics.aupr_out_of_distribution(rng.permutation(inside), rng.permutation(outside))
        assert shuffled == ours, "the order does not matter"


def test_the_aupr_of_four_samples_by_hand() -> None:
    # From the least confident: outside, inside, outside, inside. Precisions at the first and the second: 1/1, 2/3.
    assert metrics.aupr_out_of_distribution([0.4, 0.9], [0.3, 0.6]) == pytest.approx((1 + 2 / 3) / 2)
    for inside, outside in (([], [0.5]), ([0.5], []), ([0.5], [float("nan")])):
        with pytest.raises(ValueError, match="must be one or more numbers"):
            metrics.aupr_out_of_distribution(inside, outside)


def test_the_mean_corruption_error_by_hand() -> None:
    errors, reference = {"fog": 0.2, "snow": 0.6, "spatter": 0.9}, {"fog": 0.8, "snow": 0.5}
    assert metrics.mean_corruption_error(errors, reference) == pytest.approx((0.25 + 1.2) / 2)


def test_7500_predictions_of_1000_classes_restricted_to_200() -> None:
    """ImageNet-A's figures, restricted on the device, against a plain script."""
    from moex.data.outputs import find_outputs

    rng = np.random.default_rng(1)
    classes = [f"n{index:08}" for index in range(1000)]
    kept = np.sort(rng.choice(1000, 200, replace=False))
    labels = np.repeat(np.arange(200), 40)[:7500]
    logits = rng.normal(size=(7500, 1000)).astype(np.float32) * 2
    logits[np.arange(7500), kept[labels]] += 3

    restricted = logits.astype(np.float64)[:, kept]
    probabilities = np.exp(restricted - restricted.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    confidence, correct = probabilities.max(axis=1), restricted.argmax(axis=1) == labels
    order = np.argsort(confidence)
    expected = {
        "error": 1 - correct.mean(),
        "aurra": np.mean(np.cumsum(correct[order[::-1]]) / np.arange(1, 7501)),
        "loss": -np.mean(np.log(probabilities[np.arange(7500), labels])),
    }
    squares = [
        (confidence[members].mean() - correct[members].mean()) ** 2 * len(members) / 7500
        for members in np.split(order, 75)
    ]
    expected["rms_calibration_error"] = math.sqrt(sum(squares[:-1]))
    expected["rms_calibration_error_all_bins"] = math.sqrt(sum(squares))

    outputs = find_outputs([classes[index] for index in kept], classes)
    scores = metrics.score(outputs.restrict(torch.from_numpy(logits)), torch.from_numpy(labels))
    measured = metrics.summarise_scores(scores, all_bins=True)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert measured["error"] < np.mean(logits.argmax(axis=1) != kept[labels]), "of 1,000 it is another"
