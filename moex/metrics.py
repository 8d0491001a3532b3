"""How good, and how well calibrated, a network's predictions are: pure functions of logits and labels.

Everything here is a fraction in [0, 1], but for the loss, in nats, and the mean corruption error, in units of another
network's error. It is computed in float64, whatever the dtype of the input. Where logits are too many to be kept,
`score` turns each batch of them into three numbers a sample, on the device, and `summarise_scores` makes the metrics
of these: the same to the last bit as of the logits. The confidence of a prediction is its largest softmax
probability. No result depends, not even in its last bit, on the order of the samples: samples of equal confidence
each count as correct by the share of correct ones among them, and within a sample equal logits rank by class index.

Source: AURRA and the RMS calibration error are those of Hendrycks, Zhao, Basart, Steinhardt and Song,
*Natural Adversarial Examples*, CVPR 2021, and of the evaluation tool published with it; the expected
calibration error is that of Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*,
ICML 2017; the mean corruption error that of Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations*, ICLR 2019.
"""

import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from moex.predictions import Array, Floats, check_predictions, require_whole, to_numpy


class Scores(NamedTuple):
    """What the metrics need to know of each of N predictions, on the device of the logits.

    Attributes:
        loss: float64 `[N]`, the cross-entropy in nats; NaN where a logit is not finite.
        rank: int64 `[N]`, of the label among the logits; 0 is the largest.
        confidence: float64 `[N]`, the largest softmax probability.
    """

    loss: Tensor
    rank: Tensor
    confidence: Tensor

    @property
    def correct(self) -> Tensor:
        """Whether the largest logit is at the label, bool `[N]`."""
        return self.rank == 0


class ResponseRateCurve(NamedTuple):
    """Accuracy when a network answers only where it is most confident.

    Attributes:
        response_rate: `[N]`, the share k/N of samples that are answered, for k = 1 to N.
        accuracy: `[N]`, among the k most confident predictions.
    """

    response_rate: Floats
    accuracy: Floats


class CalibrationBins(NamedTuple):
    """Predictions grouped by confidence into M bins of equal width.

    Attributes:
        edges: `[M + 1]`, from 0 to 1; a bin holds its upper edge and not its lower one.
        samples: `[M]`, predictions in each bin, int64.
        confidence: `[M]`, their mean confidence; NaN for an empty bin.
        accuracy: `[M]`, the share of correct ones among them; NaN for an empty bin.
    """

    edges: Floats
    samples: npt.NDArray[np.int64]
    confidence: Floats
    accuracy: Floats


def accuracy(logits: Array, labels: Array, *, k: int = 1) -> float:
    """Returns the share of samples whose label is among the k largest logits.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).
        k: Classes that a sample may name, 1 to K.

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    scores = _score_checked(logits, labels)
    classes = np.shape(logits)[1]
    require_whole("k", k)
    if not 1 <= k <= classes:
        raise ValueError(f"k must be 1 to {classes}, the number of classes, not {k}")
    return float(np.mean(scores.rank.numpy() < k))


def aurra(logits: Array, labels: Array) -> float:
    """Returns the area under the response rate accuracy curve.

    The mean, over k = 1 to N, of the accuracy among the k most confident predictions; with tied confidences,
    this is its average over all orders of the tied samples.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    return _aurra(_sort(_score_checked(logits, labels)))


def response_rate_curve(logits: Array, labels: Array) -> ResponseRateCurve:
    """Returns the curve whose area is AURRA: as a step function, k's accuracy holds from (k-1)/N to k/N.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    return _response_rate_curve(_sort(_score_checked(logits, labels)))


def rms_calibration_error(logits: Array, labels: Array, *, bin_size: int = 100, all_bins: bool = False) -> float:
    """Returns the root of the mean squared gap between confidence and accuracy, over bins of equal count.

    The samples, sorted by confidence, are cut into N // bin_size consecutive bins, the last of which takes in
    the remainder: `sqrt(Σ n_b/N (conf_b - acc_b)²)`. The published tool leaves the last bin, that of the most
    confident samples, out of the sum, while N still counts it. Where there is a single bin (N < 2 bin_size),
    nothing would be left and the error would read 0: that bin counts in both forms.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).
        bin_size: Samples in a bin.
        all_bins: Whether the last of several bins counts too; by default it does not, as published.

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    require_whole("bin_size", bin_size)
    if bin_size < 1:
        raise ValueError(f"bin_size must be 1 sample or more, not {bin_size}")
    return _rms_calibration_error(_sort(_score_checked(logits, labels)), bin_size, all_bins)


