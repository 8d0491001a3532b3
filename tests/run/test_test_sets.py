"""A network trained on ImageNet's layout, and scored on ImageNet-A's, by the command that its users type."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from program import run_here

from moex.data.images.synsets import synsets

INDICES = np.loadtxt(Path(timm.__file__).parent / "data" / "_info" / "imagenet_a_indices.txt", dtype=int)
QUICK = (
    "dataset=imagenet", "dataset.target=small_imagenet.SmallImageNet", "dataset.workers=0", "dataset.size=16",
    "dataset.resize=16", "model=resnet8", "epochs=1", "augmentation=none",
)  # fmt: skip
A = "small_imagenet.SmallImageNetA"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Noise for each of ImageNet's classes, and the same images again as ImageNet-A's; and of ten classes alone."""
    root, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    ours = [f"imagenet/{split}" for split in ("train", "val")]
    for label, synset in enumerate(synsets()):
        places = [
            *ours,
            *(["imagenet-a"] if label in INDICES else []),
            *(["ten/train", "ten/val"] if label < 10 else []),
        ]
        first, *others = (root / place / synset / f"{synset}_1.JPEG" for place in places)
        first.parent.mkdir(parents=True)
        Image.fromarray(draws.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(first, quality=95)
        for path in others:
            path.parent.mkdir(parents=True)
            os.link(first, path)
    return root


@pytest.fixture
def here(tmp_path, monkeypatch, capfd):
    return lambda *arguments: run_here(*QUICK, *arguments, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)


def test_scored_on_200_of_its_1000_classes(pictures, here, tmp_path):
    code, printed = here(
        f"dataset.root={pictures}/imagenet",
        "limit_train=100",
        f"test_sets=[{{target: {A}, root: {pictures}}},{{target: {A}, root: {pictures}, restrict: false}}]",
    )
    assert code == 0, printed
    (path,) = tmp_path.rglob("result.json")
    blocks = json.loads(path.read_text())["test_sets"]
    assert list(blocks) == [A, f"{A},restrict=False"]
    with np.load(path.parent / "predictions.npz") as arrays:
        assert np.array_equal(arrays["labels"], np.arange(1000))
        everything = arrays["logits"][INDICES]
    for label, logits, labels in (
        (A, everything[:, INDICES], np.arange(200)),
        (f"{A},restrict=False", everything, INDICES),
    ):
        with np.load(path.parent / "test_sets" / f"{label}.npz") as arrays:
            assert np.array_equal(arrays["labels"], labels)
            # Of other batches, and so of other last bits.
            np.testing.assert_allclose(arrays["logits"], logits, atol=1e-4)
            assert blocks[label]["last"]["error"] == np.mean(arrays["logits"].argmax(1) != labels)
        assert blocks[label]["best"] == blocks[label]["last"]
        assert f"{label}, %" in printed


def test_a_network_of_ten_classes(pictures, here, tmp_path):
    code, printed = here(f"dataset.root={pictures}/ten", f"test_sets=[{{target: {A}, root: {pictures}}}]")
    assert code == 1
    absent = [synsets()[index] for index in INDICES if index >= 10][:5]
    assert f"{A}: 199 of 200 classes are none of the network's 10: {', '.join(absent)}, ..." in printed
    assert not list(tmp_path.rglob("config.yaml"))
