"""Moments of the common feature normalisations, and their exchange between the samples of a batch.

Source: Li, Wu, Lim, Belongie and Weinberger, *On Feature Normalization and Data Augmentation*, CVPR 2021,
section 3.

A normalisation is the choice of the sets of entries that share a mean and a standard deviation. Split the
channels into groups. Either a group shares its moments over all positions (`gn`), or every position of the
group has its own (`gpono`). The others are special cases: `ln` is `gn` with one group, `in` is `gn` with
groups of one channel, `pono` is `gpono` with one group.

| norm       | channels of a set | positions of a set |
|------------|-------------------|--------------------|
| `pono`     | all               | one                |
| `in`       | one               | all                |
| `ln`       | all               | all                |
| `gnK`      | one of K groups   | all                |
| `gn-dK`    | a group of K      | all                |
| `gponoK`   | one of K groups   | one                |
| `gpono-dK` | a group of K      | one                |
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.utils.rnn import PackedSequence

NORMS = "pono, in, ln, gnK, gn-dK, gponoK, gpono-dK (K a positive integer)"


class Grouping(NamedTuple):
    """What the name of a normalisation says, before the number of channels is known."""

    per_position: bool
    number: int  # of groups, or of the channels in a group
    number_is_of_channels: bool


def parse_norm(norm: str) -> Grouping:
    """Reads the name of a normalisation.

    Args:
        norm: One of `pono`, `in`, `ln`, `gnK`, `gn-dK`, `gponoK`, `gpono-dK`.

    Returns:
        How the normalisation groups the channels, and whether each position is on its own.

    Raises:
        TypeError: The name is no text.
        ValueError: The name is unknown, or is `bn`.
    """
    if not isinstance(norm, str):
        raise TypeError(f"norm must be a text, one of {NORMS}; not {norm!r}")
    if norm == "bn":
        raise ValueError(
            "norm 'bn' cannot be exchanged: its moments are the same for every sample of a batch, so the "
            f"exchange would be the identity; choose one of {NORMS}"
        )
    if norm in ("pono", "ln"):
        return Grouping(norm == "pono", 1, False)
    if norm == "in":
        return Grouping(False, 1, True)
    for family in ("gpono", "gn"):
        number = norm.removeprefix(family).removeprefix("-d")
        if norm in (family + number, f"{family}-d{number}") and number.isdecimal() and int(number) > 0:
            return Grouping(family == "gpono", int(number), "-d" in norm)
    raise ValueError(f"unknown norm {norm!r}: choose one of {NORMS}")


def check_permutation(perm: Tensor, samples: int | None = None) -> None:
    """Refuses what cannot index a batch. On the CPU its values are looked at; those on a GPU stay there, unread.

    Args:
        perm: is to be `[B]`, int64 or int32.
        samples: B, where it is known.

    Raises:
        ValueError: it is no tensor, not one-dimensional, not of int64 or int32, or has other values than from 0 to
            B - 1.
    """
    if not isinstance(perm, Tensor):
        raise ValueError(f"perm must be a 1-D integer tensor, not a {type(perm).__name__}; use torch.randperm(B)")
    if perm.ndim != 1 or perm.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"perm must be 1-D and int64 or int32, not {perm.ndim}-D and {perm.dtype}; use torch.randperm(B)"
        )
    if samples is None:
        return
    if perm.shape[0] != samples:
        raise ValueError(f"perm has {perm.shape[0]} entries for a batch of {samples} samples; they must be equal")
    # A graph, or a transform of functions, has no values to look at.
    is_read = perm.device.type == "cpu" and not torch.compiler.is_compiling() and not _is_transformed()
    if is_read and samples and not 0 <= int(perm.min()) <= int(perm.max()) < samples:
        raise ValueError(
            f"perm has values from {int(perm.min())} to {int(perm.max())}: they must be from 0 to {samples - 1}, the "
            "samples of the batch"
        )


def check_eps(eps: float) -> None:
    """Refuses what cannot be added to a variance.

    Raises:
        TypeError: it is no number.
        ValueError: it is not positive, or not finite.
    """
    # A tuple, since torch 2.6 compiles no union of types.
    if isinstance(eps, bool) or not isinstance(eps, (int, float)):
        raise TypeError(f"eps must be a number, not a {type(eps).__name__}")
    if not 0 < eps < math.inf:
        raise ValueError(f"eps is {eps}: it must be more than 0, and finite")


def moments(
    x: Tensor,
    norm: str = "pono",
    *,
    eps: float = 1e-5,
    channel_dim: int = 1,
    batch_dim: int = 0,
    positive_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the mean and standard deviation that a normalisation removes from its input.

    The variance is unbiased, and `eps` is added to it before the root. Half precision is computed in float32.

    Args:
        x: Features, `[B, C, ...]` or any other layout of at least 3 dimensions.
        norm: One of `pono`, `in`, `ln`, `gnK`, `gn-dK`, `gponoK`, `gpono-dK` (see the module's table).
        eps: Added to the variance.
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, signals `[B, C, T]` and volumes
            `[B, C, D, H, W]`, -1 for tokens `[B, N, C]` and sequences.
        batch_dim: Dimension of the samples: 1 for sequences `[T, B, C]`.
        positive_only: Moments of the positive entries alone, for features that follow a ReLU: the mean is
            `sum(relu(x)) / count(x > 0)`, the variance is the biased one; a set without any has mean and
            variance 0.

    Returns:
        `(mean, std)`, which broadcast against `x`: for `[B, C, H, W]` they are `[B, 1, H, W]` (pono),
        `[B, C, 1, 1]` (in, gn), `[B, 1, 1, 1]` (ln) or `[B, C, H, W]` (gpono). float64 for a float64 input,
        float32 for others.

    Raises:
        TypeError: `x` is no tensor, `norm` no text, `eps` no number, or a dimension no whole number.
        ValueError: Unknown `norm` or `bn`; `x` is not floating point, has less than 3 dimensions or is nested;
            `batch_dim` or `channel_dim` is out of range, or they are one; the channels cannot be divided as asked; a
            set has a single entry; `eps` is not positive.
    """
    check_eps(eps)
    grouped, dim, dims = group_channels(x, norm, channel_dim, batch_dim)
    mean, _, std = _centre(grouped, dims, eps, positive_only)
    mean, std = (_ungroup_moment(moment, grouped, dim).movedim(0, batch_dim) for moment in (mean, std))
    return mean, std


