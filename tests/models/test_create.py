"""Networks by name: those of libraries and their points, and what is refused."""

import pytest
import torch

import moex
from moex import models

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
        exchange = moex.MomentExchange(model, "stem")
        with exchange.swap(torch.tensor([1, 0])):
            assert model(torch.empty(2, 3, 224, 224)).shape == (2, 7)
    points = models.points_of(model)
    assert points.items() >= POINTS[name].items()
    for path in points.values():
        model.get_submodule(path)


def test_a_network_of_unknown_layout_takes_paths():
    with torch.device("meta"):
        model = models.create("torchvision:squeezenet1_1", num_classes=7)
    assert models.points_of(model) == {}
    assert moex.MomentExchange(model, "features.3").layer == "features.3"


def test_in_channels_of_a_library():
    assert models.create("timm:resnet10t", num_classes=3, in_channels=1)(torch.randn(2, 1, 32, 32)).shape == (2, 3)


MISTAKES = {
    "resnet21": ({}, r"resnet21: the depth is 6n\+2, such as 20 or 26"),
    "resnet2": ({}, r"such as 8 or 14"),
    "pyramidnet111": ({}, r"9n\+2, such as 110 or 119"),
    "pyramidnet56": ({"alpha": -1}, r"alpha is -1: it must be 0 or more"),
    "resnet20": ({"width": 2}, r"network 'resnet20' has no option 'width'"),
    "wrn27": ({}, r"wrn27: the depth is 6n\+4, such as 22 or 28"),
    "wrn28": ({"width": 0}, r"width is 0: it must be 1 or more"),
    "wrn10": ({"dropout": 1}, r"dropout is 1: it must be in \[0, 1\)"),
    "densenet_bc3": ({}, r"densenet_bc3: the depth is 6n\+4, such as 10 or 16"),
    "densenet_bc10": ({"growth_rate": 0}, r"growth_rate is 0: it must be 1 or more"),
    "densenet_bc16": ({"compression": 1}, r"network 'densenet_bc16' has no option 'compression'"),
    "resnext30": ({}, r"resnext30: the depth is 9n\+2, such as 29 or 38"),
    "resnext29": ({"cardinality": 0}, r"cardinality is 0: it must be 1 or more"),
    "resnext11": ({"base_width": -1}, r"base_width is -1: it must be 1 or more"),
    "vgg15": ({}, r"vgg15: the depth is 11, 13, 16 or 19"),
    "preact_resnet20": ({}, r"preact_resnet20: the depth is 18 or 34"),
    "vgg": ({}, r"no network 'vgg': it must be one of preact_resnetDEPTH, .*, wrnDEPTH, torchvision:NAME, timm:NAME"),
    "timm:resnet19": ({}, r"timm has no network 'resnet19': the nearest are resnet"),
    "torchvision:resnet19": ({}, r"torchvision has no network 'resnet19': the nearest are resnet"),
    "torchvision:resnet18": ({"in_channels": 1}, r"takes images of 3 channels, not 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    options, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=10, **options)
