"""Images in files, for tests: real photographs, drawn pictures, and a data set of these that a run can name."""

import io
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moex.data import Request, Samples
from moex.data.images.dataset import EncodedImageSet
from moex.data.images.encoded import EncodedFiles, EncodedImages
from moex.data.images.stream import StreamedImages

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Files(EncodedFiles):
    """Files of a disk, or the contents of some."""

    def __init__(self, contents):
        self.contents = list(contents)

    def __len__(self):
        return len(self.contents)

    def name(self, index):
        content = self.contents[index]
        return content.name if isinstance(content, Path) else f"{index}.jpg"

    def read(self, index):
        content = self.contents[index]
        return content.read_bytes() if isinstance(content, Path) else content


def draw_picture(seed, *, width=90, height=70):
    """A smooth picture, unlike others."""
    pixels = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def encode(picture, kind="JPEG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn(count):
    """The contents of files of different sizes."""
    return [encode(draw_picture(seed, width=60 + 7 * seed % 50, height=90 - 11 * seed % 60)) for seed in range(count)]


def source_of(contents, **settings):
    """A source of small crops; the label of each image is its number."""
    files = contents if isinstance(contents, EncodedFiles) else Files(contents)
    defaults = {
        "size": 48,
        "resize": 56,
        "mean": MEAN,
        "std": STD,
        "training": True,
        "workers": 0,
        "decode": "exact",
        "on_error": "fail",
        "max_unreadable": 0.0,
        "device": CPU,
        "channels_last": False,
    }
    images = EncodedImages(files, np.arange(len(files)))
    return StreamedImages(images, torch.arange(len(files)), **defaults | settings)


def requests_of(batches, *, ranks=1, rank=0, augmented=True):
    """The requests of one of several ranks."""
    for step, indices in enumerate(batches):
        share = torch.arange(len(indices)).tensor_split(ranks)[rank]
        yield Request(indices, share, np.random.default_rng([7, step]) if augmented else None)


class TrappedFiles(Files):
    """Whoever reads one of them is killed, once, if there is a trap."""

    def __init__(self, contents, trap):
        super().__init__(contents)
        self.trap = Path(trap)

    def read(self, index):
        if index == 7 and self.trap.exists():
            self.trap.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@dataclass
class Pictures(EncodedImageSet):
    """Drawn pictures of three classes; some of each split cannot be read."""

    broken: int = 0
    trap: str = "nowhere"

    size: int = 32
    resize: int = 36
    num_classes = 3

    def read(self, *, seed):
        contents = drawn(60)
        for number in range(self.broken):
            for split in (0, 40):
                contents[split + number] = contents[split + number][:-50]
        images = EncodedImages(TrappedFiles(contents, self.trap), np.arange(60))
        samples = Samples(images, torch.arange(60) % 3)
        return {"train": samples.select(slice(40)), "test": samples.select(slice(40, None))}
