"""Small shapes in the published forms of ModelNet, and what is computed of clouds point by point."""

import numpy as np

from moex.data.clouds.publication import MODELNET10, MODELNET40

TETRAHEDRON = ([[0, 0, 0], [4, 0, 0], [0, 3, 0], [0, 0, 2]], [[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])


def off(vertices, faces, *, header="OFF\n"):
    """The text of a mesh."""
    lines = [f"{len(vertices)} {len(faces)} 0"]
    lines += [" ".join(map(str, vertex)) for vertex in vertices]
    lines += [" ".join(map(str, (len(face), *face))) for face in faces]
    return header + "\n".join(lines) + "\n"


def write_meshes(folder, *, publication=MODELNET10, train=2, test=1):
    """Tetrahedra of other proportions, so many of each class."""
    draws = np.random.default_rng(0)
    for name in publication.classes:
        for split, count in (("train", train), ("test", test)):
            (folder / name / split).mkdir(parents=True)
            for number in range(count):
                vertices, faces = TETRAHEDRON
                text = off(vertices * draws.uniform(1, 5, (1, 3)), faces, header="OFF" if number else "OFF\n")
                (folder / name / split / f"{name}_{number:04d}.off").write_text(text)
    return folder


def write_hdf5(folder, *, train=(30, 20), test=(12,), points=2048):
    """Files of so many clouds each, with the published lists."""
    import h5py

    folder.mkdir(parents=True)
    (folder / "shape_names.txt").write_text("\n".join(MODELNET40.classes) + "\n")
    draws = np.random.default_rng(0)
    for split, counts in (("train", train), ("test", test)):
        listed = []
        for number, count in enumerate(counts):
            with h5py.File(folder / f"ply_data_{split}{number}.h5", "w") as file:
                file["data"] = draws.normal(size=(count, points, 3)).astype(np.float32)
                file["label"] = draws.integers(0, 40, (count, 1)).astype(np.uint8)
            # The lists have the paths of their authors' machine, not in the order of the names.
            listed.insert(0, f"data/modelnet40_ply_hdf5_2048/ply_data_{split}{number}.h5")
        (folder / f"{split}_files.txt").write_text("\n".join(listed) + "\n")
    return folder


def write_points(folder, *, classes=MODELNET10.classes, size=40, **arrays):
    """Two archives; `arrays` take the place of theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 10)):
        kept = {
            "points": (draws.normal(size=(count, size, 3)) * [1, 2, 9] + 30).astype(np.float32),
            "labels": np.arange(count) % len(classes),
            "classes": np.array(classes),
        }
        np.savez(folder / f"{split}.npz", **kept | arrays)
    return folder


def normalised(cloud, scale):
    """A cloud around its mean, that reaches 1; float64."""
    centred = cloud.astype(np.float64) - cloud.astype(np.float64).mean(0)
    return centred / (np.abs(centred).max() if scale == "cube" else np.sqrt((centred**2).sum(1)).max())
