"""From the bytes of files to pixels, by Pillow, whose pixels are the published ones: what a worker does."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from moex.data.images.crops import Crop, Draws, evaluation_crop, training_crop
from moex.data.images.encoded import EncodedImages
from moex.data.images.parts import Answer, Pixels, Work
from moex.data.images.resize import Boxes, join_boxes, plan_passes

# What photographs come in. Not all that Pillow knows: for some formats it runs other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Pixels of a box that is left to the device. To carry a larger one costs more than to resize it.
LARGEST_BOX = 512 * 512


class UnreadableImage(Exception):
    """A file holds no image that can be decoded whole; why not."""


@dataclass(frozen=True)
class Decoder:
    """Decodes parts of batches, each the same wherever and whenever.

    Attributes:
        images: those of the split.
        size: of the squares, in pixels.
        resize: of the shorter side in the test transform, in pixels.
        interpolation: `bilinear` or `bicubic`.
        boxes: whether to leave resizing to the device.
        spares: how many unreadable samples may be passed over to fill a place; 0: places stay empty.
    """

    images: EncodedImages
    size: int
    resize: int
    interpolation: str
    boxes: bool
    spares: int

    @property
    def slot_size(self) -> int:
        """Bytes that the pixels of one image take at most."""
        return 3 * (max(LARGEST_BOX, self.size**2) if self.boxes else self.size**2)

    def decode(self, slots: Pixels, work: Work) -> Answer:
        """Decodes one part into its slot."""
        unreadable: dict[int, str] = {}
        samples: list[int] = []
        crops: list[Crop] = []
        slot, used = slots[work.slot], 0
        for row, place in enumerate(work.samples.tolist()):
            draws = None if work.draws is None else work.draws[row]
            for step in range(self.spares + 1):
                sample = (place + step) % len(self.images)
                if sample in unreadable:
                    continue
                try:
                    cut, crop = self._cut(self.images.read(sample), draws)
                except (OSError, UnreadableImage) as error:
                    unreadable[sample] = f"{self.images.name(sample)} ({error})"
                    continue
                slot[used : used + cut.size].reshape(cut.shape)[...] = cut
                used += cut.size
                samples.append(sample)
                crops.append(crop)
                break
        passes = plan_passes(crops) if self.boxes else None
        return Answer(np.array(samples, dtype=np.int64), passes, unreadable, work.is_last, work.slot)

    def find_images(self, slots: Pixels, answer: Answer) -> Tensor | Boxes:
        """What a part has in its slot: squares, uint8 `[k, 3, S, S]`, or boxes."""
        slot = slots[answer.slot]
        if answer.passes is not None:
            return join_boxes(slot, answer.passes, self.interpolation)
        shape = (len(answer.samples), self.size, self.size, 3)
        return torch.from_numpy(slot[: math.prod(shape)].reshape(shape)).permute(0, 3, 1, 2)

    def _cut(self, content: bytes, draws: Draws | None) -> tuple[Pixels, Crop]:
        """What is taken of an image, and what is left to do with it."""
        if not self.boxes:
            image = decode(content)
            return resize(image, self._crop(image.width, image.height, draws), self.interpolation), Crop.whole(
                self.size
            )
        pixels = decode_pixels(content)
        height, width, _ = pixels.shape
        crop = self._crop(width, height, draws)
        if crop.width * crop.height > LARGEST_BOX:
            return resize(Image.fromarray(pixels), crop, self.interpolation), Crop.whole(self.size)
        return pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width], crop

    def _crop(self, width: int, height: int, draws: Draws | None) -> Crop:
        if draws is None:
            return evaluation_crop(width, height, resize=self.resize, size=self.size)
        return training_crop(width, height, draws, size=self.size)


def decode(content: bytes) -> Image.Image:
    """A whole image, grey (`L`) or in colours (`RGB`). The file's orientation is left as it is, as published.

    Raises:
        UnreadableImage: it is no image, it is truncated or damaged, or it has more pixels than Pillow trusts.
    """
    with _reading():
        return _load(Image.open(io.BytesIO(content), formats=FORMATS))


def decode_pixels(content: bytes) -> Pixels:
    """The same in colours, `[height, width, 3]`: of JPEG files by torchvision, where that is the shorter way.

    The decoder is libjpeg-turbo in both, and so are the bits. What torchvision refuses is decided by Pillow, which
    refuses less.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    with _reading():
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        if image.format == "JPEG" and image.mode in ("L", "RGB"):
            with suppress(RuntimeError):
                # That the file's bytes cannot be written to is what torch only wonders about.
                file = torch.frombuffer(content, dtype=torch.uint8)
                return np.asarray(decode_jpeg(file, ImageReadMode.RGB).permute(1, 2, 0))
        return _array(_load(image))


def resize(image: Image.Image, crop: Crop, interpolation: str = "bilinear") -> Pixels:
    """The square of a crop, `[size, size, 3]`, to the bit as torchvision's transforms make it of a Pillow image."""
    left, top, width, height = crop[:4]
    if (left, top, width, height) != (0, 0, *image.size):
        image = image.crop((left, top, left + width, top + height))
    image = image.resize((crop.resized_width, crop.resized_height), Image.Resampling[interpolation.upper()])
    if image.size != (crop.size, crop.size):
        image = image.crop((crop.x, crop.y, crop.x + crop.size, crop.y + crop.size))
    if crop.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Grey until here: one channel is resized instead of three.
    return _array(image)


@contextmanager
def _reading() -> Iterator[None]:
    """Whatever the decoders do not like becomes an `UnreadableImage`; what they only wonder about is not told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except UnidentifiedImageError:
            reason = f"no image of a known format: {', '.join(FORMATS)}"
        # Pillow promises no kind of error for what is damaged.
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
        else:
            return
    raise UnreadableImage(reason)


def _load(image: Image.Image) -> Image.Image:
    if image.mode not in ("L", "RGB"):
        return image.convert("RGB")
    image.load()
    return image


def _array(image: Image.Image) -> Pixels:
    image = image if image.mode == "RGB" else image.convert("RGB")
    # What np.asarray does, without asking for the bytes several times.
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)
