"""The published archives of Speech Commands: which words a version has, and how it is fetched and unpacked."""

import hashlib
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from moex.data.dataset import MissingDataError
from moex.data.fetching import aside, fetch, make_once

URL = "http://download.tensorflow.org/data/"
COMMANDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
# All words of version 0.01, and below those that version 0.02 added.
OTHERS = ("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FIRST_WORDS = (*COMMANDS, *OTHERS, *DIGITS)
ADDED_WORDS = ("backward", "follow", "forward", "learn", "visual")


@dataclass(frozen=True)
class Version:
    """One publication.

    Attributes:
        number: `0.01` or `0.02`.
        words: that are spoken, sorted.
        recordings: of all words, without the background noise.
        sha256: of the archive.
    """

    number: str
    words: tuple[str, ...]
    recordings: int
    sha256: str

    @property
    def folder(self) -> str:
        """Its usual name, to which the ending makes the archive's."""
        return f"speech_commands_v{self.number}"

    @property
    def archive(self) -> str:
        """The name of the published file."""
        return f"{self.folder}.tar.gz"


VERSIONS = {
    "0.01": Version(
        "0.01",
        tuple(sorted(FIRST_WORDS)),
        64_727,
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    ),
    "0.02": Version(
        "0.02",
        tuple(sorted(FIRST_WORDS + ADDED_WORDS)),
        105_829,
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
}


def find_folder(root: Path, version: Version) -> Path | None:
    """The folder of the words: the root itself, or one of the archive's name in it, there or as torchaudio has it."""
    inside = (root / version.folder, root / "SpeechCommands" / version.folder)
    places = [place for place in (*inside, root) if any((place / word).is_dir() for word in version.words)]
    return places[0] if places else None


def obtain(root: Path, version: Version, *, download: bool) -> Path:
    """The folder of the words, unpacked from the archive in the root, and fetched first, where that is needed.

    Raises:
        ValueError: there is neither folder nor archive, or the archive is damaged.
        OSError: the archive cannot be fetched or unpacked.
    """
    if (folder := find_folder(root, version)) is not None:
        return folder
    if not download and not (root / version.archive).exists():
        raise MissingDataError(
            f"dataset.root is {str(root)!r}: it must hold Speech Commands {version.number}, with a folder for each "
            f"word, or {version.archive}"
        )
    make_once(
        root,
        version.folder,
        lambda: find_folder(root, version) is not None,
        lambda: _make(root, version, download=download),
    )
    return root / version.folder


def _make(root: Path, version: Version, *, download: bool) -> None:
    """Fetches the archive unless it is there, verifies it, and unpacks it."""
    archive = root / version.archive
    if download and not (archive.exists() and _sha256(archive) == version.sha256):
        fetch(URL + version.archive, archive)
    if (found := _sha256(archive)) != version.sha256:
        raise MissingDataError(
            f"{archive} ({archive.stat().st_size:,} bytes) is truncated or corrupt: its SHA-256 checksum is {found}, "
            f"not {version.sha256}"
        )
    try:
        with aside(root / version.folder) as partial, tarfile.open(archive, "r:gz") as members:
            # No links, devices or names that lead out of the folder.
            members.extractall(partial, filter="data")
            partial.rename(root / version.folder)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be unpacked ({error})") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
