"""The benchmark measures what it says; how fast anything is, no test asks."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def part():
    """Imports a part of the benchmark by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.parametrize("name", ["resnet8", "pyramidnet11"])
def test_the_second_stem_pass_trains_to_the_same_losses(part, name):
    network = {"model": {"name": name}, "batch_size": 6}
    variants = part("steps").exchange_variants(network)
    losses = {case: [float(variant.run()[0]) for _ in range(3)] for case, variant in variants.items()}
    plain, ours, published = losses.values()
    assert ours == pytest.approx(published, rel=1e-3)
    assert ours != pytest.approx(plain, rel=1e-3)


def test_every_form_takes_a_step(part):
    for name, variant in part("steps").precision_variants({"model": {"name": "resnet8"}, "batch_size": 4}).items():
        if "compile" not in name:
            assert torch.isfinite(variant.run()[0]), name


def test_ratios_are_taken_within_rounds(part, monkeypatch):
    """The machine is twice as slow in every other round; the ratio of the variants stays."""
    benchmark, turns = part("measure"), []

    def time_of(variant, repeats):
        turns.append(variant)
        slow = 1 + (len(turns) - 5) // 2 % 2
        return slow * (0.5 if variant is fast else 1.0)

    base, fast = (benchmark.Variant(lambda: None, samples, is_step=False) for samples in (100, 100))
    monkeypatch.setattr(benchmark, "time_of", time_of)
    table = benchmark.measure({"base": base, "fast": fast}, 4).splitlines()
    assert turns[4:] == [base, fast, fast, base, base, fast, fast, base]
    assert table[2] == "| base | 75 (50 to 100) | 1.00 (1.00 to 1.00) | +0.0 % (+0.0 to +0.0) | - |"
    assert table[3] == "| fast | 150 (100 to 200) | 2.00 (2.00 to 2.00) | -50.0 % (-50.0 to -50.0) | - |"


def test_photographs_are_read_by_all_and_delivered_alike(part, photographs, monkeypatch):
    benchmark = part("images")
    monkeypatch.setattr(benchmark, "TIMES_READ", 1)
    variants = benchmark.photograph_variants()
    assert {variant.samples for variant in variants.values()} == {len(photographs)}
    for variant in variants.values():
        variant.run()
    exact, device = (variant.run() for variant in benchmark.delivery_variants().values())
    assert torch.equal(exact[0], device[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, torch itself counts")
def test_peak_memory_counts_what_lives_at_once(part):
    benchmark = part("measure")

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
