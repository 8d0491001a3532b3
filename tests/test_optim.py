"""The schedule, against torch's own schedulers, and the optimizer against its textbook update."""

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from moex.config import OptimizerConfig, ScheduleConfig
from moex.optim import WeightAverage, create_optimizer, learning_rate

STEPS = 10


def rates(schedule, *, epochs, lr=0.25):
    return [
        learning_rate(schedule, lr, epoch=epoch, step=step, steps_per_epoch=STEPS, epochs=epochs)
        for epoch in range(epochs)
        for step in range(STEPS)
    ]


@pytest.mark.parametrize(
    ("epochs", "fractions", "drops", "factor"),
    [
        pytest.param(300, [0.5, 0.75], [150, 225], 0.1, id="pyramidnet"),
        pytest.param(164, [0.495, 0.745], [81, 122], 0.1, id="resnet110"),
        pytest.param(200, [0.3, 0.6, 0.8], [60, 120, 160], 0.2, id="wrn"),
    ],
)
def test_the_published_drops(epochs, fractions, drops, factor):
    schedule = ScheduleConfig(name="step", milestones=fractions, factor=factor)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    reference = lr_scheduler.MultiStepLR(optimizer, drops, gamma=factor)
    expected = []
    for _ in range(epochs):
        expected += [optimizer.param_groups[0]["lr"]] * STEPS
        optimizer.step()
        reference.step()
    assert rates(schedule, epochs=epochs) == pytest.approx(expected)


def test_cosine_after_warm_up():
    schedule = ScheduleConfig(name="cosine", warmup_epochs=2, final_lr=0.01)
    found = rates(schedule, epochs=12)
    assert found[: 2 * STEPS] == pytest.approx([0.25 * (step + 1) / (2 * STEPS) for step in range(2 * STEPS)])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    reference = lr_scheduler.CosineAnnealingLR(optimizer, T_max=10 * STEPS, eta_min=0.01)
    expected = []
    for _ in range(10 * STEPS):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert found[2 * STEPS :] == pytest.approx(expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_every_parameter_decays_and_moves_by_the_textbook(nesterov):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    config = OptimizerConfig(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    optimizer = create_optimizer(model, config)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    velocities = [torch.zeros_like(weight) for weight in weights]
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, dtype=torch.float64)).square().sum().backward()
        for index, parameter in enumerate(model.parameters()):
            gradient = parameter.grad + 0.01 * weights[index]
            velocities[index] = 0.9 * velocities[index] + gradient
            update = gradient + 0.9 * velocities[index] if nesterov else velocities[index]
            weights[index] = weights[index] - 0.1 * update
        optimizer.step()
        for weight, parameter in zip(weights, model.parameters(), strict=True):
            torch.testing.assert_close(parameter.detach(), weight)


def test_a_drop_never_comes_before_the_second_epoch():
    assert rates(ScheduleConfig(milestones=[0.4, 0.5]), epochs=1, lr=1)[-1] == 1


def test_a_first_step_that_overflows_leaves_no_trace():
    """As fp16's first steps do until the scale of the gradients has come down."""
    torch.manual_seed(0)
    model, reference = nn.Linear(3, 2), nn.Linear(3, 2)
    reference.load_state_dict(model.state_dict())
    optimizer = create_optimizer(model, OptimizerConfig(momentum=0.9))
    plain = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    inputs = torch.randn(5, 3)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(inputs).square().mean()).backward()
        if step == 0:
            model.weight.grad[0, 0] = float("inf")
        scaler.step(optimizer)
        scaler.update()
        if step == 0:
            assert all(state["momentum_buffer"].eq(0).all() for state in optimizer.state.values())
            assert len(optimizer.state) == 2
        else:
            plain.zero_grad()
            reference(inputs).square().mean().backward()
            plain.step()
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_the_average_is_a_plain_loop():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    average = WeightAverage(model, 0.7)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = create_optimizer(model, OptimizerConfig())
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        average.update(model)
        for name, value in model.state_dict().items():
            expected[name] = 0.7 * expected[name] + 0.3 * value if value.is_floating_point() else value
    found = average.model.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert int(found["1.num_batches_tracked"]) == 4
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
