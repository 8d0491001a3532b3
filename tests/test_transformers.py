"""MoEx among the tokens of ViT, DeiT and Swin: which dimension is which, and what becomes of the class token.

Random weights, three blocks. The reference goes through the tokens in NumPy, one after the other.
"""

import functools

import numpy as np
import pytest
import torch
from composition import composed

import moex
from moex import models
from moex.features import record_features
from moex.run.checks import check_network

SIZES = {"img_size": 32, "patch_size": 4, "embed_dim": 24, "num_heads": 2, "depth": 3}
STAGES = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
# Each network with its options, and the shapes of its tokens by layer: the class token is one more after blocks.
NETWORKS = {
    "timm:vit_tiny_patch16_224": (
        SIZES,
        {"patch_embed": (4, 64, 24), "blocks.0": (4, 65, 24), "blocks.2": (4, 65, 24)},
    ),
    "timm:deit_tiny_patch16_224": (
        SIZES,
        {"patch_embed": (4, 64, 24), "blocks.0": (4, 65, 24), "blocks.2": (4, 65, 24)},
    ),
    "timm:deit_tiny_distilled_patch16_224": (SIZES, {"blocks.0": (4, 66, 24)}),
    "timm:swin_tiny_patch4_window7_224": (
        STAGES,
        {
            "patch_embed": (4, 8, 8, 12),
            "layers.0.blocks.0": (4, 8, 8, 12),
            "layers.1.downsample": (4, 4, 4, 24),
            "layers.1": (4, 4, 4, 24),
        },
    ),
}
SWIN = "timm:swin_tiny_patch4_window7_224"
# Its embedding ends in a LayerNorm, and to fresh weights a block hardly adds to it.
CONSTANT = {(SWIN, "patch_embed", "pono"), (SWIN, "patch_embed", "ln"), (SWIN, "layers.0.blocks.0", "ln")}
CASES = {
    (name, layer, norm) for name, (_, layers) in NETWORKS.items() for layer in layers for norm in ("pono", "ln", "in")
}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
LABELS = torch.tensor([0, 1, 2, 3])


@pytest.fixture(scope="module")
def create():
    """Networks by name, each made once."""

    @functools.cache
    def create(name):
        torch.manual_seed(0)
        return models.create(name, num_classes=4, **NETWORKS[name][0]).double().eval()

    return create


def moments(tokens, norm):
    """Of one sample's tokens `[N, C]`: for each entry, what its set of entries has."""
    means, deviations = np.empty_like(tokens), np.empty_like(tokens)
    if norm == "pono":
        for number, token in enumerate(tokens):
            means[number], deviations[number] = token.mean(), np.sqrt(token.var(ddof=1) + 1e-5)
    elif norm == "in":
        for channel, values in enumerate(tokens.T):
            means[:, channel], deviations[:, channel] = values.mean(), np.sqrt(values.var(ddof=1) + 1e-5)
    else:
        means[:], deviations[:] = tokens.mean(), np.sqrt(tokens.var(ddof=1) + 1e-5)
    return means, deviations


def exchanged(features, perm, norm):
    """The features `[B, ..., C]` as they are after the exchange."""
    samples = features.reshape(len(features), -1, features.shape[-1])
    rows = []
    for own, partner in zip(samples, samples[perm], strict=True):
        (mean, deviation), (other_mean, other_deviation) = moments(own, norm), moments(partner, norm)
        rows.append((own - mean) / deviation * other_deviation + other_mean)
    return np.stack(rows).reshape(features.shape)


def mix(model, **settings):
    """Two passes of a network in a mixing list: features before and after the exchange, and the partners."""
    layer = settings["layer"]
    (before,) = record_features(model, {"": layer}, IMAGES).values()
    mixing = moex.Mixing(model, [moex.MoEx(probability=1.0, weight=0.0, **settings)], num_classes=4)
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output.detach()))
    try:
        with mixing(IMAGES, LABELS) as (images, targets):
            model(images)
    finally:
        handle.remove()
        mixing.remove()
    # With λ = 0 the labels are those of the partners.
    return before.numpy(), seen[-1].numpy(), targets.argmax(1).numpy()


@pytest.mark.parametrize(("name", "layer", "norm"), sorted(CASES - CONSTANT))
def test_moments_of_tokens(name, layer, norm, create):
    before, after, partners = mix(create(name), layer=layer, norm=norm)
    assert before.shape == NETWORKS[name][1][layer]
    assert sorted(partners) == [0, 1, 2, 3]
    np.testing.assert_allclose(after, exchanged(before, partners, norm))


@pytest.mark.parametrize(("name", "layer", "norm"), sorted(CONSTANT))
def test_constant_moments_are_refused(name, layer, norm, create):
    message = rf"after '{layer}' changes the features by .* as after a LayerNorm; it acts after .*stage2"
    with pytest.raises(ValueError, match=message) as caught:
        mix(create(name), layer=layer, norm=norm)
    assert len(str(caught.value).splitlines()) == 1


def test_the_class_token_is_a_token(create):
    """By PONO it takes the moments of the partner's; by IN it is one of the positions that moments are of."""
    model = create("timm:vit_tiny_patch16_224")
    before, after, partners = mix(model, layer="blocks.0", norm="pono")
    np.testing.assert_allclose(after[:, 0].mean(-1), before[partners, 0].mean(-1))
    assert np.abs(after[:, 0] - before[:, 0]).max() > 1e-3
    before, after, partners = mix(model, layer="blocks.0", norm="in")
    np.testing.assert_allclose(after.mean(1), before[partners].mean(1))
    assert np.abs(after[:, 1:].mean(1) - before[partners, 1:].mean(1)).max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_from_a_command_line(name):
    """train.py looks at the same network, through its configuration, before anything is trained."""
    sizes = ((key, str(value).replace("(", "[").replace(")", "]")) for key, value in NETWORKS[name][0].items())
    options = [f"+model.options.{key}={value}" for key, value in sizes]
    for layer in NETWORKS[name][1]:
        command = ["dataset=cifar100", "model=timm", f"model.name={name}", *options, "augmentation=moex"]
        check_network(composed(*command, f"augmentation.moex.layer={layer}", "augmentation.moex.norm=in"))
    if name == SWIN:
        with pytest.raises(ValueError, match=r"as after a LayerNorm; it acts after .*stage2"):
            check_network(composed(*command, "augmentation.moex.layer=patch_embed"))
