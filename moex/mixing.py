"""Mixup, CutMix, Cutout, MoEx, DropBlock and label smoothing as one ordered list of steps.

A step that mixes has a permutation P of the batch and a weight λ, and turns the labels Y into λY + (1-λ)Y[P].
It happens at a point: to the images, or to the features after a layer, where a hook executes it. MoEx is the
exchange of moments at such a point; Manifold Mixup and Feature CutMix are Mixup and CutMix there.
Steps follow each other, so CutMix and MoEx on one shared P give the label weights λ₁λ₂ of the sample itself,
λ₁(1-λ₂) + (1-λ₁)λ₂ of its partner and (1-λ₁)(1-λ₂) of the partner's partner: the published three-term loss.

`draw_plan` makes all random choices of a training step and `apply_plan` executes them, so labels and features
cannot disagree, and a test or a user can write a plan by hand.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moex.config import IMAGES, STANDING_STEPS, AugmentationConfig, MixingStepConfig
from moex.features import FeatureHook

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Operation:
    """One step of the list as it will happen.

    Attributes:
        name: what happens: `cutout`, `mixup`, `cutmix`, `moex`, `dropblock` or `label_smoothing`.
        point: where: the images, or the layer after which it happens, as the configuration names it.
        permutation: partner of each sample, int64 `[B]`.
        weight: λ, the share of the sample's own label: float32 `[1]`, or `[B]` if drawn per sample. For label
            smoothing, the share of the label that is kept.
        boxes: top, left, bottom and right in pixels, ends excluded: int64 `[1, 4]` or `[B, 4]`.
        rate: the share of the features that DropBlock drops.
    """

    name: str
    permutation: Tensor | None = None
    weight: Tensor | None = None
    boxes: Tensor | None = None
    point: str = IMAGES
    rate: float = 0.0

    def to(self, device: torch.device) -> "Operation":
        """The same operation with its tensors on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(self, permutation=move(self.permutation), weight=move(self.weight), boxes=move(self.boxes))


Plan = tuple[Operation, ...]

# The operation that a mixing step of the configuration comes down to.
KINDS = {"mixup": "mixup", "cutmix": "cutmix", "moex": "moex", "manifold_mixup": "mixup", "feature_cutmix": "cutmix"}


def mixup(images: Tensor, permutation: Tensor, weight: Tensor) -> Tensor:
    """λ times the image plus (1-λ) times its partner's.

    Args:
        images: `[B, ...]`, or features.
        permutation: int64 `[B]`.
        weight: λ, `[1]` or `[B]`.

    Source: Zhang et al., mixup, ICLR 2018, equation 1.
    """
    return torch.lerp(images[permutation], images, _per_sample(weight.to(images.dtype), images))


