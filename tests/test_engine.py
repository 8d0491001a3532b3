"""The loop against a loop written out plainly, in every precision, for every family of networks."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moex.config import parse
from moex.engine import draw_batch, evaluate, train_epoch
from moex.moments import exchange_moments
from moex.run.build import create_state, load_sets

CPU = torch.device("cpu")


def build(values):
    config = parse({"limit_train": 100, "limit_test": 60, "batch_size": 32} | values)
    sets = load_sets(config, CPU)
    return config, sets, create_state(config, sets, CPU)


def train(config, sets, state):
    rates = list(train_epoch(state, sets.train, config, classes=sets.classes))
    return rates, (state.totals / len(sets.train)).tolist()


def test_an_epoch_is_a_plain_loop():
    """Against autograd, torch's unfused SGD and an exchange written into the forward pass."""
    values = {
        "seed": 3,
        "augmentation": {"steps": ["moex"], "moex": {"probability": 0.5, "weight": 0.8}},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
        "optimizer": {"nesterov": True},
        "epochs": 4,
    }
    config, sets, state = build(values)
    _, _, reference = build(values)
    model = reference.model
    reference.hooks["moex", "stem"].remove()
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    order = torch.from_numpy(np.random.default_rng([3, 1, 0, 0, 0]).permutation(100))  # Purpose.ORDER is 1
    exchanged, loss_sum = 0, 0.0
    for step, lr in enumerate([0.025, 0.05, 0.075, 0.1]):
        indices = order[32 * step : 32 * step + 32]
        images, labels, plan = draw_batch(state, sets.train, indices, config, step=step)
        soft = F.one_hot(labels, 10).float()
        features = model.stem(images)
        if plan:
            exchanged += 1
            permutation = plan[0].permutation
            features = exchange_moments(features, permutation)
            soft = 0.8 * soft + 0.2 * soft[permutation]
        features = model.stage3(model.stage2(model.stage1(features)))
        loss = -(soft * F.log_softmax(model.fc(features.mean((2, 3))), 1)).sum(1).mean()
        loss_sum += loss.item() * len(indices)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    assert 0 < exchanged < 4, "the seed shows both kinds of step"
    rates, (mean_loss, _) = train(config, sets, state)
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert mean_loss == pytest.approx(loss_sum / 100, rel=1e-4)
    for ours, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


