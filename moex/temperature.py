"""Temperature scaling: one number that logits are divided by, so that confidence is what it says.

Source: Guo, Pleiss, Sun and Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017, section 4.2.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Between which a temperature is searched.
LOWEST, HIGHEST = 0.02, 50.0


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Returns the temperature T at which the mean cross-entropy of logits / T is the lowest.

    It does not change which class is predicted.

    Args:
        logits: `[N, K]`, floating point, finite.
        labels: int64 `[N]`.

    Returns:
        T, from 0.02 to 50: near an end of this range where all predictions are right, or no better than chance.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), labels))

    # In 1/T the loss is convex, so that it has one minimum in log T as well.
    bounds = (math.log(LOWEST), math.log(HIGHEST))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def hold_out(samples: int, share: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Returns the samples on which a temperature is fitted, and the others, int64, each in rising order.

    Args:
        samples: N, 2 or more.
        share: of the first, in (0, 1); each part has one at least.
        seed: which.
    """
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    count = min(max(round(share * samples), 1), samples - 1)
    return order[:count].sort().values, order[count:].sort().values
