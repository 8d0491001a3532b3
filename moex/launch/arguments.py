"""A command line before Hydra reads it: paths as people write them, and nothing that Hydra would do in silence."""

import argparse
import re
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException

from moex.registry import suggest

# Texts in quotes; and those without, up to what Hydra's grammar gives a meaning.
_QUOTED = r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\""""
_PLAIN = r"""(?:[^,\[\]{}()'":]|:(?!\s))+"""
# What would write files of Hydra's beside those of runs, or before anything is checked.
_ELSEWHERE = ("hydra.run.dir", "hydra.output_subdir", "hydra/job_logging", "hydra/hydra_logging", "hydra.job_logging")
# Below these, what is deleted stays so; elsewhere its default comes back.
_FREE = ("model.options.", "logger.use.", "hydra.", "hydra/")


def understand(argument: str) -> str:
    """An argument of which Hydra understands the letters of all languages, and which has no `~` to expand by it.

    Args:
        argument: `KEY=VALUE`, whose value may be a list or a dictionary; others stay as they are.
    """
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-"):
        return argument
    return key + equals + re.sub(f"{_QUOTED}|{_PLAIN}", lambda found: _quote(found[0]), value)


def _quote(text: str) -> str:
    """In quotes, if Hydra would not take it without."""
    inside = text.strip()
    if text[0] in "'\"" or (inside.isascii() and "~" not in inside):
        return text
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", inside)
    return text.replace(inside, f"'{escaped}'")


def as_written(argument: str) -> str:
    """An argument as it was before it was understood, if it was; for people."""
    written = argument.replace("'", "")
    return written if understand(written) == argument else argument


def read_arguments(arguments: Sequence[str], *, sweeps: bool) -> list[str]:
    """The arguments as Hydra understands them, without what it would do in silence, or elsewhere.

    Args:
        arguments: of the command line, without the program's name.
        sweeps: whether the program has sweeps.

    Returns:
        What they amount to: overrides first, since Hydra takes none behind an option that follows another.

    Raises:
        HydraException: the first one, and what would be right.
    """
    options = parse_options(arguments)
    modes = {
        "--run": options.run,
        "--multirun": options.multirun,
        "--cfg": options.cfg is not None,
        "--info": options.info is not None,
        "--shell-completion": options.shell_completion,
    }
    asked = [name for name, is_asked in modes.items() if is_asked]
    if asked == ["--multirun", "--cfg"]:
        raise HydraException("--cfg shows one run: leave --multirun out")
    if len(asked) > 1:
        raise HydraException(f"{' and '.join(asked)} exclude each other: leave one out")
    if options.resolve and not (options.cfg or options.help):
        raise HydraException("--resolve belongs to --cfg or --help")
    if options.experimental_rerun is not None:
        raise HydraException("--experimental-rerun: leave it out; the same command continues a run")
    if options.multirun and not sweeps:
        raise HydraException("--multirun: leave it out; checkpoint=[A,B] and test_sets=[A,B] take several")
    if options.shell_completion:
        kinds = ("install", "uninstall", "query")
        if not any(text.partition("=")[0] in kinds for text in options.overrides):
            raise HydraException("--shell-completion needs install=bash, install=zsh or install=fish, or uninstall=")
        return list(arguments)
    for override in options.overrides:
        _check_override(override)
    others = [argument for argument in arguments if argument not in options.overrides]
    return [*map(understand, options.overrides), *others]


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """What Hydra's parser makes of the arguments.

    Raises:
        HydraException: there is no such option, or it has no such value.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        options, unknown = parser.parse_known_intermixed_args(list(arguments))
    except argparse.ArgumentError as error:
        raise HydraException(str(error)) from None
    if unknown:
        known = re.findall(r"--[\w-]+", parser.format_usage())
        name = unknown[0].partition("=")[0]
        hint = suggest(name, known, otherwise="keys are set by KEY=VALUE; --help lists them")
        raise HydraException(f"there is no option {unknown[0]!r}: {hint}")
    return options


def _check_override(override: str) -> None:
    key, _, value = override.partition("=")
    name = key.lstrip("+~").partition("@")[0]
    if key.startswith("~") and not name.startswith(_FREE):
        raise HydraException(f"{key}: what is left out has its default again, so set it: {name}=VALUE")
    if any(name == place or name.startswith(f"{place}.") for place in _ELSEWHERE):
        raise HydraException(f"{name}: a run has a folder of its own below output_root, so leave it out")
    if name == "hydra/sweeper" and value != "resuming":
        raise HydraException(f"hydra/sweeper is {value}: it must be resuming, as it is without it")
