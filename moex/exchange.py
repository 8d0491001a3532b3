"""Attaches the exchange of moments to a named layer of any network."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moex.moments import check_permutation, exchange_moments, parse_norm


class MomentExchange:
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
    ) -> None:
        parse_norm(norm)
        _check_unwrapped(model)
        self.layer = _resolve_layer(model, layer)
        self.norm = norm
        self.eps = eps
        self.channel_dim = channel_dim
        self.positive_only = positive_only
        self._perm: Tensor | None = None
        self._reached = False
        self._attached = True
        self._handle = model.get_submodule(self.layer).register_forward_hook(self._exchange_output)

    @contextmanager
    def swap(self, perm: Tensor | None) -> Iterator[None]:
        """Exchanges the moments in the forward passes inside the context.

        Args:
            perm: `[B]`, int64 or int32, on any device: sample `i` receives the moments of sample `perm[i]`.
                None leaves the features as they are.

        Raises:
            ValueError: `perm` is not a 1-D integer tensor; the hook was removed; a swap is already in
                progress; or, on leaving, no forward pass has reached the layer (a copy of the network ran, or
                one compiled before the hook was attached), so that features and labels would disagree.
        """
        if not self._attached:
            raise ValueError(f"the exchange at {self.layer!r} was removed; attach a new MomentExchange")
        if self._perm is not None:
            raise ValueError(f"a swap at {self.layer!r} is already in progress; leave it before the next")
        if perm is None:
            yield
            return
        check_permutation(perm)
        self._perm = perm
        self._reached = False
        try:
            yield
        finally:
            self._perm = None
        if not self._reached:
            raise ValueError(
                f"no forward pass reached layer {self.layer!r} inside swap, so nothing was exchanged: call "
                "the model that the MomentExchange was attached to, not a copy nor one compiled before"
            )

    def remove(self) -> None:
        """Takes the hook off the network."""
        self._handle.remove()
        self._attached = False

    def _exchange_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        if self._perm is None:
            return None
        if not isinstance(output, Tensor):
            raise ValueError(
                f"layer {self.layer!r} ({type(module).__name__}) returns a {type(output).__name__}, not a "
                "tensor; attach the exchange to a layer that returns one"
            )
        self._reached = True
        return exchange_moments(
            output,
            self._perm.to(output.device, non_blocking=True),
            self.norm,
            eps=self.eps,
            channel_dim=self.channel_dim,
            positive_only=self.positive_only,
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy made inside `swap` has no context that would end it.
        return {**self.__dict__, "_perm": None}


def _check_unwrapped(model: nn.Module) -> None:
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise ValueError(
            "nn.DataParallel splits the batch among replicas while the permutation indexes the whole batch; "
            "use DistributedDataParallel, and attach the MomentExchange before wrapping"
        )
    if isinstance(model, DistributedDataParallel):
        raise ValueError("the model is already in DistributedDataParallel: attach the MomentExchange before wrapping")
    # torch.compile(model) holds the original as `_orig_mod`; model.compile() works in place.
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise ValueError("the model is already compiled: attach the MomentExchange before compiling")


def _resolve_layer(model: nn.Module, layer: str) -> str:
    points = getattr(model, "points", {})
    points = dict(points) if isinstance(points, Mapping) else {}
    path = str(points.get(layer, layer))
    if path == "":
        raise ValueError(
            "the layer must be a submodule, not the model itself: hooks of a compiled root are not safe; "
            f"{_describe_names(points)}"
        )
    paths = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    if path not in paths:
        nearest = difflib.get_close_matches(layer, {*points, *paths}, n=5, cutoff=0.4)
        suggestion = f"did you mean {', '.join(nearest)}? " if nearest else ""
        raise ValueError(f"no layer {layer!r} in {type(model).__name__}: {suggestion}{_describe_names(points)}")
    return path


def _describe_names(points: Mapping[str, str]) -> str:
    return (f"points: {', '.join(points)}; " if points else "") + "paths: those of model.named_modules()"
