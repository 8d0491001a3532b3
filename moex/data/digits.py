"""scikit-learn's handwritten digits: 1,797 real images of 8×8 pixels that come with the library.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test set).
"""

from dataclasses import dataclass

import torch

from moex.data.dataset import Samples, SmallImages, split_by_class

TEST_SHARE = 0.3


@dataclass
class Digits(SmallImages):
    """The digits, split 70/30 by the seed with equal shares of each class on both sides."""

    name: str = "digits"

    shape = (1, 8, 8)
    num_classes = 10
    # Of all 1,797 images.
    mean = (0.3053,)
    std = (0.3759,)
    padding = 1
    # A mirrored digit is another sign, or none.
    flip = False

    def read(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`."""
        from sklearn import datasets

        values, labels = datasets.load_digits(return_X_y=True)
        # Ink from 0 to 16 becomes a pixel from 0 to 255.
        images = torch.from_numpy(values).reshape(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)
        everything = Samples(images, torch.from_numpy(labels).long())
        train, test = split_by_class(labels, TEST_SHARE, seed=seed)
        return {"train": everything.select(train), "test": everything.select(test)}
