"""The published archives: fetched, verified and unpacked, and what may be wrong with them."""

import dataclasses
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sounds import wav

from moex.data import MissingDataError
from moex.data.sounds import publication
from moex.data.sounds.publication import VERSIONS, obtain

SOUND = wav([0.0] * 100)


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that is served in the place of the published one."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(publication, "URL", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()


def archive(*members):
    """Published archives hold the folders of words at their top."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc"
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


SMALL = archive(("./yes/a_nohash_0.wav", SOUND), ("./testing_list.txt", b"yes/a_nohash_0.wav\n"))


def version(content):
    return dataclasses.replace(VERSIONS["0.01"], sha256=hashlib.sha256(content).hexdigest())


def test_fetched_and_unpacked_once(tmp_path, site):
    (site / "speech_commands_v0.01.tar.gz").write_bytes(SMALL)
    root = tmp_path / "root"
    folder = obtain(root, version(SMALL), download=True)
    assert folder == root / "speech_commands_v0.01"
    assert (folder / "yes" / "a_nohash_0.wav").read_bytes() == SOUND
    # Later, neither the site nor the archive is needed.
    (site / "speech_commands_v0.01.tar.gz").unlink()
    (root / "speech_commands_v0.01.tar.gz").unlink()
    assert obtain(root, version(SMALL), download=True) == obtain(root, version(SMALL), download=False) == folder


def test_unpacked_without_being_fetched(tmp_path):
    (tmp_path / "speech_commands_v0.01.tar.gz").write_bytes(SMALL)
    # What a killed process left.
    (tmp_path / ".speech_commands_v0.01.partial" / "no").mkdir(parents=True)
    folder = obtain(tmp_path, version(SMALL), download=False)
    assert sorted(path.name for path in folder.iterdir()) == ["testing_list.txt", "yes"]


def test_a_damaged_archive_is_fetched_again(tmp_path, site):
    (site / "speech_commands_v0.01.tar.gz").write_bytes(SMALL)
    (tmp_path / "speech_commands_v0.01.tar.gz").write_bytes(SMALL[:100])
    with pytest.raises(MissingDataError, match=r"gz \(100 bytes\) is truncated or corrupt: its SHA-256 "):
        obtain(tmp_path, version(SMALL), download=False)
    assert obtain(tmp_path, version(SMALL), download=True).is_dir()


@pytest.mark.parametrize("place", ["", "speech_commands_v0.01", "SpeechCommands/speech_commands_v0.01"])
def test_where_the_folder_may_be(tmp_path, place):
    """The root itself, in it, or where torchaudio puts it; nothing is written there."""
    (tmp_path / place / "yes").mkdir(parents=True)
    assert obtain(tmp_path, VERSIONS["0.01"], download=False) == tmp_path / place
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_neither_folder_nor_archive(tmp_path):
    message = r"must hold Speech Commands 0.02, with a folder for each word, or speech_commands_v0.02.tar.gz$"
    with pytest.raises(MissingDataError, match=message):
        obtain(tmp_path / "nowhere", VERSIONS["0.02"], download=False)


def test_what_cannot_be_fetched(tmp_path, site):
    with pytest.raises(OSError, match=r"v0.01.tar.gz could not be fetched \(.*404.*\): put it into .* by hand"):
        obtain(tmp_path, VERSIONS["0.01"], download=True)
    (site / "speech_commands_v0.01.tar.gz").write_bytes(SMALL)
    with pytest.raises(ValueError, match="is truncated or corrupt"):
        obtain(tmp_path, VERSIONS["0.01"], download=True)


UNSAFE = {
    "out of the folder": archive(("../evil.wav", SOUND)),
    "a link": archive(("yes", None)),
    "not compressed": b"nothing of the kind",
    "cut off": SMALL[:-30],
}


@pytest.mark.parametrize("content", UNSAFE.values(), ids=UNSAFE)
def test_what_is_not_unpacked(tmp_path, content):
    root = tmp_path / "root"
    root.mkdir()
    (root / "speech_commands_v0.01.tar.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"speech_commands_v0.01.tar.gz cannot be unpacked"):
        obtain(root, version(content), download=False)
    assert not (tmp_path / "evil.wav").exists()
    assert not [path for path in root.iterdir() if path.is_dir()]
