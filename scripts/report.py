"""Makes the page and the figure of a record of finished runs.

python scripts/report.py results/NAME [RUNS ...]
"""

import argparse
import shlex
import sys
from pathlib import Path

from moex.reporting.records import add_runs, write_record


def main() -> int:
    """Reads the command line, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("record", type=Path, help="the record's folder, such as results/digits")
    parser.add_argument("runs", type=Path, nargs="*", help="folders whose finished runs are copied into it first")
    arguments = parser.parse_args()
    try:
        add_runs(arguments.record, arguments.runs)
        command = shlex.join(["python", "scripts/report.py", str(arguments.record)])
        for path in write_record(arguments.record, command=command):
            print(path)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
