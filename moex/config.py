"""The typed schema of a run's whole configuration, its checks, and the identity that names a run's folder.

The YAML files in `configs/` say which values; the dataclasses here say which keys and types exist. `parse`
turns what Hydra composed into a `Config`, or raises `ValueError` naming the key, the value and what is right.
What needs a network or a data set to be checked (does the exchange point exist?) is checked in `moex.run`.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


@dataclass
class DatasetConfig:
    """Which images, where they are, and how wide a hole Cutout makes in them unless told otherwise."""

    name: str = "digits"
    root: str = "data"
    download: bool = False
    cutout_size: int = 4


@dataclass
class ModelConfig:
    """`moex.models.create(name, **options)`."""

    name: str = "resnet8"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class MixingStepConfig:
    """When a step happens, and the law of its weight λ: fixed (`weight`) or Beta(`alpha`, `alpha`)."""

    probability: float = 1.0
    weight: float | None = None
    alpha: float | None = None
    per_sample: bool = False


@dataclass
class MixupConfig(MixingStepConfig):
    """Mixup (Zhang et al. 2018)."""

    alpha: float | None = 1.0


@dataclass
class CutMixConfig(MixingStepConfig):
    """CutMix (Yun et al. 2019); the published CIFAR code cuts half of the batches."""

    probability: float = 0.5
    alpha: float | None = 1.0


@dataclass
class MoExConfig(MixingStepConfig):
    """Moment Exchange (Li et al. 2021): after `layer`, a named point of the network or a module path.

    `statistic` is what is exchanged: moments, the leading principal `components`, or all order statistics.
    """

    probability: float = 0.5
    weight: float | None = 0.9
    layer: str = "stem"
    norm: str = "pono"
    eps: float = 1e-5
    channel_dim: int = 1
    positive_only: bool = False
    detach: bool = False
    statistic: str = "moments"
    components: int = 1


@dataclass
class ManifoldMixupConfig(MixingStepConfig):
    """Manifold Mixup (Verma et al. 2019): Mixup after one of the `points`, drawn for each batch."""

    alpha: float | None = 1.0
    points: list[str] = field(default_factory=lambda: ["images", "stage1", "stage2"])


@dataclass
class FeatureCutMixConfig(MixingStepConfig):
    """Feature CutMix (Yun et al. 2019, section 4): CutMix after one of the `points`, drawn for each batch."""

    probability: float = 0.5
    alpha: float | None = 1.0
    points: list[str] = field(default_factory=lambda: ["images", "stem", "stage1", "stage2"])


@dataclass
class DropBlockConfig:
    """DropBlock (Ghiasi et al. 2018) after each of the `points`: `rate` grows linearly from 0 to its value."""

    rate: float = 0.1
    block_size: int = 7
    points: list[str] = field(default_factory=lambda: ["stage2", "stage3"])


@dataclass
class CutoutConfig:
    """Cutout (DeVries and Taylor 2017): one square hole an image, `size` pixels wide before clipping."""

    probability: float = 1.0
    size: int = 4


@dataclass
class LabelSmoothingConfig:
    """Moves `epsilon` of each label's mass to the uniform distribution over all classes."""

    epsilon: float = 0.1


@dataclass
class AugmentationConfig:
    """The mixing list: `steps` in their order; of those in `one_of`, at most one happens at a time."""

    steps: list[str] = field(default_factory=list)
    one_of: list[str] = field(default_factory=list)
    shared_permutation: bool = False
    cutout: CutoutConfig = field(default_factory=CutoutConfig)
    mixup: MixupConfig = field(default_factory=MixupConfig)
    cutmix: CutMixConfig = field(default_factory=CutMixConfig)
    moex: MoExConfig = field(default_factory=MoExConfig)
    manifold_mixup: ManifoldMixupConfig = field(default_factory=ManifoldMixupConfig)
    feature_cutmix: FeatureCutMixConfig = field(default_factory=FeatureCutMixConfig)
    dropblock: DropBlockConfig = field(default_factory=DropBlockConfig)
    label_smoothing: LabelSmoothingConfig = field(default_factory=LabelSmoothingConfig)


@dataclass
class MomentsConfig:
    """What the network sees of the features after `layer`: all of them, their moments only, or these removed."""

    use: str = "all"
    layer: str = "stem"
    norm: str = "pono"


@dataclass
class OptimizerConfig:
    """SGD with momentum; weight decay acts on every parameter, as published."""

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4


@dataclass
class ScheduleConfig:
    """The learning rate over time: `step` multiplies by `factor` at fractions of the epochs."""

    name: str = "step"
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])
    factor: float = 0.1
    warmup_epochs: float = 0.0
    final_lr: float = 0.0


@dataclass
class RuntimeConfig:
    """How the machine is used."""

    device: str = "auto"
    precision: str = "fp32"
    compile: bool = False
    channels_last: bool = False
    deterministic: bool = False


@dataclass
class LoggerConfig:
    """Loggers besides metrics.csv, and the interval, in steps, between two readings of the loss."""

    tensorboard: bool = False
    wandb: bool = False
    project: str = "moex"
    every_steps: int = 50


