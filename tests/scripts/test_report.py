"""The command that makes the site: what is wrong, told before anything is drawn."""

import functools

import pytest


@pytest.fixture
def report(script):
    return functools.partial(script, "report")


def test_without_results_there_is_no_site(report, tmp_path):
    code, _, complaint = report("--site", tmp_path / "site", "--results", tmp_path)
    assert code == 1
    assert complaint.startswith(f"error: {tmp_path} holds no finished run: ")
    assert len(complaint.splitlines()) == 1
    assert not (tmp_path / "site").exists()


def test_others_files_are_no_place_for_a_site(report, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    code, _, complaint = report("--site", tmp_path / "mine")
    assert code == 1
    assert complaint == (
        f"error: {tmp_path / 'mine'} is a folder with other files, and no site that this command made: "
        "name a new folder, or an empty one\n"
    )
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


def test_paths_are_required_for_a_table(report, capsys):
    with pytest.raises(SystemExit):
        report()
    assert "a PATH is required, except with --record and --site" in capsys.readouterr().err