def expected_calibration_error(logits: Array, labels: Array, *, bins: int = 15) -> float:
    """Returns the mean absolute gap between confidence and accuracy, over bins of equal width.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).
        bins: Number of bins that divide [0, 1].

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    return _expected_calibration_error(calibration_bins(logits, labels, bins=bins))


def calibration_bins(logits: Array, labels: Array, *, bins: int = 15) -> CalibrationBins:
    """Returns what a reliability diagram shows.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).
        bins: Number of bins that divide [0, 1].

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    require_whole("bins", bins)
    if bins < 1:
        raise ValueError(f"bins must be 1 or more, not {bins}")
    return _calibration_bins(_sort(_score_checked(logits, labels)), bins)


def confusion_matrix(logits: Array, labels: Array) -> npt.NDArray[np.int64]:
    """Returns how many samples of each class are taken for each class.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).

    Returns:
        `[K, K]`, int64: a row for each label, a column for each prediction.

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    scores, targets = check_predictions(logits, labels)
    classes = scores.shape[1]
    pairs = targets * classes + scores.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def summarise(logits: Array, labels: Array) -> dict[str, float]:
    """Returns every metric of a run at once.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: `[N]`, integers in [0, K).

    Returns:
        `error`, `top5_error` (0 with 5 classes or fewer), `rms_calibration_error` (published form, bins of
        100), `aurra` and `ece` (15 bins) as fractions, and `loss`, the mean cross-entropy in nats.

    Raises:
        ValueError: Inputs as described do not hold, or there is no sample.
    """
    return summarise_scores(_score_checked(logits, labels))


def summarise_scores(scores: Scores, *, all_bins: bool = False) -> dict[str, float]:
    """Returns what `summarise` does, of scores on any device.

    Args:
        scores: of the predictions.
        all_bins: Whether to add `rms_calibration_error_all_bins`, where the last bin counts too.
    """
    loss, rank, _ = (part.cpu().numpy() for part in scores)
    ranked = _sort(scores)
    summary = {
        "error": float(np.mean(rank >= 1)),
        "top5_error": float(np.mean(rank >= 5)),
        "rms_calibration_error": _rms_calibration_error(ranked, bin_size=100, all_bins=False),
        "aurra": _aurra(ranked),
        "ece": _expected_calibration_error(_calibration_bins(ranked, bins=15)),
        # An exact sum, so that the order of the samples cannot show in it.
        "loss": math.fsum(loss) / len(loss),
    }
    if all_bins:
        summary["rms_calibration_error_all_bins"] = _rms_calibration_error(ranked, bin_size=100, all_bins=True)
    return summary


def aupr_out_of_distribution(inside: Array, outside: Array) -> float:
    """Returns how well low confidence finds samples that are of none of the network's classes.

    The area under the precision recall curve of their detection: they are the positive class, and a sample's score
    is its confidence, negated. The area is the average precision, in steps, where samples of equal confidence are
    found together.

    Args:
        inside: `[N]`, confidences of samples of the network's classes.
        outside: `[M]`, confidences of the others.

    Raises:
        ValueError: There is no sample of either kind, or a confidence is no number.
    """
    kinds = {"inside": to_numpy(inside).ravel(), "outside": to_numpy(outside).ravel()}
    for kind, values in kinds.items():
        if not values.size or np.isnan(values).any():
            raise ValueError(f"the confidences {kind} the distribution must be one or more numbers")
    confidence = np.concatenate(list(kinds.values()))
    is_outside = np.arange(len(confidence)) >= kinds["inside"].size
    # From the least confident on: each group of equal confidence is a step of the curve.
    _, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    found = np.bincount(group, weights=is_outside)
    precision = found.cumsum() / size.cumsum()
    return float(np.sum(found * precision) / kinds["outside"].size)


def mean_corruption_error(errors: Mapping[str, float], reference: Mapping[str, float]) -> float:
    """Returns the mean, over corruptions, of a network's error in units of a reference network's.

    Both are means over the severities of a corruption: their quotient is the published one of the sums. The result
    may exceed 1.

    Args:
        errors: of the network, by corruption; more than those of the reference may be there.
        reference: of the reference network, by corruption, as published of AlexNet.

    Raises:
        ValueError: There is no corruption, or the network's error on one is missing.
    """
    if missing := reference.keys() - errors.keys() or (set() if reference else {"all"}):
        raise ValueError(f"there are no errors on {', '.join(sorted(missing))}")
    return math.fsum(errors[corruption] / error for corruption, error in reference.items()) / len(reference)


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Scores predictions where they are; nothing waits for the device.

    On the CPU it is NumPy that computes, whose results do not depend on a sample's place in the batch.

    Args:
        logits: `[N, K]`, floating point, on any device that has float64.
        labels: int64 `[N]`, in [0, K), on the same device.
    """
    logits = logits.detach().double()
    if logits.device.type == "cpu":
        # One memory layout: the order of a sum, and so its last bit, depends on it.
        arrays = _score(np, np.ascontiguousarray(logits.numpy()), labels.numpy())
        return Scores(*(torch.from_numpy(array) for array in arrays))
    return Scores(*_score(torch, logits.contiguous(), labels))


