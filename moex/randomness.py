"""Randomness as a function: every draw of a run comes from a generator keyed by what it is drawn for.

No generator lives longer than the draws it was made for, so a run resumed at any step draws what an unbroken
run would have drawn, and checkpoints hold no generator's state.
"""

from enum import IntEnum

import numpy as np
import torch


class Purpose(IntEnum):
    """What a generator is for. The numbers are part of a run's identity: never renumber, only append.

    `NETWORK` is the first weights'; `LAYERS` is for what layers such as dropout draw in a training step;
    `SURFACES` is for points on a mesh, whose name is the seed.
    """

    NETWORK = 0
    ORDER = 1
    CROPS = 2
    DECISIONS = 3
    PERMUTATIONS = 4
    LAYERS = 5
    SURFACES = 6


def generator(seed: int, purpose: Purpose, *, epoch: int = 0, step: int = 0, rank: int = 0) -> np.random.Generator:
    """The generator of one purpose at one step; `rank=0` on every rank for what the ranks share."""
    return np.random.default_rng([seed, purpose, epoch, step, rank])


def seed_torch(seed: int, purpose: Purpose, *, epoch: int = 0, step: int = 0, rank: int = 0) -> None:
    """Seeds torch's global generators, which initialisation and layers such as dropout draw from."""
    words = generator(seed, purpose, epoch=epoch, step=step, rank=rank)
    torch.manual_seed(int(words.integers(2**63)))
