"""Weights of others: read without executing anything, and fitted by name or by order."""

import argparse
import pickle
import re

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from moex.models import create
from moex.models.weights import fit_weights, load_weights, read_weights


@pytest.fixture
def network():
    torch.manual_seed(0)
    return create("resnet8", num_classes=10)


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


class Executed:
    """Would leave a trace if it was unpickled as it is."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_checkpoint_of_the_published_code(network, tmp_path, legacy):
    """DataParallel's prefix, NumPy's scores, arguments and an optimizer beside the weights."""
    weights = network.state_dict()
    content = {
        "epoch": 300,
        "arch": "pyramidnet_moex",
        "state_dict": {f"module.{name}": value for name, value in weights.items()},
        "best_err1": np.float64(14.9),
        "err_history": np.arange(3.0),
        "args": argparse.Namespace(lam=0.5),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}},
    }
    torch.save(content, tmp_path / "model_best.pth.tar", _use_new_zipfile_serialization=not legacy)
    same(read_weights(tmp_path / "model_best.pth.tar"), weights)


@pytest.mark.parametrize("place", ["average", "model", "state_dict_ema", None])
def test_where_weights_are(network, tmp_path, place):
    weights = {f"_orig_mod.module.{name}": value for name, value in network.state_dict().items()}
    others = {"model": {"fc.weight": torch.zeros(1)}} if place != "model" else {"average": None}
    torch.save(weights if place is None else {**others, place: weights}, tmp_path / "weights.pt")
    same(read_weights(tmp_path / "weights.pt"), network.state_dict())


def test_safetensors(network, tmp_path):
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    same(read_weights(tmp_path / "weights.safetensors"), network.state_dict())


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_nothing_is_executed(network, tmp_path, legacy):
    path, trace = tmp_path / "weights.pt", tmp_path / "trace"
    content = {"state_dict": network.state_dict(), "extra": Executed(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if legacy:
        with pytest.raises(ValueError, match=r"cannot be read without executing what it holds: .*open"):
            read_weights(path)
    else:
        same(read_weights(path), network.state_dict())
    assert not trace.exists()


MISTAKES = {
    "absent": (None, "there is no file of weights"),
    "text": (b"hello world", "is damaged, or no file of weights|cannot be read"),
    "pickle": (pickle.dumps({"a": 1}), "is damaged, or no file of weights|cannot be read"),
    "empty": (b"", "is damaged, or no file of weights"),
}


@pytest.mark.parametrize(("content", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_what_is_no_file_of_weights(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{message}|is damaged") as error:
        read_weights(tmp_path / name)
    assert len(str(error.value).splitlines()) == 1


def test_a_checkpoint_without_weights(tmp_path):
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=re.escape("holds no weights: it holds epoch, optimizer")):
        read_weights(tmp_path / "weights.pt")


def published_name(name):
    """What PyramidNet's published code calls one of our tensors."""
    parts = ("bn1", "conv1", "bn2", "", "conv2", "bn3", "", "conv3", "bn4")
    name = re.sub(r"^stage(\d)", r"layer\1", name)
    return re.sub(r"residual\.(\d)", lambda found: parts[int(found[1])], name)


def test_published_pyramidnet():
    torch.manual_seed(0)
    ours, other = (create("pyramidnet11", num_classes=100, alpha=12, bottleneck=True) for _ in range(2))
    theirs = {published_name(name): value for name, value in ours.state_dict().items()}
    assert "layer2.0.conv3.weight" in theirs
    load_weights(other, theirs)
    same(other.state_dict(), ours.state_dict())


def test_old_densenet():
    """Names such as norm.1, and no counters of batches."""
    torch.manual_seed(0)
    ours, other = (torchvision.models.DenseNet(4, (2, 2), 8, num_classes=10) for _ in range(2))
    theirs = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value
        for name, value in ours.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in theirs
    load_weights(other, theirs)
    same(other.state_dict(), ours.state_dict())


@pytest.mark.parametrize("name", ["resnet8", "densenet_bc10", "torchvision:mobilenet_v3_small", "timm:resnet18"])
def test_a_new_head(name):
    """All but the last linear layer, where its classes differ; the whole network where they do not."""
    torch.manual_seed(0)
    ours, other, equal = (create(name, num_classes=classes) for classes in (10, 7, 10))
    fitted = fit_weights(other, ours.state_dict(), new_head=True)
    (head,) = {name.rpartition(".")[0] for name in other.state_dict().keys() - fitted.keys()}
    assert isinstance(other.get_submodule(head), nn.Linear)
    before = other.get_submodule(head).weight.clone()
    load_weights(other, ours.state_dict(), new_head=True)
    assert torch.equal(other.get_submodule(head).weight, before)
    assert fit_weights(equal, ours.state_dict(), new_head=True).keys() == ours.state_dict().keys()
    with pytest.raises(ValueError, match=rf"2 of another shape: {head}.weight \[10, "):
        fit_weights(other, ours.state_dict())


def test_another_network(network):
    other = create("resnet14", num_classes=10)
    with pytest.raises(ValueError, match=r"^\d+ missing: stage1\.1\.[\w.]+, .*, \.\.\.$"):
        fit_weights(other, network.state_dict())
    with pytest.raises(ValueError, match=r"^\d+ unknown: stage1\.1\.[\w.]+, .*, \.\.\.$"):
        fit_weights(network, other.state_dict())
