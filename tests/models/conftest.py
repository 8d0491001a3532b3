"""Networks are compared in double precision, in which two right programs differ by 1e-15 and a wrong one does not."""

import pytest
import torch


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
