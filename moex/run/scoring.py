"""One network on one data set: the end of a training run does it, and an evaluation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moex.data import DataSet, Outputs, Source, load_test
from moex.distributed.communication import gather
from moex.engine import evaluate, predict
from moex.metrics import Scores, score


@dataclass(frozen=True)
class PreparedSet:
    """A data set, ready to be scored with networks of some classes.

    Attributes:
        dataset: with its settings.
        parts: a source of each part, by its name.
        outputs: which of the networks' outputs stand for its classes; None: they are its classes.
    """

    dataset: DataSet
    parts: Mapping[str, Source]
    outputs: Outputs | None


@dataclass(frozen=True)
class Outcome:
    """What came out of a network on a data set.

    Attributes:
        figures: by their names, as the data set summarises them.
        scores: of each part, on the CPU.
        logits: float32 `[N, K]` on the CPU, of the data set's own classes; None for one of several parts, whose
            logits are too many to be kept.
        labels: int64 `[N]` on the CPU, likewise.
        unreadable: samples that were left out, since they cannot be read.
    """

    figures: dict[str, float]
    scores: dict[str, Scores]
    logits: Tensor | None = None
    labels: Tensor | None = None
    unreadable: int = 0


def prepare(
    dataset: DataSet,
    *,
    classes: Sequence[str] | None,
    count: int,
    shape: tuple[int, ...],
    seed: int,
    device: torch.device,
    channels_last: bool = False,
    limit_test: int | None = None,
) -> PreparedSet:
    """Looks for the files of a data set, and for its classes among a network's outputs.

    Args:
        dataset: with its settings.
        classes: the names of the network's outputs; None where they are but numbers.
        count: of its outputs.
        shape: of one of its inputs.
        seed: splits a set that comes in one piece.
        device: where batches are to be.
        channels_last: the memory format of batches of images.
        limit_test: how many samples to take of each part at most, the first ones.

    Raises:
        ValueError: files are missing or damaged, the inputs are none for this network, or it lacks classes.
        OSError: files cannot be read.
    """
    if tuple(dataset.shape) != tuple(shape):
        raise ValueError(f"its inputs are {list(dataset.shape)}, and the network's are {list(shape)}")
    parts = load_test(dataset, seed=seed, device=device, channels_last=channels_last, limit_test=limit_test)
    return PreparedSet(dataset, parts, dataset.outputs(classes, count=count))


def score_network(
    model: nn.Module,
    prepared: PreparedSet,
    *,
    batch_size: int,
    precision: str,
    before_part: Callable[[], None] | None = None,
) -> Outcome:
    """Scores a network on a data set. All ranks call it, and get the same.

    Logits are restricted on the device to the classes of the data set. Of a set of several parts, only scores are
    kept, three numbers a sample.

    Args:
        model: the network.
        prepared: as `prepare` returns it.
        batch_size: samples of a forward pass.
        precision: of the network.
        before_part: called before each part of the data set, and may raise to end here.

    Raises:
        ValueError: a logit is not finite.
        SourceError: samples cannot be read; on the rank that was to read them.
    """
    outputs, parts = prepared.outputs, prepared.parts
    logits = labels = None
    scores = {}
    for name, source in parts.items():
        if before_part is not None:
            before_part()
        if len(parts) == 1:
            logits, labels = predict(model, source, batch_size=batch_size, precision=precision, outputs=outputs)
            scores[name] = score(logits, labels)
        else:
            scores[name] = evaluate(model, source, batch_size=batch_size, precision=precision, outputs=outputs)
    for name, part in scores.items():
        if bad := int(part.loss.isnan().sum()):
            raise ValueError(f"{bad} of {len(part.loss)} samples of {name!r} have logits that are not finite")
    # Each rank knows of those that it was to read.
    unreadable = sum(len(set().union(*gather(set(source.unreadable)))) for source in parts.values())
    return Outcome(prepared.dataset.summarise(scores), scores, logits, labels, unreadable)
