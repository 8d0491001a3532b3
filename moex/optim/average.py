"""An exponential moving average of a network's weights."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """An exponential moving average of a network's weights and running statistics, in a network of its own.

    After each update, average ← decay · average + (1 - decay) · weights; it begins as the first weights. Where fp16
    skips an optimizer step, the average moves towards the unchanged weights all the same: to know of it, the host
    would have to wait for the device.

    Args:
        model: copied, with the hooks that it has by now.
        decay: in (0, 1).

    Attributes:
        model: the network that has the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        # Not torch's AveragedModel, which copies a counter to the device, and so waits for it, in every update.
        self._move = get_ema_multi_avg_fn(decay)

    def state_dict(self) -> dict[str, Any]:
        """The average, under the names of the network's own state."""
        return self.model.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Puts the average where `state_dict` found it."""
        self.model.load_state_dict(saved)

    def update(self, model: nn.Module) -> None:
        """Moves the average towards what the model's weights and running statistics are now."""
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        self._move(averages, values, None)
        for count, now in pairs:
            if not count.is_floating_point():
                count.copy_(now)
