"""Which keys a configuration has, and of which types. What they default to is what their YAML files say as well."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from moex import augmentation, data
from moex.augmentation import AugmentationConfig
from moex.checkpoint import CheckpointConfig
from moex.data import DataSet
from moex.distributed.nodes import Layout, slurm_layout, slurm_tasks
from moex.loggers import LoggerConfig
from moex.models.published import LIBRARIES, is_published
from moex.optim import SGD, Optimizer, Schedule, Step
from moex.settings import require

# How many processes a core may serve: more only wait for each other.
RANKS_PER_CORE = 4
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
# Stands for one of them, and for compiling or not; see `moex.config.fastest`.
FASTEST = "fastest"


@dataclass
class ModelConfig:
    """`moex.models.create(name, **options)`, and the weights that training begins from; null: fresh ones.

    `weights` is a file, or names a library's: `torchvision` and `timm` those of this network, others as
    `moex.models.published` reads them. `weights_digest` is the file's, which a recipe knows it by.
    """

    name: str = "resnet8"
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    weights_digest: str | None = None

    @property
    def published_weights(self) -> str | None:
        """The name of a library's weights; None where they are no library's."""
        if self.weights is None or not is_published(self.weights):
            return None
        return self.weights if ":" in self.weights else self.name

    @property
    def weights_file(self) -> Path | None:
        """Where the weights are; None where they are no file's."""
        return None if self.weights is None or is_published(self.weights) else Path(self.weights)

    def check(self, key: str) -> None:
        """Refuses values that do not fit each other; see `moex.settings`."""
        own = self.weights not in LIBRARIES or self.name.startswith(f"{self.weights}:")
        require(
            own, f"{key}.weights", self.weights, f"a file, or {self.weights}:NAME, since {key}.name is {self.name!r}"
        )
        file = self.weights_digest is None or self.weights_file is not None
        require(file, f"{key}.weights_digest", self.weights_digest, f"null, since {key}.weights is {self.weights}")

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not what saves memory for the same numbers."""
        options = {key: value for key, value in self.options.items() if key != "memory_saving"}
        weights = self.weights_digest or self.published_weights or self.weights
        return {"name": self.name, "options": options, "weights": weights}


@dataclass
class MomentsConfig:
    """What the network sees of the features after `layer`: all of them, their moments only, or these removed."""

    use: str = "all"
    layer: str = "stem"
    norm: str = "pono"

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        require(self.use in ("all", "only", "removed"), f"{key}.use", self.use, "one of all, only, removed")

    def recipe(self) -> dict[str, Any]:
        """What acts on the training; see `moex.settings`."""
        return {} if self.use == "all" else {"use": self.use, "layer": self.layer, "norm": self.norm}


@dataclass
class RuntimeConfig:
    """How machines are used: `devices` processes, one a device, on each of `nodes`; together they train a batch.

    `accumulation` is the number of turns in which each device takes its share of the batch; in its place, `parts` is
    that of the shares, on however many devices. `precision` may be `fastest`, which `moex.config.fastest` settles.
    With `cuda_graphs`, a compiled pass is launched all at once where one GPU takes a batch in one turn.
    """

    device: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    node_rank: int | None = None
    rendezvous: str | None = None
    accumulation: int = 1
    parts: int | None = None
    sync_batchnorm: bool = False
    max_minutes: float | None = None
    precision: str = "fp32"
    compile: bool = False
    cuda_graphs: bool = False
    channels_last: bool = True
    deterministic: bool = False

    @property
    def node_count(self) -> int:
        """How many machines train the run: as configured, or as many as srun started tasks of this command."""
        return self.nodes or slurm_tasks()

    def layout(self, *, visible_gpus: int) -> Layout:
        """The processes that train the run; what is left open is taken from SLURM's step, if it runs in one.

        Args:
            visible_gpus: how many GPUs this machine lends; 0 trains on the CPU.

        Raises:
            ValueError: there are not so many GPUs, a key is missing for several nodes, or srun starts several tasks
                a node.
        """
        devices = self.devices or max(1, visible_gpus)
        if visible_gpus and devices > visible_gpus:
            raise ValueError(f"runtime.devices is {devices}: this machine has {visible_gpus} visible GPUs")
        cores = os.cpu_count() or 1
        if not visible_gpus and devices > RANKS_PER_CORE * cores:
            most = f"{RANKS_PER_CORE * cores} on the CPU, {RANKS_PER_CORE} for each of {cores} cores"
            raise ValueError(f"runtime.devices is {devices}: it must be at most {most}")
        if self.node_count == 1:
            return Layout(devices)
        if self.nodes is None:
            return slurm_layout(devices)
        if self.node_rank is None or self.rendezvous is None:
            raise ValueError(
                f"runtime.nodes is {self.nodes}: each node needs its own runtime.node_rank, from 0, and the same "
                "runtime.rendezvous=HOST:PORT, where node 0 listens"
            )
        return Layout(devices, self.nodes, self.node_rank, self.rendezvous)

    def turns(self, world_size: int) -> int:
        """In how many turns each of so many devices takes its share of a batch.

        Raises:
            ValueError: the devices cannot share the parts evenly.
        """
        if self.parts is None:
            return self.accumulation
        fits = self.parts % world_size == 0
        devices = f"{world_size} device{'s' if world_size > 1 else ''}"
        require(fits, "runtime.parts", self.parts, f"a multiple of the {devices}; choose runtime.devices, or null")
        return self.parts // world_size

    def replays_graphs(self, device: str, *, world_size: int) -> bool:
        """Whether a training step is launched as CUDA graphs, whose gradients the next pass overwrites.

        Older versions of torch cannot be told which operation must stay out of them.
        """
        alone = device == "cuda" and world_size == 1 and self.turns(world_size) == 1
        return self.cuda_graphs and alone and hasattr(torch.Tag, "cudagraph_unsafe")

    def check(self, key: str) -> None:
        """Refuses values out of their range; see `moex.settings`."""
        choices = ("auto", "cpu", "cuda")
        require(self.device in choices, f"{key}.device", self.device, f"one of {', '.join(choices)}")
        for name, count in (("devices", self.devices), ("nodes", self.nodes)):
            require(count is None or count >= 1, f"{key}.{name}", count, "1 or more")
        last = (self.nodes or 1) - 1
        is_node = self.node_rank is None or 0 <= self.node_rank <= last
        allowed = f"from 0 to {last}, since {key}.nodes is {self.nodes}"
        require(is_node, f"{key}.node_rank", self.node_rank, allowed)
        address = re.fullmatch(r".+:(\d{1,5})", self.rendezvous or "HOST:1")
        is_address = address is not None and 0 < int(address[1]) < 2**16
        require(is_address, f"{key}.rendezvous", self.rendezvous, "HOST:PORT, where node 0 listens")
        alone = self.rendezvous is None or last > 0
        require(alone, f"{key}.rendezvous", self.rendezvous, f"null, since {key}.nodes is {self.nodes}")
        precisions = (*PRECISIONS, FASTEST)
        require(self.precision in precisions, f"{key}.precision", self.precision, f"one of {', '.join(precisions)}")
        require(self.accumulation >= 1, f"{key}.accumulation", self.accumulation, "1 or more")
        require(self.parts is None or self.parts >= 1, f"{key}.parts", self.parts, "1 or more, or null")
        single = self.parts is None or self.accumulation == 1
        require(single, f"{key}.accumulation", self.accumulation, f"1, since {key}.parts is {self.parts}")
        require(self.compile or not self.cuda_graphs, f"{key}.cuda_graphs", True, f"false, or {key}.compile true")
        minutes = self.max_minutes
        require(minutes is None or minutes > 0, f"{key}.max_minutes", minutes, "more than 0, or null")

    def recipe(self) -> dict[str, Any]:
        """What acts on the training; a run may go on with other devices, and says so."""
        return {
            "accumulation": self.accumulation,
            "parts": self.parts,
            "sync_batchnorm": self.sync_batchnorm,
            "precision": self.precision,
            "compile": self.compile,
            "channels_last": self.channels_last,
            "deterministic": self.deterministic,
        }


@dataclass
class Config:
    """One run.

    Attributes:
        name: what people call it, and nothing else; left empty, data set, network and steps.
        seed: of every draw.
        epochs: how often each sample is seen.
        batch_size: samples of a training step, all devices together.
        evaluation_batch_size: samples of a forward pass of an evaluation, one device.
        limit_train: training samples, the first ones, or from all classes where they are ordered by class; null: all.
        limit_test: samples of the other splits, and of each test set at most, likewise; null: all.
        output_root: where the runs' folders are.
        paper: what is reported of the experiment, with its sources; of the experiment as it stands in its file.
        test_sets: other data sets, on which the network is scored at the end, by their labels.
    """

    name: str = ""
    seed: int = 0
    epochs: int = 30
    batch_size: int = 64
    evaluation_batch_size: int = 500
    limit_train: int | None = None
    limit_test: int | None = None
    output_root: str = "outputs"
    paper: list[dict[str, Any]] = field(default_factory=list)
    dataset: DataSet = field(default_factory=lambda: data.find("digits")())
    test_sets: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    augmentation: AugmentationConfig = field(default_factory=augmentation.settings)
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    optimizer: Optimizer = field(default_factory=SGD)
    schedule: Schedule = field(default_factory=Step)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def recipe(self) -> dict[str, Any]:
        """What acts on the training and on what is reported of it; see `moex.settings`.

        The seed is beside the recipe. `limit_test` decides on which samples the results are measured.
        """
        keys = ("epochs", "batch_size", "limit_train", "limit_test", "dataset", "model", "augmentation", "moments")
        return {key: getattr(self, key) for key in (*keys, "optimizer", "schedule", "runtime")}
