"""Networks by name: those of libraries and their points, and what is refused."""

import pytest
import torch
import yaml
from composition import CONFIGS, composed

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


FILES = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))


def shapes(model):
    return {key: value.shape for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_configs_is_a_name(name):
    """It builds what the file amounts to in a run, whose recipe has the network that the name stands for."""
    config = composed(f"model={name}", "augmentation=none").model
    with torch.device("meta"):
        by_name = models.create(name, num_classes=7)
        by_file = models.create(config.name, num_classes=7, **config.options)
    assert shapes(by_name) == shapes(by_file)
    assert str(by_name) == str(by_file)
    assert models.resolve(config.name, config.options) == (config.name, config.options)
    # What a name stands for is said once, in the package.
    content = yaml.safe_load((CONFIGS / "model" / f"{name}.yaml").read_text())
    assert content == {"name": name, "options": {}}
    assert set(models.NAMED) <= set(FILES)


def test_a_name_takes_options_in_place_of_its_own():
    with torch.device("meta"):
        narrow = models.create("wrn28_10", num_classes=7, width=2)
        assert shapes(narrow) == shapes(models.create("wrn28", num_classes=7, width=2, dropout=0.3))
        assert "p=0.3" in str(narrow)


def test_densenet265():
    """Huang et al. 2017, table 1: 33.3 M parameters with k = 32."""
    with torch.device("meta"):
        model = models.create("densenet265", num_classes=1000)
        exchange = moex.MomentExchange(model, "stem")
        assert exchange.layer == "features.pool0"
        blocks = [len(model.get_submodule(f"features.denseblock{index}")) for index in range(1, 5)]
        assert blocks == [6, 12, 64, 48]
        assert model.features.pool0(model.features.conv0(torch.empty(1, 3, 224, 224))).shape == (1, 64, 56, 56)
        assert model.features.denseblock1.denselayer1.conv2.out_channels == 32
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 33.3


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
    "vgg": (
        {},
        r"no network 'vgg': it must be one of preact_resnetDEPTH, .*, wrnDEPTH, pointnet2, torchvision:NAME, timm",
    ),
    "timm:resnet19": ({}, r"timm has no network 'resnet19': the nearest are resnet"),
    "torchvision:resnet19": ({}, r"torchvision has no network 'resnet19': the nearest are resnet"),
    "torchvision:resnet18": ({"in_channels": 1}, r"takes images of 3 channels, not 1"),
    "densenet265": ({"in_channels": 1}, r"torchvision:densenet265 takes images of 3 channels, not 1"),
    "torchvision:densenet265": ({"depth": 264}, r"network 'torchvision:densenet265' has no option 'depth'"),
    "wrn28_10": ({"widths": 9}, r"network 'wrn28' has no option 'widths'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(name):
    options, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        models.create(name, num_classes=10, **options)
