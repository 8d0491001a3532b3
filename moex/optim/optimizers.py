"""The optimizers: each is its settings, their checks, and what it makes of a network's parameters.

A new one is a class here, its name in `OPTIMIZERS`, a file in configs/optimizer/ and a row of the tests.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import nn, optim

from moex.settings import require


@dataclass
class Optimizer(ABC):
    """What all of them have.

    With `ema_decay`, an exponential moving average of the weights is evaluated in their place.
    """

    name: str = ""
    lr: float = 0.1
    weight_decay: float = 1e-4
    ema_decay: float | None = None

    def check(self, key: str) -> None:
        """Looks for values out of their range.

        Args:
            key: where these settings lie in the configuration.

        Raises:
            ValueError: the first one, with its key, its value and what would be right.
        """
        require(0 < self.lr < float("inf"), f"{key}.lr", self.lr, "more than 0")
        require(self.weight_decay >= 0, f"{key}.weight_decay", self.weight_decay, "0 or more")
        decay = self.ema_decay
        require(decay is None or 0 < decay < 1, f"{key}.ema_decay", decay, "between 0 and 1, or null")

    @abstractmethod
    def create(self, model: nn.Module) -> optim.Optimizer:
        """The optimizer of a network's parameters, which one fused kernel updates."""


@dataclass
class SGD(Optimizer):
    """SGD with momentum; weight decay acts on every parameter, as published."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False

    def check(self, key: str) -> None:
        """Checks the momentum as well."""
        super().check(key)
        require(0 <= self.momentum < 1, f"{key}.momentum", self.momentum, "in [0, 1)")
        require(not self.nesterov or self.momentum > 0, f"{key}.nesterov", True, f"false when {key}.momentum is 0")

    def create(self, model: nn.Module) -> optim.SGD:
        """Torch's SGD over every parameter of the network."""
        optimizer = optim.SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=True,
        )
        if self.momentum > 0:
            # Else the kernel makes them at the first step, and leaves them as they were in memory where fp16's
            # gradients overflow in it.
            for parameter in model.parameters():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer


@dataclass
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015); weight decay, of which there is none by default, is a part of the gradient."""

    name: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8

    def check(self, key: str) -> None:
        """Checks what Adam has besides."""
        super().check(key)
        fine = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(fine, f"{key}.betas", self.betas, "two numbers in [0, 1)")
        require(self.eps > 0, f"{key}.eps", self.eps, "more than 0")

    def create(self, model: nn.Module) -> optim.Adam:
        """Torch's Adam over every parameter of the network."""
        return optim.Adam(
            model.parameters(),
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )


@dataclass
class AdamW(Adam):
    """AdamW (Loshchilov and Hutter 2019): Adam, with weight decay apart from the gradient.

    `decayed` says which parameters decay: all, or the matrices alone, which are those of two dimensions or more: not
    the biases, nor the scales of normalisations.
    """

    name: str = "adamw"
    weight_decay: float = 1e-2
    decayed: str = "all"

    def check(self, key: str) -> None:
        """Checks which parameters decay as well."""
        super().check(key)
        require(self.decayed in ("all", "matrices"), f"{key}.decayed", self.decayed, "one of all, matrices")

    def create(self, model: nn.Module) -> optim.AdamW:
        """Torch's AdamW, with a group of parameters that decay and, if there are any, one of those that do not."""
        groups: list[list[nn.Parameter]] = [[], []]
        for parameter in model.parameters():
            groups[self.decayed == "matrices" and parameter.ndim < 2].append(parameter)
        return optim.AdamW(
            [
                {"params": parameters, "weight_decay": weight_decay}
                for parameters, weight_decay in zip(groups, (self.weight_decay, 0.0), strict=True)
                if parameters
            ],
            lr=self.lr,
            betas=(self.betas[0], self.betas[1]),
            eps=self.eps,
            fused=True,
        )


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, Adam, AdamW)}
