"""ImageNet in its layouts: one data set, whichever its files lie in."""

import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from layouts import age, photographs, write_folders, write_shards, write_tar
from timm.data import ImageNetInfo

from moex import data
from moex.data import Request
from moex.data.imagenet import ImageNet
from moex.data.images.synsets import choose_synsets, describe_synsets, synsets

CPU = torch.device("cpu")
NUMBERS = {name: number for number, name in enumerate(synsets())}
# Ten classes of ImageNet, in its own order, as Imagenette has.
CLASSES = tuple(synsets()[::100])


@pytest.fixture
def images():
    return photographs(CLASSES)


@pytest.fixture
def chosen(tmp_path):
    """A file that chooses the ten, with comments, in another order."""
    path = tmp_path / "classes.txt"
    path.write_text("# ten classes\n\n" + "\n".join(f"{name} {NUMBERS[name]}" for name in reversed(CLASSES)))
    return str(path)


def dataset(root, **settings):
    return ImageNet(root=str(root), listings=str(root.parent / "listings"), **{"workers": 0} | settings)


def write_huggingface(root, images):
    splits = {
        {"train": "train", "val": "validation"}[split]: datasets.Dataset.from_dict(
            {
                "image": [{"bytes": content, "path": name} for _, name, content in rows[::-1]],
                "label": [NUMBERS[label] for label, _, _ in rows[::-1]],
            },
            features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
        )
        for split, rows in images.items()
    }
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return root


def first_batches(loaded):
    """Some training batches, augmented, and a test batch."""
    order = loaded["train"].order(np.random.default_rng(0)).split(8)
    requests = [Request(part, torch.arange(len(part)), np.random.default_rng(i)) for i, part in enumerate(order)]
    everyone = torch.arange(len(loaded["test"]))
    return [*loaded["train"].batches(requests), *loaded["test"].batches([Request(everyone, everyone)])]


