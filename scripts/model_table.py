"""Prints what the networks of configs/model/ cost on 32×32 images, and the shapes at their points, in Markdown.

    python scripts/model_table.py [NETWORK ...] [--classes K]

All of it is counted on the meta device, where a network has shapes and no numbers. Multiply-adds are those of
convolutions and matrix products in one pass forward. Activations are what a training step in float32,
not compiled, keeps of an image for the backward pass.
"""

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from moex import models
from moex.command_line import one_of, run_main
from moex.features import record_features
from moex.points import RECOMMENDED

CONFIGS = Path(__file__).parents[1] / "configs"
IMAGE = (3, 32, 32)
# Millions of parameters on CIFAR-10, as printed by He et al. 2016, table 6; Han et al. 2017, table 4; and, for the
# six networks of its CIFAR tables, Li et al. 2021.
REPORTED = {
    "resnet20": "0.27",
    "resnet32": "0.46",
    "resnet44": "0.66",
    "resnet56": "0.85",
    "resnet110": "1.7",
    "pyramidnet110": "1.7",
    "pyramidnet200": "26.8",
    "densenet_bc_100": "0.8",
    "densenet_bc_190": "25.6",
    "resnext29_8x64d": "34.4",
    "wrn28_10": "36.5",
}


def main() -> None:
    """Prints the table of the networks that the command line names, or of all of them."""
    known = networks()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names, network = ", ".join(known), one_of("network", [*known])
    parser.add_argument("names", nargs="*", type=network, metavar="NETWORK", help=f"{names}; by default all of them")
    parser.add_argument("--classes", type=int, default=100, metavar="K", help="of the classifier (default: 100)")
    arguments = parser.parse_args()
    if arguments.classes < 1:
        parser.error(f"--classes is {arguments.classes}: it must be 1 or more")
    table = Table(box=MARKDOWN)
    for title in ("network", "parameters", "with 10 classes", "reported", "multiply-adds", "activations"):
        table.add_column(title, justify="left" if title == "network" else "right")
    table.add_column("stem → stages")
    for name in arguments.names or known:
        for row in rows(name, known[name], arguments.classes):
            table.add_row(*row)
    # As wide as the table: a wrapped row would not be Markdown any more.
    Console(width=Console(width=1000).measure(table).maximum).print(table)


def networks() -> dict[str, dict[str, Any]]:
    """Name and options of each network for images that is written here, by its file in configs/model/."""
    found: dict[str, dict[str, Any]] = {}
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        for path in sorted((CONFIGS / "model").glob("*.yaml")):
            config: Any = OmegaConf.to_container(compose(f"model/{path.stem}").model)
            network, options = models.resolve(config["name"], config["options"])
            if network.rstrip("0123456789") in models.FAMILIES:
                found[path.stem] = {"name": network, "options": options}
    return found


def rows(name: str, config: dict[str, Any], classes: int) -> list[tuple[str, ...]]:
    """The table's row of a network, and a second one if it can save memory."""
    variants: dict[str, dict[str, Any]] = {name: {}}
    if "memory_saving" in inspect.signature(family(config["name"])).parameters:
        variants[f"{name}, saving memory"] = {"memory_saving": True}
    found: list[tuple[str, ...]] = []
    for title, options in variants.items():
        model, small = (create(config, classes=count, **options) for count in (classes, 10))
        found.append(
            (
                title,
                f"{count_parameters(model) / 1e6:,.2f} M",
                f"{count_parameters(small) / 1e6:,.2f} M",
                f"{REPORTED[name]} M" if name in REPORTED else "-",
                f"{count_multiply_adds(model) / 1e6:,.0f} M",
                f"{count_activation_bytes(model) / 2**20:,.1f} MiB",
                " → ".join("×".join(map(str, shape)) for shape in point_shapes(model).values()),
            )
        )
    return found


def family(network: str) -> Callable[..., nn.Module]:
    """What builds a network that is written here: its name without its depth."""
    return models.FAMILIES[network.rstrip("0123456789")]


def create(config: dict[str, Any], *, classes: int, **options: Any) -> nn.Module:
    """A network without memory."""
    with torch.device("meta"):
        return models.create(config["name"], num_classes=classes, **config["options"] | options)


def count_parameters(model: nn.Module) -> int:
    """Numbers that are trained."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module) -> int:
    """Multiplications, each with its addition, of one image's pass through the network."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.empty(1, *IMAGE, device="meta"))
    return int(counter.get_total_flops()) // 2


def count_activation_bytes(model: nn.Module) -> int:
    """Bytes that autograd keeps of one image between the passes forward and back; shared memory counts once."""

    def kept(batch: int) -> int:
        storages = {}

        def remember(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(remember, lambda tensor: tensor):
            # The logits hold the graph, so that no storage is freed and its key taken by another.
            logits = model.train()(torch.empty(batch, *IMAGE, device="meta"))
        assert logits.requires_grad
        return sum(storages.values())

    # Weights and statistics do not grow with the batch; BatchNorm refuses a single value a channel.
    return kept(3) - kept(2)


def point_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Channels, height and width at each of the network's points."""
    points = {name: path for name, path in models.points_of(model).items() if name != RECOMMENDED}
    features = record_features(model, points, torch.empty(1, *IMAGE, device="meta"))
    return {name: tuple(output.shape[1:]) for name, output in features.items()}


if __name__ == "__main__":
    sys.exit(run_main(main))