def exchange_moments(
    x: Tensor,
    perm: Tensor,
    norm: str = "pono",
    *,
    eps: float = 1e-5,
    channel_dim: int = 1,
    batch_dim: int = 0,
    positive_only: bool = False,
    detach: bool = False,
) -> Tensor:
    """Normalises every sample with its own moments, then gives it those of another (MoEx; section 3).

    `(x - mean) / std * std[perm] + mean[perm]`. Gradients flow through the moments of both samples.
    Half precision is computed in float32 and cast back; the memory format of `x` is kept.

    Args:
        x: Features, `[B, C, ...]` or any other layout of at least 3 dimensions.
        perm: `[B]`, int64 or int32, on the device of `x`: sample `i` receives the moments of `perm[i]`. Values on
            the CPU are checked; on a GPU, where that would wait for it, the kernel that gathers by them asserts.
        norm: One of `pono`, `in`, `ln`, `gnK`, `gn-dK`, `gponoK`, `gpono-dK` (see the module's table).
        eps: Added to the variance.
        channel_dim: Dimension of the channels (see `moments`).
        batch_dim: Dimension of the samples (see `moments`).
        positive_only: Moments of the positive entries alone (see `moments`); all entries are exchanged.
        detach: Whether moments are constants to the gradient. As published, they are not.

    Returns:
        Features of the shape, dtype and memory format of `x`.

    Raises:
        TypeError: As `moments`.
        ValueError: As `moments`, and where `perm` is not a 1-D integer tensor with an entry for each sample, or has
            values beside 0 to B - 1, or lies on the meta device where `x` does not.
    """
    check_eps(eps)
    grouped, dim, dims = group_channels(x, norm, channel_dim, batch_dim)
    check_partners(grouped, perm)
    exchanged: Tensor
    # torch.func's transforms, and forward mode, differentiate what autograd can.
    by_autograd = positive_only or detach or torch.compiler.is_compiling() or _is_transformed() or _has_tangent(x)
    if by_autograd:
        exchanged = _exchange(grouped, perm, dims, eps, positive_only=positive_only, detach=detach)
    else:
        exchanged = _ExchangeWithGradient.apply(grouped, perm, dims, eps)
    return exchanged.flatten(dim, dim + 1).to(x.dtype).movedim(0, batch_dim)