def _score(xp: ModuleType, logits: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Loss, rank and confidence, by NumPy's functions or by torch's, which have the same names."""
    own = logits[xp.arange(len(labels), device=logits.device), labels][:, None]
    earlier = xp.arange(logits.shape[1], device=logits.device) < labels[:, None]
    rank = xp.where(earlier, logits >= own, logits > own).sum(axis=1)
    largest = xp.amax(logits, axis=1, keepdims=True)
    # Logits near the limits of float64 are further apart than it can tell: infinity is their right distance. Where
    # one is not finite, the loss says so.
    with np.errstate(over="ignore", invalid="ignore"):
        total = xp.exp(logits - largest).sum(axis=1)
        loss = xp.log(total) + (largest - own)[:, 0]
    return xp.where(xp.isfinite(logits).all(axis=1), loss, math.nan), rank, 1 / total


class _Ranked(NamedTuple):
    """Predictions in rising order of confidence; float64 `[N]` each.

    Attributes:
        confidence: of each.
        share_correct: the share of correct predictions among those as confident.
    """

    confidence: Floats
    share_correct: Floats


def _sort(scores: Scores) -> _Ranked:
    confidence, group, size = np.unique(scores.confidence.cpu().numpy(), return_inverse=True, return_counts=True)
    share_correct = np.bincount(group, weights=scores.correct.cpu().numpy()) / size
    return _Ranked(np.repeat(confidence, size), np.repeat(share_correct, size))


def _score_checked(logits: Array, labels: Array) -> Scores:
    return score(*map(torch.from_numpy, check_predictions(logits, labels)))


def _response_rate_curve(ranked: _Ranked) -> ResponseRateCurve:
    samples = len(ranked.confidence)
    answered = np.arange(1, samples + 1)
    return ResponseRateCurve(answered / samples, ranked.share_correct[::-1].cumsum() / answered)


def _aurra(ranked: _Ranked) -> float:
    return float(_response_rate_curve(ranked).accuracy.mean())


def _rms_calibration_error(ranked: _Ranked, bin_size: int, all_bins: bool) -> float:
    samples = len(ranked.confidence)
    starts = np.arange(max(samples // bin_size, 1)) * bin_size
    count = np.diff(starts, append=samples)
    gap = np.add.reduceat(ranked.confidence - ranked.share_correct, starts) / count
    counted = slice(None) if all_bins or len(starts) == 1 else slice(-1)
    return math.sqrt(np.sum(count[counted] * gap[counted] ** 2) / samples)


def _calibration_bins(ranked: _Ranked, bins: int) -> CalibrationBins:
    edges = np.linspace(0, 1, bins + 1)
    index = np.searchsorted(edges, ranked.confidence, side="left") - 1
    samples = np.bincount(index, minlength=bins)
    size = np.where(samples > 0, samples, np.nan)
    confidence = np.bincount(index, weights=ranked.confidence, minlength=bins) / size
    accuracy = np.bincount(index, weights=ranked.share_correct, minlength=bins) / size
    return CalibrationBins(edges, samples, confidence, accuracy)


def _expected_calibration_error(bins: CalibrationBins) -> float:
    filled = bins.samples > 0
    gap = np.abs(bins.confidence - bins.accuracy)[filled]
    return float(np.sum(bins.samples[filled] * gap) / bins.samples.sum())
