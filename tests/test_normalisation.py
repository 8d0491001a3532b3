"""Moments and their exchange, against a loop over the samples and their sets of entries in float64."""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from moex import exchange_moments, moments

EPS = 1e-5
# norm -> (channels in a set, of 6; has every position moments of its own?)
NORMS = {
    "pono": (6, True),
    "in": (1, False),
    "ln": (6, False),
    "gn2": (3, False),
    "gn-d2": (2, False),
    "gpono2": (3, True),
    "gpono-d2": (2, True),
}
LAYOUTS = {
    "tokens": ((4, 5, 6), -1),
    "sequence": ((4, 6, 5), 1),
    "image": ((4, 6, 3, 2), 1),
    "image, channels last": ((4, 3, 2, 6), -1),
    "image, channels second": ((4, 3, 6, 2), 2),
    "video": ((3, 6, 2, 2, 3), 1),
    "video, channels last": ((3, 2, 2, 3, 6), -1),
}


def sets_of(sample_shape: torch.Size, channel_dim: int, norm: str) -> Iterator[list[tuple[int, ...]]]:
    """Yields the indices of the entries of one sample that share their moments."""
    size, per_position = NORMS[norm]
    channel = channel_dim - 1 if channel_dim > 0 else len(sample_shape) + channel_dim
    groups: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for index in itertools.product(*map(range, sample_shape)):
        position = index[:channel] + index[channel + 1 :]
        key = (index[channel] // size, *(position if per_position else ()))
        groups.setdefault(key, []).append(index)
    yield from groups.values()


def slow_moments(entries: Tensor, positive_only: bool) -> tuple[Tensor, Tensor]:
    if positive_only:
        entries = entries[entries > 0]
        if len(entries) == 0:
            return torch.zeros(()).double(), torch.tensor(EPS).double().sqrt()
    mean = sum(entries) / len(entries)
    squares = sum((entry - mean) ** 2 for entry in entries)
    return mean, (squares / (len(entries) - (0 if positive_only else 1)) + EPS).sqrt()


def slow_exchange(x: Tensor, perm: Tensor, norm: str, channel_dim: int, positive_only: bool) -> Tensor:
    rows = []
    for own, partner in zip(x, x[perm], strict=True):
        row = torch.zeros_like(own)
        for indices in sets_of(own.shape, channel_dim, norm):
            where = tuple(torch.tensor(indices).T)
            (mean, std), (other_mean, other_std) = (slow_moments(f[where], positive_only) for f in (own, partner))
            row = row.index_put(where, (own[where] - mean) / std * other_std + other_mean)
        rows.append(row)
    return torch.stack(rows)


def features(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


every_case = pytest.mark.parametrize(
    ("norm", "layout", "positive_only"), list(itertools.product(NORMS, LAYOUTS, (False, True)))
)


@every_case
def test_exchange_equals_the_loop_in_values_and_gradients(norm: str, layout: str, positive_only: bool) -> None:
    shape, channel_dim = LAYOUTS[layout]
    x = features(*shape, dtype=torch.float64).requires_grad_()
    perm = torch.tensor([2, 0, 2, 1][: shape[0]])
    expected = slow_exchange(x, perm, norm, channel_dim, positive_only)
    exchanged = exchange_moments(x, perm, norm, channel_dim=channel_dim, positive_only=positive_only)
    torch.testing.assert_close(exchanged, expected)
    weight = features(*shape, dtype=torch.float64, seed=1)
    (gradient,) = torch.autograd.grad(exchanged, x, weight)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, weight)[0])


