"""The networks for small images, by what sources tell of them."""

import torch
from torch import nn

from moex import models

# name, options, classes, parameters where a source counts them exactly, channels of the stem and of each stage
CIFAR_NETWORKS = {
    "resnet20": ({}, 10, 269_722, (16, 16, 32, 64)),
    "resnet32": ({}, 10, 464_154, (16, 16, 32, 64)),
    "resnet44": ({}, 10, 658_586, (16, 16, 32, 64)),
    "resnet56": ({}, 10, 853_018, (16, 16, 32, 64)),
    "resnet110": ({}, 10, 1_727_962, (16, 16, 32, 64)),
    # 1.7 M in Han et al. 2017, table 4
    "pyramidnet110": ({"alpha": 48, "bottleneck": False}, 10, None, (16, 32, 48, 64)),
    "pyramidnet200": ({"alpha": 240}, 10, 26_752_702, (16, 384, 704, 1024)),
    "pyramidnet200 on CIFAR-100": ({"alpha": 240}, 100, 26_844_952, (16, 384, 704, 1024)),
    "pyramidnet56": ({"alpha": 240}, 100, None, (16, 384, 704, 1024)),
    "wrn28": ({"width": 10, "dropout": 0.3}, 10, 36_479_194, (16, 160, 320, 640)),
    "wrn16": ({"width": 1, "dropout": 0.3}, 10, None, (16, 16, 32, 64)),
    "densenet_bc100": ({"growth_rate": 12}, 10, 769_162, (24, 216, 300, 342)),
    "densenet_bc190": ({"growth_rate": 40}, 10, 25_624_430, (80, 1320, 1900, 2190)),
    "densenet_bc22": ({"growth_rate": 12}, 10, None, (24, 60, 66, 69)),
    "resnext29": ({"cardinality": 8, "base_width": 64}, 10, 34_426_698, (64, 256, 512, 1024)),
    "resnext11": ({"cardinality": 4, "base_width": 8}, 10, None, (64, 256, 512, 1024)),
    "vgg11": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "vgg13": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "vgg16": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "vgg19": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "preact_resnet18": ({}, 10, None, (64, 64, 128, 256, 512)),
    "preact_resnet34": ({}, 10, None, (64, 64, 128, 256, 512)),
}


def create(case, **options):
    name, (given, classes, *_) = case.split()[0], CIFAR_NETWORKS[case]
    return models.create(name, num_classes=classes, **given | options), classes


def shaken(case, **options):
    """A network whose BatchNorms are all different and not neutral, in evaluation mode."""
    torch.manual_seed(0)
    model, _ = create(case, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.5, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()
