"""Speech Commands in the published layout, for the tests of its parts."""

import shutil

import pytest
from sounds import write_speech_commands


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    return write_speech_commands(tmp_path_factory.mktemp("published") / "speech_commands_v0.02")


@pytest.fixture
def folder(tmp_path, published):
    """A copy that a test may spoil."""
    return shutil.copytree(published, tmp_path / "copy")
