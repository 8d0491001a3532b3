"""Whether a configuration's parts fit together, before anything is built or written."""

import psutil
import torch
from torch import nn

from moex.augmentation.base import IMAGES, PairStep
from moex.augmentation.mixing import FEW
from moex.config import Config
from moex.randomness import Purpose, seed_torch
from moex.run.build import create_model


def check_network(config: Config) -> None:
    """Passes two inputs through the network on the meta device, where neither data nor memory is needed.

    An exchange is then looked at with weights, on a few images of noise: where it changes nothing, labels would be
    mixed without their features.

    Raises:
        ValueError: there is no such network, an option or a point does not exist, the network cannot take inputs of
            this size, a step of the mixing list cannot treat them or the features, or an exchange changes nothing.
    """
    shape, classes = config.dataset.shape, config.dataset.num_classes
    for step_name, step in config.augmentation.used().items():
        step.check_input(shape, f"augmentation.{step_name}")
        if (why := config.dataset.unaligned) and isinstance(step, PairStep) and IMAGES in step.places():
            raise ValueError(f"augmentation.{step_name} cannot mix inputs of {config.dataset.name!r}: {why}")
    with torch.device("meta"):
        model = _create_small(config)
        images, labels = torch.empty(2, *shape), torch.empty(2, classes)
    mixing = config.augmentation.create(model, num_classes=classes, seed=config.seed)
    name = config.model.name
    try:
        logits = model(images)
        for plan in mixing.plans_of_every_place(images):
            with mixing.execute(plan, images, labels) as (mixed, _):
                model(mixed)
    # timm and torchvision assert the sizes that their transformers take.
    except (RuntimeError, AssertionError) as error:
        size = "×".join(map(str, shape))
        raise ValueError(
            f"model {name!r} cannot take the {size} inputs of {config.dataset.name!r}: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, classes):
        answer = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"model {name!r} returns {answer} for two images: it must be logits [2, {classes}]")
    if mixing.exchanges():
        seed_torch(config.seed, Purpose.NETWORK)
        model = create_model(config)
        mixing = config.augmentation.create(model, num_classes=classes, seed=config.seed)
        mixing.prepare(config.dataset.random_inputs(FEW))


def check_batches(config: Config, samples: int, *, world_size: int) -> None:
    """Looks whether the network can be trained on the smallest share of a batch, which may be a single sample.

    Args:
        config: of the run.
        samples: of the training set.
        world_size: the number of devices.

    Raises:
        ValueError: a BatchNorm would meet a single value a channel.
    """
    shares = world_size * config.runtime.turns(world_size)
    last = samples % config.batch_size or config.batch_size
    sizes = {last, min(samples, config.batch_size)}
    if min(sizes) // shares > 1:
        return
    with torch.device("meta"):
        model = create_model(config)
        image = torch.empty(1, *config.dataset.shape)
    try:
        model(image)
    except ValueError as error:
        raise ValueError(
            f"batch_size is {config.batch_size}, of {samples:,} samples: a share of the last batch has a single one, "
            f"on which model {config.model.name!r} cannot be trained ({error}); choose another batch_size"
        ) from None


def _create_small(config: Config) -> nn.Module:
    """The network on the meta device, where it takes no memory.

    Raises:
        ValueError: it cannot be built, or would not fit into this machine's memory.
    """
    try:
        model = create_model(config)
    # Sizes that no tensor can have.
    except (RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"network {config.model.name!r} cannot be built with {config.model.options}: {reason}"
        ) from None
    size, memory = sum(value.nbytes for value in model.state_dict().values()), psutil.virtual_memory().total
    if size > memory:
        raise ValueError(
            f"network {config.model.name!r} with {config.model.options} has weights of {size / 2**30:,.0f} GiB: this "
            f"machine has {memory / 2**30:,.0f} GiB of memory"
        )
    return model
