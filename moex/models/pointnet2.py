"""PointNet++ with single-scale grouping: Qi et al., NeurIPS 2017, in the form of PyTorch Geometric's example.

That form is what MoEx was published with. Of 1,024 points, 512 and then 128 are centres; neighbours of a centre are
the first 64 points within a radius, or as many as there are. A layer is a linear one, ReLU, then BatchNorm over all
pairs of a centre and a neighbour.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEIGHBOURS = 64


def farthest_points(points: Tensor, count: int) -> Tensor:
    """Chooses points one after the other, each the farthest from those before; the first is the cloud's first.

    Args:
        points: `[B, N, 3]`.
        count: M, of those that are chosen.

    Returns:
        Their positions in the cloud, int64 `[B, M]`; of several that are as far, the first.
    """
    coordinates = points.transpose(1, 2).contiguous()
    nearest = points.new_full(points.shape[:2], math.inf)
    chosen = [torch.zeros(len(points), 1, dtype=torch.int64, device=points.device)]
    for _ in range(count - 1):
        latest = coordinates.gather(2, chosen[-1][:, None].expand(-1, 3, -1))
        torch.minimum(nearest, (coordinates - latest).square_().sum(1), out=nearest)
        chosen.append(nearest.argmax(1, keepdim=True))
    return torch.cat(chosen, 1)


# For torch.compile one operation: it would write out hundreds of turns of the loop one after the other.
_farthest_points = torch.library.custom_op("moex::farthest_points", farthest_points, mutates_args=())
_farthest_points.register_fake(
    lambda points, count: torch.empty(len(points), count, dtype=torch.int64, device=points.device)
)


def ball_query(points: Tensor, centres: Tensor, *, radius: float, most: int = NEIGHBOURS) -> tuple[Tensor, Tensor]:
    """Finds the points that are nearer to a centre than a radius: the first so many, in the order of the cloud.

    Args:
        points: `[B, N, 3]`.
        centres: `[B, M, 3]`, points of the clouds.
        radius: of the balls.
        most: K, of the neighbours of a centre.

    Returns:
        Their positions in the cloud, int64 `[B, M, K]`, ascending, and which of them are neighbours, bool
        `[B, M, K]`. A centre with fewer has its first one in the places that are left over.
    """
    distances = torch.cdist(centres, points, compute_mode="donot_use_mm_for_euclid_dist")
    # The k-th neighbour is where the number of neighbours so far becomes k.
    so_far = (distances < radius).cumsum(-1, dtype=torch.int32)
    wanted = torch.arange(1, most + 1, dtype=torch.int32, device=points.device)
    found = torch.searchsorted(so_far, wanted.expand(*so_far.shape[:2], most).contiguous())
    real = found < points.shape[1]
    return torch.where(real, found, found[..., :1]), real


def take(points: Tensor, indices: Tensor) -> Tensor:
    """Some points of each cloud: `[B, M, 3]` of points `[B, N, 3]` and positions `[B, M]`."""
    return points.gather(1, indices[..., None].expand(-1, -1, points.shape[2]))


def normalise_real(norm: nn.BatchNorm1d, rows: Tensor, real: Tensor) -> Tensor:
    """A BatchNorm in training, as if some rows were not there; these are normalised by the others' moments.

    Args:
        norm: whose running statistics are updated.
        rows: `[R, C]`.
        real: which rows count, bool `[R]`.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    count = real.sum(dtype=wide.dtype)
    weights = (real / count)[:, None]
    mean = (weights * wide).sum(0)
    variance = (weights * (wide - mean).square()).sum(0)
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return ((wide - mean) * scale + norm.bias).to(rows.dtype)


def largest_of_runs(rows: Tensor, lengths: Tensor) -> Tensor:
    """The largest value of each channel in each run of rows: `[G, C]` of rows `[R, C]` and G lengths of 1 or more.

    By an operation for words: torch.segment_reduce has wrong gradients where several are the largest (torch 2.14).
    """
    starts = lengths.cumsum(0) - lengths
    return F.embedding_bag(torch.arange(len(rows), device=rows.device), rows, starts, mode="max")


