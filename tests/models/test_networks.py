"""One table for what holds of every network; then each family against its paper, written out plainly."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import moex
from moex import models

# name, options, classes, parameters where a source counts them exactly
CIFAR_NETWORKS = {
    "resnet20": ({}, 10, 269_722),
    "resnet32": ({}, 10, 464_154),
    "resnet44": ({}, 10, 658_586),
    "resnet56": ({}, 10, 853_018),
    "resnet110": ({}, 10, 1_727_962),
    "pyramidnet110": ({"alpha": 48, "bottleneck": False}, 10, None),  # 1.7 M in Han et al. 2017, table 4
    "pyramidnet200": ({"alpha": 240}, 10, 26_752_702),
    "pyramidnet200 on CIFAR-100": ({"alpha": 240}, 100, 26_844_952),
    "pyramidnet56": ({"alpha": 240}, 100, None),
}


def create(case, **options):
    name, (given, classes, _) = case.split()[0], CIFAR_NETWORKS[case]
    return models.create(name, num_classes=classes, **given | options), classes


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
    assert shapes["stem"] == (16, 32, 32)
    assert list(shapes) == ["stem", "stage1", "stage2", "stage3"]
    assert [shape[1:] for shape in list(shapes.values())[1:]] == [(32, 32), (16, 16), (8, 8)]
    if case.startswith("resnet"):
        assert [shape[0] for shape in list(shapes.values())[1:]] == [16, 32, 64]
    else:
        alpha, factor = CIFAR_NETWORKS[case][0]["alpha"], 4 if CIFAR_NETWORKS[case][0].get("bottleneck", True) else 1
        assert shapes["stage3"][0] == factor * (16 + alpha)


@pytest.mark.parametrize("case", ["resnet20", "pyramidnet110", "pyramidnet56"])
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


@pytest.mark.parametrize("case", ["resnet56", "pyramidnet110", "pyramidnet56"])
def test_initialisation_has_the_published_law(case):
    """Convolutions N(0, 2 / (k·k·channels out)) without bias; BatchNorm 1 and 0; the classifier as torch draws it."""
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
    for score in scores:
        assert float(score.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(score)))
    everything = torch.cat(scores)
    assert float(everything.mean()) == pytest.approx(0, abs=5 / math.sqrt(len(everything)))
    assert float((everything.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.005)


def shaken(case):
    """A network whose BatchNorms are all different and not neutral, in evaluation mode."""
    torch.manual_seed(0)
    model, _ = create(case)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.5, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


class Weights:
    """Hands out a network's tensors in the order in which its layers are computed."""

    def __init__(self, model):
        self.convolutions = iter([module.weight for module in model.modules() if isinstance(module, nn.Conv2d)])
        self.norms = iter([module for module in model.modules() if isinstance(module, nn.BatchNorm2d)])

    def conv(self, x, stride=1):
        weight = next(self.convolutions)
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, x):
        norm = next(self.norms)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    def exhausted(self):
        return next(self.convolutions, None) is None and next(self.norms, None) is None


