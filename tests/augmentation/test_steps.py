"""What holds for every step of the mixing list: a row for each, with a slow reference that follows each sample."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import drop_block2d
from torchvision.transforms import v2

import moex
from moex.augmentation import IMAGES, Mixing, PairStep, step_classes
from moex.augmentation.boxes import box_shares
from moex.augmentation.cutmix import cutmix, draw_boxes
from moex.augmentation.cutout import draw_holes
from moex.augmentation.label_smoothing import smooth_labels
from moex.augmentation.mixup import mixup

BATCH, CLASSES = 5, 7


# What a step does to one sample: features [C, H, W] of the whole batch and what was drawn in, its new features out.


def mix_sample(features, sample, permutation, weight):
    share = weight[sample % len(weight)]
    return share * features[sample] + (1 - share) * features[permutation[sample]]


def cut_sample(features, sample, permutation, weight, boxes):
    pasted = features[sample].copy()
    top, left, bottom, right = boxes[sample % len(boxes)]
    for row, column in itertools.product(range(top, bottom), range(left, right)):
        pasted[:, row, column] = features[permutation[sample], :, row, column]
    return pasted


def cut_hole(features, sample, boxes):
    holed = features[sample].copy()
    top, left, bottom, right = boxes[sample]
    for row, column in itertools.product(range(top, bottom), range(left, right)):
        holed[:, row, column] = 0
    return holed


def exchange_sample(features, sample, permutation, weight):
    exchanged = np.empty_like(features[sample])
    for row, column in np.ndindex(features.shape[2:]):
        own, partner = features[sample, :, row, column], features[permutation[sample], :, row, column]
        normal = (own - own.mean()) / np.sqrt(own.var(ddof=1) + 1e-5)
        exchanged[:, row, column] = normal * np.sqrt(partner.var(ddof=1) + 1e-5) + partner.mean()
    return exchanged


def drop_blocks(features, sample, rate):
    torch.manual_seed(0)
    mask = drop_block2d(torch.ones(features.shape, dtype=torch.float64), float(rate), 3)
    return features[sample] * mask[sample].numpy()


def mix_moments(features, sample, permutation, weight):
    share, mixed = weight[sample % len(weight)], np.empty_like(features[sample])
    for channel in range(len(mixed)):
        own, partner = features[sample, channel], features[permutation[sample], channel]
        means, deviations = zip(*((x.mean(), np.sqrt(x.var(ddof=1) + 1e-6)) for x in (own, partner)), strict=True)
        deviation = share * deviations[0] + (1 - share) * deviations[1]
        mixed[channel] = (own - means[0]) / deviations[0] * deviation + share * means[0] + (1 - share) * means[1]
    return mixed


def leave_sample(features, sample, *arguments):
    return features[sample]


# What a step does to one sample's label.


def mix_label(labels, sample, permutation, weight, *arguments):
    return mix_sample(labels, sample, permutation, weight)


def smooth_label(labels, sample, weight):
    return weight[0] * labels[sample] + (1 - weight[0]) / CLASSES


def leave_label(labels, sample, *arguments):
    return labels[sample]


# By name: settings with which it surely happens, what it does to a sample, and to its label.
STEPS = {
    "cutout": ({"size": 4}, cut_hole, leave_label),
    "mixup": ({}, mix_sample, mix_label),
    "cutmix": ({"probability": 1.0}, cut_sample, mix_label),
    "moex": ({"probability": 1.0, "layer": "stage1"}, exchange_sample, mix_label),
    "manifold_mixup": ({"points": ["stage2"]}, mix_sample, mix_label),
    "feature_cutmix": ({"probability": 1.0, "points": ["stem"]}, cut_sample, mix_label),
    "dropblock": ({"points": ["stage1"], "rate": 0.3, "block_size": 3}, drop_blocks, leave_label),
    "label_smoothing": ({}, leave_sample, smooth_label),
    "mixstyle": ({"probability": 1.0, "points": ["stem", "stage2"]}, mix_moments, leave_label),
}
PAIRS = {name for name, kind in step_classes().items() if issubclass(kind, PairStep)}
PLACES = (IMAGES, "stem", "stage1", "stage2")


def create(name, **settings):
    return step_classes()[name](**STEPS[name][0] | settings)


class Net(nn.Sequential):
    """Three layers, whose features are as large as the images, and a linear head."""

    def __init__(self):
        torch.manual_seed(0)
        layers = {name: nn.Conv2d(3, 3, 3, padding=1) for name in PLACES[1:]}
        super().__init__()
        for name, layer in (layers | {"head": nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 9, CLASSES))}).items():
            self.add_module(name, layer)
        self.double()


def batch(batch_size=BATCH):
    generator = torch.Generator().manual_seed(batch_size)
    images = torch.randn(batch_size, 3, 6, 9, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (batch_size,), generator=generator)


def generators(seed=0):
    return {"shared": np.random.default_rng(seed), "own": np.random.default_rng(seed + 1000)}


def follow(net, steps, plan, images, labels):
    """Logits and labels of each sample by the references, place by place, in the list's order."""
    features, targets = images.numpy(), np.eye(CLASSES)[labels.numpy()]
    with torch.no_grad():
        for place in PLACES:
            if place != IMAGES:
                features = net.get_submodule(place)(torch.from_numpy(features)).numpy()
            for step in steps:
                for operation in plan:
                    if operation.step is step and operation.point == place:
                        _, change, mix = STEPS[step.name]
                        drawn = [argument.double().numpy() for argument in operation.arguments]
                        drawn = [values.astype(int) if not (values % 1).any() else values for values in drawn]
                        features = np.stack([change(features, sample, *drawn) for sample in range(len(features))])
                        targets = np.stack([mix(targets, sample, *drawn) for sample in range(len(targets))])
        return net.head(torch.from_numpy(features)), torch.from_numpy(targets)


