"""The loss of a batch whose features were exchanged, for loops that mix no labels themselves."""

import torch
from torch import Tensor
from torch.nn import functional as F

from moex.normalisation import check_permutation


def mixed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    perm: Tensor | None,
    weight: float | Tensor,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    """λ times the cross-entropy with a sample's own label, and 1 - λ times that with its partner's.

    It belongs to `MomentExchange.swap`, and takes the same permutation::

        with exchange.swap(perm):
            logits = model(images)
        loss = moex.mixed_cross_entropy(logits, labels, perm, 0.9)

    Equal to the cross-entropy with the mixed labels λY + (1-λ)Y[perm].

    Source: Li et al., *On Feature Normalization and Data Augmentation*, CVPR 2021, equation 2.

    Args:
        logits: `[B, K]`.
        labels: Class indices `[B]`, or soft labels `[B, K]`, such as Mixup leaves.
        perm: `[B]`, integers: the partner of each sample. None mixes nothing, as `swap(None)` exchanges nothing.
        weight: λ, the share of a sample's own label: a number in [0, 1], or a tensor `[]`, `[1]` or `[B]` of them.
        label_smoothing: As in `torch.nn.functional.cross_entropy`.

    Returns:
        The mean over the batch, a scalar, in float32 or as precise as the logits.

    Raises:
        ValueError: A shape does not fit, `perm` holds no integers, or the number `weight` is not in [0, 1].
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must be [B, K], not {list(logits.shape)}")
    samples = len(logits)
    if labels.shape not in (logits.shape[:1], logits.shape):
        raise ValueError(
            f"labels must be class indices [{samples}] or soft labels {list(logits.shape)}, not {list(labels.shape)}"
        )
    if labels.ndim == 1 and (labels.is_floating_point() or labels.dtype == torch.bool):
        raise ValueError(f"labels [B] must be class indices, which are integers, not {labels.dtype}")
    if isinstance(weight, Tensor):
        if weight.shape not in ((), (1,), (samples,)):
            raise ValueError(f"weight must be one number, or one a sample [{samples}], not {list(weight.shape)}")
    elif not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight!r}: it must be the share of a sample's own label, in [0, 1]")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.long() if labels.ndim == 1 else labels.to(logits.dtype)
    own = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    if perm is None:
        return own.mean()
    check_permutation(perm)
    if len(perm) != samples:
        raise ValueError(f"perm has {len(perm)} entries for a batch of {samples} samples; they must be equal")
    partners = labels[perm.to(labels.device)]
    other = F.cross_entropy(logits, partners, reduction="none", label_smoothing=label_smoothing)
    share = weight.to(own) if isinstance(weight, Tensor) else weight
    return torch.lerp(other, own, share).mean()
