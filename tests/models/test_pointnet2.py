"""PointNet++ against loops over centres and neighbours in NumPy, and against PyTorch Geometric where it is there."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import moex
from moex import models
from moex.features import record_features
from moex.models.pointnet2 import (
    NEIGHBOURS,
    SetAbstraction,
    ball_query,
    farthest_points,
    largest_of_runs,
    normalise_real,
    take,
)


def clouds(count=3, points=96, seed=0):
    """Points on spheres of other sizes, float64."""
    draws = np.random.default_rng(seed)
    directions = draws.normal(size=(count, points, 3))
    sizes = draws.uniform(0.3, 1, (count, 1, 1))
    return torch.from_numpy(sizes * directions / np.linalg.norm(directions, axis=2, keepdims=True))


def slow_farthest(cloud, count):
    chosen = [0]
    while len(chosen) < count:
        distances = [min(((point - cloud[index]) ** 2).sum() for index in chosen) for point in cloud]
        chosen.append(int(np.argmax(distances)))
    return chosen


def slow_neighbours(cloud, centre, radius, most):
    near = [index for index, point in enumerate(cloud) if math.dist(point, centre) < radius]
    return near[:most]


def test_the_farthest_points():
    points = clouds()
    found = farthest_points(points, 24)
    assert found.tolist() == [slow_farthest(cloud, 24) for cloud in points.numpy()]


def test_points_in_one_place_are_chosen_again():
    assert farthest_points(torch.ones(1, 4, 3), 3).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(("radius", "most"), [(0.2, 8), (0.6, 8), (3.0, 64), (3.0, 200)])
def test_neighbours(radius, most):
    """Some centres have fewer than there may be, others more; with the largest radius all points are neighbours."""
    points = clouds()
    centres = take(points, farthest_points(points, 10))
    neighbours, real = ball_query(points, centres, radius=radius, most=most)
    assert neighbours.shape == real.shape == (3, 10, most)
    for cloud in range(3):
        for index in range(10):
            expected = slow_neighbours(points[cloud].numpy(), centres[cloud, index].numpy(), radius, most)
            left = most - len(expected)
            assert neighbours[cloud, index].tolist() == expected + [expected[0]] * left
            assert real[cloud, index].tolist() == [True] * len(expected) + [False] * left


def shaken(features=None, widths=(8, 8, 16), radius=0.5, *, training):
    """A set abstraction whose BatchNorms are not neutral, in float64."""
    torch.manual_seed(1)
    module = SetAbstraction(features or 0, widths, radius=radius).double()
    for norm in module.layers.norms:
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor, 0.5, 0.2)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return module.train(training)


def slow_abstraction(module, points, features, centres):
    """One pair of a centre and a neighbour after the other; moments over all pairs of the batch."""
    pairs, owners = [], []
    for cloud in range(len(points)):
        for index, centre in enumerate(centres[cloud].numpy()):
            for neighbour in slow_neighbours(points[cloud].numpy(), centre, module.radius, NEIGHBOURS):
                own = [] if features is None else features[cloud, :, neighbour].tolist()
                pairs.append([*own, *(points[cloud, neighbour].numpy() - centre)])
                owners.append((cloud, index))
    rows = np.array(pairs)
    for linear, norm in zip(module.layers.linears, module.layers.norms, strict=True):
        weight, bias, gain, shift, mean, variance = (
            tensor.detach().numpy()
            for tensor in (linear.weight, linear.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        rows = np.maximum(rows @ weight.T + bias, 0)
        if module.training:
            mean, variance = rows.mean(0), rows.var(0)
        rows = (rows - mean) / np.sqrt(variance + norm.eps) * gain + shift
    output = np.full((len(points), rows.shape[1], centres.shape[1]), -np.inf)
    for (cloud, index), row in zip(owners, rows, strict=True):
        output[cloud, :, index] = np.maximum(output[cloud, :, index], row)
    return torch.from_numpy(output)


@pytest.fixture(params=["packed", "padded"])
def form(request, monkeypatch):
    """Both forms of the computation: where shapes follow the data, and where they do not."""
    monkeypatch.setattr(SetAbstraction, "_packs", lambda module, device: request.param == "packed")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("features", [None, 5])
def test_a_set_abstraction_is_that_of_the_loop(form, features, training):
    points = clouds()
    known = None if features is None else torch.randn(3, features, 96, dtype=torch.float64)
    centres = take(points, farthest_points(points, 12))
    module = shaken(features, training=training)
    expected = slow_abstraction(module, points, known, centres)
    output = module(points, known, centres)
    assert output.shape == (3, 16, 12)
    torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)


def test_both_forms_have_the_same_gradients_and_statistics(monkeypatch):
    """Also where many neighbours are as large: the first rows of the last layer are never above zero."""
    points, plain = clouds(), shaken(5, training=True)
    known, centres = torch.randn(3, 5, 96, dtype=torch.float64), take(points, farthest_points(points, 12))
    nn.init.constant_(plain.layers.linears[-1].bias[:4], -9)
    padded, weights = copy.deepcopy(plain), torch.randn(3, 16, 12, dtype=torch.float64)
    gradients = []
    for module, packs in ((plain, True), (padded, False)):
        monkeypatch.setattr(SetAbstraction, "_packs", lambda module, device, packs=packs: packs)
        features = known.clone().requires_grad_()
        (module(points, features, centres) * weights).sum().backward()
        gradients.append([features.grad, *(parameter.grad for parameter in module.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(plain.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_the_largest_of_runs():
    """Also where many are, and for gradients of both signs."""
    rows = torch.randn(40, 6).relu().requires_grad_()
    lengths, weights = [1, 12, 20, 7], torch.randn(4, 6)
    output = largest_of_runs(rows, torch.tensor(lengths))
    assert torch.equal(output, torch.stack([run.amax(0) for run in rows.split(lengths)]))
    (output * weights).sum().backward()
    for run, gradient, largest, weight in zip(
        rows.split(lengths), rows.grad.split(lengths), output, weights, strict=True
    ):
        torch.testing.assert_close(gradient.sum(0), weight)
        assert gradient[run != largest].eq(0).all()


def test_rows_that_are_not_real_count_for_nothing():
    rows, real = torch.randn(50, 6, dtype=torch.float64), torch.rand(50) < 0.6
    ours, theirs = nn.BatchNorm1d(6).double(), nn.BatchNorm1d(6).double()
    for _ in range(2):
        output, expected = normalise_real(ours, rows, real), theirs(rows[real])
        torch.testing.assert_close(output[real], expected)
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, dict(theirs.named_buffers())[name])


def create(classes=10, **options):
    torch.manual_seed(0)
    return models.create("pointnet2", num_classes=classes, **options)


@pytest.mark.parametrize(("classes", "parameters"), [(10, 1_466_442), (40, 1_474_152)])
def test_parameters(classes, parameters):
    """Of the layers that the published code lists, each with its bias and its BatchNorm."""
    widths = [(3, 64, 64, 128), (131, 128, 128, 256), (259, 256, 512, 1024)]
    layers = [pair for each in widths for pair in pairwise(each)]
    counted = sum(before * width + 3 * width for before, width in layers)
    counted += sum(before * width + width for before, width in [(1024, 512), (512, 256), (256, classes)])
    assert counted == parameters == sum(parameter.numel() for parameter in create(classes).parameters())


def test_shapes_at_the_points():
    with torch.device("meta"):
        model = create()
    assert model(torch.empty(2, 1024, 3, device="meta")).shape == (2, 10)
    features = record_features(model, model.points, torch.empty(2, 1024, 3, device="meta"))
    assert {name: tuple(output.shape) for name, output in features.items()} == {
        "stem": (2, 128, 512),
        "stage1": (2, 256, 128),
        "stage2": (2, 1024),
    }


def test_the_network_is_the_published_one():
    """Half and then an eighth of the points, all of which the last layers see, their coordinates after the rest."""
    model, points = create().double().eval(), clouds(2, 64)
    first = take(points, torch.tensor([slow_farthest(cloud, 32) for cloud in points.numpy()]))
    second = take(first, torch.tensor([slow_farthest(cloud, 8) for cloud in first.numpy()]))
    assert (model.stem.radius, model.stage1.radius) == (0.2, 0.4)
    features = slow_abstraction(model.stem, points, None, first)
    features = slow_abstraction(model.stage1, first, features, second)
    rows = torch.cat([features.transpose(1, 2), second], dim=2)
    for linear, norm in zip(model.stage2.layers.linears, model.stage2.layers.norms, strict=True):
        rows = norm(F.relu(linear(rows)).flatten(0, 1)).unflatten(0, rows.shape[:2])
    hidden = rows.amax(1)
    for number in (0, 3):
        hidden = F.relu(model.head[number](hidden))
    assert [layer.p for layer in model.head if isinstance(layer, nn.Dropout)] == [0.5, 0.5]
    torch.testing.assert_close(model(points), model.head[6](hidden), rtol=1e-9, atol=1e-9)


def test_a_step_reaches_every_parameter():
    model = create(classes=4)
    F.cross_entropy(model(clouds(4)), torch.arange(4)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_evaluation_knows_nothing_of_the_other_clouds():
    model, points = create().double().eval(), clouds(3)
    torch.testing.assert_close(model(points)[1:2], model(points[1:2]))


@pytest.mark.parametrize("norm", ["in", "pono"])
def test_the_exchange_sees_channels_and_centres(norm):
    """What comes after the stem has the moments of the partner: with `in` over the centres, channel by channel."""
    model, points, partners = create().double().eval(), clouds(3), torch.tensor([1, 2, 0])
    exchange = moex.MomentExchange(model, "stem", norm)
    seen = []
    model.stem.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    model(points)
    with exchange.swap(partners):
        model(points)
    (plain, exchanged), dim = seen, 2 if norm == "in" else 1
    assert plain.shape == (3, 128, 48)
    std = (plain.var(dim, keepdim=True) + 1e-5).sqrt()
    expected = (plain - plain.mean(dim, keepdim=True)) / std * std[partners] + plain.mean(dim, keepdim=True)[partners]
    torch.testing.assert_close(exchanged, expected)


def test_compiled_it_computes_the_same_without_compiling_again():
    """Other clouds have other neighbours, but not other shapes; the graph is one."""
    plain, graphs = create(dropout=0.0).double(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    twin = create(dropout=0.0).double()
    network = torch.compile(twin, backend=backend, dynamic=False, fullgraph=True)
    for seed in range(3):
        points = clouds(3, seed=seed)
        torch.testing.assert_close(network(points), plain(points), rtol=1e-9, atol=1e-9)
    assert len(graphs) == 1
    for ours, theirs in zip(twin.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_half_precision_is_near():
    model, points = create().float().eval(), clouds(4).float()
    with torch.autocast("cpu", torch.bfloat16):
        half = model(points)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model(points), rtol=0.1, atol=0.02)


MISTAKES = {
    "channels": ({"in_channels": 1}, "pointnet2 takes points of 3 coordinates, not inputs of 1 channels"),
    "dropout": ({"dropout": 1.0}, r"pointnet2: dropout is 1.0: it must be in \[0, 1\)"),
    "option": ({"radius": 0.1}, "network 'pointnet2' has no option 'radius'"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        create(**options)


def test_images_are_no_clouds():
    with pytest.raises(ValueError, match=r"pointnet2 takes clouds \[B, N, 3\], not inputs \[2, 3, 8, 8\]"):
        create()(torch.randn(2, 3, 8, 8))


@pytest.fixture
def geometric():
    """PyTorch Geometric's operations, which the published code calls."""
    pool = pytest.importorskip("torch_geometric.nn.pool", reason="PyTorch Geometric is not installed")
    try:
        pool.fps(torch.rand(4, 3), ratio=0.5)
        pool.radius(torch.rand(4, 3), torch.rand(2, 3), 0.5)
    except (ImportError, NameError, AttributeError) as error:
        pytest.skip(f"PyTorch Geometric lacks its compiled operations: {error}")
    return pool


def test_pytorch_geometric_chooses_and_finds_the_same(geometric):
    points = clouds(3, 128).float()
    flat, batch = points.flatten(0, 1), torch.arange(3).repeat_interleave(128)
    chosen = farthest_points(points, 64)
    theirs = geometric.fps(flat, batch, ratio=0.5, random_start=False)
    assert theirs.view(3, 64).sub(torch.arange(3)[:, None] * 128).tolist() == chosen.tolist()
    centres = take(points, chosen)
    neighbours, real = ball_query(points, centres, radius=0.2)
    owners = torch.arange(3).repeat_interleave(64)
    row, column = geometric.radius(flat, centres.flatten(0, 1), 0.2, batch, owners, max_num_neighbors=64)
    pairs = {(int(centre), int(point)) for centre, point in zip(row, column, strict=True)}
    places = neighbours + torch.arange(3)[:, None, None] * 128
    rows = torch.arange(3 * 64)[:, None].expand(-1, NEIGHBOURS).reshape(3, 64, NEIGHBOURS)
    assert pairs == set(zip(rows[real].tolist(), places[real].tolist(), strict=True))
