"""A DenseNet that saves memory computes what the plain one does."""

import pytest
import torch
from cifar_networks import shaken

import moex
from moex import models


def after_a_pass(model, images, permutation, *, precision="fp32", compile=False):
    """Logits, gradients and buffers after one pass, forth and back, with an exchange at the stem."""
    exchange = moex.MomentExchange(model, "stem")
    network = torch.compile(model, backend="aot_eager", dynamic=False) if compile else model
    with exchange.swap(permutation), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = network(images)
    logits.float().square().sum().backward()
    tensors = {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers())
    return tensors | {"logits": logits.detach()}


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


IMAGES, PERMUTATION = torch.randn(4, 3, 8, 8, generator=torch.manual_seed(0)), torch.tensor([2, 0, 3, 1])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_saving_memory_changes_no_bit(training, precision):
    """Of the BatchNorms' running statistics and counts of batches neither."""
    torch.set_default_dtype(torch.float32)  # As it trains.
    plain = shaken("densenet_bc22").train(training)
    saving = shaken("densenet_bc22", memory_saving=True).train(training)
    assert_same_bits(
        after_a_pass(saving, IMAGES, PERMUTATION, precision=precision),
        after_a_pass(plain, IMAGES, PERMUTATION, precision=precision),
    )


def test_saving_memory_changes_no_bit_of_a_compiled_network():
    torch.set_default_dtype(torch.float32)  # As it trains.
    options = {"growth_rate": 4, "num_classes": 10}
    plain, saving = (models.create("densenet_bc10", **options, memory_saving=saving) for saving in (False, True))
    saving.load_state_dict(plain.state_dict())
    assert_same_bits(
        *(after_a_pass(model, IMAGES, PERMUTATION, compile=True) for model in (saving, plain)),
    )
