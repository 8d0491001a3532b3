"""Images in Hugging Face datasets, saved by the library itself."""

import pickle

import datasets
import numpy as np
import pytest
from layouts import photographs, write_folders

from moex.data.images.folder import read_folder
from moex.data.images.huggingface import open_dataset, read_huggingface

CLASSES = ("n01", "n02", "n03")


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path_factory, monkeypatch):
    """The library's own folders, and no word on the terminal."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    datasets.disable_progress_bars()


def table(rows, *, names=None, image="image", label="label", told=None):
    """A split in another order than that of the classes, its files named as in Hugging Face's ImageNet."""
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    told = told or {name: number for number, name in enumerate(CLASSES)}
    columns = {
        image: [{"bytes": content, "path": name.replace(".JPEG", f"_{of}.JPEG")} for of, name, content in rows],
        label: [told[of] for of, _, _ in rows],
    }
    features = {image: datasets.Image(), label: datasets.ClassLabel(names=names) if names else None}
    if not names:
        features[label] = datasets.Value("string" if isinstance(columns[label][0], str) else "int64")
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def save(root, **splits):
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return root


def read(root, *splits, image="image", label="label"):
    found = open_dataset(root, *(splits or ("train",)), hub=None, download=False)
    return read_huggingface(
        found, image=image, label=label, listings=root / "listings", numbered=CLASSES, where=str(root)
    )


def pairs(found):
    return [(found.classes[label], found.files.read(i)) for i, label in enumerate(found.labels)]


@pytest.fixture
def images():
    return photographs(CLASSES, train=8)


@pytest.fixture
def expected(tmp_path, images):
    root = write_folders(tmp_path / "folders", images)
    return pairs(read_folder(root / "train", root=root, listings=tmp_path / "listings"))


LABELS = {
    "numbers": {},
    "the published names": {"names": ["tench, Tinca tinca", "goldfish", "great white shark"]},
    "synsets in another order": {
        "names": ["n03", "n01", "n02"],
        "told": {"n01": 1, "n02": 2, "n03": 0},
    },
    "texts": {"told": {name: name for name in CLASSES}},
    "other columns": {"image": "jpg", "label": "cls"},
}


@pytest.mark.parametrize("options", LABELS.values(), ids=LABELS)
def test_a_saved_dataset_is_what_folders_are(tmp_path, images, expected, options):
    root = save(tmp_path / "saved", train=table(images["train"], **options))
    columns = {key: options[key] for key in ("image", "label") if key in options}
    found = read(root, **columns)
    assert pairs(found) == expected
    # As a worker gets it.
    again = pickle.loads(pickle.dumps(found.files))
    assert [again.read(i) for i in range(len(again))] == [content for _, content in expected]


def test_parquet_files_are_what_folders_are(tmp_path, images, expected):
    half = table(images["train"])
    for i in range(2):
        half.shard(2, i).to_parquet(str(tmp_path / "data" / f"train-0000{i}-of-00002.parquet"))
    found = read(tmp_path)
    assert pairs(found) == expected
    assert found.files.name(0) == f"{tmp_path}: row {found.files._rows[0]}"


def test_images_that_are_paths(tmp_path, images):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"1")
    rows = datasets.Dataset.from_dict(
        {"image": [str(path), None], "label": [0, 1]},
        features=datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")}),
    )
    # Saved, it would hold the content itself.
    found = read_huggingface(
        rows, image="image", label="label", listings=tmp_path / "listings", numbered=CLASSES, where="here"
    )
    assert found.files.read(0) == b"1"
    with pytest.raises(OSError, match=r"row 1 holds nothing"):
        found.files.read(1)


def test_the_first_split_that_is_there(tmp_path, images):
    root = save(tmp_path / "saved", train=table(images["train"]), validation=table(images["val"]))
    assert len(read(root, "val", "validation", "train").files) == 6
    with pytest.raises(ValueError, match=r"saved has no split val or test: it has train, validation$"):
        read(root, "val", "test")
    table(images["train"]).save_to_disk(str(tmp_path / "one"))
    with pytest.raises(ValueError, match=r"one is a single split: it must be a dataset with a split train$"):
        read(tmp_path / "one")


def test_wrong_columns_and_labels(tmp_path, images):
    root = save(tmp_path / "saved", train=table(images["train"]))
    with pytest.raises(ValueError, match=r"dataset.image_column is 'jpg': the columns of .* are image, label$"):
        read(root, image="jpg")
    with pytest.raises(ValueError, match=r"dataset.label_column is 'cls': the columns of"):
        read(root, label="cls")
    # Labels of a test set that is not published, and of other classes.
    root = save(tmp_path / "unlabelled", train=table(images["train"], told={"n01": -1, "n02": 1, "n03": 3}))
    with pytest.raises(ValueError, match=r"16 labels are none of 0 to 2: (-1|3) in row \d+, .*\.\.\.$"):
        read(root)
    root = save(tmp_path / "shifted", train=table(images["train"], told={"n01": 1, "n02": 2, "n03": 0}))
    with pytest.raises(
        ValueError, match=r"24 images have another label than their names tell: n0\d_\d+_n0\d.JPEG is"
    ):
        read(root)


def test_what_the_hub_is_not_asked_for(tmp_path):
    """Without dataset.download nothing is fetched: with the network that tests have, one line either way."""
    with pytest.raises(ValueError, match="cannot be opened") as caught:
        open_dataset(tmp_path, "train", hub="nobody/nothing", download=False)
    assert str(caught.value).startswith("nobody/nothing cannot be opened as a Hugging Face dataset (")
    assert str(caught.value).endswith("; dataset.download=true fetches it")
    assert "offline" in str(caught.value).lower()
    assert len(str(caught.value).splitlines()) == 1
    assert not datasets.config.HF_HUB_OFFLINE


def test_the_library_may_be_missing(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"needs the library `datasets`, pip install 'moment-exchange\[huggingface\]'"
    ):
        open_dataset(tmp_path, "train", hub=None, download=False)
