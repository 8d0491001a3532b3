"""What workers do with a file: the pixels of torchvision's transforms on Pillow's images, or a reason."""

import io

import numpy as np
import pytest
import torch
import torchvision
from pictures import draw_picture, encode
from PIL import Image
from torchvision.transforms import functional as T

from moex.data.images.crops import draw, evaluation_crop, training_crop
from moex.data.images.decoding import UnreadableImage, decode, decode_pixels, resize


def published(content):
    """An image as torchvision's ImageFolder loads it."""
    return Image.open(io.BytesIO(content)).convert("RGB")


def palette():
    """With a transparent colour, of which Pillow warns when it is turned into another mode."""
    return encode(draw_picture(4).quantize(16), "PNG", transparency=bytes([0, 128, 255]))


def sixteen_bit():
    values = np.arange(70 * 90, dtype=np.uint16).reshape(70, 90) * 10
    return encode(Image.fromarray(values), "PNG")


def turned():
    """Taken with a camera on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(draw_picture(5), exif=exif.tobytes())


KINDS = {
    "JPEG": lambda: encode(draw_picture(0)),
    "grey JPEG": lambda: encode(draw_picture(1).convert("L")),
    "CMYK JPEG": lambda: encode(draw_picture(2).convert("CMYK")),
    "progressive JPEG": lambda: encode(draw_picture(3), progressive=True),
    "JPEG without subsampling": lambda: encode(draw_picture(3), subsampling=0),
    "JPEG with restarts": lambda: encode(draw_picture(3), restart_marker_blocks=1),
    "JPEG on its side": turned,
    "JPEG without its end": lambda: encode(draw_picture(6))[:-2] + bytes(100),
    "PNG": lambda: encode(draw_picture(4), "PNG"),
    "PNG with a palette": palette,
    "PNG of 16 bits": sixteen_bit,
    "PNG with transparency": lambda: encode(draw_picture(4).convert("RGBA"), "PNG"),
    "PNG of one bit": lambda: encode(draw_picture(4).convert("1"), "PNG"),
    "WEBP": lambda: encode(draw_picture(4), "WEBP"),
    "GIF": lambda: encode(draw_picture(4), "GIF"),
    "BMP": lambda: encode(draw_picture(4), "BMP"),
    "TIFF": lambda: encode(draw_picture(4), "TIFF"),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_published_ones_whatever_the_file(kind):
    content = KINDS[kind]()
    theirs = np.asarray(published(content))
    assert np.array_equal(np.asarray(decode(content).convert("RGB")), theirs)
    assert np.array_equal(decode_pixels(content), theirs)


def test_both_decoders_agree_on_photographs(photographs):
    modes = set()
    for path in photographs:
        content = path.read_bytes()
        image = decode(content)
        modes.add(image.mode)
        assert np.array_equal(decode_pixels(content), np.asarray(image.convert("RGB"))), path
    assert modes == {"L", "RGB"}


def test_training_crops_are_those_of_torchvision(photographs):
    for path, row in zip(photographs, draw(len(photographs), np.random.default_rng(0)), strict=True):
        content = path.read_bytes()
        image = published(content)
        crop = training_crop(*image.size, row, size=224)
        theirs = T.resized_crop(image, crop.top, crop.left, crop.height, crop.width, [224, 224])
        theirs = T.hflip(theirs) if crop.flip else theirs
        assert np.array_equal(resize(decode(content), crop), np.asarray(theirs)), path


@pytest.mark.parametrize("interpolation", [T.InterpolationMode.BILINEAR, T.InterpolationMode.BICUBIC])
def test_test_crops_are_those_of_torchvision(interpolation):
    for number, (width, height) in enumerate([(80, 97), (97, 80), (57, 56), (56, 56), (300, 40), (31, 33)]):
        image = draw_picture(number, width=width, height=height)
        theirs = T.center_crop(T.resize(image, [56], interpolation), [48, 48])
        ours = resize(image, evaluation_crop(width, height, resize=56, size=48), interpolation.value)
        assert np.array_equal(ours, np.asarray(theirs))


def without(count):
    return lambda: encode(draw_picture(6))[:-count]


UNREADABLE = {
    "cut off at its end": (without(100), "image file is truncated"),
    "cut off in its first half": (lambda: encode(draw_picture(6))[:900], "image file is truncated"),
    "cut off, progressive": (lambda: encode(draw_picture(6), progressive=True)[:-20], "image file is truncated"),
    "cut off, CMYK": (lambda: encode(draw_picture(6).convert("CMYK"))[:-100], "image file is truncated"),
    "cut off, PNG": (lambda: encode(draw_picture(6), "PNG")[:-900], "truncated"),
    "cut off in its header": (lambda: encode(draw_picture(6))[:100], "."),
    "damaged": (lambda: encode(draw_picture(6), "PNG").replace(b"IDAT", b"IDAX", 1), "."),
    "empty": (lambda: b"", "no image of a known format: JPEG, PNG"),
    "a text": (lambda: b"<html>not found</html>", "no image of a known format: JPEG, PNG"),
    # Pillow would have Ghostscript run it.
    "a program": (lambda: encode(draw_picture(6), "EPS"), "no image of a known format: JPEG, PNG"),
}


@pytest.mark.parametrize("read", [decode, decode_pixels])
@pytest.mark.parametrize(("create", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_cannot_be_read_has_a_reason(create, reason, read):
    with pytest.raises(UnreadableImage, match=reason) as caught:
        read(create())
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [decode, decode_pixels])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("limit", [90 * 70 - 1, 90 * 70 // 2 - 1], ids=["Pillow warns", "Pillow refuses"])
def test_bombs_are_refused_before_they_are_decoded(monkeypatch, limit, kind, read):
    content = KINDS[kind]()
    read(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(torchvision.io, "decode_jpeg", None)
    with pytest.raises(UnreadableImage, match=r"Image size \(6300 pixels\) exceeds limit of .* decompression bomb"):
        read(content)


def test_decoders_do_not_wonder_aloud(recwarn, capfd):
    for read in (decode, decode_pixels):
        read(palette())
        read(turned()[:-2] + b"\xff\xd9 and more")
    assert not recwarn
    assert capfd.readouterr() == ("", "")


def test_grey_is_resized_as_three_equal_channels():
    image = draw_picture(1).convert("L")
    crop = training_crop(*image.size, draw(1, np.random.default_rng(3))[0], size=48)
    assert np.array_equal(resize(image, crop), resize(image.convert("RGB"), crop))
    assert torch.from_numpy(resize(image, crop).copy()).shape == (48, 48, 3)
