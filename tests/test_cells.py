"""Every experiment trains: two steps on real CIFAR-100 images, in small batches, with a network of its family that is
shallow and narrow; those of ImageNet too, in float32, since fp16 may skip its first steps.
"""

import functools
import math

import pytest
import torch
from composition import EXPERIMENTS, command_of, composed

from moex.data.cifar import CIFAR100
from moex.engine import train_epoch
from moex.run.build import build_run, load_sources

CELLS = [name for name in EXPERIMENTS if name.startswith(("cifar", "imagenet", "speech"))]
# The network of a cell, and what makes it small; everything else stays the cell's own.
REDUCED = {
    "resnet8": {},
    "resnet20": {"model.name": "resnet8"},
    "resnet110": {"model.name": "resnet8"},
    "pyramidnet200": {"model.name": "pyramidnet11", "model.options.alpha": 12},
    "vgg11": {},
    "wrn28": {"model.name": "wrn10", "model.options.width": 1},
    "densenet_bc100": {"model.name": "densenet_bc10", "model.options.growth_rate": 4},
    "densenet_bc190": {"model.name": "densenet_bc10", "model.options.growth_rate": 4},
    "torchvision:resnet50": {"model.name": "torchvision:resnet18"},
    "torchvision:resnext50_32x4d": {"model.name": "torchvision:resnet18"},
    "torchvision:densenet265": {"model.options.growth_rate": 4, "model.options.block_config": [1, 1, 1, 1]},
    "timm:vit_small_patch16_224": {
        "model.options.img_size": 32,
        "model.options.patch_size": 8,
        "model.options.depth": 2,
        "model.options.embed_dim": 48,
    },
    "timm:convnext_tiny": {"model.name": "timm:convnext_atto"},
    "resnext29": {"model.name": "resnext11", "model.options.cardinality": 2, "model.options.base_width": 4},
}


@pytest.fixture(autouse=True)
def read_once(monkeypatch):
    monkeypatch.setattr(CIFAR100, "read", lambda dataset, *, seed: read(dataset.root))


@functools.cache
def read(root, original=CIFAR100.read):
    return original(CIFAR100(root=root), seed=0)


@pytest.mark.parametrize("cell", CELLS)
def test_two_steps(cell, cifar100_root):
    command = command_of(cell)
    model = composed(*command).model
    small = {f"model.options.{key}": value for key, value in model.options.items()} | REDUCED[model.name]
    config = composed(
        *command,
        *(["runtime.precision=fp32"] if cell.startswith("imagenet") else []),
        *(f"{key}={value}" for key, value in small.items()),
        "dataset=cifar100",
        f"dataset.root={cifar100_root}",
        "batch_size=16",
        "limit_train=32",
        "limit_test=1",
    )
    device = torch.device("cpu")
    run = build_run(config, load_sources(config, device), device)
    state = run.state
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    assert len(list(train_epoch(state, run.training))) == 2
    loss = float(state.totals[0]) / len(run.training.source)
    assert 0 < loss < 3 * math.log(100)
    changed = [not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True)]
    assert all(changed)
