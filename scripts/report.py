"""Tabulates finished runs by the keys in which their recipes differ, or makes a record of them.

python scripts/report.py PATH ... [--against KEY=VALUE|NAME] [--csv | --markdown]
python scripts/report.py --record results/NAME [PATH ...] [--against ...]
"""

import argparse
import shlex
import sys
from pathlib import Path

import checkout  # noqa: F401
from rich.console import Console

from moex.command_line import run_main, user_path
from moex.reporting.records import add_runs, write_record
from moex.reporting.tables import as_text, markdown, print_table, tabulate


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
    arguments = parser.parse_args()
    if not arguments.record and not arguments.paths:
        parser.error("a PATH is required, except with --record")
    try:
        if arguments.record:
            _make_record(arguments.record, arguments.paths, against=arguments.against)
        else:
            _print(arguments)
    except ValueError as error:
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
