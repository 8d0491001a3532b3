"""Every experiment trains: two steps on real CIFAR-100 images, in small batches, with a network of its family that is
shallow and narrow; those of ImageNet too, in float32, since fp16 may skip its first steps; those of speech on real
recordings, and those of ModelNet on real shapes, of few points.
"""

import functools
import math

import pytest
import torch
from composition import EXPERIMENTS, command_of, composed

from moex.data.cifar import CIFAR100
from moex.engine import train_epoch
from moex.run.build import build_run, load_sources

CELLS = [name for name in EXPERIMENTS if name.startswith(("cifar", "imagenet"))]
CLOUDS = [name for name in EXPERIMENTS if name.startswith("modelnet")]
SPEECH = [name for name in EXPERIMENTS if name.startswith("speech")]
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
    "timm:vit_tiny_patch16_224": {
        "model.options.patch_size": 8,
        "model.options.depth": 2,
        "model.options.embed_dim": 48,
    },
    "timm:convnext_tiny": {"model.name": "timm:convnext_atto"},
    "pointnet2": {"dataset.points": 64},
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
    precision = ["runtime.precision=fp32"] if cell.startswith("imagenet") else []
    train_two_steps(cell, "dataset=cifar100", f"dataset.root={cifar100_root}", *precision)


@pytest.fixture(scope="module")
def recordings(speech_commands_root, tmp_path_factory):
    """What a command says of the real recordings, which are read once."""
    cache = tmp_path_factory.mktemp("recordings")
    return f"dataset.root={speech_commands_root}", "dataset.version='0.02'", f"dataset.cache={cache}"


@pytest.mark.parametrize("cell", SPEECH)
def test_two_steps_on_recordings(cell, recordings):
    train_two_steps(cell, *recordings)


@pytest.mark.parametrize("cell", CLOUDS)
def test_two_steps_on_clouds(cell, modelnet10_root):
    train_two_steps(cell, "dataset=modelnet10", f"dataset.root={modelnet10_root}")


def train_two_steps(cell, *overrides):
    command = command_of(cell)
    model = composed(*command).model
    small = {f"model.options.{key}": value for key, value in model.options.items()} | REDUCED[model.name]
    sizes = ("batch_size=16", "limit_train=32", "limit_test=1")
    config = composed(*command, *(f"{key}={value}" for key, value in small.items()), *sizes, *overrides)
    device = torch.device("cpu")
    run = build_run(config, load_sources(config, device), device)
    state = run.state
    before = [parameter.detach().clone() for parameter in state.model.parameters()]
    assert len(list(train_epoch(state, run.training))) == 2
    loss = float(state.totals[0]) / len(run.training.source)
    assert 0 < loss < 3 * math.log(config.dataset.num_classes)
    changed = [not torch.equal(old, new) for old, new in zip(before, state.model.parameters(), strict=True)]
    assert all(changed)
