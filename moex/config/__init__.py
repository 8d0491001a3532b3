"""The typed schema of a run's whole configuration, its checks, and the identity that names a run's folder.

The YAML files in `configs/` say which values; the dataclasses here say which keys and types exist. `parse`
turns what Hydra composed into a `Config`, or raises `ValueError` naming the key, the value and what is right.
What needs a network or a data set to be checked (does the exchange point exist?) is checked in `moex.run`.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moex.config.checks import check
from moex.config.schema import (
    IMAGES,
    MIXING_STEPS,
    STANDING_STEPS,
    STEPS,
    AugmentationConfig,
    CheckpointConfig,
    Config,
    LoggerConfig,
    MixingStepConfig,
    MoExConfig,
    OptimizerConfig,
    ScheduleConfig,
    flatten,
)

__all__ = [
    "IMAGES",
    "MIXING_STEPS",
    "STANDING_STEPS",
    "STEPS",
    "AugmentationConfig",
    "Config",
    "LoggerConfig",
    "MixingStepConfig",
    "MoExConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "flatten",
    "known_keys",
    "parse",
    "recipe",
    "run_folder",
    "unknown_key",
]

# What changes neither the law of the training nor its numbers on one kind of machine.
_OUTSIDE_THE_RECIPE = frozenset(
    {"name", "seed", "output_root", "dataset.root", "dataset.download", "dataset.cutout_size", "runtime.device"}
    | {"model.options.memory_saving"}
    | {f"logger.{item.name}" for item in dataclasses.fields(LoggerConfig)}
    | {f"checkpoint.{item.name}" for item in dataclasses.fields(CheckpointConfig)}
)


def parse(composed: DictConfig | dict[str, Any]) -> Config:
    """Checks a composed configuration against the schema and returns it typed.

    Args:
        composed: what Hydra composed, or the dictionary form of a `Config`.

    Raises:
        ValueError: an unknown key, a wrong type, a value out of its range or an impossible combination.
    """
    values = OmegaConf.to_container(composed, resolve=True) if isinstance(composed, DictConfig) else composed
    try:
        # A fresh merge: `+a.b=1` extends what Hydra composed, and only the schema itself can refuse it.
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), values))
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    assert isinstance(config, Config)
    check(config)
    return config


def known_keys() -> list[str]:
    """All dotted keys of the schema, groups included."""
    groups = [item.name for item in dataclasses.fields(Config)]
    return sorted({*flatten(dataclasses.asdict(Config())), *groups})


def recipe(config: Config) -> dict[str, Any]:
    """What makes this run's training differ from the schema's defaults, as dotted keys.

    The seed, names and places are left out: runs of one recipe differ in their seed alone. Only differences
    are kept, so that a key added to the schema tomorrow changes the identity of no run of today.
    """
    default = flatten(dataclasses.asdict(Config()))
    return {
        key: value
        for key, value in sorted(flatten(dataclasses.asdict(config)).items())
        if key not in _OUTSIDE_THE_RECIPE and value != default.get(key)
    }


def run_folder(config: Config) -> Path:
    """`<output_root>/<name>/<recipe>/seed<k>`, the same for the same command."""
    text = json.dumps(recipe(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = [config.model.name, "+".join(config.augmentation.steps) or "none", digest]
    readable = "-".join(re.sub(r"[^\w.+]+", "_", part) for part in parts)
    return Path(config.output_root) / config.name / readable / f"seed{config.seed}"


def _explain(error: OmegaConfBaseException) -> str:
    key, reason = error.full_key or "", str(error).splitlines()[0]
    if "not in" in reason:
        return unknown_key(key)
    return f"{key}: {reason}" if key else reason


def unknown_key(key: str) -> str:
    """The message for a key that the schema lacks, with the nearest ones that it has."""
    known = known_keys()
    nearest = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    same_leaf = [other for other in known if other.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = [other for other in known if other.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"unknown key {key!r}: the nearest are {', '.join(same_leaf or nearest or siblings or known)}"
