"""The exchange made visible: each place shows the pixel of the nearest feature vector, of real images."""

import numpy as np
import pytest
import torch

import moex
from moex.reproduction.decoding import decode, show_exchange


def test_a_place_shows_the_pixel_whose_features_are_nearest():
    generator = torch.Generator().manual_seed(0)
    features, bank = (torch.randn(count, 5, 4, 3, generator=generator) for count in (2, 7))
    pixels = torch.rand(7, 3, 4, 3, generator=generator)
    decoded = decode(features, bank, pixels)
    for sample in range(2):
        for row in range(4):
            for column in range(3):
                vector = features[sample, :, row, column]
                distances = ((bank - vector[:, None, None]) ** 2).sum(dim=1)
                image, y, x = np.unravel_index(distances.argmin().item(), distances.shape)
                assert torch.equal(decoded[sample, :, row, column], pixels[image, :, y, x])


def test_features_of_the_bank_are_decoded_without_loss():
    pixels = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    features = moex.exchange_moments(torch.cat([pixels, 1 - pixels, pixels**2], dim=1), torch.tensor([1, 2, 0]))
    assert torch.equal(decode(features, features, pixels), pixels)


def test_real_digits_before_and_after_the_exchange():
    shown = show_exchange("digits", root="nowhere")
    assert "before any training" in shown.network
    assert len(shown.pairs) == 3
    for pair in shown.pairs:
        images = {part.title: part.image for row in pair.rows for part in row}
        for title in ("A", "B", "A decoded", "A with B's PONO", "A with B's IN", "PONO mean of B"):
            assert images[title].shape == (8, 8), title
        assert images["features of A"].shape == (32, 32)
        # What was exchanged has B's mean and deviation at each place, over the 16 channels.
        channels = images["of A with B's PONO"].reshape(4, 8, 4, 8).transpose(0, 2, 1, 3).reshape(16, 8, 8)
        assert channels.mean(axis=0) == pytest.approx(images["PONO mean of B"], abs=1e-3)
        assert channels.std(axis=0, ddof=1) == pytest.approx(images["PONO deviation of B"], abs=1e-3)
        # The decoder by itself loses little; the exchange changes what is seen.
        assert np.abs(images["A decoded"] - images["A"]).mean() < 0.1
        assert np.mean(images["A with B's PONO"] != images["A decoded"]) > 0.2
    again = show_exchange("digits", root="nowhere")
    assert np.array_equal(again.pairs[2].rows[0][2].image, shown.pairs[2].rows[0][2].image)


def test_what_has_no_small_images():
    with pytest.raises(ValueError, match="the exchange is shown on small images: 'speech_commands' has none"):
        show_exchange("speech_commands", root="nowhere")
