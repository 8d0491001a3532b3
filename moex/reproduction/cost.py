"""What a run costs on this machine, from a few of its steps."""

import dataclasses
import time
from dataclasses import dataclass

import torch

from moex.config import Config
from moex.data.source import ResidentTensors
from moex.engine import train_epoch
from moex.run.build import build_run, load_sources
from moex.run.device import choose_device

STEPS = 3
# Images of a step on a CPU, if a whole batch takes longer than so many seconds.
CPU_BATCH = 16
LONG = 2.0
# Of a training step, for each image that is evaluated: the forward pass is a third of it.
EVALUATION = 1 / 3


@dataclass(frozen=True)
class Cost:
    """Of training steps.

    Attributes:
        images_per_second: that are trained.
        memory: bytes of a GPU that a run holds at most; None on a CPU.
    """

    images_per_second: float
    memory: int | None

    def hours(self, samples: dict[str, int], epochs: int) -> float:
        """Of so many epochs; the set that chooses the best of them is evaluated after each.

        Args:
            samples: how many each split has.
            epochs: how many.
        """
        evaluated = samples.get("validation", samples["test"])
        return epochs * (samples["train"] + EVALUATION * evaluated) / self.images_per_second / 3600


def measure(config: Config) -> Cost:
    """Trains a few steps on noise, after one that is not counted; on a CPU, maybe of a part of the batch."""
    device = choose_device(config.runtime)
    if device.type == "cpu" and config.batch_size > CPU_BATCH:
        cost = _measure(dataclasses.replace(config, batch_size=CPU_BATCH), device)
        if config.batch_size / cost.images_per_second > LONG:
            return cost
    return _measure(config, device)


def count_samples(config: Config) -> dict[str, int] | None:
    """How many samples each split has; None where the data are not on this machine."""
    try:
        return {name: len(source) for name, source in load_sources(config, torch.device("cpu")).items()}
    except (ValueError, OSError):
        return None


def _measure(config: Config, device: torch.device) -> Cost:
    count = (1 + STEPS) * config.batch_size
    source = ResidentTensors(
        config.dataset.random_inputs(count),
        torch.arange(count) % config.dataset.num_classes,
        device=device,
        channels_last=config.runtime.channels_last,
    )
    run = build_run(config, {"train": source, "test": source}, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    steps = train_epoch(run.state, run.training)
    next(steps)
    start = _now(device)
    for _ in steps:
        pass
    seconds = _now(device) - start
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return Cost(STEPS * config.batch_size / seconds, memory)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