def test_the_same_bits_from_every_layout(tmp_path, images, chosen, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    layouts = {
        "folder": write_folders(tmp_path / "folders", images),
        "shards": write_shards(tmp_path / "shards", images, NUMBERS),
        "huggingface": write_huggingface(tmp_path / "saved", images),
    }
    seen = {}
    for layout, root in layouts.items():
        # The second time from a list, by a worker.
        sets = [dataset(root, classes=chosen), dataset(age(root), classes=chosen, format=layout, workers=1)]
        assert sets[0].recipe() == sets[1].recipe() == dataset(layouts["folder"]).recipe()
        seen[layout] = [first_batches(data.load(each, seed=0, device=CPU)) for each in sets]
    for found in (found for both in seen.values() for found in both):
        for (inputs, labels), (same_inputs, same_labels) in zip(seen["folder"][0], found, strict=True):
            assert torch.equal(inputs, same_inputs)
            assert torch.equal(labels, same_labels)
    # And nothing else than what was written.
    labels = torch.cat([labels for _, labels in seen["folder"][0][:-1]])
    assert sorted(labels.tolist()) == sorted(label for label in range(10) for _ in range(3))


def test_a_folder_of_some_classes_is_a_data_set_of_these(tmp_path, images):
    """Imagenette, as it is."""
    root = write_folders(tmp_path / "imagenette", images)
    for name in (".DS_Store", "noisy_imagenette.csv"):
        (root / name).touch()
    found = dataset(root)
    assert (found.num_classes, found.class_names) == (10, CLASSES)
    splits = found.read(seed=0)
    assert splits["train"].labels.bincount().tolist() == [3] * 10
    assert splits["test"].labels.bincount().tolist() == [2] * 10
    # Another run than that of all classes, and than that of others.
    assert found.recipe()["classes"].startswith("10 synsets, ")
    others = dataset(write_folders(tmp_path / "others", photographs(synsets()[1:11])))
    assert others.recipe()["classes"].startswith("10 synsets, ")
    assert others.recipe() != found.recipe()


def test_what_is_known_before_there_are_files(tmp_path):
    nothing = dataset(tmp_path / "nowhere")
    assert nothing.class_names == synsets()
    assert nothing.recipe()["classes"] is None
    with pytest.raises(
        ValueError, match=r"dataset.root is '.*nowhere': it must hold ImageNet, as folders train/SYNSET"
    ):
        nothing.read(seed=0)
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere/train"):
        dataset(tmp_path / "nowhere", format="folder").read(seed=0)
    with pytest.raises(ValueError, match=r"nowhere has no tar archives of the split train"):
        dataset(tmp_path / "nowhere", format="shards").read(seed=0)


def test_some_classes_of_all(tmp_path):
    root = write_folders(tmp_path / "root", photographs(synsets()[:12], train=1, test=1))
    (tmp_path / "list.txt").write_text("n01443537\nn01498041\n")
    found = dataset(root, classes=str(tmp_path / "list.txt"))
    assert found.class_names == ("n01443537", "n01498041")
    splits = found.read(seed=0)
    assert [splits["train"].inputs.name(i).split("/")[-2] for i in range(2)] == list(found.class_names)
    with pytest.raises(ValueError, match=r"root/train lacks 198 of 200 classes: n01534433, .*\.\.\.$"):
        dataset(root, classes="imagenet_a").read(seed=0)


def test_named_lists_are_those_of_timm():
    info = ImageNetInfo()
    assert list(synsets()) == info.label_names() == sorted(info.label_names())
    for name in ("imagenet_a", "imagenet_r"):
        chosen = choose_synsets(name, key="dataset.classes")
        assert len(chosen) == 200
        assert chosen == tuple(sorted(chosen))
        assert set(chosen) <= set(synsets())
        assert describe_synsets(chosen) == name
    assert describe_synsets(synsets()) is None


LISTS = {
    "missing": (
        None,
        r"dataset.classes is '.*list': it must be null, imagenet_a, imagenet_r or .*No such file",
    ),
    "binary": (b"\xff\xfe\x00", r"or a file with a synset in each line \(no text\)"),
    "empty": (b"# nothing\n\n", r"the file must hold one or more synsets, each once"),
    "twice": (b"n01440764\nn01440764\n", r"each once"),
    "unknown": (b"n01440764\ncat\ndog\n", r"2 of 3 names are no synsets of ImageNet: cat, dog$"),
}


@pytest.mark.parametrize(("content", "message"), LISTS.values(), ids=LISTS)
def test_a_list_that_is_none(tmp_path, content, message):
    path = tmp_path / "list"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ImageNet(classes=str(path)).check("dataset")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "zip"}, r"dataset.format is 'zip': it must be one of auto, folder, shards, huggingface"),
        ({"format": "shards", "hub": "a/b"}, r"dataset.format is 'shards': .* huggingface where dataset.hub is set"),
    ],
)
def test_a_layout_that_is_none(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageNet(**settings).check("dataset")


def test_folders_that_are_none_of_its_classes(tmp_path, images):
    root = write_folders(tmp_path / "root", images)
    for name in ("cat", "n00000000"):
        write_folders(root, {"train": [(name, "1.JPEG", b"1")]})
    with pytest.raises(ValueError, match=r"train: 2 of 12 names are no synsets of ImageNet: cat, n00000000$"):
        dataset(root).read(seed=0)


def test_splits_of_different_classes(tmp_path, images):
    root = write_folders(tmp_path / "root", images)
    write_folders(root, {"train": [("n02119789", "1.JPEG", b"1")]})
    with pytest.raises(ValueError, match=r"root/val lacks 1 of 11 classes: n02119789; dataset.classes chooses some"):
        dataset(root).read(seed=0)
    write_folders(root, {"val": [("n02119789", "1.JPEG", b"1"), ("n02119790", "1.JPEG", b"1")]})
    write_folders(root, {"val": [("n02123045", "1.JPEG", b"1")]})
    (root / "val" / "n02119790" / "1.JPEG").unlink()
    (root / "val" / "n02119790").rmdir()
    with pytest.raises(ValueError, match=r"root/val has 1 classes that the training set lacks: n02123045$"):
        dataset(root).read(seed=0)


def test_validation_images_that_are_not_sorted(tmp_path, images):
    root = write_folders(tmp_path / "root", {"train": images["train"]})
    (root / "val").mkdir()
    for _, name, content in images["val"]:
        (root / "val" / name).write_bytes(content)
    message = (
        r"val holds images that are in no folders, such as ILSVRC2012_val_0.*: sort them .*ImageNet\('.*', 'val'\)"
    )
    with pytest.raises(ValueError, match=message):
        dataset(root).read(seed=0)


def test_the_test_set_alone(tmp_path, images):
    """To evaluate, the training images need not be there."""
    root = write_folders(tmp_path / "root", {"val": images["val"]})
    found = dataset(root)
    assert found.class_names == CLASSES
    assert len(found.read_test(seed=0)["test"].labels) == 20
    with pytest.raises(ValueError, match=r"there is no folder .*/train"):
        found.read(seed=0)


def test_an_archive_for_each_class(tmp_path, images):
    for split, rows in images.items():
        for label in CLASSES:
            members = [(name, content) for other, name, content in rows if other == label]
            write_tar(tmp_path / "root" / split / f"{label}.tar", members)
    found = dataset(tmp_path / "root")
    assert found.class_names == CLASSES
    splits = found.read(seed=0)
    theirs = dataset(write_folders(tmp_path / "folders", images)).read(seed=0)
    for split, samples in theirs.items():
        assert torch.equal(splits[split].labels, samples.labels)
        ours = [splits[split].inputs.read(i) for i in range(len(samples.labels))]
        assert ours == [samples.inputs.read(i) for i in range(len(samples.labels))]


def test_limits_take_from_all_classes(tmp_path, images):
    loaded = data.load(
        dataset(write_folders(tmp_path / "root", images)), seed=0, device=CPU, limit_train=20, limit_test=10
    )
    for split, each in (("train", 2), ("test", 1)):
        everyone = torch.arange(len(loaded[split]))
        ((_, labels),) = loaded[split].batches([Request(everyone, everyone)])
        assert labels.bincount().tolist() == [each] * 10


def test_the_label_map_of_real_photographs(tmp_path, photographs):
    """Their files are called what is on them, as timm calls the class of their label."""
    shutil.copytree(photographs[0].parents[1], tmp_path / "root" / "val")
    found = dataset(tmp_path / "root")
    assert found.num_classes == 80
    assert len(set(found.class_names) & set(choose_synsets("imagenet_a", key=""))) == 45
    samples = found.read_test(seed=0)["test"]
    assert samples.labels.tolist() == list(range(80))
    info = ImageNetInfo()
    for i, name in enumerate(found.class_names):
        # n01440764_tench.JPEG
        _, _, word = Path(samples.inputs.name(i)).stem.partition("_")
        assert word.replace("_", " ") in info.index_to_description(NUMBERS[name])
    source = found.source(samples, training=False, device=CPU, channels_last=False)
    inputs, labels = next(source.batches([Request(torch.arange(80), torch.tensor([0, 79]))]))
    assert inputs.shape == (2, 3, 224, 224)
    assert labels.tolist() == [0, 79]
