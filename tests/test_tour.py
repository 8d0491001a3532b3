"""The notebook runs as it stands, and its committed outputs are of one run and of nobody's machine."""

import re
import socket

import nbformat
import pytest
from nbclient import NotebookClient
from program import REPOSITORY

TOUR = REPOSITORY / "docs" / "tour.ipynb"


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """What the cells printed, and the values that they ended in."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    return [output["text"] if "text" in output else output["data"]["text/plain"] for output in outputs]


def pictures(notebook):
    return [output for cell in code_of(notebook) for output in cell.outputs if "image/jpeg" in output.get("data", {})]


@pytest.fixture
def committed():
    return nbformat.read(TOUR, 4)


def test_what_is_committed_is_one_whole_run(committed):
    nbformat.validate(committed)
    assert [cell.execution_count for cell in code_of(committed)] == [*range(1, len(code_of(committed)) + 1)]
    assert len(pictures(committed)) == 2
    assert TOUR.stat().st_size < 200_000


def test_its_outputs_name_no_machine_and_no_path(committed):
    assert socket.gethostname() not in "".join(texts(committed))
    for text in texts(committed):
        assert not re.search(r"(^|[\s'\"(])(/|~/|[A-Z]:\\)\w", text), text
    assert committed.metadata.keys() == {"kernelspec", "language_info"}


def test_it_runs(committed, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    expected = texts(committed)
    NotebookClient(
        committed, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    found = texts(committed)
    assert len(found) == len(expected)
    assert len(pictures(committed)) == 2
    (last,) = (text for text in found if "RMS calibration error" in text)
    errors = [float(error) for error in re.findall(r"error (\d+\.\d) %, AURRA", last)]
    assert len(errors) == 2
    # Guessing is wrong in nine of ten.
    assert max(errors) < 30
