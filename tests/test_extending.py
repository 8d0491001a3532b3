"""What docs/extending.md shows works outside the repository: its code and its command, in a folder of their own."""

import json
import shlex
import sys
from functools import partial

import pages
import pytest
from program import run

from moex.config import parse

blocks = partial(pages.blocks, "extending.md")
SHORT = ("epochs=1", "limit_train=100", "limit_test=50")


def stripes(result):
    assert result["name"] == "Stripes-resnet8-moex"
    assert result["selected_on"] == "validation"
    assert result["recipe"]["dataset.target"] == "my_package.Stripes"
    assert result["recipe"]["dataset.noise"] == 0.3


def two_layers(result):
    assert result["recipe"]["model.name"] == "my_networks:TwoLayers"
    assert result["parameters"] == 24 * 9 + 24 * 24 * 9 + 2 * 24 + 4 * 24 + 24 * 10 + 10


def noise(result):
    assert result["recipe"]["augmentation.steps"] == ["noise", "moex"]
    assert result["recipe"]["augmentation.noise.target"] == "my_steps.Noise"
    assert result["recipe"]["augmentation.noise.scale"] == 0.2


def largest(result):
    assert result["recipe"]["augmentation.moex.statistic"] == "my_statistics.exchange_largest"
    assert result["config"]["augmentation"]["moex"]["channel_dim"] is None


# A row for each section with code: what holds of the run that its command leaves.
SECTIONS = {"A data set": stripes, "A network": two_layers, "An augmentation step": noise, "A statistic": largest}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section(section, tmp_path, monkeypatch):
    (code,), (command,) = blocks(section, "python"), blocks(section, "sh")
    first, *lines = code.splitlines()
    assert len([line for line in lines if line.strip()]) < 20
    (tmp_path / first.removeprefix("# ")).write_text(code)
    path, python, program, *overrides = shlex.split(command)
    assert (path, python, program) == ("PYTHONPATH=.", "python", "train.py")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, printed = run(*overrides, *SHORT, cwd=tmp_path)
    assert code == 0, printed
    (path,) = tmp_path.rglob("result.json")
    SECTIONS[section](json.loads(path.read_text()))


MISTAKES = {
    "a key that it lacks": ({"nois": 1}, "unknown key 'dataset.nois': the nearest are dataset.noise"),
    "a wrong type": ({"noise": "loud"}, "dataset.noise: Value 'loud'"),
    "no such class": ({"target": "my_package.Spots"}, "dataset.target is 'my_package.Spots': it must be"),
}


@pytest.mark.parametrize(("settings", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_its_settings_gets_the_same_answer_as_in_ours(settings, message, tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(blocks("A data set", "python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)
    with pytest.raises(ValueError, match=message) as caught:
        parse({"dataset": {"target": "my_package.Stripes"} | settings})
    assert len(str(caught.value).splitlines()) == 1
