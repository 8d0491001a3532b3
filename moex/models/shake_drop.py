"""ShakeDrop: Yamada, Iwamura, Akiba and Kise, ShakeDrop Regularization for Deep Residual Learning, IEEE Access 2019.

In a training step a gate keeps the residual of a block as it is, or disturbs it: the forward pass then multiplies it
by α, which may be negative, and the backward pass multiplies its gradient by another number β.
"""

from typing import Any

import torch
from torch import Tensor, nn


def shake_drop(residual: Tensor, death_rate: float, *, training: bool) -> Tensor:
    """Disturbs the residual of a block in training, and takes the expectation of that in evaluation.

    Args:
        residual: what the block adds to its shortcut, `[B, ...]`.
        death_rate: the probability of being disturbed, 1 - p_l in the paper.
        training: whether to draw.

    Returns:
        In training, `residual` times the first factor of `draw_factors`, with a gradient of the second one times
        the gradient. In evaluation, `residual` times E[b + α - bα] = 1 - `death_rate`, since E[α] = 0.

    Source: Yamada et al., arXiv:1802.02375, equation 6: (b + α - bα) F(x) forwards, b + β - bβ backwards.
    """
    if not training:
        return residual * (1 - death_rate)
    output: Tensor = _ScaleBothPasses.apply(residual, *draw_factors(residual, death_rate))
    return output


def draw_factors(residual: Tensor, death_rate: float) -> tuple[Tensor, Tensor]:
    """Draws, from torch's global generator of the device, what a residual and its gradient are multiplied by.

    One gate b holds for the whole batch, and α and β are each image's own. The paper compares α and β of a batch, an
    image, a channel and a pixel; the code behind the PyramidNet-200 table (clovaai/CutMix-PyTorch) has no ShakeDrop,
    so the level of its numbers is not known. This one is that of the public PyTorch code for PyramidNet
    (kakaobrain/fast-autoaugment, networks/shakedrop.py), whose law of α, β and b it shares as well.

    Args:
        residual: `[B, ...]`, for its shape, its type and its device.
        death_rate: the probability of b = 0.

    Returns:
        The factors of the forward and of the backward pass, `[B, 1, ...]` each: both 1 if b = 1, else α ~ U[-1, 1)
        and β ~ U[0, 1). Nothing here waits for the device.
    """
    images = len(residual)
    # One call, since torch.compile may change the order of several, and float32, since bfloat16 has few numbers.
    uniform = torch.rand(2 * images + 1, device=residual.device)
    alpha, beta, gate = uniform.view(-1, *[1] * (residual.ndim - 1)).split([images, images, 1])
    kept = gate >= death_rate
    factors = torch.where(kept, 1.0, 2 * alpha - 1), torch.where(kept, 1.0, beta)
    return factors[0].to(residual.dtype), factors[1].to(residual.dtype)


class ShakeDrop(nn.Module):
    """`shake_drop` as a layer without parameters, for the end of a residual branch."""

    def __init__(self, death_rate: float) -> None:
        super().__init__()
        self.death_rate = death_rate

    def forward(self, residual: Tensor) -> Tensor:
        """`[B, ...]` to the same shape."""
        return shake_drop(residual, self.death_rate, training=self.training)

    def extra_repr(self) -> str:
        """The death rate, for the printed network."""
        return f"death_rate={self.death_rate:g}"


class _ScaleBothPasses(torch.autograd.Function):
    """Multiplies a tensor by one factor and its gradient by another."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, forward_factor: Tensor, backward_factor: Tensor) -> Tensor:
        ctx.save_for_backward(backward_factor)
        return tensor * forward_factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (backward_factor,) = ctx.saved_tensors
        return gradient * backward_factor, None, None
