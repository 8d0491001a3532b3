"""The loop against a loop written out plainly, in every precision, for every family of networks."""

import functools

import numpy as np
import pytest
import torch
from families import FAMILIES, double, everything_for
from torch.nn import functional as F

from moex.config import parse
from moex.data import Request
from moex.engine import evaluate, predict, train_epoch
from moex.metrics import score, summarise, summarise_scores
from moex.normalisation import exchange_moments
from moex.run.build import build_run, load_sources

CPU = torch.device("cpu")


def build(values):
    config = parse({"limit_train": 100, "limit_test": 60, "batch_size": 32} | values)
    return build_run(config, load_sources(config, CPU), CPU)


def train(run):
    rates = list(train_epoch(run.state, run.training))
    return rates, (run.state.totals / len(run.training.source)).tolist()


def test_an_epoch_is_a_plain_loop():
    """Against autograd, torch's unfused SGD and an exchange written into the forward pass."""
    values = {
        "seed": 3,
        # A weight without rounding.
        "augmentation": {"steps": ["moex"], "moex": {"probability": 0.5, "weight": 0.75}},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
        "optimizer": {"nesterov": True},
        "epochs": 4,
    }
    run, reference = double(build(values)), double(build(values)).state
    model = reference.model
    optimizer = torch.optim.SGD(model.parameters(), lr=1, momentum=0.9, nesterov=True, weight_decay=1e-4)
    order = torch.from_numpy(np.random.default_rng([3, 1, 0, 0, 0]).permutation(100))  # Purpose.ORDER is 1
    exchanged, loss_sum = 0, 0.0
    for step, lr in enumerate([0.025, 0.05, 0.075, 0.1]):
        indices = order[32 * step : 32 * step + 32]
        crops = np.random.default_rng([3, 2, 0, step, 0])  # Purpose.CROPS is 2
        ((images, labels),) = run.training.source.batches([Request(indices, torch.arange(len(indices)), crops)])
        decide, own = np.random.default_rng([3, 3, 0, step, 0]), np.random.default_rng([3, 4, 0, step, 0])
        plan = run.training.mixing.draw(images, shared=decide, own=own)  # Purpose.DECISIONS is 3, PERMUTATIONS is 4
        soft = F.one_hot(labels, 10).double()
        features = model.stem(images)
        if plan:
            exchanged += 1
            permutation = plan[0].arguments[0]
            features = exchange_moments(features, permutation)
            soft = 0.75 * soft + 0.25 * soft[permutation]
        features = model.stage3(model.stage2(model.stage1(features)))
        loss = -(soft * F.log_softmax(model.fc(features.mean((2, 3))), 1)).sum(1).mean()
        loss_sum += loss.item() * len(indices)
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    assert 0 < exchanged < 4, "the seed shows both kinds of step"
    rates, (mean_loss, _) = train(run)
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert mean_loss == pytest.approx(loss_sum / 100, rel=1e-12)
    for ours, theirs in zip(run.state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_and_resumes_within_an_epoch(family):
    """A few real steps; stopped after two and continued with fresh objects, they end in the same bits."""
    values = everything_for(family)
    run = build(values)
    before = [parameter.detach().clone() for parameter in run.state.model.parameters()]
    _, (loss, _) = train(run)
    assert 0 < loss < 10
    moved = [not torch.equal(old, new) for old, new in zip(before, run.state.model.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2

    first, second = build(values), build(values)
    steps = train_epoch(first.state, first.training)
    next(steps), next(steps)
    second.state.load_state_dict(first.state.state_dict())
    torch.rand(3)  # Whatever else was drawn must not matter.
    _, (resumed_loss, _) = train(second)
    assert resumed_loss == loss
    for ours, theirs in zip(
        run.state.model.state_dict().values(), second.state.model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_half_precision_follows_float32(precision, channels_last):
    """Over four steps from the same weights; a rounding to bf16, 0.4 %, is an order of magnitude below the bound."""
    values = {"augmentation": {"steps": ["moex"]}, "epochs": 2, "optimizer": {"lr": 0.02}}
    _, (expected, _) = train(build(values))
    run = build(values | {"runtime": {"precision": precision, "channels_last": channels_last}})
    _, (found, _) = train(run)
    assert found == pytest.approx(expected, rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in run.state.model.parameters())
    assert run.state.scaler.is_enabled() == (precision == "fp16")
    logits, _ = predict(run.state.model, run.test, batch_size=25, precision=precision)
    assert logits.dtype == torch.float32


def test_the_first_bad_step_is_remembered():
    run = build({})
    state = run.state

    def network(images):
        logits = state.model(images)
        return logits * float("nan") if state.step >= 2 else logits

    state.network = network
    train(run)
    assert int(state.first_bad_step) == 2


def test_each_sample_is_seen_once_an_epoch_and_in_another_order_the_next():
    run = build({"augmentation": {"steps": []}})
    seen, batches = [], run.training.source.batches

    def watched(requests):
        yield from batches(request for request in requests if seen.append(request) is None)

    run.training.source.batches = watched
    orders = []
    for epoch in (0, 1):
        run.state.epoch, run.state.step = epoch, 0
        train(run)
        orders.append(torch.cat([request.indices[request.share] for request in seen]))
        assert sorted(orders[-1].tolist()) == list(range(100))
        seen.clear()
    assert not torch.equal(*orders)


def test_a_source_may_look_ahead_to_the_end_of_the_epoch():
    """All requests are there before the first batch is trained on, and the epoch ends in the same bits."""
    runs = [build({"augmentation": {"steps": ["moex"]}}) for _ in range(2)]
    ahead = runs[1].training.source
    batches = ahead.batches
    ahead.batches = lambda requests: (batch for batch in [*batches([*requests])])
    first, second = (train(run) for run in runs)
    assert first == second


def test_the_iterator_of_a_source_is_closed_when_the_loop_stops():
    run = build({})
    closed, batches = [], run.training.source.batches

    def watched(requests):
        try:
            yield from batches(requests)
        finally:
            closed.append(True)

    run.training.source.batches = watched
    steps = train_epoch(run.state, run.training)
    next(steps)
    steps.close()
    assert closed == [True]


def test_evaluation_leaves_the_network_alone_and_scores_what_is_predicted():
    """A batch at a time, in the order of the set, and to the last bit what the logits together give."""
    run = build({})
    before = {key: value.clone() for key, value in run.state.model.state_dict().items()}
    passes = {"batch_size": 25, "precision": "fp32"}
    scores = evaluate(run.state.model, run.test, **passes)
    logits, labels = predict(run.state.model, run.test, **passes)
    assert logits.shape == (60, 10)
    everyone = torch.arange(60)
    assert torch.equal(labels, next(run.test.batches([Request(everyone, everyone)]))[1])
    for ours, theirs in zip(scores, score(logits, labels), strict=True):
        assert torch.equal(ours, theirs)
    assert summarise_scores(scores) == summarise(logits, labels)
    for key, value in run.state.model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("use", ["all", "only"])
def test_the_average_of_the_weights_follows_a_plain_loop(use):
    """And does not change the training; the hooks of the mixing list stay with the model that is trained."""
    values = {
        "augmentation": {"steps": ["moex", "dropblock"], "dropblock": {"points": ["stage2"], "block_size": 3}},
        "moments": {"use": use},
    }
    run, plain = double(build(values | {"optimizer": {"ema_decay": 0.75}})), double(build(values))
    state = run.state
    state.average.model.double()
    expected = {name: value.clone() for name, value in state.model.state_dict().items()}
    for _ in train_epoch(state, run.training):
        for name, value in state.model.state_dict().items():
            expected[name] = 0.75 * expected[name] + 0.25 * value if value.is_floating_point() else value.clone()
    for name, value in state.evaluated.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-14)

    train(plain)
    assert plain.state.evaluated is plain.state.model
    for ours, theirs in zip(state.model.state_dict().values(), plain.state.model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)

    # What a network of the average's weights, built afresh, answers.
    plain.state.model.load_state_dict(state.evaluated.state_dict())
    images = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    ours, theirs = (network.eval()(images) for network in (state.evaluated, plain.state.model))
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
    """Other permutations, weights, boxes and rates, in the same graphs; the last, smaller batch in none."""
    compiled = []

    def count(graph, inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))
    augmentation = {"steps": steps, "feature_cutmix": {"points": ["stage1"]}, "dropblock": {"points": ["stage2"]}}
    torch.compiler.reset()
    run = build({"augmentation": augmentation, "limit_train": 100, "epochs": 3, "runtime": {"compile": True}})
    for epoch in range(3):
        run.state.epoch, run.state.step = epoch, 0
        train(run)
    assert len(compiled) == graphs


@pytest.mark.long
def test_compiled_follows_eager():
    values = {"augmentation": {"steps": ["moex"]}, "epochs": 2, "optimizer": {"lr": 0.02}}
    eager, compiled = double(build(values)), double(build(values | {"runtime": {"compile": True}}))
    assert compiled.state.network is not compiled.state.model
    (_, (expected, _)), (_, (found, _)) = train(eager), train(compiled)
    assert found == pytest.approx(expected, rel=1e-10)
    assert list(compiled.state.model.state_dict()) == list(eager.state.model.state_dict())
