"""The committed tables, and the front page, say what the committed summaries say."""

import re
import shutil

import pytest
from composition import CONFIGS, EXPERIMENTS

from moex.reporting.manifests import read_studies, read_tables
from moex.reporting.site.answers import conclude, find_answers, tabulate_answers, tell_progress
from moex.reporting.site.exhibits import find_exhibits
from moex.reporting.site.figures import differences
from moex.reporting.site.pictures import to_svg
from moex.reporting.table_folder import CELLS, write_table
from moex.reporting.tables import markdown

RESULTS = CONFIGS.with_name("results")
TABLES = read_tables(CONFIGS.with_name("experiments"), experiments=EXPERIMENTS)
NAMES = sorted(path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.rglob(CELLS))


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_table_is_that_of_its_summaries(name, tmp_path):
    folder = shutil.copytree(RESULTS / name, tmp_path / name)
    write_table(folder, TABLES[name], command=f"python scripts/reproduce.py {name} --table")
    for table in ("table.md", "table.csv", "table.tex"):
        assert (folder / table).read_text() == (RESULTS / name / table).read_text(), table


@pytest.fixture(scope="module")
def exhibits():
    return find_exhibits(RESULTS, TABLES, read_studies(CONFIGS.with_name("experiments")))


def test_the_front_page_has_the_answers_of_the_summaries(exhibits):
    front, answers = CONFIGS.with_name("README.md").read_text(), find_answers(exhibits)
    missing = "docs/site.md tells how README is brought up to date"
    assert markdown(tabulate_answers(answers)) in front, missing
    assert f"{conclude(answers)} {tell_progress(exhibits)}" in " ".join(front.split()), missing


def test_the_figure_of_the_front_page_is_that_of_the_summaries(exhibits):
    texts = re.compile("<text[^>]*>([^<]*)</text>")
    committed = (CONFIGS.with_name("docs") / "figures" / "differences.svg").read_text()
    assert texts.findall(committed) == texts.findall(to_svg(differences(find_answers(exhibits))))
