"""Moment Exchange: after a layer, each sample's features take the moments of its partner's.

Source: Li et al., On Feature Normalization and Data Augmentation, CVPR 2021, section 3.
"""

import dataclasses
import functools
import inspect
import pkgutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from moex.augmentation.base import PairStep
from moex.exchange import STATISTICS, Exchange, FeatureExchange
from moex.features import FeatureHook
from moex.normalisation import parse_norm
from moex.settings import require


@dataclass(kw_only=True)
class MoEx(PairStep):
    """Moment Exchange after `layer`, a named point of the network or a module path.

    `statistic` is what is exchanged: `moments`, the leading principal `components`, all order statistics (`order`),
    or a function of your own by its import path. The settings after it are the statistic's options; one that the
    statistic does not have stays at its default.
    """

    name: ClassVar[str] = "moex"
    probability: float = 0.5
    weight: float | None = 0.9
    layer: str = "stem"
    channel_dim: int | None = None
    batch_dim: int = 0
    statistic: str = "moments"
    norm: str = "pono"
    eps: float = 1e-5
    positive_only: bool = False
    detach: bool = False
    components: int = 1

    def check(self, key: str) -> None:
        """Refuses settings out of their range; see `moex.settings`."""
        super().check(key)
        require(self.eps > 0, f"{key}.eps", self.eps, "more than 0")
        require(self.components >= 1, f"{key}.components", self.components, "1 or more")
        parse_norm(self.norm)
        options = inspect.signature(self.function()).parameters
        for setting in dataclasses.fields(self):
            if setting.name in _OPTIONS and setting.name not in options:
                value, unused = getattr(self, setting.name), f"{setting.default!r} where {key}.statistic is "
                require(value == setting.default, f"{key}.{setting.name}", value, f"{unused}{self.statistic!r}")

    def recipe(self) -> dict[str, Any]:
        """The settings that act on the training: of the options, those of the statistic."""
        options = inspect.signature(self.function()).parameters
        settings = dataclasses.asdict(self)
        return {key: value for key, value in settings.items() if key not in _OPTIONS or key in options}

    def function(self) -> Exchange:
        """The statistic's exchange."""
        if self.statistic in STATISTICS:
            return STATISTICS[self.statistic]
        try:
            function: Exchange = pkgutil.resolve_name(self.statistic)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{self.name}.statistic is {self.statistic!r}: it must be one of {', '.join(STATISTICS)}, or the "
                f"import path of a function ({error})"
            ) from None
        try:
            signature = inspect.signature(function)
            signature.bind(
                None, None, **{name: None for name in (*_OPTIONS, "channel_dim") if name in signature.parameters}
            )
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.name}.statistic is {self.statistic!r}: it must be a function of features and a permutation "
                f"({error})"
            ) from None
        return function

    def places(self) -> Sequence[str]:
        """The layer."""
        return [self.layer]

    def attach(self, model: nn.Module, point: str) -> FeatureHook:
        """The exchange at the layer."""
        function = self.function()
        settings = dataclasses.asdict(self)
        options = {name: settings[name] for name in inspect.signature(function).parameters if name in _OPTIONS}
        exchange = functools.partial(function, **options)
        return FeatureExchange(model, point, exchange, channel_dim=self.channel_dim, batch_dim=self.batch_dim)

    def inside(self, hook: FeatureHook, *arguments: Tensor) -> AbstractContextManager[None]:
        """The context in which the features are exchanged."""
        assert isinstance(hook, FeatureExchange)
        return hook.swap(arguments[0])


# The settings that are options of statistics.
_OPTIONS = frozenset({"norm", "eps", "positive_only", "detach", "components"})
