"""The exchange made visible: features at the stem, turned back into pixels by their nearest neighbours.

A feature vector of the stem depends on a patch of the image. To show what an exchanged one looks like, the patch is
found, among those of many images, whose own feature vector is nearest to it; the pixel at its centre is shown.
"""

import numpy as np
import torch
from torch import Tensor, nn

from moex import data, models
from moex.data import TEST, TRAIN, SmallImages
from moex.features import record_features
from moex.normalisation import exchange_moments, moments
from moex.points import points_of
from moex.reporting.site.exchange import Exchange, Pair, Shown

NETWORK, OPTIONS = "pyramidnet20", {"alpha": 16}
PAIRS, BANK = 3, 64
# Feature vectors compared at once with all of the bank.
CHUNK = 256


def decode(features: Tensor, bank: Tensor, pixels: Tensor) -> Tensor:
    """For each place, the pixel whose feature vector is nearest.

    Args:
        features: `[B, C, H, W]`.
        bank: `[M, C, H', W']`, features of other images.
        pixels: `[M, K, H', W']`, those images.

    Returns:
        `[B, K, H, W]`.
    """
    queries, known, colours = (_as_rows(each) for each in (features, bank, pixels))
    nearest = torch.cat([torch.cdist(chunk, known).argmin(dim=1) for chunk in queries.split(CHUNK)])
    batch, _, height, width = features.shape
    return colours[nearest].reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def show_exchange(name: str, *, root: str, seed: int = 0) -> Exchange:
    """Some pairs of a data set's test images, before and after the exchange of their moments.

    Args:
        name: of a data set of small images: `digits`, `cifar10`, `cifar100`, `imagenet32` or `imagenet64`.
        root: the folder that holds it.
        seed: of the choice of images and of the weights.

    Raises:
        ValueError: it is no such data set, or its files are missing or damaged.
    """
    kind = data.find(name)
    if not issubclass(kind, SmallImages):
        raise ValueError(f"the exchange is shown on small images: {name!r} has none; digits and cifar100 have")
    dataset = kind(root=root)
    splits = dataset.read(seed=seed)
    generator = np.random.default_rng(seed)
    chosen = _choose_pairs(splits[TEST].labels, generator)
    others = generator.choice(len(splits[TRAIN].labels), BANK, replace=False)
    images = splits[TEST].inputs[chosen.ravel()].float() / 255
    bank = splits[TRAIN].inputs[others].float() / 255
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = models.create(NETWORK, num_classes=2, in_channels=dataset.shape[0], **OPTIONS)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (dataset.mean, dataset.std))
    _fit_statistics(network, (bank - mean) / std)
    stem = {"stem": points_of(network)["stem"]}
    features, bank_features = (record_features(network, stem, (each - mean) / std)["stem"] for each in (images, bank))
    swap = torch.arange(len(images)).view(-1, 2).flip(1).ravel()
    decoded = {"none": decode(features, bank_features, bank)}
    for norm in ("pono", "in"):
        decoded[norm] = decode(exchange_moments(features, swap, norm), bank_features, bank)
    exchanged = exchange_moments(features, swap)
    means, deviations = moments(features)
    pairs = []
    for number in range(len(chosen)):
        a, b = 2 * number, 2 * number + 1
        pair_features = [_mosaic(each) for each in (features[a], features[b], exchanged[a])]
        pairs.append(
            Pair(
                f"Test images {chosen[number, 0]} (A) and {chosen[number, 1]} (B)",
                [
                    [_shown("A", images[a]), _shown("B", images[b]), _shown("A with B's PONO", decoded["pono"][a])],
                    [
                        _shown("A decoded", decoded["none"][a]),
                        _shown("B decoded", decoded["none"][b]),
                        _shown("A with B's IN", decoded["in"][a]),
                    ],
                    [
                        Shown(title, image)
                        for title, image in zip(
                            ("features of A", "features of B", "of A with B's PONO"), pair_features, strict=True
                        )
                    ],
                    [
                        _shown("PONO mean of A", means[a]),
                        _shown("PONO mean of B", means[b]),
                        _shown("PONO deviation of B", deviations[b]),
                    ],
                ],
            )
        )
    count = features.shape[1]
    return Exchange(
        dataset=f"{name}, its test set, chosen by seed {seed}",
        network=f"{count} channels at the stem of a PyramidNet, a 3×3 convolution and BatchNorm, with weights as "
        "drawn before any training",
        bank=f"{BANK} training images",
        pairs=pairs,
    )


def _choose_pairs(labels: Tensor, generator: np.random.Generator) -> np.ndarray:
    """Places of images of different classes, `[PAIRS, 2]`."""
    order = generator.permutation(len(labels))
    _, first = np.unique(labels.numpy()[order], return_index=True)
    return order[np.sort(first)[: 2 * PAIRS]].reshape(PAIRS, 2)


def _fit_statistics(network: nn.Module, images: Tensor) -> None:
    """Gives every BatchNorm the statistics of some images, as training would by and by."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(images)


def _as_rows(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def _shown(title: str, image: Tensor) -> Shown:
    channels_last = image.permute(1, 2, 0).numpy()
    return Shown(title, channels_last if len(image) == 3 else channels_last[..., 0])


def _mosaic(features: Tensor) -> np.ndarray:
    """All channels of one sample side by side, in as many rows as columns."""
    side = int(len(features) ** 0.5)
    _, height, width = features.shape
    grid = features[: side * side].view(side, side, height, width)
    return grid.permute(0, 2, 1, 3).reshape(side * height, side * width).numpy()
