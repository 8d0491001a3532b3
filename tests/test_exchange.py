"""The exchange attached to a layer: what it computes, on which networks, and what it leaves alone."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel

import moex
from moex import MomentExchange, exchange_moments

Compiler = Callable[[Callable[..., Tensor]], tuple[Callable[..., Tensor], CompileCounter]]
PERM = torch.tensor([2, 0, 1, 3])


class SmallNet(nn.Module):
    """Stem, block and head, with a map of points."""

    points = {"stem": "norm", "block": "block.0"}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.block = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 5)

    def stem(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))

    def top(self, features: Tensor) -> Tensor:
        return self.head(self.block(features.relu()).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.stem(images))


@pytest.fixture
def net() -> SmallNet:
    torch.manual_seed(0)
    return SmallNet()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    """Compiles without a graph break allowed, and counts the graphs."""

    def compile_counted(function: Callable[..., Tensor]) -> tuple[Callable[..., Tensor], CompileCounter]:
        counter = CompileCounter()
        return torch.compile(function, backend=counter, fullgraph=True), counter

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield compile_counted
    torch._dynamo.reset()


# ---- what it computes


def test_one_pass_and_a_gather_equal_two_passes_of_the_stem(net: SmallNet, images: Tensor) -> None:
    """The published code runs the stem on x and on x[perm]; the first gets the moments of the second."""
    net, images = net.double(), images.double()
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
        {"norm": "pono", "channel_dim": 2},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_options_reach_the_operator(net: SmallNet, images: Tensor, options: dict, training: bool) -> None:
    net.train(training)
    expected = net.top(exchange_moments(net.stem(images), PERM, **options))
    with MomentExchange(net, "stem", **options).swap(PERM):
        assert torch.equal(net(images), expected)


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


def test_remove(net: SmallNet, images: Tensor) -> None:
    exchange = MomentExchange(net, "stem")
    exchange.remove()
    assert not net.norm._forward_hooks
    for perm in (PERM, None):
        with pytest.raises(ValueError, match="was removed"), exchange.swap(perm):
            net(images)


def test_two_layers_at_once(net: SmallNet, images: Tensor) -> None:
    stem, block = MomentExchange(net, "stem"), MomentExchange(net, "block", "in")
    with stem.swap(PERM), block.swap(PERM.flip(0)):
        logits = net(images)
    features = exchange_moments(net.stem(images), PERM).relu()
    features = exchange_moments(net.block[0](features), PERM.flip(0), "in").relu()
    torch.testing.assert_close(logits, net.head(features.mean((2, 3))))


# ---- what it leaves alone


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


# ---- on networks of others


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
    model, images = create().eval(), torch.randn(4, 3, size, size)
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


# ---- compiled


def test_two_graphs_whatever_the_permutation(net: SmallNet, images: Tensor, compiler: Compiler) -> None:
    net.eval()
    exchange = MomentExchange(net, "stem")
    compiled, counter = compiler(net)
    for perm in (PERM, torch.arange(4), None, PERM.flip(0), PERM.clone(), None):
        features = net.stem(images)
        expected = net.top(features if perm is None else exchange_moments(features, perm))
        with exchange.swap(perm):
            torch.testing.assert_close(compiled(images), expected)
    assert counter.frame_count == 2
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_compiled_step_of_training_equals_the_plain_one(net: SmallNet, images: Tensor) -> None:
    torch._dynamo.reset()
    plain = copy.deepcopy(net)
    exchange, plain_exchange = MomentExchange(net, "stem"), MomentExchange(plain, "stem")
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    for perm in (PERM, PERM.flip(0)):
        with exchange.swap(perm), plain_exchange.swap(perm):
            logits, expected = compiled(images), plain(images)
        torch.testing.assert_close(logits, expected)
        logits.square().sum().backward()
        expected.square().sum().backward()
    for parameter, other in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_swap_inside_the_compiled_function(net: SmallNet, images: Tensor, compiler: Compiler) -> None:
    net.eval()
    exchange = MomentExchange(net, "stem")

    def step(images: Tensor, perm: Tensor) -> Tensor:
        with exchange.swap(perm):
            return net(images)

    compiled, counter = compiler(step)
    for perm in (PERM, PERM.flip(0)):
        torch.testing.assert_close(compiled(images, perm), step(images, perm))
    assert counter.frame_count == 1


# ---- mistakes


class PairLayer(nn.Module):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, features


class PairNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = PairLayer()

    def forward(self, features: Tensor) -> Tensor:
        return self.pair(features)[0]


@pytest.mark.parametrize(
    ("layer", "norm", "message"),
    [
        ("stam", "pono", "no layer 'stam' in SmallNet: did you mean stem.* points: stem, block; paths"),
        ("block.3", "pono", r"did you mean block\.1, block\.0, block\?"),
        ("zzz", "pono", "no layer 'zzz' in SmallNet: points: stem, block"),
        ("", "pono", "must be a submodule, not the model itself"),
        ("stem", "bn", "same for every sample"),
        ("stem", "layernorm", "unknown norm 'layernorm'"),
    ],
)
def test_mistaken_names(net: SmallNet, layer: str, norm: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MomentExchange(net, layer, norm)


def test_wrapped_and_compiled_networks_are_refused(net: SmallNet) -> None:
    with pytest.raises(ValueError, match=r"DataParallel splits the batch.*use DistributedDataParallel"):
        MomentExchange(nn.DataParallel(net), "module.norm")
    with pytest.raises(ValueError, match="before compiling"):
        MomentExchange(torch.compile(net), "norm")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="before wrapping"):
            MomentExchange(DistributedDataParallel(net), "module.norm")
    finally:
        torch.distributed.destroy_process_group()
    net.compile()
    with pytest.raises(ValueError, match="before compiling"):
        MomentExchange(net, "norm")


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


@pytest.mark.parametrize(
    ("perm", "message"),
    [
        (torch.arange(3), "3 entries for a batch of 4"),
        (torch.eye(4).long(), "not 2-D"),
        (torch.arange(4.0), "torch.float32"),
        ([1, 0, 3, 2], "not a list"),
    ],
)
def test_mistaken_permutations(net: SmallNet, images: Tensor, perm: Tensor, message: str) -> None:
    exchange = MomentExchange(net, "stem")
    with pytest.raises(ValueError, match=message), exchange.swap(perm):
        net(images)


def test_swaps_do_not_nest(net: SmallNet, images: Tensor) -> None:
    exchange = MomentExchange(net, "stem")
    with exchange.swap(PERM):
        for perm in (PERM, None):
            with pytest.raises(ValueError, match="already in progress"), exchange.swap(perm):
                pass
        net(images)


def test_a_layer_must_return_a_tensor(images: Tensor) -> None:
    net = PairNet()
    exchange = MomentExchange(net, "pair")
    net(images)
    with (
        pytest.raises(ValueError, match=r"layer 'pair' \(PairLayer\) returns a tuple, not a tensor"),
        exchange.swap(PERM),
    ):
        net(images)


def test_a_swap_that_reaches_no_layer_is_an_error(net: SmallNet, images: Tensor) -> None:
    exchange = MomentExchange(net, "stem")
    with pytest.raises(ValueError, match="no forward pass reached layer 'norm'"), exchange.swap(PERM):
        copy.deepcopy(net)(images)


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'moment'"):
        _ = moex.moment
