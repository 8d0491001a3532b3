"""Makes a table of the paper: trains what is missing, and writes what came out beside what is reported.

python scripts/reproduce.py NAME [--plan | --table] [--seeds 0 1] [--rows ...] [--columns ...] [KEY=VALUE ...]
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path

import checkout  # noqa: F401
from hydra.errors import HydraException
from rich.console import Console

from moex.command_line import run_main, user_path
from moex.config import unknown_key
from moex.config.composition import explain, offer_schemas
from moex.files import SaveError, saving, write_text_atomically
from moex.launch.manifests import offer_manifests
from moex.launch.signals import passing_on
from moex.registry import suggest
from moex.reporting.manifests import Table, read_tables
from moex.reporting.reproduction import as_text, tabulate_cells
from moex.reporting.runs import Run, find_results
from moex.reporting.table_folder import add_run, read_results, write_table
from moex.reporting.tables import print_table
from moex.reproduction.trainings import FINISHED, Reduction, Training, duration, jobs_of, list_trainings, plan

ROOT = Path(__file__).parents[1]
CONFIGS, MANIFESTS = ROOT / "configs", ROOT / "experiments"


def main() -> int:
    """Reads the command line, and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", metavar="NAME", help="of a file in experiments/, such as digits or study/weight")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="for all runs, such as dataset.root=PATH")
    parser.add_argument("--plan", action="store_true", help="only tell what is there, and what the rest would cost")
    parser.add_argument("--table", action="store_true", help="only make the table of the runs that results/ holds")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="K", help="which (default: the manifest's)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="which (default: all)")
    parser.add_argument("--columns", nargs="+", metavar="COLUMN", help="which (default: all)")
    parser.add_argument("--launcher", choices=("basic", "joblib", "submitit_local", "slurm"), default="basic")
    parser.add_argument("--jobs", type=int, metavar="N", help="how many at once, with --launcher joblib")
    parser.add_argument("--budget", type=float, metavar="FRACTION", help="of the epochs and of the schedule")
    parser.add_argument("--samples", type=int, metavar="N", help="of the training set")
    parser.add_argument(
        "--from",
        type=user_path,
        nargs="+",
        metavar="PATH",
        dest="sources",
        default=[],
        help="take over runs below these",
    )
    parser.add_argument(
        "--results", type=user_path, default=ROOT / "results", metavar="FOLDER", help=argparse.SUPPRESS
    )
    arguments = parser.parse_intermixed_args()
    try:
        return reproduce(arguments)
    except (HydraException, ValueError, SaveError) as error:
        print(f"error: {explain(error, unknown_key)}", file=sys.stderr)
        return 1


def reproduce(arguments: argparse.Namespace) -> int:
    """Does what the command line asks for, and returns the exit code of the runs."""
    check(arguments)
    sources = find_results(arguments.sources)
    offer_schemas()
    offer_manifests(MANIFESTS)
    table = find_table(arguments.name)
    results = arguments.results / arguments.name
    code = 0
    if arguments.sources or not arguments.table:
        reduction = Reduction(arguments.budget, arguments.samples)
        trainings = list_trainings(
            table,
            configs=CONFIGS,
            seeds=arguments.seeds or table.seeds,
            rows=choose("--rows", arguments.rows, [row.name for row in table.rows]),
            columns=choose("--columns", arguments.columns, table.columns),
            overrides=arguments.overrides,
            reduction=reduction,
        )
        if arguments.plan:
            with Console(stderr=True).status("measuring") as status:
                text, hours = plan(
                    trainings, report=lambda network: status.update(f"measuring a few steps of {network}")
                )
            print_table(text, Console(), left=("method", "on"))
            print(f"{duration(hours)} of one device are left, of what has its data here")
            return 0
        take_over(trainings, sources, results, reduced=reduction.title)
        if not arguments.table:
            code = train(trainings, arguments)
        for training in trainings:
            if training.state == FINISHED:
                add(training, training.folder, results, reduced=reduction.title)
    with saving(results):
        results.mkdir(parents=True, exist_ok=True)
    paths = write_table(results, table, command=f"python scripts/reproduce.py {arguments.name} --table")
    console = Console() if sys.stdout.isatty() else Console(width=1000)
    for kind, runs in read_results(results).items():
        console.print(f"{table.title}{f', reduced: {kind}' if kind else ''}", highlight=False)
        print_table(as_text(table, tabulate_cells(table, runs)), console, left=("method", "on", "baseline"))
    print(*paths, sep="\n")
    return code


