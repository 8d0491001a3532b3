"""Attaches the exchange of moments, or of another statistic, to a named layer of any network."""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moex.beyond_moments import exchange_components, exchange_order
from moex.features import Arguments, FeatureHook, record_features
from moex.normalisation import (
    bring_batch_first,
    check_dim,
    check_eps,
    check_features,
    check_partners,
    check_permutation,
    exchange_moments,
    parse_norm,
)
from moex.points import RECOMMENDED, Channels, channels_of, find_channel_dim, points_of

Exchange = Callable[..., Tensor]

# What can be exchanged: each takes features and a permutation, and options by name.
STATISTICS: dict[str, Exchange] = {
    "moments": exchange_moments,
    "components": exchange_components,
    "order": exchange_order,
}

# Features that an exchange changes by less than this share of their norm, although the samples differ, are as good
# as unchanged.
UNCHANGED = 1e-3
# An exchange acts after a layer whose features it changes by more than this share.
ACTS = 1e-2


class FeatureExchange(FeatureHook):
    """Exchanges a statistic of a layer's output between the samples of a batch, where and when it is told to.

    See `MomentExchange`, which exchanges moments.

    Args:
        model: Any network whose chosen layer returns a tensor `[B, ...]`, or with the samples in another dimension.
        layer: A name of the network's points (see `moex.models.points_of`), such as `stem`, or the path of a
            submodule as `model.named_modules()` gives it.
        function: Called with the features `[B, ...]` and a permutation `[B]` on their device, returns the new
            features. Where it has an argument `channel_dim`, it gets that too.
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, -1 for tokens `[B, N, C]`. By default
            the one that the network tells.
        batch_dim: Dimension of the samples: 1 for sequences `[T, B, C]`. The function gets them first all the same.

    Attributes:
        layer: The path of the submodule.

    Raises:
        TypeError: `batch_dim` is no whole number.
        ValueError: Unknown layer; the layer is the network itself; `batch_dim` is `channel_dim`; the network is
            already wrapped in `DistributedDataParallel`, compiled, or uses `DataParallel`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        function: Exchange,
        *,
        channel_dim: int | None = None,
        batch_dim: int = 0,
    ) -> None:
        check_dim("batch_dim", batch_dim)
        if batch_dim == channel_dim:
            raise ValueError(f"batch_dim and channel_dim are both {batch_dim}: they must be different dimensions")
        super().__init__(model, layer, function)
        self.channel_dim = channel_dim
        self.batch_dim = batch_dim
        self._channels = channels_of(model, self.layer)
        self._takes_channel_dim = "channel_dim" in inspect.signature(function).parameters
        # Until the first exchange has shown that it changes anything.
        self._model: nn.Module | None = model
        self._inputs: tuple[Arguments, dict[str, Any]] | None = None
        self._change_found: float | None = None

    @contextmanager
    def swap(self, perm: Tensor | None) -> Iterator[None]:
        """Exchanges the statistic in the one forward pass inside the context.

        Args:
            perm: `[B]`, int64 or int32, on any device: sample `i` receives the moments of sample `perm[i]`.
                None leaves the features as they are.

        Raises:
            ValueError: `perm` is not a 1-D integer tensor, or has other values than samples of the batch; the hook
                was removed; a swap is already in progress; the forward pass calls the layer twice; or, on leaving, no
                forward pass has reached the layer, or the first exchange has changed nothing, so that features and
                labels would disagree.
        """
        if perm is None:
            self._check_free()
            yield
            return
        check_permutation(perm)
        if torch.compiler.is_compiling() or self._model is None:
            with self.active(perm):
                yield
            return
        handle = self._model.register_forward_pre_hook(self._keep_inputs, with_kwargs=True)
        try:
            # A compiled network would keep no values to look at.
            with torch.compiler.set_stance("force_eager"), self.active(perm):
                yield
        finally:
            handle.remove()
            inputs, named_inputs = self._inputs or ((), {})
            self._inputs = None
        self._check_effect(*inputs, **named_inputs)

    def check(self, features: Tensor, *inputs: Any, **named_inputs: Any) -> None:
        """Looks whether an exchange changes anything, as `swap` does at the first exchange.

        Args:
            features: What the layer returned, for two samples or more.
            inputs: Of the network, for them.
            named_inputs: Likewise, by name.

        Raises:
            ValueError: It changes nothing; with the layers where it would act.
        """
        samples = self._samples_first(features)
        self._measure(samples, torch.arange(len(samples), device=samples.device).roll(1))
        self._check_effect(*inputs, **named_inputs)

    def _change(self, features: Tensor, arguments: Arguments) -> Tensor:
        samples = self._samples_first(features)
        check_partners(samples, arguments[0])
        perm = arguments[0].to(samples.device, non_blocking=True)
        exchanged = self._exchange(samples, perm)
        if not torch.compiler.is_compiling() and self._model is not None:
            self._measure(samples, perm, exchanged)
        return exchanged.movedim(0, self.batch_dim)

    def _samples_first(self, features: Tensor) -> Tensor:
        check_features(features, self.batch_dim)
        return features.movedim(self.batch_dim, 0)

    def _exchange(self, samples: Tensor, perm: Tensor) -> Tensor:
        return self._exchange_after(self.layer, self._channels, samples, perm, asked=self.channel_dim)

    def _exchange_after(
        self, layer: str, channels: Channels | None, samples: Tensor, perm: Tensor, *, asked: int | None = None
    ) -> Tensor:
        """What the function makes of the features `[B, ...]` of this layer, or of another one."""
        if not self._takes_channel_dim:
            return self.function(samples, perm)
        # Dimensions are told, and asked for, as the layer has them.
        features, batch_dim = samples.movedim(0, self.batch_dim), self.batch_dim
        dim = find_channel_dim(features, channels, asked=asked, layer=layer, batch_dim=batch_dim)
        samples, dim = bring_batch_first(features, batch_dim=batch_dim, channel_dim=dim)
        return self.function(samples, perm, channel_dim=dim)

    @torch.no_grad()
    def _measure(self, samples: Tensor, perm: Tensor, exchanged: Tensor | None = None) -> None:
        """Notes by what share an exchange changes features, once there are pairs that differ."""
        if samples.is_meta:
            return
        change = relative_change(samples, self._exchange(samples, perm) if exchanged is None else exchanged)
        differs = relative_change(samples, samples[perm]) > ACTS
        if differs.any():
            self._change_found = float(change[differs].max())

    def _keep_inputs(self, model: nn.Module, inputs: Arguments, named_inputs: dict[str, Any]) -> None:
        self._inputs = (inputs, named_inputs)

    def _check_effect(self, *inputs: Any, **named_inputs: Any) -> None:
        """Refuses an exchange that changes nothing.

        Args:
            inputs: Of the network, to look where an exchange would act.
            named_inputs: Likewise, by name.
        """
        model, change = self._model, self._change_found
        if model is None or change is None:
            return
        self._model = None
        if change >= UNCHANGED:
            return
        layers = layers_where_it_acts(model, self._exchange_after, self._samples_first, *inputs, **named_inputs)
        raise ValueError(
            f"the exchange after {self.layer!r} changes the features by {change:.0e} of their norm, and labels would "
            "be mixed all the same: what is exchanged is constant there, as after a LayerNorm; it acts after "
            f"{', '.join(layers) or 'no layer that was tried'}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_model": None, "_inputs": None}


class MomentExchange(FeatureExchange):
    """Exchanges the moments of a layer's output between the samples of a batch, where and when it is told to.

    A forward hook does the work, so the network's code, parameters and `state_dict` keys stay as they were::

        exchange = MomentExchange(model, "layer1")
        with exchange.swap(torch.randperm(len(images))):
            logits = model(images)

    Outside `swap` the network computes what it always did, in training as in evaluation; inside, it exchanges in
    both, in one forward pass that calls the layer once. Attach before `torch.compile` and before
    `DistributedDataParallel`; a compiled network keeps two graphs, with and without the exchange, and does not
    recompile for a new permutation of the same length. Activation checkpointing computes the same exchange again,
    wherever `backward` is called.

    The first exchange is looked at: where it changes nothing, as after a layer that ends in a LayerNorm, leaving
    `swap` raises an error that names layers where it would. A compiled network runs that pass uncompiled.

    A copy or a pickle of the network carries a hook of its own, which does nothing; to exchange moments there,
    attach again.

    Source: Li et al., *On Feature Normalization and Data Augmentation*, CVPR 2021, section 3.

    Args:
        model: Any network whose chosen layer returns a tensor of 3 dimensions or more, `[B, ...]` or with the samples
            in another one.
        layer: A name of the network's points (see `moex.models.points_of`), such as `stem`, or the path of a
            submodule as `model.named_modules()` gives it.
        norm: The normalisation whose moments are exchanged (see `moex.moments`).
        eps: Added to the variance.
        channel_dim: Dimension of the channels: 1 for images `[B, C, H, W]`, -1 for tokens `[B, N, C]`. By default
            the one that the network tells.
        batch_dim: Dimension of the samples: 1 for sequences `[T, B, C]`.
        positive_only: Moments of the positive entries alone.
        detach: Whether moments are constants to the gradient. As published, they are not.

    Attributes:
        layer: The path of the submodule.

    Raises:
        TypeError: `batch_dim` is no whole number.
        ValueError: Unknown layer or `norm`; the layer is the network itself; `batch_dim` is `channel_dim`; the
            network is already wrapped in `DistributedDataParallel`, compiled, or uses `DataParallel`.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str = RECOMMENDED,
        norm: str = "pono",
        *,
        eps: float = 1e-5,
        channel_dim: int | None = None,
        batch_dim: int = 0,
        positive_only: bool = False,
        detach: bool = False,
    ) -> None:
        parse_norm(norm)
        check_eps(eps)
        function = functools.partial(exchange_moments, norm=norm, eps=eps, positive_only=positive_only, detach=detach)
        super().__init__(model, layer, function, channel_dim=channel_dim, batch_dim=batch_dim)
        self.norm = norm

    def _settings(self) -> list[str]:
        return [f"norm={self.norm!r}"]


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """By what share of its norm each sample changes, `[B]`; 0 where it was zero and is."""
    before, after = before.float().flatten(1), after.float().flatten(1)
    change: Tensor = (after - before).norm(dim=1) / before.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return change


def layers_where_it_acts(
    model: nn.Module,
    exchange: Callable[[str, Channels | None, Tensor, Tensor], Tensor],
    samples_first: Callable[[Tensor], Tensor],
    *inputs: Any,
    **named_inputs: Any,
) -> list[str]:
    """The points of a network, or its children, after which an exchange changes the features by more than 1 %.

    Args:
        model: Any network.
        exchange: Called with a layer's path, its channels, its features `[B, ...]` and a permutation; returns the new
            features.
        samples_first: Called with what a layer returned, returns it as `[B, ...]`.
        inputs: The network's, for two samples or more.
        named_inputs: The network's, by name.
    """
    points = {name: path for name, path in points_of(model).items() if name != RECOMMENDED}
    layers = points or {name: name for name, _ in model.named_children()}
    acting = []
    for name, features in record_features(model, layers, *inputs, **named_inputs).items():
        try:
            samples = samples_first(features)
            perm = torch.arange(len(samples), device=samples.device).roll(1)
            exchanged = exchange(layers[name], channels_of(model, layers[name]), samples, perm)
        except ValueError:
            # Features without channels and positions, such as logits.
            continue
        if (relative_change(samples, exchanged) > ACTS).all():
            acting.append(name)
    return acting
