"""From a configuration to data on the device and a network with the hooks of the mixing list attached."""

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moex import data, models
from moex.config import IMAGES, Config, MoExConfig, channels_last
from moex.data.source import BatchSource
from moex.distributed import local_rank, share_gradients, world_size
from moex.engine import State, ordered
from moex.exchange import ComponentExchange, FeatureExchange, MomentExchange, OrderExchange
from moex.features import FeatureHook, resolve_layer
from moex.mixing import KINDS, DropBlock, FeatureMixing, Operation, points_of_step
from moex.optim import WeightAverage, create_optimizer
from moex.randomness import seed_network
from moex.statistics import keep_moments, remove_moments


@dataclass(frozen=True)
class Sets:
    """The training and the test set on the device, and their number of classes."""

    train: BatchSource
    test: BatchSource
    classes: int


def visible_gpus(config: Config) -> int:
    """How many GPUs a run may use on this machine; 0 trains on the CPU. Leaves CUDA as it is.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    wanted = config.runtime.device
    gpus = 0 if wanted == "cpu" else torch.cuda.device_count()
    if wanted == "cuda" and not gpus:
        raise ValueError("runtime.device is 'cuda' and this machine has no CUDA device: use auto or cpu")
    if config.runtime.sync_batchnorm and not gpus:
        raise ValueError("runtime.sync_batchnorm is true: PyTorch has it for GPUs alone, and this run is on the CPU")
    return gpus


def choose_device(config: Config) -> torch.device:
    """The device of this rank, and torch's global switches for it.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    runtime = config.runtime
    device = torch.device("cuda", local_rank()) if visible_gpus(config) else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if runtime.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not runtime.deterministic
    # fp32 means float32: no TensorFloat-32, which torch takes for convolutions unless told otherwise. On the CPU
    # tf32 means float32 too, where torch would take what the processor has.
    tf32 = runtime.precision == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    return device


def check_network(config: Config) -> dict[str, tuple[int, int]]:
    """Passes two images through the network on the meta device, where neither data nor memory is needed.

    Returns:
        H and W in pixels, by point: of the images, and of the features after the points of the mixing list.

    Raises:
        ValueError: there is no such data set or network, an option or a point does not exist, the network cannot
            take images of this size, or Cutout's hole is larger than they are.
    """
    specification = data.specification(config.dataset.name)
    hole, side = config.augmentation.cutout.size, min(specification.shape[1:])
    if "cutout" in config.augmentation.steps and hole > side:
        raise ValueError(
            f"augmentation.cutout.size is {hole}: the images of {config.dataset.name!r} are {side} pixels wide, "
            f"so it must be 1 to {side}"
        )
    sizes = {IMAGES: specification.shape[1:]}
    with torch.device("meta"):
        model = create_model(config)
        images, one, pair = torch.empty(2, *specification.shape), torch.ones(1), torch.arange(2)
        box = torch.zeros(1, 4, dtype=torch.int64)
    name = config.model.name
    try:
        with ExitStack() as stack:
            for (kind, point), hook in attach_hooks(model, config).items():
                stack.enter_context(ordered(hook, Operation(kind, pair, one, box, point)))
                model.get_submodule(hook.layer).register_forward_hook(
                    lambda _, __, features, point=point: sizes.update({point: tuple(features.shape[2:])})
                )
            logits = model(images)
    # timm and torchvision assert the sizes that their transformers take.
    except (RuntimeError, AssertionError) as error:
        size = "×".join(map(str, specification.shape))
        raise ValueError(
            f"model {name!r} cannot take the {size} images of {config.dataset.name!r}: {str(error).splitlines()[0]}"
        ) from None
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, specification.num_classes):
        answer = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(
            f"model {name!r} returns {answer} for two images: it must be logits [2, {specification.num_classes}]"
        )
    return sizes


