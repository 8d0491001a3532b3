"""Signals, sequences and volumes, whatever dimension holds the samples, against a loop in NumPy over each of them."""

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import moex
from moex.beyond_moments import exchange_components, exchange_order

EPS = 1e-5
# Shapes, channel_dim, batch_dim: 4 samples of 6 channels.
LAYOUTS = {
    "signals [B, C, T]": ((4, 6, 5), 1, 0),
    "sequences [B, T, C]": ((4, 5, 6), -1, 0),
    "sequences [T, B, C]": ((5, 4, 6), -1, 1),
    "sequences [T, C, B]": ((5, 6, 4), 1, -1),
    "signals [C, B, T]": ((6, 4, 5), 0, 1),
    "volumes [B, C, D, H, W]": ((4, 6, 2, 3, 2), 1, 0),
    "volumes [D, H, W, B, C]": ((2, 3, 2, 4, 6), -1, -2),
}
# How many groups the channels are in, and whether each position is on its own.
NORMS = {"pono": (1, True), "in": (6, False), "ln": (1, False), "gn2": (2, False), "gpono3": (3, True)}
PERM = torch.tensor([2, 0, 1, 3])

every_layout = pytest.mark.parametrize(("shape", "channel_dim", "batch_dim"), LAYOUTS.values(), ids=LAYOUTS)


def loop(x, perm, norm: str, *, channel_dim: int, batch_dim: int):
    """Means, deviations and exchanged features, sample by sample, group by group, position by position."""
    groups, per_position = NORMS[norm]
    samples = np.moveaxis(x, (batch_dim, channel_dim), (0, 1))
    shape, samples = samples.shape, samples.reshape(*samples.shape[:2], -1)
    means, deviations, exchanged = np.empty_like(samples), np.empty_like(samples), np.empty_like(samples)
    size = samples.shape[1] // groups
    positions = range(samples.shape[2])
    sets = [
        (slice(group * size, (group + 1) * size), where)
        for group in range(groups)
        for where in ([slice(p, p + 1) for p in positions] if per_position else [slice(None)])
    ]
    for sample in range(len(samples)):
        for where in sets:
            means[sample][where] = np.mean(samples[sample][where])
            deviations[sample][where] = np.sqrt(np.var(samples[sample][where], ddof=1) + EPS)
    for sample, partner in enumerate(perm):
        normalised = (samples[sample] - means[sample]) / deviations[sample]
        exchanged[sample] = normalised * deviations[partner] + means[partner]
    arrays = (array.reshape(shape) for array in (means, deviations, exchanged))
    return [np.moveaxis(array, (0, 1), (batch_dim, channel_dim)) for array in arrays]


def features(shape, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_layout
@pytest.mark.parametrize("norm", NORMS)
def test_moments_and_their_exchange(shape, channel_dim, batch_dim, norm):
    x, dims = features(shape), {"channel_dim": channel_dim, "batch_dim": batch_dim}
    *expected, exchanged = loop(x.numpy(), PERM, norm, **dims)
    for moment, reference in zip(moex.moments(x, norm, **dims), expected, strict=True):
        assert moment.ndim == x.ndim
        np.testing.assert_allclose(moment.expand_as(x), reference)
    found = moex.exchange_moments(x, PERM, norm, **dims)
    np.testing.assert_allclose(found, exchanged)
    assert found.stride() == x.stride()


@every_layout
@pytest.mark.parametrize("norm", ["pono", "gn2"])
def test_gradients(shape, channel_dim, batch_dim, norm):
    exchange = functools.partial(moex.exchange_moments, norm=norm, channel_dim=channel_dim, batch_dim=batch_dim)
    assert torch.autograd.gradcheck(exchange, (features(shape).requires_grad_(), PERM))


def test_half_precision_and_a_graph_of_sequences():
    x = features((5, 4, 6)).bfloat16()
    options = {"norm": "gn2", "channel_dim": -1, "batch_dim": 1}
    expected = moex.exchange_moments(x.float(), PERM, **options).bfloat16()
    assert torch.equal(moex.exchange_moments(x, PERM, **options), expected)
    torch._dynamo.reset()
    compiled = torch.compile(moex.exchange_moments, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(x.float(), PERM, **options), moex.exchange_moments(x.float(), PERM, **options)
    )


class Outputs(nn.Module):
    """What a recurrent layer returns for each step, without its states."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Mean(nn.Module):
    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)


def recurrent(kind: type, *, batch_first: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return nn.Sequential(
            Outputs(kind(3, 6, batch_first=batch_first)), Mean(1 if batch_first else 0), nn.Linear(6, 2)
        )

    return build


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(6, 2, dim_feedforward=6, dropout=0.0, norm_first=True)
    return nn.Sequential(nn.Linear(3, 6), layer, Mean(0), nn.Linear(6, 2))


# A network, its layer, the shape of its inputs, where it has channels and samples, and which norm is exchanged.
NETWORKS = {
    "signals": (
        lambda: nn.Sequential(nn.Conv1d(3, 6, 3), Mean(2), nn.Linear(6, 2)), "0", (4, 3, 7), 1, 0, "gn2"
    ),
    "volumes": (
        lambda: nn.Sequential(nn.Conv3d(3, 6, 2), Mean(2, 3, 4), nn.Linear(6, 2)), "0", (4, 3, 3, 4, 3), 1, 0, "in"
    ),
    "LSTM, batch first": (recurrent(nn.LSTM, batch_first=True), "0", (4, 5, 3), -1, 0, "pono"),
    "LSTM, time first": (recurrent(nn.LSTM, batch_first=False), "0", (5, 4, 3), -1, 1, "gn2"),
    "LSTM of two directions": (
        lambda: nn.Sequential(Outputs(nn.LSTM(3, 4, proj_size=3, bidirectional=True)), Mean(0), nn.Linear(6, 2)),
        "0", (5, 4, 3), -1, 1, "in",
    ),
    "GRU, time first": (recurrent(nn.GRU, batch_first=False), "0", (5, 4, 3), -1, 1, "pono"),
    "transformer, time first": (attention, "1", (5, 4, 3), -1, 1, "pono"),
}  # fmt: skip


@pytest.mark.parametrize("asked", [True, False], ids=["asked", "told by the network"])
@pytest.mark.parametrize(
    ("build", "layer", "shape", "channel_dim", "batch_dim", "norm"), NETWORKS.values(), ids=NETWORKS
)
def test_after_a_layer(build, layer, shape, channel_dim, batch_dim, norm, asked):
    torch.manual_seed(0)
    model, inputs = build().double(), features(shape)
    seen = []
    dim = {"channel_dim": channel_dim} if asked else {}
    module = model.get_submodule(layer)
    module.register_forward_hook(lambda _, __, output: seen.append(output))
    exchange = moex.MomentExchange(model, layer, norm, batch_dim=batch_dim, **dim)
    module.register_forward_hook(lambda _, __, output: seen.append(output))
    with exchange.swap(PERM):
        model(inputs).square().sum().backward()
    before, after = (output.detach().numpy() for output in seen)
    *_, expected = loop(before, PERM, norm, channel_dim=channel_dim, batch_dim=batch_dim)
    np.testing.assert_allclose(after, expected)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_states_of_a_recurrent_layer_stay():
    """What the wrapper hands on is exchanged; the state at the last step is that of the sample itself."""
    torch.manual_seed(0)
    model, inputs, states = nn.Sequential(Outputs(nn.LSTM(3, 6)), Mean(0)), torch.randn(5, 4, 3), []
    model[0].layer.register_forward_hook(lambda _, __, output: states.append(output[1]))
    plain = model(inputs)
    with moex.MomentExchange(model, "0", batch_dim=1).swap(PERM):
        assert not torch.allclose(model(inputs), plain)
    for before, after in zip(*states, strict=True):
        assert torch.equal(before, after)


class TimeFirst(nn.Module):
    """Images `[B, 3, 4, 4]` in, a sequence of their pixels inside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.embed(images.flatten(2).permute(2, 0, 1)).mean(0))