def check(arguments: argparse.Namespace) -> None:
    """Refuses numbers out of their range.

    Raises:
        ValueError: the first one.
    """
    if arguments.budget is not None and not 0 < arguments.budget <= 1:
        raise ValueError(f"--budget is {arguments.budget:g}: it must be more than 0 and at most 1")
    for name in ("samples", "jobs"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}: it must be 1 or more")
    if arguments.jobs is not None and arguments.launcher != "joblib":
        raise ValueError(f"--jobs is {arguments.jobs}: it belongs to --launcher joblib")


def find_table(name: str) -> Table:
    """The table of this name.

    Raises:
        ValueError: there is none, or a manifest is not one.
    """
    tables = read_tables(MANIFESTS, experiments={path.stem for path in (CONFIGS / "experiment").glob("*.yaml")})
    if name not in tables:
        raise ValueError(f"there is no table {name!r}: {suggest(name, [*tables])}")
    return tables[name]


def choose(option: str, wanted: list[str] | None, possible: list[str]) -> list[str]:
    """What was asked for; all by default.

    Raises:
        ValueError: it is not there.
    """
    for name in wanted or []:
        if name not in possible:
            raise ValueError(f"{option}: there is no {name!r}: {suggest(name, possible)}")
    return wanted or possible


def take_over(trainings: list[Training], sources: list[Run], results: Path, *, reduced: str) -> None:
    """Copies the summaries of runs that were made elsewhere, and tells which are none of this table's."""
    for run in sources:
        places = [training for training in trainings if training.is_of(run)]
        for training in places:
            add(training, run.folder, results, reduced=reduced)
        if not places:
            print(f"{run.folder} ({run.name}, seed {run.seed}) is no run of these cells: left out")


def add(training: Training, folder: Path, results: Path, *, reduced: str) -> None:
    """Copies the summary of a run into a table's folder."""
    entry = add_run(results, folder, row=training.row, column=training.column, reduced=reduced)
    if entry.duplicate:
        print(f"{folder} came out otherwise than the run that stands for {entry.row}, seed {entry.seed}: shown apart")


def train(trainings: list[Training], arguments: argparse.Namespace) -> int:
    """Trains what is not finished by train.py, as a sweep, and returns its exit code."""
    left = sum(training.state != FINISHED for training in trainings)
    print(f"{len(trainings) - left} of {len(trainings)} runs are finished", flush=True)
    if not left:
        return 0
    path = Path(trainings[0].config.output_root) / "reproduce" / f"{arguments.name.replace('/', '_')}.json"
    with saving(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(jobs_of(trainings), indent=0, ensure_ascii=False))
    command = [sys.executable, str(ROOT / "train.py"), "--multirun", f"hydra/launcher={arguments.launcher}"]
    command += [f"hydra.sweeper.jobs='{path}'"]
    if arguments.jobs is not None:
        command.append(f"hydra.launcher.n_jobs={arguments.jobs}")
    # What was trained until a signal came is written down.
    with passing_on() as signals, subprocess.Popen(command, start_new_session=True) as process:
        code = process.wait()
    if signals:
        print(
            f"stopped; the same command continues: {shlex.join(['python', *sys.argv])}", file=sys.stderr, flush=True
        )
        return 128 + signals[0]
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
