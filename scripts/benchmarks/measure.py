"""How variants are timed side by side, and how much memory a step holds."""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.profiler import profile
from torch.utils.benchmark import Timer

from moex.reporting.tables import markdown

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MATMUL = "a product"
# A variant is run as often in one timing as takes about so long, in seconds.
TIMING = 1.0


@dataclass(frozen=True)
class Variant:
    """What is timed.

    Attributes:
        run: one call of it.
        samples: how many images or recordings a call treats.
        is_step: whether it is a training step, whose peak memory is told as well.
        flops: floating-point operations of a call, of which the share in the machine's rate is told; None: nobody
            counted them.
    """

    run: Callable[[], Any]
    samples: int
    is_step: bool = True
    flops: int | None = None


Variants = dict[str, Variant]


def measure(variants: Mapping[str, Variant], rounds: int) -> str:
    """Times all variants in every round and returns a table in Markdown."""
    if all(variant.flops for variant in variants.values()):
        variants = {**variants, MATMUL: product()}
    repeats = {}
    for name, variant in variants.items():
        time_of(variant, 2)  # Warm-up and compilation.
        repeats[name] = max(1, round(TIMING / time_of(variant, 1)))
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        # Back and forth, so that a drift of the machine's speed favours none.
        for name in list(variants)[:: -1 if number % 2 else 1]:
            speeds[name].append(variants[name].samples / time_of(variants[name], repeats[name]))
    table = pd.DataFrame(speeds)
    ratios = table.div(table.iloc[:, 0], axis=0)
    rows = []
    for name, variant in variants.items():
        if name == MATMUL:
            continue
        speed, ratio = table[name], ratios[name]
        added = 100 * (1 / ratio - 1)
        memory = f"{peak_memory(variant) / 2**20:,.0f} MiB" if variant.is_step else "-"
        rows.append(
            {
                "": name,
                "samples/s": f"{short(speed.median())} ({short(speed.min())} to {short(speed.max())})",
                "times the first": f"{ratio.median():.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
                "added time": f"{added.median():+.1f} % ({added.min():+.1f} to {added.max():+.1f})",
                "peak memory of a step": memory,
            }
        )
        if MATMUL in variants:
            # Of the products that the network needs: a second pass of the stem is no use, and counts as none.
            rate = speed * (variant.flops or 0) / variant.samples
            share = 100 * rate / table[MATMUL]
            rows[-1]["of the rate of a float32 product, %"] = (
                f"{share.median():.0f} ({share.min():.0f} to {share.max():.0f})"
            )
    note = "" if MATMUL not in variants else f"\n\nThe product: {table[MATMUL].median() / 1e9:,.0f} GFLOP/s."
    return markdown(pd.DataFrame(rows)) + note


def short(number: float) -> str:
    """A number in three digits, or in all before the point where there are more."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def product(size: int = 2048) -> Variant:
    """A product of two square matrices in float32, whose samples are its floating-point operations."""
    left, right = torch.randn(2, size, size, device=DEVICE).unbind()
    return Variant(lambda: left @ right, 2 * size**3, is_step=False)


def time_of(variant: Variant, repeats: int) -> float:
    """Seconds a call, the device's work included."""
    timer = Timer("run()", globals={"run": variant.run}, num_threads=torch.get_num_threads())
    return timer.timeit(repeats).mean


def peak_memory(variant: Variant) -> int:
    """Bytes that a step holds at most beyond what is held between two steps: weights, gradients, momentum."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        variant.run()
        return torch.cuda.max_memory_allocated() - before
    # Twice: the profiler knows only of what was allocated under it, and a step frees the gradients of the last one.
    for _ in range(2):
        with profile(profile_memory=True) as profiler:
            variant.run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        trace = json.loads(path.read_text())["traceEvents"]
    events = sorted((event for event in trace if event["name"] == "[memory]"), key=lambda event: event["ts"])
    held = [int(event["args"]["Total Allocated"]) for event in events]
    return max(held) - (held[0] - int(events[0]["args"]["Bytes"]))
