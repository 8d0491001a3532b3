"""ModelNet10 and ModelNet40: the forms in which they are published, and real shapes as points."""

import os
import shutil
import sys
import time
import zipfile
from urllib.error import URLError

import numpy as np
import pytest
import torch
from clouds import normalised, write_hdf5, write_meshes, write_points
from sounds import age
from torchvision.datasets import utils

from moex import data
from moex.config import parse, recipe
from moex.data import MissingDataError, Request
from moex.data.clouds.publication import MODELNET10, MODELNET40
from moex.data.modelnet import ModelNet10, ModelNet40

CPU = torch.device("cpu")


def dataset_of(root, tmp_path, *, kind=ModelNet10, **settings):
    return kind(**{"root": str(root), "cache": str(tmp_path / "cache"), "points": 16, "pool": 24} | settings)


@pytest.mark.parametrize("scale", ["cube", "sphere"])
def test_the_real_shapes(modelnet10_root, tmp_path, scale):
    before = {path: path.stat().st_mtime_ns for path in modelnet10_root.rglob("*")}
    dataset = dataset_of(modelnet10_root, tmp_path, scale=scale, points=1024, pool=2048)
    splits = dataset.read(seed=0)
    for split, (count, first) in {"train": (3_991, 106), "test": (908, 50)}.items():
        samples = splits[split]
        assert samples.inputs.shape == (count, 1024, 3)
        # Bathtubs are the first class.
        assert samples.labels.bincount(minlength=10)[0] == first
        with np.load(modelnet10_root / f"{split}.npz") as stored:
            assert stored["classes"][samples.labels].tolist() == stored["classes"][stored["labels"]].tolist()
            for index in (0, count // 2, count - 1):
                expected = normalised(stored["points"][index], scale)
                np.testing.assert_allclose(samples.inputs[index], expected, atol=1e-6)
    assert {path: path.stat().st_mtime_ns for path in modelnet10_root.rglob("*")} == before
    sources = data.load(dataset, seed=0, device=CPU, limit_train=40)
    request = Request(torch.arange(40), torch.arange(40), np.random.default_rng(0))
    inputs, labels = sources["train"].batch(request)
    assert inputs.shape == (40, *dataset.shape)
    assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("scale", ["cube", "sphere"])
def test_noise_has_as_many_neighbours_as_the_real_shapes(modelnet10_root, tmp_path, scale):
    """So that what a run costs can be told where no shapes are."""
    dataset = dataset_of(modelnet10_root, tmp_path, scale=scale, points=256, pool=256)
    torch.manual_seed(0)
    shapes = dataset.take(dataset.read_test(seed=0)["test"], 90).inputs[:, :256]
    for radius in (0.2, 0.4):
        near = [
            (torch.cdist(clouds, clouds) < radius).float().mean() for clouds in (dataset.random_inputs(90), shapes)
        ]
        assert float(near[0]) == pytest.approx(float(near[1]), rel=0.25)


@pytest.mark.parametrize(("kind", "publication"), [(ModelNet10, MODELNET10), (ModelNet40, MODELNET40)])
def test_meshes(tmp_path, kind, publication):
    """Lying in the root, or being it; the headers of half of them are broken, as some of the published ones are."""
    folder = write_meshes(tmp_path / "root" / publication.folder, publication=publication)
    inside = dataset_of(folder.parent, tmp_path, kind=kind).read(seed=0)
    itself = dataset_of(folder, tmp_path, kind=kind).read(seed=0)
    assert inside["train"].labels.tolist() == [label for label in range(len(publication.classes)) for _ in range(2)]
    assert inside["test"].labels.tolist() == list(range(len(publication.classes)))
    for split, samples in inside.items():
        assert samples.inputs.shape == (len(samples.labels), 24, 3)
        assert torch.equal(samples.inputs, itself[split].inputs)
        assert 0.5 < samples.inputs.abs().amax() <= 1


def test_meshes_are_sampled_once_until_they_change(tmp_path, monkeypatch):
    folder = write_meshes(tmp_path / "ModelNet10")
    age(folder)
    dataset = dataset_of(tmp_path, tmp_path)
    first = dataset.read(seed=0)
    monkeypatch.setattr("moex.data.clouds.meshes.parse_off", lambda text: pytest.fail("a file was read"))
    second = dataset.read(seed=7)
    assert all(torch.equal(second[split].inputs, samples.inputs) for split, samples in first.items())
    monkeypatch.undo()
    assert dataset_of(tmp_path, tmp_path, pool=30).read_test(seed=0)["test"].inputs.shape == (10, 30, 3)
    # One changes in place.
    path = folder / "sofa" / "test" / "sofa_0000.off"
    path.write_text(path.read_text().replace("3 1 2 3", "3 1 2 0"))
    os.utime(path, (time.time() - 50,) * 2)
    third = dataset.read(seed=0)
    assert torch.equal(third["train"].inputs, first["train"].inputs)
    changed = (third["test"].inputs != first["test"].inputs).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [MODELNET10.classes.index("sofa")]


def test_the_archive_is_unpacked_once(tmp_path):
    write_meshes(tmp_path / "made" / "ModelNet10")
    root = tmp_path / "root"
    root.mkdir()
    shutil.make_archive(str(root / "ModelNet10"), "zip", tmp_path / "made")
    assert len(dataset_of(root, tmp_path).read(seed=0)["train"].labels) == 20
    assert sorted(path.name for path in root.iterdir()) == [".ModelNet10.lock", "ModelNet10", "ModelNet10.zip"]
    (root / "ModelNet10.zip").unlink()
    assert len(dataset_of(root, tmp_path).read(seed=0)["train"].labels) == 20


@pytest.mark.parametrize("kind", [ModelNet10, ModelNet40])
def test_the_archive_is_fetched(tmp_path, monkeypatch, kind):
    """By torchvision, from Princeton, here played by a file."""
    publication = kind.publication
    write_meshes(tmp_path / "made" / publication.folder, publication=publication)
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "made")
    asked = []

    def fetch(url, filename, *arguments, **settings):
        asked.append(url)
        shutil.copy(archive, filename)

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **settings: url)
    monkeypatch.setattr(utils, "_urlretrieve", fetch)
    dataset = dataset_of(tmp_path / "new", tmp_path, kind=kind, download=True)
    assert len(dataset.read(seed=0)["test"].labels) == len(publication.classes)
    assert asked == [publication.url]
    dataset.read(seed=0)
    assert len(asked) == 1


