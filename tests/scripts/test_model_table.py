"""What the table of networks counts, against counts by hand."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

SCRIPT = Path(__file__).parents[2] / "scripts" / "model_table.py"


@pytest.fixture(scope="module")
def table():
    specification = importlib.util.spec_from_file_location("model_table", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        specification.loader.exec_module(module)
    return module


def test_multiply_adds_of_resnet20(table):
    """Each convolution: kernel, channels in, channels out, positions; then the classifier."""
    stage1 = 6 * 9 * 16 * 16 * 32 * 32
    stage2 = (9 * 16 * 32 + 5 * 9 * 32 * 32) * 16 * 16
    stage3 = (9 * 32 * 64 + 5 * 9 * 64 * 64) * 8 * 8
    expected = 9 * 3 * 16 * 32 * 32 + stage1 + stage2 + stage3 + 64 * 10
    assert table.count_multiply_adds(table.create({"name": "resnet20", "options": {}}, classes=10)) == expected


def test_activations_are_what_each_layer_reads_again(table):
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),  # its input
            nn.BatchNorm2d(8),  # its input
            nn.ReLU(inplace=True),  # its output, which the next layer reads too
            nn.Conv2d(8, 4, 3, stride=2, padding=1),
            nn.Sigmoid(),  # its output, a view of which the classifier reads
            nn.Flatten(),
            nn.Linear(4 * 16 * 16, 10),
        )
    assert table.count_activation_bytes(model) == 4 * (3 * 32 * 32 + 2 * 8 * 32 * 32 + 4 * 16 * 16)


def test_saving_memory_saves_memory(table):
    """Each layer's concatenation and its normalised form are kept no more, but what they are made of is."""
    config = {"name": "densenet_bc22", "options": {"growth_rate": 12}}
    plain = table.count_activation_bytes(table.create(config, classes=10))
    saving = table.count_activation_bytes(table.create(config, classes=10, memory_saving=True))
    saved = 0
    for before, positions in ((24, 32 * 32), (30, 16 * 16), (33, 8 * 8)):
        concatenated = before + (before + 12) + (before + 24)
        saved += positions * (2 * concatenated - (before + 24))
    assert plain - saving == 4 * saved


def test_shapes_at_the_points(table):
    model = table.create({"name": "wrn10", "options": {"width": 2}}, classes=10)
    shapes = {"stem": (16, 32, 32), "stage1": (32, 32, 32), "stage2": (64, 16, 16), "stage3": (128, 8, 8)}
    assert table.point_shapes(model) == shapes


def test_reported_counts_are_met_to_the_printed_digit(table):
    known = table.networks()
    assert set(table.REPORTED) <= set(known)
    assert not any(":" in config["name"] for config in known.values())
    for name, reported in table.REPORTED.items():
        millions = table.count_parameters(table.create(known[name], classes=10)) / 1e6
        digits = len(reported.partition(".")[2])
        # Han et al. cut PyramidNet-110's 1.77 to 1.7.
        assert reported in (f"{millions:.{digits}f}", str(int(millions * 10**digits) / 10**digits)), name


def test_the_table_is_markdown_whatever_the_width_of_the_terminal():
    command = [sys.executable, str(SCRIPT), "resnet20", "densenet_bc_100"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in printed.splitlines() if line.strip()]
    assert len(lines) == 5
    assert len({len(line) for line in lines}) == 1
    cells = [cell.strip() for cell in lines[2].strip("| ").split("|")]
    assert cells[:5] == ["resnet20", "0.28 M", "0.27 M", "0.27 M", "41 M"]
    assert cells[6] == "16×32×32 → 16×32×32 → 32×16×16 → 64×8×8"
    plain, saving = (float(re.search(r"([\d.]+) MiB", line)[1]) for line in lines[3:])
    assert saving < plain / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet21"], "there is no network 'resnet21': the nearest are resnet32, resnet20"),
        (["--classes=0"], "1 or more"),
    ],
)
def test_mistakes(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        script("model_table", *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