FAMILIES = {
    "resnet": {"model": {"name": "resnet8"}},
    "pyramidnet": {"model": {"name": "pyramidnet11", "options": {"alpha": 12}}},
    "shakedrop": {"model": {"name": "pyramidnet11", "options": {"alpha": 12, "shake_drop": 0.9}}},
    "stochastic depth": {"model": {"name": "pyramidnet11", "options": {"alpha": 12, "stochastic_depth": 0.9}}},
    "wide resnet": {"model": {"name": "wrn10", "options": {"width": 1, "dropout": 0.3}}},
    "densenet": {"model": {"name": "densenet_bc10", "options": {"memory_saving": True}}},
    "resnext": {"model": {"name": "resnext11", "options": {"cardinality": 2, "base_width": 4}}},
    "vgg": {"model": {"name": "vgg11"}},
    "preactivation resnet": {"model": {"name": "preact_resnet18"}},
    "timm": {"model": {"name": "timm:resnet10t"}, "augmentation": {"moex": {"layer": "layer1"}}},
    "vision transformer": {
        "model": {
            "name": "timm:vit_tiny_patch16_224",
            "options": {"img_size": 8, "patch_size": 4, "depth": 2, "drop_rate": 0.1},
        },
        "augmentation": {"moex": {"channel_dim": -1}},
    },
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_and_resumes_within_an_epoch(family):
    """A few real steps; stopped after two and continued with fresh objects, they end in the same bits."""
    values = dict(FAMILIES[family])
    layer = values.get("augmentation", {}).get("moex", {})
    # Tokens have no rows and columns to cut.
    inside = [] if family == "vision transformer" else ["feature_cutmix", "dropblock"]
    values["augmentation"] = {
        "steps": ["cutout", "cutmix", "moex", "manifold_mixup", *inside, "label_smoothing"],
        "shared_permutation": True,
        "manifold_mixup": {"points": ["images", "stage1"]},
        "feature_cutmix": {"probability": 1.0, "points": ["stage1"]},
        "dropblock": {"rate": 0.1, "block_size": 3, "points": ["stage2"]},
        "cutout": {"size": 2},
        "moex": layer | {"probability": 1.0},
    }
    values["optimizer"] = {"lr": 0.02}
    config, sets, state = build(values)
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    _, (loss, _) = train(config, sets, state)
    assert 0 < loss < 10
    moved = [not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2

    _, _, first = build(values)
    steps = train_epoch(first, sets.train, config, classes=sets.classes)
    next(steps), next(steps)
    _, _, second = build(values)
    second.model.load_state_dict(first.model.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.totals.copy_(first.totals)
    second.step = first.step
    torch.rand(3)  # Whatever else was drawn must not matter.
    _, (resumed_loss, _) = train(config, sets, second)
    assert resumed_loss == loss
    for ours, theirs in zip(state.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_follows_float32(precision, channels_last):
    values = {"augmentation": {"steps": ["moex"]}, "epochs": 2, "optimizer": {"lr": 0.02}}
    _, (expected, _) = train(*build(values))
    config, sets, state = build(values | {"runtime": {"precision": precision, "channels_last": channels_last}})
    _, (found, _) = train(config, sets, state)
    assert found == pytest.approx(expected, rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in state.model.parameters())
    assert state.scaler.is_enabled() == (precision == "fp16")
    logits, labels = evaluate(state.model, sets.test, precision=precision)
    assert logits.dtype == torch.float32
    assert logits.shape == (60, 10)
    assert torch.equal(labels, sets.test.batch(torch.arange(60))[1])


def test_the_first_bad_step_is_remembered():
    config, sets, state = build({})

    def network(images):
        logits = state.model(images)
        return logits * float("nan") if state.step >= 2 else logits

    state.network = network
    train(config, sets, state)
    assert int(state.first_bad_step) == 2


def test_each_sample_is_seen_once_an_epoch_and_in_another_order_the_next():
    config, sets, state = build({"augmentation": {"steps": []}})
    seen = []
    source = sets.train
    batch = source.batch
    source.batch = lambda indices, **options: seen.append(indices) or batch(indices, **options)
    train(config, sets, state)
    first = torch.cat(seen)
    assert sorted(first.tolist()) == list(range(100))
    seen.clear()
    state.epoch, state.step = 1, 0
    train(config, sets, state)
    assert sorted(torch.cat(seen).tolist()) == list(range(100))
    assert not torch.equal(torch.cat(seen), first)


def test_evaluation_leaves_the_network_alone():
    _, sets, state = build({})
    before = {key: value.clone() for key, value in state.model.state_dict().items()}
    first, _ = evaluate(state.model, sets.test, precision="fp32")
    second, _ = evaluate(state.model, sets.test, precision="fp32")
    assert torch.equal(first, second)
    for key, value in state.model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("use", ["all", "only"])
def test_the_average_of_the_weights_follows_a_plain_loop(use):
    """And does not change the training; the hooks of the mixing list stay with the model that is trained."""
    values = {
        "augmentation": {"steps": ["moex", "dropblock"], "dropblock": {"points": ["stage2"], "block_size": 3}},
        "moments": {"use": use},
    }
    config, sets, state = build(values | {"optimizer": {"ema_decay": 0.8}})
    expected = {name: value.clone() for name, value in state.model.state_dict().items()}
    for _ in train_epoch(state, sets.train, config, classes=sets.classes):
        for name, value in state.model.state_dict().items():
            expected[name] = 0.8 * expected[name] + 0.2 * value if value.is_floating_point() else value.clone()
    for name, value in state.evaluated.state_dict().items():
        torch.testing.assert_close(value, expected[name])

    plain_config, plain_sets, plain = build(values)
    train(plain_config, plain_sets, plain)
    assert plain.evaluated is plain.model
    for ours, theirs in zip(state.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)

    # What a network of the average's weights, built afresh, answers.
    plain.model.load_state_dict(state.evaluated.state_dict())
    (ours, _), (theirs, _) = (
        evaluate(network, sets.test, precision="fp32") for network in (state.evaluated, plain.model)
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("steps", "graphs"),
    [
        pytest.param(["moex"], 2, id="moex"),  # With and without the exchange.
        pytest.param(["cutmix", "moex"], 2, id="cutmix and moex"),
        pytest.param(["feature_cutmix"], 2, id="feature cutmix"),
        pytest.param(["dropblock"], 1, id="dropblock"),
    ],
)
def test_nothing_is_compiled_for_what_a_step_draws(steps, graphs, monkeypatch):
    """Other permutations, weights, boxes and rates, in the same graphs."""
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    augmentation = {"steps": steps, "feature_cutmix": {"points": ["stage1"]}, "dropblock": {"points": ["stage2"]}}
    torch.compiler.reset()
    config, sets, state = build(
        {"augmentation": augmentation, "limit_train": 96, "epochs": 3, "runtime": {"compile": True}}
    )
    for epoch in range(config.epochs):
        state.epoch, state.step = epoch, 0
        train(config, sets, state)
    assert len(compiled) == graphs


@pytest.mark.long
def test_compiled_follows_eager():
    values = {"augmentation": {"steps": ["moex"]}, "epochs": 2, "optimizer": {"lr": 0.02}}
    _, (expected, _) = train(*build(values))
    config, sets, state = build(values | {"runtime": {"compile": True}})
    assert state.network is not state.model
    _, (found, _) = train(config, sets, state)
    assert found == pytest.approx(expected, rel=1e-3)
    assert list(state.model.state_dict()) == list(build(values)[2].model.state_dict())