def test_what_cannot_be_fetched(tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise URLError("no route to host")

    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, **settings: url)
    monkeypatch.setattr(utils, "_urlretrieve", fail)
    with pytest.raises(OSError, match=r"ModelNet10.zip could not be fetched \(.*no route to host.*by hand"):
        dataset_of(tmp_path, tmp_path, download=True).read(seed=0)
    assert not (tmp_path / "ModelNet10.zip").exists()


def test_a_damaged_archive(tmp_path):
    archive = tmp_path / "ModelNet10.zip"
    archive.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(MissingDataError, match=r"ModelNet10.zip \(104 bytes\) is truncated or damaged"):
        dataset_of(tmp_path, tmp_path).read(seed=0)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("README.txt", "nothing")
    with pytest.raises(ValueError, match=r"is none of ModelNet10: it has no folder ModelNet10/CLASS/train"):
        dataset_of(tmp_path, tmp_path).read(seed=0)
    assert not (tmp_path / "ModelNet10").exists()


def test_folders_that_lack_something(tmp_path):
    folder = write_meshes(tmp_path / "ModelNet10")
    (folder / "sofas").mkdir()
    with pytest.raises(ValueError, match="has 1 folders that are no classes of the set: sofas"):
        dataset_of(tmp_path, tmp_path).read(seed=0)
    (folder / "sofas").rmdir()
    shutil.rmtree(folder / "sofa" / "test")
    shutil.rmtree(folder / "bed")
    with pytest.raises(ValueError, match=r"no meshes \(CLASS/train/\*.off\) of 1 of 10 classes: bed"):
        dataset_of(tmp_path, tmp_path).read(seed=0)


