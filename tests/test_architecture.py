"""The house: imports run downwards, and the operator needs torch and NumPy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "moex"
FLOORS = {
    "moments": 0,
    "config": 0,
    "randomness": 0,
    "features": 0,
    "statistics": 0,
    "exchange": 1,
    "mixing": 1,
    "metrics": 1,
    "data": 2,
    "models": 2,
    "optim": 3,
    "checkpoint": 3,
    "logging": 3,
    "distributed": 3,
    "engine": 4,
    "run": 5,
    "reporting": 5,
    "launch": 6,
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path):
    """The modules of moex that a file imports, by their first name below moex."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "moex":
            below = (node.module or "").split(".")[1:2]
            yield from below or [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("moex."):
                    yield alias.name.split(".")[1]


def name_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    ours = name_of(path)
    for theirs in imported(path):
        # Config is what every floor may read; within a floor, only a folder's own files see each other.
        assert (
            theirs == ours
            or FLOORS[theirs] < FLOORS[ours]
            or (ours, theirs)
            in {
                ("run", "reporting"),
                ("logging", "checkpoint"),
                ("statistics", "moments"),
            }
        ), f"{ours} imports {theirs}"


def test_every_module_has_a_floor():
    assert {name_of(path) for path in FILES} == set(FLOORS)


def test_reporting_imports_nothing_of_training():
    allowed = {"metrics", "reporting"}
    for path in (PACKAGE / "reporting").glob("*.py"):
        assert set(imported(path)) <= allowed


def test_no_module_outgrows_its_reader():
    for path in FILES:
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_package_needs_torch_and_numpy_alone():
    code = """
import sys
for name in ("hydra", "omegaconf", "torchvision", "timm", "pandas", "matplotlib", "rich", "sklearn", "wandb"):
    sys.modules[name] = None
import moex
moex.metrics.aurra([[1.0, 0.0]], [0])
moex.models.create("resnet8", num_classes=3)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
