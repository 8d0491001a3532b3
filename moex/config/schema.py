"""Which keys a configuration has, and of which types. What they default to is what their YAML files say as well."""

from dataclasses import dataclass, field
from typing import Any


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
    """SGD with momentum; weight decay acts on every parameter, as published.

    With `ema_decay`, an exponential moving average of the weights is evaluated in their place.
    """

    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    ema_decay: float | None = None


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
    """How machines are used: `devices` processes, one a device, on each of `nodes`; together they train a batch.

    `accumulation` is the number of turns in which each of them takes its share of the batch. `channels_last` null:
    where it helps (see `moex.config.channels_last`).
    """

    device: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    node_rank: int | None = None
    rendezvous: str | None = None
    accumulation: int = 1
    sync_batchnorm: bool = False
    max_minutes: float | None = None
    precision: str = "fp32"
    compile: bool = False
    channels_last: bool | None = None
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
    """When to save besides the end of each epoch, and every which epoch's checkpoint stays; null: never, none."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0
    keep_every_epochs: int | None = None


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
    "runtime.precision": ("fp32", "tf32", "bf16", "fp16"),
}
MIXING_STEPS = ("mixup", "cutmix", "moex", "manifold_mixup", "feature_cutmix")
# What belongs to the loss or the network, and happens in every step.
STANDING_STEPS = ("dropblock", "label_smoothing")
STEPS = ("cutout", *MIXING_STEPS, *STANDING_STEPS)
# The point before the network, among those of its layers.
IMAGES = "images"


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
