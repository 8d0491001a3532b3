"""What people are given to listen to, and to look at."""

import functools

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from sounds import RATE, write_speech_commands

NAMES = ["original", "amplitude", "speed", "stretch", "shift", "noise", "all"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_speech_commands(tmp_path_factory.mktemp("published") / "words", speakers=("aa", "cc", "dd"))


@pytest.fixture
def listen(script):
    return functools.partial(script, "listen")


def test_waveforms_and_a_sheet(listen, folder, tmp_path):
    arguments = ("heard", "--root", folder, "--version", "0.02", "--recordings", "2", "--sheet", "pictures/sheet.png")
    code, printed, _ = listen(*arguments)
    assert code == 0
    files = sorted((tmp_path / "heard").iterdir())
    words = {path.stem.rpartition("_")[0] for path in files}
    assert len(words) == 2
    assert {path.name for path in files} == {f"{word}_{name}.wav" for word in words for name in NAMES}
    for word in words:
        heard = {name: soundfile.read(tmp_path / "heard" / f"{word}_{name}.wav", dtype="int16") for name in NAMES}
        assert all(rate == RATE and len(values) == RATE for values, rate in heard.values())
        original = heard["original"][0].astype(float)
        # One of the training recordings, as it is.
        spoken = folder.glob(f"{word.partition('_')[2]}/aa_*.wav") if "unknown" not in word else folder.glob("*/aa_*")
        assert any(np.array_equal(original, soundfile.read(path, dtype="int16")[0]) for path in spoken)
        for name in NAMES[1:]:
            assert np.abs(heard[name][0] - original).max() > 20, name
        # Louder or less loud, and no more than that.
        louder = heard["amplitude"][0].astype(float)
        gain = louder @ original / (original @ original)
        assert 0.69 < gain < 1.11
        assert np.abs(louder - gain * original).max() < 0.6
        assert f"{word}_amplitude.wav: amplitude × {gain:.2f}" in printed
    assert imread("pictures/sheet.png").shape[1] > 1_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--recordings", "12"), "--recordings is 12: it must be from 1 to 11"),
        (("--seed", "-1"), "--seed is -1: it must be 0 or more"),
        (("--version", "0.03"), "invalid choice: '0.03'"),
    ],
)
def test_mistakes(listen, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        listen("heard", *arguments)
    assert message in capsys.readouterr().err


def test_no_recordings(listen, tmp_path):
    code, _, complaint = listen("heard", "--root", tmp_path / "nowhere")
    assert code == 1
    assert complaint.startswith(f"error: dataset.root is '{tmp_path}/nowhere': it must hold Speech Commands 0.01")
    assert not (tmp_path / "heard").exists()
