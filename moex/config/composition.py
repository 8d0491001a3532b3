"""What Hydra composes configurations from besides the files in configs/, and what was wrong where it could not."""

import dataclasses
import difflib
import re
from collections.abc import Callable

from hydra.core.config_store import ConfigStore
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf

from moex.config import defaults
from moex.config.evaluation import EvaluationConfig


def store_schemas() -> None:
    """Stores the schemas that the configurations of a run and of an evaluation begin with.

    Every key is there to be overridden, whichever choices the groups make. The keys of a part that is one of several
    are its own, as a network's options are, and are refused where they are parsed: Hydra composes what the jobs of a
    sweep have in common without their choices.
    """
    run = OmegaConf.create(defaults() | {"optimizer": {}, "schedule": {}})
    evaluation = OmegaConf.create(dataclasses.asdict(EvaluationConfig()))
    for own in (run.dataset, run.optimizer, run.schedule, run.model.options):
        OmegaConf.set_struct(own, False)
    for own in (evaluation.dataset, evaluation.model.options):
        OmegaConf.set_struct(own, False)
    store = ConfigStore.instance()
    store.store("schema", run)
    store.store("evaluation_schema", evaluation)


def explain(error: Exception, unknown_key: Callable[[str], str]) -> str:
    """What is wrong, in a line: what Hydra says, without the lines about its inside.

    Args:
        error: any other than Hydra's is told as it is.
        unknown_key: says what is wrong about a key that the schema lacks.
    """
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: an override is KEY=VALUE or GROUP=CHOICE"
    unknown = re.match(r"Could not override '(\S+)'\.\nTo append to your config", str(error))
    if unknown and not unknown[1].startswith(("hydra.", "model.options.")):
        return unknown_key(unknown[1])
    pattern = r"Could not find '([\w/]+)/([^/']+)'\s+Available options in '[\w/]+':(.*?)(?:Config search path|$)"
    if absent := re.search(pattern, str(error), re.DOTALL):
        group, name, choices = absent[1], absent[2], absent[3].split()
        nearest = difflib.get_close_matches(name, choices, n=3, cutoff=0.4)
        return f"there is no {group} {name!r}: " + (
            f"the nearest are {', '.join(nearest)}" if nearest else f"it must be one of {', '.join(choices)}"
        )
    lines = [line.strip() for line in str(error).splitlines()]
    inside = ("full_key:", "object_type=", "Config search path", "provider=", "See https:")
    return " ".join(line for line in lines if line and not line.startswith(inside))
