"""Whether the content of a checkpoint is that of a run: a whole file may hold another network's, or a list."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from moex.run.build import Run

# What a checkpoint may lack, since it is older than that.
_YOUNGER = {"epoch_seconds", "epoch_waited", "seconds"}
# How many names are told.
_FEW = 3


def check_last(run: Run, saved: Mapping[str, Any]) -> None:
    """Looks whether a run can go on from a checkpoint.

    Args:
        run: as it was built; stays as it is.
        saved: as `moex.checkpoint.read` returns it.

    Raises:
        ValueError: the first thing that is not as it is in this run.
    """
    expected = run.state.state_dict()
    _require_keys("", saved, (expected.keys() | {"sessions"}) - _YOUNGER)
    for name in ("model", "average"):
        if expected[name] is not None:
            _compare_tensors(name, expected[name], saved[name])
    _require(saved["scaler"], dict, "scaler")
    _require_keys("scaler.", saved["scaler"], expected["scaler"].keys())
    _compare_tensors("totals", {"": expected["totals"]}, {"": saved["totals"]})
    _check_optimizer(run.state.optimizer, saved["optimizer"])
    _check_position(run, saved)


def check_best(run: Run, saved: Mapping[str, Any]) -> None:
    """Looks whether a checkpoint holds the weights of this run's best epoch.

    Raises:
        ValueError: the first thing that is not as it is in this run.
    """
    _require_keys("", saved, {"model", "epoch"})
    _compare_tensors("model", run.state.evaluated.state_dict(), saved["model"])
    if saved["epoch"] != run.state.best["epoch"]:
        raise ValueError(f"it is of epoch {saved['epoch']}, not of the best one, {run.state.best['epoch']:.0f}")


def _check_position(run: Run, saved: Mapping[str, Any]) -> None:
    for name, most in (("epoch", run.training.epochs), ("step", run.state.steps_per_epoch)):
        value = saved[name]
        if not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r}: this run has {most}")
    for name, kind in (("history", list), ("sessions", list), ("best", dict)):
        _require(saved[name], kind, name)
    epoch, choice = saved["epoch"], f"{run.selected_on}_error"
    if len(saved["history"]) != epoch:
        raise ValueError(f"it has {len(saved['history'])} rows of history after {epoch} epochs")
    for row in (*saved["history"], *([saved["best"]] if epoch else [])):
        _require(row, dict, "a row of history")
        _require_keys("history: ", row, {"epoch"})
    if epoch:
        _require_keys("best: ", saved["best"], {"epoch", choice})
    if not saved["sessions"]:
        raise ValueError("it has no sessions")
    for session in saved["sessions"]:
        _require(session, dict, "a session")
        _require_keys("sessions: ", session, {"start", "world_size"})


def _check_optimizer(optimizer: torch.optim.Optimizer, saved: Any) -> None:
    _require(saved, dict, "optimizer")
    _require_keys("optimizer.", saved, {"state", "param_groups"})
    expected, groups = optimizer.state_dict(), saved["param_groups"]
    _require(groups, list, "optimizer.param_groups")
    _require(saved["state"], dict, "optimizer.state")
    ours, theirs = (
        [group.get("params") if isinstance(group, dict) else None for group in some]
        for some in (expected["param_groups"], groups)
    )
    if ours != theirs:
        raise ValueError("optimizer.param_groups are of other parameters")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        own, entries = expected["state"].get(index, {}), saved["state"].get(index, {})
        _require(entries, dict, f"optimizer.state.{index}")
        _require_keys(f"optimizer.state.{index}.", entries, own.keys())
        # A count of steps has no dimensions.
        tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor) and value.ndim}
        _compare_tensors(f"optimizer.state.{index}", dict.fromkeys(tensors, parameter), tensors)


def _compare_tensors(name: str, expected: Mapping[str, Tensor], found: Any) -> None:
    """Refuses tensors of other names or shapes."""
    _require(found, dict, name)
    _require_keys(f"{name}.", found, expected.keys())
    if unknown := sorted(map(str, found.keys() - expected.keys())):
        raise ValueError(f"this run has no {', '.join(f'{name}.{key}' for key in unknown[:_FEW])}")
    for key, tensor in expected.items():
        _require(found[key], Tensor, f"{name}.{key}".rstrip("."))
        if found[key].shape != tensor.shape:
            raise ValueError(
                f"{f'{name}.{key}'.rstrip('.')} is {list(found[key].shape)}: this run has {list(tensor.shape)}"
            )


def _require_keys(prefix: str, found: Mapping[Any, Any], keys: Any) -> None:
    if missing := sorted(str(key) for key in keys if key not in found):
        raise ValueError(f"it lacks {', '.join(prefix + key for key in missing[:_FEW])}")


def _require(value: Any, kind: type, name: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is a {type(value).__name__}, not a {kind.__name__}")
