"""What is refused before anything is created, and what is built."""

import pytest
import torch

from moex.beyond_moments import keep_moments, remove_moments
from moex.config import parse
from moex.data import Request
from moex.features import last_of_sequence
from moex.points import resolve_layer
from moex.run.build import build_run, check_network, choose_device, create_model, load_sources

CPU = torch.device("cpu")
CLOUDS = {"dataset": {"name": "modelnet10"}, "model": {"name": "pointnet2"}}
REFUSED = {
    "unknown network": ({"model": {"name": "resnext"}}, r"no network 'resnext'.*resnetDEPTH"),
    "impossible depth": ({"model": {"name": "resnet21"}}, r"6n\+2, such as 20 or 26"),
    "unknown option": ({"model": {"options": {"width": 3}}}, r"has no option 'width'"),
    "unknown point": ({"augmentation": {"steps": ["moex"], "moex": {"layer": "stm"}}}, r"'stm'.*did you mean stem"),
    "unknown point of many": (
        {"augmentation": {"steps": ["manifold_mixup"], "manifold_mixup": {"points": ["images", "stage9"]}}},
        r"no layer 'stage9'.*did you mean stage",
    ),
    "tokens have no boxes": (
        {
            "model": {"name": "timm:vit_tiny_patch16_224", "options": {"img_size": 8, "patch_size": 4, "depth": 2}},
            "augmentation": {"steps": ["feature_cutmix"], "feature_cutmix": {"points": ["stage1"]}},
        },
        r"a box needs 'stage1' to be \[B, C, H, W\], not \[2, 5, 192\]: choose other layers",
    ),
    "clouds have no boxes": (
        {**CLOUDS, "augmentation": {"steps": ["cutmix"]}},
        r"augmentation.cutmix is for images \[C, H, W\], and these inputs are \[1024, 3\]: leave the step out",
    ),
    "clouds have no holes": ({**CLOUDS, "augmentation": {"steps": ["cutout"]}}, r"augmentation.cutout is for images"),
    "points have no order": (
        {**CLOUDS, "augmentation": {"steps": ["mixup"]}},
        r"augmentation.mixup cannot mix inputs of 'modelnet10': the points of a cloud have no order. Mix features",
    ),
    "a whole cloud has no moments": (
        {**CLOUDS, "augmentation": {"steps": ["moex"], "moex": {"layer": "stage2"}}},
        r"moments need features of 3 dimensions or more .* not \[2, 1024\]",
    ),
    "clouds are no images": ({"dataset": {"name": "modelnet10"}}, r"cannot take the 1024×3 inputs of 'modelnet10'"),
    "images are no clouds": (
        {"dataset": {"name": "cifar100"}, "model": {"name": "pointnet2"}},
        r"pointnet2 takes clouds \[B, N, 3\], not inputs \[2, 3, 32, 32\]",
    ),
    "unknown norm": ({"augmentation": {"steps": ["moex"], "moex": {"norm": "bn"}}}, r"bn"),
    "indivisible groups": ({"augmentation": {"steps": ["moex"], "moex": {"norm": "gn3"}}}, r"16"),
    "point without features": ({"augmentation": {"steps": ["moex"], "moex": {"layer": "fc"}}}, r"rank|dimension"),
    "images too small": ({"model": {"name": "timm:densenet121"}}, r"cannot take the 1×8×8 inputs of 'digits'"),
    "a transformer's size": (
        {"dataset": {"name": "cifar100"}, "model": {"name": "timm:vit_tiny_patch16_224"}},
        r"cannot take the 3×32×32 inputs of 'cifar100'",
    ),
    "two answers": (
        {
            "dataset": {"name": "cifar100"},
            "model": {"name": "torchvision:googlenet", "options": {"init_weights": False}},
        },
        r"returns GoogLeNetOutputs for two images: it must be logits \[2, 100\]",
    ),
    "features": (
        {"model": {"name": "timm:resnet18", "options": {"features_only": True}}},
        r"returns list for two images",
    ),
    "classes": ({"model": {"options": {"num_classes": 5}}}, r"model.options.num_classes cannot be set"),
    "a word for a number": (
        {"model": {"name": "pyramidnet110", "options": {"alpha": "x"}}},
        r"network 'pyramidnet110': alpha is 'x': it must be a number",
    ),
    "too many components": (
        {"augmentation": {"steps": ["moex"], "moex": {"statistic": "components", "components": 17}}},
        r"components is 17: it must be 1 to 16",
    ),
    "moments of no layer": ({"moments": {"use": "only", "layer": "stm"}}, r"'stm'.*did you mean stem"),
    "an exchange that changes nothing": (
        {
            "dataset": {"name": "cifar100"},
            "model": {"name": "timm:convnext_atto"},
            "augmentation": {"steps": ["moex"]},
        },
        r"after 'stem' changes the features by .* labels would be mixed all the same.* it acts after stage2",
    ),
    "a hole wider than the images": (
        {"augmentation": {"steps": ["cutout"], "cutout": {"size": 9}}},
        r"cutout.size is 9.*must be 1 to 8",
    ),
    "colours for torchvision": ({"model": {"name": "torchvision:resnet18"}}, r"3 channels, not 1"),
}


def build(values):
    config = parse(values)
    return build_run(config, load_sources(config, CPU), CPU)


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_on_the_meta_device(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_network(parse(values))
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("layer", ["stem", "stage1", "stage3", "stem.1"])
def test_accepted_points(layer):
    check_network(parse({"augmentation": {"steps": ["moex"], "moex": {"layer": layer}}}))


def test_cuda_must_be_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"no CUDA device: use auto or cpu"):
        choose_device(parse({"runtime": {"device": "cuda"}}).runtime)
    assert choose_device(parse({}).runtime) == CPU


@pytest.mark.parametrize("there", [False, True], ids=["cpu", "cuda"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_tensor_float_32_where_it_is_asked_for_and_there(monkeypatch, precision, there):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(there))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    choose_device(parse({"runtime": {"precision": precision}}).runtime)
    switches = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert switches == ((True, True) if there and precision == "tf32" else (False, False))
    # torch 2.6 has one setting for all devices.
    if hasattr(torch.backends.mkldnn, "matmul"):
        assert there or torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    choose_device(parse({}).runtime)


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
    monkeypatch.setattr("moex.run.build.visible_gpus", lambda _: 0)
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
