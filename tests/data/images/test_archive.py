"""Images in tar archives: read where they lie, and only if nothing about the archive is odd."""

import gzip
import json
import os
import pickle
import tarfile

import pytest
from layouts import age, jpeg, photographs, write_folders, write_shards, write_tar

from moex.data.images.archive import check_complete, read_archives
from moex.data.images.folder import read_folder
from moex.data.images.labelled import find_shards

CLASSES = ("n01", "n02", "n03", "n04")


def read(archives, numbered=CLASSES, listings=None):
    return read_archives(archives, listings=listings or archives[0].parent / "listings", numbered=numbered)


def pairs(found):
    """The label and the content of each image, in their order."""
    return [(int(label), found.files.read(i)) for i, label in enumerate(found.labels)]


@pytest.fixture
def images():
    return photographs(CLASSES, train=8)


@pytest.fixture
def expected(tmp_path, images):
    """The same in folders."""
    root = write_folders(tmp_path / "folders", images)
    return pairs(read_folder(root / "train", root=root, listings=tmp_path / "listings"))


def test_shards_are_what_folders_are(tmp_path, images, expected):
    root = write_shards(tmp_path / "shards", images, {label: i for i, label in enumerate(CLASSES)}, shards=3)
    for _ in range(2):  # The second time from the list.
        archives = find_shards(age(root), "tar", "train")
        assert [path.name for path in archives] == [f"imagenet1k-train-{shard:04}.tar" for shard in range(3)]
        found = read(archives)
        assert pairs(found) == expected
        assert found.classes == CLASSES
    # As a worker gets it, which opens its archives itself.
    again = pickle.loads(pickle.dumps(found.files))
    assert [again.read(i) for i in range(len(again))] == [content for _, content in expected]
    assert again.name(0).endswith(".tar: n01_1.jpg")


def test_class_folders_in_archives(tmp_path, images, expected):
    rows = images["train"]
    halves = (rows[::2], rows[1::2])
    archives = [
        write_tar(tmp_path / f"{i}.tar", [(f"./train/{label}/{name}", content) for label, name, content in half])
        for i, half in enumerate(halves)
    ]
    assert pairs(read(archives)) == expected


def test_an_archive_for_each_class(tmp_path, images, expected):
    """As ImageNet's authors publish the training set, here with a folder's own member in it."""
    folder = tarfile.TarInfo("./")
    folder.type = tarfile.DIRTYPE
    for label in CLASSES:
        members = [(name, content) for other, name, content in images["train"] if other == label]
        write_tar(tmp_path / "train" / f"{label}.tar", [(folder, b""), *members])
    found = read(find_shards(tmp_path, "tar", "train"))
    assert pairs(found) == expected
    assert found.classes == CLASSES


