"""What the augmentation does to waveforms and to their transforms, many at a time, on the device."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from moex.data.sounds.augmentation import STEP, Changes, Floats, Integers
from moex.data.sounds.spectrogram import FRAMES, chosen_frames
from moex.data.sounds.waveforms import FULL_SCALE

# Real and imaginary parts of complex numbers: apart, they are multiplied by real numbers several times as fast.
Planes = tuple[Tensor, Tensor]

# Is added to real parts, far below what counts, so that what is silent has an angle, which is 0, and nothing is
# divided by 0.
TINY = 1e-15


def change_waveforms(waveforms: Tensor, changes: Changes) -> Tensor:
    """Makes waveforms louder or faster, or less so.

    Args:
        waveforms: int16 `[n, T]`.
        changes: of these; `gains` and `steps` are used.

    Returns:
        Float32 `[n, T]`, where 1 is the loudest that there is.
    """
    changed = waveforms.float().mul_(on_device((changes.gains / FULL_SCALE).astype(np.float32), waveforms)[:, None])
    rows = np.flatnonzero(changes.steps != STEP)
    if len(rows):
        index, steps = on_device(rows, waveforms), on_device(changes.steps[rows].astype(np.int32), waveforms)
        changed.index_copy_(0, index, change_speed(changed[index], steps))
    return changed


def change_speed(waveforms: Tensor, steps: Tensor) -> Tensor:
    """Reads waveforms faster or slower, interpolating linearly between samples: the pitch changes with the speed.

    Args:
        waveforms: `[n, T]`.
        steps: from one sample to the next that is heard, in parts of `STEP`, int32 `[n]`, on the same device; they
            are at most 2.

    Returns:
        `[n, T]`: cut at the end, or continued by silence. The last sample lasts until the next would have come.
    """
    length = waveforms.shape[1]
    places = torch.arange(length, dtype=torch.int32, device=waveforms.device) * steps[:, None]
    before = (places >> 16).clamp_(max=length).long()
    between = (places & (STEP - 1)).to(waveforms.dtype).mul_(1 / STEP)
    following = F.pad(waveforms[:, 1:], (0, 2))
    following[:, length - 1] = waveforms[:, -1]
    first, second = F.pad(waveforms, (0, 1)).gather(1, before), following.gather(1, before)
    return second.sub_(first).mul_(between).add_(first)


def shift(waveforms: Tensor, changes: Changes) -> Tensor:
    """The frames of waveforms, float32 `[n, FRAMES, WINDOW]`, shifted; silent where they are to be stretched as well.

    Args:
        waveforms: `[n, T]`.
        changes: of these; `rates` and `shifts` are used.
    """
    places = Places.of(changes)
    return chosen_frames(waveforms, np.where((places.there > 0) & (changes.rates == 1)[:, None], places.frames, -1))


def change_power(power: Tensor, changes: Changes) -> Tensor:
    """Stretches and shifts transforms of which nobody needs to know the phases.

    Args:
        power: of the transforms, `[n, FRAMES, BINS]`.
        changes: of these; `rates` and `shifts` are used.

    Returns:
        The power of what they become, `[n, FRAMES, BINS]`.
    """
    places, magnitudes = Places.of(changes), power.sqrt()
    heard = _gather(magnitudes, places.before).mul_(_weights(places.weights[0], power))
    heard += _gather(magnitudes, places.after).mul_(_weights(places.weights[1], power))
    return heard.square_()


def stretch(spectra: Tensor, changes: Changes) -> Planes:
    """Stretches transforms by a phase vocoder and shifts them.

    A frame of a stretched transform turns on from the one before as far as the original does from frame to frame, and
    has a magnitude between those of the two nearest. The published one adds up angles. While the original is read
    frame by frame, they add up to its own; so that only where a frame is left out or read again a turn remains, by
    which all that follow are turned.

    Args:
        spectra: complex `[n, FRAMES, BINS]`.
        changes: of these; `rates` and `shifts` are used.

    Returns:
        Of what they become, `[n, FRAMES, BINS]` each.
    """
    places, real, imaginary = Places.of(changes), spectra.real.add(TINY), spectra.imag.contiguous()
    magnitudes = real.square().add_(imaginary.square()).sqrt_()
    turns, passed = _turns((real, imaginary), magnitudes, changes)
    growth = torch.empty_like(magnitudes)
    torch.div(magnitudes[:, 1:], magnitudes[:, :-1], out=growth[:, :-1])
    growth[:, -1] = 0.0
    before, after = (_weights(weights, real) for weights in places.weights)
    factors = _gather(growth, places.before).mul_(after).add_(before)
    real, imaginary = (_gather(plane, places.before).mul_(factors) for plane in (real, imaginary))
    passed = np.take_along_axis(passed, places.frames, 1)
    return _multiply((real, imaginary), (_gather(turns[0], passed), _gather(turns[1], passed)))


@dataclass(frozen=True)
class Places:
    """Where each frame that is heard comes from, `[n, FRAMES]`.

    As published, a shift leaves the length of a stretched transform as it is: what it moves beyond the end is lost.

    Attributes:
        frames: of the stretched transform; 0 where nothing is heard.
        there: 1 where something is heard, else 0.
        before: the frame of the transform itself that comes before it.
        between: how far it is from there to the next one, from 0 to 1.
    """

    frames: Integers
    there: Floats
    before: Integers
    between: Floats

    @classmethod
    def of(cls, changes: Changes) -> "Places":
        """The places of some waveforms."""
        heard, lengths = np.arange(FRAMES), changes.lengths[:, None]
        frames = heard + changes.shifts[:, None]
        there = (frames >= 0) & (frames < lengths) & (heard < lengths)
        frames = np.where(there, frames, 0)
        positions = frames * changes.rates[:, None]
        before = np.floor(positions)
        return cls(frames, there.astype(np.float64), before.astype(np.int64), positions - before)

    @property
    def after(self) -> Integers:
        """The frame after the one before it, or the last one."""
        return np.minimum(self.before + 1, FRAMES - 1)

    @property
    def weights(self) -> tuple[Floats, Floats]:
        """Of the frames before and after in what is heard: after the last one there is silence."""
        is_last = self.before == FRAMES - 1
        return self.there * (1 - self.between), self.there * self.between * ~is_last


def _turns(planes: Planes, magnitudes: Tensor, changes: Changes) -> tuple[Planes, Integers]:
    """By how much a vocoder turns frames.

    Args:
        planes: of transforms, `[n, FRAMES, BINS]`.
        magnitudes: of these, nowhere 0.
        changes: likewise; `rates` are used.

    Returns:
        The turns after so many frames that were left out or read again, numbers of magnitude one,
        `[n, most + 1, BINS]`; and how many those are before each frame of the stretched transforms, `[n, length]`.
    """
    frames = np.arange(int(changes.lengths.max()) + 1)
    read = np.floor(frames * changes.rates[:, None]).astype(np.int64)
    # What comes after the end of a stretched transform is not heard.
    is_break = (np.diff(read) != 1) & (frames[1:] < changes.lengths[:, None])
    passed = np.pad(np.cumsum(is_break, 1), ((0, 0), (1, 0)))
    numbers = np.arange(1, int(passed.max()) + 1)
    # Of rows without so many, any frame does: nobody uses it.
    at = (passed[:, :, None] == numbers).argmax(1)
    goes = np.take_along_axis(read, at, 1)
    went = np.take_along_axis(read, np.maximum(at - 1, 0), 1) + 1
    # After the end, the angle is 0.
    ends, went = on_device(went == FRAMES, magnitudes)[:, :, None], np.minimum(went, FRAMES - 1)
    scale = _gather(magnitudes, went)
    expected = _gather(planes[0], went).where(~ends, scale), _gather(planes[1], went).masked_fill_(ends, 0.0)
    scale.mul_(_gather(magnitudes, goes)).reciprocal_()
    real, imaginary = _multiply(
        expected, (_gather(planes[0], goes).mul_(scale), _gather(planes[1], goes).mul_(-scale))
    )
    turns = [(torch.ones_like(magnitudes[:, 0]), torch.zeros_like(magnitudes[:, 0]))]
    for turn in zip(real.unbind(1), imaginary.unbind(1), strict=True):
        turns.append(_multiply(turns[-1], turn))
    along, across = (torch.stack(parts, 1) for parts in zip(*turns, strict=True))
    return (along, across), passed


def _multiply(one: Planes, other: Planes) -> Planes:
    """The product of complex numbers."""
    return (
        (one[0] * other[0]).sub_(one[1] * other[1]),
        (one[0] * other[1]).add_(one[1] * other[0]),
    )


def _gather(values: Tensor, frames: Integers) -> Tensor:
    """Some frames of each row: of `[n, F, ...]` those at `[n, k]`."""
    rows = np.arange(len(frames))[:, None] * values.shape[1]
    gathered = values.flatten(0, 1).index_select(0, on_device((rows + frames).ravel(), values))
    return gathered.view(*frames.shape, *values.shape[2:])


def _weights(values: Floats, like: Tensor) -> Tensor:
    """Weights of frames, `[n, FRAMES]`, as float32 `[n, FRAMES, 1]` on the device."""
    return on_device(values.astype(np.float32), like)[:, :, None]


def on_device(values: npt.NDArray[Any], like: Tensor) -> Tensor:
    """An array as a tensor on the device of another one."""
    return torch.from_numpy(values).to(like.device, non_blocking=True)
