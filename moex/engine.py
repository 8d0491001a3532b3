"""The loop: one training step, one epoch of them, one pass over the test set; on one rank or on many."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from moex.config import Config
from moex.data.source import BatchSource, draw_crops
from moex.distributed import broadcast_buffers, gather_turns, rank, world_size
from moex.exchange import FeatureExchange
from moex.features import FeatureHook
from moex.mixing import DropBlock, FeatureMixing, Operation, Plan, apply_plan, draw_plan
from moex.optim import WeightAverage, learning_rate
from moex.randomness import Purpose, generator, seed_network

# What autocast computes in; where a precision is not here, it is off.
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
EVALUATION_BATCH = 500


@dataclass
class State:
    """A run at one moment.

    Attributes:
        model: the network that is trained.
        network: what a training step calls: the model, or its compiled form, sharing gradients among the ranks.
        hooks: what the mixing list does after layers of the model, by the operation's name and point.
        sizes: H and W in pixels, by point, where the mixing list needs them.
        optimizer: of the model's parameters.
        scaler: of fp16's gradients; disabled for other precisions.
        totals: sums over this rank's samples of the current epoch so far: their losses, and wrong predictions.
        first_bad_step: step of the current epoch whose loss was the first not to be finite here, or -1.
        steps_per_epoch: training steps of a whole epoch.
        average: of the model's weights; None where the weights themselves are evaluated.
        epoch: epochs done.
        step: steps done in the current epoch.
        history: one row an epoch.
        best: the row with the lowest test error.
        epoch_seconds: training in the current epoch so far, over all sessions.
        seconds: training and evaluation so far, over all sessions.
        sessions: when, by which command and from which commit each session of this run began.
    """

    model: nn.Module
    network: Callable[[Tensor], Tensor]
    hooks: dict[tuple[str, str], FeatureHook[Any]]
    sizes: dict[str, tuple[int, int]]
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
    seconds: float = 0.0
    sessions: list[dict[str, Any]] = field(default_factory=list)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is evaluated, and whose weights are `best.pt`: the average, if there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def global_step(self) -> int:
        """Steps done in the whole run."""
        return self.epoch * self.steps_per_epoch + self.step


def backward(
    state: State, images: Tensor, labels: Tensor, plan: Plan, *, samples: float, classes: int, precision: str
) -> tuple[Tensor, Tensor]:
    """Adds the gradient of some images to that of the current step.

    Args:
        state: its model's gradients change.
        images: normalised, `[B, C, H, W]`.
        labels: int64 `[B]`.
        plan: what the mixing list does to these images.
        samples: what the sum of their losses is divided by.
        classes: K.
        precision: `fp32`, `tf32` (which `moex.run` switches on for the device), `bf16` or `fp16`.

    Returns:
        The sum of their losses, and the number of samples whose largest logit is not at their own label; both on the
        device.
    """
    images, soft_labels, inside = apply_plan(plan, images, labels, classes=classes)
    with ExitStack() as stack:
        for operation in inside:
            stack.enter_context(ordered(state.hooks[operation.name, operation.point], operation))
        stack.enter_context(autocast(images.device, precision))
        logits = state.network(images)
    loss = F.cross_entropy(logits.float(), soft_labels, reduction="sum")
    state.scaler.scale(loss / samples).backward()
    return loss.detach(), (logits.detach().argmax(1) != labels).sum()


def update(state: State) -> None:
    """Moves the weights by their gradients, and clears these."""
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    if state.average is not None:
        state.average.update(state.model)


def train_epoch(state: State, source: BatchSource, config: Config, *, classes: int) -> Iterator[float]:
    """The steps of the current epoch that are not yet done, the last, smaller batch included.

    A batch is shared out to the ranks, and a rank takes its share in turns where gradients are accumulated: part k
    of a batch of W ranks is taken by rank k mod W in its turn k div W, and draws what is its own as part k. Nothing
    here waits for the device: who reads `state` decides when to.

    Yields:
        After each step, the learning rate it had.
    """
    order = torch.from_numpy(generator(config.seed, Purpose.ORDER, epoch=state.epoch).permutation(len(source)))
    batches = order.split(config.batch_size)
    ranks = world_size()
    state.model.train()
    for step in range(state.step, len(batches)):
        lr = learning_rate_at(state, config, step=step)
        for group in state.optimizer.param_groups:
            group["lr"] = lr
        # Of a last batch that is too small for all turns, rank 0, whose running statistics count, has a part in each.
        turns = min(config.runtime.accumulation, -(-len(batches[step]) // ranks))
        for turn in range(turns):
            part = turn * ranks + rank()
            images, labels, plan = draw_batch(state, source, batches[step], config, step=step, part=part)
            seed_network(config.seed, epoch=state.epoch, step=step, rank=part)
            with nullcontext() if turn == turns - 1 else unshared(state.network):
                loss, wrong = backward(
                    state,
                    images,
                    labels,
                    plan,
                    # The ranks' gradients are averaged.
                    samples=len(batches[step]) / ranks,
                    classes=classes,
                    precision=config.runtime.precision,
                )
            state.totals += torch.stack([loss.double(), wrong.double()])
            fine = loss.isfinite() | (state.first_bad_step >= 0)
            state.first_bad_step = torch.where(fine, state.first_bad_step, step)
        update(state)
        state.step = step + 1
        yield lr


def unshared(network: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
    """The context in which gradients are added up on each rank and not yet averaged."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def ordered(hook: FeatureHook[Any], operation: Operation) -> AbstractContextManager[None]:
    """The context in which a hook executes an operation."""
    match hook:
        case FeatureExchange():
            return hook.swap(operation.permutation)
        case FeatureMixing():
            return hook.mix(operation)
        case DropBlock():
            return hook.drop(operation.rate)
    raise AssertionError(type(hook))


