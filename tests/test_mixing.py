"""The mixing list: each step against an independent reference, and the list against the published loss."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms import v2

from moex.config import STEPS, parse
from moex.mixing import (
    Operation,
    apply_plan,
    box_shares,
    cutmix,
    cutout,
    draw_boxes,
    draw_holes,
    draw_plan,
    draw_weights,
    mix_labels,
    mixup,
    smooth_labels,
)

CLASSES = 7


def batch(batch_size=5, *, size=(6, 9)):
    generator = torch.Generator().manual_seed(batch_size)
    images = torch.rand(batch_size, 3, *size, generator=generator)
    return images, torch.randint(CLASSES, (batch_size,), generator=generator)


def plan_of(values, *, batch_size=5, size=(6, 9), seed=0):
    config = parse({"augmentation": values}).augmentation
    shared, own = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    return draw_plan(config, batch_size=batch_size, image_size=size, shared=shared, own=own)


def always(name, **law):
    """The configuration of a list of one step that always happens."""
    return {"steps": [name], name: law if name == "label_smoothing" else {"probability": 1.0, **law}}


# Each step against a loop over samples and pixels.


def test_mixup_per_sample():
    images, _ = batch()
    permutation, weight = torch.tensor([1, 2, 0, 3, 4]), torch.tensor([0.0, 0.3, 0.5, 0.8, 1.0])
    mixed = mixup(images, permutation, weight)
    for sample in range(5):
        share = weight[sample].item()
        expected = share * images[sample] + (1 - share) * images[permutation[sample]]
        torch.testing.assert_close(mixed[sample], expected)


@pytest.mark.parametrize("draws", [1, 5])
def test_boxes_are_pasted_and_cut_out(draws):
    images, _ = batch()
    permutation = torch.tensor([4, 3, 2, 1, 0])
    boxes = torch.tensor([[1, 2, 4, 8], [0, 0, 6, 9], [3, 3, 3, 5], [0, 8, 1, 9], [2, 0, 5, 4]])[:draws]
    pasted, holed = images.clone(), images.clone()
    for sample in range(5):
        top, left, bottom, right = boxes[sample % draws].tolist()
        for row in range(top, bottom):
            for column in range(left, right):
                pasted[sample, :, row, column] = images[permutation[sample], :, row, column]
                holed[sample, :, row, column] = 0
    assert torch.equal(cutmix(images, permutation, boxes), pasted)
    assert torch.equal(cutout(images, boxes), holed)


def test_labels():
    _, labels = batch()
    soft = F.one_hot(labels, CLASSES).float()
    permutation, weight = torch.tensor([1, 0, 3, 4, 2]), torch.tensor([0.3])
    torch.testing.assert_close(mix_labels(soft, permutation, weight), 0.3 * soft + 0.7 * soft[permutation])
    # Smoothed labels against torch's own smoothing of the loss.
    logits = torch.randn(5, CLASSES)
    ours = F.cross_entropy(logits, smooth_labels(soft, torch.tensor([0.9])))
    torch.testing.assert_close(ours, F.cross_entropy(logits, labels, label_smoothing=0.1))


# torchvision's own steps, given the same box, weight and pairing (it pairs each sample with the one before).


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_agrees_with_torchvision(name):
    images, labels = batch(8, size=(32, 32))
    transform = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](num_classes=CLASSES)
    torch.manual_seed(3)
    params = transform.make_params([images])
    their_images = transform.transform(images, params | {"labels": labels, "batch_size": 8})
    their_labels = transform._mixup_label(labels, lam=params.get("lam", params.get("lam_adjusted")))
    permutation = torch.arange(8).roll(1)
    if name == "mixup":
        operation = Operation(name, permutation, torch.tensor([params["lam"]]))
    else:
        left, top, right, bottom = params["box"]
        boxes = torch.tensor([[top, left, bottom, right]])
        weight = 1 - box_shares(boxes.numpy(), (32, 32))
        assert weight[0] == pytest.approx(params["lam_adjusted"])
        operation = Operation(name, permutation, torch.from_numpy(weight).float(), boxes)
    our_images, our_labels, exchange = apply_plan((operation,), images, labels, classes=CLASSES)
    assert exchange is None
    torch.testing.assert_close(our_images, their_images)
    torch.testing.assert_close(our_labels, their_labels)


# The list.


def test_one_soft_loss_is_the_published_three_term_loss():
    images, labels = batch(6)
    logits = torch.randn(6, CLASSES, dtype=torch.float64)
    plan = plan_of(
        {
            "steps": ["cutmix", "moex"],
            "shared_permutation": True,
            "cutmix": {"probability": 1},
            "moex": {"probability": 1, "weight": 0.9},
        },
        batch_size=6,
    )
    cut, exchange = plan
    assert torch.equal(cut.permutation, exchange.permutation)
    partners, partners_partners = cut.permutation, cut.permutation[cut.permutation]
    share, weight = cut.weight.item(), 0.9
    terms = [F.cross_entropy(logits, labels[pairs]) for pairs in (torch.arange(6), partners, partners_partners)]
    published = (
        share * weight * terms[0]
        + (weight * (1 - share) + share * (1 - weight)) * terms[1]
        + (1 - share) * (1 - weight) * terms[2]
    )
    _, soft, permutation = apply_plan(plan, images, labels, classes=CLASSES)
    assert torch.equal(permutation, partners)
    torch.testing.assert_close(F.cross_entropy(logits, soft.double()), published)


@pytest.mark.parametrize("size", [(6, 9), (8, 8), (1, 5)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_on_every_batch(name, per_sample, batch_size, size):
    law = {"per_sample": per_sample} if name in ("mixup", "cutmix", "moex") else {}
    law |= {"alpha": 1.0, "weight": None} if name == "moex" else {}
    images, labels = batch(batch_size, size=size)
    before = images.clone()
    plan = plan_of(always(name, **law), batch_size=batch_size, size=size)
    mixed, soft, exchange = apply_plan(plan, images, labels, classes=CLASSES)
    assert torch.equal(images, before), "a step never writes into its input"
    assert mixed.shape == images.shape
    assert mixed.dtype == images.dtype
    assert soft.shape == (batch_size, CLASSES)
    torch.testing.assert_close(soft.sum(1), torch.ones(batch_size))
    assert (soft >= 0).all()
    assert (exchange is not None) == (name == "moex")
    for operation in plan:
        if operation.permutation is not None:
            assert sorted(operation.permutation.tolist()) == list(range(batch_size))
            assert len(operation.weight) == (batch_size if per_sample else 1)
    if batch_size == 1 and name in ("mixup", "cutmix", "moex"):
        torch.testing.assert_close(mixed, images)
        torch.testing.assert_close(soft, F.one_hot(labels, CLASSES).float())


def test_steps_happen_in_their_order():
    images, labels = batch()
    values = {"steps": ["cutout", "mixup"], "cutout": {"size": 4}, "mixup": {"probability": 1}}
    hole, mix = plan_of(values)
    found, _, _ = apply_plan((hole, mix), images, labels, classes=CLASSES)
    assert torch.equal(found, mixup(cutout(images, hole.boxes), mix.permutation, mix.weight))
    other, _, _ = apply_plan((mix, hole), images, labels, classes=CLASSES)
    assert not torch.equal(found, other)
    assert [operation.name for operation in plan_of(values | {"steps": ["mixup", "cutout"]})] == ["mixup", "cutout"]


def test_without_a_shared_permutation_each_step_has_its_own():
    both = {"steps": ["mixup", "moex"], "mixup": {"probability": 1}, "moex": {"probability": 1}}
    first, second = plan_of(both, batch_size=64)
    assert not torch.equal(first.permutation, second.permutation)


def test_an_empty_list_leaves_one_hot_labels():
    images, labels = batch()
    mixed, soft, exchange = apply_plan(plan_of({}), images, labels, classes=CLASSES)
    assert mixed is images
    assert torch.equal(soft, F.one_hot(labels, CLASSES).float())
    assert exchange is None


# The draws. Bounds are five standard deviations wide.

DRAWS = 4000


def frequencies(values):
    """How often each combination of steps happened."""
    config = parse({"augmentation": values}).augmentation
    shared, own = np.random.default_rng(0), np.random.default_rng(1)
    plans = [draw_plan(config, batch_size=2, image_size=(4, 4), shared=shared, own=own) for _ in range(DRAWS)]
    counts = Counter(tuple(operation.name for operation in plan) for plan in plans)
    return {names: count / DRAWS for names, count in counts.items()}


def assert_close_to(found, expected):
    assert set(found) == set(expected)
    for names, share in expected.items():
        assert found[names] == pytest.approx(share, abs=5 * (share * (1 - share) / DRAWS) ** 0.5), names


def test_stacked_steps_are_drawn_independently():
    values = {"steps": ["cutmix", "moex"], "cutmix": {"probability": 0.5}, "moex": {"probability": 0.25}}
    expected = {("cutmix", "moex"): 0.125, ("cutmix",): 0.375, ("moex",): 0.125, (): 0.375}
    assert_close_to(frequencies(values), expected)


def test_at_most_one_of_the_alternatives():
    values = {
        "steps": ["cutmix", "moex"],
        "one_of": ["moex", "cutmix"],
        "cutmix": {"probability": 0.5},
        "moex": {"probability": 0.3},
    }
    assert_close_to(frequencies(values), {("cutmix",): 0.5, ("moex",): 0.3, (): 0.2})


def test_alternatives_beside_a_step_of_its_own():
    values = {
        "steps": ["cutout", "cutmix", "moex"],
        "one_of": ["cutmix", "moex"],
        "cutout": {"probability": 0.5},
        "cutmix": {"probability": 0.5},
        "moex": {"probability": 0.5},
    }
    expected = dict.fromkeys([("cutout", "cutmix"), ("cutout", "moex"), ("cutmix",), ("moex",)], 0.25)
    assert_close_to(frequencies(values), expected)


def test_weights_follow_their_law():
    generator = np.random.default_rng(0)
    law = parse({}).augmentation.mixup
    law.alpha = 0.4
    weights = draw_weights(law, 20000, generator)
    # Beta(a, a) has mean 1/2 and variance 1 / (8a + 4).
    assert weights.mean() == pytest.approx(0.5, abs=0.02)
    assert weights.var() == pytest.approx(1 / (8 * 0.4 + 4), rel=0.05)
    law.alpha, law.weight = None, 0.9
    assert draw_weights(law, 3, generator).tolist() == [0.9, 0.9, 0.9]


def test_cutmix_boxes_have_the_published_law():
    """A box of side sqrt(1-λ) around a uniform pixel, clipped; written here as the published loop does it."""
    weight = np.linspace(0, 1, 500)
    boxes = draw_boxes(weight, (32, 48), np.random.default_rng(5))
    centres = np.random.default_rng(5).integers(0, (32, 48), size=(500, 2))
    for box, share, (row, column) in zip(boxes.tolist(), weight, centres.tolist(), strict=True):
        height, width = int(32 * np.sqrt(1 - share)), int(48 * np.sqrt(1 - share))
        assert box == [
            max(row - height // 2, 0),
            max(column - width // 2, 0),
            min(row + height // 2, 32),
            min(column + width // 2, 48),
        ]
    assert box_shares(np.array([[0, 0, 16, 24]]), (32, 48)).tolist() == [0.25]


@pytest.mark.parametrize("size", [7, 8])
def test_cutout_holes_are_square_around_any_pixel(size):
    holes = draw_holes(size, (32, 32), 4000, np.random.default_rng(1))
    inner = holes[(holes[:, :2] > 0).all(1) & (holes[:, 2:] < 32).all(1)]
    assert (inner[:, 2:] - inner[:, :2] == size).all()
    centres = np.unique(inner[:, 0] + size // 2)
    assert centres.tolist() == list(range(size // 2 + 1, 32 - (size - size // 2)))
    # Holes reach beyond the border: a pixel in the corner is as eligible a centre as any.
    assert (holes[:, 2] - holes[:, 0]).min() == size - size // 2


def test_ranks_share_decisions_weights_and_boxes_but_not_partners():
    values = {"steps": ["cutmix", "moex"], "cutmix": {"probability": 0.5}, "moex": {"probability": 0.5}}
    config = parse({"augmentation": values}).augmentation
    for seed in range(20):
        first, second = (
            draw_plan(
                config,
                batch_size=32,
                image_size=(8, 8),
                shared=np.random.default_rng(seed),
                own=np.random.default_rng([seed, rank]),
            )
            for rank in range(2)
        )
        assert [operation.name for operation in first] == [operation.name for operation in second]
        for ours, theirs in zip(first, second, strict=True):
            assert torch.equal(ours.weight, theirs.weight)
            assert ours.boxes is None or torch.equal(ours.boxes, theirs.boxes)
            assert not torch.equal(ours.permutation, theirs.permutation)
