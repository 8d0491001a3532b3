"""Settings of a part that is one of several, each with keys of its own: which one, its name says."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moex.settings import require

Settings = TypeVar("Settings")


def part(values: Mapping[str, Any], registry: Mapping[str, type[Settings]], *, key: str, default: str) -> Settings:
    """The settings of a part, typed as those of the class that their `name` chooses.

    Args:
        values: what is set; the rest has the class's defaults.
        registry: dataclasses by name.
        key: of the part, for the errors.
        default: the name where none is set.

    Raises:
        ValueError: there is no such name, the class has no such key, or a value has the wrong type.
    """
    require(isinstance(values, Mapping), key, values, f"the keys of one of {', '.join(registry)}")
    name = values.get("name", default)
    require(name in registry, f"{key}.name", name, f"one of {', '.join(registry)}")
    known = sorted({f"{key}.{item.name}" for schema in registry.values() for item in dataclasses.fields(schema)})  # type: ignore[arg-type]
    for leaf in values:
        if f"{key}.{leaf}" not in known:
            raise ValueError(f"unknown key {f'{key}.{leaf}'!r}: the choices of {key} have {', '.join(known)}")
    return typed(values, registry[name], key=key, title=f"{key}={name}")


def typed(values: Mapping[str, Any], schema: type[Settings], *, key: str, title: str) -> Settings:
    """Settings, typed as those of a class.

    Args:
        values: what is set; the rest has the class's defaults.
        schema: the dataclass.
        key: of the part, for the errors.
        title: what has the class's keys, likewise.

    Raises:
        ValueError: the class has no such key, or a value has the wrong type.
    """
    keys = [f"{key}.{item.name}" for item in dataclasses.fields(schema)]  # type: ignore[arg-type]
    for leaf in values:
        if f"{key}.{leaf}" not in keys:
            raise ValueError(f"unknown key {f'{key}.{leaf}'!r}: {title} has {', '.join(keys)}")
    try:
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), dict(values)))
    except OmegaConfBaseException as error:
        raise ValueError(f"{key}.{error.full_key}: {str(error).splitlines()[0]}") from None
    assert isinstance(settings, schema)
    return settings
