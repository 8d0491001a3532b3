"""The mixing list in a training loop of one's own: what it draws, and that it works with whatever networks run in."""

import copy
from collections import Counter

import numpy as np
import pytest
import timm
import torch
from plans import CLASSES, generators
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import moex
from moex import models
from moex.augmentation import Mixing
from moex.exchange import exchange_moments

DRAWS = 4000


def network():
    torch.manual_seed(0)
    return models.create("resnet8", num_classes=CLASSES, in_channels=3).double()


def batch(batch_size=6, *, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch_size, 3, size, size, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (batch_size,), generator=generator)


def names_of(plan):
    return tuple(operation.step.name for operation in plan)


# ---- what it computes


def test_one_soft_loss_is_the_published_three_term_loss():
    steps = [moex.CutMix(probability=1.0), moex.MoEx(probability=1.0, weight=0.9)]
    mixing = Mixing(network(), steps, num_classes=CLASSES, shared_permutation=True)
    images, labels = batch()
    cut, exchange = plan = mixing.draw(images, **generators())
    partners = cut.arguments[0]
    assert torch.equal(partners, exchange.arguments[0])
    logits = torch.randn(6, CLASSES, dtype=torch.float64)
    share, weight = cut.arguments[1].item(), exchange.arguments[1].item()
    terms = [F.cross_entropy(logits, labels[pairs]) for pairs in (torch.arange(6), partners, partners[partners])]
    published = (
        share * weight * terms[0]
        + (weight * (1 - share) + share * (1 - weight)) * terms[1]
        + (1 - share) * (1 - weight) * terms[2]
    )
    with mixing.execute(plan, images, F.one_hot(labels, CLASSES).double()) as (mixed, targets):
        mixing._model(mixed)
    torch.testing.assert_close(F.cross_entropy(logits, targets), published, rtol=1e-12, atol=1e-12)


def test_a_step_of_ones_own_loop():
    """README's loop against the published computation, gradients included."""
    model, reference = network(), network()
    mixing = moex.Mixing(model, [moex.MoEx(layer="stage1", probability=1.0, weight=0.8)], num_classes=CLASSES)
    images, labels = batch()
    (operation,) = Mixing.draw(mixing, images, **_stream(mixing))
    with mixing(images, labels) as (same, targets):
        loss = F.cross_entropy(model(same), targets.double())
    loss.backward()
    assert same is images
    permutation = operation.arguments[0]
    features = exchange_moments(reference.stage1(reference.stem(images)), permutation)
    logits = reference.fc(reference.stage3(reference.stage2(features)).mean((2, 3)))
    # λ is float32 in the labels.
    weight = float(np.float32(0.8))
    expected = weight * F.cross_entropy(logits, labels) + (1 - weight) * F.cross_entropy(logits, labels[permutation])
    expected.backward()
    # 1 - λ is rounded to float32 in the labels: half of 6e-8 of the loss.
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=0)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-8)


def _stream(mixing):
    from moex.randomness import Purpose, generator

    calls = mixing.state_dict()["calls"]
    return {
        "shared": generator(mixing.seed, Purpose.DECISIONS, step=calls),
        "own": generator(mixing.seed, Purpose.PERMUTATIONS, step=calls),
    }


def test_an_empty_list_leaves_one_hot_labels():
    images, labels = batch()
    with Mixing(network(), [], num_classes=CLASSES)(images, labels) as (same, targets):
        assert same is images
        assert torch.equal(targets, F.one_hot(labels, CLASSES).float())


def test_labels_that_are_soft_already():
    images, labels = batch()
    soft = F.one_hot(labels, CLASSES).double().lerp(torch.full((6, CLASSES), 1 / CLASSES).double(), 0.2)
    with Mixing(network(), [moex.Mixup()], num_classes=CLASSES)(images, soft) as (_, targets):
        torch.testing.assert_close(targets.sum(1), torch.ones(6).double())
        assert not torch.equal(targets, soft)


# ---- the stream of random choices


def targets_of(mixing, calls):
    seen = []
    for call in range(calls):
        images, labels = batch(seed=call)
        with mixing(images, labels) as (mixed, targets):
            mixing._model(mixed)
        seen.append(targets)
    return torch.stack(seen)


