"""A training step of PointNet++, beside a plain port of it that treats one cloud after the other."""

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from benchmarks.measure import DEVICE, Variant, Variants
from moex import models
from moex.data import TRAIN, Request
from moex.data.modelnet import ModelNet10
from moex.processor import keep_freed_memory

# Real shapes, as shared/data beside the checkout restores them into data.
SHAPES = Path(__file__).parents[2] / "data" / "modelnet10_points"
BATCH, NEIGHBOURS = 32, 64


def cloud_variants() -> Variants:
    """Training steps on 32 clouds of 1,024 points, without an exchange: forward, backward and Adam."""
    dataset = ModelNet10(root=str(SHAPES))
    try:
        samples = dataset.take(dataset.read(seed=0)[TRAIN], BATCH)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    source = dataset.source(samples, training=True, device=DEVICE, channels_last=False)
    # As moex.run has it; both are faster so, the plain port too.
    keep_freed_memory()
    everyone = torch.arange(BATCH)
    points, labels = next(iter(source.batches([Request(everyone, everyone, np.random.default_rng(0))])))
    return {
        "one cloud after the other": step(PlainPointNet2(), points, labels),
        "moex's PointNet++": step(models.create("pointnet2", num_classes=10), points, labels),
    }


def step(model: nn.Module, points: Tensor, labels: Tensor) -> Variant:
    """A training step as PyTorch Geometric's example takes it."""
    model.to(DEVICE).train()
    optimizer = optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def run() -> Tensor:
        loss = F.cross_entropy(model(points), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Variant(run, len(labels))


class PlainPointNet2(nn.Module):
    """The published network as it is written down without PyTorch Geometric: loops over the clouds."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.first = layers(3, 64, 64, 128)
        self.second = layers(131, 128, 128, 256)
        self.last = layers(259, 256, 512, 1024)
        self.head = nn.Sequential(
            *(nn.Linear(1024, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(256, classes),
        )

    def forward(self, clouds: Tensor) -> Tensor:
        """Clouds `[B, N, 3]` to logits `[B, K]`."""
        features, places = abstract(self.first, [None] * len(clouds), list(clouds), radius=0.2, share=0.5)
        features, places = abstract(self.second, features, places, radius=0.4, share=0.25)
        rows = self.last(torch.cat([torch.cat(pair, dim=1) for pair in zip(features, places, strict=True)]))
        largest = [each.amax(0) for each in rows.split([len(place) for place in places])]
        logits: Tensor = self.head(torch.stack(largest))
        return logits


def layers(*widths: int) -> nn.Sequential:
    """Linear layers, each with ReLU and BatchNorm."""
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(*pair), nn.ReLU(), nn.BatchNorm1d(pair[1])) for pair in pairwise(widths))
    )


def abstract(
    mlp: nn.Module, features: Sequence[Tensor | None], places: Sequence[Tensor], *, radius: float, share: float
) -> tuple[list[Tensor], list[Tensor]]:
    """A set abstraction: of each cloud its features `[M, C]`, and its centres `[M, 3]`."""
    centres, rows, owners = [], [], []
    for cloud, (known, points) in enumerate(zip(features, places, strict=True)):
        chosen = points[farthest(points, round(share * len(points)))]
        near = torch.cdist(chosen, points) < radius
        centre, point = (near & (near.cumsum(1) <= NEIGHBOURS)).nonzero(as_tuple=True)
        offsets = points[point] - chosen[centre]
        rows.append(offsets if known is None else torch.cat([known[point], offsets], dim=1))
        owners.append(centre + cloud * len(chosen))
        centres.append(chosen)
    pairs = mlp(torch.cat(rows))
    owner = torch.cat(owners)[:, None].expand_as(pairs)
    largest = pairs.new_zeros(len(places) * len(centres[0]), pairs.shape[1])
    largest = largest.scatter_reduce(0, owner, pairs, "amax", include_self=False)
    return list(largest.split(len(centres[0]))), centres


def farthest(points: Tensor, count: int) -> Tensor:
    """Farthest-point sampling of one cloud: positions `[count]`."""
    chosen, nearest = [0], torch.full((len(points),), torch.inf)
    nearest = nearest.to(points.device)
    for _ in range(count - 1):
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).square().sum(1))
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen, device=points.device)
