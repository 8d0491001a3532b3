"""Exchanges beyond moments, and features with moments alone or without them, against loops in NumPy."""

import numpy as np
import pytest
import torch

import moex
from moex.beyond_moments import exchange_components, exchange_order, keep_moments, remove_moments

PERM = torch.tensor([2, 0, 1, 3])
NORMS = ["pono", "in", "ln", "gn2", "gpono2"]


def features(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def components_of(sample, count):
    """The leading part of one sample `[C, N]`, by the singular value decomposition."""
    centred = sample - sample.mean(1, keepdims=True)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    return (left[:, :count] * values[:count]) @ right[:count]


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize(("shape", "channel_dim"), [((4, 6, 5, 3), 1), ((4, 7, 6), -1), ((4, 6, 9), 1)], ids=str)
def test_components_by_the_singular_value_decomposition(shape, channel_dim, count):
    x = features(*shape)
    found = exchange_components(x, PERM, count, channel_dim=channel_dim)
    assert found.shape == x.shape
    samples = x.movedim(channel_dim, 1).flatten(2).numpy()
    parts = [components_of(sample, count) for sample in samples]
    expected = np.stack([samples[i] - parts[i] + parts[partner] for i, partner in enumerate(PERM.tolist())])
    np.testing.assert_allclose(found.movedim(channel_dim, 1).flatten(2).numpy(), expected, atol=1e-10)


def test_all_components_are_everything_but_the_channel_means():
    x = features(4, 3, 8, 8)
    found = exchange_components(x, PERM, 3)
    centred = x - x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(found, x.mean((2, 3), keepdim=True) + centred[PERM])


def sets_of(shape, norm):
    """Lists of index arrays, each a set of entries of one sample `[C, H, W]`."""
    channels = shape[0]
    index = np.arange(np.prod(shape)).reshape(shape)
    groups = {"pono": 1, "ln": 1, "in": channels, "gn2": 2, "gpono2": 2}[norm]
    for group in np.split(index, groups):
        if "pono" in norm:
            yield from group.reshape(len(group), -1).T
        else:
            yield group.ravel()


@pytest.mark.parametrize("norm", NORMS)
def test_order_statistics_by_sorting_each_set(norm):
    x = features(4, 6, 5, 3)
    x[1, 2, 3, 1] = x[1, 3, 3, 1]  # Equal entries.
    found = exchange_order(x, PERM, norm)
    flat = x.flatten(1).numpy()
    for sample, partner in enumerate(PERM.tolist()):
        expected = np.empty_like(flat[sample])
        for entries in sets_of((6, 5, 3), norm):
            expected[entries[np.argsort(flat[sample][entries], kind="stable")]] = np.sort(flat[partner][entries])
        np.testing.assert_array_equal(found[sample].flatten().numpy(), expected)


@pytest.mark.parametrize("norm", NORMS)
def test_with_the_order_moments_are_exchanged_too(norm):
    x = features(4, 6, 5, 3)
    found, expected = moex.moments(exchange_order(x, PERM, norm), norm), moex.moments(x, norm)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs[PERM])


EXCHANGES = {
    "components": lambda x, perm: exchange_components(x, perm, 2),
    "order": lambda x, perm: exchange_order(x, perm, "in"),
}


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES.keys())
class TestEveryExchange:
    def test_with_oneself_nothing_changes(self, exchange):
        x = features(4, 6, 5, 3)
        torch.testing.assert_close(exchange(x, torch.arange(4)), x)

    def test_the_kind_of_the_input_is_kept(self, exchange):
        x = features(4, 6, 5, 3).bfloat16().to(memory_format=torch.channels_last)
        found = exchange(x, PERM)
        assert found.dtype == torch.bfloat16
        assert found.is_contiguous(memory_format=torch.channels_last)
        # bfloat16 has 8 bits: 0.4 % of values below 5.
        torch.testing.assert_close(found.double(), exchange(x.double(), PERM), atol=0.05, rtol=0.02)

    def test_gradients(self, exchange):
        """Numerical ones, which see the eigenvectors move: only the part that is no constant is compared."""
        x = features(4, 6, 5, 3).requires_grad_()
        found = exchange(x, PERM)
        (gradient,) = torch.autograd.grad(found.square().sum(), x)
        assert gradient.isfinite().all()
        assert (gradient.flatten(1).abs().sum(1) > 0).all()

    def test_mistaken_permutations(self, exchange):
        with pytest.raises(ValueError, match="must be 1-D and int64"):
            exchange(features(4, 6, 5, 3), torch.eye(4).long())


def test_gradient_of_the_order():
    x = features(3, 4, 3).requires_grad_()
    perm = torch.tensor([1, 2, 0])
    assert torch.autograd.gradcheck(lambda x: exchange_order(x, perm, "in"), x)


def test_gradient_of_the_components_with_constant_eigenvectors():
    """The exchange is linear in x once the eigenvectors are given."""
    x = features(3, 4, 6).requires_grad_()
    perm = torch.tensor([1, 2, 0])
    weights = features(3, 4, 6, seed=1)
    (gradient,) = torch.autograd.grad((weights * exchange_components(x, perm, 2)).sum(), x)
    samples = x.detach().numpy()
    projectors = []
    for sample in samples:
        left = np.linalg.svd(sample - sample.mean(1, keepdims=True))[0][:, :2]
        centring = np.eye(6) - np.full((6, 6), 1 / 6)
        projectors.append((left @ left.T, centring))
    expected = weights.numpy().copy()
    for sample, partner in enumerate(perm.tolist()):
        for other, sign in ((sample, -1), (partner, 1)):
            projector, centring = projectors[other]
            expected[other] += sign * projector @ weights[sample].numpy() @ centring
    np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-10)


@pytest.mark.parametrize("components", [0, 7])
def test_there_are_as_many_components_as_channels(components):
    with pytest.raises(ValueError, match=f"components is {components}: it must be 1 to 6"):
        exchange_components(features(4, 6, 5, 3), PERM, components)


@pytest.mark.parametrize("norm", NORMS)
def test_moments_alone_and_features_without_them(norm):
    x = features(4, 6, 5, 3)
    mean, std = (moment.expand(x.shape) for moment in moex.moments(x, norm))
    alone = keep_moments(x, norm)
    assert torch.equal(alone[:, :3], mean[:, :3])
    assert torch.equal(alone[:, 3:], std[:, 3:])
    without = remove_moments(x, norm)
    torch.testing.assert_close(without * std + mean, x)
    found_mean, found_std = moex.moments(without, norm, eps=1e-30)
    torch.testing.assert_close(found_mean, torch.zeros_like(found_mean), atol=1e-12, rtol=0)
    torch.testing.assert_close(found_std, torch.ones_like(found_std), atol=1e-3, rtol=0)


def test_detached_moments_are_constants():
    x = features(4, 6, 5, 3).requires_grad_()
    mean, std = (moment.detach() for moment in moex.moments(x))
    weights = features(4, 6, 5, 3, seed=1)
    expected = (x - mean) / std * std[PERM] + mean[PERM]
    found = moex.exchange_moments(x, PERM, detach=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, moex.exchange_moments(x, PERM))
    ours, theirs = (torch.autograd.grad((weights * output).sum(), x)[0] for output in (found, expected))
    torch.testing.assert_close(ours, theirs)
    (published,) = torch.autograd.grad((weights * moex.exchange_moments(x, PERM)).sum(), x)
    assert not torch.allclose(ours, published)
