"""The source of images in files: the same bits whoever decodes them, and an end in words whatever happens."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import psutil
import pytest
import streaming
import torch
import torchvision
from pictures import CPU, MEAN, STD, Files, drawn, requests_of, source_of
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from moex.data import SourceError
from moex.data.images import stream
from moex.data.images.normalise import Normaliser
from moex.data.images.workers import count_workers

CONTENTS = drawn(23)
ORDER = torch.from_numpy(np.random.default_rng(1).permutation(23))
BATCHES = ORDER.split(10)


def collect(source, batches=BATCHES, **options):
    return list(source.batches(requests_of(batches, **options)))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (images, labels), (same_images, same_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


@pytest.fixture
def small_parts(monkeypatch):
    """Several parts a batch, also where batches are small."""
    monkeypatch.setattr(stream, "PART", 4)


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("decode", ["exact", "device"])
def test_whoever_decodes_the_bits_are_the_same(small_parts, decode, augmented):
    expected = collect(source_of(CONTENTS), augmented=augmented)
    assert torch.equal(torch.cat([labels for _, labels in expected]), ORDER)
    for workers in (0, 1, 3):
        assert_same(collect(source_of(CONTENTS, workers=workers, decode=decode), augmented=augmented), expected)


def test_how_images_come_in_parts_does_not_show(small_parts, monkeypatch):
    small = collect(source_of(CONTENTS, workers=2))
    monkeypatch.setattr(stream, "PART", 32)
    assert_same(small, collect(source_of(CONTENTS, workers=2)))


@pytest.mark.parametrize("ranks", [1, 2, 3, 12])
def test_ranks_share_what_one_would_have(ranks):
    """Of twelve, some have nothing of the last batch of three."""
    expected = collect(source_of(CONTENTS))
    source = source_of(CONTENTS)
    shares = [collect(source, ranks=ranks, rank=rank) for rank in range(ranks)]
    together = [
        tuple(torch.cat(parts) for parts in zip(*batches, strict=True)) for batches in zip(*shares, strict=True)
    ]
    assert_same(together, expected)


def test_it_may_begin_anywhere():
    source = source_of(CONTENTS, workers=2)
    requests = list(requests_of(BATCHES))
    assert_same(list(source.batches(requests[1:])), collect(source)[1:])


def test_every_epoch_crops_anew_and_evaluations_do_not():
    source = source_of(CONTENTS)
    (first, _), (second, _) = collect(source, [torch.arange(9)] * 2)
    assert not torch.equal(first, second)
    (first, _), (second, _) = collect(source, [torch.arange(9)] * 2, augmented=False)
    assert torch.equal(first, second)


@pytest.mark.parametrize("decode", ["exact", "device"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_lie_in_memory_as_asked(channels_last, decode):
    source = source_of(CONTENTS, channels_last=channels_last, decode=decode)
    batches = collect(source)
    for images, labels in batches:
        assert images.dtype == torch.float32
        assert labels.dtype == torch.int64
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        assert images.is_contiguous(memory_format=memory_format)
    assert_same(batches, collect(source_of(CONTENTS)))


@pytest.mark.parametrize("decode", ["exact", "device"])
def test_large_boxes_are_resized_by_workers(monkeypatch, decode):
    from moex.data.images import decoding

    expected = collect(source_of(CONTENTS))
    monkeypatch.setattr(decoding, "LARGEST_BOX", 2000)
    assert_same(collect(source_of(CONTENTS, decode=decode)), expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_table_tells_what_a_computation_would(memory_format):
    """Every byte in each channel, as a CPU looks it up and as other devices compute it."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    normalise = Normaliser(MEAN, STD, device=CPU, memory_format=memory_format)
    assert torch.equal(normalise([images[:1], images[1:]]), normalise._compute(images))


def test_the_logits_of_a_network_are_those_of_its_preset(photographs):
    """Bit for bit, of a ResNet-50 as torchvision has it; the inputs of all photographs, the logits of some."""
    preset = ImageClassification(crop_size=224)
    theirs = torch.stack([preset(Image.open(path).convert("RGB")) for path in photographs])
    everyone = torch.arange(len(photographs))
    for decode in ("exact", "device"):
        source = source_of(photographs, size=224, resize=256, workers=2, decode=decode)
        ours = torch.cat([images for images, _ in collect(source, everyone.split(30), augmented=False)])
        assert torch.equal(ours, theirs)
    torch.manual_seed(0)
    network = torchvision.models.resnet50().eval()
    with torch.inference_mode():
        assert torch.equal(network(ours[:6]), network(theirs[:6]))


