"""Images in a folder for each class, against torchvision's ImageFolder."""

from pathlib import Path

import pytest
from layouts import age, jpeg, photographs, write_folders
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from moex.data.images.folder import read_folder
from moex.data.images.labelled import ENDINGS


def read(root, split="train", **options):
    return read_folder(root / split, root=root, listings=root.parent / "listings", **options)


def test_order_and_labels_are_those_of_torchvision(tmp_path):
    root = write_folders(tmp_path / "root", photographs(["n03", "n01", "n02"], train=12))
    theirs = ImageFolder(str(root / "train"))
    for _ in range(2):  # The second time from the list.
        ours = read(age(root))
        assert list(ours.classes) == theirs.classes
        assert ours.labels.tolist() == theirs.targets
        assert [ours.files.name(i) for i in range(len(ours.files))] == [path for path, _ in theirs.samples]
        assert ours.files.read(7) == Path(theirs.samples[7][0]).read_bytes()


def test_endings_are_those_of_torchvision():
    assert set(IMG_EXTENSIONS) == ENDINGS


def test_what_is_no_image_is_left_out(tmp_path):
    root = write_folders(tmp_path / "root", {"train": [("cat", "b.PNG", b"1"), ("cat", "more/a.jpg", b"2")]})
    others = (
        "cat/._b.jpg",
        "cat/notes.txt",
        "cat/b",
        "cat/.x/y.jpg",
        ".DS_Store",
        ".ipynb_checkpoints/x.jpg",
        "z.jpg",
    )
    for path in others:
        (root / "train" / path).parent.mkdir(exist_ok=True)
        (root / "train" / path).write_bytes(b"3")
    found = read(root)
    assert found.classes == ("cat",)
    # By name without ending: `b` before `more/a`.
    assert [found.files.read(i) for i in range(len(found.files))] == [b"1", b"2"]


def test_some_classes_in_another_order(tmp_path):
    root = write_folders(tmp_path / "root", photographs(["a", "b", "c"]))
    found = read(root)
    samples = found.of(["c", "a"])
    assert samples.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [samples.inputs.name(i).split("/")[-2] for i in (0, 2, 3, 5)] == ["c", "c", "a", "a"]
    with pytest.raises(ValueError, match=rf"{root}/train lacks 6 of 7 classes: d, e, f, g, h, \.\.\.$"):
        found.of(["d", "e", "f", "g", "h", "i", "a"])


def test_links(tmp_path):
    """Inside the root they are followed, but for those that could lead around; outside nothing is read."""
    root = write_folders(tmp_path / "root", {"train": [("a", "1.jpg", b"1")], "pool": [("x", "2.jpg", b"2")]})
    (root / "train/a/2.jpg").symlink_to("../../pool/x/2.jpg")
    (root / "train/b").symlink_to("../pool/x")
    found = read(root)
    assert [found.files.read(i) for i in range(len(found.files))] == [b"1", b"2", b"2"]
    outside = tmp_path / "secret.jpg"
    outside.write_bytes(b"secret")
    for path, target in {"a/3.jpg": outside, "a/4.jpg": "../../../secret.jpg", "c": tmp_path, "a/5": "."}.items():
        (root / "train" / path).symlink_to(target)
    (root / "train/a/readme.txt").symlink_to(outside)  # No image: nobody would read it.
    message = rf"4 symbolic links lead out of {root}, or to a folder inside a class: .*train/c, .*"
    with pytest.raises(ValueError, match=message) as caught:
        read(root)
    assert all(f"train/{path}" in str(caught.value) for path in ("a/3.jpg", "a/4.jpg", "a/5"))
    (root / "val").symlink_to(tmp_path / "root2" / "val")
    write_folders(tmp_path / "root2", {"val": [("a", "1.jpg", b"1")]})
    with pytest.raises(ValueError, match=r"1 symbolic links lead out of .*: .*val"):
        read(root, "val")


def test_a_root_that_is_a_link(tmp_path):
    write_folders(tmp_path / "elsewhere", {"train": [("a", "1.jpg", jpeg(0))]})
    (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
    assert read(tmp_path / "root").files.read(0) == jpeg(0)


def test_what_cannot_be_a_split(tmp_path):
    root = tmp_path / "root"
    with pytest.raises(ValueError, match=rf"there is no folder {root}/train"):
        read(root)
    (root / "train").mkdir(parents=True)
    (root / "train" / "x.jpg").touch()
    with pytest.raises(ValueError, match=r"train has no folders of classes"):
        read(root)
    for label in "abcdefg":
        (root / "train" / label).mkdir()
        (root / "train" / label / "x.txt").touch()
    (root / "train" / "d" / "x.jpg").touch()
    message = r"6 of the 7 folders in .*train hold no image \(.*\.jpg.*\): a, b, c, e, f, \.\.\.$"
    with pytest.raises(ValueError, match=message):
        read(root)


def test_names_that_are_no_text(tmp_path):
    """As another system's encoding leaves them."""
    root = tmp_path / "root"
    (root / "train" / "a").mkdir(parents=True)
    path = root / "train" / "a" / b"caf\xe9.jpg".decode(errors="surrogateescape")
    path.write_bytes(b"1")
    for _ in range(2):
        found = read(age(root))
        assert found.files.read(0) == b"1"


def test_a_digest_tells_pictures_apart(tmp_path):
    def digest(images):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        return read(write_folders(root, {"train": images})).files.digest()

    usual = [("a", "1.jpg", b"1"), ("a", "2.jpg", b"2"), ("b", "1.jpg", b"3")]
    assert digest(usual) == digest(usual)
    others = (
        [*usual, ("b", "2.jpg", b"4")],
        [("a", "1.jpg", b"1"), ("b", "2.jpg", b"2"), ("b", "1.jpg", b"3")],
        [("a", "1.jpg", b"1"), ("a", "2.jpg", b"2"), ("c", "1.jpg", b"3")],
        [("a", "1.jpg", b"1"), ("a", "2.jpg", b"2"), ("b", "1.jpg", b"33")],
    )
    assert len({digest(images) for images in (usual, *others)}) == 5
