"""The house: imports run downwards, and the operator needs torch and NumPy alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "moex"
FLOORS = {
    "leftovers": 0,
    "files": 1,
    "namesake": 0,
    "normalisation": 0,
    "points": 0,
    "predictions": 0,
    "processor": 0,
    "randomness": 0,
    "registry": 0,
    "settings": 0,
    "beyond_moments": 1,
    "command_line": 1,
    "features": 1,
    "losses": 1,
    "metrics": 1,
    "bootstrap": 2,
    "checkpoint": 2,
    "exchange": 2,
    "temperature": 0,
    "augmentation": 3,
    "data": 3,
    "distributed": 3,
    "models": 3,
    "optim": 3,
    "loggers": 4,
    "config": 5,
    "engine": 6,
    "reporting": 7,
    "run": 8,
    "launch": 9,
    "reproduction": 9,
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
        assert theirs == ours or FLOORS[theirs] < FLOORS[ours], f"{ours} imports {theirs}"


def test_a_step_of_the_mixing_list_knows_no_list_and_the_base_no_step():
    """Arrows: the registry finds each step, a step knows the base and at most the step that it is a kind of."""
    folder = PACKAGE / "augmentation"
    shared = {"base", "boxes", "mixing", "settings", "__init__"}
    steps = {path.stem for path in folder.glob("*.py")} - shared
    kinds = {"manifold_mixup": {"mixup"}, "feature_cutmix": {"cutmix"}}
    for path in folder.glob("*.py"):
        nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        siblings = {(node.module or "").split(".")[2] for node in nodes if (node.module or "").count(".") == 2}
        known = siblings if (path.parent / f"{path.stem}.py").exists() else set()
        own = {name for name in known if f"moex.augmentation.{name}" in {node.module for node in nodes}}
        assert own & steps <= kinds.get(path.stem, set()), path
        if path.stem in steps:
            assert own <= {"base", "boxes"} | kinds.get(path.stem, set()), path


def test_the_configuration_is_taken_apart_in_one_place():
    """Whoever is given a whole `Config` could depend on anything in it."""
    runs = {path.name: set(imported(path)) for path in (PACKAGE / "run").glob("*.py")}
    assert [name for name, theirs in sorted(runs.items()) if "config" in theirs] == [
        "build.py",
        "candidates.py",  # to find the network of a run that was trained,
        "checks.py",  # whether its parts fit together,
        "device.py",  # where it runs,
        "evaluation.py",  # whose data sets have settings of their own,
        "session.py",  # to claim it before anything is built,
        "worker.py",  # and to find the folder of a run that may be finished.
    ]
    assert "config" not in set(imported(PACKAGE / "engine.py"))


def test_every_module_has_a_floor():
    assert {name_of(path) for path in FILES} == set(FLOORS)


def test_reporting_imports_nothing_of_training():
    allowed = {"files", "metrics", "predictions", "reporting"}
    for path in (PACKAGE / "reporting").rglob("*.py"):
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
assert "torch" not in sys.modules, "nothing is imported before it is used"
assert moex.__version__
moex.metrics.aurra([[1.0, 0.0]], [0])
model = moex.models.create("resnet8", num_classes=3)
moex.Mixing(model, [moex.CutMix(), moex.MoEx(), moex.MixStyle(), moex.LabelSmoothing()], num_classes=3)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
