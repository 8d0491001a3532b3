"""What Hydra composes configurations from besides the files in configs/, and what was wrong where it could not."""

import dataclasses
import re
from collections.abc import Callable
from functools import cache

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.errors import OverrideParseException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

from moex.config import defaults
from moex.config.evaluation import EvaluationConfig
from moex.registry import suggest

# So many choices of a group are told where none is near to what was asked for.
MOST_TOLD = 30


class SchemaSource(ConfigSource):
    """The schemas that the configurations of a run and of an evaluation begin with: `schema`, `evaluation_schema`.

    Every key is there to be overridden, whichever choices the groups make. The keys of a part that is one of several
    are its own, as a network's options are, and are refused where they are parsed: Hydra composes what the jobs of a
    sweep have in common without their choices.
    """

    @staticmethod
    def scheme() -> str:
        """The first part of the place of such a source."""
        return "schemas"

    def load_config(self, config_path: str) -> ConfigResult:
        """See `ConfigSource`."""
        schema = SCHEMAS[config_path.removesuffix(".yaml")]()
        return ConfigResult(self.provider, self.full_path(), schema, header={"package": None})

    def available(self) -> bool:
        """See `ConfigSource`."""
        return True

    def is_group(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        return config_path == ""

    def is_config(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        return config_path.removesuffix(".yaml") in SCHEMAS

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """See `ConfigSource`."""
        return [] if config_path or results_filter == ObjectType.GROUP else sorted(SCHEMAS)


def run_schema() -> DictConfig:
    """All keys of a run; those of a part that is one of several are open."""
    schema = OmegaConf.create(defaults() | {"optimizer": {}, "schedule": {}})
    for own in (schema.dataset, schema.optimizer, schema.schedule, schema.model.options):
        OmegaConf.set_struct(own, False)
    return schema


def evaluation_schema() -> DictConfig:
    """All keys of an evaluation, likewise."""
    schema = OmegaConf.create(dataclasses.asdict(EvaluationConfig()))
    for own in (schema.dataset, schema.model.options):
        OmegaConf.set_struct(own, False)
    return schema


SCHEMAS = {"schema": run_schema, "evaluation_schema": evaluation_schema}


@cache
def offer_schemas() -> None:
    """From here on, what Hydra composes in this process may begin with `SCHEMAS`."""
    offer(SchemaSource, "")
    # The store of Hydra's own configurations, of which there is one alone, is copied 128 times for `--help`.
    setattr(ConfigStore, "__deepcopy__", lambda store, _: store)  # noqa: B010


def offer(source: type[ConfigSource], place: str) -> None:
    """Lets Hydra look into a source of configurations, at a place, in whatever this process composes."""

    class OnSearchPath(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append(provider=source.scheme(), path=f"{source.scheme()}://{place}")

    Plugins.instance().register(source)
    Plugins.instance().register(OnSearchPath)


def explain(error: Exception, unknown_key: Callable[[str], str]) -> str:
    """What is wrong, in a line: what Hydra says, without the lines about its inside.

    Args:
        error: any other than Hydra's is told as it is.
        unknown_key: says what is wrong about a key that the schema lacks.
    """
    if isinstance(error, OverrideParseException):
        return (
            f"cannot read {error.override!r}: an override is KEY=VALUE or GROUP=CHOICE; a VALUE with brackets or "
            "commas of its own is 'KEY=\"VALUE\"'"
        )
    unknown = re.match(r"Could not override '(\S+)'\.\nTo append to your config", str(error))
    if unknown and not unknown[1].startswith(("hydra.", "model.options.")):
        return unknown_key(unknown[1])
    pattern = r"Could not find '([\w/]+)/([^/']+)'\s+Available options in '[\w/]+':(.*?)(?:Config search path|$)"
    if absent := re.search(pattern, str(error), re.DOTALL):
        group, name, choices = absent[1], absent[2], absent[3].split()
        many = f"--help lists the {len(choices)} that there are" if len(choices) > MOST_TOLD else None
        return f"there is no {group} {name!r}: {suggest(name, choices, otherwise=many)}"
    lines = [line.strip() for line in str(error).splitlines()]
    inside = ("full_key:", "object_type=", "Config search path", "provider=", "See https:")
    return " ".join(line for line in lines if line and not line.startswith(inside))
