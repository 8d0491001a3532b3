"""What this machine computes fastest in, `runtime.precision=fastest`, and a word where a choice is slow here."""

from collections.abc import Collection

import torch

from moex.config.schema import FASTEST, RuntimeConfig
from moex.processor import instructions

# The instructions, any of which makes a precision fast on a CPU.
FAST_ON = {"bf16": {"amx_bf16", "avx512_bf16"}, "fp16": {"amx_fp16", "avx512_fp16"}}


def settle_precision(runtime: RuntimeConfig) -> str:
    """Replaces `fastest` by what is fastest here; it changes how a recipe is computed, not what it says.

    Args:
        runtime: its `precision` and `compile` are set.

    Returns:
        What was taken and why, in a line; empty where nothing was left open.
    """
    if runtime.precision != FASTEST:
        return ""
    if runtime.device != "cpu" and torch.cuda.device_count():
        runtime.precision, runtime.compile = "bf16", True
        return "runtime.precision=fastest: bf16 and compile=true, on a GPU"
    native = sorted(FAST_ON["bf16"] & set(instructions()))
    runtime.precision = "bf16" if native else "fp32"
    has = native[0] if native else "no instructions for bf16"
    return f"runtime.precision=fastest: {runtime.precision}, since this CPU has {has}"


def slow_precision(precision: str, available: Collection[str]) -> str:
    """What to say of a precision on a CPU with these instructions; empty where there is nothing to say.

    Nor is there where no instructions are known, as on other systems than Linux.
    """
    wanted = FAST_ON.get(precision, set())
    if not wanted or not available or wanted & set(available):
        return ""
    return (
        f"runtime.precision={precision} is slow on this CPU, which lacks {' and '.join(sorted(wanted))}: fp32 is "
        "faster, and runtime=fast takes what is fastest"
    )
