"""The exchange attached to a layer: what it computes, on which networks, and what it leaves alone."""

import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
import torchvision
from small_net import PERM, SmallNet
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from moex import FeatureExchange, MomentExchange, exchange_moments


def test_one_pass_and_a_gather_equal_two_passes_of_the_stem(net: SmallNet, images: Tensor) -> None:
    """The published code runs the stem on x and on x[perm]; the first gets the moments of the second."""
    reference = copy.deepcopy(net)

    def pono(features: Tensor) -> tuple[Tensor, Tensor]:
        return features.mean(1, keepdim=True), features.var(1, keepdim=True).add(1e-5).sqrt()

    features = reference.stem(images)
    mean, std = pono(features)
    partner_mean, partner_std = pono(reference.stem(images[PERM]))
    expected = reference.top((features - mean) / std * partner_std + partner_mean)
    expected.square().sum().backward()

    with MomentExchange(net, "stem").swap(PERM):
        logits = net(images)
    logits.square().sum().backward()

    torch.testing.assert_close(logits, expected)
    for (name, parameter), other in zip(net.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "gn-d2"},
        {"norm": "in", "eps": 0.1},
        {"norm": "pono", "positive_only": True},
        {"norm": "pono", "channel_dim": -3},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_options_reach_the_operator(net: SmallNet, images: Tensor, options: dict, training: bool) -> None:
    net.train(training)
    expected = net.top(exchange_moments(net.stem(images), PERM, **options))
    with MomentExchange(net, "stem", **options).swap(PERM):
        assert torch.equal(net(images), expected)


def test_any_function_of_features_and_a_permutation(net: SmallNet, images: Tensor) -> None:
    net.eval()
    exchange = FeatureExchange(net, "stem", lambda features, perm: features.lerp(features[perm], 0.5))
    expected = net.top(net.stem(images).lerp(net.stem(images[PERM]), 0.5))
    with exchange.swap(PERM):
        torch.testing.assert_close(net(images), expected)


def test_channels_of_tokens_are_inferred_or_asked_for() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 5))
    tokens = torch.randn(4, 9, 6)
    expected = net[1](exchange_moments(net[0](tokens), PERM, channel_dim=-1))
    exchange, mistaken = MomentExchange(net, "0"), MomentExchange(net, "0", channel_dim=1)
    with exchange.swap(PERM):
        torch.testing.assert_close(net(tokens), expected)
    message = r"channel_dim 1 of .*\[4, 9, 6\] after '0' .* has 6, so it must be -1"
    with pytest.raises(ValueError, match=message), mistaken.swap(PERM):
        net(tokens)
    bare = nn.Sequential(nn.Identity(), nn.Flatten())
    with (
        pytest.raises(ValueError, match=r"\[4, 9, 6\] after '0' do not tell .* -1 for tokens"),
        MomentExchange(bare, "0").swap(PERM),
    ):
        bare(tokens)


def test_two_layers_at_once(net: SmallNet, images: Tensor) -> None:
    stem, block = MomentExchange(net, "stem"), MomentExchange(net, "block", "in")
    with stem.swap(PERM), block.swap(PERM.flip(0)):
        logits = net(images)
    features = exchange_moments(net.stem(images), PERM).relu()
    features = exchange_moments(net.block[0](features), PERM.flip(0), "in").relu()
    torch.testing.assert_close(logits, net.head(features.mean((2, 3))))


