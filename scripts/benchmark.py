"""Measures speed and memory side by side in one run, as ratios with their spread.

    python scripts/benchmark.py [exchange] [precision] [data] [images] [--rounds N] [--output FILE.md]

In every round each variant is timed once, one after the other, and each ratio is taken within its round: what
else the machine does weighs on both sides. Reported are the median over the rounds and, in brackets, the lowest
and the highest.
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date
from itertools import cycle, islice
from pathlib import Path
from typing import Any

# The profiler's own messages would stand between the tables; it reads this when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.markdown import Markdown
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader
from torch import Tensor, nn
from torch.profiler import profile
from torch.utils.benchmark import Timer
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import moex
from moex.config import parse
from moex.data import Request
from moex.data.cifar import MEAN, STD
from moex.data.images.encoded import EncodedFiles, EncodedImages
from moex.data.images.stream import StreamedImages
from moex.data.source import ResidentImages
from moex.engine import backward, update
from moex.features import FeatureHook
from moex.reporting.tables import markdown
from moex.run.build import build_run
from moex.run.folder import commit
from moex.run.result import device_name

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
RESNET20 = {"model": {"name": "resnet20"}, "batch_size": 128}
PYRAMIDNET56 = {"model": {"name": "pyramidnet56", "options": {"alpha": 240}}, "batch_size": 32}
# A variant is run as often in one timing as takes about so long, in seconds.
TIMING = 1.0
# Real ones beside the checkout, and how often each is read in an epoch.
PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "imagenet"
TIMES_READ = 16


@dataclass(frozen=True)
class Variant:
    """What is timed.

    Attributes:
        run: one call of it.
        images: how many images a call treats.
        is_step: whether it is a training step, whose peak memory is told as well.
    """

    run: Callable[[], object]
    images: int
    is_step: bool = True


Variants = dict[str, Variant]


def main() -> None:
    """Runs the parts that the command line names, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; by default all of them")
    parser.add_argument("--rounds", type=int, default=9, help="how often each variant is timed (default: 9)")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="where the tables are written as well")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}: choose from {', '.join(PARTS)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}: it must be 1 or more")

    console, sections = Console(), ["# Benchmark"]

    def tell(section: str) -> None:
        sections.append(section)
        console.print(Markdown(section))

    tell(provenance(arguments.rounds))
    for part in arguments.parts or PARTS:
        for title, create_variants in PARTS[part].items():
            with console.status(title):
                section = measure(create_variants(), arguments.rounds)
            tell(f"## {title}\n\n{section}")
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text("\n\n".join(sections) + "\n")


def exchange_variants(network: dict[str, Any]) -> Variants:
    """A training step without MoEx, with it, and with a second pass of the stem, as the published code has it."""
    values = network | {"runtime": {"channels_last": True}}
    return {
        "without MoEx": training_step(values),
        "with MoEx": training_step(values, exchange=True),
        "with MoEx by a second stem pass": training_step(values, second_pass=True),
    }


def precision_variants(network: dict[str, Any]) -> Variants:
    """A training step with MoEx in plain float32 NCHW, and in the other forms."""
    forms: dict[str, dict[str, Any]] = {
        "float32, NCHW": {"channels_last": False},
        "float32, channels_last": {"channels_last": True},
        "bf16, NCHW": {"precision": "bf16", "channels_last": False},
        "bf16, channels_last": {"precision": "bf16", "channels_last": True},
        "bf16, channels_last, compile": {"precision": "bf16", "channels_last": True, "compile": True},
    }
    return {name: training_step(network | {"runtime": form}, exchange=True) for name, form in forms.items()}


def source_variants() -> Variants:
    """Batches of 128 of 50,000 images as large as CIFAR's, and the DataLoader that the published code uses."""
    images, labels = random_images(50_000)
    source = create_source(images, labels)
    batches = torch.arange(len(images)).split(128)

    def ours() -> None:
        requests = (
            Request(indices, torch.arange(len(indices)), np.random.default_rng(step))
            for step, indices in enumerate(batches)
        )
        for _ in source.batches(requests):
            pass

    loader: DataLoader[Any] = DataLoader(
        InMemoryCIFAR(images, labels), batch_size=128, shuffle=True, num_workers=2, persistent_workers=True
    )
    # One endless pass, so that the start of the workers is not timed.
    loaded = (batch for _ in cycle([None]) for batch in loader)

    def theirs() -> None:
        for batch in islice(loaded, 40):
            [tensor.to(DEVICE) for tensor in batch]

    return {
        "torchvision's transforms in a DataLoader, two workers": Variant(theirs, 40 * 128, is_step=False),
        "moex's source on the device": Variant(ours, len(images), is_step=False),
    }


