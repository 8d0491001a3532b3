"""The benchmark measures what it says; how fast anything is, no test asks."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark():
    specification = importlib.util.spec_from_file_location("benchmark", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules["benchmark"] = module  # Dataclasses look their module up.
    specification.loader.exec_module(module)
    yield module
    del sys.modules["benchmark"]


@pytest.mark.parametrize("name", ["resnet8", "pyramidnet11"])
def test_the_second_stem_pass_trains_to_the_same_losses(benchmark, name):
    network = {"model": {"name": name}, "batch_size": 6}
    variants = benchmark.exchange_variants(network)
    losses = {case: [float(variant.run()[0]) for _ in range(3)] for case, variant in variants.items()}
    plain, ours, published = losses.values()
    assert ours == pytest.approx(published, rel=1e-3)
    assert ours != pytest.approx(plain, rel=1e-3)


def test_every_form_takes_a_step(benchmark):
    for name, variant in benchmark.precision_variants({"model": {"name": "resnet8"}, "batch_size": 4}).items():
        if "compile" not in name:
            assert torch.isfinite(variant.run()[0]), name


def test_ratios_are_taken_within_rounds(benchmark, monkeypatch):
    """The machine is twice as slow in every other round; the ratio of the variants stays."""
    turns = []

    def time_of(variant, repeats):
        turns.append(variant)
        slow = 1 + (len(turns) - 5) // 2 % 2
        return slow * (0.5 if variant is fast else 1.0)

    base, fast = (benchmark.Variant(lambda: None, images, is_step=False) for images in (100, 100))
    monkeypatch.setattr(benchmark, "time_of", time_of)
    table = benchmark.measure({"base": base, "fast": fast}, 4).splitlines()
    assert turns[4:] == [base, fast, fast, base, base, fast, fast, base]
    assert table[2] == "| base | 75 (50 to 100) | 1.00 (1.00 to 1.00) | +0.0 % (+0.0 to +0.0) | - |"
    assert table[3] == "| fast | 150 (100 to 200) | 2.00 (2.00 to 2.00) | -50.0 % (-50.0 to -50.0) | - |"


def test_photographs_are_read_by_all_and_delivered_alike(benchmark, photographs, monkeypatch):
    monkeypatch.setattr(benchmark, "TIMES_READ", 1)
    variants = benchmark.photograph_variants()
    assert {variant.images for variant in variants.values()} == {len(photographs)}
    for variant in variants.values():
        variant.run()
    exact, device = (variant.run() for variant in benchmark.delivery_variants().values())
    assert torch.equal(exact[0], device[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, torch itself counts")
def test_peak_memory_counts_what_lives_at_once(benchmark):
    def run():
        first = torch.zeros(10_000_000)
        second = first + 1
        del first
        return second.relu()

    assert benchmark.peak_memory(benchmark.Variant(run, 1)) == pytest.approx(80_000_000, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["speed"], "there is no part 'speed': choose from exchange, precision, data"), (["--rounds=0"], "1 or more")],
)
def test_mistakes(arguments, message):
    answer = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