@every_case
def test_moments_broadcast_and_equal_the_loop(norm: str, layout: str, positive_only: bool) -> None:
    shape, channel_dim = LAYOUTS[layout]
    x = features(*shape, dtype=torch.float64)
    found = moments(x, norm, channel_dim=channel_dim, positive_only=positive_only)
    assert found[0].ndim == found[1].ndim == x.ndim
    for mean, std, sample in zip(*(moment.expand_as(x) for moment in found), x, strict=True):
        for indices in sets_of(sample.shape, channel_dim, norm):
            where = tuple(torch.tensor(indices).T)
            expected_mean, expected_std = slow_moments(sample[where], positive_only)
            torch.testing.assert_close(mean[where], expected_mean.expand(len(indices)))
            torch.testing.assert_close(std[where], expected_std.expand(len(indices)))


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        ("pono", (4, 1, 3, 2)),
        ("in", (4, 6, 1, 1)),
        ("ln", (4, 1, 1, 1)),
        ("gn2", (4, 6, 1, 1)),
        ("gpono2", (4, 6, 3, 2)),
    ],
)
def test_shape_of_moments(norm: str, shape: tuple[int, ...]) -> None:
    mean, std = moments(features(4, 6, 3, 2), norm)
    assert mean.shape == std.shape == shape


