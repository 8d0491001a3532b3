"""ImageNet's classes, by the names of their folders: WordNet's synsets, such as `n01440764`."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from moex.data.naming import first

SUBSETS = ("imagenet_a", "imagenet_r")


def synsets() -> tuple[str, ...]:
    """The 1,000 classes in their usual order, which is that of their names."""
    return _packaged("imagenet")


def choose_synsets(choice: str, *, key: str) -> tuple[str, ...]:
    """Some of the classes, in their usual order.

    Args:
        choice: a subset that is known by its name, or the path of a file with a synset in each line; what follows it
            there after a space, and lines that begin with `#`, are left out.
        key: of the choice, for errors.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    if choice in SUBSETS:
        return _packaged(choice)
    allowed = f"null, {', '.join(SUBSETS)} or a file with a synset in each line"
    try:
        lines = Path(choice).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise ValueError(f"{key} is {choice!r}: it must be {allowed} ({reason})") from None
    chosen = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"{key} is {choice!r}: the file must hold one or more synsets, each once")
    refuse_others(chosen, where=choice)
    return tuple(sorted(chosen))


def describe_synsets(chosen: Sequence[str]) -> str | None:
    """A short text that tells some classes from any others; None for all of them."""
    import hashlib

    if tuple(chosen) == synsets():
        return None
    for name in SUBSETS:
        if tuple(chosen) == _packaged(name):
            return name
    return f"{len(chosen)} synsets, {hashlib.sha256(' '.join(chosen).encode()).hexdigest()[:8]}"


def refuse_others(names: Sequence[str], *, where: str) -> None:
    """Refuses names that are none of ImageNet's classes.

    Raises:
        ValueError: the first of them, and how many.
    """
    known = set(synsets())
    if others := [name for name in names if name not in known]:
        raise ValueError(f"{where}: {len(others)} of {len(names)} names are no synsets of ImageNet: {first(others)}")


@functools.cache
def _packaged(name: str) -> tuple[str, ...]:
    # timm.data.ImageNetInfo reads the same file, and takes seconds to be imported.
    timm = importlib.util.find_spec("timm")
    assert timm is not None
    assert timm.origin is not None
    return tuple((Path(timm.origin).parent / "data" / "_info" / f"{name}_synsets.txt").read_text().split())
