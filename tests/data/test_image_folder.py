"""Pictures of one's own, from the folder to the run."""

import re

import pytest
import torch
from layouts import jpeg, photographs, write_folders
from program import run_here

from moex import data
from moex.config import parse, recipe, run_folder
from moex.data.image_folder import ImageFolder

CPU = torch.device("cpu")


def dataset(root, **settings):
    return ImageFolder(root=str(root), listings=str(root.parent / "listings"), workers=0, **settings)


def pictures(root, *splits, classes=("cat", "dog", "owl"), count=4):
    images = photographs(classes, train=count)["train"]
    return write_folders(root, {split: images for split in splits})


def sizes(dataset, **options):
    return {name: len(source) for name, source in data.load(dataset, seed=0, device=CPU, **options).items()}


@pytest.mark.parametrize("other", ["val", "validation", "test"])
def test_two_splits(tmp_path, other):
    found = dataset(pictures(tmp_path / "root", "train", other))
    assert (found.num_classes, found.class_names) == (3, ("cat", "dog", "owl"))
    assert sizes(found) == {"train": 12, "test": 12}
    assert sizes(dataset(tmp_path / "root", validation=0.25)) == {"train": 9, "test": 12, "validation": 3}
    assert found.read_test(seed=0).keys() == {"test"}


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_three_splits(tmp_path, validation):
    root = pictures(tmp_path / "root", "train", "test")
    pictures(root, validation, count=2)
    assert sizes(dataset(root)) == {"train": 12, "test": 12, "validation": 6}
    with pytest.raises(ValueError, match=r"must be null, since image_folder has a validation split of its own"):
        sizes(dataset(root, validation=0.25))


def test_one_split_of_which_a_share_is_tested_on(tmp_path):
    root = pictures(tmp_path / "root", "train")
    with pytest.raises(ValueError, match=r"no folder val, validation, test: add one, or .*dataset.test_share=0.2$"):
        dataset(root).read(seed=0)
    splits = dataset(root, test_share=0.25).read(seed=0)
    assert [splits[name].labels.tolist() for name in ("train", "test")] == [
        [0, 0, 0, 1, 1, 1, 2, 2, 2],
        [0, 1, 2],
    ]
    names = [split.inputs.name(i) for split in splits.values() for i in range(len(split.labels))]
    assert len(set(names)) == 12
    tested = {
        seed: [
            dataset(root, test_share=0.25).read_test(seed=seed)["test"].inputs.name(i).split("/")[-1]
            for i in range(3)
        ]
        for seed in range(4)
    }
    assert tested[0] == [splits["test"].inputs.name(i).split("/")[-1] for i in range(3)]
    assert len(set(map(tuple, tested.values()))) > 1
    assert sizes(dataset(root, test_share=0.25, validation=0.34)) == {"train": 5, "test": 3, "validation": 4}


def test_what_cannot_be(tmp_path):
    root = tmp_path / "root"
    with pytest.raises(ValueError, match=r"dataset.root is '.*root': it must hold a folder train"):
        dataset(root).num_classes  # noqa: B018
    pictures(root, "train", "test")
    with pytest.raises(ValueError, match=r"dataset.test_share is 0.2: it must be null, since there is .*root/test$"):
        dataset(root, test_share=0.2).read(seed=0)
    write_folders(root, {"test": [("emu", "1.jpg", jpeg(0)), ("fox", "1.jpg", jpeg(0))]})
    with pytest.raises(ValueError, match=r"root/test has 2 classes that train lacks: emu, fox$"):
        dataset(root).read(seed=0)
    write_folders(root, {"train": [("emu", "1.jpg", jpeg(0)), ("fox", "1.jpg", jpeg(0)), ("gnu", "1.jpg", jpeg(0))]})
    with pytest.raises(ValueError, match=r"root/test lacks 1 of 6 classes: gnu$"):
        dataset(root).read(seed=0)
    for name in ("val", "validation"):
        (root / name).mkdir()
    with pytest.raises(ValueError, match=r"root has a folder val and a folder validation: it must have one of them"):
        dataset(root).read(seed=0)
    with pytest.raises(ValueError, match=r"dataset.test_share is 1: it must be a share between 0 and 1, or null"):
        dataset(root, test_share=1).check("dataset")
    few = pictures(tmp_path / "few", "train", count=1)
    with pytest.raises(ValueError, match=r"dataset.test_share is 0.2, of 3 images: "):
        dataset(few, test_share=0.2).read(seed=0)


