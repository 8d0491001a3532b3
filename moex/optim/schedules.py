"""The learning rate as a function of where a run stands and of what it saw: each schedule is one.

A function alone: a run resumed anywhere gets the same, and checkpoints hold nothing of it. A new one is a class
here, its name in `SCHEDULES`, a file in configs/schedule/ and a row of the tests.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from moex.settings import require


@dataclass
class Schedule(ABC):
    """What all of them have: a warm-up of `warmup_epochs`, in which the rate rises linearly, step by step."""

    name: str = ""
    warmup_epochs: float = 0.0

    def check(self, key: str) -> None:
        """Looks for values out of their range.

        Args:
            key: where these settings lie in the configuration.

        Raises:
            ValueError: the first one, with its key, its value and what would be right.
        """
        require(self.warmup_epochs >= 0, f"{key}.warmup_epochs", self.warmup_epochs, "0 or more")

    def check_run(self, key: str, *, lr: float, epochs: int) -> None:
        """Looks for values that the run does not allow.

        Args:
            key: where these settings lie in the configuration.
            lr: the base learning rate.
            epochs: of the whole run.

        Raises:
            ValueError: the first one, with its key, its value and what would be right.
        """
        warmup = self.warmup_epochs
        require(warmup <= epochs, f"{key}.warmup_epochs", warmup, f"from 0 to epochs ({epochs})")

    def learning_rate(
        self,
        lr: float,
        *,
        epoch: int,
        step: int,
        steps_per_epoch: int,
        epochs: int,
        history: Sequence[Mapping[str, float]],
    ) -> float:
        """The learning rate of one training step.

        Args:
            lr: the base learning rate.
            epoch: epochs done, from 0.
            step: steps done in this epoch, from 0.
            steps_per_epoch: steps of a whole epoch.
            epochs: epochs of the whole run.
            history: a row of metrics for each epoch done.
        """
        position = epoch + step / steps_per_epoch
        if position < self.warmup_epochs:
            return lr * (position + 1 / steps_per_epoch) / self.warmup_epochs
        return self.after_warmup(lr, position=position, epochs=epochs, history=history)

    def scaled(self, factor: float) -> Self:
        """The same for a run of so many times the epochs; epochs are whole numbers, at least 1."""
        return replace(self, warmup_epochs=self.warmup_epochs * factor)

    @abstractmethod
    def after_warmup(
        self, lr: float, *, position: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """The learning rate at a position: epochs done, with the share of the current one."""


@dataclass
class Step(Schedule):
    """Multiplies by `factor` after each of the `milestones`, in epochs.

    Milestones are not shares of a run: with fewer epochs, a run is simply the beginning of the long one.
    """

    name: str = "step"
    milestones: list[int] = field(default_factory=lambda: [15, 22])
    factor: float = 0.1

    def check(self, key: str) -> None:
        """Checks the drops as well."""
        super().check(key)
        milestones = self.milestones
        require(
            milestones == sorted(set(milestones)) and all(milestone >= 1 for milestone in milestones),
            f"{key}.milestones",
            milestones,
            "increasing numbers of epochs, such as [150, 225]",
        )
        require(self.factor > 0, f"{key}.factor", self.factor, "more than 0")

    def scaled(self, factor: float) -> Self:
        """Moves the milestones as well."""
        milestones = sorted({_whole(factor * milestone) for milestone in self.milestones})
        return replace(super().scaled(factor), milestones=milestones)

    def after_warmup(
        self, lr: float, *, position: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Falls at the milestones alone."""
        return lr * self.factor ** sum(position >= milestone for milestone in self.milestones)


@dataclass
class Cosine(Schedule):
    """Falls along half a cosine, step by step, from the base rate after the warm-up to `final_lr` at the end."""

    name: str = "cosine"
    final_lr: float = 0.0

    def check_run(self, key: str, *, lr: float, epochs: int) -> None:
        """Checks the last rate as well."""
        super().check_run(key, lr=lr, epochs=epochs)
        require(0 <= self.final_lr <= lr, f"{key}.final_lr", self.final_lr, f"from 0 to optimizer.lr ({lr})")

    def after_warmup(
        self, lr: float, *, position: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Falls in every step."""
        progress = (position - self.warmup_epochs) / (epochs - self.warmup_epochs)
        return self.final_lr + (lr - self.final_lr) * (1 + math.cos(math.pi * progress)) / 2


@dataclass
class Plateau(Schedule):
    """Multiplies by `factor` whenever the loss has not improved for more than `patience` epochs.

    The loss is that of the validation set if there is one, else of the test set. It improves where it falls below the
    lowest so far by more than the share `threshold` of that. As torch's ReduceLROnPlateau, in the terms of which the
    published speech recipe is told.
    """

    name: str = "plateau"
    factor: float = 0.1
    patience: int = 5
    threshold: float = 1e-4

    def check(self, key: str) -> None:
        """Checks the drops and the patience as well."""
        super().check(key)
        require(0 < self.factor < 1, f"{key}.factor", self.factor, "between 0 and 1")
        require(self.patience >= 0, f"{key}.patience", self.patience, "0 or more")
        require(0 <= self.threshold < 1, f"{key}.threshold", self.threshold, "in [0, 1)")

    def scaled(self, factor: float) -> Self:
        """Changes the patience as well."""
        return replace(super().scaled(factor), patience=_whole(factor * self.patience))

    def after_warmup(
        self, lr: float, *, position: float, epochs: int, history: Sequence[Mapping[str, float]]
    ) -> float:
        """Counts, over the epochs so far, how often the patience was at its end."""
        drops, waited, lowest = 0, 0, math.inf
        for row in history:
            loss = row["validation_loss"] if "validation_loss" in row else row["test_loss"]
            if loss < lowest * (1 - self.threshold):
                lowest, waited = loss, 0
            else:
                waited += 1
            if waited > self.patience:
                drops, waited = drops + 1, 0
        return lr * self.factor**drops


def _whole(epochs: float) -> int:
    return max(1, round(epochs))


SCHEDULES: dict[str, type[Schedule]] = {kind.name: kind for kind in (Step, Cosine, Plateau)}
