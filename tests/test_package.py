"""What is published: what the wheel and the source distribution hold, and that the wheel works by itself."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

import moex

REPOSITORY = Path(__file__).parents[1]
USE = """
import sys, torch, moex
assert sys.prefix in moex.__file__, moex.__file__
model = moex.models.create("resnet20", num_classes=10)
exchange = moex.MomentExchange(model, "stem")
with exchange.swap(torch.randperm(4)):
    logits = model(torch.randn(4, 3, 32, 32))
print(moex.metrics.aurra(logits, torch.arange(4)))
"""


def committed():
    """The paths of what is committed or will be."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    return [name for name in names if name and (REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The folder of both, the wheel built from the source distribution, as for a release."""
    target = tmp_path_factory.mktemp("distributions")
    source = target / "source"
    # From a copy: setuptools leaves a folder build/ behind.
    for name in committed():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target / "dist"), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return target / "dist"


@pytest.fixture(scope="module")
def wheel(distributions):
    (path,) = distributions.glob("moment_exchange-*.whl")
    return path


def test_a_registry_takes_both(distributions):
    paths = sorted(map(str, distributions.iterdir()))
    assert len(paths) == 2
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *paths], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == 2


def test_the_source_distribution_is_the_checkout(distributions):
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = {name for name in committed() if not name.startswith((".", "MANIFEST.in"))} - names
    assert not missing


def test_the_changelog_begins_with_this_version():
    headings = re.findall(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == moex.__version__


def test_the_wheel_holds_the_package_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    tops = {name.split("/")[0] for name in names}
    assert tops == {"moex", next(top for top in tops if top.endswith(".dist-info"))}
    packaged = [*(REPOSITORY / "moex").rglob("*.py"), *(REPOSITORY / "moex").rglob("templates/*")]
    ours = {str(path.relative_to(REPOSITORY)) for path in packaged}
    assert ours | {"moex/py.typed"} <= set(names)
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert {line.split()[1].split(">")[0] for line in required} == {"torch", "numpy"}
    assert "Name: moment-exchange" in metadata
    assert "License-Expression: MIT" in metadata
    assert f"Version: {moex.__version__}" in metadata


def test_the_wheel_works_in_an_environment_of_its_own(wheel, tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    site = next((environment / "lib").glob("python3*")) / "site-packages"
    # torch and NumPy come from here: installing them again would take minutes and gigabytes.
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    answer = subprocess.run(
        [str(python), "-W", "error", "-c", USE], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    assert 0 <= float(answer.stdout) <= 1
