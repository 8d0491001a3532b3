"""The one place where a configuration is taken apart: from it to the parts of a run, each with its own settings."""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.distributed import get_node_local_rank

from moex import data, models
from moex.augmentation.base import IMAGES, PairStep
from moex.augmentation.mixing import FEW
from moex.beyond_moments import keep_moments, remove_moments
from moex.checkpoint import CheckpointConfig
from moex.config import Config, RuntimeConfig, recipe, run_folder
from moex.data import TEST, TRAIN, VALIDATION, Request, Source
from moex.distributed.communication import share_gradients, world_size
from moex.engine import State, Training
from moex.features import last_of_sequence
from moex.loggers import LoggerConfig
from moex.models.published import fetch_published
from moex.models.weights import Weights, fit_weights, load_weights, read_weights
from moex.optim import WeightAverage
from moex.points import resolve_layer
from moex.randomness import Purpose, seed_torch
from moex.run.scoring import PreparedSet, prepare


@dataclasses.dataclass(frozen=True)
class Run:
    """The parts of a run.

    Attributes:
        name: what people call it.
        seed: of every draw.
        recipe: what acts on the training, as dotted keys.
        config: the whole configuration, as a nested dictionary.
        folder: where its files are.
        class_names: by label; None where they are but numbers.
        training: what the steps have in common.
        state: where the run stands.
        test: the samples on which results are measured.
        validation: the samples on which the best epoch is chosen; None: on those of the test set.
        evaluation_batch_size: samples of a forward pass of an evaluation.
        checkpoints: when to save.
        loggers: where numbers go besides metrics.csv.
        max_minutes: how long a session may train; None: as long as it takes.
        test_sets: on which the network is scored at the end besides, by their labels.
        sessions: when, by which command, on how many devices and from which commit each session began.
    """

    name: str
    seed: int
    recipe: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    class_names: tuple[str, ...] | None
    training: Training
    state: State
    test: Source
    validation: Source | None
    evaluation_batch_size: int
    checkpoints: CheckpointConfig
    loggers: LoggerConfig
    max_minutes: float | None
    test_sets: Mapping[str, PreparedSet] = dataclasses.field(default_factory=dict)
    sessions: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def sources(self) -> dict[str, Source]:
        """The splits by their names."""
        sources = {TRAIN: self.training.source, TEST: self.test}
        return sources if self.validation is None else {**sources, VALIDATION: self.validation}

    @property
    def selected_on(self) -> str:
        """The split that chooses the best epoch: `validation` or `test`."""
        return TEST if self.validation is None else VALIDATION


