"""What may stand on a command line, and what is said where it may not."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ValueType
from hydra.errors import OverrideParseException

from moex import config


class OverrideError(ValueError):
    """A mistake on the command line."""


def check_overrides(arguments: Sequence[str], configs: Path) -> None:
    """Refuses an override of a key or a choice that does not exist, telling the nearest that do.

    Hydra refuses them too, but only says that a key is not there, and in a sweep after the jobs before it.

    Raises:
        OverrideError: there is no such key or choice.
    """
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    if any(argument.startswith(("--config-dir", "-cd")) for argument in arguments):
        return  # That folder adds groups and choices of its own.
    keys = config.known_keys()
    for override in parsed:
        key = override.key_or_group
        if key.startswith("hydra"):
            continue  # Hydra's own: its plugins add choices that are not in our folder.
        if key == "experiment" and not override.is_add():
            raise OverrideError(
                f"an experiment is added with a plus: +experiment={override.get_value_element_as_str()}"
            )
        free = key == "experiment" or key.startswith("model.options")
        if not free and key not in keys:
            raise OverrideError(config.unknown_key(key))
        if (configs / key).is_dir() and override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            known = sorted(path.stem for path in (configs / key).glob("*.yaml"))
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