def cutmix(images: Tensor, permutation: Tensor, boxes: Tensor) -> Tensor:
    """Pastes the box of each partner's image, at the same place, into the image.

    Args:
        images: `[B, C, H, W]`, or features.
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
    sizes: Mapping[str, tuple[int, int]],
    shared: np.random.Generator,
    own: np.random.Generator,
    progress: float = 1.0,
) -> Plan:
    """Makes the random choices of one training step.

    A step happens, or does not, for the whole batch with its probability; of the steps in `one_of`, a single
    draw picks one, or none if their probabilities leave room. Of the points of a step, one is drawn.

    Args:
        augmentation: the steps and their laws.
        batch_size: B.
        sizes: H and W in pixels, by point: of the images, and of the features where CutMix may cut.
        progress: the share of the run that is done, for DropBlock's schedule.
        shared: decides, and draws points, weights and CutMix's boxes: the same on every rank.
        own: draws permutations and Cutout's holes: each rank's own.

    Returns:
        The operations that happen, in order, with their tensors on the CPU.
    """
    partners = own.permutation(batch_size) if augmentation.shared_permutation else None
    plan = []
    for name in _draw_steps(augmentation, shared):
        permutation = weight = boxes = None
        if name == "dropblock":
            rate = progress * augmentation.dropblock.rate
            plan += [Operation(name, point=point, rate=rate) for point in augmentation.dropblock.points]
            continue
        point = IMAGES
        if name == "label_smoothing":
            weight = np.array([1 - augmentation.label_smoothing.epsilon])
        elif name == "cutout":
            boxes = draw_holes(augmentation.cutout.size, sizes[IMAGES], batch_size, own)
        else:
            law: MixingStepConfig = getattr(augmentation, name)
            permutation = own.permutation(batch_size) if partners is None else partners
            points = points_of_step(augmentation, name)
            # A single point is no choice: nothing is drawn.
            point = points[int(shared.integers(len(points)))] if len(points) > 1 else points[0]
            weight = draw_weights(law, batch_size if law.per_sample else 1, shared)
            if KINDS[name] == "cutmix":
                boxes = draw_boxes(weight, sizes[point], shared)
                weight = 1 - box_shares(boxes, sizes[point])
        plan.append(Operation(KINDS.get(name, name), _tensor(permutation), _tensor(weight), _tensor(boxes), point))
    return tuple(plan)


def points_of_step(augmentation: AugmentationConfig, name: str) -> list[str]:
    """Where a step of the list may happen."""
    law = getattr(augmentation, name)
    if name == "moex":
        return [law.layer]
    points: list[str] = getattr(law, "points", [IMAGES])
    return points


def apply_plan(plan: Plan, images: Tensor, labels: Tensor, *, classes: int) -> tuple[Tensor, Tensor, Plan]:
    """Executes a plan, as far as it happens outside the network.

    Args:
        plan: the operations, in order.
        images: normalised images, `[B, C, H, W]`.
        labels: class indices, int64 `[B]`.
        classes: K.

    Returns:
        The images; the soft labels `[B, K]` for one soft cross-entropy; the operations after layers of the
        network, on the device, for `FeatureHook`s to execute.
    """
    soft_labels = F.one_hot(labels, classes).float()
    inside: Plan = ()
    for operation in plan:
        operation = operation.to(images.device)
        if operation.point != IMAGES:
            inside += (operation,)
        else:
            images = apply_operation(operation, images)
        if operation.name == "label_smoothing":
            assert operation.weight is not None
            soft_labels = smooth_labels(soft_labels, operation.weight)
        elif operation.permutation is not None:
            assert operation.weight is not None
            soft_labels = mix_labels(soft_labels, operation.permutation, operation.weight)
    return images, soft_labels, inside


def apply_operation(operation: Operation, images: Tensor) -> Tensor:
    """What an operation does to images, or to features, `[B, C, H, W]`."""
    name, permutation, weight, boxes = operation.name, operation.permutation, operation.weight, operation.boxes
    if name == "mixup":
        assert permutation is not None
        assert weight is not None
        return mixup(images, permutation, weight)
    if name == "cutmix":
        assert permutation is not None
        assert boxes is not None
        return cutmix(images, permutation, boxes)
    if name == "cutout":
        assert boxes is not None
        return cutout(images, boxes)
    assert name == "label_smoothing", name
    return images


class FeatureMixing(FeatureHook[Operation]):
    """Executes Mixup or CutMix on the features after a layer (Manifold Mixup and Feature CutMix).

    Source: Verma et al., Manifold Mixup, ICML 2019; Yun et al., CutMix, ICCV 2019, section 4.
    """

    def mix(self, operation: Operation) -> AbstractContextManager[None]:
        """Mixes the features in the forward passes inside the context."""
        return self._ordered(operation)

    def _change(self, features: Tensor, order: Operation) -> Tensor:
        if order.name == "cutmix" and features.ndim != 4:
            raise ValueError(f"CutMix needs features [B, C, H, W] after {self.layer!r}, not {list(features.shape)}")
        return apply_operation(order, features)


def block_mask(features: Tensor, rate: Tensor, block_size: int) -> Tensor:
    """What DropBlock multiplies the features by, drawn anew: zero in the blocks, and elsewhere what keeps the mean.

    Args:
        features: `[B, C, H, W]`; the mask has their shape and type.
        rate: the share of the features that is dropped, on average, as a tensor without dimensions on the CPU.
        block_size: pixels of a block's side, odd, at most H and W.
    """
    from torchvision.ops import drop_block2d

    mask: Tensor = drop_block2d(torch.ones_like(features), float(rate), block_size)
    return mask


# For torch.compile one operation with a tensor: a number would be compiled anew whenever it changes, and it grows
# from step to step.
_block_mask = torch.library.custom_op("moex::block_mask", block_mask, mutates_args=())
_block_mask.register_fake(lambda features, rate, block_size: torch.empty_like(features))


class DropBlock(FeatureHook[Tensor]):
    """Drops contiguous blocks of the features after a layer.

    Source: Ghiasi, Lin and Le, DropBlock, NeurIPS 2018; torchvision's operation.

    Args:
        model: see `FeatureHook`.
        layer: see `FeatureHook`.
        block_size: pixels of a block's side, odd; on smaller features, the largest odd number that they have.
    """

    def __init__(self, model: nn.Module, layer: str, *, block_size: int) -> None:
        super().__init__(model, layer)
        self.block_size = block_size

    def drop(self, rate: float) -> AbstractContextManager[None]:
        """Drops the share `rate` of the features, on average, in the forward passes inside the context."""
        return self._ordered(torch.tensor(rate, dtype=torch.float64))

    def _change(self, features: Tensor, order: Tensor) -> Tensor:
        side = min(self.block_size, *features.shape[2:])
        mask: Tensor = _block_mask(features.detach(), order, side - 1 + side % 2)
        return features * mask


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
        return name in STANDING_STEPS or bool(generator.random() < getattr(augmentation, name).probability)

    return [name for name in augmentation.steps if happens(name)]


def _per_sample(weight: Tensor, images: Tensor) -> Tensor:
    return weight.view(-1, *[1] * (images.ndim - 1))


def _tensor(values: npt.NDArray[np.generic] | None) -> Tensor | None:
    if values is None:
        return None
    tensor = torch.from_numpy(values)
    return tensor.float() if tensor.is_floating_point() else tensor