def test_a_few_samples_need_no_workers(monkeypatch):
    source = source_of(CONTENTS, workers=3)
    before = multiprocessing.active_children()
    with closing(source.batches(requests_of([torch.arange(8)]))) as batches:
        images, _ = next(batches)
        assert multiprocessing.active_children() == before
    assert images.shape == (8, 3, 48, 48)


def test_closed_early_its_workers_end():
    source = source_of(CONTENTS, workers=2)
    before = set(multiprocessing.active_children())
    batches = source.batches(requests_of([torch.arange(20)] * 1000))
    next(batches)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    batches.close()
    assert not any(worker.is_alive() for worker in workers)


def test_it_reads_requests_ahead_and_not_endlessly(small_parts):
    read = []

    def requests():
        for number, request in enumerate(requests_of([torch.arange(8)] * 1000)):
            read.append(number)
            yield request

    with closing(source_of(CONTENTS, workers=2).batches(requests())) as batches:
        next(batches)
        assert 3 <= len(read) < 10


def test_it_draws_from_nobody_elses_generator():
    torch.manual_seed(5)
    expected = torch.randint(1000, (3,))
    torch.manual_seed(5)
    collect(source_of(CONTENTS, workers=1))
    assert torch.equal(torch.randint(1000, (3,)), expected)


def test_waiting_is_counted():
    source = source_of(streaming.SlowFiles(CONTENTS), workers=1)
    assert source.waited == 0
    start = time.monotonic()
    collect(source)
    assert 0.01 * 10 < source.waited <= time.monotonic() - start


def test_a_loop_that_is_slower_does_not_wait(small_parts):
    source = source_of(CONTENTS, workers=2)
    with closing(source.batches(requests_of([torch.arange(8)] * 12))) as batches:
        next(batches)
        before = source.waited
        for _ in range(10):
            time.sleep(0.1)
            next(batches)
        assert source.waited - before < 0.5


