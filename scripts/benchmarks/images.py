"""Photographs in files, decoded by two workers, beside timm's loader."""

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.dataset_factory import create_dataset
from timm.data.loader import create_loader

from benchmarks.measure import DEVICE, Variant, Variants
from moex.data import Request
from moex.data.images.encoded import EncodedFiles, EncodedImages
from moex.data.images.stream import StreamedImages

# Real ones beside the checkout, and how often each is read in an epoch.
PHOTOGRAPHS = Path(__file__).parents[3] / "shared" / "data" / "imagenet"
TIMES_READ = 48


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
