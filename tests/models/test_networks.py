"""One table for what holds of every network; then each family against its paper, written out plainly."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import moex
from moex import models

# name, options, classes, parameters where a source counts them exactly, channels of the stem and of each stage
CIFAR_NETWORKS = {
    "resnet20": ({}, 10, 269_722, (16, 16, 32, 64)),
    "resnet32": ({}, 10, 464_154, (16, 16, 32, 64)),
    "resnet44": ({}, 10, 658_586, (16, 16, 32, 64)),
    "resnet56": ({}, 10, 853_018, (16, 16, 32, 64)),
    "resnet110": ({}, 10, 1_727_962, (16, 16, 32, 64)),
    # 1.7 M in Han et al. 2017, table 4
    "pyramidnet110": ({"alpha": 48, "bottleneck": False}, 10, None, (16, 32, 48, 64)),
    "pyramidnet200": ({"alpha": 240}, 10, 26_752_702, (16, 384, 704, 1024)),
    "pyramidnet200 on CIFAR-100": ({"alpha": 240}, 100, 26_844_952, (16, 384, 704, 1024)),
    "pyramidnet56": ({"alpha": 240}, 100, None, (16, 384, 704, 1024)),
    "wrn28": ({"width": 10, "dropout": 0.3}, 10, 36_479_194, (16, 160, 320, 640)),
    "wrn16": ({"width": 1, "dropout": 0.3}, 10, None, (16, 16, 32, 64)),
    "densenet_bc100": ({"growth_rate": 12}, 10, 769_162, (24, 216, 300, 342)),
    "densenet_bc190": ({"growth_rate": 40}, 10, 25_624_430, (80, 1320, 1900, 2190)),
    "densenet_bc22": ({"growth_rate": 12}, 10, None, (24, 60, 66, 69)),
    "resnext29": ({"cardinality": 8, "base_width": 64}, 10, 34_426_698, (64, 256, 512, 1024)),
    "resnext11": ({"cardinality": 4, "base_width": 8}, 10, None, (64, 256, 512, 1024)),
    "vgg11": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "vgg13": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "vgg16": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "vgg19": ({}, 10, None, (64, 64, 128, 256, 512, 512)),
    "preact_resnet18": ({}, 10, None, (64, 64, 128, 256, 512)),
    "preact_resnet34": ({}, 10, None, (64, 64, 128, 256, 512)),
}


def create(case, **options):
    name, (given, classes, *_) = case.split()[0], CIFAR_NETWORKS[case]
    return models.create(name, num_classes=classes, **given | options), classes


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("case", CIFAR_NETWORKS)
def test_parameters_are_those_reported(case):
    with torch.device("meta"):
        model, _ = create(case)
    expected = CIFAR_NETWORKS[case][2]
    if expected is not None:
        assert parameters(model) == expected


def test_reported_counts_in_millions():
    """As the paper's table prints them, and reported.yaml counts them."""
    with torch.device("meta"):
        counts = {case: parameters(create(case)[0]) / 1e6 for case in CIFAR_NETWORKS}
    assert 1.70 <= counts["resnet110"] <= 1.73
    assert math.floor(10 * counts["pyramidnet110"]) / 10 == 1.7
    assert round(counts["pyramidnet200"], 2) == 26.75
    assert round(counts["pyramidnet200 on CIFAR-100"], 2) == 26.84
    assert round(counts["wrn28"], 2) == 36.48
    assert round(counts["densenet_bc100"], 2) == 0.77
    assert round(counts["densenet_bc190"], 2) == 25.62
    assert round(counts["resnext29"], 2) == 34.43


