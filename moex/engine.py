"""The loop: one training step, one epoch of them, one pass over a set; on one rank or on many."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from moex.augmentation import Mixing, Plan
from moex.data import Outputs, Request, Source
from moex.distributed.communication import broadcast_buffers, gather_turns, rank, world_size
from moex.metrics import Scores, score
from moex.optim import WeightAverage
from moex.randomness import Purpose, generator, seed_torch

# What autocast computes in; where a precision is not here, it is off.
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What a state has before its first step, whatever a checkpoint holds.
_BUILT = ("network", "first_bad_step", "steps_per_epoch")


@dataclass
class State:
    """A run at one moment.

    Attributes:
        model: the network that is trained.
        network: what a training step calls: the model, or its compiled form, sharing gradients among the ranks.
        optimizer: of the model's parameters.
        scaler: of fp16's gradients; disabled for other precisions.
        totals: sums over this rank's samples of the current epoch so far: their losses, and wrong predictions.
        first_bad_step: step of the current epoch whose loss was the first not to be finite here, or -1.
        steps_per_epoch: training steps of a whole epoch.
        average: of the model's weights; None where the weights themselves are evaluated.
        epoch: epochs done.
        step: steps done in the current epoch.
        history: one row an epoch.
        best: the row with the lowest error on the split that chooses.
        epoch_seconds: training in the current epoch so far, over all sessions.
        epoch_waited: those of them in which there was nothing to train on, as rank 0 sees it.
        seconds: training and evaluation so far, over all sessions.
    """

    model: nn.Module
    network: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    totals: Tensor
    first_bad_step: Tensor
    steps_per_epoch: int
    average: WeightAverage | None = None
    epoch: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, float] = field(default_factory=dict)
    epoch_seconds: float = 0.0
    epoch_waited: float = 0.0
    seconds: float = 0.0

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated, and whose weights are `best.pt`: the average, if there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def global_step(self) -> int:
        """Steps done in the whole run."""
        return self.epoch * self.steps_per_epoch + self.step

    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on, by the name of the attribute, as plain containers and tensors."""
        return {
            name: value.state_dict() if hasattr(value, "state_dict") else value
            for name, value in vars(self).items()
            if name not in _BUILT
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Puts the run where `state_dict` found it."""
        for name, value in vars(self).items():
            if name in _BUILT:
                continue
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(saved[name])
            elif isinstance(value, Tensor):
                value.copy_(saved[name])
            else:
                # A checkpoint may be older than what it lacks.
                setattr(self, name, saved.get(name, value))


@dataclass(frozen=True)
class Training:
    """What all training steps of a run have in common.

    Attributes:
        source: of the training samples.
        mixing: the mixing list of the network.
        epochs: of the whole run.
        batch_size: samples of a step, all ranks together.
        accumulation: turns in which a rank takes its share of a batch.
        precision: `fp32`, `tf32` (which `moex.run` switches on for the device), `bf16` or `fp16`.
        compiled: whether the network is, for whole batches: the last, smaller one of an epoch is not worth minutes
            of compilation.
        learning_rate: of a step, by the epochs that are done and the steps of its epoch that are.
        seed: of every draw.
    """

    source: Source
    mixing: Mixing
    epochs: int
    batch_size: int
    accumulation: int
    precision: str
    compiled: bool
    learning_rate: Callable[[int, int], float]
    seed: int

    def generator(self, purpose: Purpose, *, epoch: int, step: int = 0, part: int = 0) -> np.random.Generator:
        """What one purpose draws from at one step; `part=0` for what the parts of a batch share."""
        return generator(self.seed, purpose, epoch=epoch, step=step, rank=part)


def backward(
    state: State, training: Training, images: Tensor, labels: Tensor, plan: Plan, *, samples: float
) -> tuple[Tensor, Tensor]:
    """Adds the gradient of some samples to that of the current step.

    Args:
        state: its model's gradients change.
        training: for the mixing list and the precision.
        images: or other inputs, normalised, `[B, ...]`.
        labels: int64 `[B]`.
        plan: what the mixing list does to them.
        samples: what the sum of their losses is divided by.

    Returns:
        The sum of their losses, and the number of samples whose largest logit is not at their own label; both on the
        device.
    """
    mixed = training.mixing.execute(plan, images, labels)
    with mixed as (images, soft_labels), autocast(images.device, training.precision):
        logits = state.network(images)
    logits = at_least_float32(logits)
    loss = F.cross_entropy(logits, soft_labels.to(logits.dtype), reduction="sum")
    state.scaler.scale(loss / samples).backward()
    return loss.detach(), (logits.detach().argmax(1) != labels).sum()


def update(state: State) -> None:
    """Moves the weights by their gradients, and clears these."""
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(state.model)


def train_epoch(state: State, training: Training) -> Generator[float, None, None]:
    """The steps of the current epoch that are not yet done, the last, smaller batch included.

    A batch is shared out to the ranks, and a rank takes its share in turns where gradients are accumulated: part k
    of a batch of W ranks is taken by rank k mod W in its turn k div W, and draws what is its own as part k. Nothing
    here waits for the device: who reads `state` decides when to.

    Yields:
        After each step, the learning rate it had.
    """
    first, epoch = state.step, state.epoch
    order = training.source.order(training.generator(Purpose.ORDER, epoch=epoch))
    samples = order.split(training.batch_size)
    parts = [parts_of_batch(len(indices), training.accumulation) for indices in samples]
    requests = (
        # Drawn for the whole batch, so that a sample's augmentation does not depend on the devices.
        Request(samples[step], share, training.generator(Purpose.CROPS, epoch=epoch, step=step))
        for step in range(first, len(samples))
        for share in parts[step].values()
    )
    state.model.train()
    with closing(training.source.batches(requests)) as batches:
        for step in range(first, len(samples)):
            lr = training.learning_rate(epoch, step)
            for group in state.optimizer.param_groups:
                group["lr"] = lr
            # The ranks' gradients are averaged.
            count = len(samples[step]) / world_size()
            is_whole = len(samples[step]) == training.batch_size
            for part in parts[step]:
                images, labels = next(batches)
                plan = training.mixing.draw(
                    images,
                    shared=training.generator(Purpose.DECISIONS, epoch=epoch, step=step),
                    own=training.generator(Purpose.PERMUTATIONS, epoch=epoch, step=step, part=part),
                    progress=(epoch + step / state.steps_per_epoch) / training.epochs,
                )
                seed_torch(training.seed, Purpose.LAYERS, epoch=epoch, step=step, rank=part)
                is_last = part == max(parts[step])
                with nullcontext() if is_last else unshared(state.network), uncompiled(training, when=not is_whole):
                    loss, wrong = backward(state, training, images, labels, plan, samples=count)
                state.totals += torch.stack([loss.double(), wrong.double()])
                fine = loss.isfinite() | (state.first_bad_step >= 0)
                state.first_bad_step.copy_(torch.where(fine, state.first_bad_step, step))
            update(state)
            state.step = step + 1
            yield lr


def parts_of_batch(size: int, accumulation: int) -> dict[int, Tensor]:
    """This rank's parts of a batch: positions in it, int64, by the number of the part, in the order of the turns.

    Parts differ by one sample at most, and of a batch with fewer samples than parts the last ones are empty. Of one
    that is too small for all turns, rank 0, whose running statistics count, has a sample in each turn that is left.

    Args:
        size: samples of the batch.
        accumulation: turns of a whole batch.
    """
    ranks = world_size()
    shares = torch.arange(size).tensor_split(ranks * accumulation)
    turns = min(accumulation, -(-size // ranks))
    return {part: shares[part] for part in range(rank(), turns * ranks, ranks)}


def unshared(network: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """The context in which gradients are added up on each rank and not yet averaged."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def uncompiled(training: Training, *, when: bool) -> AbstractContextManager[object]:
    """The context in which a compiled network computes as if it were not."""
    return torch.compiler.set_stance("force_eager") if training.compiled and when else nullcontext()


def evaluate(
    model: nn.Module, source: Source, *, batch_size: int, precision: str, outputs: Outputs | None = None
) -> Scores:
    """How well a network predicts a whole set: the scores of its samples, on the CPU and in the set's order.

    Logits stay on the device, a batch at a time. What `predict` says of ranks and of outputs holds here too.
    """
    passes = _forward_passes(model, source, batch_size=batch_size, precision=precision, outputs=outputs)
    return Scores(*_gather_batches([batch and score(*batch) for batch in passes]))


def predict(
    model: nn.Module, source: Source, *, batch_size: int, precision: str, outputs: Outputs | None = None
) -> tuple[Tensor, Tensor]:
    """Logits, float32 `[N, K]`, and labels, int64 `[N]`, of a whole set, on the CPU and in its order.

    It is rank 0's model that predicts. The ranks take whole batches in turns, the same that one process would take,
    so that the logits do not depend on their number.

    Args:
        model: the network.
        source: of the set.
        batch_size: samples of a forward pass.
        precision: of the network.
        outputs: which logits stand for the set's classes; the others do not leave the device. None: all of them.
    """
    passes = _forward_passes(model, source, batch_size=batch_size, precision=precision, outputs=outputs)
    logits, labels = _gather_batches(list(passes))
    return logits, labels


def _gather_batches(batches: list[tuple[Tensor, ...] | None]) -> list[Tensor]:
    """What there is of the batches of all ranks, which took them in turns: on the CPU, in the order of the set."""
    everyone = gather_turns([batch and tuple(part.cpu() for part in batch) for batch in batches])
    return [torch.cat(parts) for parts in zip(*filter(None, everyone), strict=True)]


@torch.inference_mode()
def _forward_passes(
    model: nn.Module, source: Source, *, batch_size: int, precision: str, outputs: Outputs | None
) -> Iterator[tuple[Tensor, Tensor] | None]:
    """Logits and labels of this rank's batches, on the device; None for one whose samples all cannot be read."""
    broadcast_buffers(model)
    model.eval()
    batches = torch.arange(len(source)).split(batch_size)[rank() :: world_size()]
    requests = (Request(indices, torch.arange(len(indices))) for indices in batches)
    with closing(source.batches(requests)) as answers:
        for inputs, labels in answers:
            if not len(labels):
                yield None
                continue
            with autocast(inputs.device, precision):
                logits = model(inputs)
            yield at_least_float32(logits if outputs is None else outputs.restrict(logits)), labels


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a precision; it does nothing for fp32 and tf32."""
    return torch.autocast(device.type, dtype=HALF.get(precision), enabled=precision in HALF)