def test_every_step_has_a_row():
    assert set(STEPS) == set(step_classes())


@pytest.mark.parametrize("shared_permutation", [False, True])
@pytest.mark.parametrize(
    "names", [*itertools.permutations(STEPS, 2), *((name,) for name in STEPS)], ids=lambda names: ", ".join(names)
)
def test_features_and_labels_agree_in_every_order(names, shared_permutation):
    """Every step, and every pair in both orders, against each sample followed through the network."""
    net, steps = Net(), [create(name) for name in names]
    mixing = Mixing(net, steps, num_classes=CLASSES, shared_permutation=shared_permutation)
    images, labels = batch()
    before = images.clone()
    plan = mixing.draw(images, **generators())
    assert {operation.step.name for operation in plan} == set(names)
    torch.manual_seed(0)
    with mixing.execute(plan, images, F.one_hot(labels, CLASSES).double()) as (mixed, targets):
        logits = net(mixed)
    assert torch.equal(images, before), "a step never writes into its input"
    expected_logits, expected_targets = follow(net, steps, plan, images, labels)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(targets, expected_targets, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(targets.sum(1), torch.ones(BATCH).double(), rtol=1e-12, atol=1e-12)
    assert torch.equal(net(images), follow(net, [], (), images, labels)[0]), "outside, the network is what it was"


@pytest.mark.parametrize("names", [("stage2", "stem"), ("stem", "stage2")], ids=", ".join)
def test_layers_listed_against_their_depth(names):
    net, steps = Net(), [moex.MoEx(layer=layer, probability=1.0, weight=0.7) for layer in names]
    mixing = Mixing(net, steps, num_classes=CLASSES)
    images, labels = batch()
    plan = mixing.draw(images, **generators())
    with mixing.execute(plan, images, F.one_hot(labels, CLASSES).double()) as (mixed, targets):
        logits = net(mixed)
    expected_logits, expected_targets = follow(net, steps, plan, images, labels)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(targets, expected_targets, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize(
    ("name", "per_sample"),
    [(name, each) for name in STEPS for each in (False, True) if not each or name in PAIRS],
)
def test_every_step_on_every_batch(name, per_sample, batch_size):
    pairs = name in PAIRS
    step = create(name, **({"per_sample": per_sample, "alpha": 1.0, "weight": None} if pairs else {}))
    net = Net()
    mixing = Mixing(net, [step], num_classes=CLASSES)
    images, labels = batch(batch_size)
    plan = mixing.draw(images, **generators())
    torch.manual_seed(0)
    with mixing.execute(plan, images, F.one_hot(labels, CLASSES).double()) as (mixed, targets):
        logits = net(mixed)
    expected_logits, expected_targets = follow(net, [step], plan, images, labels)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(targets, expected_targets, rtol=1e-12, atol=1e-12)
    if pairs:
        permutation, weight = plan[0].arguments[:2]
        assert sorted(permutation.tolist()) == list(range(batch_size))
        assert len(weight) == (batch_size if per_sample else 1)
    if pairs and batch_size == 1:
        torch.testing.assert_close(logits, net(images))
        assert torch.equal(targets, F.one_hot(labels, CLASSES).double())


# ---- mistakes

MISTAKES = [
    ("mixup", {"probability": 1.5}, r"mixup\.probability is 1\.5: it must be in \[0, 1\]"),
    ("mixup", {"weight": 0.5}, r"mixup\.weight and mixup\.alpha is \(0\.5, 1\.0\): it must be one of them a number"),
    ("moex", {"weight": 1.5}, r"moex\.weight is 1\.5: it must be in \[0, 1\]"),
    ("cutmix", {"alpha": 0.0}, r"cutmix\.alpha is 0\.0: it must be more than 0"),
    (
        "moex",
        {"per_sample": True},
        r"moex\.per_sample is True: it must be false with a fixed weight",
    ),
    ("moex", {"eps": 0.0}, r"moex\.eps is 0\.0: it must be more than 0"),
    ("moex", {"norm": "bn"}, "same for every sample"),
    (
        "moex",
        {"statistic": "variance"},
        r"moex\.statistic is 'variance': it must be one of moments, ",
    ),
    ("moex", {"components": 2}, r"moex\.components is 2: it must be 1 where moex\.statistic is 'moments'"),
    ("moex", {"statistic": "order", "detach": True}, r"moex\.detach is True: it must be False where .* 'order'"),
    ("cutout", {"size": 0}, r"cutout\.size is 0: it must be 1 or more"),
    ("manifold_mixup", {"points": []}, r"manifold_mixup\.points is \[\]: it must be one or more different points"),
    ("dropblock", {"points": ["images"]}, r"dropblock\.points is \['images'\]: it must be layers alone"),
    ("dropblock", {"block_size": 2}, r"dropblock\.block_size is 2: it must be an odd number"),
    ("dropblock", {"rate": 1.0}, r"dropblock\.rate is 1\.0: it must be in \[0, 1\)"),
    ("label_smoothing", {"spread": "none"}, r"label_smoothing\.spread is 'none': it must be one of all, others"),
    ("label_smoothing", {"epsilon": 2.0}, r"label_smoothing\.epsilon is 2\.0: it must be in \[0, 1\]"),
    ("moex", {"layer": "stage9"}, "no layer 'stage9' in Net"),
]


@pytest.mark.parametrize(("name", "settings", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistaken_settings(name, settings, message):
    with pytest.raises(ValueError, match=message):
        Mixing(Net(), [create(name, **settings)], num_classes=CLASSES)


def test_boxes_need_rows_and_columns():
    tokens = torch.randn(4, 9, 6)
    mixing = Mixing(nn.Sequential(nn.Linear(6, 5)), [moex.CutMix(probability=1.0)], num_classes=5)
    with pytest.raises(ValueError, match=r"a box needs 'images' to be \[B, C, H, W\], not \[4, 9, 6\]"):
        mixing.draw(tokens, **generators())


# ---- others' implementations


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_agrees_with_torchvision(name):
    """Given the same box, weight and pairing: torchvision pairs each sample with the one before."""
    images, labels = batch(8)
    transform = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](num_classes=CLASSES)
    torch.manual_seed(3)
    params = transform.make_params([images])
    theirs = transform.transform(images, params | {"labels": labels, "batch_size": 8})
    their_labels = transform._mixup_label(labels, lam=params.get("lam", params.get("lam_adjusted")))
    permutation = torch.arange(8).roll(1)
    if name == "mixup":
        weight = torch.tensor([params["lam"]], dtype=torch.float64)
        ours = mixup(images, permutation, weight)
    else:
        left, top, right, bottom = params["box"]
        boxes = torch.tensor([[top, left, bottom, right]])
        weight = torch.from_numpy(1 - box_shares(boxes.numpy(), (6, 9)))
        assert weight[0] == pytest.approx(params["lam_adjusted"])
        ours = cutmix(images, permutation, boxes)
    torch.testing.assert_close(ours, theirs)
    soft = moex.augmentation.base.mix_labels(F.one_hot(labels, CLASSES).double(), permutation, weight)
    # torchvision mixes labels in float32, whose rounding of numbers below 1 is 6e-8.
    torch.testing.assert_close(soft, their_labels.double(), rtol=0, atol=2e-7)


def test_smoothed_labels_are_those_of_the_loss():
    labels, logits = batch()[1], torch.randn(BATCH, CLASSES, dtype=torch.float64)
    soft = smooth_labels(F.one_hot(labels, CLASSES).double(), torch.tensor([0.9], dtype=torch.float64))
    torch.testing.assert_close(F.cross_entropy(logits, soft), F.cross_entropy(logits, labels, label_smoothing=0.1))


def test_smoothing_over_the_others_is_the_published_law():
    """Of mixed labels too, whose published loss is the weighted sum of the losses of both."""
    step, weight = moex.LabelSmoothing(epsilon=0.3, spread="others"), 0.6
    (operation,) = step.draw(None)
    own, partners = torch.tensor([1, 4, 0]), torch.tensor([2, 4, 1])

    def published(labels):
        smoothed = torch.full((len(labels), CLASSES), 0.3 / (CLASSES - 1))
        smoothed[torch.arange(len(labels)), labels] = 1 - 0.3
        return smoothed

    mixed = weight * F.one_hot(own, CLASSES) + (1 - weight) * F.one_hot(partners, CLASSES)
    expected = weight * published(own) + (1 - weight) * published(partners)
    torch.testing.assert_close(operation.mix_labels(mixed), expected)


def test_mixup_of_tokens():
    tokens = torch.randn(4, 10, 6, dtype=torch.float64)
    permutation, weight = torch.tensor([3, 2, 1, 0]), torch.tensor([0.25])
    torch.testing.assert_close(mixup(tokens, permutation, weight), 0.25 * tokens + 0.75 * tokens.flip(0))


# ---- the laws of the draws; bounds are five standard deviations wide


def draws_of(step, *, count=1, batch_size=64, seed=0, progress=1.0):
    mixing = Mixing(Net(), [step], num_classes=CLASSES)
    images, own = torch.zeros(batch_size, 3, 6, 9, dtype=torch.float64), generators(seed)
    mixing.prepare(batch(4)[0])
    return [mixing.draw(images, progress=progress, **own) for _ in range(count)]


def test_weights_follow_their_law():
    (plan,) = draws_of(moex.Mixup(alpha=0.4, per_sample=True), batch_size=20000)
    weights = plan[0].arguments[1].double()
    # Beta(a, a) has mean 1/2 and variance 1 / (8a + 4).
    assert weights.mean().item() == pytest.approx(0.5, abs=0.02)
    assert weights.var().item() == pytest.approx(1 / (8 * 0.4 + 4), rel=0.05)
    (plan,) = draws_of(moex.Mixup(alpha=None, weight=0.9))
    assert plan[0].arguments[1].tolist() == pytest.approx([0.9], abs=1e-7)


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


def test_one_of_the_points_is_drawn():
    points = ["images", "stem", "stage1"]
    plans = draws_of(moex.ManifoldMixup(points=points), count=3000, batch_size=2)
    for point in points:
        share = np.mean([operation.point == point for (operation,) in plans])
        assert share == pytest.approx(1 / 3, abs=5 * (2 / 9 / 3000) ** 0.5)


def test_a_box_in_features_has_their_size():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten())
    mixing = Mixing(net.double(), [moex.FeatureCutMix(probability=1.0, points=["0"])], num_classes=CLASSES)
    own = generators()
    for _ in range(50):
        (operation,) = mixing.draw(batch()[0], **own)
        _, weight, boxes = operation.arguments
        top, left, bottom, right = boxes[0].tolist()
        assert 0 <= top <= bottom <= 2
        assert 0 <= left <= right <= 4
        assert weight.item() == pytest.approx(1 - (bottom - top) * (right - left) / 8)


@pytest.mark.parametrize(("name", "plain"), [("manifold_mixup", "mixup"), ("feature_cutmix", "cutmix")])
def test_at_the_images_it_is_the_plain_step(name, plain):
    (ours,), (theirs,) = draws_of(create(name, points=["images"])), draws_of(create(plain))
    assert ours[0].point == theirs[0].point == IMAGES
    assert all(map(torch.equal, ours[0].arguments, theirs[0].arguments))


def test_the_rate_of_dropblock_grows_linearly():
    for progress in (0.0, 0.25, 1.0):
        (plan,) = draws_of(moex.DropBlock(rate=0.2, points=["stage2", "stem"]), progress=progress)
        assert [operation.point for operation in plan] == ["stem", "stage2"]
        assert [operation.arguments[0].item() for operation in plan] == pytest.approx([0.2 * progress] * 2)


def test_dropblock_drops_blocks_and_keeps_the_mean():
    """A slow reference for the law: blocks around seeds, whose rate makes up for their overlap."""
    torch.manual_seed(0)
    ones = torch.ones(4000, 2, 12, 12)
    dropped = moex.DropBlock(block_size=3).apply(ones, torch.tensor(0.1, dtype=torch.float64))
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
    # A map has 1.6 blocks of 9 in 144 entries: five standard deviations of the mean of 8,000 maps.
    assert rate == pytest.approx(expected, abs=5 * 1.6**0.5 * 9 / 144 / 8000**0.5)
    # The mask divides by its own mean, which float32 rounds.
    assert dropped.double().mean().item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("statistic", ["moments", "components", "order", f"{__name__}.swap_everything"])
def test_every_statistic_is_exchanged_in_a_step(statistic, monkeypatch):
    """By its name, or a function of one's own by its import path; its recipe has its own options alone."""
    monkeypatch.setitem(__import__("sys").modules, __name__, type("Module", (), {"swap_everything": swap_everything}))
    step = moex.MoEx(statistic=statistic, layer="stem", probability=1.0)
    net, (images, labels) = Net(), batch()
    mixing = Mixing(net, [step], num_classes=CLASSES)
    plain = net(images)
    with mixing(images, labels) as (same, _):
        assert not torch.allclose(net(same), plain)
    options = {"moments": {"norm", "eps", "positive_only", "detach"}, "components": {"components"}, "order": {"norm"}}
    own = {field.name for field in dataclasses.fields(PairStep)} | {"layer", "channel_dim", "batch_dim", "statistic"}
    assert set(step.recipe()) == own | options.get(statistic, set())


def swap_everything(x, perm):
    return x[perm]
