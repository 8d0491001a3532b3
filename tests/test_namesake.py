"""Beside PyPI's `moex`, a client of the Moscow Exchange, `import moex` and the scripts tell which one was found."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import moex
from moex.namesake import describe_namesake

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(moex.__file__).parent
THEIRS = "MoscowExchange ISS Queries implementation"


def install(site, *, name="moex", summary=THEIRS):
    """A distribution with one module, as pip leaves it."""
    (site / "moex").mkdir(parents=True, exist_ok=True)
    (site / "moex" / "__init__.py").write_text("from .meta import Meta\n")
    (site / "moex" / "meta.py").write_text("class Meta: pass\n")
    information = site / f"{name.replace('-', '_')}-2.0.0.dist-info"
    information.mkdir()
    fields = {"Metadata-Version": "2.1", "Name": name, "Version": "2.0.0", "Summary": summary}
    (information / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return site


def test_elsewhere_it_is_named_with_its_place(tmp_path):
    install(tmp_path)
    assert describe_namesake(PACKAGE, search_path=[str(tmp_path)]) == (
        f"two packages are called moex: this is Moment Exchange in {PACKAGE}, "
        f"not moex 2.0.0 ({THEIRS}) in {tmp_path / 'moex'}"
    )


def test_in_one_folder_files_of_one_are_lost(tmp_path):
    install(tmp_path)
    said = describe_namesake(tmp_path / "moex", search_path=[str(tmp_path)])
    assert said.endswith(f"where it has replaced files of moex 2.0.0 ({THEIRS}): give each an environment of its own")


@pytest.mark.parametrize(
    "ours",
    [
        {"name": "moment-exchange"},
        {"summary": "Moment Exchange (MoEx): feature-space data augmentation for PyTorch"},
        {"name": "moexalgo"},
    ],
    ids=["ours", "ours as it was once called", "another name"],
)
def test_of_others_nothing_is_said(tmp_path, ours):
    assert describe_namesake(PACKAGE, search_path=[str(install(tmp_path, **ours))]) is None


def python(*arguments, path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "100"}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)


def test_import_warns_at_the_line_that_imports(tmp_path):
    (tmp_path / "loop.py").write_text("import os\nimport moex\nprint(moex.__version__)\n")
    told = python(str(tmp_path / "loop.py"), path=[REPOSITORY, install(tmp_path / "site")])
    assert (told.returncode, told.stdout) == (0, f"{moex.__version__}\n")
    warning, line = told.stderr.splitlines()
    assert re.match(rf"{re.escape(str(tmp_path / 'loop.py'))}:2: UserWarning: two packages are called moex", warning)
    assert line.strip() == "import moex"


def test_scripts_run_the_package_beside_them(tmp_path):
    told = python(str(REPOSITORY / "scripts" / "sweep.py"), "--help", path=[install(tmp_path)])
    assert told.returncode == 0, told.stderr
    assert "usage: sweep.py" in told.stdout
    assert "two packages are called moex: this is Moment Exchange" in told.stderr
