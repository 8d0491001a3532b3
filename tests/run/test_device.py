"""The device of a run, and torch's switches for it."""

import pytest
import torch

from moex.config import parse
from moex.run.device import choose_device


def test_cuda_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"no CUDA device: use auto or cpu"):
        choose_device(parse({"runtime": {"device": "cuda"}}).runtime)
    assert choose_device(parse({}).runtime) == torch.device("cpu")


@pytest.mark.parametrize("there", [False, True], ids=["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_tensor_float_32_where_it_is_asked_for_and_there(monkeypatch, precision, there):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(there))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    choose_device(parse({"runtime": {"precision": precision}}).runtime)
    switches = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert switches == ((True, True) if there and precision == "tf32" else (False, False))
    # torch 2.6 has one setting for all devices.
    if hasattr(torch.backends.mkldnn, "matmul"):
        assert there or torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    choose_device(parse({}).runtime)
