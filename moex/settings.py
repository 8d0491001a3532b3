"""What the settings of all parts have in common: plain dataclasses, of which some check themselves.

A settings dataclass may define

- `check(key)`, which raises `ValueError` for values out of their range; `key` is where it lies in the tree, such as
  `optimizer`;
- `recipe()`, which returns those of its keys that act on the training, with their values, by name; without it, all
  of its fields act.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any


def require(condition: bool, key: str, value: object, allowed: str) -> None:
    """Refuses a value.

    Args:
        condition: whether the value may be.
        key: its dotted key.
        value: as it is.
        allowed: what it must be.

    Raises:
        ValueError: with all three.
    """
    if not condition:
        raise ValueError(f"{key} is {value!r}: it must be {allowed}")


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def check_numbers(value: Any, key: str = "") -> None:
    """Refuses a number in a tree of settings that is not finite, or too large for 64 bits.

    Raises:
        ValueError: the first one.
    """
    if dataclasses.is_dataclass(value):
        value = _fields(value)
    if isinstance(value, dict | list | tuple):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            check_numbers(part, f"{key}.{name}".lstrip("."))
    elif isinstance(value, float):
        require(math.isfinite(value), key, value, "a finite number")
    elif isinstance(value, int):
        require(abs(value) < 2**63, key, value, "less than 2^63")


def expand_home(value: Any) -> Any:
    """A tree of values in which texts that begin with `~` and a slash, as paths do, begin with the home folder."""
    if isinstance(value, dict):
        return {key: expand_home(part) for key, part in value.items()}
    if isinstance(value, list):
        return [expand_home(part) for part in value]
    return str(Path(value).expanduser()) if isinstance(value, str) and re.match(r"~(/|$)", value) else value


def check_settings(settings: Any, key: str = "") -> None:
    """Lets every dataclass of a tree check itself, parts before the whole.

    Raises:
        ValueError: the first value that is refused.
    """
    for name, value in _fields(settings).items():
        for path, part in (
            {f"{name}.{entry}": part for entry, part in value.items()} if isinstance(value, dict) else {name: value}
        ).items():
            if dataclasses.is_dataclass(part):
                check_settings(part, f"{key}.{path}".lstrip("."))
    if hasattr(settings, "check"):
        settings.check(key)


def acting(settings: Any) -> dict[str, Any]:
    """The keys of a tree of settings that act on the training, dotted, with their values."""
    return flatten(acting_tree(settings))


def acting_tree(settings: Any) -> dict[str, Any]:
    """The same, nested."""
    values = settings.recipe() if hasattr(settings, "recipe") else _fields(settings)
    return {name: acting_tree(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}


def _fields(settings: Any) -> dict[str, Any]:
    return {item.name: getattr(settings, item.name) for item in dataclasses.fields(settings)}
