"""Beyond moments: what else of a sample's features can be exchanged, and what is left without moments.

The paper names principal components as an extension and gives no formula; the exchanges here are ours. They have
the interface of `moex.exchange_moments`: a batch and a permutation in, features of the same kind out.
"""

import torch
from torch import Tensor

from moex.normalisation import check_partners, group_channels, moments


def exchange_components(x: Tensor, perm: Tensor, components: int = 1, *, channel_dim: int = 1) -> Tensor:
    """Gives every sample the leading principal components of another, in place of its own.

    The channels of a sample are variables and its positions are observations. With the mean of each channel taken
    off, the part of the features in the span of the `components` leading eigenvectors of the covariance is replaced
    by that of the partner; channel means and all other components stay. The eigenvectors are constants to the
    gradient, since their derivative is not defined where eigenvalues coincide; what they project is not.

    Args:
        x: Features, `[B, C, ...]` or any other layout with the batch first and at least 3 dimensions.
        perm: `[B]`, int64 or int32, on the device of `x`: sample `i` receives the components of `perm[i]`.
        components: How many, 1 to C.
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, -1 for tokens `[B, N, C]`.

    Returns:
        Features of the shape, dtype and memory format of `x`; computed in float32 at least.

    Raises:
        ValueError: As `moments`, or there are not so many components.
    """
    # The sets of "ln" hold all channels and positions: only the checks of the layout matter here.
    group_channels(x, "ln", channel_dim)
    check_partners(x, perm)
    if isinstance(components, bool) or not isinstance(components, int):
        raise TypeError(f"components must be a whole number, not {components!r}")
    channels_last = x.to(torch.promote_types(x.dtype, torch.float32)).movedim(channel_dim, -1)
    observations = channels_last.flatten(1, -2)
    channels = observations.shape[-1]
    if not 1 <= components <= channels:
        raise ValueError(f"components is {components}: it must be 1 to {channels}, the number of channels")
    centred = observations - observations.mean(1, keepdim=True)
    with torch.no_grad():
        _, eigenvectors = torch.linalg.eigh(centred.transpose(1, 2) @ centred)
        leading = eigenvectors[:, :, channels - components :]
    part = (centred @ leading) @ leading.transpose(1, 2)
    exchanged: Tensor = observations - part + part.index_select(0, perm)
    return torch.empty_like(x).copy_(exchanged.view(channels_last.shape).movedim(-1, channel_dim))


def exchange_order(x: Tensor, perm: Tensor, norm: str = "pono", *, channel_dim: int = 1) -> Tensor:
    """Gives every sample the sorted values of another, in the order of its own.

    In each set of entries that a normalisation would give common moments, the smallest entry takes the partner's
    smallest value, and so on: all order statistics are exchanged, of which mean and deviation are functions. Equal
    entries rank by position. The gradient flows to the partner's values.

    Args:
        x: Features, `[B, C, ...]` or any other layout with the batch first and at least 3 dimensions.
        perm: `[B]`, int64 or int32, on the device of `x`: sample `i` receives the values of `perm[i]`.
        norm: The normalisation whose sets are meant (see `moex.moments`).
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, -1 for tokens `[B, N, C]`.

    Returns:
        Features of the shape, dtype and memory format of `x`.

    Raises:
        ValueError: As `moments`.
    """
    grouped, dim, dims = group_channels(x, norm, channel_dim)
    check_partners(x, perm)
    ends = tuple(range(-len(dims), 0))
    sets = grouped.movedim(dims, ends)
    entries = sets.flatten(-len(dims))
    ordered, order = entries.sort(dim=-1, stable=True)
    ranks = order.argsort(dim=-1)
    exchanged = ordered.index_select(0, perm).gather(-1, ranks).view(sets.shape).movedim(ends, dims)
    return torch.empty_like(x).copy_(exchanged.flatten(dim, dim + 1))


def remove_moments(x: Tensor, norm: str = "pono", *, channel_dim: int = 1) -> Tensor:
    """Returns normalised features: what a network sees without its moments."""
    mean, std = moments(x, norm, channel_dim=channel_dim)
    return ((x - mean) / std).to(x.dtype)


def keep_moments(x: Tensor, norm: str = "pono", *, channel_dim: int = 1) -> Tensor:
    """Returns features that hold the moments alone: the mean in one half of the channels, the deviation in the other.

    Their shape is that of `x`, so that the rest of a network can take them.

    Args:
        x: Features, `[B, C, ...]`, C at least 2.
        norm: The normalisation whose moments are meant (see `moex.moments`).
        channel_dim: Dimension of the channels.
    """
    mean, std = (moment.expand(x.shape) for moment in moments(x, norm, channel_dim=channel_dim))
    half = x.shape[channel_dim] // 2
    parts = mean.narrow(channel_dim, 0, half), std.narrow(channel_dim, half, x.shape[channel_dim] - half)
    return torch.cat(parts, channel_dim).to(x.dtype)
