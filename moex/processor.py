"""What a CPU is called, and which instructions it has for what networks compute."""

import platform
from functools import cache
from pathlib import Path

# Those that decide how fast a network is, in the kernel's words, the most capable ones last.
DECISIVE = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")

# Linux's list of processors.
LIST = Path("/proc/cpuinfo")


@cache
def instructions() -> tuple[str, ...]:
    """Those of `DECISIVE` that this CPU has; none where the system does not tell them as Linux does."""
    flags = set(_read("flags").split())
    return tuple(name for name in DECISIVE if name in flags)


def processor_name() -> str:
    """The CPU's name and its decisive instructions."""
    name = _read("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(instructions())})" if instructions() else name


def _read(key: str) -> str:
    """The first value of a key in the list; empty where there is none."""
    lines = LIST.read_text().splitlines() if LIST.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
