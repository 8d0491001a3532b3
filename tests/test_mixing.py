"""The mixing list: each step against an independent reference, and the list against the published loss."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

from moex.config import MIXING_STEPS, STANDING_STEPS, STEPS, parse
from moex.mixing import (
    DropBlock,
    FeatureMixing,
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


def sizes_of(size):
    """Every point has features as large as the images."""
    return defaultdict(lambda: size)


def plan_of(values, *, batch_size=5, size=(6, 9), seed=0):
    config = parse({"augmentation": values}).augmentation
    shared, own = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    return draw_plan(config, batch_size=batch_size, sizes=sizes_of(size), shared=shared, own=own)


def always(name, **law):
    """The configuration of a list of one step that always happens."""
    return {"steps": [name], name: law if name in STANDING_STEPS else {"probability": 1.0, **law}}


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
    our_images, our_labels, inside = apply_plan((operation,), images, labels, classes=CLASSES)
    assert inside == ()
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
    _, soft, (inside,) = apply_plan(plan, images, labels, classes=CLASSES)
    assert (inside.name, inside.point) == ("moex", "stem")
    assert torch.equal(inside.permutation, partners)
    torch.testing.assert_close(F.cross_entropy(logits, soft.double()), published)


@pytest.mark.parametrize("size", [(6, 9), (8, 8), (1, 5)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_every_step_on_every_batch(name, per_sample, batch_size, size):
    law = {"per_sample": per_sample} if name in MIXING_STEPS else {}
    law |= {"alpha": 1.0, "weight": None} if name == "moex" else {}
    images, labels = batch(batch_size, size=size)
    before = images.clone()
    plan = plan_of(always(name, **law), batch_size=batch_size, size=size)
    mixed, soft, inside = apply_plan(plan, images, labels, classes=CLASSES)
    assert torch.equal(images, before), "a step never writes into its input"
    assert mixed.shape == images.shape
    assert mixed.dtype == images.dtype
    assert soft.shape == (batch_size, CLASSES)
    torch.testing.assert_close(soft.sum(1), torch.ones(batch_size))
    assert (soft >= 0).all()
    assert [operation.point for operation in inside] == [
        operation.point for operation in plan if operation.point != "images"
    ]
    assert torch.equal(mixed, images) or not inside
    for operation in plan:
        if operation.permutation is not None:
            assert sorted(operation.permutation.tolist()) == list(range(batch_size))
            assert len(operation.weight) == (batch_size if per_sample else 1)
    if batch_size == 1 and name in MIXING_STEPS:
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
    mixed, soft, inside = apply_plan(plan_of({}), images, labels, classes=CLASSES)
    assert mixed is images
    assert torch.equal(soft, F.one_hot(labels, CLASSES).float())
    assert inside == ()


# The draws. Bounds are five standard deviations wide.

DRAWS = 4000


def frequencies(values):
    """How often each combination of steps happened."""
    config = parse({"augmentation": values}).augmentation
    shared, own = np.random.default_rng(0), np.random.default_rng(1)
    plans = [draw_plan(config, batch_size=2, sizes=sizes_of((4, 4)), shared=shared, own=own) for _ in range(DRAWS)]
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
                sizes=sizes_of((8, 8)),
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


# Inside the network.


def test_one_of_the_points_is_drawn():
    points = ["images", "stem", "stage1"]
    config = parse({"augmentation": always("manifold_mixup", points=points)}).augmentation
    shared, own = np.random.default_rng(0), np.random.default_rng(1)
    plans = [draw_plan(config, batch_size=2, sizes=sizes_of((4, 4)), shared=shared, own=own) for _ in range(DRAWS)]
    counts = Counter(operation.point for (operation,) in plans)
    assert {operation.name for (operation,) in plans} == {"mixup"}
    assert_close_to(
        {(point,): count / DRAWS for point, count in counts.items()}, {(point,): 1 / 3 for point in points}
    )


@pytest.mark.parametrize(("step", "plain"), [("manifold_mixup", "mixup"), ("feature_cutmix", "cutmix")])
def test_at_the_images_it_is_the_plain_step(step, plain):
    images, labels = batch()
    ours = apply_plan(plan_of(always(step, points=["images"])), images, labels, classes=CLASSES)
    theirs = apply_plan(plan_of(always(plain)), images, labels, classes=CLASSES)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])


def test_a_box_in_features_has_their_size():
    config = parse({"augmentation": always("feature_cutmix", points=["stage2"])}).augmentation
    shared, own = np.random.default_rng(0), np.random.default_rng(1)
    sizes = {"images": (32, 32), "stage2": (5, 3)}
    for _ in range(50):
        (operation,) = draw_plan(config, batch_size=4, sizes=sizes, shared=shared, own=own)
        top, left, bottom, right = operation.boxes[0].tolist()
        assert 0 <= top <= bottom <= 5
        assert 0 <= left <= right <= 3
        assert operation.weight.item() == pytest.approx(1 - (bottom - top) * (right - left) / 15)


@pytest.mark.parametrize("step", ["manifold_mixup", "feature_cutmix"])
def test_features_and_labels_are_mixed_by_the_same_draw(step):
    """Against the network taken apart at the point."""
    torch.manual_seed(0)
    lower = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    upper = nn.Sequential(nn.Flatten(), nn.Linear(4 * 6 * 9, CLASSES))
    network = nn.Sequential(lower, upper)
    hook = FeatureMixing(network, "0")
    images, labels = batch()
    plan = plan_of(always(step, points=["0"]))
    same, soft, (operation,) = apply_plan(plan, images, labels, classes=CLASSES)
    assert same is images
    with hook.mix(operation):
        logits = network(images)
    features = lower(images)
    mixed = []
    for sample, partner in enumerate(operation.permutation.tolist()):
        if step == "manifold_mixup":
            share = operation.weight.item()
            mixed.append(share * features[sample] + (1 - share) * features[partner])
        else:
            top, left, bottom, right = operation.boxes[0].tolist()
            pasted = features[sample].clone()
            pasted[:, top:bottom, left:right] = features[partner, :, top:bottom, left:right]
            mixed.append(pasted)
    torch.testing.assert_close(logits, upper(torch.stack(mixed)))
    one_hot = F.one_hot(labels, CLASSES).float()
    share = operation.weight
    torch.testing.assert_close(soft, share * one_hot + (1 - share) * one_hot[operation.permutation])
    assert torch.equal(network(images), upper(features))


def test_mixup_of_tokens():
    tokens = torch.randn(4, 10, 6)
    permutation, weight = torch.tensor([3, 2, 1, 0]), torch.tensor([0.25])
    torch.testing.assert_close(mixup(tokens, permutation, weight), 0.25 * tokens + 0.75 * tokens.flip(0))


def test_the_rate_of_dropblock_grows_linearly():
    config = parse({"augmentation": always("dropblock", rate=0.2, points=["stage2", "stage3"])}).augmentation
    for progress in (0.0, 0.25, 1.0):
        plan = draw_plan(
            config,
            batch_size=4,
            sizes=sizes_of((8, 8)),
            shared=np.random.default_rng(0),
            own=np.random.default_rng(1),
            progress=progress,
        )
        assert [operation.point for operation in plan] == ["stage2", "stage3"]
        assert [operation.rate for operation in plan] == pytest.approx([0.2 * progress] * 2)


def test_dropblock_drops_blocks_and_keeps_the_mean():
    """A slow reference for the law: blocks around seeds, whose rate makes up for their overlap."""
    network = nn.Sequential(nn.Identity())
    hook = DropBlock(network, "0", block_size=3)
    torch.manual_seed(0)
    ones = torch.ones(400, 2, 12, 12)
    with hook.drop(0.1):
        dropped = network(ones)
    assert torch.equal(network(ones), ones)
    kept = dropped > 0
    # Every hole is a union of 3×3 squares.
    squares = F.max_pool2d(kept.float(), 3, stride=1) == 0
    covered = F.max_pool2d(F.pad(squares.float(), (2, 2, 2, 2)), 3, stride=1) > 0
    assert torch.equal(covered, ~kept)
    rate = 1 - kept.double().mean().item()
    # The paper's γ (equation 1) counts no overlaps: the share that seeds leave uncovered says by how much.
    gamma = 0.1 / 3**2 * 12**2 / 10**2
    expected = np.mean(
        [
            1 - (1 - gamma) ** (rows * columns)
            for row in range(12)
            for column in range(12)
            for rows in [min(row, 9) - max(row - 2, 0) + 1]
            for columns in [min(column, 9) - max(column - 2, 0) + 1]
        ]
    )
    assert rate == pytest.approx(expected, rel=0.05)
    assert dropped.mean().item() == pytest.approx(1, abs=1e-3)
