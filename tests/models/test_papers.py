"""Each family of networks against its paper, written out plainly."""

import pytest
import torch
from cifar_networks import CIFAR_NETWORKS, shaken
from torch import nn
from torch.nn import functional as F


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
