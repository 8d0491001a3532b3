"""Shows how the jobs of a sweep stand: finished, running, failed, stopped, lost or waiting.

python scripts/sweep.py status PATH
"""

import argparse
import sys

import checkout  # noqa: F401
from rich.console import Console

from moex.command_line import run_main, user_path
from moex.reporting.sweeps import print_status


def main() -> int:
    """Reads the command line, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="status")
    status = commands.add_parser("status", help="print a table of all jobs")
    status.add_argument(
        "path", type=user_path, metavar="PATH", help="a sweep's folder, or an output root for all below it"
    )
    arguments = parser.parse_args()
    # A pipe or a file has no width that lines would have to fit.
    console = Console() if sys.stdout.isatty() else Console(width=1000)
    try:
        print_status(arguments.path, console)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
