"""scikit-learn's handwritten digits: 1,797 real images of 8×8 pixels that come with the library.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set).
"""

import torch

from moex.data.dataset import ImageDataset

TEST_SHARE = 0.3


def load_digits(*, seed: int) -> ImageDataset:
    """The digits, split 70/30 by `seed` with equal shares of each class on both sides."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    values, labels = datasets.load_digits(return_X_y=True)
    train, test = train_test_split(range(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=seed)
    # Ink from 0 to 16 becomes a pixel from 0 to 255.
    images = torch.from_numpy(values).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
    targets = torch.from_numpy(labels).long()
    return ImageDataset(
        name="digits",
        train_images=images[train],
        train_labels=targets[train],
        test_images=images[test],
        test_labels=targets[test],
        classes=tuple("0123456789"),
        # Of all 1,797 images.
        mean=(0.3053,),
        std=(0.3759,),
        padding=1,
        # A mirrored digit is another sign, or none.
        flip=False,
    )
