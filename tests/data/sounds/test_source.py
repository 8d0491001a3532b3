"""Which samples an epoch has, and who makes batches of them."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from moex.data import Request
from moex.data.sounds.source import Recordings, ResidentSounds
from moex.data.speech_commands import SpeechCommands

LABELS = torch.tensor([0] * 10 + [1] * 100 + [3] * 390)


SILENCE = Recordings(np.zeros((500, 16_000), dtype=np.int16), np.zeros((0, 16_000), dtype=np.int16))


def source_of(recordings=SILENCE, labels=LABELS, *, balanced=True):
    return ResidentSounds(
        recordings,
        labels,
        augmentation=SpeechCommands().augmentation,
        balanced=balanced,
        mean=0.0,
        std=1.0,
        device=torch.device("cpu"),
        channels_last=False,
    )


def test_a_balanced_epoch_has_all_classes_equally_often():
    """As many draws as samples, with replacement, and in a class all samples equally often."""
    source = source_of(balanced=True)
    orders = [source.order(np.random.default_rng(epoch)) for epoch in range(100)]
    assert {len(order) for order in orders} == {len(source)} == {500}
    samples = torch.cat(orders)
    classes = LABELS[samples].bincount(minlength=4)
    assert classes[2] == 0
    assert stats.chisquare(classes[[0, 1, 3]]).pvalue > 1e-3
    for label in (0, 1, 3):
        counts = samples.bincount(minlength=500)[LABELS.eq(label)]
        assert stats.chisquare(counts).pvalue > 1e-3
    assert torch.equal(orders[3], source.order(np.random.default_rng(3)))
    # In no order: neighbours are of the same class as often as any two.
    same = (LABELS[samples][1:] == LABELS[samples][:-1]).double().mean()
    assert abs(same - 1 / 3) < 0.01


def test_a_plain_epoch_has_all_samples_once():
    order = source_of(balanced=False).order(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(500))


def test_a_share_may_be_empty():
    request = Request(torch.arange(5), torch.arange(0), np.random.default_rng(0))
    inputs, labels = source_of(balanced=True).batch(request)
    assert inputs.shape == (0, 1, 32, 32)
    assert len(labels) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads):
    """Each has parts of a batch to itself; torch is told again how many there are."""
    draws = np.random.default_rng(0)
    recordings = Recordings(*(draws.integers(-3000, 3000, (count, 16_000)).astype(np.int16) for count in (20, 5)))
    request = Request(torch.arange(60) % 20, torch.arange(60))
    before, batches = torch.get_num_threads(), []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            request = dataclasses.replace(request, generator=np.random.default_rng(1))
            batches.append(source_of(recordings, torch.arange(20)).batch(request)[0])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*batches)
