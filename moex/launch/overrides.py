"""What may stand on a command line, and what is said where it may not."""

from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import OverrideParseException

from moex import config


class OverrideError(ValueError):
    """A mistake on the command line."""


def check_overrides(arguments: Sequence[str], configs: Path) -> None:
    """Refuses an override of a key or a choice that does not exist, telling the nearest that do.

    Hydra refuses them too, but only says that a key is not there, and in a sweep after the jobs before it.

    Args:
        arguments: the command line's.
        configs: the folder of the groups; `--config-dir` adds another.

    Raises:
        OverrideError: there is no such key or choice, or what is asked for does not go together.
    """
    asked = get_args(arguments)
    if asked.multirun and asked.cfg:
        raise OverrideError("--cfg shows one run: leave --multirun out")
    folders = [configs, *([Path(asked.config_dir)] if asked.config_dir else [])]
    for folder in folders:
        if not folder.is_dir():
            raise OverrideError(f"there is no folder {folder}")
    parsed = OverridesParser.create().parse_overrides([text for text in asked.overrides if "=" in text])
    keys = config.known_keys()
    for override in parsed:
        key = override.key_or_group
        if key == "hydra.job.chdir" and override.value():
            raise OverrideError("hydra.job.chdir: every path is seen from where the command runs, so leave it out")
        if key.startswith("hydra"):
            continue  # Hydra's own: its plugins add choices that are not in our folder.
        if key == "experiment" and not override.is_add():
            raise OverrideError(
                f"an experiment is added with a plus: +experiment={override.get_value_element_as_str()}"
            )
        free = key.startswith("model.options") or any((folder / key).is_dir() for folder in folders)
        if not free and key not in keys:
            raise OverrideError(config.unknown_key(key))
        known = sorted(path.stem for folder in folders for path in (folder / key).glob("*.yaml"))
        if known and override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            values = override.sweep_string_iterator() if override.is_sweep_override() else [override.value()]
            for value in map(str, values):
                if value not in known:
                    raise OverrideError(f"there is no {key} {value!r}: it must be one of {', '.join(known)}")


def in_one_line(error: Exception) -> str:
    """What Hydra says, without the lines about its inside."""
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: an override is KEY=VALUE or GROUP=CHOICE"
    lines = [line.strip() for line in str(error).splitlines()]
    inside = ("full_key:", "object_type=", "Config search path", "provider=", "See https:")
    return " ".join(line for line in lines if line and not line.startswith(inside))
