"""One run on several ranks: the same training as on one, and the same end when something dies."""

import signal
import subprocess
import sys

import pytest
import ranks
import torch

from moex import metrics
from moex.config import Config, RuntimeConfig, parse
from moex.config.checks import check_shares
from moex.distributed.nodes import Layout
from moex.distributed.ranks import STOP_SIGNALS, StopRequest
from moex.engine import predict
from moex.metrics import Scores
from moex.run.build import build_run, load_sources

# Sums of float64 in another order, over eight steps, part by 1e-15; crops, partners or shares that differ, by 1e-3.
TOLERANCE = {"rtol": 1e-11, "atol": 1e-12}


@pytest.fixture(scope="module")
def one():
    """What the runs of `ranks.py` end in on one rank, in this process."""
    return {name: ranks.train(values) for name, values in ranks.RUNS.items()}


@pytest.fixture(scope="module", params=[2, 4], ids=lambda devices: f"{devices} ranks")
def trained(request, one, tmp_path_factory):
    """What `ranks.py` ended in: the number of ranks, its runs on one rank and on all, and what it printed."""
    file = tmp_path_factory.mktemp("ranks") / "ended"
    program = [sys.executable, ranks.__file__, str(file), str(request.param)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return request.param, one, torch.load(file, weights_only=True), done.stdout


def assert_same_training(ours, theirs):
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-11)
    for name, parameter in ours["parameters"].items():
        torch.testing.assert_close(parameter, theirs["parameters"][name], **TOLERANCE)


@pytest.mark.parametrize("name", ["frozen", "a last batch of one sample"])
def test_the_weights_are_those_of_one_process(trained, name):
    _, one, many, _ = trained
    assert_same_training(many[name], one[name])


@pytest.mark.parametrize(("turns", "name"), [(1, "mixed"), (2, "mixed, in two turns")])
def test_ranks_and_turns_are_the_same_to_the_gradient(trained, turns, name):
    """Partners, weights drawn per sample and BatchNorm are each part's own, whoever takes it and when."""
    devices, one, many, _ = trained
    word = {2: "two", 4: "four", 8: "eight"}[devices * turns]
    assert_same_training(many[name], one[f"mixed, in {word} turns"])


def test_parts_are_the_same_on_any_devices(trained):
    _, one, many, _ = trained
    assert_same_training(many["mixed, in eight parts"], one["mixed, in eight turns"])


def test_parts_that_devices_cannot_share():
    runtime = RuntimeConfig(parts=8)
    assert [runtime.turns(devices) for devices in (1, 2, 4, 8)] == [8, 4, 2, 1]
    for devices in (3, 16):
        with pytest.raises(ValueError, match=f"runtime.parts is 8: it must be a multiple of the {devices} devices"):
            runtime.turns(devices)


def test_running_statistics_are_those_of_samples(trained):
    """Also where the last batch has fewer samples than there are ranks, or turns."""
    _, one, many, _ = trained
    for ended in (*one.values(), *many.values()):
        assert all(tensor.isfinite().all() for tensor in ended["state"].values())


def test_ranks_keep_the_same_weights_and_the_same_scale(trained):
    _, _, many, _ = trained
    for ended in many.values():
        assert ended["spread"] == 0
        assert len(set(ended["scale"])) == 1
    assert many["fp16"]["scale"][0] > 1


def test_each_sample_is_used_once_an_epoch(trained):
    _, one, many, _ = trained
    for name, ended in many.items():
        first, second = ended["samples"]
        assert sorted(first) == sorted(second) == list(range(97 if "one sample" in name else 100))
        assert set(map(tuple, one[name]["samples"])) != {tuple(sorted(first))}