def test_the_hdf5_form(tmp_path):
    h5py = pytest.importorskip("h5py")
    folder = write_hdf5(tmp_path / "modelnet40_ply_hdf5_2048")
    splits = dataset_of(tmp_path, tmp_path, kind=ModelNet40, scale="sphere").read(seed=0)
    assert {split: samples.inputs.shape for split, samples in splits.items()} == {
        "train": (50, 2048, 3),
        "test": (12, 2048, 3),
    }
    # In the order of the list, whose first file is the second by name.
    with h5py.File(folder / "ply_data_train1.h5") as file:
        assert splits["train"].labels[:20].tolist() == file["label"][:, 0].tolist()
        expected = normalised(file["data"][3], "sphere")
    np.testing.assert_allclose(splits["train"].inputs[3], expected, atol=1e-6)
    (folder / "train_files.txt").unlink()
    by_name = dataset_of(folder, tmp_path, kind=ModelNet40, scale="sphere").read(seed=0)
    assert torch.equal(by_name["train"].inputs[30:], splits["train"].inputs[:20])


def test_an_hdf5_form_that_is_damaged(tmp_path):
    pytest.importorskip("h5py")
    folder = write_hdf5(tmp_path / "modelnet40_ply_hdf5_2048", points=20)
    dataset = dataset_of(tmp_path, tmp_path, kind=ModelNet40)
    path = folder / "ply_data_test0.h5"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"ply_data_test0.h5 is refused: it is damaged, or holds no data and label"):
        dataset.read(seed=0)
    path.unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of the files in test_files.txt: ply_data_test0.h5"):
        dataset.read(seed=0)
    (folder / "test_files.txt").unlink()
    with pytest.raises(ValueError, match=r"has no files ply_data_test\*.h5"):
        dataset.read(seed=0)
    (folder / "shape_names.txt").unlink()
    with pytest.raises(ValueError, match=r"shape_names.txt is missing"):
        dataset.read(seed=0)


def test_h5py_is_wanted_only_for_its_form(tmp_path, monkeypatch):
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    (folder / "ply_data_train0.h5").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"needs the library `h5py`,\npip install 'moment-exchange\[hdf5\]'$"):
        dataset_of(tmp_path, tmp_path, kind=ModelNet40).read(seed=0)


POINTS = {
    "shape": ({"points": np.zeros((20, 40))}, r"holds \[20, 40\] and \[\d+\]: it must be \[N, P, 3\] and \[N\]"),
    "labels of others": ({"labels": np.zeros(3)}, r"holds .* and \[3\]"),
    "not finite": (
        {"points": np.full((20, 9, 3), np.nan), "labels": np.zeros(20, int)},
        "points that are not finite",
    ),
    "too large a label": ({"points": np.ones((2, 9, 3)), "labels": np.array([0, 10])}, "labels of 0 to 10, and 10"),
    "unknown classes": ({"classes": np.array([*MODELNET10.classes[:9], "car"])}, "1 classes that are none .*: car"),
    "one place": ({"points": np.ones((2, 30, 3)), "labels": np.zeros(2, int)}, "a shape of train is none: all of it"),
    "objects": ({"points": np.array([{}])}, "train.npz is refused: it is damaged, or holds no points"),
}


@pytest.mark.parametrize(("arrays", "message"), POINTS.values(), ids=POINTS)
def test_points_that_cannot_be(tmp_path, arrays, message):
    write_points(tmp_path / "modelnet10_points", **arrays)
    with pytest.raises(ValueError, match=message):
        dataset_of(tmp_path, tmp_path).read(seed=0)


def test_archives_of_points_that_are_not_whole(tmp_path):
    folder = write_points(tmp_path / "modelnet10_points")
    path = folder / "test.npz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"test.npz is refused: it is damaged"):
        dataset_of(tmp_path, tmp_path).read(seed=0)
    path.unlink()
    with pytest.raises(ValueError, match=r"test.npz is missing$"):
        dataset_of(tmp_path, tmp_path).read(seed=0)


