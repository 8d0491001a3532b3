"""Attaches the exchange of moments, or of other statistics, to a named layer of any network."""

from contextlib import AbstractContextManager

from torch import Tensor, nn

from moex.features import FeatureHook
from moex.moments import check_permutation, exchange_moments, parse_norm
from moex.statistics import exchange_components, exchange_order


class FeatureExchange(FeatureHook[Tensor]):
    """What exchanges some statistic of a layer's output between the samples of a batch."""

    def swap(self, perm: Tensor | None) -> AbstractContextManager[None]:
        """Exchanges the statistic in the forward passes inside the context.

        Args:
            perm: `[B]`, int64 or int32, on any device: sample `i` receives the moments of sample `perm[i]`.
                None leaves the features as they are.

        Raises:
            ValueError: `perm` is not a 1-D integer tensor; the hook was removed; a swap is already in
                progress; or, on leaving, no forward pass has reached the layer (a copy of the network ran, or
                one compiled before the hook was attached), so that features and labels would disagree.
        """
        if perm is not None:
            check_permutation(perm)
        return self._ordered(perm)

    def _change(self, features: Tensor, order: Tensor) -> Tensor:
        return self._exchange(features, order.to(features.device, non_blocking=True))

    def _exchange(self, features: Tensor, perm: Tensor) -> Tensor:
        raise NotImplementedError


class MomentExchange(FeatureExchange):
    """Exchanges the moments of a layer's output between the samples of a batch, where and when it is told to.

    A forward hook does the work, so the network's code, parameters and `state_dict` keys stay as they were::

        exchange = MomentExchange(model, "layer1")
        with exchange.swap(torch.randperm(len(images))):
            logits = model(images)

    Outside `swap` the network computes what it always did, in training as in evaluation; inside, it exchanges
    in both. Attach before `torch.compile` and before `DistributedDataParallel`; a compiled network keeps two
    graphs, with and without the exchange, and does not recompile for a new permutation of the same length.

    The exchange takes place at every call of the layer inside `swap`: choose a layer that the network calls
    once in a forward pass (the `relu` of a torchvision `BasicBlock` is called twice). With activation
    checkpointing around the layer, call `backward` inside `swap` as well, for it computes the layer again.

    A copy or a pickle of the network carries a hook of its own, which does nothing; to exchange moments
    there, attach again.

    Source: Li et al., *On Feature Normalization and Data Augmentation*, CVPR 2021, section 3.

    Args:
        model: Any network whose chosen layer returns a tensor `[B, ...]` of 3 dimensions or more.
        layer: A name of `model.points` (a mapping from names such as `stem` to module paths) where the
            network has one, else the path of a submodule as `model.named_modules()` gives it.
        norm: The normalisation whose moments are exchanged (see `moex.moments`).
        eps: Added to the variance.
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, -1 for tokens `[B, N, C]`.
        positive_only: Moments of the positive entries alone.
        detach: Whether moments are constants to the gradient. As published, they are not.

    Attributes:
        layer: The path of the submodule.

    Raises:
        ValueError: Unknown layer or `norm`; the layer is the network itself; the network is already wrapped
            in `DistributedDataParallel`, compiled, or uses `DataParallel`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        norm: str = "pono",
        *,
        eps: float = 1e-5,
        channel_dim: int = 1,
        positive_only: bool = False,
        detach: bool = False,
    ) -> None:
        parse_norm(norm)
        super().__init__(model, layer)
        self.norm = norm
        self.eps = eps
        self.channel_dim = channel_dim
        self.positive_only = positive_only
        self.detach = detach

    def _exchange(self, features: Tensor, perm: Tensor) -> Tensor:
        return exchange_moments(
            features,
            perm,
            self.norm,
            eps=self.eps,
            channel_dim=self.channel_dim,
            positive_only=self.positive_only,
            detach=self.detach,
        )


class ComponentExchange(FeatureExchange):
    """Exchanges the leading principal components across channels (see `moex.statistics.exchange_components`).

    Args:
        model: See `MomentExchange`.
        layer: See `MomentExchange`.
        components: How many of each sample's components are exchanged.
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, -1 for tokens `[B, N, C]`.
    """

    def __init__(self, model: nn.Module, layer: str, components: int = 1, *, channel_dim: int = 1) -> None:
        super().__init__(model, layer)
        self.components = components
        self.channel_dim = channel_dim

    def _exchange(self, features: Tensor, perm: Tensor) -> Tensor:
        return exchange_components(features, perm, self.components, channel_dim=self.channel_dim)


class OrderExchange(FeatureExchange):
    """Exchanges all order statistics (see `moex.statistics.exchange_order`).

    Args:
        model: See `MomentExchange`.
        layer: See `MomentExchange`.
        norm: The normalisation in whose sets the entries are ordered.
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, -1 for tokens `[B, N, C]`.
    """

    def __init__(self, model: nn.Module, layer: str, norm: str = "pono", *, channel_dim: int = 1) -> None:
        parse_norm(norm)
        super().__init__(model, layer)
        self.norm = norm
        self.channel_dim = channel_dim

    def _exchange(self, features: Tensor, perm: Tensor) -> Tensor:
        return exchange_order(features, perm, self.norm, channel_dim=self.channel_dim)
