"""Meshes as they are published, and points on their surfaces."""

import numpy as np
import pytest
from clouds import TETRAHEDRON, off

from moex.data.clouds.meshes import parse_off, sample_meshes, sample_surface
from moex.data.clouds.scale import normalise

VERTICES, FACES = TETRAHEDRON
HEADERS = {"a line": "OFF\n", "none": "OFF", "space": "OFF ", "comments": "# made by hand\nOFF\n# counts\n"}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers(header):
    vertices, triangles = parse_off(off(VERTICES, FACES, header=header))
    assert vertices.tolist() == VERTICES
    assert triangles.tolist() == FACES


def test_lines_end_as_windows_ends_them():
    assert parse_off(off(VERTICES, FACES).replace("\n", "\r\n"))[1].tolist() == FACES


def test_faces_of_more_corners_are_cut_into_triangles():
    square = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 2, 0]]
    _, triangles = parse_off(off(square, [[0, 1, 2, 3], [0, 1, 4], [0, 1, 2, 4, 3]]))
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 4], [0, 1, 2], [0, 2, 4], [0, 4, 3]]


WHOLE = off(VERTICES, FACES)
FAULTS = {
    "another format": ("PLY\n3 1 0\n", "it does not begin with OFF"),
    "nothing": ("", "it does not begin with OFF"),
    "no counts": ("OFF\n4\n", "it does not say how many vertices and faces it has"),
    "broken counts": (WHOLE.replace("4 4 0", "4.5 4 0"), "it does not say how many"),
    "negative counts": (WHOLE.replace("4 4 0", "4 -4 0"), "it does not say how many"),
    "cut off": (WHOLE[:-9], "it is cut off: it ends before its 4 vertices and 4 faces do"),
    "cut off in the vertices": (WHOLE[:20], "it is cut off"),
    "words": (WHOLE.replace("0 3 0", "0 x 0"), "it holds something else than numbers"),
    "no number": (WHOLE.replace("0 3 0", "0 nan 0"), "it has vertices that are not finite"),
    "a corner too far": (WHOLE.replace("3 1 2 3", "3 1 2 4"), "it has a face with another vertex than its 4"),
    "a corner before": (WHOLE.replace("3 1 2 3", "3 1 2 -1"), "it has a face with another vertex than its 4"),
    "half a corner": (WHOLE.replace("3 1 2 3", "3 1 2 1.5"), "it has corners that are no whole numbers"),
    "more faces": (WHOLE + "3 0 1 2\n", "it goes on after its 4 faces"),
    "two corners": (WHOLE.replace("3 1 2 3", "2 1 2 3"), "each must have 3 corners or more"),
    "no end of a face": (WHOLE.replace("3 1 2 3", "9 1 2 3"), "its faces are not as many as it says"),
    "no end of a number": (WHOLE.replace("3 1 2 3", "nan 1 2 3"), "its faces are not as many as it says"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_mesh(text, message):
    with pytest.raises(ValueError, match=message):
        parse_off(text)


def test_points_are_uniform_over_the_surface():
    """Each face has its share of the points; on a face, each part that is cut off has its share of the area."""
    vertices, triangles = np.array(VERTICES, dtype=float), np.array(FACES)
    count = 40_000
    points = sample_surface(vertices, triangles, count, np.random.default_rng(0))
    areas, on_face = np.array([6.0, 4.0, 3.0, np.sqrt(61)]), np.zeros((4, count), dtype=bool)
    for index, (distance, normal) in enumerate(
        [(0, [0, 0, 1]), (0, [0, 1, 0]), (0, [1, 0, 0]), (1, np.array([1 / 4, 1 / 3, 1 / 2]))]
    ):
        on_face[index] = np.abs(points @ normal - distance) < 1e-9
    assert on_face.any(0).all()
    shares = areas / areas.sum()
    assert np.abs(on_face.mean(1) - shares).max() < 4 * np.sqrt(0.25 / count)
    # Of a triangle, the part within half of its sides from a corner is a quarter.
    floor = points[on_face[0]][:, :2] / [4, 3]
    for share in (floor.sum(1) < 0.5, floor[:, 0] > 0.5, floor[:, 1] > 0.5):
        assert share.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.19 / len(floor)))


def test_what_is_drawn_depends_on_the_name_alone(tmp_path):
    for name in ("a.off", "b.off", "c.off"):
        (tmp_path / name).write_text(WHOLE)
    clouds = sample_meshes(tmp_path, ["a.off", "b.off", "c.off"], count=50, scale="cube")
    again = sample_meshes(tmp_path, ["c.off", "a.off"], count=50, scale="cube")
    assert np.array_equal(again, clouds[[2, 0]])
    assert not np.isin(clouds[0], clouds[1]).any(1).all()
    # Normalised by the vertices, not by the points.
    vertices = np.array(VERTICES, dtype=float)
    low, high = ((corner - vertices.mean(0)) / 3 for corner in (vertices.min(0), vertices.max(0)))
    assert (clouds >= low - 1e-6).all()
    assert (clouds <= high + 1e-6).all()


def test_meshes_that_cannot_be_read(tmp_path):
    (tmp_path / "a.off").write_text(WHOLE)
    (tmp_path / "b.off").write_text(WHOLE[:-9])
    (tmp_path / "c.off").write_text(off([[1, 1, 1]] * 3, [[0, 1, 2]]))
    names = ["a.off", "b.off", "c.off", "d.off"]
    message = r"3 of 4 meshes cannot be read: b.off \(it is cut off.*\), c.off \(it has no surface\), d.off \(No such"
    with pytest.raises(ValueError, match=message):
        sample_meshes(tmp_path, names, count=5, scale="cube")


def test_scales():
    points = np.array([[[0, 0, 0], [2, 0, 0], [1, 3, 0], [1, -3, 4]]], dtype=np.float32)
    centred = points[0] - [1, 0, 1]
    np.testing.assert_allclose(normalise(points, points, "cube")[0], centred / 3)
    np.testing.assert_allclose(normalise(points, points, "sphere")[0], centred / np.sqrt(18))
    with pytest.raises(ValueError, match="all of it is in one place"):
        normalise(points, points * 0, "cube")
