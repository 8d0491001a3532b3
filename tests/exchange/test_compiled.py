"""The exchange in compiled networks: the same values, and few graphs."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from small_net import PERM, SmallNet
from torch import Tensor
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import get_static_address_type

from moex import MomentExchange, exchange_moments

Compiler = Callable[[Callable[..., Tensor]], tuple[Callable[..., Tensor], CompileCounter]]


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


def test_a_permutation_is_no_weight(net: SmallNet, images: Tensor, compiler: Compiler) -> None:
    """CUDA graphs copy inputs, and are recorded anew when a tensor moves that torch.compile takes for a weight."""
    compiled, _ = compiler(net)
    exchange = MomentExchange(net, "stem")
    perms = [torch.randperm(4) for _ in range(3)]
    for perm in perms:
        with exchange.swap(perm):
            compiled(images)
    assert get_static_address_type(net.conv.weight) is not None
    assert [get_static_address_type(perm) for perm in perms] == [None] * 3


def test_other_networks_exchanges_compile_nothing_anew(net: SmallNet, images: Tensor, compiler: Compiler) -> None:
    net.eval()
    exchange, other = MomentExchange(net, "stem"), copy.deepcopy(net)
    compiled, counter = compiler(net)

    def both_kinds_of_pass() -> None:
        compiled(images)
        with exchange.swap(PERM):
            compiled(images)

    both_kinds_of_pass(), both_kinds_of_pass()
    MomentExchange(other, "block")
    with MomentExchange(other, "stem").swap(PERM):
        other(images)
        both_kinds_of_pass()
    assert counter.frame_count == 2


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
