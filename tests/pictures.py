"""Images for tests: the real photographs, drawn ones, and a data set of them that a run can name."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from moex.data.images.encoded import EncodedFiles, EncodedImages
from moex.data.images.stream import StreamedImages

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Files(EncodedFiles):
    """Files on a disk, or the bytes of some."""

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


def encoded(contents):
    files = Files(contents)
    return EncodedImages(files, np.arange(len(files)))


def draw_picture(seed, *, width=90, height=70, mode="RGB"):
    """A smooth picture, unlike others."""
    generator = np.random.default_rng(seed)
    noise = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return noise.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encode(picture, kind="JPEG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def drawn(count, **options):
    """The bytes of some pictures."""
    return [encode(draw_picture(seed, **options)) for seed in range(count)]


def source_of(contents, **settings):
    """Small crops of them; each picture's label is its number."""
    images = contents if isinstance(contents, EncodedImages) else encoded(contents)
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
    return StreamedImages(images, torch.arange(len(images)), **defaults | settings)
