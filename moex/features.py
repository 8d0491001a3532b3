"""A hook on a named layer of any network, which changes the layer's output where and when it is told to."""

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Order = TypeVar("Order")


class FeatureHook(Generic[Order]):
    """What changes a layer's output inside a context, and leaves the network alone outside it.

    A subclass says in `_change` what is done to the features, by an order that its own context manager gives to
    `_ordered`. The order stands outside the network: code, parameters and `state_dict` keys stay as they were.

    A copy or a pickle of the network carries a hook of its own, which does nothing.

    Args:
        model: Any network whose chosen layer returns a tensor `[B, ...]`.
        layer: A name of `model.points` (a mapping from names such as `stem` to module paths) where the
            network has one, else the path of a submodule as `model.named_modules()` gives it.

    Attributes:
        layer: The path of the submodule.

    Raises:
        ValueError: Unknown layer; the layer is the network itself; the network is already wrapped in
            `DistributedDataParallel`, compiled, or uses `DataParallel`.
    """

    def __init__(self, model: nn.Module, layer: str) -> None:
        _check_unwrapped(model)
        self.layer = resolve_layer(model, layer)
        self._order: Order | None = None
        self._reached = False
        self._attached = True
        self._handle = model.get_submodule(self.layer).register_forward_hook(self._change_output)

    def remove(self) -> None:
        """Takes the hook off the network."""
        self._handle.remove()
        self._attached = False

    def _change(self, features: Tensor, order: Order) -> Tensor:
        raise NotImplementedError

    @contextmanager
    def _ordered(self, order: Order | None) -> Iterator[None]:
        """Changes the features by `order` in the forward passes inside the context; None changes nothing."""
        name = type(self).__name__
        if not self._attached:
            raise ValueError(f"the {name} at {self.layer!r} was removed; attach a new one")
        if self._order is not None:
            raise ValueError(f"a {name} at {self.layer!r} is already in progress; leave it before the next")
        if order is None:
            yield
            return
        self._order = order
        self._reached = False
        try:
            yield
        finally:
            self._order = None
        if not self._reached:
            raise ValueError(
                f"no forward pass reached layer {self.layer!r} inside the context, so its features were not "
                f"changed: call the model that the {name} was attached to, not a copy nor one compiled before"
            )

    def _change_output(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        if self._order is None:
            return None
        if not isinstance(output, Tensor):
            raise ValueError(
                f"layer {self.layer!r} ({type(module).__name__}) returns a {type(output).__name__}, not a "
                f"tensor; attach the {type(self).__name__} to a layer that returns one"
            )
        self._reached = True
        return self._change(output, self._order)

    def __getstate__(self) -> dict[str, Any]:
        # A copy made inside the context has none that would end it.
        return {**self.__dict__, "_order": None}


def _check_unwrapped(model: nn.Module) -> None:
    if any(isinstance(module, nn.DataParallel) for module in model.modules()):
        raise ValueError(
            "nn.DataParallel splits the batch among replicas while the permutation indexes the whole batch; "
            "use DistributedDataParallel, and attach before wrapping"
        )
    if isinstance(model, DistributedDataParallel):
        raise ValueError("the model is already in DistributedDataParallel: attach before wrapping")
    # torch.compile(model) holds the original as `_orig_mod`; model.compile() works in place.
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise ValueError("the model is already compiled: attach before compiling")


def resolve_layer(model: nn.Module, layer: str) -> str:
    """The path of a submodule, given by a name of `model.points` or by its path.

    Raises:
        ValueError: There is none, or it is the model itself.
    """
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
