"""The committed tables say what the committed summaries say."""

import shutil

import pytest
from composition import CONFIGS, EXPERIMENTS

from moex.reporting.manifests import read_tables
from moex.reporting.table_folder import CELLS, write_table

RESULTS = CONFIGS.with_name("results")
TABLES = read_tables(CONFIGS.with_name("experiments"), experiments=EXPERIMENTS)
NAMES = sorted(path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob(CELLS))


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_table_is_that_of_its_summaries(name, tmp_path):
    folder = shutil.copytree(RESULTS / name, tmp_path / name)
    write_table(folder, TABLES[name], command=f"python scripts/reproduce.py {name} --table")
    for table in ("table.md", "table.csv", "table.tex"):
        assert (folder / table).read_text() == (RESULTS / name / table).read_text(), table