def learning_rate_at(state: State, config: Config, *, step: int) -> float:
    """The learning rate of a step of the current epoch."""
    return learning_rate(
        config.schedule,
        config.optimizer.lr,
        epoch=state.epoch,
        step=step,
        steps_per_epoch=state.steps_per_epoch,
        epochs=config.epochs,
    )


def draw_batch(
    state: State, source: BatchSource, batch: Tensor, config: Config, *, step: int, part: int = 0
) -> tuple[Tensor, Tensor, Plan]:
    """The images and labels of a part of a batch, cropped and flipped, and the plan of its mixing list.

    Args:
        state: for the current epoch.
        source: of the samples.
        batch: which samples the ranks train on together, int64.
        config: of the run.
        step: of the current epoch.
        part: which share of the batch, of as many as there are ranks times turns. Shares differ by one sample at
            most, and of a batch with fewer samples than shares the last ones are empty.
    """

    def draws(purpose: Purpose, *, part: int = 0) -> Any:
        return generator(config.seed, purpose, epoch=state.epoch, step=step, rank=part)

    mine = torch.arange(len(batch)).tensor_split(world_size() * config.runtime.accumulation)[part]
    # Drawn for the whole batch, whoever shares it, so that a sample's crop does not depend on the devices.
    shifts, flips = draw_crops(len(batch), padding=source.padding, flip=source.flip, generator=draws(Purpose.CROPS))
    images, labels = source.batch(
        batch[mine],
        shifts=None if shifts is None else shifts[mine],
        flips=None if flips is None else flips[mine],
    )
    plan = draw_plan(
        config.augmentation,
        batch_size=len(mine),
        sizes=state.sizes,
        shared=draws(Purpose.DECISIONS),
        own=draws(Purpose.PERMUTATIONS, part=part),
        progress=(state.epoch + step / state.steps_per_epoch) / config.epochs,
    )
    return images, labels, plan


@torch.inference_mode()
def evaluate(model: nn.Module, source: BatchSource, *, precision: str) -> tuple[Tensor, Tensor]:
    """Logits, float32 `[N, K]`, and labels, int64 `[N]`, of a whole set, on the CPU and in its order.

    It is rank 0's model that is evaluated. The ranks take whole batches in turns, the same that one process would
    take, so that the logits do not depend on their number.
    """
    broadcast_buffers(model)
    model.eval()
    batches = []
    for indices in torch.arange(len(source)).split(EVALUATION_BATCH)[rank() :: world_size()]:
        images, labels = source.batch(indices)
        with autocast(images.device, precision):
            batches.append((model(images).float(), labels))
    everyone = gather_turns([(logits.cpu(), labels.cpu()) for logits, labels in batches])
    return torch.cat([logits for logits, _ in everyone]), torch.cat([labels for _, labels in everyone])


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a precision; it does nothing for fp32 and tf32."""
    return torch.autocast(device.type, dtype=HALF.get(precision), enabled=precision in HALF)
