"""Optimizers against loops and torch's own, schedules against torch's own schedulers, the average against a loop."""

import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from moex.optim import OPTIMIZERS, SCHEDULES, SGD, Adam, AdamW, Cosine, Plateau, Step, WeightAverage

STEPS = 10


def rates(schedule, *, epochs, lr=0.25, history=()):
    """The rate of every step, by what was seen before its epoch."""
    return [
        schedule.learning_rate(
            lr, epoch=epoch, step=step, steps_per_epoch=STEPS, epochs=epochs, history=history[:epoch]
        )
        for epoch in range(epochs)
        for step in range(STEPS)
    ]


def torch_rates(create, *, steps, arguments=None):
    """The rates of one of torch's schedulers, before each of its steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    scheduler = create(optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([] if arguments is None else [arguments[step]]))
    return found


RECIPES = [
    pytest.param(300, [0.5, 0.75], [150, 225], 0.1, id="pyramidnet"),
    pytest.param(164, [0.495, 0.745], [81, 122], 0.1, id="resnet110"),
    pytest.param(200, [0.3, 0.6, 0.8], [60, 120, 160], 0.2, id="wrn"),
]


@pytest.mark.parametrize(("epochs", "shares", "milestones", "factor"), RECIPES)
def test_the_published_drops(epochs, shares, milestones, factor):
    found = rates(Step(milestones=milestones, factor=factor), epochs=epochs)
    expected = torch_rates(lambda sgd: lr_scheduler.MultiStepLR(sgd, milestones, gamma=factor), steps=epochs)
    assert found[::STEPS] == pytest.approx(expected, rel=1e-13)
    # To the bit what they were when milestones were shares of the epochs: committed results were trained so.
    assert found == [
        0.25 * factor ** sum(epoch >= round(share * epochs) for share in shares)
        for epoch in range(epochs)
        for _ in range(STEPS)
    ]


def test_fewer_epochs_are_the_beginning_of_the_long_run():
    schedule = Step(milestones=[3, 6])
    assert rates(schedule, epochs=4) == rates(schedule, epochs=8)[: 4 * STEPS]


@pytest.mark.parametrize("schedule", [Step, Cosine, Plateau])
def test_warm_up_rises_by_the_step(schedule):
    found = rates(schedule(warmup_epochs=2), epochs=3, history=[{"test_loss": 1.0}] * 3)
    assert found[: 2 * STEPS] == pytest.approx([0.25 * (step + 1) / (2 * STEPS) for step in range(2 * STEPS)])
    assert found[2 * STEPS] == 0.25


def test_cosine_after_warm_up():
    found = rates(Cosine(warmup_epochs=2, final_lr=0.01), epochs=12)
    expected = torch_rates(
        lambda sgd: lr_scheduler.CosineAnnealingLR(sgd, T_max=10 * STEPS, eta_min=0.01), steps=10 * STEPS
    )
    # torch goes from step to step, and its rounding adds up.
    assert found[2 * STEPS :] == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("losses", [[3, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1], [1] * 12, [*range(12, 0, -1)]])
@pytest.mark.parametrize(("patience", "threshold"), [(0, 0), (2, 0), (2, 1e-4), (1, 0.4)])
def test_plateau(losses, patience, threshold):
    schedule = Plateau(factor=0.5, patience=patience, threshold=threshold)
    losses = [loss + 1e-5 * math.sin(epoch) for epoch, loss in enumerate(losses)]
    expected = torch_rates(
        lambda sgd: lr_scheduler.ReduceLROnPlateau(sgd, factor=0.5, patience=patience, threshold=threshold, eps=0),
        steps=len(losses),
        arguments=losses,
    )
    assert rates(schedule, epochs=12, history=[{"test_loss": loss} for loss in losses])[::STEPS] == expected
    # A validation set decides where there is one.
    history = [{"test_loss": 1 / (epoch + 1), "validation_loss": loss} for epoch, loss in enumerate(losses)]
    assert rates(schedule, epochs=12, history=history)[::STEPS] == expected


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()


def gradients(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(4, 3, dtype=torch.float64)).square().sum().backward()


@pytest.mark.parametrize("nesterov", [False, True])
def test_every_parameter_decays_and_moves_by_the_textbook(nesterov):
    model = network()
    optimizer = SGD(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01).create(model)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for _ in range(3):
        gradients(model, optimizer)
        for index, parameter in enumerate(model.parameters()):
            gradient = parameter.grad + 0.01 * weights[index]
            velocities[index] = 0.9 * velocities[index] + gradient
            update = gradient + 0.9 * velocities[index] if nesterov else velocities[index]
            weights[index] = weights[index] - 0.1 * update
        optimizer.step()
        for weight, parameter in zip(weights, model.parameters(), strict=True):
            torch.testing.assert_close(parameter.detach(), weight, rtol=1e-12, atol=1e-12)


def test_adam_moves_by_the_textbook_and_decays_by_the_gradient():
    model = network()
    optimizer = Adam(lr=0.1, betas=[0.8, 0.9], eps=1e-3, weight_decay=0.5).create(model)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    firsts, seconds = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    for step in range(1, 4):
        gradients(model, optimizer)
        for index, parameter in enumerate(model.parameters()):
            gradient = parameter.grad + 0.5 * weights[index]
            firsts[index] = 0.8 * firsts[index] + 0.2 * gradient
            seconds[index] = 0.9 * seconds[index] + 0.1 * gradient**2
            first, second = firsts[index] / (1 - 0.8**step), seconds[index] / (1 - 0.9**step)
            weights[index] = weights[index] - 0.1 * first / (second.sqrt() + 1e-3)
        optimizer.step()
        for weight, parameter in zip(weights, model.parameters(), strict=True):
            torch.testing.assert_close(parameter.detach(), weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("decayed", ["all", "matrices"])
def test_adamw_moves_by_the_textbook_and_decays_what_it_is_told_to(decayed):
    model = network()
    optimizer = AdamW(lr=0.1, betas=[0.8, 0.9], eps=1e-3, weight_decay=0.5, decayed=decayed).create(model)
    # Groups may reorder them.
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    firsts, seconds = ({name: torch.zeros_like(weight) for name, weight in weights.items()} for _ in range(2))
    for step in range(1, 4):
        gradients(model, optimizer)
        for name, parameter in model.named_parameters():
            firsts[name] = 0.8 * firsts[name] + 0.2 * parameter.grad
            seconds[name] = 0.9 * seconds[name] + 0.1 * parameter.grad**2
            first, second = firsts[name] / (1 - 0.8**step), seconds[name] / (1 - 0.9**step)
            decay = 0.5 if decayed == "all" or name == "0.weight" else 0
            weights[name] = weights[name] - 0.1 * decay * weights[name] - 0.1 * first / (second.sqrt() + 1e-3)
        optimizer.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_first_step_that_overflows_leaves_no_trace(name):
    """As fp16's first steps do until the scale of the gradients has come down."""
    model, reference = network(), network()
    settings = OPTIMIZERS[name]()
    optimizer = settings.create(model)
    plain = settings.create(reference)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for step in range(3):
        gradients(reference, plain)
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            ours.grad = scaler.scale(theirs.grad)
        if step == 0:
            next(model.parameters()).grad[0, 0] = float("inf")
        else:
            plain.step()
        scaler.step(optimizer)
        # Powers of two: the gradients are the same bits.
        scaler.update()
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("registry", [OPTIMIZERS, SCHEDULES])
def test_each_is_found_by_the_name_it_has(registry):
    for name, settings in registry.items():
        assert settings().name == name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_average_is_a_plain_loop(name):
    model = network()
    average = WeightAverage(model, 0.7)
    expected = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = OPTIMIZERS[name]().create(model)
    for _ in range(4):
        gradients(model, optimizer)
        optimizer.step()
        average.update(model)
        for key, value in model.state_dict().items():
            expected[key] = 0.7 * expected[key] + 0.3 * value if value.is_floating_point() else value
    found = average.model.state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-12, atol=1e-12)
    assert int(found["1.num_batches_tracked"]) == 4
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
