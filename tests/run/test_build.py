"""What is built of a configuration."""

import pytest
import torch

from moex.beyond_moments import keep_moments, remove_moments
from moex.config import parse
from moex.data import Request
from moex.features import last_of_sequence
from moex.points import resolve_layer
from moex.run.build import build_run, create_model, load_sources
from moex.run.checks import check_network

CPU = torch.device("cpu")


def build(values):
    config = parse(values)
    return build_run(config, load_sources(config, CPU), CPU)


@pytest.mark.parametrize("channels_last", [True, False])
def test_weights_and_batches_lie_in_memory_alike(channels_last, cifar100_root):
    dataset = {"name": "cifar100", "root": str(cifar100_root)}
    run = build({"runtime": {"channels_last": channels_last}, "dataset": dataset})
    images, _ = next(run.training.source.batches([Request(torch.arange(4), torch.arange(4))]))
    for tensor in (images, run.state.model.stage1[0].conv1.weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_the_seed_alone_decides_the_first_weights():
    def first_weights(seed):
        torch.rand(7)
        return torch.cat([parameter.flatten() for parameter in build({"seed": seed}).state.model.parameters()])

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


def test_limits():
    run = build({"limit_train": 100, "limit_test": 50, "batch_size": 64})
    assert (len(run.training.source), len(run.test)) == (100, 50)
    assert run.state.steps_per_epoch == 2
    with pytest.raises(ValueError, match=r"limit_train is 5000: digits has 1257"):
        load_sources(parse({"limit_train": 5000}), CPU)


@pytest.mark.parametrize("use", ["only", "removed"])
def test_a_network_that_sees_a_part_of_its_features(use):
    """In training and in evaluation, the layers above get what the pure function gives."""
    values = {"moments": {"use": use, "norm": "in"}, "augmentation": {"steps": ["moex"]}}
    check_network(parse(values))
    model, whole = build(values).state.model.eval().double(), build({}).state.model.eval().double()
    images = torch.randn(4, 1, 8, 8).double()
    features = whole.stem(images)
    seen = {"only": keep_moments, "removed": remove_moments}[use](features, "in")
    logits = model.fc(model.stage3(model.stage2(model.stage1(seen))).mean((2, 3)))
    torch.testing.assert_close(model(images), logits)


def test_batchnorm_of_the_whole_batch(monkeypatch):
    """The exchange stays at its layer, and checkpoints fit, also where timm joins BatchNorm and activation."""
    monkeypatch.setattr("moex.run.build.world_size", lambda: 2)
    for model, layer in (("resnet8", "stem"), ("timm:efficientnet_b0", "bn1")):
        values = {"model": {"name": model}, "augmentation": {"steps": ["moex"], "moex": {"layer": layer}}}
        ours = build(values | {"limit_train": 64, "runtime": {"sync_batchnorm": True}}).state
        theirs = build(values | {"limit_train": 64}).state
        kinds = [
            module for module in ours.model.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
        ]
        assert kinds
        assert all(isinstance(module, torch.nn.SyncBatchNorm) for module in kinds)
        assert list(ours.model.state_dict()) == list(theirs.model.state_dict())
        assert last_of_sequence(ours.model.get_submodule(resolve_layer(ours.model, layer)))._forward_hooks
        images = torch.randn(4, 1, 8, 8)
        assert torch.equal(ours.model.eval()(images), theirs.model.eval()(images))
    config = parse(values | {"moments": {"use": "removed", "layer": "bn1"}, "runtime": {"sync_batchnorm": True}})
    assert create_model(config).get_submodule("bn1")._forward_hooks
