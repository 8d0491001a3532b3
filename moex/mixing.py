"""Mixup, CutMix, Cutout, MoEx and label smoothing as one ordered list of steps over images and soft labels.

A step that mixes has a permutation P of the batch and a weight λ, and turns the labels Y into λY + (1-λ)Y[P];
what it does to the images is its own affair, and MoEx leaves them alone: its permutation goes to the network.
Steps follow each other, so CutMix and MoEx on one shared P give the label weights λ₁λ₂ of the sample itself,
λ₁(1-λ₂) + (1-λ₁)λ₂ of its partner and (1-λ₁)(1-λ₂) of the partner's partner: the published three-term loss.

`draw_plan` makes all random choices of a training step and `apply_plan` executes them, so labels and features
cannot disagree, and a test or a user can write a plan by hand.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from moex.config import AugmentationConfig, MixingStepConfig

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Operation:
    """One step of the list as it will happen.

    Attributes:
        name: which step.
        permutation: partner of each sample, int64 `[B]`.
        weight: λ, the share of the sample's own label: float32 `[1]`, or `[B]` if drawn per sample. For label
            smoothing, the share of the label that is kept.
        boxes: top, left, bottom and right in pixels, ends excluded: int64 `[1, 4]` or `[B, 4]`.
    """

    name: str
    permutation: Tensor | None = None
    weight: Tensor | None = None
    boxes: Tensor | None = None

    def to(self, device: torch.device) -> "Operation":
        """The same operation with its tensors on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return Operation(self.name, move(self.permutation), move(self.weight), move(self.boxes))


Plan = tuple[Operation, ...]


def mixup(images: Tensor, permutation: Tensor, weight: Tensor) -> Tensor:
    """λ times the image plus (1-λ) times its partner's.

    Args:
        images: `[B, C, H, W]`.
        permutation: int64 `[B]`.
        weight: λ, `[1]` or `[B]`.

    Source: Zhang et al., mixup, ICLR 2018, equation 1.
    """
    return torch.lerp(images[permutation], images, weight.to(images.dtype).view(-1, 1, 1, 1))


