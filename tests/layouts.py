"""Small pictures for tests, in the layouts in which data sets of photographs are published."""

import io
import os
import tarfile
import time

import numpy as np
from PIL import Image


def jpeg(seed, *, height=9, width=12):
    """A JPEG of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def photographs(classes, *, train=3, test=2):
    """The images of two splits, named as those of ImageNet: `{split: [(class, name, content), ...]}`."""
    names = {
        "train": [(label, f"{label}_{2**k}.JPEG") for label in classes for k in range(train)],
        # Numbered across the classes.
        "val": [
            (label, f"ILSVRC2012_val_{k * len(classes) + i + 1:08}.JPEG")
            for i, label in enumerate(classes)
            for k in range(test)
        ],
    }
    return {
        split: [(label, name, jpeg([seed, len(split)])) for seed, (label, name) in enumerate(rows)]
        for split, rows in names.items()
    }


def write_folders(root, images):
    """`root/SPLIT/CLASS/NAME`."""
    for split, rows in images.items():
        for label, name, content in rows:
            path = root / split / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def write_tar(path, members):
    """An archive of `(name, content)`; a `TarInfo` stands for a member as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = name
            if isinstance(name, str):
                info = tarfile.TarInfo(name)
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_shards(root, images, numbers, *, shards=2):
    """WebDataset's, as `timm/imagenet-1k-wds` has them: shuffled, `KEY.jpg`, `KEY.cls` and `KEY.json`."""
    for split, rows in images.items():
        order = np.random.default_rng(0).permutation(len(rows))
        for shard in range(shards):
            members = []
            for label, name, content in (rows[i] for i in order[shard::shards]):
                key = name.removesuffix(".JPEG")
                members += [(f"{key}.cls", b"%d" % numbers[label]), (f"{key}.jpg", content), (f"{key}.json", b"{}")]
            words = {"train": "train", "val": "validation"}[split]
            write_tar(root / f"imagenet1k-{words}-{shard:04}.tar", members)
    return root


def age(root):
    """Lets everything in a folder have changed a minute ago: what has just changed is not relied upon."""
    then = time.time() - 60
    for path in (root, *root.rglob("*")):
        os.utime(path, (then, then), follow_symlinks=False)
    return root
