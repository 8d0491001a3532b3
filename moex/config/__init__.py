"""The configuration of a run: a tree of the parts' own settings, its checks, and the identity that names a folder.

The YAML files in `configs/` say which values; the parts' dataclasses say which keys and types exist. `parse` turns
what Hydra composed into a `Config`, or raises `ValueError` naming the key, the value and what is right. What needs a
network or a data set to be checked (does the exchange point exist?) is checked in `moex.run`.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from moex import augmentation, data, loggers, models
from moex.config.checks import LONGEST_NAME, check
from moex.config.fastest import settle_precision
from moex.config.initial import identify_weights
from moex.config.parts import part, typed
from moex.config.schema import Config, RuntimeConfig
from moex.data import DataSet
from moex.loggers import LoggerConfig
from moex.optim import OPTIMIZERS, SCHEDULES
from moex.settings import acting, acting_tree, expand_home, flatten, require

__all__ = [
    "Config",
    "RuntimeConfig",
    "acts_on_training",
    "defaults",
    "identify_weights",
    "keys_in_use",
    "known_keys",
    "name_run",
    "parse",
    "parse_test_sets",
    "read_config",
    "recipe",
    "run_folder",
    "settle_precision",
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
    values = expand_home(values)
    chosen = {
        key: part(values[key], registry, key=key, default=default)
        for key, (registry, default) in _CHOSEN.items()
        if key in values
    }
    others = {str(key): value for key, value in values.items() if key not in (*chosen, "test_sets")}
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
    config.test_sets = parse_test_sets(values.get("test_sets", {}), config.dataset)
    config.model.name, config.model.options = models.resolve(config.model.name, config.model.options)
    check(config)
    config.name = config.name or _readable(config)
    return config


def read_config(path: Path) -> Config:
    """The configuration that a run has left, or that was written in its form.

    Raises:
        ValueError: the file is missing or damaged, or holds something else.
    """
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged (it holds a {type(values).__name__}, not the keys of a run)")
    try:
        return parse(values)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or of another version ({error})") from None


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
    return {key: value for key, value in dataclasses.asdict(Config()).items() if key not in (*_CHOSEN, "test_sets")}


def name_run(name: str, overrides: Sequence[str]) -> str:
    """The composed name, followed by the overrides that make the training another; as it is where one sets it."""
    keys = [text.lstrip("+~").partition("=")[0].partition("@")[0] for text in overrides]
    acting = [text for text, key in zip(overrides, keys, strict=True) if acts_on_training(key)]
    if not name or "name" in keys:
        return name
    told = " ".join([name, *acting]).encode()
    return (told if len(told) <= LONGEST_NAME else told[: LONGEST_NAME - 3] + b"...").decode(errors="ignore")


def acts_on_training(key: str) -> bool:
    """Whether a key, or a group, may change a run's recipe."""
    whole = Config()
    part, _, rest = key.partition(".")
    if part not in whole.recipe() or key == "model.options.memory_saving":
        return False
    if part == "dataset" and rest not in ("", "target"):
        known = [data.find(name)(root=os.devnull) for name in data.names()]
        having = [settings for settings in known if rest in dataclasses.asdict(settings)]
        return not having or any(rest in settings.recipe() for settings in having)
    return part != "runtime" or not rest or rest in whole.runtime.recipe()


def recipe(config: Config) -> dict[str, Any]:
    """What acts on this run's training and differs from the schema's defaults, as dotted keys.

    Names, places and the keys of parts that are not used are left out, and the seed: runs of one recipe differ in
    their seed alone. Only differences are kept, so that a key added to the schema tomorrow changes the identity of
    no run of today.
    """
    usual = _schema({})
    default = flatten(dataclasses.asdict(usual)) | acting(usual)
    # Those of a data set are its own, but for what says which one it is; what lies in its root is no default.
    own = type(config.dataset)(root=os.devnull)
    default |= {f"dataset.{key}": value for key, value in acting(own).items() if key not in ("name", "target")}
    return {key: value for key, value in sorted(acting(config).items()) if value != default.get(key)}


def keys_in_use(config: Config) -> dict[str, Any]:
    """A configuration, nested, without what nothing uses: settings of steps that are not in the list, for example."""
    tree = dataclasses.asdict(config)
    # What is reported of an experiment sets nothing.
    del tree["paper"]
    return tree | {part: acting_tree(getattr(config, part)) for part in ("augmentation", "moments")}


def run_folder(config: Config) -> Path:
    """`<output_root>/<data set>-<network>-<steps>-<digest of the recipe>/seed<k>`, one for a recipe and a seed."""
    text = json.dumps(recipe(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return Path(config.output_root) / f"{_readable(config)}-{digest}" / f"seed{config.seed}"


def parse_test_sets(entries: Any, training_set: DataSet, *, key: str = "test_sets") -> dict[str, DataSet]:
    """The test sets of a list, by their labels; or of a mapping, whose keys are the labels.

    What an entry leaves open is as the training set has it, where that was changed: the size of images, the workers.
    A label is the name, and what acts and differs from that.
    """
    allowed = "a list of data sets, each a name, or its keys, such as {name: imagenet_a, root: data}"
    require(isinstance(entries, list | Mapping), key, entries, allowed)
    labelled = entries.items() if isinstance(entries, Mapping) else [(None, entry) for entry in entries]
    found: dict[str, DataSet] = {}
    for label, entry in labelled:
        values = {"name": entry} if isinstance(entry, str) else entry
        is_named = isinstance(values, Mapping) and (values.get("name") or values.get("target"))
        require(bool(is_named), key, entry, allowed)
        name = values.get("target") or values["name"]
        schema = data.find(name, target=values.get("target"), key=f"{key}.target")
        usual = _changed(training_set, schema) | {"name": name, "target": values.get("target")}
        dataset, plain = (
            typed(settings, schema, key=f"{key}.{name}", title=name) for settings in (usual | {**values}, usual)
        )
        acting = dataset.recipe()
        changed = [
            f"{own}={value}" for own, value in vars(dataset).items() if own in acting and value != getattr(plain, own)
        ]
        label = label or ",".join([name, *changed])
        require(label not in found, key, label, "there once")
        dataset.name = name
        found[label] = dataset
    return found


def _changed(training_set: DataSet, schema: type[DataSet]) -> dict[str, Any]:
    """The settings of a training set that are not its defaults and that another data set has too.

    The root, of the same data set alone: others lie elsewhere.
    """
    usual, own = type(training_set)(), {"name", "target", "download", "validation", "cutout_size"}
    if schema is not type(training_set):
        own.add("root")
    keys = {item.name for item in dataclasses.fields(schema)} - own
    return {key: value for key, value in vars(training_set).items() if key in keys and value != getattr(usual, key)}


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
    if key in known_keys():
        group, _, _ = key.partition(".")
        return f"{key} belongs to another choice of {group}: choose it with {group}=NAME"
    known = known_keys() if schema is None else sorted({*known_keys(), *flatten(dataclasses.asdict(schema))})
    nearest = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    same_leaf = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = [other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"unknown key {key!r}: the nearest are {', '.join(same_leaf or nearest or siblings or known)}"