def cutmix(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    """Pastes the box of each partner's image, at the same place, into the image.

    Args:
        images: `[B, C, H, W]`.
        permutation: int64 `[B]`.
        boxes: top, left, bottom, right: int64 `[1, 4]` or `[B, 4]`.

    Source: Yun et al., CutMix, ICCV 2019, equation 1.
    """
    return torch.where(box_mask(boxes, images.shape[-2:]), images[permutation], images)


def cutout(images: Tensor, boxes: Tensor) -> Tensor:
    """Sets the box of each image to zero: of normalised images, to the mean colour.

    Args:
        images: `[B, C, H, W]`.
        boxes: top, left, bottom, right: int64 `[1, 4]` or `[B, 4]`.

    Source: DeVries and Taylor, Improved Regularization of CNNs with Cutout, 2017, section 3.2.
    """
    return images.masked_fill(box_mask(boxes, images.shape[-2:]), 0.0)


def mix_labels(labels: Tensor, permutation: Tensor, weight: Tensor) -> Tensor:
    """λY + (1-λ)Y[P] for soft labels Y `[B, K]`, P `[B]` and λ `[1]` or `[B]`."""
    return torch.lerp(labels[permutation], labels, weight.to(labels.dtype).view(-1, 1))


def smooth_labels(labels: Tensor, weight: Tensor) -> Tensor:
    """λY + (1-λ)/K for soft labels Y `[B, K]`; the usual ε is 1-λ.

    Source: Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    return torch.lerp(torch.full_like(labels, 1 / labels.shape[1]), labels, weight.to(labels.dtype).view(-1, 1))


def box_mask(boxes: Tensor, size: torch.Size) -> Tensor:
    """`[1 or B, 1, H, W]`, true inside each box; `size` is (H, W)."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)
    rows = torch.arange(size[0], device=boxes.device)
    columns = torch.arange(size[1], device=boxes.device)
    inside_rows, inside_columns = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return inside_rows[:, None, :, None] & inside_columns[:, None, None, :]


def draw_plan(
    augmentation: AugmentationConfig,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    shared: np.random.Generator,
    own: np.random.Generator,
) -> Plan:
    """Makes the random choices of one training step.

    A step happens, or does not, for the whole batch with its probability; of the steps in `one_of`, a single
    draw picks one, or none if their probabilities leave room.

    Args:
        augmentation: the steps and their laws.
        batch_size: B.
        image_size: H and W in pixels.
        shared: decides, and draws weights and CutMix's boxes: the same on every rank.
        own: draws permutations and Cutout's holes: each rank's own.

    Returns:
        The operations that happen, in order, with their tensors on the CPU.
    """
    partners = own.permutation(batch_size) if augmentation.shared_permutation else None
    plan = []
    for name in _draw_steps(augmentation, shared):
        permutation = weight = boxes = None
        if name == "label_smoothing":
            weight = np.array([1 - augmentation.label_smoothing.epsilon])
        elif name == "cutout":
            boxes = draw_holes(augmentation.cutout.size, image_size, batch_size, own)
        else:
            law: MixingStepConfig = getattr(augmentation, name)
            permutation = own.permutation(batch_size) if partners is None else partners
            weight = draw_weights(law, batch_size if law.per_sample else 1, shared)
            if name == "cutmix":
                boxes = draw_boxes(weight, image_size, shared)
                weight = 1 - box_shares(boxes, image_size)
        plan.append(Operation(name, _tensor(permutation), _tensor(weight), _tensor(boxes)))
    return tuple(plan)


def apply_plan(plan: Plan, images: Tensor, labels: Tensor, *, classes: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Executes a plan.

    Args:
        plan: the operations, in order.
        images: normalised images, `[B, C, H, W]`.
        labels: class indices, int64 `[B]`.
        classes: K.

    Returns:
        The images; the soft labels `[B, K]` for one soft cross-entropy; the permutation of the exchange, or
        None in a step without one.
    """
    soft_labels = F.one_hot(labels, classes).float()
    exchange = None
    for operation in plan:
        name, permutation, weight, boxes = vars(operation.to(images.device)).values()
        if name == "mixup":
            images = mixup(images, permutation, weight)
        elif name == "cutmix":
            images = cutmix(images, permutation, boxes)
        elif name == "cutout":
            images = cutout(images, boxes)
        elif name == "moex":
            exchange = permutation
        if name == "label_smoothing":
            soft_labels = smooth_labels(soft_labels, weight)
        elif permutation is not None:
            soft_labels = mix_labels(soft_labels, permutation, weight)
    return images, soft_labels, exchange


def draw_weights(law: MixingStepConfig, draws: int, generator: np.random.Generator) -> Floats:
    """λ by its law, `[draws]`: fixed, or Beta(alpha, alpha)."""
    if law.alpha is None:
        return np.full(draws, law.weight)
    return generator.beta(law.alpha, law.alpha, draws)


def draw_boxes(weight: Floats, image_size: tuple[int, int], generator: np.random.Generator) -> Integers:
    """CutMix's boxes `[n, 4]`: of share 1-λ of the image, its centre uniform over the pixels, clipped.

    Source: Yun et al., CutMix, ICCV 2019, equation 2; roundings of the published code.
    """
    extents = (np.array(image_size) * np.sqrt(1 - weight)[:, None]).astype(np.int64)
    return _boxes_around(extents // 2, extents // 2, image_size, generator)


def draw_holes(size: int, image_size: tuple[int, int], draws: int, generator: np.random.Generator) -> Integers:
    """Cutout's holes `[draws, 4]`: `size` pixels square, the centre uniform over the pixels, clipped."""
    extents = np.full((draws, 2), size)
    return _boxes_around(extents // 2, extents - extents // 2, image_size, generator)


def box_shares(boxes: Integers, image_size: tuple[int, int]) -> Floats:
    """The share of the image that each box covers, `[n]`: 1-λ after clipping."""
    extents = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(extents.prod(axis=1) / (image_size[0] * image_size[1]))


def _boxes_around(
    before: Integers, after: Integers, image_size: tuple[int, int], generator: np.random.Generator
) -> Integers:
    centre = generator.integers(0, image_size, size=before.shape)
    return np.concatenate([centre - before, centre + after], axis=1).clip(0, [*image_size, *image_size])


def _draw_steps(augmentation: AugmentationConfig, generator: np.random.Generator) -> list[str]:
    """The names of the steps that happen, in their order."""
    alternatives = augmentation.one_of
    chosen = None
    if alternatives:
        shares = np.cumsum([getattr(augmentation, name).probability for name in alternatives])
        position = int(np.searchsorted(shares, generator.random(), side="right"))
        chosen = alternatives[position] if position < len(alternatives) else None

    def happens(name: str) -> bool:
        if name in alternatives:
            return name == chosen
        # Label smoothing is a law of the loss, not an event.
        return name == "label_smoothing" or bool(generator.random() < getattr(augmentation, name).probability)

    return [name for name in augmentation.steps if happens(name)]


def _tensor(values: npt.NDArray[np.generic] | None) -> Tensor | None:
    if values is None:
        return None
    tensor = torch.from_numpy(values)
    return tensor.float() if tensor.is_floating_point() else tensor
