"""Which weights a run begins from: a file is known by its content, wherever it lies."""

import hashlib
from contextlib import suppress
from pathlib import Path

import yaml
from yaml import YAMLError

from moex.config.schema import Config
from moex.settings import require


def identify_weights(config: Config) -> None:
    """Notes the digest of the file that `model.weights` names, if it names one, by which a recipe knows it.

    A file that is gone by now has the digest that earlier runs below `output_root` noted, so that they are found.

    Args:
        config: its `model.weights_digest` is set.

    Raises:
        ValueError: the file is neither there nor known, or it is not the one of a digest that was given.
    """
    path, given = config.model.weights_file, config.model.weights_digest
    if path is None:
        return
    if path.is_file():
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        require(given in (None, found), "model.weights_digest", given, f"{found}, of {path}; or leave it out")
        config.model.weights_digest = found
    elif given is None:
        config.model.weights_digest = _noted_digest(path, Path(config.output_root))


def _noted_digest(path: Path, output_root: Path) -> str:
    """The digest that the runs which began from a file have noted."""
    noted = set()
    for file in output_root.glob("*/seed*/config.yaml"):
        # That of another run may be damaged.
        with suppress(OSError, UnicodeDecodeError, YAMLError):
            if str(path) in (text := file.read_text()):
                content = yaml.safe_load(text)
                model = content.get("model") if isinstance(content, dict) else None
                if isinstance(model, dict) and model.get("weights") == str(path) and model.get("weights_digest"):
                    noted.add(str(model["weights_digest"]))
    if len(noted) != 1:
        several = (
            f", and runs began from several of this name: give model.weights_digest, of {', '.join(sorted(noted))}"
        )
        raise ValueError(f"model.weights is {str(path)!r}: there is no such file{several if noted else ''}")
    digest: str = noted.pop()
    return digest
