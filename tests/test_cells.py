"""Every experiment trains: two steps on real CIFAR-100 images, in small batches, with a network of its family that is
shallow and narrow.
"""

import functools
import math
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from moex import data, launch  # noqa: F401  (stores the schema that the configurations begin with)
from moex.config import parse
from moex.engine import train_epoch
from moex.run.build import create_state, load_sets

CONFIGS = Path(__file__).parents[1] / "configs"
CELLS = sorted(path.stem for path in (CONFIGS / "experiment").glob("cifar*.yaml"))
# The network of a cell, and what makes it small; everything else stays the cell's own.
REDUCED = {
    "resnet20": ["model.name=resnet8"],
    "resnet110": ["model.name=resnet8"],
    "pyramidnet200": ["model.name=pyramidnet11", "model.options.alpha=12"],
    "wrn28": ["model.name=wrn10", "model.options.width=1"],
    "densenet_bc100": ["model.name=densenet_bc10", "model.options.growth_rate=4"],
    "densenet_bc190": ["model.name=densenet_bc10", "model.options.growth_rate=4"],
    "resnext29": ["model.name=resnext11", "model.options.cardinality=2", "model.options.base_width=4"],
}


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    monkeypatch.setattr(data, "load", load)


@functools.cache
def load(name, root, *, download, seed):
    return data.load_cifar(name, root, download=download)


@pytest.mark.parametrize("cell", CELLS)
def test_two_steps(cell, cifar100_root):
    def composed(*overrides):
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return parse(compose("train", overrides=[f"+experiment={cell}", *overrides]))

    config = composed()
    config = composed(
        *REDUCED[config.model.name],
        "dataset=cifar100",
        f"dataset.root={cifar100_root}",
        "batch_size=32",
        "limit_train=64",
        "limit_test=1",
    )
    device = torch.device("cpu")
    sets = load_sets(config, device)
    state = create_state(config, sets, device)
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    assert len(list(train_epoch(state, sets.train, config, classes=sets.classes))) == 2
    loss = float(state.totals[0]) / len(sets.train)
    assert 0 < loss < 3 * math.log(100)
    changed = [not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True)]
    assert all(changed)
