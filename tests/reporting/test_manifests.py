"""A manifest says what is wrong with it, and what it reports keeps its source and its mark."""

from pathlib import Path

import pytest
import yaml
from composition import CONFIGS, EXPERIMENTS

from moex.reporting.manifests import FIGURES, paper_numbers, read_studies, read_tables

MANIFESTS = CONFIGS.with_name("experiments")
TABLE = {
    "title": "Two networks",
    "metrics": ["error"],
    "seeds": [0, 1],
    "columns": ["digits"],
    "rows": [
        {"name": "plain", "cells": {"digits": {"experiment": "a"}}},
        {
            "name": "mixed",
            "against": "plain",
            "cells": {"digits": {"experiment": "b", "paper": [{"error": 5.1, "source": "Table 1"}]}},
        },
    ],
}
STUDY = {
    "title": "How wide",
    "metrics": ["error"],
    "seeds": [0, 1],
    "experiment": "a",
    "overrides": {"model": "wrn"},
    "columns": {"epochs": [1, 2]},
    "rows": {"deep": [False, True]},
    "against": False,
}


def write(folder: Path, table=TABLE, study=STUDY) -> Path:
    (folder / "study").mkdir()
    (folder / "table.yaml").write_text(yaml.safe_dump(table))
    (folder / "study" / "width.yaml").write_text(yaml.safe_dump(study))
    return folder


def changed(manifest, path, value):
    """A copy with another value at a path; None takes the key out."""
    copy = yaml.safe_load(yaml.safe_dump(manifest))
    *parents, last = path
    place = copy
    for key in parents:
        place = place[key]
    place[last] = value
    if value is None:
        del place[last]
    return copy


def test_a_table_and_a_study(tmp_path):
    tables = read_tables(write(tmp_path), experiments={"a", "b"})
    table, study = tables["table"], tables["study/width"]
    assert [(row.name, row.against) for row in table.rows] == [("plain", None), ("mixed", "plain")]
    assert paper_numbers(tables) == {"b": [{"table": "table", "error": 5.1, "source": "Table 1"}]}
    assert study.columns == ["1", "2"]
    assert [(row.name, row.against) for row in study.rows] == [("false", None), ("true", "false")]
    assert study.rows[1].cells["2"].overrides == {"model": "wrn", "epochs": 2, "deep": True}
    sweep = read_studies(tmp_path)["width"].sweep()
    assert sweep == {"model": "wrn", "epochs": "1,2", "deep": "false,true", "seed": "0,1"}


ROW, CELL = ("rows", 1), ("rows", 1, "cells", "digits")
FAULTS = {
    "no title": (("title",), None, r"title"),
    "no rows": (("rows",), None, r"rows"),
    "misspelt key": (("colums",), ["x"], r"colums"),
    "unknown metric": (("metrics",), ["accuracy"], r"metrics is \['accuracy'\]: it must be of error, top5_error"),
    "a seed twice": (("seeds",), [0, 0], r"seeds is \[0, 0\]: it must be one or more different numbers"),
    "no number": ((*CELL, "paper", 0, "error"), "low", r"error.*'low'.*Float"),
    "a number of nothing": ((*CELL, "paper", 0, "error"), None, r"a number of 'mixed' is 'Table 1': .* error, top5"),
    "no source": ((*CELL, "paper", 0, "source"), None, r"source"),
    "a mark that is none": ((*CELL, "paper", 0, "unconfirmed"), "perhaps", r"unconfirmed.*'perhaps'"),
    "a row twice": ((*ROW, "name"), "plain", r"names is \['plain', 'plain'\]: it must be without repetition"),
    "no such baseline": ((*ROW, "against"), "none", r"against of 'mixed' is 'none': it must be one of plain"),
    "no such column": (("columns",), ["letters"], r"a column of 'plain' is 'digits': it must be one of letters"),
    "no such experiment": ((*CELL, "experiment"), "c", r"there is no experiment 'c' in configs/experiment"),
}


@pytest.mark.parametrize(("path", "value", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_a_fault_is_told_with_its_file(tmp_path, path, value, message):
    write(tmp_path, changed(TABLE, path, value))
    with pytest.raises(ValueError, match=message) as caught:
        read_tables(tmp_path, experiments={"a", "b"})
    assert str(caught.value).startswith(f"{tmp_path / 'table.yaml'}: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("rows", "wide"), [1], r"rows must vary one key, and columns one or none"),
        (("against",), "sometimes", r"against of .* is 'sometimes': it must be one of"),
        (("experiment",), "c", r"there is no experiment 'c'"),
    ],
)
def test_a_fault_of_a_study(tmp_path, path, value, message):
    write(tmp_path, study=changed(STUDY, path, value))
    with pytest.raises(ValueError, match=rf"width.yaml: {message}"):
        read_tables(tmp_path, experiments={"a", "b"})


def test_what_is_no_yaml(tmp_path):
    (write(tmp_path) / "table.yaml").write_text("rows: [")
    with pytest.raises(ValueError, match=r"table.yaml: "):
        read_tables(tmp_path, experiments=())


def test_numbers_of_the_paper_keep_their_mark():
    """Nothing of the paper's own tables could be checked against its text; what others published could."""
    numbers = paper_numbers(read_tables(MANIFESTS, experiments=EXPERIMENTS))
    reported = [number for experiment in numbers.values() for number in experiment]
    # The CIFAR table, that of regularisers, in which CutMix has two, and those of ImageNet, -A, -R, -C, speech and
    # ModelNet.
    assert len(reported) == 24 + 15 + 6 + 8 + 3 + 1 + 1 + 8 + 4
    for number in reported:
        # The paper's tables; what its description says, and the README of its code, was read.
        assert number.get("unconfirmed", False) == ("table" in number["source"])
        assert all(0 < number[figure] < 100 for figure in number.keys() & set(FIGURES))
        assert number.keys() & set(FIGURES)
