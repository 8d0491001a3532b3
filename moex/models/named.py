"""Networks of papers by names of their own: which network of `create` each one is, and with which options.

The files of configs/model/ have these names, or those of `create`.
"""

from collections.abc import Mapping
from typing import Any

PYRAMIDNET200 = {"alpha": 240, "bottleneck": True}

NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    # For 32×32 images
    "densenet_bc_100": ("densenet_bc100", {"growth_rate": 12}),
    "densenet_bc_190": ("densenet_bc190", {"growth_rate": 40}),
    "pyramidnet110": ("pyramidnet110", {"alpha": 48, "bottleneck": False}),
    "pyramidnet200": ("pyramidnet200", PYRAMIDNET200),
    "pyramidnet200_shakedrop": ("pyramidnet200", {**PYRAMIDNET200, "shake_drop": 0.5}),
    "pyramidnet200_stochastic_depth": ("pyramidnet200", {**PYRAMIDNET200, "stochastic_depth": 0.5}),
    "resnext29_8x64d": ("resnext29", {"cardinality": 8, "base_width": 64}),
    "vgg11_bn": ("vgg11", {}),
    "vgg16_bn": ("vgg16", {}),
    "vgg19_bn": ("vgg19", {}),
    "vit_tiny": ("timm:vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4}),
    "wrn28_10": ("wrn28", {"width": 10, "dropout": 0.3}),
    # For ImageNet
    "convnext_t": ("timm:convnext_tiny", {"drop_path_rate": 0.1}),
    "densenet265": ("torchvision:densenet265", {}),
    "imagenet_resnet50": ("torchvision:resnet50", {}),
    "resnext50_32x4d": ("torchvision:resnext50_32x4d", {}),
    "vit_s16": ("timm:vit_small_patch16_224", {}),
    # Of a library, to be overridden
    "timm": ("timm:resnet18", {}),
    "torchvision": ("torchvision:resnet18", {}),
}


def resolve(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The network that a name stands for, and its options, of which those that are given count.

    Resolving the answer gives the answer.
    """
    network, own = NAMED.get(name, (name, {}))
    return network, {**own, **options}
