"""How long commands take from Enter to what they say or do, beside `import torch` alone."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from moex.reporting.tables import markdown

ROOT = Path(__file__).parents[2]
BASE = "import torch"


def measure_starts(rounds: int) -> str:
    """A table in Markdown: seconds, and how many times those of `import torch`, which is timed in the same round."""
    with tempfile.TemporaryDirectory() as folder:
        return tabulate(start_variants(Path(folder)), rounds)


def start_variants(folder: Path) -> dict[str, Callable[[], float]]:
    """What is timed: each runs once, and returns the seconds that it took.

    Args:
        folder: where runs of the demo go.
    """
    finished = demo(folder / "finished", "limit_train=32")
    completed(finished)
    return {
        BASE: lambda: completed(["-c", "import torch"]),
        "import moex, torch": lambda: completed(["-c", "import moex, torch"]),
        "train.py --help": lambda: completed(["train.py", "--help"]),
        "a key that is refused": lambda: completed(["train.py", "epoch=3"], code=1),
        "a finished run": lambda: completed(finished),
        "the demo's first step, saved": lambda: first_step(Path(tempfile.mkdtemp(dir=folder))),
    }


def tabulate(variants: Mapping[str, Callable[[], float]], rounds: int) -> str:
    """Times all variants in every round, after one that fills the caches."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, run in variants.items():
            taken = run()
            if number:
                seconds[name].append(taken)
    table = pd.DataFrame(seconds)
    ratios = table.div(table[BASE], axis=0)
    rows = [
        {
            "": name,
            "seconds": f"{table[name].median():.2f} ({table[name].min():.2f} to {table[name].max():.2f})",
            f"times `{BASE}`": f"{ratios[name].median():.2f} ({ratios[name].min():.2f} to {ratios[name].max():.2f})",
        }
        for name in variants
    ]
    return markdown(pd.DataFrame(rows))


def demo(folder: Path, *overrides: str) -> list[str]:
    """The demo's command, of one epoch, whose runs go to this folder."""
    return ["train.py", f"output_root={folder}", "epochs=1", *overrides]


def completed(arguments: list[str], *, code: int = 0) -> float:
    """The seconds of a command that ends with this exit code."""
    begin = time.perf_counter()
    answer = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True)
    taken = time.perf_counter() - begin
    assert answer.returncode == code, answer.stderr.decode()
    return taken


def first_step(folder: Path) -> float:
    """The seconds until a run of the demo has saved its first step."""
    begin = time.perf_counter()
    command = [sys.executable, *demo(folder, "checkpoint.every_steps=1")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not any(folder.rglob("last.pt")):
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.005)
        taken = time.perf_counter() - begin
        process.terminate()
    return taken