def check_partners(x: Tensor, perm: Tensor) -> None:
    """Refuses what cannot index the samples of `x`; see `check_permutation`."""
    check_permutation(perm, x.shape[0])
    if perm.is_meta and not x.is_meta:
        raise ValueError(f"perm is on the meta device, which holds no values: it must be on that of x, {x.device}")


def _is_transformed() -> bool:
    """Whether one of torch.func's transforms is at work."""
    return torch._C._are_functorch_transforms_active()


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None


def group_channels(x: Tensor, norm: str, channel_dim: int, batch_dim: int = 0) -> tuple[Tensor, int, tuple[int, ...]]:
    """Returns x as `[B, ..., K, C/K, ...]` in full precision, the dimension of K, and those of a set."""
    grouping = parse_norm(norm)
    x, dim = bring_batch_first(x, batch_dim=batch_dim, channel_dim=channel_dim)
    if not x.is_floating_point():
        raise ValueError(f"moments need floating-point features, not {x.dtype}")
    channels = x.shape[dim]
    if grouping.number > channels or channels % grouping.number:
        divisors = [k for k in range(1, channels + 1) if channels % k == 0]
        raise ValueError(f"norm {norm!r} does not divide {channels} channels: K must be one of {divisors}")
    per_group = grouping.number if grouping.number_is_of_channels else channels // grouping.number
    full = x.to(torch.promote_types(x.dtype, torch.float32))
    grouped = full.reshape(*x.shape[:dim], channels // per_group, per_group, *x.shape[dim + 1 :])
    dims = (dim + 1,) if grouping.per_position else tuple(d for d in range(1, grouped.ndim) if d != dim)
    if math.prod([grouped.shape[d] for d in dims]) == 1:
        raise ValueError(
            f"norm {norm!r} on features {list(x.shape)} (channel_dim {dim}) has sets of one entry, "
            "whose unbiased variance is undefined; choose a norm with larger sets"
        )
    return grouped, dim, dims


def bring_batch_first(x: Tensor, *, batch_dim: int, channel_dim: int) -> tuple[Tensor, int]:
    """Returns a view of features as `[B, ...]`, and which of its dimensions holds the channels.

    Raises:
        TypeError: As `check_features`, and where `channel_dim` is no whole number.
        ValueError: As `check_features`, and where `channel_dim` is out of range, or the batch's.
    """
    check_features(x, batch_dim, dimensions=3)
    check_dim("channel_dim", channel_dim)
    batch = batch_dim % x.ndim
    others = [dim for dim in range(x.ndim) if dim != batch]
    if not -x.ndim <= channel_dim < x.ndim or channel_dim % x.ndim == batch:
        allowed = ", ".join(map(str, others)), ", ".join(str(dim - x.ndim) for dim in others)
        raise ValueError(
            f"channel_dim {channel_dim} does not fit features {list(x.shape)}: dimension {batch} is the batch, so it "
            f"must be one of {allowed[0]}, or of {allowed[1]}"
        )
    return x.movedim(batch, 0), 1 + others.index(channel_dim % x.ndim)


def check_features(x: Tensor, batch_dim: int, *, dimensions: int = 1) -> None:
    """Refuses features without a dimension of samples that all have the same positions.

    Args:
        x: Features of any layout.
        batch_dim: Dimension of the samples.
        dimensions: How many they must have at least.

    Raises:
        TypeError: `x` is no tensor, or `batch_dim` no whole number.
        ValueError: `x` is nested or has fewer dimensions, or `batch_dim` is out of range.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"features must be a tensor [B, C, ...], not a {type(x).__name__}{describe_lengths(x)}")
    if x.is_nested:
        raise ValueError(f"features must be a tensor [B, C, ...], not a nested one{describe_lengths(x)}")
    if x.ndim < dimensions:
        raise ValueError(
            f"moments need features of {dimensions} dimensions or more ([B, C, ...]), not {list(x.shape)}"
        )
    check_dim("batch_dim", batch_dim)
    if not -x.ndim <= batch_dim < x.ndim:
        allowed = f"0 to {x.ndim - 1}, or -{x.ndim} to -1"
        raise ValueError(f"batch_dim {batch_dim} does not fit features {list(x.shape)}: it must be {allowed}")


def check_dim(name: str, dim: int) -> None:
    """Refuses what cannot name a dimension.

    Raises:
        TypeError: it is no whole number.
    """
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"{name} must be a whole number, not {dim!r}")


def describe_lengths(x: object) -> str:
    """What a refusal adds where the samples are sequences of lengths of their own; else nothing."""
    differ = isinstance(x, PackedSequence) or (isinstance(x, Tensor) and x.is_nested)
    return ", whose samples may differ in length: cut or pad them to one length" if differ else ""


def _exchange(
    x: Tensor, perm: Tensor, dims: tuple[int, ...], eps: float, *, positive_only: bool = False, detach: bool = False
) -> Tensor:
    mean, centred, std = _centre(x.detach() if detach else x, dims, eps, positive_only)
    if detach:
        centred = x + -mean
    return centred * (std.index_select(0, perm) / std) + mean.index_select(0, perm)


class _ExchangeWithGradient(torch.autograd.Function):
    """The exchange with its gradient written out, in less than half the passes over x that autograd makes.

    Per set of n entries, with c = x - mean and r = std[perm] / std, the output is r·c + mean[perm]. From the
    gradient g of the output, Σg goes to the partner's mean and Σgc to r, and so to both deviations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, perm: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
        mean, centred, std = _centre(x, dims, eps, positive_only=False)
        ratio = std.index_select(0, perm) / std
        ctx.save_for_backward(x, perm, mean, std, ratio)
        ctx.dims, ctx.eps = dims, eps
        return centred.mul_(ratio).add_(mean.index_select(0, perm))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        x, perm, mean, std, ratio = ctx.saved_tensors
        if torch.is_grad_enabled():  # A gradient of the gradient is wanted.
            exchanged = _exchange(x, perm, ctx.dims, ctx.eps)
            return torch.autograd.grad(exchanged, x, gradient, create_graph=True)[0], None, None, None
        size = math.prod([x.shape[d] for d in ctx.dims])
        centred = x + -mean
        to_partner_mean = gradient.sum(ctx.dims, keepdim=True)
        product = centred * gradient
        to_ratio = product.sum(ctx.dims, keepdim=True)
        to_mean = (-ratio * to_partner_mean).index_add(0, perm, to_partner_mean)
        to_std = (-ratio * to_ratio / std).index_add(0, perm, to_ratio / std)
        # The derivative of the mean is 1/n for each entry, that of the deviation c / ((n - 1) std).
        to_x = torch.mul(gradient, ratio, out=product).add_(to_mean / size)
        return to_x.addcmul_(centred, to_std / ((size - 1) * std)), None, None, None


def _centre(x: Tensor, dims: tuple[int, ...], eps: float, positive_only: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns mean, x - mean and std over the given dimensions, which are kept.

    Two passes rather than `torch.var_mean`, whose reduction over a strided dimension is ten times slower on
    the CPU, and rather than E[x²] - E[x]², which cancels where the mean is large.
    """
    # `sum / size`, `x + -mean` and `c * c` rather than `mean`, `x - mean` and `square`, whose gradients write
    # three more tensors of the size of x.
    if positive_only:
        positive = x > 0
        count = positive.sum(dims, keepdim=True).clamp(min=1)
        mean = x.relu().sum(dims, keepdim=True) / count
        centred = x + -mean
        deviation = torch.where(positive, centred, 0.0)
        variance = (deviation * deviation).sum(dims, keepdim=True) / count
    else:
        size = math.prod([x.shape[d] for d in dims])
        mean = x.sum(dims, keepdim=True) / size
        centred = x + -mean
        variance = (centred * centred).sum(dims, keepdim=True) / (size - 1)
    return mean, centred, (variance + eps).sqrt()


def _ungroup_moment(moment: Tensor, grouped: Tensor, dim: int) -> Tensor:
    """Returns a moment `[B, ..., K, 1, ...]` in a shape that broadcasts against the ungrouped features."""
    if moment.shape[dim] > 1:
        sizes = list(moment.shape)
        sizes[dim + 1] = grouped.shape[dim + 1]
        moment = moment.expand(sizes)
    return moment.flatten(dim, dim + 1)
