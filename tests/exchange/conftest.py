"""The network and the images on which exchanges are tried."""

import pytest
import torch
from small_net import SmallNet
from torch import Tensor


@pytest.fixture
def net() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet().double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