def build_run(
    config: Config,
    sources: dict[str, Source],
    device: torch.device,
    *,
    test_sets: Mapping[str, PreparedSet] | None = None,
    weights: Weights | None = None,
) -> Run:
    """The run before its first step: its weights depend on the configuration, the seed and given weights alone.

    Args:
        config: of the run.
        sources: of its splits, as `load_sources` returns them.
        device: where it trains.
        test_sets: as `load_test_sets` returns them; None: none.
        weights: as `read_initial_weights` returns them; None: fresh ones.
    """
    seed_torch(config.seed, Purpose.NETWORK)
    memory_format = torch.channels_last if config.runtime.channels_last else torch.contiguous_format
    model = create_model(config)
    if weights is not None:
        load_weights(model, weights, new_head=True)
    model = model.to(device).to(memory_format=memory_format)
    decay = config.optimizer.ema_decay
    average = None if decay is None else WeightAverage(model, decay)
    # The hooks are there before compilation, so that they are compiled too.
    mixing = config.augmentation.create(model, num_classes=config.dataset.num_classes, seed=config.seed)
    mixing.prepare(few_samples(sources[TRAIN]))
    network: Any = model
    if config.runtime.compile:
        # A graph for each combination of what happens inside the network; by the name that torch 2.6 knows too.
        torch._dynamo.config.cache_size_limit = 64
        # fp32 is meant.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
        replays = config.runtime.replays_graphs(device.type, world_size=world_size())
        network = torch.compile(model, dynamic=False, mode="reduce-overhead" if replays else None)
    state = State(
        model=model,
        network=share_gradients(network, device),
        optimizer=config.optimizer.create(model),
        scaler=torch.amp.GradScaler(device.type, enabled=config.runtime.precision == "fp16"),
        totals=torch.zeros(2, dtype=torch.float64, device=device),
        first_bad_step=torch.tensor(-1, device=device),
        steps_per_epoch=-(-len(sources[TRAIN]) // config.batch_size),
        average=average,
    )

    def learning_rate(epoch: int, step: int) -> float:
        return config.schedule.learning_rate(
            config.optimizer.lr,
            epoch=epoch,
            step=step,
            steps_per_epoch=state.steps_per_epoch,
            epochs=config.epochs,
            history=state.history,
        )

    training = Training(
        source=sources[TRAIN],
        mixing=mixing,
        epochs=config.epochs,
        batch_size=config.batch_size,
        accumulation=config.runtime.turns(world_size()),
        precision=config.runtime.precision,
        compiled=config.runtime.compile,
        learning_rate=learning_rate,
        seed=config.seed,
    )
    return Run(
        name=config.name,
        seed=config.seed,
        recipe=recipe(config),
        config=dataclasses.asdict(config),
        folder=run_folder(config),
        class_names=config.dataset.class_names,
        training=training,
        state=state,
        test=sources[TEST],
        validation=sources.get(VALIDATION),
        evaluation_batch_size=config.evaluation_batch_size,
        checkpoints=config.checkpoint,
        loggers=config.logger,
        max_minutes=config.runtime.max_minutes,
        test_sets=test_sets or {},
    )


def load_sources(config: Config, device: torch.device) -> dict[str, Source]:
    """Reads the data set and makes a source of each split.

    Raises:
        ValueError: files are missing or damaged, or a limit exceeds the set.
        OSError: files cannot be read.
    """
    return data.load(
        config.dataset,
        seed=config.seed,
        device=device,
        channels_last=config.runtime.channels_last,
        limit_train=config.limit_train,
        limit_test=config.limit_test,
    )


def read_initial_weights(config: Config) -> Weights | None:
    """The weights that training begins from, if there are any but fresh ones.

    Raises:
        ValueError: they are missing or damaged, or are not this network's but for a last layer of other classes.
        OSError: they cannot be fetched.
    """
    published, file = config.model.published_weights, config.model.weights_file
    if published is not None:
        weights = fetch_published(published).weights
    elif file is not None:
        weights = read_weights(file)
    else:
        return None
    with torch.device("meta"):
        model = create_model(config)
    try:
        fit_weights(model, weights, new_head=True)
    except ValueError as error:
        raise ValueError(
            f"model.weights is {config.model.weights!r}, not of network {config.model.name!r}: {error}"
        ) from None
    return weights


def load_test_sets(config: Config, device: torch.device) -> dict[str, PreparedSet]:
    """Looks for the files of every test set, and for its classes among those of the training set; by their labels.

    Raises:
        ValueError: files are missing or damaged, or the network will lack classes.
    """
    prepared = {}
    for label, dataset in config.test_sets.items():
        try:
            prepared[label] = prepare(
                dataset,
                classes=config.dataset.class_names,
                count=config.dataset.num_classes,
                shape=config.dataset.shape,
                seed=config.seed,
                device=device,
                channels_last=config.runtime.channels_last,
                limit_test=config.limit_test,
            )
        except (ValueError, OSError) as error:
            hint = data.fetch_hint(error, "download: true in its entry")
            raise ValueError(f"test_sets: {label}: {error}{hint}") from None
    return prepared


def few_samples(source: Source) -> torch.Tensor:
    """The first inputs of a source, as they are evaluated, for a look at how a network computes."""
    indices = torch.arange(min(len(source), FEW))
    inputs, _ = next(iter(source.batches([Request(indices, torch.arange(len(indices)))])))
    return inputs


def visible_gpus(runtime: RuntimeConfig) -> int:
    """How many GPUs a run may use on this machine; 0 trains on the CPU. Leaves CUDA as it is.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    wanted = runtime.device
    gpus = 0 if wanted == "cpu" else torch.cuda.device_count()
    if wanted == "cuda" and not gpus:
        raise ValueError("runtime.device is 'cuda' and this machine has no CUDA device: use auto or cpu")
    if runtime.sync_batchnorm and not gpus:
        raise ValueError("runtime.sync_batchnorm is true: PyTorch has it for GPUs alone, and this run is on the CPU")
    return gpus


def choose_device(runtime: RuntimeConfig) -> torch.device:
    """The device of this rank, and torch's global switches for it.

    Raises:
        ValueError: CUDA was asked for and is not there.
    """
    device = torch.device("cpu")
    if visible_gpus(runtime):
        device = torch.device("cuda", get_node_local_rank(fallback_rank=0))
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


def create_model(config: Config, *, num_classes: int | None = None) -> nn.Module:
    """The network that the configuration names.

    Args:
        config: of the run.
        num_classes: K; by default those of the data set, whose files may tell.
    """
    for option in ("num_classes", "in_channels"):
        if option in config.model.options:
            raise ValueError(f"model.options.{option} cannot be set: data set {config.dataset.name!r} decides it")
    model = models.create(
        config.model.name,
        num_classes=num_classes or config.dataset.num_classes,
        in_channels=config.dataset.channels,
        **config.model.options,
    )
    if config.runtime.sync_batchnorm and world_size() > 1:
        # timm's, which knows the layers that combine BatchNorm with an activation. Hooks come later: layers are new.
        from timm.layers.norm_act import convert_sync_batchnorm

        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    seen, norm = config.moments.use, config.moments.norm
    if seen != "all":
        restrict = keep_moments if seen == "only" else remove_moments
        layer = last_of_sequence(model.get_submodule(resolve_layer(model, config.moments.layer)))
        layer.register_forward_hook(lambda _, __, features: restrict(features, norm))
    return model
