"""Parts by name: a class in a file of its folder is found there, and one of somebody else by its import path."""

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


@functools.cache
def find_classes(package: str, base: type[T]) -> dict[str, type[T]]:
    """The subclasses of a base that the modules of a package define, by their attribute `name`.

    A subclass whose `name` is empty is what others share, and is left out.

    Args:
        package: as it is imported, such as `moex.data`.
        base: what they are subclasses of; it has an attribute `name`.
    """
    found: dict[str, type[T]] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, base) and value.__module__ == module.name:
                name: str = value.name  # type: ignore[attr-defined]
                assert name not in found, f"two classes are called {name!r}"
                if name:
                    found[name] = value
    return dict(sorted(found.items()))


def import_class(path: str, base: type[T], *, key: str) -> type[T]:
    """The subclass of a base at an import path, such as `my_package.MyData`.

    Args:
        path: module and class.
        base: what it has to be a subclass of.
        key: of the configuration that holds the path, for errors.

    Raises:
        ValueError: there is no such module or class, or it is another kind of class.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{key} is {path!r}: it must be MODULE.CLASS, seen from PYTHONPATH ({error})") from None
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ValueError(f"{key} is {path!r}: it must be a subclass of {base.__module__}.{base.__name__}")
    return found


def suggest(name: str, choices: Sequence[str], *, otherwise: str | None = None) -> str:
    """What would be right instead of a name that is not among the choices: the nearest; where none is near, any.

    Args:
        name: what was asked for.
        choices: what there is.
        otherwise: what is said instead of all choices where none is near.
    """
    if nearest := difflib.get_close_matches(name, choices, n=3, cutoff=0.4):
        return f"the nearest are {', '.join(nearest)}"
    return otherwise or f"it must be one of {', '.join(choices)}"
