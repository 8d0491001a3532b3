"""`runtime=fast` takes what a machine has instructions for, and a slow choice is told."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from moex import processor
from moex.config import fastest, parse, recipe

AVX2, NATIVE = ("avx2",), ("avx2", "avx512f", "avx512_bf16")


@pytest.mark.parametrize(
    ("device", "gpus", "available", "taken", "reason"),
    [
        ("auto", 1, AVX2, ("bf16", True), "on a GPU"),
        ("cpu", 1, AVX2, ("fp32", False), "no instructions for bf16"),
        ("auto", 0, AVX2, ("fp32", False), "no instructions for bf16"),
        ("auto", 0, NATIVE, ("bf16", False), "avx512_bf16"),
        ("auto", 0, ("avx2", "amx_bf16"), ("bf16", False), "amx_bf16"),
        ("auto", 0, (), ("fp32", False), "no instructions for bf16"),
    ],
)
def test_the_fastest_is_taken_and_said(monkeypatch, device, gpus, available, taken, reason):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(fastest, "instructions", lambda: available)
    config = parse({"runtime": {"device": device, "precision": "fastest"}})
    said = fastest.settle_precision(config.runtime)
    runtime = config.runtime
    assert (runtime.precision, runtime.compile) == taken
    assert reason in said
    assert config.runtime.channels_last
    # It is the very run that names what was taken.
    named = parse({"runtime": {"device": device, "precision": taken[0], "compile": taken[1]}})
    assert recipe(config) == recipe(named)


@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this torch replays none")
def test_settings_of_a_step_that_a_gpu_replays():
    """CUDA graphs overwrite the gradients of the pass before, so they are for one turn of one device."""
    runtime = parse({"runtime": {"compile": True, "cuda_graphs": True}}).runtime
    assert runtime.replays_graphs("cuda", world_size=1)
    assert not runtime.replays_graphs("cpu", world_size=1)
    assert not runtime.replays_graphs("cuda", world_size=2)
    assert not dataclasses.replace(runtime, accumulation=2).replays_graphs("cuda", world_size=1)


def test_what_is_named_stays():
    config = parse({"runtime": {"precision": "fp16"}})
    assert fastest.settle_precision(config.runtime) == ""
    assert config.runtime.precision == "fp16"


@pytest.mark.parametrize(
    ("precision", "available", "is_slow"),
    [
        ("fp32", AVX2, False),
        ("tf32", AVX2, False),
        ("bf16", AVX2, True),
        ("bf16", NATIVE, False),
        ("fp16", NATIVE, True),
        ("fp16", (*NATIVE, "avx512_fp16"), False),
        ("bf16", (), False),  # Nobody knows.
    ],
)
def test_a_precision_without_instructions_is_told(precision, available, is_slow):
    said = fastest.slow_precision(precision, available)
    assert bool(said) == is_slow
    assert not is_slow or ("fp32 is faster" in said and "\n" not in said)


def test_a_processor_is_told_by_its_instructions(monkeypatch, tmp_path):
    """As Linux lists them, the first processor's; without a list, as Python calls it."""
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor: 0\nmodel name\t: A Chip\nflags\t\t: fpu avx2 amx_bf16 sse2\n\nmodel name\t: B\n")
    processor.instructions.cache_clear()
    monkeypatch.setattr(processor, "LIST", listed)
    assert processor.processor_name() == "A Chip (avx2, amx_bf16)"
    processor.instructions.cache_clear()
    monkeypatch.setattr(processor, "LIST", tmp_path / "none")
    assert processor.processor_name()
    assert processor.instructions() == ()
    processor.instructions.cache_clear()


FAULTS = """
import resource, sys
import numpy as np
from moex.processor import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**27, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems have other allocators than glibc's")
def test_freed_memory_is_kept_for_the_next_allocation():
    """Pages that the system has to give anew are faults; of 128 MiB there are many, large as pages may be."""
    faults = {
        case: int(subprocess.run([sys.executable, "-c", FAULTS, case], capture_output=True, check=True).stdout)
        for case in ("kept", "given back")
    }
    assert 10 * faults["kept"] < faults["given back"]