def test_each_call_is_the_next_step_of_the_stream_that_the_seed_keys():
    steps = [moex.CutMix(probability=0.5), moex.MoEx(probability=0.5)]
    whole = targets_of(Mixing(network(), steps, num_classes=CLASSES, seed=3), 12)
    first = Mixing(network(), steps, num_classes=CLASSES, seed=3)
    start = targets_of(first, 5)
    torch.rand(7)
    second = Mixing(network(), steps, num_classes=CLASSES, seed=3)
    second.load_state_dict(first.state_dict())
    assert torch.equal(start, whole[:5])
    other = Mixing(network(), steps, num_classes=CLASSES, seed=4)
    assert not torch.equal(targets_of(other, 12), whole)
    with pytest.raises(ValueError, match="the state is of seed 3, and this Mixing has seed 4"):
        other.load_state_dict(first.state_dict())
    rest = []
    for call in range(5, 12):
        images, labels = batch(seed=call)
        with second(images, labels) as (mixed, targets):
            second._model(mixed)
        rest.append(targets)
    assert torch.equal(torch.stack(rest), whole[5:])


def test_ranks_share_decisions_weights_and_boxes_but_not_partners():
    steps = [moex.CutMix(probability=0.5), moex.MoEx(probability=0.5)]
    mixing = Mixing(network(), steps, num_classes=CLASSES)
    images = batch(32)[0]
    for seed in range(20):
        first, second = (
            mixing.draw(images, shared=np.random.default_rng(seed), own=np.random.default_rng([seed, rank]))
            for rank in range(2)
        )
        assert names_of(first) == names_of(second)
        for ours, theirs in zip(first, second, strict=True):
            assert not torch.equal(ours.arguments[0], theirs.arguments[0])
            assert all(map(torch.equal, ours.arguments[1:], theirs.arguments[1:]))


def test_without_a_shared_permutation_each_step_has_its_own():
    steps = [moex.Mixup(), moex.MoEx(probability=1.0)]
    first, second = Mixing(network(), steps, num_classes=CLASSES).draw(batch(64)[0], **generators())
    assert not torch.equal(first.arguments[0], second.arguments[0])


# How often each combination of steps happens; bounds are five standard deviations wide.
CUT, MIX, HOLE = moex.CutMix(probability=0.5), moex.Mixup(probability=0.25), moex.Cutout(probability=0.5, size=2)
ALTERNATIVE = moex.Mixup(probability=0.3)
FREQUENCIES = {
    "stacked": (
        [CUT, MIX],
        [],
        {("cutmix", "mixup"): 0.125, ("cutmix",): 0.375, ("mixup",): 0.125, (): 0.375},
    ),
    "one of two, or none": ([CUT, ALTERNATIVE], [ALTERNATIVE, CUT], {("cutmix",): 0.5, ("mixup",): 0.3, (): 0.2}),
    "one of two beside another": (
        [HOLE, CUT, moex.Mixup(probability=0.5)],
        [1, 2],
        {("cutout", "cutmix"): 0.25, ("cutout", "mixup"): 0.25, ("cutmix",): 0.25, ("mixup",): 0.25},
    ),
}


@pytest.mark.parametrize("case", FREQUENCIES)
def test_how_often_steps_happen(case):
    steps, one_of, expected = FREQUENCIES[case]
    one_of = [steps[item] if isinstance(item, int) else item for item in one_of]
    mixing = Mixing(network(), steps, num_classes=CLASSES, one_of=one_of)
    images, draws = torch.zeros(2, 3, 4, 4), generators()
    counts = Counter(names_of(mixing.draw(images, **draws)) for _ in range(DRAWS))
    assert set(counts) == set(expected)
    for names, share in expected.items():
        assert counts[names] / DRAWS == pytest.approx(share, abs=5 * (share * (1 - share) / DRAWS) ** 0.5), names


@pytest.mark.parametrize(
    ("one_of", "message"),
    [
        ([CUT], r"one_of is \['cutmix'\]: it must be empty, or two or more of the steps \(cutmix, mixup\)"),
        ([CUT, HOLE], "must be empty, or two or more of the steps"),
        ([CUT, moex.Mixup(probability=0.25)], "two or more of the steps"),
    ],
)
def test_alternatives_are_steps_of_the_list(one_of, message):
    with pytest.raises(ValueError, match=message):
        Mixing(network(), [CUT, MIX, moex.LabelSmoothing()], num_classes=CLASSES, one_of=one_of)
    both = [moex.CutMix(probability=0.6), moex.Mixup(probability=0.6)]
    with pytest.raises(ValueError, match=r"probabilities sum to 1 at most; these sum to 1\.2"):
        Mixing(network(), both, num_classes=CLASSES, one_of=both)