def test_the_test_set_is_that_of_one_process_to_the_bit(trained):
    """333 samples in batches of 50, which neither 2 nor 4 ranks share evenly."""
    _, _, many, _ = trained
    config = parse(ranks.SHORT)
    run = build_run(config, load_sources(config, ranks.CPU), ranks.CPU)
    model = run.state.model.double()
    run.test.batch = ranks.in_precision(run.test.batch, torch.float64)
    for ended in (many["frozen"], many["mixed"], many["a last batch of one sample, BatchNorm trains"]):
        model.load_state_dict(ended["state"])
        logits, labels = predict(model, run.test, batch_size=50, precision="fp32")
        assert torch.equal(ended["labels"], labels)
        assert torch.equal(ended["logits"], logits)
        assert torch.equal(ended["backwards"], logits.flip(1)), "restricted on each rank to other outputs"
        assert metrics.summarise_scores(Scores(*ended["scores"])) == metrics.summarise(logits, labels)


@pytest.mark.parametrize("trained", [2], indirect=True)
def test_the_error_of_the_rank_that_raised_is_told(trained):
    printed = trained[3]
    assert printed.startswith("rank 1 failed\nTraceback")
    assert f"ZeroDivisionError: on purpose {'x' * 100_000}" in printed  # Longer than a pipe.
    assert printed.count("Traceback") == 1


@pytest.mark.parametrize(
    ("batch_size", "world_size", "accumulation", "message"),
    [
        (100, 3, 1, "on 3 devices it must be a multiple of 3, such as 99 or 102"),
        (64, 8, 3, r"on 8 devices × 3 turns \(runtime.accumulation\) it must be a multiple of 24, such as 48 or 72"),
        (3, 4, 1, "it must be a multiple of 4, such as 4"),
        (5, 1, 2, r"on 1 device × 2 turns .*, such as 4 or 6"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(batch_size, world_size, accumulation, message):
    config = Config(batch_size=batch_size, runtime=RuntimeConfig(accumulation=accumulation))
    with pytest.raises(ValueError, match=f"batch_size is {batch_size}.*{message}$"):
        check_shares(config, world_size=world_size)
    config.batch_size = world_size * accumulation
    check_shares(config, world_size=world_size)


def test_signals_ask_a_run_to_stop():
    former = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        stop = StopRequest()
        assert not stop.is_set()
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert stop.is_set()
    for number, handler in former.items():
        signal.signal(number, handler)


NODES = {"nodes": 2, "node_rank": 1, "rendezvous": "first:1234"}
SLURM = {
    "SLURM_JOB_ID": "70123",
    "SLURM_STEP_ID": "3",
    "SLURM_PROCID": "2",
    "SLURM_JOB_NODELIST": "gpu[01-20]",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NUM_NODES": "3",
}


@pytest.mark.parametrize(
    ("values", "gpus", "environment", "expected"),
    [
        ({}, 0, {}, Layout(1)),
        ({}, 8, {}, Layout(8)),
        ({"devices": 2}, 8, {}, Layout(2)),
        ({"devices": 2}, 0, {}, Layout(2)),
        ({"nodes": 1}, 4, {}, Layout(4)),
        (NODES | {"devices": 4}, 0, {}, Layout(4, 2, 1, "first:1234")),
        ({}, 4, SLURM, Layout(4, 3, 2, f"gpu07:{20_000 + (70123 * 7 + 3) % 12_000}")),
        ({"nodes": 1}, 4, SLURM, Layout(4)),
        # Within an allocation, but not started by srun.
        ({}, 4, {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "3"}, Layout(4)),
    ],
)
def test_which_processes_train(monkeypatch, values, gpus, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = RuntimeConfig(**values).layout(visible_gpus=gpus)
    assert found == expected
    assert found.world_size == expected.nodes * expected.devices


@pytest.mark.parametrize(
    ("values", "gpus", "environment", "message"),
    [
        ({"devices": 4}, 2, {}, "runtime.devices is 4: this machine has 2 visible GPUs"),
        ({"nodes": 2}, 0, {}, "runtime.nodes is 2: each node needs its own runtime.node_rank"),
        ({"nodes": 2, "node_rank": 0}, 0, {}, "runtime.rendezvous=HOST:PORT"),
        ({}, 4, SLURM | {"SLURM_STEP_NUM_TASKS": "12"}, "srun started 12 tasks on 3 nodes: it must be one a node"),
    ],
)
def test_processes_that_cannot_be(monkeypatch, values, gpus, environment, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        RuntimeConfig(**values).layout(visible_gpus=gpus)
