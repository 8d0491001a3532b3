"""The source of images that lie in files: workers decode them ahead of the loop, the device does the rest."""

import functools
import importlib
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Set
from contextlib import closing
from itertools import chain, cycle, islice

import numpy as np
import torch
from torch import Tensor

from moex.data.images.crops import draw
from moex.data.images.encoded import EncodedImages
from moex.data.images.normalise import Normaliser
from moex.data.images.parts import Answer, Part, Work, create_slots
from moex.data.images.resize import Boxes, resize, to_device
from moex.data.images.workers import count_workers, work_ahead
from moex.data.naming import first
from moex.data.source import Batches, Request, Source, SourceError

# Images that a worker takes at once: more save it nothing, and fewer would keep the main process busy.
PART = 32
# How far workers are ahead, at least: batches, and parts that wait for each of them.
BATCHES_AHEAD, PARTS_AHEAD = 2, 2


class StreamedImages(Source):
    """Images as files, decoded and cropped by workers, normalised on the device."""

    def __init__(
        self,
        images: EncodedImages,
        labels: Tensor,
        *,
        size: int,
        resize: int,
        interpolation: str = "bilinear",
        mean: tuple[float, ...],
        std: tuple[float, ...],
        training: bool,
        workers: int | None,
        decode: str,
        on_error: str,
        max_unreadable: float,
        device: torch.device,
        channels_last: bool,
    ) -> None:
        """Starts nothing yet: there are workers while there are batches to come.

        Args:
            images: of the split.
            labels: int64 `[N]`.
            size: of the squares that a network sees, in pixels.
            resize: of the shorter side in the test transform, in pixels.
            interpolation: `bilinear` or `bicubic`, as Pillow's.
            mean: of each channel, for pixels in [0, 1].
            std: of each channel, for pixels in [0, 1].
            training: whether the next readable sample takes the place of one that cannot be read; else it is left
                out. Transforms are a request's matter.
            workers: processes that decode; 0: this one does; None: one for each core that is this rank's.
            decode: `exact`, workers resize, or `device`, the device does, to the same bits.
            on_error: of an image that cannot be read: `fail` or `skip`.
            max_unreadable: the share of the split that may be skipped.
            device: where batches are to be.
            channels_last: the memory format of the batches.
        """
        # What workers need is imported here, before they are forked.
        from moex.data.images.decoding import Decoder

        if decode == "device":
            importlib.import_module("torchvision.io")

        self._images, self._labels = images, labels.to(device)
        self._size = size
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self._normalise = Normaliser(mean, std, device=device, memory_format=memory_format)
        self._skips, self._share = on_error == "skip", max_unreadable
        # 29 are the share 0.29 of 100, which float64 takes for a little less.
        self._most = int(round(max_unreadable * len(images), 6))
        spares = self._most if self._skips and training else 0
        self._decoder = Decoder(
            images, size=size, resize=resize, interpolation=interpolation, boxes=decode == "device", spares=spares
        )
        self._workers = count_workers() if workers is None else workers
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._unreadable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._images)

    @property
    def unreadable(self) -> Set[int]:
        """See `Source`."""
        return self._unreadable.keys()

    def know_unreadable(self, samples: Set[int]) -> None:
        """See `Source`."""
        self._skip({sample: self._images.name(sample) for sample in samples})

    def batches(self, requests: Iterable[Request]) -> Batches:
        """See `Source`."""
        with closing(self.decoded(requests)) as decoded:
            while True:
                start = time.monotonic()
                parts = next(decoded, None)
                self.waited += time.monotonic() - start
                if parts is None:
                    return
                yield self.deliver(parts)

    def decoded(self, requests: Iterable[Request]) -> Generator[list[Part], None, None]:
        """The parts of each batch, as workers leave them: on the CPU, until the next batch is asked for.

        Raises:
            SourceError: images cannot be read, or a worker died.
        """
        requests = iter(requests)
        # A look at a few samples needs no workers.
        first = list(islice(requests, 2))
        size = max((len(request.share) for request in first), default=0)
        workers = 0 if len(first) < 2 and size <= PART else self._workers
        per_batch = _count_parts(size)
        ahead = max(PARTS_AHEAD, -(-BATCHES_AHEAD * per_batch // max(1, workers)))
        # Those of the batch that is being made, and of all that is worked at meanwhile.
        slots = create_slots(per_batch + workers * ahead, PART * self._decoder.slot_size)
        work = _split(chain(first, requests), slots=len(slots), per_batch=per_batch)
        decode = functools.partial(self._decoder.decode, slots)
        answers: list[Answer] = []
        with closing(work_ahead(decode, work, workers=workers, ahead=ahead)) as results:
            for answer in results:
                answers.append(answer)
                if answer.is_last:
                    self._check(answers)
                    yield [
                        Part(torch.from_numpy(done.samples), self._decoder.find_images(slots, done))
                        for done in answers
                    ]
                    answers = []

    def _check(self, answers: list[Answer]) -> None:
        """Looks whether all of a batch could be read, or enough of the split."""
        unreadable = {sample: reason for answer in answers for sample, reason in answer.unreadable.items()}
        if self._skips:
            self._skip(unreadable)
        elif unreadable:
            raise SourceError(
                f"{len(unreadable)} image{'s' if len(unreadable) > 1 else ''} of a batch cannot be read: "
                f"{_name_first(unreadable)}. Mend or remove what is damaged, or set dataset.on_error=skip"
            )

    def _skip(self, unreadable: Mapping[int, str]) -> None:
        self._unreadable = {**unreadable, **self._unreadable}
        if len(self._unreadable) > self._most:
            raise SourceError(
                f"{len(self._unreadable)} of {len(self)} images cannot be read, more than the share that "
                f"dataset.max_unreadable={self._share:g} allows: {_name_first(self._unreadable)}"
            )

    def deliver(self, parts: list[Part]) -> tuple[Tensor, Tensor]:
        """A batch on the device: its work there is queued, and not waited for."""
        if self._stream is None:
            return self._assemble(parts)
        with torch.cuda.stream(self._stream):
            batch = self._assemble(parts)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in batch:
            # Its memory is not to be used again before the loop is done with it.
            tensor.record_stream(current)
        return batch

    def _assemble(self, parts: list[Part]) -> tuple[Tensor, Tensor]:
        samples = to_device(torch.cat([part.samples for part in parts]), self._device)
        return self._normalise([self._squares(part.images) for part in parts]), self._labels[samples]

    def _squares(self, images: Tensor | Boxes) -> Tensor:
        if isinstance(images, Boxes):
            return resize(images.to(self._device), size=self._size)
        return to_device(images, self._device)


def _split(requests: Iterable[Request], *, slots: int, per_batch: int) -> Iterator[Work]:
    """The parts of each request's share; an empty one has one part, which is empty. They take slots in turns."""
    turns = cycle(range(slots))
    for request in requests:
        share = request.share.numpy()
        samples, draws = request.indices.numpy()[share], None
        if request.generator is not None:
            draws = draw(len(request.indices), request.generator)[share]
        count = _count_parts(len(samples))
        assert count <= per_batch, "a later batch has more parts than there are slots for"
        for number, part in enumerate(np.array_split(np.arange(len(samples)), count), 1):
            rows = None if draws is None else draws[part]
            yield Work(samples[part], rows, is_last=number == count, slot=next(turns))


def _count_parts(samples: int) -> int:
    return max(1, -(-samples // PART))


def _name_first(unreadable: Mapping[int, str]) -> str:
    """The first of them, with what is wrong."""
    return first([unreadable[sample] for sample in sorted(unreadable)])