# ---- whatever networks run in

VIT = {"img_size": 16, "patch_size": 4, "depth": 2}
SWIN = {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)}
NETWORKS = {
    "torchvision:resnet18": ({}, 16),
    "torchvision:densenet121": ({}, 32),
    "timm:resnet10t": ({}, 16),
    "timm:vit_tiny_patch16_224": (VIT, 16),
    "timm:swin_tiny_patch4_window7_224": (SWIN, 32),
    "timm:convnext_atto": ({}, 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_two_lines_in_any_network(name):
    """A step of training in bfloat16 with checkpointing where it exists: labels are mixed, and all weights learn."""
    options, size = NETWORKS[name]
    torch.manual_seed(0)
    model = models.create(name, num_classes=CLASSES, **options)
    mixing = moex.Mixing(model, [moex.Mixup(), moex.MoEx(layer="recommended", probability=1.0)], num_classes=CLASSES)
    if name.startswith("timm"):
        model.set_grad_checkpointing()
    images, labels = batch(size=size)
    with mixing(images.float(), labels) as (mixed, targets), torch.autocast("cpu", torch.bfloat16):
        # Under a label smoothing of the user's.
        loss = F.cross_entropy(model(mixed).float(), targets, label_smoothing=0.1)
    loss.backward()
    assert loss.isfinite()
    assert ((targets > 0).sum(1) > 1).any()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("way", ["torch.compile", "model.compile"])
def test_compiled(way):
    """Attached before compiling; without a graph for each draw."""
    torch.compiler.reset()
    model, plain = network(), network()
    steps = [moex.CutMix(probability=0.5), moex.MoEx(probability=0.5), moex.ManifoldMixup(points=["stage2"])]
    mixing, reference = (Mixing(net, steps, num_classes=CLASSES, seed=1) for net in (model, plain))
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=count) if way == "torch.compile" else model
    if way == "model.compile":
        model.compile(backend=count)
    for call in range(8):
        images, labels = batch(seed=call)
        with mixing(images, labels) as (mixed, targets):
            logits = compiled(mixed)
        with reference(images, labels) as (mixed, expected_targets):
            expected = plain(mixed)
        torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)
        assert torch.equal(targets, expected_targets)
    # With MoEx and without.
    assert len(graphs) == 2


def test_distributed():
    model, plain = network(), network()
    steps = [moex.MoEx(probability=1.0)]
    mixing, reference = (Mixing(net, steps, num_classes=CLASSES) for net in (model, plain))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped, (images, labels) = DistributedDataParallel(model), batch()
        with mixing(images, labels) as (mixed, targets), reference(images, labels):
            loss, expected = (F.cross_entropy(net(mixed), targets.double()) for net in (wrapped, plain))
        loss.backward()
        expected.backward()
    finally:
        torch.distributed.destroy_process_group()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, CLASSES)

    def forward(self, images, *, mask):
        return self.head((self.first(images) * mask).mean((2, 3)))


def test_a_network_of_more_inputs_is_prepared_with_them():
    model, (images, labels) = TwoInputs(), batch()
    images, mask = images.float(), torch.ones(14, 14)
    mixing = Mixing(model, [moex.MoEx(layer="first", probability=1.0)], num_classes=CLASSES)
    mixing.prepare(images[:4], mask=mask)
    with mixing(images, labels) as (mixed, targets):
        loss = F.cross_entropy(model(mixed, mask=mask), targets)
    assert loss.isfinite()


# ---- mistakes


def test_labels_are_not_mixed_where_features_cannot_be():
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", num_classes=CLASSES)
    mixing = Mixing(model, [moex.MoEx(layer="stem", probability=1.0)], num_classes=CLASSES)
    images, labels = batch(size=32)
    with pytest.raises(ValueError, match=r"after 'stem' changes the features by .* it acts after .*stage2"):
        mixing(images.float(), labels)


def test_the_network_that_was_prepared_is_the_one_to_call():
    model, (images, labels) = network(), batch()
    mixing = Mixing(model, [moex.MoEx(probability=1.0)], num_classes=CLASSES)
    twin = copy.deepcopy(model)
    with (
        pytest.raises(ValueError, match="no forward pass reached layer 'stem'"),
        mixing(images, labels) as (mixed, _),
    ):
        twin(mixed)
    mixing.remove()
    assert not any(module._forward_hooks for module in model.modules())
