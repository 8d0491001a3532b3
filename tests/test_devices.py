"""Runs on several devices, as their users meet them: signals, deaths, nodes, sweeps. Here a device is a process."""

import json
import signal
import socket
import time

import pandas as pd
import psutil
from program import assert_gone, children_of, end, folders, run, start, wait_for, wait_for_save, workers_of

# Four steps an epoch, more epochs than anybody waits for.
STEPS = ("dataset.target=noise.Noise", "epochs=400", "batch_size=16", "checkpoint.every_steps=4")


def ranks_of(worker):
    return children_of(worker, "spawn_main")


def test_stopped_killed_and_resumed_on_other_devices(tmp_path, here):
    process = start(*STEPS, "runtime.devices=2", cwd=tmp_path)
    wait_for_save(process, tmp_path, saves=2)
    everyone = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    code, printed = end(process)
    assert code == 128 + signal.SIGTERM, printed
    assert "training on 2 devices" in printed
    assert printed.count("saved ") == 1
    assert_gone(everyone)

    process = start(*STEPS, "runtime.devices=2", cwd=tmp_path)
    worker = wait_for_save(process, tmp_path, saves=2)
    everyone = psutil.Process(process.pid).children(recursive=True)
    victims = ranks_of(worker)
    assert len(victims) == 2
    killed = time.monotonic()
    victims[1].kill()
    code, printed = end(process)
    assert time.monotonic() - killed < 60
    assert code == 1, printed
    assert "continuing" in printed
    assert "error: rank 1 was ended by SIGKILL; the same command continues" in printed
    assert_gone(everyone)

    (folder,) = folders(tmp_path)
    epoch = json.loads((folder / "heartbeat.json").read_text())["epoch"]
    # The recipe holds the epochs: the same run, on one device, told to end in time.
    code, printed = here(*STEPS, "runtime.devices=1", "runtime.max_minutes=0.02")
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
    common = ("dataset.target=noise.Noise", "epochs=2", "runtime.devices=2", "runtime.nodes=2")
    common = (*common, f"runtime.rendezvous=127.0.0.1:{free_port()}")
    nodes = [start(*common, f"runtime.node_rank={number}", cwd=tmp_path) for number in (1, 0)]
    (code, second), (other, first) = (end(node) for node in nodes)
    assert [code, other] == [0, 0], first + second
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
    (worker,) = workers_of(second)
    killed = time.monotonic()
    ranks_of(worker)[1].kill()
    ended = [end(node) for node in (first, second)]
    assert time.monotonic() - killed < 60
    for code, printed in ended:
        assert code == 1
        assert "error: rank 3 was ended by SIGKILL; the same command continues" in printed
    assert_gone(everyone)


def test_a_node_that_waits_alone_can_be_stopped(tmp_path):
    port = free_port()
    alone = ("runtime.nodes=2", "runtime.node_rank=0", f"runtime.rendezvous=127.0.0.1:{port}")
    process = start(*STEPS, *alone, cwd=tmp_path)
    assert "meets the others" in process.stdout.readline()
    (worker,) = workers_of(process)
    wait_for(
        lambda: any(one.status == "LISTEN" and one.laddr.port == port for one in worker.net_connections()), process
    )
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 128 + signal.SIGINT


def test_ranks_end_with_the_command(tmp_path):
    process = start(*STEPS, "runtime.devices=2", cwd=tmp_path)
    worker = wait_for_save(process, tmp_path, saves=2)
    assert len(ranks_of(worker)) == 2
    everyone = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=60)
    assert_gone(everyone)


def test_a_sweep_on_two_devices(tmp_path):
    """Job after job; what all ranks find wrong is told once, and the others run."""
    sweep = ("--multirun", "dataset=cifar100,digits", "dataset.root=nowhere")
    quick = ("epochs=1", "limit_train=200", "limit_test=100", "augmentation=none")
    code, printed = run(*sweep, "runtime.devices=2", *quick, cwd=tmp_path)
    assert code == 1
    assert printed.count("error: ") == 1
    assert "dataset.download=true" in printed
    (result,) = (json.loads(path.read_text()) for path in tmp_path.rglob("result.json"))
    assert result["config"]["dataset"]["name"] == "digits"
    assert result["world_size"] == 2


def test_ranks_that_still_import_end_with_the_worker(tmp_path):
    """Killed before they have done anything: they watch from their first line."""
    process = start(*STEPS, "runtime.devices=4", cwd=tmp_path)
    (worker,) = wait_for(lambda: workers_of(process), process)
    ranks = wait_for(lambda: ranks_of(worker), process)
    worker.kill()
    ended = time.monotonic()
    printed, _ = process.communicate(timeout=60)
    assert "the worker was ended by SIGKILL; the same command continues" in printed, printed
    assert not psutil.wait_procs(ranks, timeout=20)[1]
    assert time.monotonic() - ended < 20
