"""Where features can be changed in the networks of torchvision and timm, and which of their dimensions is which."""

import functools

import pytest
import torch
from torch import nn

import moex
from moex import models
from moex.exchange import ACTS, relative_change
from moex.features import record_features
from moex.points import Channels, channels_of, find_channel_dim, resolve_layer

# Of each family: the recommended layer and the second stage, the channels' dimension, and the options of a small one.
SWIN = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": (1, 1), "num_heads": (1, 2)}
FAMILIES = {
    "torchvision:resnet18": ("maxpool", "layer2", 1, {}),
    "torchvision:resnext50_32x4d": ("maxpool", "layer2", 1, {}),
    "torchvision:densenet121": ("features.pool0", "features.denseblock2", 1, {}),
    "torchvision:efficientnet_b0": ("features.0", "features.2", 1, {}),
    "torchvision:regnet_y_400mf": ("stem", "trunk_output.block2", 1, {}),
    "torchvision:convnext_tiny": ("features.3", "features.3", 1, {}),
    "torchvision:vit_b_16": ("conv_proj", "encoder.layers.encoder_layer_1", 1, {"image_size": 64}),
    "torchvision:swin_t": ("features.3", "features.3", -1, {}),
    "timm:resnet18": ("maxpool", "layer2", 1, {}),
    "timm:resnext50_32x4d": ("maxpool", "layer2", 1, {}),
    "timm:densenet121": ("features.pool0", "features.denseblock2", 1, {}),
    "timm:efficientnet_b0": ("bn1", "blocks.1", 1, {}),
    "timm:regnety_004": ("stem", "s2", 1, {}),
    "timm:convnext_atto": ("stages.1", "stages.1", 1, {}),
    "timm:vit_tiny_patch16_224": ("patch_embed", "blocks.1", -1, {"img_size": 64, "depth": 2}),
    "timm:deit_tiny_patch16_224": ("patch_embed", "blocks.1", -1, {"img_size": 64, "depth": 2}),
    "timm:swin_tiny_patch4_window7_224": ("layers.1", "layers.1", -1, SWIN),
}
# Their stem ends in a LayerNorm, after which the moments of a position are constant.
NORMALISED = [name for name in FAMILIES if "convnext" in name or "swin" in name]


@pytest.fixture(scope="module")
def create():
    """Networks by name, each made once; in evaluation mode, since a batch is small."""

    @functools.cache
    def create(name):
        torch.manual_seed(0)
        return models.create(name, num_classes=5, **FAMILIES[name][3]).eval()

    return create


def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
def test_at_the_recommended_layer_the_exchange_acts(name, create):
    """It changes the features by more than 1 %, along the channels."""
    layer, second, channel_dim, _ = FAMILIES[name]
    model = create(name)
    points = models.points_of(model)
    assert (points["recommended"], points["stage2"]) == (layer, second)
    assert resolve_layer(model, "recommended") == layer
    features = record_features(model, {"": layer}, images())[""]
    found = find_channel_dim(features, channels_of(model, layer), asked=None, layer=layer)
    assert found % features.ndim == channel_dim % features.ndim
    perm = torch.tensor([1, 0])
    expected = moex.exchange_moments(features, perm, channel_dim=channel_dim)
    assert (relative_change(features, expected) > ACTS).all()
    seen = []
    exchange = moex.MomentExchange(model, "recommended")
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with exchange.swap(perm):
        model(images())
    handle.remove()
    exchange.remove()
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("name", NORMALISED)
def test_a_stem_that_ends_in_a_layer_norm_is_refused(name, create):
    model = create(name)
    exchange = moex.MomentExchange(model, "stem")
    with (
        pytest.raises(ValueError, match=r"as after a LayerNorm; it acts after .*stage2"),
        exchange.swap(torch.tensor([1, 0])),
    ):
        model(images())
    exchange.remove()


@pytest.mark.parametrize("name", [name for name, (*_, dim, _) in FAMILIES.items() if dim == -1])
def test_a_wrong_dimension_of_tokens_is_refused(name, create):
    model = create(name)
    exchange = moex.MomentExchange(model, "stage1", channel_dim=1)
    with pytest.raises(ValueError, match="is not the channels: the layer has"), exchange.swap(torch.tensor([1, 0])):
        model(images())
    exchange.remove()


def test_our_networks_recommend_their_stem():
    points = models.points_of(models.create("pyramidnet11", num_classes=5, alpha=12))
    assert points == {"recommended": "bn1", "stem": "bn1", "stage1": "stage1", "stage2": "stage2", "stage3": "stage3"}


@pytest.mark.parametrize(
    ("shape", "channels", "asked", "found"),
    [
        ((2, 6, 8, 8), Channels(6, 4), None, 1),
        ((2, 18, 8, 8), Channels(6, 4), None, 1),  # A dense block: its last convolution adds a few of its channels.
        ((2, 6, 8), Channels(6, 3), None, 1),  # Sound
        ((2, 9, 6), Channels(6, None), None, 2),  # Tokens
        ((2, 6, 6), Channels(6, None), None, 2),  # As many tokens as channels
        ((2, 9, 6), Channels(6, 4), None, 2),  # Patches of a convolution, flattened
        ((2, 8, 8, 6), Channels(6, None), None, 3),  # Swin
        ((2, 6, 8, 8), Channels(6, None), None, 1),  # ConvNeXt: linear layers inside, images outside
        ((2, 6, 8, 8), None, None, 1),
        ((2, 6, 8, 8), Channels(6, 4), -3, -3),
        ((2, 5, 7), None, 2, 2),
        ((2, 5, 7), None, None, "do not tell which dimension holds the channels"),
        ((2, 6, 6, 6), Channels(6, None), None, "do not tell which"),
        ((2, 9, 6), Channels(6, None), 1, "channel_dim 1 of the features .* has 6, so it must be -1"),
        ((2, 6, 8, 8), Channels(6, 4), -1, "has 6, so it must be 1"),
    ],
)
def test_the_dimension_of_the_channels(shape, channels, asked, found):
    features = torch.empty(shape, device="meta")
    if isinstance(found, int):
        assert find_channel_dim(features, channels, asked=asked, layer="layer") == found
    else:
        with pytest.raises(ValueError, match=found):
            find_channel_dim(features, channels, asked=asked, layer="layer")


@pytest.mark.parametrize(
    ("shape", "channels", "batch_dim", "found"),
    [
        ((9, 2, 6), Channels(6, None), 1, 2),  # Sequences, time first
        ((9, 2, 6), Channels(6, 3), 1, 2),  # After a convolution, whose channels are elsewhere by then
        ((6, 6, 2), Channels(6, None), -1, 1),  # As many steps as channels
        ((6, 2, 9), Channels(6, None), 1, 0),
        ((8, 8, 2, 6), Channels(6, 4), 2, 3),
        ((8, 8, 2, 6), None, 2, "do not tell which dimension holds the channels"),
    ],
)
def test_the_dimension_of_the_channels_where_samples_are_not_first(shape, channels, batch_dim, found):
    features, options = torch.empty(shape, device="meta"), {"asked": None, "layer": "layer", "batch_dim": batch_dim}
    if isinstance(found, int):
        assert find_channel_dim(features, channels, **options) == found
    else:
        with pytest.raises(ValueError, match=found):
            find_channel_dim(features, channels, **options)


def test_recorded_features_leave_the_network_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    features = record_features(model, {"second": "1", "first": "0"}, images())
    assert list(features) == ["first", "second"]
    assert (features["second"] < 0).any(), "the rectifier that follows writes into its input"
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
