"""The benchmark measures what it says; how fast anything is, no test asks."""

import dataclasses
import importlib
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from moex import models

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


def test_recordings_are_treated_alike_by_both(part, speech_commands_root, monkeypatch):
    """Each change, alone, at the same strength: the per-file pipeline makes of it what moex's source does."""
    benchmark = part("sounds")
    monkeypatch.setattr(benchmark, "RECORDINGS", speech_commands_root)
    dataset = benchmark.SpeechCommands(root=str(speech_commands_root), version="0.02")
    samples = dataset.read(seed=0)["train"]
    source = dataset.source(samples, training=True, device=torch.device("cpu"), channels_last=False)
    files = benchmark.PublishedPipeline(speech_commands_root)
    assert len(files) == 1_511
    chosen = [0, 700, 1_400]
    paths = [str(files._paths[index]) for index in chosen]
    words = [dataset.class_names[samples.labels[index]] for index in chosen]
    assert all(word in ("unknown", path.split("/")[-2]) for word, path in zip(words, paths, strict=True))
    nothing = source.draw(3, np.random.default_rng(0)).none(3)
    # What happens, in the order of the questions, and how strong it is; the files get no noise.
    cases = {
        "nothing": ([False] * 5, None, {}),
        "amplitude": ([True, *[False] * 4], 0.8, {"gains": 0.8}),
        "speed": ([False, True, *[False] * 3], 65_536 / 60_000 - 1, {"steps": 60_000}),
        "stretch": ([*[False] * 2, True, *[False] * 2], -0.13, {"rates": 0.87}),
        "shift": ([*[False] * 3, True, False], -5, {"shifts": -5}),
    }
    for name, (happens, strength, changes) in cases.items():
        own = {key: np.full(3, value) for key, value in changes.items()}
        draws = dataclasses.replace(nothing, own=dataclasses.replace(nothing.own, **own))
        ours = source.look(torch.tensor(chosen), draws)
        for row, index in enumerate(chosen):
            answers = iter(happens)
            monkeypatch.setattr(benchmark, "happens", lambda answers=answers: next(answers))
            monkeypatch.setattr(benchmark.random, "uniform", lambda low, high, strength=strength: strength)
            monkeypatch.setattr(benchmark.random, "randint", lambda low, high, strength=strength: strength)
            # torchaudio's vocoder adds up large angles in float32, which magnitudes do not feel.
            torch.testing.assert_close(files[index], ours[row], rtol=0, atol=0.1, msg=name)
            assert not list(answers)


def test_recordings_come_in_batches(part, speech_commands_root, monkeypatch):
    benchmark = part("sounds")
    monkeypatch.setattr(benchmark, "RECORDINGS", speech_commands_root)
    monkeypatch.setattr(benchmark, "BATCHES", 1)
    theirs, ours, _ = benchmark.recording_variants().values()
    assert (theirs.samples, ours.samples) == (96, 17 * 96)
    theirs.run()
    ours.run()


def test_clouds_are_treated_alike_by_both(part):
    """The plain port, with the same weights, has the same logits, gradients and statistics."""
    benchmark = part("points")
    torch.manual_seed(0)
    plain, ours = benchmark.PlainPointNet2().double(), models.create("pointnet2", num_classes=10).double()
    for mine, theirs in zip(ours.state_dict().values(), in_our_order(plain), strict=True):
        mine.copy_(theirs)
    points = torch.rand(3, 64, 3, dtype=torch.float64)
    logits = []
    for model in (plain, ours):
        model.head[2].p = model.head[5].p = 0.0
        logits.append(model(points))
        logits[-1].square().sum().backward()
    torch.testing.assert_close(*logits, rtol=1e-9, atol=1e-9)
    buffers = [each for each in in_our_order(plain) if not each.requires_grad]
    for mine, theirs in zip(ours.buffers(), buffers, strict=True):
        torch.testing.assert_close(mine, theirs)
    gradients = [each.grad for each in in_our_order(plain) if each.requires_grad]
    for mine, theirs in zip(ours.parameters(), gradients, strict=True):
        torch.testing.assert_close(mine.grad, theirs, rtol=1e-8, atol=1e-8)


def in_our_order(plain):
    """The tensors of the plain port: of each abstraction all linear layers first, then all BatchNorms."""
    for group in (plain.first, plain.second, plain.last):
        for kind in (0, 2):
            for layer in group:
                yield from (*layer[kind].parameters(), *layer[kind].buffers())
    yield from plain.head.parameters()


