"""What a CPU is called, which instructions it has for what networks compute, and how its memory is kept."""

import ctypes
import platform
from functools import cache
from pathlib import Path

# Those that decide how fast a network is, in the kernel's words, the most capable ones last.
DECISIVE = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")

# Of glibc's malloc.h: from how many free bytes on they are given back, and from which size on the system has a block.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
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


def keep_freed_memory() -> None:
    """Lets this process keep the memory that it frees, for its next allocation.

    A training step on a CPU frees what the next one allocates again, which glibc would give back to the system and
    get anew, filled with zeros, page by page. Other systems than Linux have other allocators.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 2**30)


def _read(key: str) -> str:
    """The first value of a key in the list; empty where there is none."""
    lines = LIST.read_text().splitlines() if LIST.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
