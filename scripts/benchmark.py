"""Measures speed and memory side by side in one run, as ratios with their spread.

    python scripts/benchmark.py [PART ...] [--rounds N] [--output FILE.md]

The parts: exchange, share (of MoEx in the profile of a step), precision, wide (the same of networks that take many
minutes), data, images, sounds, points, start (of commands).

In every round each variant is timed once, one after the other, and each ratio is taken within its round: what
else the machine does weighs on both sides. Reported are the median over the rounds and, in brackets, the lowest
and the highest.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from datetime import date

# The profiler's own messages would stand between the tables; it reads this when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import checkout  # noqa: F401
import torch
from benchmarks.cifar import source_variants
from benchmarks.images import delivery_variants, photograph_variants
from benchmarks.measure import DEVICE, Variants, measure
from benchmarks.points import cloud_variants
from benchmarks.share import RESNET20 as SHARE_RESNET20
from benchmarks.share import WRN28_10 as SHARE_WRN28_10
from benchmarks.share import measure_share
from benchmarks.sounds import recording_variants
from benchmarks.start import measure_starts
from benchmarks.steps import PYRAMIDNET56, RESNET20, WRN28_10, exchange_variants, precision_variants
from rich.console import Console
from rich.markdown import Markdown

from moex.command_line import one_of, run_main, user_path
from moex.files import write_text_atomically
from moex.run.folder import commit
from moex.run.result import device_name


def timed(create_variants: Callable[[], Variants]) -> Callable[[int], str]:
    """A measurement that times variants side by side in so many rounds."""
    return lambda rounds: measure(create_variants(), rounds)


# The measurements of each part, by their titles; each returns a section in Markdown.
PARTS: dict[str, dict[str, Callable[[int], str]]] = {
    "exchange": {
        "MoEx in every step: ResNet-20, batch 128, float32, channels_last": timed(
            lambda: exchange_variants(RESNET20)
        ),
        "MoEx in every step: PyramidNet-56, α̃ 240, batch 32, float32, channels_last": timed(
            lambda: exchange_variants(PYRAMIDNET56)
        ),
    },
    "share": {
        "MoEx's share of the profile of a step: ResNet-20, batch 128": lambda rounds: measure_share(
            SHARE_RESNET20, rounds
        ),
        "MoEx's share of the profile of a step: WRN-28-10, spectrograms, batch 8": lambda rounds: measure_share(
            SHARE_WRN28_10, rounds
        ),
    },
    "precision": {
        "Forms of a training step: ResNet-20, batch 128, MoEx": timed(lambda: precision_variants(RESNET20)),
    },
    "wide": {
        "Forms of a training step: WRN-28-10, batch 16, MoEx": timed(lambda: precision_variants(WRN28_10)),
        "Forms of a training step: PyramidNet-56, α̃ 240, batch 32, MoEx": timed(
            lambda: precision_variants(PYRAMIDNET56)
        ),
    },
    "data": {"CIFAR batches: cropped, flipped and normalised": timed(source_variants)},
    "images": {
        "Photographs, random crops of 224 pixels: two workers": timed(photograph_variants),
        "Photographs: what is left to the device": timed(delivery_variants),
    },
    "sounds": {"Recordings, augmented, as spectrograms, batches of 96": timed(recording_variants)},
    "points": {"A training step of PointNet++: 32 clouds of 1,024 points": timed(cloud_variants)},
    "start": {"From Enter on: commands beside import torch": measure_starts},
}


def main() -> None:
    """Runs the parts that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ", ".join(PARTS)
    parts = one_of("part", [*PARTS])
    parser.add_argument("parts", nargs="*", type=parts, metavar="PART", help=f"{known}; by default all of them")
    parser.add_argument("--rounds", type=int, default=9, help="how often each variant is timed (default: 9)")
    parser.add_argument("--output", type=user_path, metavar="FILE.md", help="where the tables are written as well")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}: it must be 1 or more")

    console, sections = Console(), ["# Benchmark"]

    def tell(section: str) -> None:
        sections.append(section)
        console.print(Markdown(section))
        if arguments.output is not None:
            # At once: what is measured stays, whatever ends the next.
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(arguments.output, "\n\n".join(sections) + "\n")

    tell(provenance(arguments.rounds))
    for part in arguments.parts or PARTS:
        for title, run in PARTS[part].items():
            with console.status(title):
                section = run(arguments.rounds)
            tell(f"## {title}\n\n{section}")


def provenance(rounds: int) -> str:
    """What was measured where, in one paragraph."""
    source = commit()
    changes = " with uncommitted changes" if source["dirty"] else ""
    return (
        f"{device_name(DEVICE)}, {torch.get_num_threads()} threads; Python {platform.python_version()}, "
        f"torch {torch.__version__}; commit {source['commit']}{changes}; {date.today().isoformat()}. Medians of "
        f"{rounds} rounds; in brackets the lowest and the highest."
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
