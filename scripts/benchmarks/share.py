"""The share of the exchange in the profile of a training step."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch._C._autograd import _get_sequence_nr
from torch.profiler import profile, record_function

import moex
from benchmarks.measure import DEVICE
from moex.engine import at_least_float32
from moex.reporting.tables import markdown

WRN28_10: dict[str, Any] = {"name": "wrn28_10", "batch_size": 8, "shape": (1, 32, 32), "classes": 12}
RESNET20: dict[str, Any] = {"name": "resnet20", "batch_size": 128, "shape": (3, 32, 32), "classes": 100}
NAME = "exchange of moments"
# By autograd's engine, before the name of what it computes the gradient of.
BACKWARD = "autograd::engine::evaluate_function: "


@dataclass(kw_only=True)
class RecordedMoEx(moex.MoEx):
    """The step of the mixing list, whose exchange has a name in the profile."""

    def function(self) -> Callable[..., Tensor]:
        """See `moex.MoEx`."""
        return recorded


@functools.wraps(moex.exchange_moments)
def recorded(*arguments: Any, **options: Any) -> Tensor:
    """The exchange; its nodes of the graph are those that autograd numbers meanwhile."""
    begin = _get_sequence_nr()
    with record_function(NAME):
        exchanged = moex.exchange_moments(*arguments, **options)
    _nodes.update(range(begin, _get_sequence_nr()))
    return exchanged


_nodes: set[int] = set()


def measure_share(network: dict[str, Any], rounds: int) -> str:
    """Profiles a training step in each round, and returns a table in Markdown.

    Args:
        network: its `name`, and `batch_size`, `shape` and `classes` of what it is trained on.
        rounds: how many steps.
    """
    step = training_step(network)
    step()  # The first exchange is looked at.
    shares = 100 * pd.DataFrame([profiled_shares(step) for _ in range(rounds)])
    rows = [
        {
            "": name,
            "share of the step, %": f"{values.median():.2f} ({values.min():.2f} to {values.max():.2f})",
        }
        for name, values in shares.items()
    ]
    return markdown(pd.DataFrame(rows))


def training_step(network: dict[str, Any]) -> Callable[[], None]:
    """Forward pass with the exchange, backward pass and update of the weights, on one random batch."""
    generator = np.random.default_rng(0)
    shape = (network["batch_size"], *network["shape"])
    model = moex.models.create(network["name"], num_classes=network["classes"], in_channels=shape[1])
    model = model.to(DEVICE).to(memory_format=torch.channels_last)
    images = torch.from_numpy(generator.normal(size=shape)).float().to(DEVICE, memory_format=torch.channels_last)
    labels = torch.from_numpy(generator.integers(0, network["classes"], shape[0])).to(DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-2)
    mixing = moex.Mixing(model, [RecordedMoEx(probability=1.0)], num_classes=network["classes"])

    def step() -> None:
        with mixing(images, labels) as (mixed, targets):
            loss = torch.nn.functional.cross_entropy(at_least_float32(model(mixed)), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def profiled_shares(step: Callable[[], None]) -> dict[str, float]:
    """The shares of the exchange's forward and backward pass, and of both, in the time of a step's operations."""
    _nodes.clear()
    with profile() as profiler:
        step()
    events = profiler.events()
    assert events is not None
    kind = "device" if DEVICE.type == "cuda" else "cpu"
    total = sum(getattr(event, f"self_{kind}_time_total") for event in events)
    backward = [event for event in events if event.name.startswith(BACKWARD) and event.sequence_nr in _nodes]
    forward, back = (
        sum(getattr(event, f"{kind}_time_total") for event in some)
        for some in ([event for event in events if event.name == NAME], backward)
    )
    assert forward > 0
    assert back > 0
    return {"forward pass": forward / total, "backward pass": back / total, "MoEx": (forward + back) / total}