@pytest.mark.parametrize("case", CIFAR_NETWORKS)
def test_shapes_of_logits_and_points(case):
    with torch.device("meta"):
        model, classes = create(case)
        images = torch.empty(2, 3, 32, 32)
    shapes = {}
    for point, path in model.points.items():
        model.get_submodule(path).register_forward_hook(
            lambda _, __, output, point=point: shapes.__setitem__(point, tuple(output.shape[1:]))
        )
    assert model(images).shape == (2, classes)
    channels = CIFAR_NETWORKS[case][3]
    sides = (32, 16, 8, 4, 2, 1) if case.startswith("vgg") else (32, 32, 16, 8, 4)[: len(channels)]
    assert list(shapes) == ["stem", *(f"stage{index}" for index in range(1, len(channels)))]
    assert list(shapes.values()) == [(width, side, side) for width, side in zip(channels, sides, strict=True)]


SMALL = [
    "resnet20",
    "pyramidnet110",
    "pyramidnet56",
    "wrn16",
    "densenet_bc22",
    "resnext11",
    "vgg11",
    "preact_resnet18",
]


@pytest.mark.parametrize("case", SMALL)
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (1, 32), (3, 32)])
def test_a_step_reaches_every_parameter(case, channels, size):
    torch.manual_seed(0)
    model, classes = create(case, in_channels=channels)
    loss = F.cross_entropy(model(torch.randn(4, channels, size, size)), torch.arange(4) % classes)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
@pytest.mark.parametrize("case", sorted({*SMALL} - {"pyramidnet110"}))
def test_a_trained_network_can_be_taken_elsewhere(case, tmp_path):
    """By torch.export, and by TorchScript, which others still load."""
    model = create(case, in_channels=3)[0].eval()
    images = torch.randn(2, 3, 32, 32)
    torch.jit.save(torch.jit.trace(model, images), tmp_path / "model.pt")
    exported = torch.export.export(model, (images,)).module()
    for network in (torch.jit.load(tmp_path / "model.pt"), exported):
        torch.testing.assert_close(network(images), model(images))


