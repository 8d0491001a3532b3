"""A small data set that needs no library: each process that reads the digits imports scikit-learn for a second."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from moex.data import Samples
from moex.data.digits import Digits

# Where there is this file, a training step takes long enough for a test to come between two.
SLOW = Path("slow")


@dataclass
class Noise(Digits):
    """Pixels at random in the shape of digits, 64 for training and 64 for testing."""

    def read(self, *, seed):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(256, (128, *self.shape), dtype=torch.uint8, generator=generator)
        everything = Samples(images, torch.arange(128) % self.num_classes)
        return {"train": everything.select(slice(64)), "test": everything.select(slice(64, None))}

    def source(self, samples, *, training, **options):
        source = super().source(samples, training=training, **options)
        batch = source.batch

        def slowly(request):
            time.sleep(0.3 * SLOW.exists())
            return batch(request)

        if training:
            source.batch = slowly
        return source
