"""Draws depend on what they are for, and on nothing else."""

import itertools

import torch

from moex.randomness import Purpose, generator, seed_torch


def test_the_same_key_draws_the_same():
    first, second = (generator(3, Purpose.CROPS, epoch=2, step=7, rank=1).random(5).tolist() for _ in range(2))
    assert first == second


def test_every_part_of_the_key_matters():
    keys = itertools.product(range(3), Purpose, range(3), range(3), range(3))
    draws = [
        generator(seed, purpose, epoch=epoch, step=step, rank=rank).random()
        for seed, purpose, epoch, step, rank in keys
    ]
    assert len(set(draws)) == len(draws)


def test_layers_are_seeded_whatever_was_drawn_before():
    seed_torch(1, Purpose.LAYERS, epoch=2, step=3)
    first = torch.rand(4)
    torch.rand(100)
    seed_torch(1, Purpose.LAYERS, epoch=2, step=3)
    assert torch.equal(torch.rand(4), first)
    seed_torch(1, Purpose.LAYERS, epoch=2, step=4)
    assert not torch.equal(torch.rand(4), first)


def test_the_first_step_draws_something_else_than_the_first_weights():
    seed_torch(1, Purpose.NETWORK)
    weights = torch.rand(4)
    seed_torch(1, Purpose.LAYERS, epoch=0, step=0, rank=0)
    assert not torch.equal(torch.rand(4), weights)
