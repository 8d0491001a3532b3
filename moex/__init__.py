"""Moment Exchange (MoEx): feature-space data augmentation for any PyTorch network.

    mixing = moex.Mixing(model, [moex.CutMix(probability=0.5), moex.MoEx(layer="layer1")], num_classes=1000)
    with mixing(images, labels) as (images, targets):
        loss = F.cross_entropy(model(images), targets)

Everything is imported when it is first used. The distribution is called `moment-exchange`; PyPI's `moex` is not ours.
"""

import importlib
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.namesake import describe_namesake

if TYPE_CHECKING:
    import moex.metrics as metrics
    import moex.models as models
    from moex.augmentation.cutmix import CutMix
    from moex.augmentation.cutout import Cutout
    from moex.augmentation.dropblock import DropBlock
    from moex.augmentation.feature_cutmix import FeatureCutMix
    from moex.augmentation.label_smoothing import LabelSmoothing
    from moex.augmentation.manifold_mixup import ManifoldMixup
    from moex.augmentation.mixing import Mixing
    from moex.augmentation.mixup import Mixup
    from moex.augmentation.moex import MoEx
    from moex.exchange import FeatureExchange, MomentExchange
    from moex.losses import mixed_cross_entropy
    from moex.normalisation import exchange_moments, moments
    from moex.run.candidates import load

__all__ = [
    "CutMix",
    "Cutout",
    "DropBlock",
    "FeatureCutMix",
    "FeatureExchange",
    "LabelSmoothing",
    "ManifoldMixup",
    "Mixing",
    "Mixup",
    "MoEx",
    "MomentExchange",
    "exchange_moments",
    "load",
    "metrics",
    "mixed_cross_entropy",
    "models",
    "moments",
]
__version__ = "0.2.0"

_HOMES = {
    "Mixing": "augmentation.mixing",
    "FeatureExchange": "exchange",
    "MomentExchange": "exchange",
    "exchange_moments": "normalisation",
    "load": "run.candidates",
    "mixed_cross_entropy": "losses",
    "moments": "normalisation",
}


if (_namesake := describe_namesake(Path(__file__).parent)) is not None:
    warnings.warn(_namesake, stacklevel=2)


def __getattr__(name: str) -> Any:
    if name in ("metrics", "models"):
        return importlib.import_module(f"moex.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"moex.{_HOMES[name]}"), name)
    if name[:1].isupper():
        # The class of a step of the mixing list.
        steps = importlib.import_module("moex.augmentation").step_classes().values()
        for step in steps:
            if step.__name__ == name:
                return step
    raise AttributeError(f"module 'moex' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
