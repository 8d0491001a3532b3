"""The one place where a configuration is taken apart: from it to the parts of a run, each with its own settings."""

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moex import data, models
from moex.augmentation.mixing import FEW
from moex.beyond_moments import keep_moments, remove_moments
from moex.checkpoint import CheckpointConfig
from moex.config import Config, recipe, run_folder
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