def test_resnet_is_the_papers():
    """He et al. 2016, section 4.2: post-activation blocks, identity shortcuts that skip pixels and pad zeros."""
    model = shaken("resnet20")
    images = torch.randn(2, 3, 32, 32)
    weights = Weights(model)
    x = F.relu(weights.norm(weights.conv(images)))
    for width in (16, 32, 64):
        for _ in range(3):
            stride = 1 if x.shape[1] == width else 2
            residual = F.relu(weights.norm(weights.conv(x, stride)))
            residual = weights.norm(weights.conv(residual))
            if stride == 2:
                padded = x.new_zeros(residual.shape)
                padded[:, width // 4 : width // 4 + x.shape[1]] = x[:, :, ::2, ::2]
                x = padded
            x = F.relu(residual + x)
    assert weights.exhausted()
    logits = model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
    torch.testing.assert_close(model(images), logits)


@pytest.mark.parametrize("case", ["pyramidnet110", "pyramidnet56"])
def test_pyramidnet_is_the_papers(case):
    """Han et al. 2017, figure 6d: BN-conv-BN-ReLU-conv-BN, shortcuts that pool and pad zeros behind."""
    options, _, _ = CIFAR_NETWORKS[case]
    bottleneck, alpha = options.get("bottleneck", True), options["alpha"]
    depth = int(case.removeprefix("pyramidnet"))
    blocks = (depth - 2) // (9 if bottleneck else 6)
    model = shaken(case)
    images = torch.randn(2, 3, 32, 32)
    weights = Weights(model)
    x = weights.norm(weights.conv(images))
    for index in range(3 * blocks):
        stride = 2 if index in (blocks, 2 * blocks) else 1
        # Equation 3: D_k = floor(D_{k-1} + α / N); the published code rounds the running sum.
        width = round(16 + (index + 1) * alpha / (3 * blocks))
        residual = weights.conv(weights.norm(x), 1 if bottleneck else stride)
        residual = weights.conv(F.relu(weights.norm(residual)), stride if bottleneck else 1)
        if bottleneck:
            residual = weights.conv(F.relu(weights.norm(residual)))
        residual = weights.norm(residual)
        assert residual.shape[1] == width * (4 if bottleneck else 1)
        shortcut = F.avg_pool2d(x, 2) if stride == 2 else x
        zeros = shortcut.new_zeros(2, residual.shape[1] - shortcut.shape[1], *shortcut.shape[2:])
        x = residual + torch.cat([shortcut, zeros], 1)
    x = F.relu(weights.norm(x))
    assert weights.exhausted()
    logits = model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
    torch.testing.assert_close(model(images), logits)


POINTS = {
    "torchvision:resnet18": {"stem": "maxpool", "stage1": "layer1", "stage4": "layer4"},
    "torchvision:densenet121": {"stem": "features.pool0", "stage1": "features.denseblock1"},
    "timm:resnet18": {"stem": "maxpool", "stage4": "layer4"},
    "timm:densenet121": {"stem": "features.pool0", "stage4": "features.denseblock4"},
    "timm:vit_tiny_patch16_224": {"stem": "patch_embed", "stage1": "blocks.0", "stage12": "blocks.11"},
}


@pytest.mark.parametrize("name", POINTS)
def test_networks_of_libraries_and_their_points(name):
    with torch.device("meta"):
        model = models.create(name, num_classes=7)
        exchange = moex.MomentExchange(model, "stem", channel_dim=-1 if "vit" in name else 1)
        with exchange.swap(torch.tensor([1, 0])):
            assert model(torch.empty(2, 3, 224, 224)).shape == (2, 7)
    assert model.points.items() >= POINTS[name].items()
    for path in model.points.values():
        model.get_submodule(path)


def test_a_network_of_unknown_layout_takes_paths():
    with torch.device("meta"):
        model = models.create("torchvision:mobilenet_v3_small", num_classes=7)
    assert model.points == {}
    assert moex.MomentExchange(model, "features.1").layer == "features.1"


def test_in_channels_of_a_library():
    assert models.create("timm:resnet10t", num_classes=3, in_channels=1)(torch.randn(2, 1, 32, 32)).shape == (2, 3)


MISTAKES = {
    "resnet21": ({}, r"resnet21: the depth is 6n\+2, such as 20 or 26"),
    "resnet2": ({}, r"such as 8 or 14"),
    "pyramidnet111": ({}, r"9n\+2, such as 110 or 119"),
    "pyramidnet56": ({"alpha": -1}, r"alpha is -1: it must be 0 or more"),
    "resnet20": ({"width": 2}, r"network 'resnet20' has no option 'width'"),
    "vgg": ({}, r"no network 'vgg': it must be one of resnetDEPTH, pyramidnetDEPTH, torchvision:NAME, timm:NAME"),
    "timm:resnet19": ({}, r"timm has no network 'resnet19': the nearest are resnet"),
    "torchvision:resnet19": ({}, r"torchvision has no network 'resnet19': the nearest are resnet"),
    "torchvision:resnet18": ({"in_channels": 1}, r"takes images of 3 channels, not 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    options, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=10, **options)