def create_model(config: Config) -> nn.Module:
    """The network that the configuration names, for the data set that it names."""
    specification = data.specification(config.dataset.name)
    for option in ("num_classes", "in_channels"):
        if option in config.model.options:
            raise ValueError(f"model.options.{option} cannot be set: data set {config.dataset.name!r} decides it")
    model = models.create(
        config.model.name,
        num_classes=specification.num_classes,
        in_channels=specification.shape[0],
        **config.model.options,
    )
    if config.runtime.sync_batchnorm and world_size() > 1:
        # timm's, which knows the layers that combine BatchNorm with an activation. Hooks come later: layers are new.
        from timm.layers.norm_act import convert_sync_batchnorm

        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    seen, norm = config.moments.use, config.moments.norm
    if seen != "all":
        restrict = keep_moments if seen == "only" else remove_moments
        layer = model.get_submodule(resolve_layer(model, config.moments.layer))
        layer.register_forward_hook(lambda _, __, features: restrict(features, norm))
    return model


def attach_hooks(model: nn.Module, config: Config) -> dict[tuple[str, str], FeatureHook[Any]]:
    """What the mixing list does after layers of the network, by the operation's name and point.

    Raises:
        ValueError: the network has no such point.
    """
    augmentation = config.augmentation
    hooks: dict[tuple[str, str], FeatureHook[Any]] = {}
    for step in augmentation.steps:
        kind = KINDS.get(step, step)
        for point in points_of_step(augmentation, step):
            if kind == "moex":
                hooks[kind, point] = create_exchange(model, augmentation.moex)
            elif kind == "dropblock":
                hooks[kind, point] = DropBlock(model, point, block_size=augmentation.dropblock.block_size)
            elif point != IMAGES:
                hooks[kind, point] = FeatureMixing(model, point)
    return hooks


def create_exchange(model: nn.Module, moex: MoExConfig) -> FeatureExchange:
    """The exchange of the statistic that the configuration names."""
    if moex.statistic == "components":
        return ComponentExchange(model, moex.layer, moex.components, channel_dim=moex.channel_dim)
    if moex.statistic == "order":
        return OrderExchange(model, moex.layer, moex.norm, channel_dim=moex.channel_dim)
    return MomentExchange(
        model,
        moex.layer,
        moex.norm,
        eps=moex.eps,
        channel_dim=moex.channel_dim,
        positive_only=moex.positive_only,
        detach=moex.detach,
    )


def load_sets(config: Config, device: torch.device) -> Sets:
    """Reads the data set and lays it on the device.

    Raises:
        ValueError: files are missing or damaged, or a limit exceeds the set.
        OSError: files cannot be read.
    """
    dataset = data.load(config.dataset.name, config.dataset.root, download=config.dataset.download, seed=config.seed)
    dataset = data.limit(dataset, train=config.limit_train, test=config.limit_test)

    def source(images: torch.Tensor, labels: torch.Tensor, *, padding: int, flip: bool) -> BatchSource:
        return BatchSource(
            images,
            labels,
            mean=dataset.mean,
            std=dataset.std,
            padding=padding,
            flip=flip,
            device=device,
            channels_last=channels_last(config.runtime),
        )

    return Sets(
        source(dataset.train_images, dataset.train_labels, padding=dataset.padding, flip=dataset.flip),
        source(dataset.test_images, dataset.test_labels, padding=0, flip=False),
        len(dataset.classes),
    )


def create_state(config: Config, sets: Sets, device: torch.device) -> State:
    """The run before its first step: the weights depend on the configuration and the seed alone."""
    seed_network(config.seed)
    memory_format = torch.channels_last if channels_last(config.runtime) else torch.contiguous_format
    model = create_model(config).to(device).to(memory_format=memory_format)
    decay = config.optimizer.ema_decay
    average = None if decay is None else WeightAverage(model, decay)
    # The hooks are there before compilation, so that they are compiled too.
    hooks = attach_hooks(model, config)
    if config.runtime.compile:
        # A graph for each combination of what happens inside the network, and for the last, smaller batch.
        torch.compiler.config.recompile_limit = 64
    network: Any = torch.compile(model, dynamic=False) if config.runtime.compile else model
    cuts_features = "feature_cutmix" in config.augmentation.steps
    return State(
        model=model,
        network=share_gradients(network, device),
        hooks=hooks,
        sizes=check_network(config) if cuts_features else {IMAGES: data.specification(config.dataset.name).shape[1:]},
        optimizer=create_optimizer(model, config.optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=config.runtime.precision == "fp16"),
        totals=torch.zeros(2, dtype=torch.float64, device=device),
        first_bad_step=torch.tensor(-1, device=device),
        steps_per_epoch=-(-len(sets.train) // config.batch_size),
        average=average,
    )
