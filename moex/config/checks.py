"""What a configuration's values may be, alone and together."""

import dataclasses
import re

from moex.config.schema import (
    CHOICES,
    IMAGES,
    MIXING_STEPS,
    STANDING_STEPS,
    STEPS,
    AugmentationConfig,
    Config,
    RuntimeConfig,
    flatten,
)


def check(config: Config) -> None:
    """Looks for values out of their range and impossible combinations.

    Raises:
        ValueError: the first one, with its key, its value and what would be right.
    """
    flat = flatten(dataclasses.asdict(config))
    for key, allowed in CHOICES.items():
        _require(flat[key] in allowed, key, flat[key], f"one of {', '.join(allowed)}")
    _require(
        re.fullmatch(r"[\w][\w.+-]*", config.name) is not None,
        "name",
        config.name,
        "letters, digits and _ . + - alone, since it names a folder",
    )
    _require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")
    counts = ("epochs", "batch_size", "limit_train", "limit_test", "logger.every_steps")
    for key in (*counts, "runtime.devices", "runtime.nodes", "runtime.accumulation"):
        _require(flat[key] is None or flat[key] >= 1, key, flat[key], "1 or more")
    spans = (
        "checkpoint.every_steps",
        "checkpoint.every_minutes",
        "checkpoint.keep_every_epochs",
        "runtime.max_minutes",
    )
    for key in spans:
        _require(flat[key] is None or flat[key] > 0, key, flat[key], "more than 0, or null")
    _check_nodes(config.runtime)
    _check_optimizer(config)
    _check_augmentation(config.augmentation, batch_size=config.batch_size)


def _check_nodes(runtime: RuntimeConfig) -> None:
    nodes, node_rank, rendezvous = runtime.nodes or 1, runtime.node_rank, runtime.rendezvous
    _require(
        node_rank is None or 0 <= node_rank < nodes,
        "runtime.node_rank",
        node_rank,
        f"from 0 to {nodes - 1}, since runtime.nodes is {runtime.nodes}",
    )
    _require(
        rendezvous is None
        or (re.fullmatch(r".+:\d+", rendezvous) is not None and 0 < int(rendezvous.rpartition(":")[2]) < 2**16),
        "runtime.rendezvous",
        rendezvous,
        "HOST:PORT, where node 0 listens",
    )


def _check_optimizer(config: Config) -> None:
    optimizer, schedule = config.optimizer, config.schedule
    _require(0 < optimizer.lr < float("inf"), "optimizer.lr", optimizer.lr, "more than 0")
    _require(0 <= optimizer.momentum < 1, "optimizer.momentum", optimizer.momentum, "in [0, 1)")
    _require(optimizer.weight_decay >= 0, "optimizer.weight_decay", optimizer.weight_decay, "0 or more")
    decay = optimizer.ema_decay
    _require(decay is None or 0 < decay < 1, "optimizer.ema_decay", decay, "between 0 and 1, or null")
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
