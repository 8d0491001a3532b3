"""Builds the site: pages and figures of what there is, into a folder that is a site of ours or nothing yet."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from moex.files import saving, write_text_atomically
from moex.reporting.site.exchange import Exchange
from moex.reporting.site.exhibits import Exhibit
from moex.reporting.site.pages import render_site
from moex.reporting.site.throughput import Benchmark

# Lists the files of a site, by which it is known for ours.
MARK = "moex-site.json"


def build_site(
    target: Path, exhibits: Sequence[Exhibit], benchmarks: Sequence[Benchmark], exchange: Exchange, *, command: str
) -> list[Path]:
    """Writes the site, in the place of a former one, and returns its files, the front page first.

    Args:
        target: its folder; others' files in it are left as they are.
        exhibits: what `find_exhibits` found.
        benchmarks: what `read_benchmarks` found.
        exchange: the images of the exchange.
        command: how to make it again.

    Raises:
        ValueError: `target` is no site of ours, or has a file in the place of one of ours.
        SaveError: it cannot be written.
    """
    former = read_mark(target)
    files = render_site(exhibits, benchmarks, exchange, command=command)
    foreign = [name for name in files if name not in former and (target / name).exists()]
    if foreign:
        raise ValueError(f"{target / foreign[0]} is no file of the site and stands in the place of one: move it away")
    with saving(target):
        (target / "figures").mkdir(parents=True, exist_ok=True)
        (target / "data").mkdir(exist_ok=True)
    # Whatever happens, what is ours is known.
    _write_mark(target, former | files.keys())
    _write(target, files)
    with saving(target):
        for name in former - files.keys():
            (target / name).unlink(missing_ok=True)
    _write_mark(target, set(files))
    return [target / name for name in files]


def read_mark(target: Path) -> set[str]:
    """The files of the site in this folder; none where there is nothing yet.

    Raises:
        ValueError: what is there is no site of ours.
    """
    try:
        return set(json.loads((target / MARK).read_text())["files"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    what = "a folder with other files" if target.is_dir() else "a file"
    raise ValueError(f"{target} is {what}, and no site that this command made: name a new folder, or an empty one")


def _write(target: Path, files: Mapping[str, str]) -> None:
    """All files beside the site first, so that a full disk leaves the former one."""
    with saving(target), tempfile.TemporaryDirectory(dir=target, prefix=".new-") as folder:
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        for name in files:
            (Path(folder) / name).replace(target / name)


def _write_mark(target: Path, names: set[str]) -> None:
    write_text_atomically(target / MARK, json.dumps({"made by": "moex", "files": sorted(names)}, indent=0) + "\n")
