"""Moment Exchange (MoEx): feature-space data augmentation for any PyTorch network.

    exchange = moex.MomentExchange(model, "layer1")
    with exchange.swap(perm):
        logits = model(images)

The submodules `moex.metrics` and `moex.models` are imported when they are first used.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from moex.exchange import MomentExchange
from moex.moments import exchange_moments, moments

if TYPE_CHECKING:
    import moex.metrics as metrics
    import moex.models as models

__all__ = ["MomentExchange", "exchange_moments", "metrics", "models", "moments"]


def __getattr__(name: str) -> ModuleType:
    if name in ("metrics", "models"):
        return importlib.import_module(f"moex.{name}")
    raise AttributeError(f"module 'moex' has no attribute {name!r}")