def test_a_step_on_clouds(part, modelnet10_root, monkeypatch):
    benchmark = part("points")
    monkeypatch.setattr(benchmark, "SHAPES", modelnet10_root)
    monkeypatch.setattr(benchmark, "BATCH", 3)
    for variant in benchmark.cloud_variants().values():
        assert variant.samples == 3
        assert torch.isfinite(variant.run())


def test_the_share_of_the_exchange(part):
    """Of a network that is hardly more than the exchange it is a large share, of a deeper one a smaller one."""
    benchmark = part("share")
    shares = {}
    for name in ("resnet8", "resnet56"):
        network = {"name": name, "batch_size": 4, "shape": (1, 16, 16), "classes": 12}
        step = benchmark.training_step(network)
        step()
        found = [benchmark.profiled_shares(step) for _ in range(3)]
        for share in found:
            assert share["MoEx"] == pytest.approx(share["forward pass"] + share["backward pass"])
            assert 0 < share["forward pass"] < 0.6
            assert 0 < share["backward pass"] < 0.6
        shares[name] = np.median([share["MoEx"] for share in found])
    assert shares["resnet8"] > 2 * shares["resnet56"]
    table = benchmark.measure_share({"name": "resnet8", "batch_size": 2, "shape": (1, 8, 8), "classes": 3}, 1)
    assert "| MoEx" in table


def test_what_belongs_to_the_exchange_in_the_backward_pass(part):
    """All nodes between the exchange and what goes in, and none of the network's."""
    benchmark = part("share")
    benchmark._nodes.clear()
    features = torch.randn(4, 3, 5, 5, requires_grad=True)
    before = features * 2
    exchanged = benchmark.recorded(before, torch.tensor([1, 2, 3, 0]))
    loss = F.relu(exchanged).sum()
    inside, stack = set(), [exchanged.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node is not before.grad_fn and node not in inside:
            inside.add(node)
            stack.extend(below for below, _ in node.next_functions)
    assert {node._sequence_nr() for node in inside} == benchmark._nodes
    assert loss.grad_fn._sequence_nr() not in benchmark._nodes
    assert before.grad_fn._sequence_nr() not in benchmark._nodes


def test_commands_start(part, tmp_path):
    """Each does what its row says: `completed` asks for its exit code, and the last for a step that was saved."""
    benchmark = part("start")
    variants = benchmark.start_variants(tmp_path)
    seconds = {name: variants[name]() for name in ("a key that is refused", "a finished run")}
    assert 0 < max(seconds.values()) < variants["the demo's first step, saved"]()
    assert len(list(tmp_path.rglob("last.pt"))) == 2
    with pytest.raises(AssertionError, match="epoch"):
        benchmark.completed(["train.py", "epoch=3"])
    table = benchmark.tabulate({"import torch": lambda: 2.0, "other": lambda: 3.0}, 2)
    assert "| other | 3.00 (3.00 to 3.00) | 1.50 (1.50 to 1.50) |" in " ".join(table.split())


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, torch itself counts")
def test_peak_memory_counts_what_lives_at_once(part):
    benchmark = part("measure")

    def run():
        first = torch.zeros(10_000_000)
        second = first + 1
        del first
        return second.relu()

    assert benchmark.peak_memory(benchmark.Variant(run, 1)) == pytest.approx(80_000_000, rel=0.01)


def test_what_is_measured_is_written_before_the_next(tmp_path, monkeypatch):
    def stop(rounds):
        raise KeyboardInterrupt

    monkeypatch.syspath_prepend(SCRIPT.parent)
    benchmark = runpy.run_path(str(SCRIPT))
    benchmark["PARTS"].clear()
    benchmark["PARTS"].update(first={"First": lambda rounds: f"{rounds} rounds"}, second={"Second": stop})
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--rounds=2", f"--output={tmp_path / 'new' / 'table.md'}"])
    with pytest.raises(KeyboardInterrupt):
        benchmark["main"]()
    written = (tmp_path / "new" / "table.md").read_text()
    assert written.startswith("# Benchmark")
    assert written.endswith("## First\n\n2 rounds\n")


@pytest.mark.parametrize(("number", "text"), [(12_345.6, "12,346"), (99.96, "100"), (3.647, "3.65"), (0.5, "0.5")])
def test_numbers_have_three_digits_or_more(part, number, text):
    assert part("measure").short(number) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "there is no part 'speed': the nearest are share"),
        (["--rounds=0"], "1 or more"),
    ],
)
def test_mistakes(script, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        script("benchmark", *arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
