"""What holds for every step of the mixing list: a row for each, with a slow reference that follows each sample."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from plans import BATCH, CLASSES, PLACES, Net, batch, generators
from torch import nn
from torch.nn import functional as F
from torchvision.ops import drop_block2d
from torchvision.transforms import v2

import moex
from moex.augmentation import IMAGES, Mixing, PairStep, step_classes
from moex.augmentation.boxes import box_shares
from moex.augmentation.cutmix import cutmix
from moex.augmentation.label_smoothing import smooth_labels
from moex.augmentation.mixup import mixup

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


def create(name, **settings):
    return step_classes()[name](**STEPS[name][0] | settings)


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
