"""The configuration of a run: a tree of the parts' own settings, its checks, and the identity that names a folder.

The YAML files in `configs/` say which values; the parts' dataclasses say which keys and types exist. `parse` turns
what Hydra composed into a `Config`, or raises `ValueError` naming the key, the value and what is right. What needs a
network or a data set to be checked (does the exchange point exist?) is checked in `moex.run`.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moex import augmentation, data, loggers
from moex.config.checks import check
from moex.config.parts import part
from moex.config.schema import Config, RuntimeConfig
from moex.loggers import LoggerConfig
from moex.optim import OPTIMIZERS, SCHEDULES
from moex.settings import acting, flatten

__all__ = [
    "Config",
    "RuntimeConfig",
    "acts_on_training",
    "defaults",
    "known_keys",
    "parse",
    "recipe",
    "run_folder",
    "unknown_key",
]

# Parts that are one of several, each with keys of its own: by what name, and which one unless told otherwise.
_CHOSEN: dict[str, tuple[Mapping[str, type[Any]], str]] = {
    "optimizer": (OPTIMIZERS, Config().optimizer.name),
    "schedule": (SCHEDULES, Config().schedule.name),
}


def parse(composed: DictConfig | dict[str, Any]) -> Config:
    """Checks a composed configuration against the schema and returns it typed.

    Args:
        composed: what Hydra composed, or the dictionary form of a `Config`.

    Raises:
        ValueError: an unknown key, a wrong type, a value out of its range or an impossible combination.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True) if isinstance(composed, DictConfig) else composed
    except OmegaConfBaseException as error:
        raise ValueError(str(error).splitlines()[0]) from None
    assert isinstance(values, dict)
    chosen = {
        key: part(values[key], registry, key=key, default=default)
        for key, (registry, default) in _CHOSEN.items()
        if key in values
    }
    others = {str(key): value for key, value in values.items() if key not in chosen}
    schema = _schema(others)
    try:
        # A fresh merge: `+a.b=1` extends what Hydra composed, and only the schema itself can refuse it.
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), others))
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error, schema)) from None
    assert isinstance(config, Config)
    config = dataclasses.replace(config, **chosen)
    # By its path, since a data set of this folder may have been composed before the target was.
    config.dataset.name = config.dataset.target or config.dataset.name
    check(config)
    config.name = config.name or _readable(config)
    return config


def known_keys() -> list[str]:
    """All dotted keys that a configuration may have, groups included, whichever choices are made."""
    schemas = [_schema({"dataset": {"name": name}, "logger": {"use": loggers.names()}}) for name in data.names()]
    groups = [item.name for item in dataclasses.fields(Config)]
    chosen = [
        f"{key}.{item.name}"
        for key, (registry, _) in _CHOSEN.items()
        for settings in registry.values()
        for item in dataclasses.fields(settings)
    ]
    return sorted({*groups, *chosen, *(key for schema in schemas for key in flatten(dataclasses.asdict(schema)))})


def defaults() -> dict[str, Any]:
    """Every key with its default, but for those of a part whose keys depend on a choice: their files say them."""
    return {key: value for key, value in dataclasses.asdict(Config()).items() if key not in _CHOSEN}


def acts_on_training(key: str) -> bool:
    """Whether a key, or a group, may change a run's recipe."""
    whole = Config()
    part, _, rest = key.partition(".")
    if part not in whole.recipe() or key in ("dataset.root", "dataset.download", "model.options.memory_saving"):
        return False
    return part != "runtime" or not rest or rest in whole.runtime.recipe()


def recipe(config: Config) -> dict[str, Any]:
    """What acts on this run's training and differs from the schema's defaults, as dotted keys.

    Names, places and the keys of parts that are not used are left out, and the seed: runs of one recipe differ in
    their seed alone. Only differences are kept, so that a key added to the schema tomorrow changes the identity of
    no run of today.
    """
    usual = _schema({})
    default = flatten(dataclasses.asdict(usual)) | acting(usual)
    # Those of a data set are its own, but for what says which one it is.
    own = type(config.dataset)()
    default |= {f"dataset.{key}": value for key, value in acting(own).items() if key not in ("name", "target")}
    return {key: value for key, value in sorted(acting(config).items()) if value != default.get(key)}


def run_folder(config: Config) -> Path:
    """`<output_root>/<data set>-<network>-<steps>-<digest of the recipe>/seed<k>`, one for a recipe and a seed."""
    text = json.dumps(recipe(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path(config.output_root) / f"{_readable(config)}-{digest}" / f"seed{config.seed}"


def _readable(config: Config) -> str:
    """What a run trains, in words that may name a folder."""
    dataset = config.dataset.name.rpartition(".")[2]
    parts = [dataset, config.model.name, "+".join(config.augmentation.steps) or "none"]
    return "-".join(re.sub(r"[^\w.+]+", "_", part) for part in parts)


def _schema(values: Mapping[str, Any]) -> Config:
    """The defaults, with the settings of the data set and of the loggers that some values name."""
    schema = Config()
    dataset = values.get("dataset")
    if isinstance(dataset, Mapping):
        schema.dataset = data.find(dataset.get("name", schema.dataset.name), target=dataset.get("target"))()
    schema.augmentation = augmentation.settings(values.get("augmentation"))
    logger = values.get("logger")
    if isinstance(logger, Mapping):
        schema.logger = LoggerConfig(use={name: loggers.find(name)() for name in logger.get("use") or ()})
    return schema


def _explain(error: OmegaConfBaseException, schema: Config) -> str:
    key, reason = error.full_key or "", str(error).splitlines()[0]
    if "not in" in reason:
        return unknown_key(key, schema)
    return f"{key}: {reason}" if key else reason


def unknown_key(key: str, schema: Config | None = None) -> str:
    """The message for a key that a schema lacks, by default that of any run, with the nearest ones that it has."""
    if schema is None and key in known_keys():
        group, _, _ = key.partition(".")
        return f"{key} belongs to another choice of {group}: choose it with {group}=NAME"
    known = known_keys() if schema is None else sorted({*known_keys(), *flatten(dataclasses.asdict(schema))})
    nearest = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    same_leaf = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = [other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"unknown key {key!r}: the nearest are {', '.join(same_leaf or nearest or siblings or known)}"