class PointLayers(nn.Module):
    """Linear layers with ReLU and BatchNorm, which treat each row by itself."""

    def __init__(self, features: int, widths: tuple[int, ...]) -> None:
        """Builds them.

        Args:
            features: C, of a point besides its coordinates.
            widths: of the layers' outputs.
        """
        super().__init__()
        self.features = features
        inputs = (features + 3, *widths[:-1])
        self.linears = nn.ModuleList(nn.Linear(before, width) for before, width in zip(inputs, widths, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)

    def forward(self, offsets: Tensor, features: Tensor | None, points: Tensor | None, real: Tensor | None) -> Tensor:
        """Rows `[R, 3]` to `[R, C']`.

        Args:
            offsets: coordinates, `[R, 3]`.
            features: of points, `[P, C]`; None: there are none.
            points: whose features a row has, int64 `[R]`; None: row for row.
            real: which rows count in BatchNorm, bool `[R]`; None: all.
        """
        first, *others = self.linears
        rows = self._enter(first, offsets, features, points)
        for linear, norm in zip([None, *others], self.norms, strict=True):
            rows = F.relu(rows if linear is None else linear(rows), inplace=True)
            if real is None or not self.training:
                rows = norm(rows)
            else:
                assert isinstance(norm, nn.BatchNorm1d)
                rows = normalise_real(norm, rows, real)
        return rows

    def _enter(self, linear: nn.Module, offsets: Tensor, features: Tensor | None, points: Tensor | None) -> Tensor:
        """The first linear layer of rows of features, then offsets: of features once for each point."""
        assert isinstance(linear, nn.Linear)
        of_features, of_offsets = linear.weight.split([self.features, 3], dim=1)
        # With a one beside the coordinates, the bias is the weight of it. On CPUs, the products of a step are several
        # times as fast with 4 columns as with 3, and with the weight the right way round in memory.
        rows = F.pad(offsets, (0, 1), value=1.0) @ torch.cat([of_offsets.t(), linear.bias[None]])
        if features is None:
            return rows
        known = F.linear(features, of_features)
        # An embedding, since its gradient is the fastest.
        return rows + (known if points is None else F.embedding(points, known))


class SetAbstraction(nn.Module):
    """Around each centre, what the layers make of its neighbours: the largest value of each channel."""

    def __init__(self, features: int, widths: tuple[int, ...], *, radius: float) -> None:
        """Builds it.

        Args:
            features: C, of a point besides its coordinates.
            widths: of the layers' outputs; the last is C'.
            radius: within which the neighbours of a centre are.
        """
        super().__init__()
        self.radius = radius
        self.layers = PointLayers(features, widths)

    def forward(self, points: Tensor, features: Tensor | None, centres: Tensor) -> Tensor:
        """Points `[B, N, 3]`, their features `[B, C, N]` and M of the points as centres to features `[B, C', M]`."""
        batch, count = centres.shape[:2]
        neighbours, real = ball_query(points, centres, radius=self.radius)
        clouds = torch.arange(batch, device=points.device)[:, None, None]
        # Of all points, and all centres, of the batch.
        point = (neighbours + clouds * points.shape[1]).flatten()
        centre = torch.arange(batch * count, device=points.device).repeat_interleave(NEIGHBOURS)
        packed = self._packs(points.device)
        if packed:
            there = real.flatten().nonzero().squeeze(1)
            point, centre = point[there], centre[there]
        offsets = points.flatten(0, 1)[point] - centres.flatten(0, 1)[centre]
        known = None if features is None else features.transpose(1, 2).flatten(0, 1)
        rows = self.layers(offsets, known, point, None if packed else real.flatten())
        if packed:
            largest = largest_of_runs(rows, real.sum(-1).flatten())
        else:
            # What is left over is a neighbour again, and changes no maximum.
            largest = rows.unflatten(0, (-1, NEIGHBOURS)).amax(1)
        output: Tensor = largest.unflatten(0, (batch, count)).transpose(1, 2)
        return output

    def _packs(self, device: torch.device) -> bool:
        """Whether places that are left over are not computed: half of the work and of the memory.

        Shapes follow the data then, for which a GPU would wait; and what is compiled needs the same each time.
        """
        compiling = torch.compiler.is_compiling()
        synchronised = any(isinstance(norm, nn.SyncBatchNorm) for norm in self.layers.norms)
        if compiling and synchronised:
            raise ValueError("pointnet2 is compiled: runtime.sync_batchnorm must be false, or runtime.compile")
        return not compiling and (synchronised or device.type == "cpu")


class GlobalAbstraction(nn.Module):
    """What the layers make of all points of a cloud: the largest value of each channel."""

    def __init__(self, features: int, widths: tuple[int, ...]) -> None:
        """Builds it; see `SetAbstraction`."""
        super().__init__()
        self.layers = PointLayers(features, widths)

    def forward(self, points: Tensor, features: Tensor) -> Tensor:
        """Points `[B, N, 3]` and their features `[B, C, N]` to features of the cloud `[B, C']`."""
        rows = self.layers(points.flatten(0, 1), features.transpose(1, 2).flatten(0, 1), None, None)
        largest: Tensor = rows.unflatten(0, points.shape[:2]).amax(1)
        return largest


class PointNet2(nn.Module):
    """PointNet++ for the classes of clouds, with single-scale grouping.

    Attributes:
        points: named places where an exchange can be attached, and the modules whose outputs they are. `stem` is
            the first set abstraction, `[B, 128, 512]` for 1,024 points, `stage1` the second, `[B, 256, 128]`, and
            `stage2` the global one, `[B, 1024]`.
    """

    def __init__(self, *, num_classes: int, in_channels: int = 3, dropout: float = 0.5) -> None:
        """Builds the network.

        Args:
            num_classes: K.
            in_channels: coordinates of a point: 3.
            dropout: the share of the classifier's features that is dropped in training.

        Raises:
            ValueError: points have other than 3 coordinates, or the dropout is no such share.
        """
        super().__init__()
        if in_channels != 3:
            raise ValueError(f"pointnet2 takes points of 3 coordinates, not inputs of {in_channels} channels")
        if not 0 <= dropout < 1:
            raise ValueError(f"pointnet2: dropout is {dropout}: it must be in [0, 1)")
        self.stem = SetAbstraction(0, (64, 64, 128), radius=0.2)
        self.stage1 = SetAbstraction(128, (128, 128, 256), radius=0.4)
        self.stage2 = GlobalAbstraction(256, (256, 512, 1024))
        self.head = nn.Sequential(
            nn.Linear(1024, 512),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(512, 256),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(256, num_classes),
        )
        self.points = {name: name for name in ("stem", "stage1", "stage2")}

    def forward(self, points: Tensor) -> Tensor:
        """Clouds `[B, N, 3]` to logits `[B, K]`.

        Raises:
            ValueError: the inputs are no clouds.
        """
        if points.ndim != 3 or points.shape[2] != 3:
            raise ValueError(f"pointnet2 takes clouds [B, N, 3], not inputs {list(points.shape)}")
        half = take(points, _farthest_points(points, math.ceil(points.shape[1] / 2)))
        eighth = take(half, _farthest_points(half, math.ceil(half.shape[1] / 4)))
        features = self.stage1(half, self.stem(points, None, half), eighth)
        logits: Tensor = self.head(self.stage2(eighth, features))
        return logits
