"""The configuration of an evaluation: which networks, on which data sets, and how."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from moex.config.schema import PRECISIONS, ModelConfig
from moex.settings import check_numbers, expand_home, require


@dataclass
class EvaluationConfig:
    """One evaluation.

    Attributes:
        checkpoint: what is evaluated, one or a list: a run's folder, a file of weights, `torchvision:NETWORK` or
            `timm:NETWORK`.
        predictions: in the place of networks, files of their logits and labels, one or a list.
        weights: which of a run's, where a folder is given: `last` or `best`.
        model: the network of a file that does not tell; without a name: none.
        dataset: on which; its keys, with a name. Without one: the test set of the run itself.
        test_sets: on which others, each a name, or its keys.
        limit: how many samples to take of each part at most; see `moex.data.DataSet.take`.
        temperature: the share of a test set on which a temperature is fitted; null: none is.
        resamples: of the bootstrap; 0: no intervals.
        seed: of the resamples, and of what is held out for the temperature.
        batch_size: samples of a forward pass.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32`, `tf32`, `bf16` or `fp16`.
        output_root: where the evaluations' folders are.
        table: a file, `.md` or `.csv`, that gets the table; null: none.
    """

    checkpoint: Any = None
    predictions: Any = None
    weights: str = "last"
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name=""))
    dataset: dict[str, Any] = field(default_factory=dict)
    test_sets: list[Any] = field(default_factory=list)
    limit: int | None = None
    temperature: float | None = None
    resamples: int = 1000
    seed: int = 0
    batch_size: int = 250
    device: str = "auto"
    precision: str = "fp32"
    output_root: str = "outputs"
    table: str | None = None


def parse_evaluation(composed: DictConfig | dict[str, Any]) -> EvaluationConfig:
    """Checks a composed configuration and returns it typed.

    Raises:
        ValueError: an unknown key, a wrong type, a value out of its range or an impossible combination.
    """
    values = OmegaConf.to_container(composed, resolve=True) if isinstance(composed, DictConfig) else composed
    assert isinstance(values, dict)
    values = expand_home(values)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(EvaluationConfig), values))
    except OmegaConfBaseException as error:
        key, reason = error.full_key or "", str(error).splitlines()[0]
        raise ValueError(unknown_evaluation_key(key) if "not in" in reason else f"{key}: {reason}") from None
    assert isinstance(config, EvaluationConfig)
    config.checkpoint, config.predictions = _listed(config.checkpoint), _listed(config.predictions)
    _check(config)
    return config


def unknown_evaluation_key(key: str) -> str:
    """The message for a key that an evaluation lacks."""
    return (
        f"unknown key {key!r}: the keys are {', '.join(item.name for item in dataclasses.fields(EvaluationConfig))}"
    )


def _listed(value: Any) -> list[str]:
    return [] if value is None else [str(item) for item in (value if isinstance(value, list) else [value])]


def _check(config: EvaluationConfig) -> None:
    check_numbers(config)
    what = config.checkpoint or config.predictions
    if not what or (config.checkpoint and config.predictions):
        raise ValueError(
            "say what is evaluated, by one of checkpoint=PATH (a run's folder, a file of weights, "
            "torchvision:NETWORK or timm:NETWORK) and predictions=FILE.npz; [A,B] for several"
        )
    require(config.weights in ("last", "best"), "weights", config.weights, "last or best")
    share = config.temperature
    require(share is None or 0 < share < 1, "temperature", share, "a share between 0 and 1, or null")
    require(config.resamples >= 0, "resamples", config.resamples, "0 or more")
    require(config.limit is None or config.limit >= 1, "limit", config.limit, "1 or more, or null")
    require(config.batch_size >= 1, "batch_size", config.batch_size, "1 or more")
    require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")
    require(config.device in ("auto", "cpu", "cuda"), "device", config.device, "one of auto, cpu, cuda")
    require(config.precision in PRECISIONS, "precision", config.precision, f"one of {', '.join(PRECISIONS)}")
    table = config.table
    require(table is None or table.endswith((".md", ".csv")), "table", table, "a file .md or .csv, or null")