def test_a_mixing_list_of_a_network_that_is_time_first_inside():
    torch.manual_seed(0)
    model, images, labels = TimeFirst(), torch.randn(5, 3, 4, 4), torch.tensor([0, 1, 1, 0, 1])
    mixing = moex.Mixing(model, [moex.MoEx(layer="embed", probability=1.0, batch_dim=1)], num_classes=2)
    seen = []
    model.embed.register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    model(images)
    (plain,) = seen
    seen.clear()
    with mixing(images, labels) as (images, targets):
        model(images)
    # The first call looks at four images.
    assert [output.shape[1] for output in seen] == [4, 5]
    rows = nn.functional.one_hot(labels, 2)
    found = [
        perm
        for perm in map(torch.tensor, np.array(np.meshgrid(*[range(5)] * 5)).reshape(5, -1).T)
        if len(set(perm.tolist())) == 5
        and torch.allclose(seen[1], moex.exchange_moments(plain, perm, channel_dim=-1, batch_dim=1), atol=1e-5)
    ]
    assert len(found) == 1
    torch.testing.assert_close(targets, 0.9 * rows + 0.1 * rows[found[0]])


@pytest.mark.parametrize("statistic", [exchange_order, functools.partial(exchange_components, components=2)])
def test_other_statistics_get_samples_first(statistic):
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(6, 6), Mean(0)), torch.randn(5, 4, 6)
    sequences = model[0](inputs).transpose(0, 1)
    with moex.FeatureExchange(model, "0", statistic, batch_dim=1).swap(PERM):
        torch.testing.assert_close(model(inputs), statistic(sequences, PERM, channel_dim=-1).mean(1))


def test_an_exchange_that_changes_nothing_is_told_for_sequences():
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 8), Mean(0))
    exchange = moex.MomentExchange(model, "1", batch_dim=1)
    with pytest.raises(ValueError, match=r"after '1' changes .* LayerNorm; it acts after 0, 2$"), exchange.swap(PERM):
        model(torch.randn(5, 4, 6))


class Pack(nn.Module):
    def forward(self, x: Tensor) -> PackedSequence:
        return pack_padded_sequence(x, [5, 4, 3, 2])


class Nest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nested.nested_tensor(list(x.unbind(1)), layout=torch.jagged)


REFUSED = {
    "LSTM": (lambda: nn.LSTM(6, 6), r"'0' \(LSTM\) returns a tuple, not a tensor; .* such as a module of yours"),
    "packed": (Pack, r"'0' \(Pack\) returns a PackedSequence, not a tensor, whose samples may differ in length: cut"),
    "nested": (Nest, r"must be a tensor \[B, C, ...\], not a nested one, whose samples may differ in length: cut or"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_positions_in_common_is_refused(build, message):
    model = nn.Sequential(build(), nn.Identity())
    exchange = moex.MomentExchange(model, "0", batch_dim=1)
    with pytest.raises(ValueError, match=message) as caught, exchange.swap(PERM):
        model(torch.randn(5, 4, 6))
    assert len(str(caught.value).splitlines()) == 1
