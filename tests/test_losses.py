"""The mixed cross-entropy, against a loop over samples in float64, and the mistakes that it tells."""

import math

import pytest
import torch
from torch.nn import functional as F

import moex

SAMPLES, CLASSES = 6, 4
PERM = torch.tensor([3, 1, 0, 5, 2, 2])


@pytest.fixture
def batch():
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(SAMPLES, CLASSES, generator=draws, dtype=torch.float64)
    return logits, torch.randint(CLASSES, (SAMPLES,), generator=draws)


def slow(logits, soft, perm, weights, smoothing=0.0):
    """The mean of -Σ y log p over mixed labels y, in Python's floats."""
    total = 0.0
    for row, label, partner, weight in zip(logits.tolist(), soft, perm, weights, strict=True):
        mixed = [weight * a + (1 - weight) * b for a, b in zip(label, soft[partner], strict=True)]
        mixed = [(1 - smoothing) * share + smoothing * sum(mixed) / len(mixed) for share in mixed]
        log_sum = math.log(sum(math.exp(value) for value in row))
        total += sum(share * (log_sum - value) for share, value in zip(mixed, row, strict=True))
    return total / len(soft)


WEIGHTS = {
    "a number": 0.9,
    "its own label alone": 1,
    "its partner's alone": 0.0,
    "a tensor": torch.tensor(0.3),
    "a tensor of one": torch.tensor([0.3]),
    "one a sample": torch.linspace(0, 1, SAMPLES),
}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("is_soft", [False, True], ids=["class indices", "soft labels"])
def test_it_is_the_loss_of_the_mixed_labels(batch, weight, is_soft, smoothing):
    logits, labels = batch
    soft = F.one_hot(labels, CLASSES).double()
    if is_soft:
        labels = soft = torch.lerp(soft.roll(1, 0), soft, 0.6)
    loss = moex.mixed_cross_entropy(logits, labels, PERM, weight, label_smoothing=smoothing)
    weights = torch.as_tensor(weight, dtype=torch.float64).expand(SAMPLES).tolist()
    expected = slow(logits, soft.tolist(), PERM.tolist(), weights, smoothing)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert loss.dtype == torch.float64
    assert moex.mixed_cross_entropy(logits.bfloat16(), labels, PERM, weight).dtype == torch.float32


@pytest.mark.parametrize("labels_like", [torch.int32, torch.uint8])
def test_any_integers_are_labels_and_partners(batch, labels_like):
    logits, labels = batch
    loss = moex.mixed_cross_entropy(logits, labels, PERM, 0.7)
    assert torch.equal(moex.mixed_cross_entropy(logits, labels.to(labels_like), PERM.int(), 0.7), loss)


def test_without_partners_it_is_the_plain_loss(batch):
    logits, labels = batch
    assert torch.equal(moex.mixed_cross_entropy(logits, labels, None, 0.9), F.cross_entropy(logits, labels))


def test_it_is_what_a_mixing_list_leads_to():
    torch.manual_seed(0)
    model = moex.models.create("resnet8", num_classes=CLASSES)
    images, labels = torch.randn(SAMPLES, 3, 32, 32), torch.arange(SAMPLES) % CLASSES
    mixing = moex.Mixing(model, [moex.MoEx(layer="stage1", probability=1, weight=0.6)], num_classes=CLASSES, seed=3)
    with mixing(images, labels) as (inputs, targets):
        expected = F.cross_entropy(model(inputs), targets)
    mixing.load_state_dict({"seed": 3, "calls": 0})
    generators = {"shared": moex.randomness.generator(3, 3), "own": moex.randomness.generator(3, 4)}
    ((perm, weight),) = (operation.arguments for operation in mixing.draw(images, **generators))
    mixing.remove()
    with moex.MomentExchange(model, "stage1").swap(perm):
        logits = model(images)
    torch.testing.assert_close(moex.mixed_cross_entropy(logits, labels, perm, weight), expected)


def test_it_compiles_to_one_graph(batch):
    logits, labels = batch
    compiled = torch.compile(moex.mixed_cross_entropy, fullgraph=True, backend="eager")
    assert torch.equal(compiled(logits, labels, PERM, 0.9), moex.mixed_cross_entropy(logits, labels, PERM, 0.9))


INDICES = torch.zeros(SAMPLES, dtype=torch.long)
MISTAKES = {
    "logits of one dimension": ((torch.zeros(6), INDICES, PERM, 0.9), r"logits must be \[B, K\], not \[6\]"),
    "labels of another batch": ((None, INDICES[:5], PERM, 0.9), r"indices \[6\] or soft labels \[6, 4\], not \[5\]"),
    "labels that are no classes": ((None, torch.zeros(6), PERM, 0.9), "which are integers, not torch.float32"),
    "partners of another batch": ((None, INDICES, PERM[:5], 0.9), "perm has 5 entries for a batch of 6 samples"),
    "partners that are no integers": ((None, INDICES, PERM.float(), 0.9), "perm must be"),
    "a weight above 1": ((None, INDICES, PERM, 1.5), r"weight is 1.5: .*in \[0, 1\]"),
    "a weight that is no number": ((None, INDICES, PERM, math.nan), "weight is nan"),
    "a weight for each class": ((None, INDICES, PERM, torch.ones(4)), r"one a sample \[6\], not \[4\]"),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told(batch, arguments, message):
    logits, *others = arguments
    with pytest.raises(ValueError, match=message) as caught:
        moex.mixed_cross_entropy(batch[0] if logits is None else logits, *others)
    assert "\n" not in str(caught.value)
