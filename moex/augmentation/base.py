"""What every step of the mixing list is: settings, checks, draws, and what it does to features and to labels.

A step is a dataclass: its fields are its settings. Where it happens, `draw` makes all its random choices at once, as
operations; `apply` and `mix_labels` execute an operation, so that features and labels cannot disagree.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from moex.features import FeatureHook
from moex.settings import require

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# The point before the network, among those of its layers.
IMAGES = "images"


@dataclass(frozen=True)
class Draws:
    """What a step draws from, and what it may know of the batch.

    Attributes:
        batch_size: B.
        shapes: of the images or the features, `[B, ...]`, at each place where the step may happen.
        shared: decides, and draws points, and weights and boxes of whole batches: the same on every rank.
        own: draws permutations, and what each sample has of its own: each rank's own.
        partners: the permutation that all steps share; None where each draws one.
        progress: the share of the run that is done.
    """

    batch_size: int
    shapes: Mapping[str, Sequence[int]]
    shared: np.random.Generator
    own: np.random.Generator
    partners: Integers | None = None
    progress: float = 1.0

    def size(self, point: str) -> tuple[int, int]:
        """H and W in pixels, of the images or of the features after a layer.

        Raises:
            ValueError: they have no rows and columns.
        """
        shape = list(self.shapes[point])
        if len(shape) != 4:
            raise ValueError(f"a box needs {point!r} to be [B, C, H, W], not {shape}: choose other layers")
        return shape[2], shape[3]

    def permutation(self) -> Tensor:
        """Partners of the samples, int64 `[B]`."""
        return torch.from_numpy(self.own.permutation(self.batch_size) if self.partners is None else self.partners)


@dataclass(frozen=True)
class Operation:
    """A step as it happens once.

    Attributes:
        step: whose `apply` and `mix_labels` execute it.
        point: where: the images, or the layer after which it happens.
        arguments: what was drawn, as tensors.
    """

    step: "Step"
    point: str
    arguments: tuple[Tensor, ...]

    def to(self, device: torch.device) -> "Operation":
        """The same operation with its tensors on `device`; numbers stay on the CPU, where reading them is free."""
        moved = (value.to(device, non_blocking=True) if value.ndim else value for value in self.arguments)
        return dataclasses.replace(self, arguments=tuple(moved))

    def apply(self, images: Tensor) -> Tensor:
        """What it does to images, or to features."""
        return self.step.apply(images, *self.arguments)

    def mix_labels(self, labels: Tensor) -> Tensor:
        """What it does to soft labels `[B, K]`."""
        return self.step.mix_labels(labels, *self.arguments)


@dataclass(kw_only=True)
class Step:
    """A step that happens in every training step. Subclasses add fields, checks, draws, and what they do."""

    # How a configuration names it; a class that is given by its import path needs none.
    name: ClassVar[str] = ""

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""

    def places(self) -> Sequence[str]:
        """Where it may happen: `images`, or names of layers."""
        return [IMAGES]

    def draw(self, draws: Draws) -> list[Operation]:
        """Makes the random choices of one training step, on the CPU."""
        raise NotImplementedError

    def apply(self, images: Tensor, *arguments: Tensor) -> Tensor:
        """Images, or features, `[B, ...]` as they are after the step; never written in place."""
        return images

    def mix_labels(self, labels: Tensor, *arguments: Tensor) -> Tensor:
        """Soft labels `[B, K]` as they are after the step."""
        return labels

    def attach(self, model: nn.Module, point: str) -> FeatureHook:
        """The hook that executes the step after a layer."""
        return FeatureHook(model, point, self.apply)

    def inside(self, hook: FeatureHook, *arguments: Tensor) -> AbstractContextManager[None]:
        """The context in which that hook executes an operation with these arguments."""
        return hook.active(*arguments)

    def check_input(self, shape: Sequence[int], key: str) -> None:
        """Refuses inputs of a shape, `[C, H, W]` if they are images, that the step or its settings do not fit."""


@dataclass(kw_only=True)
class OccasionalStep(Step):
    """A step that happens, or does not, for the whole batch, with a probability."""

    probability: float = 1.0

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        require(0 <= self.probability <= 1, f"{key}.probability", self.probability, "in [0, 1]")


@dataclass(kw_only=True)
class PairStep(OccasionalStep):
    """A step that mixes each sample with a partner: Y becomes λY + (1-λ)Y[P].

    λ is fixed (`weight`), or drawn from Beta(`alpha`, `alpha`), for the batch or per sample. The first two arguments
    of its operations are P, int64 `[B]`, and λ, float32 `[1]` or `[B]`.
    """

    weight: float | None = None
    alpha: float | None = None
    per_sample: bool = False
    # Whether the draw of a sample differs from the others' even where λ is fixed.
    differs_by_sample: ClassVar[bool] = False

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        weight, alpha = self.weight, self.alpha
        one_of_two = "one of them a number and the other null"
        require((weight is None) != (alpha is None), f"{key}.weight and {key}.alpha", (weight, alpha), one_of_two)
        require(weight is None or 0 <= weight <= 1, f"{key}.weight", weight, "in [0, 1]")
        require(alpha is None or 0 < alpha < float("inf"), f"{key}.alpha", alpha, "more than 0")
        require(
            not self.per_sample or alpha is not None or self.differs_by_sample,
            f"{key}.per_sample",
            True,
            f"false with a fixed weight; set {key}.alpha to draw weights",
        )

    def mix_labels(self, labels: Tensor, *arguments: Tensor) -> Tensor:
        """Soft labels `[B, K]` as they are after the step."""
        permutation, weight = arguments[:2]
        return mix_labels(labels, permutation, weight)

    def draw(self, draws: Draws) -> list[Operation]:
        """Draws partners, one of the places, and what happens there."""
        permutation, places = draws.permutation(), self.places()
        # The same on every rank; a single place is no choice, so nothing is drawn.
        place = places[int(draws.shared.integers(len(places)))] if len(places) > 1 else places[0]
        return [self.draw_at(place, permutation, draws)]

    def draw_at(self, place: str, permutation: Tensor, draws: Draws) -> Operation:
        """Draws λ, for images or for features."""
        return Operation(self, place, (permutation, torch.from_numpy(self.draw_weights(draws)).float()))

    def draw_weights(self, draws: Draws) -> Floats:
        """λ by its law: `[1]`, or `[B]` per sample."""
        count, generator = self.draws_by_sample(draws)
        if self.alpha is None:
            return np.full(count, self.weight)
        return generator.beta(self.alpha, self.alpha, count)

    def draws_by_sample(self, draws: Draws) -> tuple[int, np.random.Generator]:
        """How often weights, or boxes, are drawn, and from which generator."""
        return (draws.batch_size, draws.own) if self.per_sample else (1, draws.shared)


@dataclass(kw_only=True)
class AtPoints(Step):
    """A step whose places are a setting of its own: `images`, or layers."""

    points: list[str]

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        points = self.points
        is_right = bool(points) and len(points) == len(set(points))
        require(is_right, f"{key}.points", points, "one or more different points")

    def places(self) -> Sequence[str]:
        """Its points."""
        return self.points


def mix_labels(labels: Tensor, permutation: Tensor, weight: Tensor) -> Tensor:
    """λY + (1-λ)Y[P] for soft labels Y `[B, K]`, P `[B]` and λ `[1]` or `[B]`."""
    return torch.lerp(labels[permutation], labels, weight.to(labels.dtype).view(-1, 1))