def photograph_variants() -> Variants:
    """An epoch of training crops of photographs, batches of 128, from the start of two workers to their end."""
    theirs = create_dataset("", root=str(PHOTOGRAPHS))
    theirs.reader.samples *= TIMES_READ
    loader = create_loader(
        theirs,
        input_size=(3, 224, 224),
        batch_size=128,
        is_training=True,
        color_jitter=None,  # type: ignore[arg-type]
        num_workers=2,
        persistent_workers=False,
        device=DEVICE,
    )
    exact, boxes = (create_stream(decode) for decode in ("exact", "device"))

    def epoch(batches: Callable[[Iterable[Request]], Iterable[object]]) -> None:
        order = torch.from_numpy(np.random.default_rng(0).permutation(len(exact)))
        for _ in batches(
            Request(indices, torch.arange(len(indices)), np.random.default_rng(step))
            for step, indices in enumerate(order.split(128))
        ):
            pass

    runs = {
        "timm's loader": lambda: [None for _ in loader],
        "moex's source": lambda: epoch(exact.batches),
        "what its workers deliver": lambda: epoch(exact.decoded),
        "what they deliver with dataset.decode=device": lambda: epoch(boxes.decoded),
    }
    return {name: Variant(run, len(exact), is_step=False) for name, run in runs.items()}


def delivery_variants() -> Variants:
    """What the device does with 128 photographs that workers have resized, and with those that they have cut out."""
    everyone = torch.arange(128)
    variants = {}
    for decode, does in (("exact", "normalises"), ("device", "resizes and normalises")):
        source = create_stream(decode)
        parts = next(source.decoded([Request(everyone, everyone, np.random.default_rng(0))]))
        variants[f"dataset.decode={decode}: {does}"] = Variant(
            functools.partial(source.deliver, parts), len(everyone), is_step=False
        )
    return variants


class Photographs(EncodedFiles):
    """The files below a folder, as often as they are read in an epoch."""

    def __init__(self, root: Path) -> None:
        self._paths = sorted(root.rglob("*.JPEG")) * TIMES_READ
        if not self._paths:
            sys.exit(f"error: there are no photographs (*.JPEG) in {root}")

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, index: int) -> str:
        """See `EncodedFiles`."""
        return str(self._paths[index])

    def read(self, index: int) -> bytes:
        """See `EncodedFiles`."""
        return self._paths[index].read_bytes()


def create_stream(decode: str) -> StreamedImages:
    """The source of an ImageNet run with two workers."""
    photographs = Photographs(PHOTOGRAPHS)
    return StreamedImages(
        EncodedImages(photographs, np.arange(len(photographs))),
        torch.zeros(len(photographs), dtype=torch.int64),
        size=224,
        resize=256,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        training=True,
        workers=2,
        decode=decode,
        on_error="fail",
        max_unreadable=0.0,
        device=DEVICE,
        channels_last=False,
    )


PARTS: dict[str, dict[str, Callable[[], Variants]]] = {
    "exchange": {
        "MoEx in every step: ResNet-20, batch 128, float32, channels_last": lambda: exchange_variants(RESNET20),
        "MoEx in every step: PyramidNet-56, α̃ 240, batch 32, float32, channels_last": lambda: exchange_variants(
            PYRAMIDNET56
        ),
    },
    "precision": {
        "Forms of a training step: PyramidNet-56, α̃ 240, batch 32, MoEx": lambda: precision_variants(PYRAMIDNET56)
    },
    "data": {"CIFAR batches: cropped, flipped and normalised": source_variants},
    "images": {
        "Photographs, random crops of 224 pixels: two workers": photograph_variants,
        "Photographs: what is left to the device": delivery_variants,
    },
}


