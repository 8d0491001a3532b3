"""The optimizer, and the learning rate as a function of where a run stands."""

import math

import torch
from torch import nn, optim

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