@pytest.mark.parametrize("case", ["resnet56", *SMALL[1:]])
def test_initialisation_has_the_published_law(case):
    """Convolutions N(0, 2 / (k·k·channels out)) without bias; BatchNorm 1 and 0; the classifier as torch draws it.

    The published codes in Torch, which our ResNet does not follow there, begin with a classifier's bias of 0.
    """
    torch.manual_seed(0)
    model, _ = create(case)
    scores = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            std = math.sqrt(2 / (module.kernel_size[0] ** 2 * module.out_channels))
            scores.append(module.weight.detach().flatten() / std)
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
            assert (module.eps, module.momentum) == (1e-5, 0.1)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            assert 0.9 * bound < module.weight.abs().max() <= bound
            assert module.bias.eq(0).all() == (case not in ("resnet56", "pyramidnet110", "pyramidnet56"))
    for score in scores:
        assert float(score.std()) == pytest.approx(1, abs=4 / math.sqrt(2 * len(score)))
    everything = torch.cat(scores)
    assert float(everything.mean()) == pytest.approx(0, abs=5 / math.sqrt(len(everything)))
    assert float((everything.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.005)


def shaken(case, **options):
    """A network whose BatchNorms are all different and not neutral, in evaluation mode."""
    torch.manual_seed(0)
    model, _ = create(case, **options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.5, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


class Weights:
    """Hands out a network's tensors in the order in which its layers are computed."""

    def __init__(self, model):
        self.training = model.training
        self.convolutions = iter([module.weight for module in model.modules() if isinstance(module, nn.Conv2d)])
        self.norms = iter([module for module in model.modules() if isinstance(module, nn.BatchNorm2d)])

    def conv(self, x, stride=1):
        weight = next(self.convolutions)
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, x):
        norm = next(self.norms)
        running = (None, None) if self.training else (norm.running_mean, norm.running_var)
        return F.batch_norm(x, *running, norm.weight, norm.bias, training=self.training)

    def norm_relu(self, x):
        return F.relu(self.norm(x))

    def exhausted(self):
        return next(self.convolutions, None) is None and next(self.norms, None) is None


def test_resnet_is_the_papers():
    """He et al. 2016, section 4.2: post-activation blocks, identity shortcuts that skip pixels and pad zeros."""
    model = shaken("resnet20")
    images = torch.randn(2, 3, 32, 32)
    weights = Weights(model)
    x = F.relu(weights.norm(weights.conv(images)))
    for width in (16, 32, 64):
        for _ in range(3):
            stride = 1 if x.shape[1] == width else 2
            residual = F.relu(weights.norm(weights.conv(x, stride)))
            residual = weights.norm(weights.conv(residual))
            if stride == 2:
                padded = x.new_zeros(residual.shape)
                padded[:, width // 4 : width // 4 + x.shape[1]] = x[:, :, ::2, ::2]
                x = padded
            x = F.relu(residual + x)
    assert weights.exhausted()
    logits = model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
    torch.testing.assert_close(model(images), logits)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", ["pyramidnet110", "pyramidnet56"])
def test_pyramidnet_is_the_papers(case, training):
    """Han et al. 2017, figure 6d: BN-conv-BN-ReLU-conv-BN, shortcuts that pool and pad zeros behind."""
    options = CIFAR_NETWORKS[case][0]
    bottleneck, alpha = options.get("bottleneck", True), options["alpha"]
    depth = int(case.removeprefix("pyramidnet"))
    blocks = (depth - 2) // (9 if bottleneck else 6)
    model = shaken(case).train(training)
    images = torch.randn(2, 3, 32, 32)
    weights = Weights(model)
    x = weights.norm(weights.conv(images))
    for index in range(3 * blocks):
        stride = 2 if index in (blocks, 2 * blocks) else 1
        # Equation 3: D_k = floor(D_{k-1} + α / N); the published code rounds the running sum.
        width = round(16 + (index + 1) * alpha / (3 * blocks))
        residual = weights.conv(weights.norm(x), 1 if bottleneck else stride)
        residual = weights.conv(F.relu(weights.norm(residual)), stride if bottleneck else 1)
        if bottleneck:
            residual = weights.conv(F.relu(weights.norm(residual)))
        residual = weights.norm(residual)
        assert residual.shape[1] == width * (4 if bottleneck else 1)
        shortcut = F.avg_pool2d(x, 2) if stride == 2 else x
        zeros = shortcut.new_zeros(2, residual.shape[1] - shortcut.shape[1], *shortcut.shape[2:])
        x = residual + torch.cat([shortcut, zeros], 1)
    x = F.relu(weights.norm(x))
    assert weights.exhausted()
    logits = model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
    answer = model(images)
    torch.testing.assert_close(answer, logits)
    parameters = list(model.parameters())
    ours, theirs = (torch.autograd.grad(each.square().sum(), parameters) for each in (answer, logits))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_wide_resnet_is_the_papers(width, training):
    """Zagoruyko and Komodakis 2016, table 1 and figure 1d: BN-ReLU-conv-BN-ReLU-dropout-conv.

    A shortcut that changes the channels begins after the first ReLU; of width 1, the first stage has none.
    """
    model = shaken("wrn16", width=width, dropout=0.5).train(training)
    images = torch.randn(2, 3, 32, 32)
    torch.manual_seed(1)
    logits = model(images)
    weights = Weights(model)
    torch.manual_seed(1)  # The draws of dropout come in the same order.
    x = weights.conv(images)
    for channels in (16 * width, 32 * width, 64 * width):
        for block in range(2):
            stride = 2 if channels > 16 * width and block == 0 else 1
            activated = weights.norm_relu(x)
            residual = weights.norm_relu(weights.conv(activated, stride))
            residual = weights.conv(F.dropout(residual, 0.5, training))
            x = residual + (x if x.shape[1] == channels else weights.conv(activated, stride))
    x = weights.norm_relu(x)
    assert weights.exhausted()
    torch.testing.assert_close(logits, model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))


@pytest.mark.parametrize("case", ["preact_resnet18", "preact_resnet34"])
def test_preact_resnet_is_the_papers(case):
    """He et al. 2016b: BN-ReLU-conv twice; the first activation precedes the split, the last one the pooling."""
    model = shaken(case)
    images = torch.randn(2, 3, 16, 16)
    weights = Weights(model)
    x = weights.conv(images)
    for stage, blocks in enumerate((2, 2, 2, 2) if case == "preact_resnet18" else (3, 4, 6, 3)):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            activated = weights.norm_relu(x)
            residual = weights.conv(weights.norm_relu(weights.conv(activated, stride)))
            if stride == 2:
                x = weights.conv(activated, stride)
            elif stage == 0 and block == 0:
                x = activated
            x = residual + x
    x = weights.norm_relu(x)
    assert weights.exhausted()
    torch.testing.assert_close(model(images), model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))


