"""One table for what holds of every network."""

import math

import pytest
import torch
from cifar_networks import CIFAR_NETWORKS, create
from torch import nn
from torch.nn import functional as F


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("case", CIFAR_NETWORKS)
def test_parameters_are_those_reported(case):
    with torch.device("meta"):
        model, _ = create(case)
    expected = CIFAR_NETWORKS[case][2]
    if expected is not None:
        assert parameters(model) == expected


def test_reported_counts_in_millions():
    """As the paper's table prints them, and reported.yaml counts them."""
    with torch.device("meta"):
        counts = {case: parameters(create(case)[0]) / 1e6 for case in CIFAR_NETWORKS}
    assert 1.70 <= counts["resnet110"] <= 1.73
    assert math.floor(10 * counts["pyramidnet110"]) / 10 == 1.7
    assert round(counts["pyramidnet200"], 2) == 26.75
    assert round(counts["pyramidnet200 on CIFAR-100"], 2) == 26.84
    assert round(counts["wrn28"], 2) == 36.48
    assert round(counts["densenet_bc100"], 2) == 0.77
    assert round(counts["densenet_bc190"], 2) == 25.62
    assert round(counts["resnext29"], 2) == 34.43


@pytest.mark.parametrize("case", CIFAR_NETWORKS)
def test_shapes_of_logits_and_points(case):
    with torch.device("meta"):
        model, classes = create(case)
        images = torch.empty(2, 3, 32, 32)
    shapes = {}
    for point, path in model.points.items():
        model.get_submodule(path).register_forward_hook(
            lambda _, __, output, point=point: shapes.__setitem__(point, tuple(output.shape[1:]))
        )
    assert model(images).shape == (2, classes)
    channels = CIFAR_NETWORKS[case][3]
    sides = (32, 16, 8, 4, 2, 1) if case.startswith("vgg") else (32, 32, 16, 8, 4)[: len(channels)]
    assert list(shapes) == ["stem", *(f"stage{index}" for index in range(1, len(channels)))]
    assert list(shapes.values()) == [(width, side, side) for width, side in zip(channels, sides, strict=True)]


SMALL = [
    "resnet20",
    "pyramidnet110",
    "pyramidnet56",
    "wrn16",
    "densenet_bc22",
    "resnext11",
    "vgg11",
    "preact_resnet18",
]


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 32), (3, 32)])
def test_a_step_reaches_every_parameter(case, channels, size):
    torch.manual_seed(0)
    model, classes = create(case, in_channels=channels)
    loss = F.cross_entropy(model(torch.randn(4, channels, size, size)), torch.arange(4) % classes)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize("case", sorted({*SMALL} - {"pyramidnet110"}))
def test_a_trained_network_can_be_taken_elsewhere(case, tmp_path):
    """By torch.export, and by TorchScript, which others still load."""
    model = create(case, in_channels=3)[0].eval()
    images = torch.randn(2, 3, 32, 32)
    torch.jit.save(torch.jit.trace(model, images), tmp_path / "model.pt")
    exported = torch.export.export(model, (images,)).module()
    for network in (torch.jit.load(tmp_path / "model.pt"), exported):
        torch.testing.assert_close(network(images), model(images))


@pytest.mark.parametrize("case", ["resnet56", *SMALL[1:]])
def test_initialisation_has_the_published_law(case):
    """Convolutions N(0, 2 / (k·k·channels out)) without bias; BatchNorm 1 and 0; the classifier as torch draws it.

    The published codes in Torch, which our ResNet does not follow there, begin with a classifier's bias of 0.
    """
    torch.manual_seed(0)
    model, _ = create(case)
    scores = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            scores.append(module.weight.detach().flatten() / std)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
            assert (module.eps, module.momentum) == (1e-5, 0.1)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias.eq(0).all() == (case not in ("resnet56", "pyramidnet110", "pyramidnet56"))
    for score in scores:
        assert float(score.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(score)))
    everything = torch.cat(scores)
    assert float(everything.mean()) == pytest.approx(0, abs=5 / math.sqrt(len(everything)))
    assert float((everything.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.005)
