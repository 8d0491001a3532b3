"""Where a shape lies, and how large it is."""

import numpy as np
import numpy.typing as npt

CUBE, SPHERE = "cube", "sphere"
SCALES = (CUBE, SPHERE)


def normalise(points: npt.NDArray[np.floating], of: npt.NDArray[np.floating], scale: str) -> npt.NDArray[np.float64]:
    """Points as they are when the mean of a shape is at the origin, and the shape reaches 1.

    Args:
        points: `[..., N, 3]`.
        of: the shape, `[..., V, 3]`: the vertices of a mesh, or the points themselves.
        scale: `cube`, in which no coordinate is beyond 1, or `sphere`, in which no point is farther than 1.

    Raises:
        ValueError: a shape is a single place.
    """
    centre = of.mean(-2, keepdims=True, dtype=np.float64)
    distances = np.abs(of - centre) if scale == CUBE else np.linalg.norm(of - centre, axis=-1, keepdims=True)
    largest = distances.max(axis=(-2, -1), keepdims=True)
    if not (largest > 0).all():
        raise ValueError("all of it is in one place")
    return np.asarray((points - centre) / largest)
