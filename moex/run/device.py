"""The device of a run."""

import os

import torch
from torch.distributed import get_node_local_rank

from moex.config import RuntimeConfig


def visible_gpus(runtime: RuntimeConfig) -> int:
    """How many GPUs a run may use on this machine; 0 trains on the CPU. Leaves CUDA as it is.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    wanted = runtime.device
    gpus = 0 if wanted == "cpu" else torch.cuda.device_count()
    if wanted == "cuda" and not gpus:
        raise ValueError("runtime.device is 'cuda' and this machine has no CUDA device: use auto or cpu")
    if runtime.sync_batchnorm and not gpus:
        raise ValueError("runtime.sync_batchnorm is true: PyTorch has it for GPUs alone, and this run is on the CPU")
    return gpus


def choose_device(runtime: RuntimeConfig) -> torch.device:
    """The device of this rank, and torch's global switches for it.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    device = torch.device("cpu")
    if visible_gpus(runtime):
        device = torch.device("cuda", get_node_local_rank(fallback_rank=0))
        torch.cuda.set_device(device)
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not runtime.deterministic
    # fp32 means float32: no TensorFloat-32, which torch takes for convolutions unless told otherwise. On the CPU
    # tf32 means float32 too, where torch would take what the processor has.
    tf32 = runtime.precision == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    return device