@pytest.mark.parametrize(
    ("create", "layer", "channel_dim", "size"),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), "maxpool", 1, 32),
        (lambda: torchvision.models.densenet121(num_classes=10), "features.pool0", 1, 32),
        (
            lambda: timm.create_model(
                "vit_tiny_patch16_224", pretrained=False, img_size=32, patch_size=8, depth=2, num_classes=10
            ),
            "blocks.0",
            -1,
            32,
        ),
    ],
    ids=["torchvision resnet18", "torchvision densenet121", "timm vit_tiny"],
)
def test_networks_of_torchvision_and_timm(
    create: Callable[[], nn.Module], layer: str, channel_dim: int, size: int
) -> None:
    torch.manual_seed(0)
    model, images = create().eval().double(), torch.randn(4, 3, size, size).double()
    seen: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    plain = model(images)
    handle.remove()
    exchange = MomentExchange(model, layer, channel_dim=channel_dim)
    model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: seen.append(output))
    with exchange.swap(PERM):
        logits = model(images)
    logits.sum().backward()
    assert logits.shape == (4, 10)
    assert not torch.allclose(logits, plain)
    torch.testing.assert_close(seen[1], exchange_moments(seen[0], PERM, channel_dim=channel_dim))


def test_only_inside_swap(net: SmallNet, images: Tensor) -> None:
    expected = net(images)
    exchange = MomentExchange(net, "stem")
    assert torch.equal(net(images), expected)
    with exchange.swap(None):
        assert torch.equal(net(images), expected)
    with exchange.swap(PERM):
        assert not torch.allclose(net(images), expected)
    assert torch.equal(net(images), expected)


def test_an_exception_ends_the_swap(net: SmallNet, images: Tensor) -> None:
    expected = net(images)
    exchange = MomentExchange(net, "stem")
    with pytest.raises(KeyboardInterrupt), exchange.swap(PERM):
        raise KeyboardInterrupt
    assert torch.equal(net(images), expected)


def test_another_thread_computes_what_it_always_did(net: SmallNet, images: Tensor) -> None:
    net.eval()
    expected = net(images)
    exchange = MomentExchange(net, "stem")
    with ThreadPoolExecutor(1) as pool, exchange.swap(PERM):
        assert torch.equal(pool.submit(net, images).result(), expected)
        assert not torch.allclose(net(images), expected)


def test_remove(net: SmallNet, images: Tensor) -> None:
    exchange = MomentExchange(net, "stem")
    exchange.remove()
    assert not net.norm._forward_hooks
    for perm in (PERM, None):
        with pytest.raises(ValueError, match="was removed"), exchange.swap(perm):
            net(images)


def test_state_dict_keeps_its_keys(net: SmallNet) -> None:
    keys = list(net.state_dict())
    MomentExchange(net, "stem")
    assert list(net.state_dict()) == keys


def test_copies_and_pickles_hold_no_exchange_in_progress(net: SmallNet, images: Tensor) -> None:
    net.eval()
    expected = net(images)
    exchange = MomentExchange(net, "stem")
    buffer = io.BytesIO()
    with exchange.swap(PERM):
        exchanged = net(images)
        torch.save(net, buffer)
        copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net))]
    copies.append(torch.load(io.BytesIO(buffer.getvalue()), weights_only=False))
    for twin in copies:
        assert torch.equal(twin(images), expected)
        twin_exchange = MomentExchange(twin, "stem")
        with twin_exchange.swap(PERM):
            assert torch.equal(twin(images), exchanged)
    with exchange.swap(PERM):
        assert torch.equal(net(images), exchanged)


def test_attached_before_wrapping_works_in_distributed_data_parallel(net: SmallNet, images: Tensor) -> None:
    expected = net.top(exchange_moments(net.stem(images), PERM))
    exchange = MomentExchange(net, "stem")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(net)
        with exchange.swap(PERM):
            torch.testing.assert_close(wrapped(images), expected)
    finally:
        torch.distributed.destroy_process_group()


def test_repr_says_layer_norm_and_whether_it_is_active(net: SmallNet, images: Tensor) -> None:
    exchange = MomentExchange(net, "stem", "in")
    assert repr(exchange) == "MomentExchange('norm', norm='in', inactive)"
    with exchange.swap(PERM):
        assert repr(exchange) == "MomentExchange('norm', norm='in', active)"
        net(images)
    exchange.remove()
    assert repr(exchange) == "MomentExchange('norm', norm='in', removed)"
    assert repr(FeatureExchange(net, "block", lambda x, perm: x[perm])) == "FeatureExchange('block.0', inactive)"
