"""A hook on a named layer of any network, which changes the layer's output in chosen forward passes.

A forward hook does the work, so the network's code, parameters and `state_dict` keys stay as they were. What a hook
does in one forward pass belongs to that pass: activation checkpointing, which computes a layer again in the backward
pass, computes the same change again, whatever the hook does by then.
"""

import itertools
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.parallel import DistributedDataParallel

from moex.normalisation import describe_lengths
from moex.points import resolve_layer

Arguments = tuple[Any, ...]


class _Now:
    """The arguments of all hooks, each an attribute.

    Not of the hooks themselves: what torch.compile reaches through a network it takes for tensors that stay where
    they are, as weights do, so that CUDA graphs would be recorded anew for each permutation.
    """


_now, _numbers = _Now(), itertools.count()
# torch 2.6 does not tell which hooks are on saved tensors; a layer may then always be checkpointed.
TELLS_HOOKS = hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks")


class FeatureHook:
    """Applies a function to a layer's output inside a context, and leaves the network alone outside it.

    A copy or a pickle of the network carries a hook of its own, which does nothing.

    Args:
        model: Any network whose chosen layer returns a tensor.
        layer: A name of the network's points (see `moex.models.points_of`), such as `stem`, or the path of a
            submodule as `model.named_modules()` gives it.
        function: What is done: called with the features and the arguments of `active`, returns the new features.

    Attributes:
        layer: The path of the submodule.

    Raises:
        TypeError: `model` is no network, or `layer` no text.
        ValueError: Unknown layer; the layer is the network itself; the network is already wrapped in
            `DistributedDataParallel`, compiled, or uses `DataParallel`.
    """

    def __init__(self, model: nn.Module, layer: str, function: Callable[..., Tensor]) -> None:
        if not isinstance(model, nn.Module) or not isinstance(layer, str):
            raise TypeError(
                f"a network and the name of a layer are needed, not a {type(model).__name__} and {layer!r}"
            )
        _check_unwrapped(model)
        self.layer = resolve_layer(model, layer)
        self.function = function
        self._begin_inactive()
        self._thread = 0
        self._calls = 0
        self._again: tuple[int, Arguments] | None = None
        self._attached = True
        self._module = last_of_sequence(model.get_submodule(self.layer))
        self._handle = self._module.register_forward_hook(self._change_output)
        # Whether checkpointing computes the layer again, in training and in evaluation, as far as passes have shown.
        self._is_repeated: dict[bool, bool] = {}
        self._began_with_gradients = False
        # torch.compile does not look whether hooks have come since, or since another network of the same class was
        # compiled; it does look whether `forward` is the class's.
        self._module.forward = self._module.forward

    def __repr__(self) -> str:
        state = "removed" if not self._attached else "active" if self._arguments is not None else "inactive"
        return f"{type(self).__name__}({', '.join([repr(self.layer), *self._settings(), state])})"

    def remove(self) -> None:
        """Takes the hook off the network."""
        self._handle.remove()
        self._attached = False

    @contextmanager
    def active(self, *arguments: Any) -> Iterator[None]:
        """Applies the function, with these arguments, in the one forward pass inside the context.

        Raises:
            ValueError: The hook was removed, or is active already; the forward pass calls the layer twice, or
                checkpoints it and those before did not; or, on leaving, no forward pass has reached the layer, since
                a copy of the network ran.
        """
        self._check_free()
        self._arguments = arguments
        self._calls = 0
        try:
            if torch.compiler.is_compiling():
                yield
            else:
                self._thread = threading.get_ident()
                self._began_with_gradients = torch.is_grad_enabled()
                # Keeping costs a call of Python for each tensor that is saved.
                with _changes.keep() if self._is_repeated.get(self._module.training, True) else nullcontext():
                    yield
        finally:
            self._arguments = None
        if self._calls == 0:
            raise ValueError(
                f"no forward pass reached layer {self.layer!r} inside the context, so its features were not "
                f"changed: call the model that the {type(self).__name__} was attached to, not a copy"
            )

    def _settings(self) -> list[str]:
        """What `repr` tells besides the layer."""
        return []

    def _begin_inactive(self) -> None:
        """Takes a place of its own among the arguments of all hooks."""
        self._place = f"of_hook_{next(_numbers)}"
        self._arguments = None
        weakref.finalize(self, delattr, _now, self._place)

    @property
    def _arguments(self) -> Arguments | None:
        """Those of `active`; None where nothing is changed."""
        arguments: Arguments | None = getattr(_now, self._place)
        return arguments

    @_arguments.setter
    def _arguments(self, arguments: Arguments | None) -> None:
        setattr(_now, self._place, arguments)

    def _check_free(self) -> None:
        if not self._attached:
            raise ValueError(f"the {type(self).__name__} at {self.layer!r} was removed; attach a new one")
        if self._arguments is not None:
            raise ValueError(
                f"a {type(self).__name__} at {self.layer!r} is already in progress; leave it before the next"
            )

    def _change(self, features: Tensor, arguments: Arguments) -> Tensor:
        return self.function(features, *arguments)

    def _change_output(self, module: nn.Module, inputs: Arguments, output: Any) -> Tensor | None:
        if torch.compiler.is_compiling():
            arguments, is_repeated = self._arguments, False
        else:
            arguments, is_repeated = self._arguments_of_this_pass()
        if arguments is None:
            return None
        if not isinstance(output, Tensor):
            own = ", such as a module of yours around it that returns the outputs alone"
            raise ValueError(
                f"layer {self.layer!r} ({type(module).__name__}) returns a {type(output).__name__}, not a "
                f"tensor{describe_lengths(output)}; attach the {type(self).__name__} to a layer that returns one"
                f"{own if isinstance(module, nn.RNNBase) else ''}"
            )
        if not is_repeated:
            if self._calls > 0:
                raise ValueError(
                    f"layer {self.layer!r} was called twice inside the context: enter it anew for each forward pass; "
                    "where one pass calls the layer twice, choose another layer"
                )
            self._calls += 1
        return self._change(output, arguments)

    def _arguments_of_this_pass(self) -> tuple[Arguments | None, bool]:
        """What to do in the forward pass that calls now, and whether checkpointing repeats it."""
        task = _backward_task()
        if task >= 0:
            again, self._again = self._again, None
            return (again[1] if again is not None and again[0] == task else None), True
        if self._arguments is None or self._thread != threading.get_ident():
            return None, False
        if self._began_with_gradients:
            self._note_checkpointing()
        if _changes.is_kept:
            _changes.add(self, self._arguments)
        return self._arguments, False

    def _note_checkpointing(self) -> None:
        """Notes whether this pass checkpoints the layer, for what the next passes keep."""
        training, is_repeated = self._module.training, _is_checkpointed()
        if is_repeated and not _changes.is_kept:
            raise ValueError(
                f"layer {self.layer!r} is checkpointed, and was not when the {type(self).__name__} was active first: "
                "attach it anew after switching on activation checkpointing"
            )
        self._is_repeated[training] = is_repeated or self._is_repeated.get(training, False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_again": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # A copy made inside the context has none that would end it.
        self._begin_inactive()


def record_features(
    model: nn.Module, layers: Mapping[str, str], *inputs: Any, **named_inputs: Any
) -> dict[str, Tensor]:
    """Passes inputs through a network, in evaluation mode and without gradients, and keeps what layers return.

    Args:
        model: Any network; it is left in the mode in which it was.
        layers: Paths of submodules, by any names.
        inputs: The network's.
        named_inputs: The network's, by name.

    Returns:
        Features `[B, ...]` by the names of their layers, in the order in which the network computes them; layers
        that return anything else than a tensor, or are not reached, are left out.
    """
    features: dict[str, Tensor] = {}

    def keep(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            # What follows may write into it.
            features.setdefault(name, output.clone())

    modes = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        for name, path in layers.items():
            module = last_of_sequence(model.get_submodule(path))
            # The last of the hooks: features as later layers see them.
            handle = module.register_forward_hook(lambda _, __, output, name=name: keep(name, output))
            stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        model.eval()
        try:
            model(*inputs, **named_inputs)
        finally:
            for module, mode in modes.items():
                module.training = mode
    return features


class _Changes(threading.local):
    """What hooks did in this thread's forward pass, kept with the tensors from which checkpointing goes on.

    `torch.utils.checkpoint` saves the inputs of its region just before it computes it, or, with
    `use_reentrant=True`, just after, and then computes the region without gradients. So what a hook does in the
    region is kept with the tensor that was saved last before it, or comes first after it. Whoever takes that tensor
    out again, in the backward pass, is about to compute the region again.
    """

    def __init__(self) -> None:
        self.is_kept = False
        self._newest: list[Any] | None = None
        self._waiting: list[tuple[FeatureHook, Arguments]] = []

    @contextmanager
    def keep(self) -> Iterator[None]:
        """Keeps what hooks do in the forward pass inside the context; one inside another is part of it."""
        if self.is_kept:
            yield
            return
        self.is_kept, self._newest, self._waiting = True, None, []
        try:
            with saved_tensors_hooks(self._pack, self._unpack):
                yield
        finally:
            self.is_kept, self._newest = False, None

    def add(self, hook: FeatureHook, arguments: Arguments) -> None:
        """Notes what a hook does now."""
        if not torch.is_grad_enabled():
            self._waiting.append((hook, arguments))
        elif self._newest is not None:
            self._newest.append((hook, arguments))

    def _pack(self, tensor: Tensor) -> list[Any]:
        self._newest = [tensor, *self._waiting]
        self._waiting = []
        return self._newest

    @staticmethod
    def _unpack(saved: list[Any]) -> Tensor:
        tensor: Tensor = saved[0]
        for hook, arguments in saved[1:]:
            hook._again = (_backward_task(), arguments)
        return tensor


_changes = _Changes()


def _backward_task() -> int:
    """The number of the backward pass that computes now; -1 in a forward pass."""
    return torch._C._current_graph_task_id()


def _is_checkpointed() -> bool:
    """Whether a layer that is called now, in a pass that began with gradients, is in a checkpointed region.

    Checkpointing without gradients is `use_reentrant=True`; the other kind saves tensors by hooks of its own.
    """
    if TELLS_HOOKS:
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
        by_hooks = hooks is not None and hooks[0].__module__ == torch.utils.checkpoint.__name__
        return by_hooks or not torch.is_grad_enabled()
    return True


def last_of_sequence(module: nn.Module) -> nn.Module:
    """The module whose output is that of a sequence, whose parts checkpointing calls without the sequence."""
    while type(module).forward is nn.Sequential.forward and len(list(module.children())) > 0:
        module = list(module.children())[-1]
    return module


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
