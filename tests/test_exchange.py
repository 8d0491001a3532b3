"""The exchange attached to a layer: what it computes, on which networks, and what it leaves alone."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import timm
import torch
import torchvision
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import moex
from moex import FeatureExchange, MomentExchange, exchange_moments

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
    return SmallNet().double()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


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
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="torch 2.6 traces no context manager of ours")
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
        ("stam", "pono", "no layer 'stam' in SmallNet: did you mean stem.* points: recommended, stem, block; paths"),
        ("block.3", "pono", r"did you mean block\.1, block\.0, block\?"),
        ("zzz", "pono", "no layer 'zzz' in SmallNet: points: recommended, stem, block"),
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


# ---- computed again in the backward pass


class CheckpointedNet(nn.Module):
    """Two regions that `torch.utils.checkpoint` computes again; `use_reentrant=None` keeps them instead."""

    def __init__(self, use_reentrant: bool | None = None) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh())
        self.between = nn.Conv2d(6, 6, 1)
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.head = nn.Linear(6, 5)

    def region(self, layers: nn.Module, features: Tensor) -> Tensor:
        if self.use_reentrant is None:
            return layers(features)
        return checkpoint(layers, features, use_reentrant=self.use_reentrant)

    def forward(self, images: Tensor) -> Tensor:
        features = self.region(self.first, self.stem(images).tanh())
        return self.head(self.region(self.second, self.between(features)).mean((2, 3)))


OTHER = PERM.flip(0)
# What is exchanged in each forward pass, at which layers and by which permutation; then how backward is called.
PASSES = {
    "after swap": ([{"first.0": PERM}], "once"),
    "at the end of a region": ([{"second": PERM}], "once"),
    "outside every region": ([{"stem": PERM}], "once"),
    "in both regions": ([{"first.0": PERM, "second": OTHER}], "once"),
    "two permutations": ([{"first.0": PERM}, {"first.0": OTHER}], "once"),
    "two permutations, one after the other": ([{"first.0": PERM}, {"first.0": OTHER}], "in order"),
    "a plain pass before": ([{}, {"first.0": PERM}], "once"),
    "a plain pass after": ([{"first.0": PERM}, {}], "once"),
    "plain passes around another region's": ([{}, {"second": PERM}, {}], "once"),
    "plain passes around one outside every region": ([{}, {"stem": PERM}, {}], "once"),
    "twice": ([{"first.0": PERM}], "twice"),
    "inside swap": ([{"first.0": PERM}], "inside"),
}


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("case", PASSES)
def test_checkpointing_computes_the_exchange_of_its_own_pass(case: str, use_reentrant: bool) -> None:
    """Gradients against a network that keeps everything."""
    passes, backward = PASSES[case]
    torch.manual_seed(0)
    kept = CheckpointedNet().double()
    checkpointed = copy.deepcopy(kept)
    checkpointed.use_reentrant = use_reentrant
    images, weights = torch.randn(4, 3, 8, 8).double(), torch.randn(4, 5).double()
    for net in (kept, checkpointed):
        exchanges = {layer: MomentExchange(net, layer) for layer in ("stem", "first.0", "second")}
        losses = []
        for factor, swaps in enumerate(passes, start=1):
            with ExitStack() as stack:
                for layer, perm in swaps.items():
                    stack.enter_context(exchanges[layer].swap(perm))
                losses.append(factor * (net(images) * weights).sum())
                if backward == "inside":
                    losses.pop().backward()
        if backward == "in order":
            for loss in losses:
                loss.backward()
        elif backward == "twice":
            losses[0].backward(retain_graph=True)
            losses[0].backward()
        elif losses:
            sum(losses).backward()
    for ours, theirs in zip(checkpointed.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


LAYERS = {
    "timm:resnet18": ["maxpool", "layer1", "layer2", "layer2.1", "layer3.0.conv1"],
    "timm:vit_tiny_patch16_224": ["patch_embed", "blocks.0", "blocks.1", "blocks.0.mlp", "blocks.1.attn"],
    "densenet_bc10": ["stem", "stage1", "stage2", "stage1.layers.0.bn1", "stage2.layers.0.conv1"],
}


@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name, layers in LAYERS.items() for layer in layers])
def test_checkpointing_of_libraries(name: str, layer: str) -> None:
    """timm's switch, which calls the blocks of a stage without the stage; and our memory-saving DenseNet."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "depth": 2} if "vit" in name else {}
    kept = moex.models.create(name, num_classes=5, **options)
    if name.startswith("timm"):
        checkpointed = copy.deepcopy(kept)
        checkpointed.set_grad_checkpointing()
    else:
        checkpointed = moex.models.create(name, num_classes=5, memory_saving=True)
        checkpointed.load_state_dict(kept.state_dict())
    images, weights = torch.randn(4, 3, 32, 32).double(), torch.randn(4, 5).double()
    for net in (kept.double(), checkpointed.double()):
        exchange = MomentExchange(net, layer)
        with exchange.swap(PERM):
            logits = net(images)
        (logits * weights).sum().backward()
    for (name, ours), theirs in zip(checkpointed.named_parameters(), kept.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


# ---- an exchange is seen by whoever computes


def test_compiled_after_another_network_of_its_class(net: SmallNet, images: Tensor, compiler: Compiler) -> None:
    net.eval()
    other = copy.deepcopy(net)
    compiler(other)[0](images)
    exchange = MomentExchange(net, "stem")
    compiled, _ = compiler(net)
    expected = net.top(exchange_moments(net.stem(images), PERM))
    for _ in range(2):
        with exchange.swap(PERM):
            torch.testing.assert_close(compiled(images), expected)
    torch.testing.assert_close(compiled(images), other(images))


def test_a_second_exchange_after_a_compiled_run(net: SmallNet, images: Tensor, compiler: Compiler) -> None:
    net.eval()
    first = MomentExchange(net, "stem")
    compiled, _ = compiler(net)
    compiled(images)
    with first.swap(PERM):
        compiled(images)
    second = MomentExchange(net, "block")
    features = net.block[0](net.stem(images).relu())
    for _ in range(2):
        with second.swap(PERM):
            logits = compiled(images)
        torch.testing.assert_close(logits, net.head(exchange_moments(features, PERM).relu().mean((2, 3))))


def test_another_thread_computes_what_it_always_did(net: SmallNet, images: Tensor) -> None:
    net.eval()
    expected = net(images)
    exchange = MomentExchange(net, "stem")
    with ThreadPoolExecutor(1) as pool, exchange.swap(PERM):
        assert torch.equal(pool.submit(net, images).result(), expected)
        assert not torch.allclose(net(images), expected)


def test_a_layer_is_called_once_in_a_swap(net: SmallNet, images: Tensor) -> None:
    exchange = MomentExchange(net, "stem")
    with exchange.swap(PERM):
        net(images)
        with pytest.raises(ValueError, match="layer 'norm' was called twice inside the context"):
            net(images)
    block = torchvision.models.resnet18(num_classes=5)
    relu = MomentExchange(block, "layer1.0.relu")
    with pytest.raises(ValueError, match="choose another layer"), relu.swap(PERM):
        block(torch.randn(4, 3, 32, 32))


def test_repr_says_layer_norm_and_whether_it_is_active(net: SmallNet, images: Tensor) -> None:
    exchange = MomentExchange(net, "stem", "in")
    assert repr(exchange) == "MomentExchange('norm', norm='in', inactive)"
    with exchange.swap(PERM):
        assert repr(exchange) == "MomentExchange('norm', norm='in', active)"
        net(images)
    exchange.remove()
    assert repr(exchange) == "MomentExchange('norm', norm='in', removed)"
    assert repr(FeatureExchange(net, "block", lambda x, perm: x[perm])) == "FeatureExchange('block.0', inactive)"


def test_any_function_of_features_and_a_permutation(net: SmallNet, images: Tensor) -> None:
    net.eval()
    exchange = FeatureExchange(net, "stem", lambda features, perm: features.lerp(features[perm], 0.5))
    expected = net.top(net.stem(images).lerp(net.stem(images[PERM]), 0.5))
    with exchange.swap(PERM):
        torch.testing.assert_close(net(images), expected)


# ---- labels are not mixed without their features


class NormalisedNet(nn.Module):
    """A stem that ends in a LayerNorm over the channels, and a stage after it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GroupNorm(1, 8), LayerNorm2d(8))
        self.stage = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stage(self.stem(images)).mean((2, 3)))


@pytest.mark.parametrize("compiles", [False, True])
def test_an_exchange_that_changes_nothing_is_an_error(images: Tensor, compiles: bool) -> None:
    torch.manual_seed(0)
    net = NormalisedNet().double()
    exchange = MomentExchange(net, "stem")
    network = torch.compile(net, backend="eager") if compiles else net
    # The identity would show nothing; the first permutation that moves a sample does.
    with exchange.swap(torch.arange(4)):
        network(images)
    message = r"after 'stem' changes the features by \de-0\d .* as after a LayerNorm; it acts after stage$"
    with pytest.raises(ValueError, match=message), exchange.swap(PERM):
        network(images)


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