@dataclass
class CheckpointConfig:
    """When to save besides the end of each epoch; null: never."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0


@dataclass
class Config:
    """One run."""

    name: str = "run"
    seed: int = 0
    epochs: int = 30
    batch_size: int = 64
    limit_train: int | None = None
    limit_test: int | None = None
    output_root: str = "outputs"
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


CHOICES = {
    "augmentation.moex.statistic": ("moments", "components", "order"),
    "moments.use": ("all", "only", "removed"),
    "schedule.name": ("step", "cosine"),
    "runtime.device": ("auto", "cpu", "cuda"),
    "runtime.precision": ("fp32", "bf16", "fp16"),
}
MIXING_STEPS = ("mixup", "cutmix", "moex", "manifold_mixup", "feature_cutmix")
# What belongs to the loss or the network, and happens in every step.
STANDING_STEPS = ("dropblock", "label_smoothing")
STEPS = ("cutout", *MIXING_STEPS, *STANDING_STEPS)
# The point before the network, among those of its layers.
IMAGES = "images"

# What changes neither the law of the training nor its numbers on one kind of machine.
_OUTSIDE_THE_RECIPE = frozenset(
    {"name", "seed", "output_root", "dataset.root", "dataset.download", "dataset.cutout_size", "runtime.device"}
    | {"model.options.memory_saving"}
    | {f"logger.{item.name}" for item in dataclasses.fields(LoggerConfig)}
    | {f"checkpoint.{item.name}" for item in dataclasses.fields(CheckpointConfig)}
)


def parse(composed: DictConfig | dict[str, Any]) -> Config:
    """Checks a composed configuration against the schema and returns it typed.

    Args:
        composed: what Hydra composed, or the dictionary form of a `Config`.

    Raises:
        ValueError: an unknown key, a wrong type, a value out of its range or an impossible combination.
    """
    values = OmegaConf.to_container(composed, resolve=True) if isinstance(composed, DictConfig) else composed
    try:
        # A fresh merge: `+a.b=1` extends what Hydra composed, and only the schema itself can refuse it.
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), values))
    except OmegaConfBaseException as error:
        raise ValueError(_explain(error)) from None
    assert isinstance(config, Config)
    _check(config)
    return config


def known_keys() -> list[str]:
    """All dotted keys of the schema, groups included."""
    groups = [item.name for item in dataclasses.fields(Config)]
    return sorted({*_flatten(dataclasses.asdict(Config())), *groups})


def recipe(config: Config) -> dict[str, Any]:
    """What makes this run's training differ from the schema's defaults, as dotted keys.

    The seed, names and places are left out: runs of one recipe differ in their seed alone. Only differences
    are kept, so that a key added to the schema tomorrow changes the identity of no run of today.
    """
    default = _flatten(dataclasses.asdict(Config()))
    return {
        key: value
        for key, value in sorted(_flatten(dataclasses.asdict(config)).items())
        if key not in _OUTSIDE_THE_RECIPE and value != default.get(key)
    }


def run_folder(config: Config) -> Path:
    """`<output_root>/<name>/<recipe>/seed<k>`, the same for the same command."""
    text = json.dumps(recipe(config), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    parts = [config.model.name, "+".join(config.augmentation.steps) or "none", digest]
    readable = "-".join(re.sub(r"[^\w.+]+", "_", part) for part in parts)
    return Path(config.output_root) / config.name / readable / f"seed{config.seed}"


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _explain(error: OmegaConfBaseException) -> str:
    key, reason = error.full_key or "", str(error).splitlines()[0]
    if "not in" in reason:
        return unknown_key(key)
    return f"{key}: {reason}" if key else reason


def unknown_key(key: str) -> str:
    """The message for a key that the schema lacks, with the nearest ones that it has."""
    nearest = difflib.get_close_matches(key, known_keys(), n=3, cutoff=0.5)
    same_leaf = [known for known in known_keys() if known.rpartition(".")[2] == key.rpartition(".")[2]]
    siblings = [known for known in known_keys() if known.rpartition(".")[0] == key.rpartition(".")[0]]
    return f"unknown key {key!r}: the nearest are {', '.join(same_leaf or nearest or siblings or known_keys())}"


def _check(config: Config) -> None:
    flat = _flatten(dataclasses.asdict(config))
    for key, allowed in CHOICES.items():
        _require(flat[key] in allowed, key, flat[key], f"one of {', '.join(allowed)}")
    _require(
        re.fullmatch(r"[\w][\w.+-]*", config.name) is not None,
        "name",
        config.name,
        "letters, digits and _ . + - alone, since it names a folder",
    )
    _require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")
    for key in ("epochs", "batch_size", "limit_train", "limit_test", "logger.every_steps"):
        _require(flat[key] is None or flat[key] >= 1, key, flat[key], "1 or more")
    for key in ("checkpoint.every_steps", "checkpoint.every_minutes"):
        _require(flat[key] is None or flat[key] > 0, key, flat[key], "more than 0, or null")
    _check_optimizer(config)
    _check_augmentation(config.augmentation, batch_size=config.batch_size)


def _check_optimizer(config: Config) -> None:
    optimizer, schedule = config.optimizer, config.schedule
    _require(0 < optimizer.lr < float("inf"), "optimizer.lr", optimizer.lr, "more than 0")
    _require(0 <= optimizer.momentum < 1, "optimizer.momentum", optimizer.momentum, "in [0, 1)")
    _require(optimizer.weight_decay >= 0, "optimizer.weight_decay", optimizer.weight_decay, "0 or more")
    _require(
        not optimizer.nesterov or optimizer.momentum > 0,
        "optimizer.nesterov",
        True,
        "false when optimizer.momentum is 0",
    )
    milestones = schedule.milestones
    _require(
        milestones == sorted(set(milestones)) and all(0 < milestone < 1 for milestone in milestones),
        "schedule.milestones",
        milestones,
        "increasing fractions of the epochs, such as [0.5, 0.75]",
    )
    _require(schedule.factor > 0, "schedule.factor", schedule.factor, "more than 0")
    _require(
        0 <= schedule.warmup_epochs <= config.epochs,
        "schedule.warmup_epochs",
        schedule.warmup_epochs,
        f"from 0 to epochs ({config.epochs})",
    )
    _require(
        0 <= schedule.final_lr <= optimizer.lr,
        "schedule.final_lr",
        schedule.final_lr,
        f"from 0 to optimizer.lr ({optimizer.lr})",
    )


def _check_augmentation(augmentation: AugmentationConfig, *, batch_size: int) -> None:
    steps, one_of = augmentation.steps, augmentation.one_of
    _require(
        set(steps) <= set(STEPS) and len(steps) == len(set(steps)),
        "augmentation.steps",
        steps,
        f"each of {', '.join(STEPS)} at most once",
    )
    allowed = [name for name in steps if name not in STANDING_STEPS]
    _require(
        set(one_of) <= set(allowed) and len(one_of) == len(set(one_of)) and len(one_of) != 1,
        "augmentation.one_of",
        one_of,
        f"empty, or two or more of augmentation.steps ({', '.join(allowed) or 'none'})",
    )
    for name in (*MIXING_STEPS, "cutout"):
        probability = getattr(augmentation, name).probability
        _require(0 <= probability <= 1, f"augmentation.{name}.probability", probability, "in [0, 1]")
    total = sum(getattr(augmentation, name).probability for name in one_of)
    _require(
        total <= 1 + 1e-9,
        "augmentation.one_of",
        one_of,
        f"steps whose probabilities sum to 1 at most; these sum to {total:g}",
    )
    for name in MIXING_STEPS:
        step, key = getattr(augmentation, name), f"augmentation.{name}"
        _require(
            (step.weight is None) != (step.alpha is None),
            f"{key}.weight and {key}.alpha",
            (step.weight, step.alpha),
            "one of them a number and the other null",
        )
        _require(step.weight is None or 0 <= step.weight <= 1, f"{key}.weight", step.weight, "in [0, 1]")
        _require(step.alpha is None or 0 < step.alpha < float("inf"), f"{key}.alpha", step.alpha, "more than 0")
        # A box differs from sample to sample even where the weight behind it does not.
        _require(
            not step.per_sample or step.alpha is not None or name in ("cutmix", "feature_cutmix"),
            f"{key}.per_sample",
            True,
            f"false with a fixed weight; set {key}.alpha to draw weights",
        )
    _require(augmentation.cutout.size >= 1, "augmentation.cutout.size", augmentation.cutout.size, "1 or more")
    moex = augmentation.moex
    _require(moex.eps > 0, "augmentation.moex.eps", moex.eps, "more than 0")
    _require(moex.components >= 1, "augmentation.moex.components", moex.components, "1 or more")
    for name in ("positive_only", "detach"):
        _require(
            moex.statistic == "moments" or not getattr(moex, name),
            f"augmentation.moex.{name}",
            True,
            f"false where augmentation.moex.statistic is {moex.statistic!r}",
        )
    for name in ("manifold_mixup", "feature_cutmix", "dropblock"):
        points, key = getattr(augmentation, name).points, f"augmentation.{name}.points"
        _require(bool(points) and len(points) == len(set(points)), key, points, "one or more different points")
    dropblock = augmentation.dropblock
    _require(IMAGES not in dropblock.points, "augmentation.dropblock.points", dropblock.points, "layers alone")
    _require(0 <= dropblock.rate < 1, "augmentation.dropblock.rate", dropblock.rate, "in [0, 1)")
    block_size = dropblock.block_size
    _require(
        block_size >= 1 and block_size % 2 == 1, "augmentation.dropblock.block_size", block_size, "an odd number"
    )
    epsilon = augmentation.label_smoothing.epsilon
    _require(0 <= epsilon <= 1, "augmentation.label_smoothing.epsilon", epsilon, "in [0, 1]")
    _require(
        batch_size > 1 or not set(steps) & set(MIXING_STEPS),
        "batch_size",
        batch_size,
        "2 or more when samples are mixed with each other",
    )


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"{key} is {value!r}: it must be {allowed}")