def test_which_files_belong_to_a_split(tmp_path):
    for name in (
        "a-train-0.tar",
        "a-val-0.tar",
        "data/a_train.1.tar",
        "trainer.tar",
        ".a-train-1.tar",
        "b-train.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(*splits):
        return [str(path.relative_to(tmp_path)) for path in find_shards(tmp_path, "tar", *splits)]

    assert found("train") == ["a-train-0.tar", "data/a_train.1.tar"]
    assert found("validation", "val") == ["a-val-0.tar"]
    assert found("test") == []
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0.tar").touch()
    assert found("train") == ["train/0.tar"]
    (tmp_path / "train" / "1.tar").symlink_to("/elsewhere/1.tar")
    with pytest.raises(ValueError, match=r"1 symbolic links lead out of .*train/1.tar"):
        found("train")


def test_what_is_no_image_is_left_out(tmp_path):
    members = [("._a.jpg", b"0"), ("a.jpg", b"1"), (".x/b.jpg", b"2"), ("c.txt", b"3"), ("d.JPEG", b"4")]
    assert pairs(read([write_tar(tmp_path / "n01.tar", members)])) == [(0, b"1"), (0, b"4")]


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


UNSAFE = {
    "absolute": ("/etc/n01/a.jpg", b"1"),
    "leads out": ("n01/../../a.jpg", b"1"),
    "symbolic link": special("n01/a.jpg", tarfile.SYMTYPE, "/etc/passwd"),
    "hard link": special("n01/a.jpg", tarfile.LNKTYPE, "n01/b.jpg"),
    "device": special("n01/a.jpg", tarfile.CHRTYPE),
    "pipe": special("n01/a.jpg", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("member", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_members(tmp_path, member):
    path = write_tar(tmp_path / "x.tar", [("n01/b.jpg", b"1"), *[member] * 7])
    name = member[0] if isinstance(member[0], str) else member[0].name
    with pytest.raises(
        ValueError, match=r"x.tar: 7 members are refused, since they are links, dev.*(, .*){5}\.\.\.$"
    ) as caught:
        read([path])
    assert str(caught.value).count(name) == 5


def shard(*samples):
    """Members of a shard of keys, labels and whether there is an image."""
    return [
        member
        for key, label, has_image in samples
        for member in (
            *([(f"{key}.cls", label)] if label is not None else []),
            *([(f"{key}.jpg", jpeg(0))] if has_image else []),
        )
    ]


WRONG = {
    "no label": (shard(("a", b"0", True), ("b", None, True)), r"1 keys have no image and label .*KEY.cls: b$"),
    "no image": (shard(("a", b"0", True), ("b", b"1", False)), r"1 keys have no image and label"),
    "too large": (shard(("a", b"4", True), ("b", b"3", True)), r"a number from 0 to 3 in KEY.cls: a$"),
    "negative": (shard(("a", b"-1", True)), r"1 keys have no image and label"),
    "a text": (shard(("a", b"tench", True)), r"1 keys have no image and label"),
    "two images": ([*shard(("a", b"0", True)), ("a.png", b"1")], r"1 keys with more than one image: a$"),
    "another class than the name's": (
        shard(("n02_7", b"2", True), ("n02_8", b"1", True)),
        r"1 images have another label than their names tell: n02_7.jpg is labelled n03",
    ),
}


@pytest.mark.parametrize(("members", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_label_map(tmp_path, members, message):
    with pytest.raises(ValueError, match=rf"x.tar.*{message}"):
        read([write_tar(tmp_path / "x.tar", members)])


def test_archives_of_two_layouts(tmp_path):
    shards = [
        write_tar(tmp_path / "0.tar", shard(("a", b"0", True))),
        write_tar(tmp_path / "1.tar", [("b.jpg", b"1")]),
    ]
    with pytest.raises(ValueError, match=r"some have labels \(KEY.cls\), and others have none"):
        read(shards)


def test_nothing_in_it(tmp_path):
    with pytest.raises(ValueError, match=r"hold no image \(.*\.jpg"):
        read([write_tar(tmp_path / "x.tar", [("a.txt", b"1")])])


DAMAGES = {
    "truncated in a member": lambda content: content[:1500],
    "truncated in a header": lambda content: content[:1300],
    "a header overwritten": lambda content: content[:1024] + b"x" * 100 + content[1124:],
    "compressed": gzip.compress,
    "no archive": lambda content: b"x" * 5000,
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_archive(tmp_path, damage):
    """Headers are at bytes 0 and 1024."""
    path = write_tar(tmp_path / "n01.tar", [("a.jpg", b"1" * 300), ("b.jpg", b"2" * 300)])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"n01.tar is damaged, compressed, or no tar archive \("):
        read([path])


def test_cut_off_since_it_was_listed(tmp_path):
    path = write_tar(tmp_path / "n01.tar", [("a.jpg", b"1" * 300)])
    found = read([path])
    os.truncate(path, 700)
    with pytest.raises(OSError, match=r"n01.tar: a.jpg is cut off"):
        found.files.read(0)


def test_missing_archives(tmp_path, images):
    root = write_shards(tmp_path / "shards", images, {label: i for i, label in enumerate(CLASSES)}, shards=3)
    with pytest.raises(ValueError, match=r"shards has no tar archives of the split test"):
        check_complete(root, [], "test")
    listed = [f"imagenet1k-train-{shard:04}.tar" for shard in range(10)]
    archives = find_shards(root, "tar", "train")
    (root / "_info.json").write_text(json.dumps({"splits": {"train": {"filenames": listed}}}))
    with pytest.raises(ValueError, match=r"shards lacks 7 of 10 archives: imagenet1k-train-0003.tar, .*\.\.\.$"):
        check_complete(root, archives, "train")
    check_complete(root, find_shards(root, "tar", "validation"), "validation")
    (root / "_info.json").write_text("{}")
    with pytest.raises(ValueError, match=r"_info.json lists no splits"):
        check_complete(root, archives, "train")
