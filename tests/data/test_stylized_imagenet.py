"""ImageNet and Stylized-ImageNet as one training set."""

import numpy as np
import pytest
import torch
from layouts import jpeg, write_folders

from moex import data
from moex.config import parse, recipe
from moex.data.images.synsets import synsets
from moex.data.stylized_imagenet import StylizedImageNet

CLASSES = tuple(synsets()[100:400:100])


def pictures(split, count, *, seed):
    rows = [(label, f"{label}_{number}.JPEG") for label in CLASSES for number in range(count)]
    return {split: [(label, name, jpeg([seed, position])) for position, (label, name) in enumerate(rows)]}


@pytest.fixture
def dataset(tmp_path):
    """Three classes; the tool makes PNGs of the same names, of which here some are missing."""
    plain = pictures("train", 3, seed=1) | pictures("val", 2, seed=2)
    painted = pictures("train", 2, seed=3) | pictures("val", 1, seed=4)
    write_folders(tmp_path / "imagenet", plain)
    write_folders(tmp_path / "stylized", painted)
    listings = str(tmp_path / "listings")
    root, stylized = str(tmp_path / "imagenet"), str(tmp_path / "stylized")
    settings = StylizedImageNet(root=root, stylized_root=stylized, listings=listings, workers=0)
    return settings, plain, painted


def contents(samples):
    return [(int(label), samples.inputs.read(position)) for position, label in enumerate(samples.labels)]


def test_both_are_trained_on_and_one_is_tested_on(dataset):
    settings, plain, painted = dataset
    splits = settings.read(seed=0)

    def expected(*parts):
        """Class by class, the images of ImageNet before the stylized ones."""
        return [
            (CLASSES.index(label), content)
            for wanted in CLASSES
            for rows in parts
            for label, _, content in rows
            if label == wanted
        ]

    assert settings.class_names == CLASSES
    assert contents(splits["train"]) == expected(plain["train"], painted["train"])
    assert contents(splits["test"]) == expected(plain["val"])
    some = splits["train"].select(np.array([14, 3, 4]))
    assert contents(some) == [contents(splits["train"])[position] for position in (14, 3, 4)]
    assert ("stylized" in some.inputs.name(1), "imagenet" in some.inputs.name(0)) == (True, False)
    assert contents(settings.read_test(seed=0)["test"]) == contents(splits["test"])


def test_its_batches(dataset):
    loaded = data.load(dataset[0], seed=0, device=torch.device("cpu"))
    images, labels = next(loaded["test"].batches([data.Request(torch.arange(6), torch.arange(6))]))
    assert images.shape == (6, 3, 224, 224)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(loaded["train"]) == 15


def test_where_the_images_lie_is_not_the_recipe(dataset, tmp_path):
    settings = dataset[0]
    values = {"name": "stylized_imagenet", "root": settings.root}
    here, there = (
        recipe(parse({"dataset": values | {"stylized_root": folder}}))
        for folder in (settings.stylized_root, "elsewhere")
    )
    assert here == there
    assert here["dataset.name"] == "stylized_imagenet"


def test_without_the_stylized_images(dataset):
    settings = dataset[0]
    settings.stylized_root = "nowhere"
    with pytest.raises(
        ValueError, match=r"dataset.stylized_root is 'nowhere': it must hold train/SYNSET, as the tool"
    ):
        settings.read(seed=0)