def test_labels_follow_the_names_of_the_classes(tmp_path):
    write_points(tmp_path / "modelnet10_points", classes=MODELNET10.classes[::-1])
    assert dataset_of(tmp_path, tmp_path).read(seed=0)["test"].labels.tolist() == list(range(10))[::-1]


def test_which_form_it_is(tmp_path):
    write_points(tmp_path / "modelnet10_points", size=30)
    write_meshes(tmp_path / "ModelNet10")
    lengths = {
        kind: dataset_of(tmp_path, tmp_path, format=kind).read_test(seed=0)["test"].inputs.shape[1]
        for kind in (None, "meshes", "points")
    }
    assert lengths == {None: 24, "meshes": 24, "points": 30}


MISSING = {
    None: r"it must hold ModelNet40 \(.*\) or ModelNet40.zip, or modelnet40_ply_hdf5_2048 .* or modelnet40_points",
    "meshes": r"it must hold ModelNet40 .* or ModelNet40.zip$",
    "hdf5": r"it must hold modelnet40_ply_hdf5_2048 \(ply_data_train\*.h5, ply_data_test\*.h5\)$",
    "points": r"it must hold modelnet40_points \(train.npz, test.npz\)$",
}


@pytest.mark.parametrize("wanted", MISSING)
def test_nothing_is_there(tmp_path, wanted):
    with pytest.raises(ValueError, match=MISSING[wanted]) as caught:
        dataset_of(tmp_path, tmp_path, kind=ModelNet40, format=wanted).read(seed=0)
    # Only meshes can be fetched.
    assert isinstance(caught.value, MissingDataError) == (wanted in (None, "meshes"))


WRONG = {
    "format": ({"format": "ply"}, "dataset.format is 'ply': it must be meshes, points, or null"),
    "hdf5": ({"format": "hdf5"}, "dataset.format is 'hdf5': it must be meshes, points, or null"),
    "points": ({"points": 0}, "dataset.points is 0: it must be 1 or more"),
    "pool": ({"points": 4096}, r"dataset.pool is 2048: it must be dataset.points \(4096\) or more"),
    "scale": ({"scale": "box"}, "dataset.scale is 'box': it must be cube or sphere"),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        parse({"dataset": {"name": "modelnet10"} | settings})


def test_more_points_than_there_are(tmp_path):
    write_points(tmp_path / "modelnet10_points")
    with pytest.raises(ValueError, match=r"dataset.points is 64: it must be 40 at most, as many as the shapes in"):
        dataset_of(tmp_path, tmp_path, points=64, pool=64).read(seed=0)


def test_limits_take_all_classes(tmp_path):
    write_points(tmp_path / "modelnet10_points")
    dataset = dataset_of(tmp_path, tmp_path)
    sources = data.load(dataset, seed=0, device=CPU, limit_train=10, limit_test=5)
    assert {name: len(source) for name, source in sources.items()} == {"train": 10, "test": 5}


def told(root, **settings):
    found = recipe(parse({"dataset": {"name": "modelnet10", "root": str(root), **settings}}))
    return {key.removeprefix("dataset."): value for key, value in found.items() if key.startswith("dataset.")}


def test_what_a_run_is_told_by(tmp_path, monkeypatch):
    """What acts on the training, and which shapes, unless they are all published meshes; not where they are."""
    assert told("nowhere", cache="c") == {"name": "modelnet10"}
    assert told("nowhere", pool=4096, scale="sphere") == {"name": "modelnet10", "pool": 4096, "scale": "sphere"}
    meshes = write_meshes(tmp_path / "a" / "ModelNet10")
    few = told(meshes)
    assert few["shapes"].startswith("30 meshes, ")
    assert told(meshes.parent) == few
    monkeypatch.setattr(ModelNet10, "publication", MODELNET10.__class__(**vars(MODELNET10) | {"meshes": (20, 10)}))
    assert told(meshes) == {"name": "modelnet10"}
    points = told(write_points(tmp_path / "b" / "modelnet10_points"), pool=4096)
    assert set(points) == {"name", "shapes"}
    assert told(write_points(tmp_path / "c" / "modelnet10_points")) == points
    assert told(write_points(tmp_path / "d" / "modelnet10_points", labels=np.zeros(20, int))) != points