@pytest.mark.parametrize("positive_only", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck_twice(norm: str, positive_only: bool) -> None:
    x = features(3, 6, 2, dtype=torch.float64).requires_grad_()

    def exchange(x: Tensor) -> Tensor:
        return exchange_moments(x, torch.tensor([1, 2, 0]), norm, eps=1e-2, positive_only=positive_only)

    assert torch.autograd.gradcheck(exchange, x)
    assert torch.autograd.gradgradcheck(exchange, x)


@settings(deadline=None, max_examples=60)
@given(
    norm=st.sampled_from(sorted(NORMS)),
    batch=st.integers(1, 5),
    size=st.integers(2, 4),
    seed=st.integers(0, 999),
    offset=st.floats(-50, 50),
)
def test_the_partner_gives_its_moments(norm: str, batch: int, size: int, seed: int, offset: float) -> None:
    x = features(batch, 6, size, size, dtype=torch.float64, seed=seed) + offset
    torch.testing.assert_close(exchange_moments(x, torch.arange(batch), norm), x)
    perm = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    exchanged_mean, exchanged_deviation = moments(exchange_moments(x, perm, norm), norm, eps=1e-30)
    mean, std = moments(x, norm)
    _, deviation = moments(x, norm, eps=1e-30)
    torch.testing.assert_close(exchanged_mean, mean[perm])
    torch.testing.assert_close(exchanged_deviation, deviation / std * std[perm])


@pytest.mark.parametrize("offset", [0, 1000])
@pytest.mark.parametrize("norm", ["pono", "in", "ln", "gn3", "gn-d8", "gpono3", "gpono-d8"])
def test_float32_is_exact_where_the_mean_is_large(norm: str, offset: float) -> None:
    x, perm = features(8, 24, 8, 8) + offset, torch.arange(8).roll(3)
    expected = exchange_moments(x.double(), perm, norm).float()
    # Sums of 1,536 entries at most err, in whatever order, by some sqrt(1536) roundings of 6e-8; a variance by
    # E[x²] - E[x]² would err by 6e-8 · 1000², and features by 3 %.
    torch.testing.assert_close(exchange_moments(x, perm, norm), expected, rtol=0, atol=1e-4 + 1e-5 * offset)


def test_the_mean_of_a_large_set_is_exact_in_float32() -> None:
    x = features(2, 64, 128, 128) + 100
    mean, std = moments(x, "ln")
    # torch sums by halves: log2(n) = 20 roundings of 6e-8 at most, where one after the other would make a million.
    torch.testing.assert_close(mean.double(), x.double().mean((1, 2, 3), keepdim=True), rtol=1.5e-6, atol=0)
    expected = (x.double().var((1, 2, 3), keepdim=True) + EPS).sqrt()
    torch.testing.assert_close(std.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("positive_only", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, norm: str, positive_only: bool) -> None:
    x, perm = features(4, 6, 3, 3, dtype=dtype), torch.tensor([3, 0, 1, 2])
    expected = exchange_moments(x.float(), perm, norm, positive_only=positive_only).to(dtype)
    assert torch.equal(exchange_moments(x, perm, norm, positive_only=positive_only), expected)
    assert {moment.dtype for moment in moments(x, norm, positive_only=positive_only)} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("norm", NORMS)
def test_autocast_changes_nothing(norm: str, dtype: torch.dtype) -> None:
    x, perm = features(4, 6, 3, 3, dtype=dtype), torch.tensor([3, 0, 1, 2])
    expected = exchange_moments(x, perm, norm)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exchange_moments(x, perm, norm), expected)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("shape", "memory_format"),
    [
        ((4, 6, 3, 3), torch.contiguous_format),
        ((4, 6, 3, 3), torch.channels_last),
        ((4, 6, 2, 3, 3), torch.channels_last_3d),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_memory_format_is_kept(
    shape: tuple[int, ...], memory_format: torch.memory_format, norm: str, dtype: torch.dtype
) -> None:
    plain, perm = features(*shape, dtype=dtype), torch.tensor([3, 0, 1, 2])
    exchanged = exchange_moments(plain.contiguous(memory_format=memory_format), perm, norm)
    assert exchanged.is_contiguous(memory_format=memory_format)
    assert not exchanged.is_contiguous() or memory_format is torch.contiguous_format
    # Sums in another order may round to the next bfloat16.
    torch.testing.assert_close(exchanged, exchange_moments(plain, perm, norm))


@pytest.mark.parametrize("norm", NORMS)
def test_a_set_without_positive_entries_has_moments_zero(norm: str) -> None:
    x = -features(4, 6, 2, 2).abs()
    x[1] = x[1].abs()
    x.requires_grad_()
    mean, std = moments(x, norm, positive_only=True)
    assert (mean[0] == 0).all()
    assert (std[0] == EPS**0.5).all()
    exchanged = exchange_moments(x, torch.tensor([1, 0, 3, 2]), norm, positive_only=True)
    exchanged.square().sum().backward()
    assert exchanged.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_constant_features_have_finite_gradients() -> None:
    x = torch.ones(4, 6, 2, 2, requires_grad=True)
    exchanged = exchange_moments(x, torch.tensor([1, 0, 3, 2]))
    exchanged.square().sum().backward()
    assert torch.equal(exchanged, x)
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_features_not_finite_stay_visible() -> None:
    x = features(2, 6, 2, 2)
    x[0, 0, 0, 0] = torch.nan
    for positive_only in (False, True):
        exchanged = exchange_moments(x, torch.tensor([1, 0]), positive_only=positive_only)
        assert exchanged[:, :, 0, 0].isnan().all()
        assert exchanged[:, :, 1].isfinite().all()


def test_permutation_may_be_int32_and_repeat_samples() -> None:
    x, perm = features(4, 6, 3, 3), torch.tensor([0, 0, 3, 3])
    assert torch.equal(exchange_moments(x, perm.int()), exchange_moments(x, perm))


def test_a_new_permutation_compiles_no_new_graph() -> None:
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled: Callable[..., Tensor] = torch.compile(exchange_moments, backend=counter, fullgraph=True)
    for seed in range(3):
        x, perm = features(4, 6, 3, 3, seed=seed), torch.randperm(4)
        assert torch.equal(compiled(x, perm, "gn-d2"), exchange_moments(x, perm, "gn-d2"))
    assert counter.frame_count == 1


IMAGE = (4, 6, 3, 3)
ERRORS = {
    "bn": ((IMAGE, "bn"), {}, "same for every sample"),
    "unknown norm": (
        (IMAGE, "layer"),
        {},
        "'layer': choose one of pono, in, ln, gnK, gn-dK, gponoK, gpono-dK",
    ),
    "no number of groups": ((IMAGE, "gn"), {}, "unknown norm 'gn'"),
    "zero groups": ((IMAGE, "gn0"), {}, "unknown norm 'gn0'"),
    "negative groups": ((IMAGE, "gn-2"), {}, "unknown norm 'gn-2'"),
    "doubled -d": ((IMAGE, "gn-d-d2"), {}, "unknown norm 'gn-d-d2'"),
    "capitals": ((IMAGE, "PONO"), {}, "unknown norm 'PONO'"),
    "no equal groups": ((IMAGE, "gn4"), {}, r"does not divide 6 channels: K must be one of \[1, 2, 3, 6\]"),
    "no equal group sizes": (
        (IMAGE, "gpono-d4"),
        {},
        r"does not divide 6 channels: K must be one of \[1, 2, 3",
    ),
    "more groups than channels": ((IMAGE, "gn12"), {}, "does not divide 6 channels"),
    "a vector a sample": (((4, 6), "pono"), {}, "3 dimensions or more"),
    "one channel": (((4, 1, 3, 3), "pono"), {}, "sets of one entry"),
    "one channel, positive": (((4, 1, 3, 3), "pono"), {"positive_only": True}, "sets of one entry"),
    "one position": (((4, 6, 1, 1), "in"), {}, "sets of one entry"),
    "groups of one channel": ((IMAGE, "gpono6"), {}, "sets of one entry"),
    "channels are the batch": ((IMAGE, "pono"), {"channel_dim": 0}, "dimension 0 is the batch"),
    "channels are the batch, from behind": (
        (IMAGE, "pono"),
        {"channel_dim": -4},
        "must be one of 1, 2, 3, or of -3, -2, -1",
    ),
    "channels are nowhere": ((IMAGE, "pono"), {"channel_dim": 4}, "channel_dim 4 does not fit"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_mistakes_are_named(case: str) -> None:
    (shape, norm), options, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        moments(features(*shape), norm, **options)
    with pytest.raises(ValueError, match=message):
        exchange_moments(features(*shape), torch.arange(4), norm, **options)


@pytest.mark.parametrize(
    ("perm", "message"),
    [
        (torch.arange(3), "3 entries for a batch of 4"),
        (torch.arange(4).reshape(2, 2), "not 2-D"),
        (torch.arange(4.0), "torch.float32"),
        (torch.tensor([True, False, True, True]), "torch.bool"),
        ([1, 0, 2, 3], "not a list"),
    ],
)
def test_mistaken_permutations_are_named(perm: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exchange_moments(features(*IMAGE), perm)


def test_integers_have_no_moments() -> None:
    with pytest.raises(ValueError, match=r"floating-point features, not torch\.uint8"):
        moments(torch.ones(IMAGE, dtype=torch.uint8))


def summed(x):
    """A number of exchanged features, for derivatives."""
    return (exchange_moments(x, torch.tensor([2, 0, 1])) * torch.arange(x.numel()).view(x.shape)).sum()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # Of torch.func.jvp's own.
def test_functional_transforms_and_forward_mode():
    """torch.func has autograd's gradients, and maps the calls one by one; forward mode agrees with reverse mode."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(summed(x), x)
    x = x.detach()
    torch.testing.assert_close(torch.func.grad(summed)(x), expected)
    direction = torch.randn_like(x)
    for derivative in (torch.func.jvp(summed, (x,), (direction,))[1], forward_derivative(x, direction)):
        torch.testing.assert_close(derivative, (expected * direction).sum())
    several, perms = torch.randn(2, *x.shape, dtype=x.dtype), torch.tensor([[1, 2, 0], [2, 1, 0]])
    mapped = torch.func.vmap(exchange_moments)(several, perms)
    for one, features, perm in zip(mapped, several, perms, strict=True):
        torch.testing.assert_close(one, exchange_moments(features, perm))


def forward_derivative(x, direction):
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        return torch.autograd.forward_ad.unpack_dual(summed(dual)).tangent