@pytest.mark.parametrize("memory_saving", [False, True])
def test_densenet_is_the_papers(memory_saving):
    """Huang et al. 2017, section 3: a layer reads all features before it; BN-ReLU-conv 1×1, BN-ReLU-conv 3×3."""
    model = shaken("densenet_bc22", memory_saving=memory_saving)
    images = torch.randn(2, 3, 32, 32)
    weights = Weights(model)
    x = weights.conv(images)
    for block in range(3):
        for _ in range(3):
            bottleneck = weights.conv(weights.norm_relu(x))
            assert bottleneck.shape[1] == 4 * 12
            x = torch.cat([x, weights.conv(weights.norm_relu(bottleneck))], 1)
        if block < 2:
            halved = weights.conv(weights.norm_relu(x))
            assert halved.shape[1] == x.shape[1] // 2
            x = F.avg_pool2d(halved, 2)
    x = weights.norm_relu(x)
    assert weights.exhausted()
    torch.testing.assert_close(model(images), model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))


def test_resnext_is_the_papers():
    """Xie et al. 2017, equation 3 and figure 3a: x plus the sum of all paths, each computed on its own."""
    cardinality, base_width = 4, 8
    model = shaken("resnext11", cardinality=cardinality, base_width=base_width)
    images = torch.randn(2, 3, 32, 32)

    def normalise(x, norm, channels=slice(None)):
        statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return F.batch_norm(x, *(tensor[channels] for tensor in statistics))

    convolution, norm, _ = model.stem
    x = F.relu(normalise(F.conv2d(images, convolution.weight, padding=1), norm))
    for index, stage in enumerate((model.stage1, model.stage2, model.stage3)):
        (block,) = stage
        stride, width = (1, 2, 2)[index], base_width * 2**index
        reduce, norm1, _, transform, norm2, _, expand, norm3 = block.residual
        total = 0
        for path in range(cardinality):
            own = slice(path * width, (path + 1) * width)
            y = F.relu(normalise(F.conv2d(x, reduce.weight[own]), norm1, own))
            y = F.conv2d(y, transform.weight[own], stride=stride, padding=1)
            total = total + F.conv2d(F.relu(normalise(y, norm2, own)), expand.weight[:, own])
        projection, norm = block.shortcut
        x = F.relu(normalise(total, norm3) + normalise(F.conv2d(x, projection.weight, stride=stride), norm))
    torch.testing.assert_close(model(images), model.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)))


# Simonyan and Zisserman 2015, table 1: 3×3 convolutions by their channels, M for max-pooling
CONFIGURATIONS = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_vgg_is_the_papers(case):
    model = shaken(case)
    images = torch.randn(2, 3, 32, 32)
    weights = Weights(model)
    x = images
    for layer in CONFIGURATIONS[case].split():
        if layer == "M":
            x = F.max_pool2d(x, 2)
        else:
            x = weights.norm_relu(weights.conv(x))
            assert x.shape[1] == int(layer)
    assert weights.exhausted()
    torch.testing.assert_close(model(images), model.fc(x.flatten(1)))


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