def configured(root, **settings):
    listings = str(root.parent / "listings")
    return parse({"dataset": {"name": "image_folder", "root": str(root), "listings": listings, **settings}})


def test_a_run_on_other_pictures_is_another_run(tmp_path):
    """Wherever they are: it is they that a run is of, and not the place."""
    first = pictures(tmp_path / "first", "train", "test")
    folder = run_folder(configured(first))
    assert recipe(configured(first))["dataset.pictures"].startswith("3 classes, 24 files, ")
    assert run_folder(configured(first, workers=3)) == folder
    first.rename(tmp_path / "moved")
    assert run_folder(configured(tmp_path / "moved")) == folder
    others = (
        pictures(tmp_path / "more", "train", "test", count=5),
        pictures(tmp_path / "other classes", "train", "test", classes=("cat", "dog", "emu")),
        pictures(tmp_path / "tested elsewhere", "train", "test"),
        # The same names, and another content.
        write_folders(
            tmp_path / "resized",
            {
                split: [(label, name, jpeg(0, height=20)) for label, name, _ in photographs("abc", train=4)["train"]]
                for split in ("train", "test")
            },
        ),
    )
    write_folders(tmp_path / "tested elsewhere", {"test": [("cat", "new.jpg", jpeg(0))]})
    assert len({folder, *(run_folder(configured(root)) for root in others)}) == 5


def test_a_run_where_the_usual_root_holds_pictures(tmp_path, monkeypatch):
    """What lies in the default root is no default."""
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "data" / "images", "train", "test")
    here = parse({"dataset": {"name": "image_folder"}})
    assert "dataset.pictures" in recipe(here)
    pictures(tmp_path / "other", "train", "test", count=2)
    assert run_folder(here) != run_folder(configured(tmp_path / "other"))


def test_from_the_command_line(tmp_path, monkeypatch, capfd):
    pictures(tmp_path / "flowers", "train", "test")
    command = (
        *("dataset=image_folder", "dataset.root=flowers", "dataset.workers=0", "model=torchvision"),
        *("model.name=torchvision:shufflenet_v2_x0_5", "augmentation=none", "epochs=1", "batch_size=4"),
    )
    code, printed = run_here(*command, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0, printed
    (folder,) = tmp_path.glob("outputs/image_folder-torchvision_shufflenet_v2_x0_5-none-*/seed0")
    assert (folder / "result.json").exists()
    assert (tmp_path / "outputs" / "listings").is_dir()
    code, printed = run_here(*command, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 0
    assert "is finished" in printed
    # Other pictures at the same place.
    write_folders(tmp_path / "flowers", {"train": [("emu", "1.jpg", jpeg(0))]})
    code, printed = run_here(*command, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    assert (code, printed) == (1, f"error: {tmp_path}/flowers/test lacks 1 of 4 classes: emu\n")


MISTAKES = {
    "nothing there": (
        (),
        r"error: dataset.root is 'data/images': it must hold a folder train",
    ),
    "no test set": (("dataset.root=one",), r"error: one has no folder val, validation, test: add one, or"),
    "an empty class": (
        ("dataset.root=empty",),
        r"error: 1 of the 4 folders in .*empty/train hold no image .*: gnu",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_on_the_command_line(tmp_path, monkeypatch, capfd, arguments, message):
    pictures(tmp_path / "one", "train")
    pictures(tmp_path / "empty", "train", "test")
    (tmp_path / "empty" / "train" / "gnu").mkdir()
    code, printed = run_here("dataset=image_folder", *arguments, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd)
    assert code == 1
    assert len(printed.splitlines()) <= 2
    assert re.match(message, printed), printed
    assert not (tmp_path / "outputs" / "result.json").exists()
