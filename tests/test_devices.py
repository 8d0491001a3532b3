"""Runs on several devices, as their users meet them: signals, deaths, nodes, sweeps. Here a device is a process."""

import json
import signal
import socket
import time

import pandas as pd
import psutil
import pytest
from program import QUICK, folders, run, start, wait_for_save

STEPS = ("epochs=400", "limit_train=64", "limit_test=50", "batch_size=16", "checkpoint.every_steps=4")


def assert_gone(gone):
    _, alive = psutil.wait_procs(gone, timeout=20)
    assert not alive


def test_stopped_killed_and_resumed_on_other_devices(tmp_path):
    process = start(*STEPS, "runtime.devices=2", cwd=tmp_path)
    wait_for_save(process, tmp_path, saves=2)
    everyone = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, printed
    assert "training on 2 devices" in printed
    assert printed.count("saved ") == 1
    assert_gone(everyone)

    process = start(*STEPS, "runtime.devices=2", cwd=tmp_path)
    worker = wait_for_save(process, tmp_path, saves=2)
    everyone = psutil.Process(process.pid).children(recursive=True)
    victims = [child for child in worker.children() if "spawn_main" in " ".join(child.cmdline())]
    assert len(victims) == 2
    killed = time.monotonic()
    victims[1].kill()
    printed, _ = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1, printed
    assert "continuing" in printed
    assert "error: rank 1 was ended by SIGKILL; the same command continues" in printed
    assert "Traceback" not in printed
    assert_gone(everyone)

    process = start(*STEPS, "runtime.devices=2", cwd=tmp_path)  # The parent dies: nobody stays.
    wait_for_save(process, tmp_path, saves=2)
    everyone = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=60)
    assert_gone(everyone)

    (folder,) = folders(tmp_path)
    epoch = json.loads((folder / "heartbeat.json").read_text())["epoch"]
    # The recipe holds the epochs: the same run, on one device, told to end in time.
    code, printed = run(*STEPS, "runtime.devices=1", "runtime.max_minutes=0.02", cwd=tmp_path)
    assert code == 0, printed
    assert "on 1 device after 2: partners and BatchNorm's shares are others from here on" in printed
    assert "runtime.max_minutes=0.02 are over" in printed
    assert len(pd.read_csv(folder / "metrics.csv")) >= epoch
    assert not (folder / "result.json").exists()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_nodes(tmp_path):
    """Two agents on this machine, of two ranks each, which meet at an address."""
    common = (*QUICK, "runtime.devices=2", "runtime.nodes=2", f"runtime.rendezvous=127.0.0.1:{free_port()}")
    nodes = [start(*common, f"runtime.node_rank={number}", cwd=tmp_path) for number in (1, 0)]
    second, first = (node.communicate(timeout=180)[0] for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], first + second
    assert "training on 4 devices of 2 machines" in first
    assert second.startswith("node 1 of 2 meets the others at 127.0.0.1:")
    assert len(second.splitlines()) == 1
    (folder,) = folders(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert result["world_size"] == 4
    assert result["sessions"][0]["world_size"] == 4
    assert "runtime.node_rank=0" in result["command"]
    assert pd.read_csv(folder / "metrics.csv")["epoch"].tolist() == [1, 2]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["best.pt", "last.pt", "previous.pt"]


def test_a_rank_that_dies_ends_all_nodes(tmp_path):
    common = (*STEPS, "runtime.devices=2", "runtime.nodes=2", f"runtime.rendezvous=127.0.0.1:{free_port()}")
    first, second = (start(*common, f"runtime.node_rank={number}", cwd=tmp_path) for number in (0, 1))
    wait_for_save(first, tmp_path, saves=1)
    everyone = [child for node in (first, second) for child in psutil.Process(node.pid).children(recursive=True)]
    (worker,) = psutil.Process(second.pid).children()
    victims = [child for child in worker.children() if "spawn_main" in " ".join(child.cmdline())]
    killed = time.monotonic()
    victims[1].kill()
    told = [node.communicate(timeout=60)[0] for node in (first, second)]
    assert time.monotonic() - killed < 60
    assert [node.returncode for node in (first, second)] == [1, 1]
    for printed in told:
        assert "error: rank 3 was ended by SIGKILL; the same command continues" in printed
        assert "Traceback" not in printed
    assert_gone(everyone)


def test_a_node_that_waits_alone_can_be_stopped(tmp_path):
    alone = ("runtime.nodes=2", "runtime.node_rank=0", f"runtime.rendezvous=127.0.0.1:{free_port()}")
    process = start(*QUICK, *alone, cwd=tmp_path)
    while not any("moex.run" in child.cmdline() for child in psutil.Process(process.pid).children()):
        time.sleep(0.1)
    time.sleep(8)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 128 + signal.SIGINT


def test_a_sweep_on_two_devices(tmp_path):
    """Job after job; the mistake of one is told once, and the others run."""
    code, printed = run("--multirun", "batch_size=33,32,50", "runtime.devices=2", *QUICK, cwd=tmp_path)
    assert code == 1
    assert printed.count("error: ") == 1
    assert "batch_size is 33" in printed
    assert "it must be a multiple of 2, such as 32 or 34" in printed
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert sorted(result["config"]["batch_size"] for result in results) == [32, 50]
    assert {result["world_size"] for result in results} == {2}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["runtime.sync_batchnorm=true", "runtime.devices=2"], "PyTorch has it for GPUs alone"),
        (["runtime.devices=0"], "runtime.devices is 0: it must be 1 or more"),
        (["runtime.nodes=2"], "each node needs its own runtime.node_rank"),
        (["runtime.nodes=2", "runtime.node_rank=2"], "runtime.node_rank is 2: it must be from 0 to 1"),
        (["runtime.rendezvous=here"], "runtime.rendezvous is 'here': it must be HOST:PORT"),
        (["dataset=cifar100", "dataset.root=nowhere", "runtime.devices=2"], "dataset.download=true"),
    ],
)
def test_a_mistake_is_told_once_and_creates_nothing(tmp_path, overrides, message):
    code, printed = run(*overrides, cwd=tmp_path)
    assert code == 1
    assert message in printed
    assert len(printed.splitlines()) == 1, printed
    assert list(tmp_path.iterdir()) == []