def training_step(values: dict[str, Any], *, exchange: bool = False, second_pass: bool = False) -> Variant:
    """The engine's own step on one batch of random images, again and again."""
    settings = {"steps": ["moex"] if exchange else [], "moex": {"probability": 1.0}}
    config = parse({"dataset": {"name": "cifar100"}} | values | {"augmentation": settings})
    images, labels = random_images(config.batch_size)
    source = create_source(images, labels, channels_last=config.runtime.has_channels_last)
    training_run = build_run(config, {"train": source, "test": source}, DEVICE)
    state, training = training_run.state, training_run.training
    if second_pass:
        step = PublishedMoEx(probability=1.0)
        training = dataclasses.replace(training, mixing=moex.Mixing(state.model, [step], num_classes=100))
    everyone = torch.arange(config.batch_size)
    images, labels = next(iter(source.batches([Request(everyone, everyone)])))
    plan = training.mixing.draw(images, shared=np.random.default_rng(0), own=np.random.default_rng(0))
    state.model.train()

    def run() -> object:
        sums = backward(state, training, images, labels, plan, samples=len(labels))
        update(state)
        return sums

    return Variant(run, config.batch_size)


class SecondStemPass(FeatureHook):
    """MoEx as the published code does it: the stem computes the partners' features in a second pass."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__(model, layer, self._exchange)
        self._stem = model.get_submodule(self.layer)
        self._images = torch.empty(0)
        # ResNet's stem begins with the images, PyramidNet's is the BatchNorm after the first convolution.
        self._before = getattr(model, "conv1", nn.Identity())
        model.register_forward_pre_hook(self._remember)

    def _remember(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (self._images,) = inputs

    def _exchange(self, features: Tensor, permutation: Tensor, weight: Tensor) -> Tensor:
        self._arguments = None  # The second pass is left as it is.
        partner_mean, partner_std = moex.moments(self._stem(self._before(self._images[permutation])))
        mean, std = moex.moments(features)
        return ((features - mean) / std * partner_std + partner_mean).to(features.dtype)


@dataclass(kw_only=True)
class PublishedMoEx(moex.MoEx):
    """The step of the mixing list that does so."""

    def attach(self, model: nn.Module, point: str) -> FeatureHook:
        """See `moex.augmentation.Step`."""
        return SecondStemPass(model, point)

    def inside(self, hook: FeatureHook, *arguments: Tensor) -> AbstractContextManager[None]:
        """See `moex.augmentation.Step`."""
        return hook.active(*arguments)


class InMemoryCIFAR(datasets.CIFAR100):  # type: ignore[misc]
    """torchvision's data set with the published transforms, over images that need no files."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.data = images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = labels.tolist()
        self.target_transform = None
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )


def random_images(count: int) -> tuple[Tensor, Tensor]:
    """Images, uint8 `[count, 3, 32, 32]`, and labels of 100 classes."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return torch.from_numpy(pixels), torch.from_numpy(generator.integers(0, 100, count))


def create_source(images: Tensor, labels: Tensor, *, channels_last: bool = False) -> ResidentImages:
    """The batch source of a CIFAR run."""
    return ResidentImages(
        images, labels, mean=MEAN, std=STD, padding=4, flip=True, device=DEVICE, channels_last=channels_last
    )


def measure(variants: Mapping[str, Variant], rounds: int) -> str:
    """Times all variants in every round and returns a table in Markdown."""
    repeats = {}
    for name, variant in variants.items():
        time_of(variant, 2)  # Warm-up and compilation.
        repeats[name] = max(1, round(TIMING / time_of(variant, 1)))
    speeds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        # Back and forth, so that a drift of the machine's speed favours none.
        for name in list(variants)[:: -1 if number % 2 else 1]:
            speeds[name].append(variants[name].images / time_of(variants[name], repeats[name]))
    table = pd.DataFrame(speeds)
    ratios = table.div(table.iloc[:, 0], axis=0)
    rows = []
    for name, variant in variants.items():
        speed, ratio = table[name], ratios[name]
        added = 100 * (1 / ratio - 1)
        memory = f"{peak_memory(variant) / 2**20:,.0f} MiB" if variant.is_step else "-"
        rows.append(
            {
                "": name,
                "images/s": f"{speed.median():,.0f} ({speed.min():,.0f} to {speed.max():,.0f})",
                "times the first": f"{ratio.median():.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
                "added time": f"{added.median():+.1f} % ({added.min():+.1f} to {added.max():+.1f})",
                "peak memory of a step": memory,
            }
        )
    return markdown(pd.DataFrame(rows))


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
    main()
