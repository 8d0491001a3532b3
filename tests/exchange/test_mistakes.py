"""What an exchange refuses, and what it says."""

import copy

import pytest
import torch
import torchvision
from small_net import PERM, SmallNet
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import moex
from moex import MomentExchange


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


class PairLayer(nn.Module):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, features


class PairNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = PairLayer()

    def forward(self, features: Tensor) -> Tensor:
        return self.pair(features)[0]


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


def test_unknown_names_of_the_package() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'moment'"):
        _ = moex.moment