@pytest.mark.parametrize(("ranks", "workers"), [("1", 2), ("2", 1), ("7", 1)])
def test_ranks_share_the_cores(monkeypatch, ranks, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert count_workers() == workers


def broken(*numbers, count=23):
    return [content[:-50] if number in numbers else content for number, content in enumerate(drawn(count))]


@pytest.mark.parametrize("decode", ["exact", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_unreadable_images_are_named(small_parts, workers, decode):
    source = source_of(broken(1, 2, 3, 5, 8, 13, 21), workers=workers, decode=decode)
    named = ", ".join(
        rf"{number}\.jpg \(image file is truncated \(\d+ bytes not processed\)\)" for number in (1, 2, 3, 5, 8)
    )
    advice = r"Mend or remove what is damaged, or set dataset\.on_error=skip"
    message = rf"^6 images of a batch cannot be read: {named}, \.\.\.\. {advice}$"
    with pytest.raises(SourceError, match=message):
        collect(source, [torch.arange(20), torch.arange(3)])
    assert not multiprocessing.active_children()


def test_a_file_that_is_gone_is_unreadable(tmp_path):
    source = source_of([tmp_path / "gone.jpg", *CONTENTS])
    with pytest.raises(SourceError, match=r"^1 image of a batch cannot be read: gone\.jpg \(\[Errno 2\]"):
        collect(source, [torch.arange(3)])


SKIP = {"on_error": "skip", "max_unreadable": 0.5}


@pytest.mark.parametrize("decode", ["exact", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_in_training_the_next_readable_one_takes_the_place(small_parts, workers, decode):
    """With its label, and with the place's crop; after the last comes the first."""
    contents = broken(4, 5, 6, 22)
    source = source_of(contents, workers=workers, decode=decode, **SKIP)
    expected = [4 + 3 if sample in (4, 5, 6) else 0 if sample == 22 else sample for sample in ORDER.tolist()]
    batches = collect(source)
    assert torch.cat([labels for _, labels in batches]).tolist() == expected
    assert_same(batches, collect(source_of(contents), torch.tensor(expected).split(10)))
    assert source.unreadable == {4, 5, 6, 22}
    # Whoever shares the batch.
    shares = [collect(source_of(contents, **SKIP), ranks=2, rank=rank) for rank in range(2)]
    assert torch.equal(torch.cat([shares[0][1][0], shares[1][1][0]]), batches[1][0])


@pytest.mark.parametrize("decode", ["exact", "device"])
@pytest.mark.parametrize("workers", [0, 2])
def test_in_an_evaluation_it_is_left_out(small_parts, workers, decode):
    source = source_of(broken(0, 1, 2, 3, 7), training=False, workers=workers, decode=decode, **SKIP)
    batches = collect(source, torch.arange(23).split(4), augmented=False)
    assert [labels.tolist() for _, labels in batches[:3]] == [[], [4, 5, 6], [8, 9, 10, 11]]
    assert batches[0][0].shape == (0, 3, 48, 48)
    assert batches[1][0].shape == (3, 3, 48, 48)
    assert source.unreadable == {0, 1, 2, 3, 7}


def test_each_is_counted_once_and_not_too_many():
    source = source_of(broken(3, 4), on_error="skip", max_unreadable=2 / 23)
    for _ in range(2):
        collect(source)
    assert source.unreadable == {3, 4}
    source.know_unreadable({4})
    with pytest.raises(
        SourceError,
        match=r"^3 of 23 images cannot be read, more than the share that dataset.max_unreadable=0.08\d+ allows: "
        r"3\.jpg \(image file is truncated .*\), 4\.jpg \(.*\), 9\.jpg$",
    ):
        source.know_unreadable({9})


@pytest.mark.parametrize("workers", [0, 2])
def test_where_all_are_unreadable_it_ends_at_once(workers):
    """Not after looking for a readable one through the whole split."""
    files = CountedFiles([b"nothing"] * 1000)
    source = source_of(files, on_error="skip", max_unreadable=0.005, workers=workers)
    with pytest.raises(SourceError, match=r"of 1000 images cannot be read"):
        collect(source, torch.arange(1000).split(30))
    assert files.count <= 30 + 5


class CountedFiles(Files):
    count = 0

    def read(self, index):
        self.count += 1
        return super().read(index)


class EndingFiles(Files):
    """One of the files ends who reads it."""

    def __init__(self, contents, end):
        super().__init__(contents)
        self.end = end

    def read(self, index):
        if index == 9 and multiprocessing.parent_process() is not None:
            self.end()
        return super().read(index)


def ended_by(number):
    return lambda: os.kill(os.getpid(), number)


DEATHS = {
    "killed": (
        ended_by(signal.SIGKILL),
        "a worker that decodes images was ended by SIGKILL, as the system does where memory runs out",
    ),
    "an exit": (lambda: os._exit(3), "a worker that decodes images ended with exit code 3"),
}


@pytest.mark.parametrize(("end", "message"), DEATHS.values(), ids=DEATHS)
def test_the_death_of_a_worker_has_a_reason(small_parts, end, message):
    handler = signal.getsignal(signal.SIGCHLD)
    source = source_of(EndingFiles(CONTENTS, end), workers=2)
    with pytest.raises(SourceError, match=f"^{message}$"):
        collect(source, [torch.arange(23)] * 5)
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_a_mistake_of_ours_has_its_traceback(small_parts):
    def fail():
        raise ZeroDivisionError("on purpose")

    source = source_of(EndingFiles(CONTENTS, fail), workers=2)
    with pytest.raises(ZeroDivisionError, match=r"Original Traceback(.|\n)*on purpose"):
        collect(source)
    assert not multiprocessing.active_children()


@pytest.fixture
def program():
    """A process that streams, and its workers."""
    with subprocess.Popen(
        [sys.executable, streaming.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        process.stdout.readline()
        yield process, psutil.Process(process.pid).children()
        process.kill()


def ask(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    return process.stdout.readline().split()


def test_workers_leave_signals_to_the_run(program):
    """And end when it tells them to."""
    process, workers = program
    assert len(workers) == 2
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        for receiver in (*workers, process):
            receiver.send_signal(number)
    time.sleep(0.2)
    assert all(worker.is_running() for worker in workers)
    assert set(ask(process, "next")) == {"2", "15", "10"}
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert process.stderr.read() == ""


def test_workers_go_with_a_run_that_is_killed(program):
    process, workers = program
    process.kill()
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert process.stderr.read() == ""
