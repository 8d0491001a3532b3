"""Meshes in Princeton's object file format (OFF), and points on their surfaces."""

import hashlib
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from moex.data.clouds.scale import normalise
from moex.data.naming import first
from moex.randomness import Purpose, generator

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# Some of ModelNet's files have the counts in this line, without a space: OFF490 518 0.
HEADER = re.compile(r"\s*OFF\s*(.*)", re.DOTALL)


def parse_off(text: str) -> tuple[Floats, Integers]:
    """The mesh of a file.

    Args:
        text: `OFF`, the numbers of vertices, faces and edges, the vertices, and each face as the number of its
            corners and which vertices they are. Lines that begin with # are left out.

    Returns:
        Vertices `[V, 3]`, and triangles `[F, 3]` of their indices; a face with more corners is cut into triangles.

    Raises:
        ValueError: it is something else, or not whole.
    """
    found = HEADER.fullmatch(re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE))
    if found is None:
        raise ValueError("it does not begin with OFF")
    try:
        with warnings.catch_warnings():
            # What is no number ends the reading, with this warning.
            warnings.simplefilter("error", DeprecationWarning)
            numbers = np.fromstring(found[1], sep=" ")
    except (DeprecationWarning, ValueError):
        raise ValueError("it holds something else than numbers") from None
    if len(numbers) < 3 or not all(count >= 0 and count == int(count) for count in numbers[:2]):
        raise ValueError("it does not say how many vertices and faces it has")
    vertex_count, face_count = int(numbers[0]), int(numbers[1])
    corners = numbers[3 + 3 * vertex_count :]
    if len(corners) < 4 * face_count:
        raise ValueError(f"it is cut off: it ends before its {vertex_count:,} vertices and {face_count:,} faces do")
    vertices = numbers[3 : 3 + 3 * vertex_count].reshape(-1, 3)
    triangles = _triangles(corners, face_count)
    if not np.isfinite(vertices).all():
        raise ValueError("it has vertices that are not finite")
    if triangles.size and not 0 <= triangles.min() <= triangles.max() < vertex_count:
        raise ValueError(f"it has a face with another vertex than its {vertex_count:,}")
    return vertices, triangles


def sample_surface(vertices: Floats, triangles: Integers, count: int, draws: np.random.Generator) -> Floats:
    """Points that are uniform over the surface of a mesh, independent of each other, `[count, 3]`.

    Args:
        vertices: `[V, 3]`.
        triangles: `[F, 3]`.
        count: of the points.
        draws: where from.

    Raises:
        ValueError: the mesh has no surface.
    """
    corner, one, other = (vertices[triangles[:, index]] for index in range(3))
    areas = np.linalg.norm(np.cross(one - corner, other - corner), axis=1)
    if not areas.sum() > 0:
        raise ValueError("it has no surface")
    chosen = draws.choice(len(areas), count, p=areas / areas.sum())
    shares = draws.random((count, 2))
    # What falls into the other half of the parallelogram is turned around into this one.
    shares = np.where(shares.sum(1, keepdims=True) > 1, 1 - shares, shares)
    corner, one, other = (each[chosen] for each in (corner, one, other))
    return np.asarray(corner + shares[:, :1] * (one - corner) + shares[:, 1:] * (other - corner))


def sample_meshes(folder: Path, names: Sequence[str], *, count: int, scale: str) -> npt.NDArray[np.float32]:
    """Points of many meshes, normalised by the meshes' vertices, `[N, count, 3]`.

    What is drawn for a mesh depends on nothing but its name.

    Args:
        folder: of all of them.
        names: of the files, as seen from there.
        count: of the points of each.
        scale: see `normalise`.

    Raises:
        ValueError: some cannot be read: the first of them, and how many.
    """
    clouds, refused = np.empty((len(names), count, 3), dtype=np.float32), []
    for name, cloud in zip(names, clouds, strict=True):
        try:
            vertices, triangles = parse_off((folder / name).read_text(encoding="ascii", errors="replace"))
            key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
            points = sample_surface(vertices, triangles, count, generator(key, Purpose.SURFACES))
            cloud[:] = normalise(points, vertices, scale)
        except (ValueError, OSError) as error:
            refused.append(f"{name} ({getattr(error, 'strerror', None) or error})")
    if refused:
        raise ValueError(f"{folder}: {len(refused)} of {len(names)} meshes cannot be read: {first(refused)}")
    return clouds


def _triangles(corners: Floats, faces: int) -> Integers:
    """Triangles of faces that are written one after the other."""
    if len(corners) == 4 * faces and (corners[::4] == 3).all():
        return _indices(corners.reshape(-1, 4)[:, 1:])
    return _indices(np.array(list(_fans(corners, faces))).reshape(-1, 3))


def _fans(corners: Floats, faces: int) -> Iterator[tuple[float, float, float]]:
    start = 0
    for _ in range(faces):
        size = corners[start] if start < len(corners) else np.nan
        if not (size >= 3 and size == int(size) and start + 1 + size <= len(corners)):
            raise ValueError("its faces are not as many as it says, or are none: each must have 3 corners or more")
        face = corners[start + 1 : start + 1 + int(size)]
        yield from ((face[0], before, after) for before, after in itertools.pairwise(face[1:]))
        start += 1 + int(size)
    if start != len(corners):
        raise ValueError(f"it goes on after its {faces:,} faces")


def _indices(values: Floats) -> Integers:
    if not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise ValueError("it has corners that are no whole numbers")
    return values.astype(np.int64)
