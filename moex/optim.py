"""The optimizer, the average of the weights, and the learning rate as a function of where a run stands."""

import copy
import math

import torch
from torch import nn, optim
from torch.optim.swa_utils import get_ema_multi_avg_fn

from moex.config import OptimizerConfig, ScheduleConfig


def create_optimizer(model: nn.Module, config: OptimizerConfig) -> optim.SGD:
    """SGD over every parameter of the model, updated by one fused kernel."""
    optimizer = optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=True,
    )
    if config.momentum > 0:
        # Else the kernel makes them at the first step, and leaves them as they were in memory where fp16's
        # gradients overflow in it.
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


class WeightAverage:
    """An exponential moving average of a network's weights and running statistics, in a network of its own.

    After each update, average ← decay · average + (1 - decay) · weights; it begins as the first weights. Where fp16
    skips an optimizer step, the average moves towards the unchanged weights all the same: to know of it, the host
    would have to wait for the device.

    Args:
        model: copied, with the hooks that it has by now.
        decay: in (0, 1).

    Attributes:
        model: the network that has the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        # Not torch's AveragedModel, which copies a counter to the device, and so waits for it, in every update.
        self._move = get_ema_multi_avg_fn(decay)

    def update(self, model: nn.Module) -> None:
        """Moves the average towards what the model's weights and running statistics are now."""
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        self._move(averages, values, None)
        for count, now in pairs:
            if not count.is_floating_point():
                count.copy_(now)


def learning_rate(
    schedule: ScheduleConfig, lr: float, *, epoch: int, step: int, steps_per_epoch: int, epochs: int
) -> float:
    """The learning rate of one training step; a run resumed anywhere gets the same.

    Warm-up rises linearly, step by step, to the base rate. `step` multiplies by `factor` from the epoch on that
    is nearest to each milestone, a fraction of all epochs, but never in the first epoch. `cosine` falls, step by
    step, from the base rate after the warm-up to `final_lr` at the end.

    Args:
        schedule: which law.
        lr: the base learning rate.
        epoch: epochs done, from 0.
        step: steps done in this epoch, from 0.
        steps_per_epoch: steps of a whole epoch.
        epochs: epochs of the whole run.
    """
    position = epoch + step / steps_per_epoch
    if position < schedule.warmup_epochs:
        return lr * (position + 1 / steps_per_epoch) / schedule.warmup_epochs
    if schedule.name == "cosine":
        progress = (position - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs)
        return schedule.final_lr + (lr - schedule.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    drops = sum(epoch >= max(1, round(milestone * epochs)) for milestone in schedule.milestones)
    return lr * schedule.factor**drops
