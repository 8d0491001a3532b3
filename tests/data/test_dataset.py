"""What holds of every data set, and of the splits that are made of what it reads."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from composition import compose_raw
from omegaconf import OmegaConf

from moex import data
from moex.data import DataSet, Request, Samples
from moex.data.imagenet_c import ALEXNET
from moex.registry import find_classes

CPU = torch.device("cpu")
# A row for each data set: the sizes of its splits; of one's own pictures they are one's own.
DATA_SETS = {
    "cifar10": {"train": 50_000, "test": 10_000},
    "cifar100": {"train": 50_000, "test": 10_000},
    "digits": {"train": 1257, "test": 540},
    "image_folder": {},
    "imagenet": {"train": 1_281_167, "test": 50_000},
    "imagenet_a": {"test": 7_500},
    "imagenet_c": {f"{corruption}-{severity}": 50_000 for corruption in ALEXNET for severity in range(1, 6)},
    "imagenet_o": {"in": 10_000, "out": 2_000},
    "imagenet_r": {"test": 30_000},
    "imagenet_sketch": {"test": 50_889},
    "imagenet_v2": {"test": 10_000},
    "modelnet10": {"train": 3_991, "test": 908},
    "modelnet40": {"train": 9_843, "test": 2_468},
    "objectnet": {"test": 18_574},
    "speech_commands": {"train": 51_094 + 5_109, "validation": 6_798 + 679, "test": 6_835},
    "stylized_imagenet": {"train": 2_562_334, "test": 50_000},
    "imagenet32": {"train": 1_281_167, "test": 50_000},
    "imagenet64": {"train": 1_281_167, "test": 50_000},
}
# Those that are here, and the fixture that says where.
HERE = {"digits": None, "cifar100": "cifar100_root", "modelnet10": "modelnet10_root"}


def test_every_data_set_has_a_row():
    assert data.names() == sorted(DATA_SETS)


@pytest.mark.parametrize("name", DATA_SETS)
def test_its_settings_are_its_yaml_file(name):
    """The groups' files name all keys and say the defaults."""
    stored = OmegaConf.to_container(compose_raw(f"dataset={name}", "augmentation=none").dataset)
    assert stored == dataclasses.asdict(data.find(name)())


@pytest.mark.parametrize("name", HERE)
def test_what_it_yields_is_what_it_says(name, request):
    root = "nowhere" if HERE[name] is None else str(request.getfixturevalue(HERE[name]))
    dataset = data.find(name)(root=root)
    sources = data.load(dataset, seed=0, device=CPU)
    assert {split: len(source) for split, source in sources.items()} == DATA_SETS[name]
    for source in sources.values():
        everyone = torch.arange(len(source))
        inputs, labels = next(source.batches([Request(everyone[:100], torch.arange(100), np.random.default_rng(0))]))
        assert inputs.shape == (100, *dataset.shape)
        assert inputs.dtype == torch.float32
        assert inputs.mean().abs() < 0.5  # Normalised.
        assert 0 <= labels.min() <= labels.max() < dataset.num_classes


@dataclass
class Points(DataSet):
    """Random point sets of 3 classes; the label is told by the first coordinate."""

    name: str = "points"
    own_validation: bool = False

    shape = (16, 3)
    num_classes = 3

    def read(self, *, seed):
        labels = torch.arange(90) % 3
        points = torch.from_numpy(np.random.default_rng(seed).normal(size=(90, 16, 3))).float()
        points[:, 0, 0] = torch.arange(90).float()
        samples = Samples(points, labels)
        splits = {"train": samples.select(slice(60)), "test": samples.select(slice(60, 90))}
        return splits | ({"validation": samples.select(slice(80, 90))} if self.own_validation else {})


def contents(source):
    """Which samples a source has: their first coordinates, and their labels."""
    everyone = torch.arange(len(source))
    ((inputs, labels),) = source.batches([Request(everyone, everyone)])
    return inputs[:, 0, 0].long(), labels


def test_a_share_of_the_training_set_is_held_out():
    """Stratified, by the seed, and without a sample on both sides."""
    held_out = {}
    for seed in (0, 0, 1):
        sources = data.load(Points(validation=0.2), seed=seed, device=CPU)
        assert {name: len(source) for name, source in sources.items()} == {"train": 48, "test": 30, "validation": 12}
        train, validation = (contents(sources[name]) for name in ("train", "validation"))
        assert validation[1].bincount().tolist() == [4, 4, 4]
        assert sorted([*train[0].tolist(), *validation[0].tolist()]) == list(range(60))
        assert held_out.setdefault(seed, sorted(validation[0].tolist())) == sorted(validation[0].tolist())
    assert held_out[0] != held_out[1]


def test_limits_are_of_the_first_samples():
    sources = data.load(Points(validation=0.5), seed=0, device=CPU, limit_train=30, limit_test=10)
    assert {name: len(source) for name, source in sources.items()} == {"train": 15, "test": 10, "validation": 15}
    kept = torch.cat([contents(sources[name])[0] for name in ("train", "validation")])
    assert sorted(kept.tolist()) == list(range(30))
    assert contents(sources["test"])[0].tolist() == list(range(60, 70))


REFUSED = {
    "too many": ({}, {"limit_test": 31}, "limit_test is 31: points has 30 such samples"),
    "a second validation split": (
        {"validation": 0.1, "own_validation": True},
        {},
        "dataset.validation is 0.1: it must be null, since points has a validation split of its own",
    ),
    "a class that cannot be on both sides": (
        {"validation": 0.5},
        {"limit_train": 3},
        r"dataset.validation is 0.5, of 3 samples: ",
    ),
}


@pytest.mark.parametrize(("settings", "limits", "message"), REFUSED.values(), ids=REFUSED)
def test_a_split_that_cannot_be(settings, limits, message):
    with pytest.raises(ValueError, match=message):
        data.load(Points(**settings), seed=0, device=CPU, **limits)


def test_no_such_data_set():
    with pytest.raises(ValueError, match="no data set 'mnist': it must be one of cifar10, cifar100, digits"):
        data.find("mnist")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere.MyData", r"dataset.target is 'nowhere.MyData': .* \(No module named 'nowhere'\)"),
        ("moex.data.Nothing", r"has no attribute 'Nothing'"),
        ("MyData", r"it must be MODULE.CLASS"),
        ("moex.data.load", r"it must be a subclass of moex.data.dataset.DataSet"),
    ],
)
def test_a_path_that_leads_to_no_data_set(target, message):
    with pytest.raises(ValueError, match=message):
        data.find("digits", target=target)


def test_a_class_of_a_file_is_found_by_its_name():
    assert find_classes("moex.data", DataSet)["digits"].__name__ == "Digits"
