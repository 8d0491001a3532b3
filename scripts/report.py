"""Tabulates finished runs by the keys in which their recipes differ; or makes a record of them, or a site of all.

python scripts/report.py PATH ... [--against KEY=VALUE|NAME] [--csv | --markdown]
python scripts/report.py --record results/NAME [PATH ...] [--against ...]
python scripts/report.py --site FOLDER [PATH ...] [--images NAME] [--root data]
"""

import argparse
import shlex
import sys
from pathlib import Path

import checkout  # noqa: F401
from rich.console import Console

from moex.command_line import run_main, user_path
from moex.files import SaveError
from moex.reporting.manifests import read_studies, read_tables
from moex.reporting.records import add_runs, write_record
from moex.reporting.site.build import build_site, read_mark
from moex.reporting.site.exchange import Exchange
from moex.reporting.site.exhibits import find_exhibits
from moex.reporting.site.throughput import read_benchmarks
from moex.reporting.tables import as_text, markdown, print_table, tabulate
from moex.reproduction.decoding import show_exchange

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Reads the command line, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "paths", type=user_path, nargs="*", metavar="PATH", help="a run's folder, or any folder above runs"
    )
    parser.add_argument(
        "--against",
        metavar="BASELINE",
        help="with which recipe the others are compared over common seeds: KEY=VALUE[,KEY=VALUE...], or a name",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print the table as CSV, with all digits")
    form.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    form.add_argument(
        "--record",
        type=user_path,
        metavar="FOLDER",
        help="copy the runs into this folder, and make its page and figure",
    )
    form.add_argument(
        "--site",
        type=user_path,
        metavar="FOLDER",
        help="make a static site of all that results/ holds, and of the runs",
    )
    parser.add_argument(
        "--images",
        metavar="NAME",
        help="with --site: the data set on which the exchange is shown (default: cifar100 where it is, else digits)",
    )
    parser.add_argument(
        "--root", type=user_path, default="data", help="with --site: where that data set is (default: data)"
    )
    parser.add_argument(
        "--results", type=user_path, default=ROOT / "results", metavar="FOLDER", help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if not (arguments.record or arguments.site or arguments.paths):
        parser.error("a PATH is required, except with --record and --site")
    try:
        if arguments.site:
            _make_site(arguments)
        elif arguments.record:
            _make_record(arguments.record, arguments.paths, against=arguments.against)
        else:
            _print(arguments)
    except (ValueError, SaveError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _make_record(record: Path, folders: list[Path], *, against: str | None) -> None:
    add_runs(record, folders)
    command = ["python", "scripts/report.py", "--record", str(record)]
    if against is not None:
        command += ["--against", against]
    for path in write_record(record, command=shlex.join(command), against=against):
        print(path)


def _make_site(arguments: argparse.Namespace) -> None:
    # Before a minute of drawing.
    read_mark(arguments.site)
    experiments = {path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")}
    tables = read_tables(ROOT / "experiments", experiments=experiments)
    studies = read_studies(ROOT / "experiments")
    exhibits = find_exhibits(arguments.results, tables, studies, arguments.paths)
    benchmarks = read_benchmarks(arguments.results / "benchmark")
    command = shlex.join(["python", "scripts/report.py", *sys.argv[1:]])
    front, *_ = build_site(arguments.site, exhibits, benchmarks, _find_exchange(arguments), command=command)
    print(front)


def _find_exchange(arguments: argparse.Namespace) -> Exchange:
    """The exchange on the images that were asked for, or on those that are there."""
    if arguments.images is not None:
        return show_exchange(arguments.images, root=str(arguments.root))
    try:
        return show_exchange("cifar100", root=str(arguments.root))
    except ValueError:
        return show_exchange("digits", root=str(arguments.root))


def _print(arguments: argparse.Namespace) -> None:
    table = tabulate(arguments.paths, against=arguments.against)
    if arguments.csv:
        print(table.to_csv(index=False), end="")
    elif arguments.markdown:
        print(markdown(as_text(table)))
    else:
        # A pipe or a file has no width that lines would have to fit.
        print_table(as_text(table), Console() if sys.stdout.isatty() else Console(width=1000))


if __name__ == "__main__":
    sys.exit(run_main(main))
