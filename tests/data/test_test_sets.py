"""The shifted test sets, in the layouts of their published archives, with a tiny image for each class."""

import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from moex import data
from moex.data.imagenet_c import ALEXNET, EXTRA, ImageNetC
from moex.data.images.synsets import synsets
from moex.metrics import Scores, score

INFO = Path(timm.__file__).parent / "data" / "_info"
A, R = ((INFO / f"imagenet_{letter}_synsets.txt").read_text().split() for letter in "ar")
OTHERS = synsets()[100:300]
CORRUPTED = synsets()[:3]


@dataclass
class SmallImageNetC(ImageNetC):
    """Of three classes: 75 folders of 1,000 folders are many."""

    @property
    def own_classes(self):
        return CORRUPTED


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "picture.jpg"
    Image.new("RGB", (20, 16), (200, 30, 90)).save(path)
    return path


@pytest.fixture
def lay(tmp_path, picture):
    """Makes folders with an image in each."""

    def lay_folders(parent, names, image="picture.JPEG"):
        for name in names:
            (tmp_path / parent / name).mkdir(parents=True)
            os.link(picture, tmp_path / parent / name / image)
        return tmp_path

    return lay_folders


def lay_corruptions(lay, *, grouped):
    for corruption in (*ALEXNET, *EXTRA):
        for severity in range(1, 6):
            lay(f"imagenet-c/{'some group/' if grouped else ''}{corruption}/{severity}", CORRUPTED)


def lay_objectnet(lay, root):
    """Two of its classes that are ImageNet's too, one of which is three there, and one that is not."""
    lay("objectnet-1.0/images", ["chair", "band_aid", "figurine"], "1.png")
    words = [f"word {index}, other word" for index in range(1000)]
    # Lines of the words are in another order than labels.
    lines = {str(label): (label + 7) % 1000 for label in range(1000)}
    word = {label: words[lines[str(label)]] for label in range(1000)}
    files = {
        "folder_to_objectnet_label.json": {"chair": "Chair", "band_aid": "Band Aid", "figurine": "Figurine"},
        "objectnet_to_imagenet_1k.json": {"Chair": f"{word[423]}; {word[559]}; {word[765]}", "Band Aid": word[419]},
        "pytorch_to_imagenet_2012_id.json": lines,
    }
    (root / "objectnet-1.0" / "mappings").mkdir()
    for name, content in files.items():
        (root / "objectnet-1.0" / "mappings" / name).write_text(json.dumps(content))
    (root / "objectnet-1.0" / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(words) + "\n")


@pytest.fixture
def make(tmp_path):
    def make_set(name, **settings):
        schema = SmallImageNetC if name == "imagenet_c" else data.find(name)
        return schema(root=str(tmp_path), listings=str(tmp_path / "listings"), **settings)

    return make_set


def folders(samples):
    return [Path(samples.inputs.name(position)).parent.name for position in range(len(samples.inputs))]


SUBSETS = {"imagenet_a": ("imagenet-a", A, "a"), "imagenet_r": ("imagenet-r", R, "r")}


@pytest.mark.parametrize("name", SUBSETS)
def test_two_hundred_classes(name, lay, make):
    folder, classes, letter = SUBSETS[name]
    lay(folder, classes)
    for restrict in (True, False):
        dataset = make(name, restrict=restrict)
        samples = dataset.read_test(seed=0)["test"]
        assert folders(samples) == classes
        assert [dataset.class_names[label] for label in samples.labels.tolist()] == classes
        assert dataset.num_classes == (200 if restrict else 1000)
        outputs = dataset.outputs(synsets(), count=1000)
        if restrict:
            # timm's own list of them.
            assert [str(index) for (index,) in outputs.groups] == (
                INFO / f"imagenet_{letter}_indices.txt"
            ).read_text().split()
        else:
            assert outputs is None


def test_the_root_may_be_the_archives_folder(lay, make, tmp_path):
    lay("imagenet-a", A)
    dataset = data.find("imagenet_a")(root=str(tmp_path / "imagenet-a"), listings=str(tmp_path / "listings"))
    assert folders(dataset.read_test(seed=0)["test"]) == A


def test_sketches(lay, make):
    lay("sketch", synsets())
    samples = make("imagenet_sketch").read_test(seed=0)["test"]
    assert folders(samples) == list(synsets())
    assert samples.labels.tolist() == list(range(1000))


@pytest.mark.parametrize("variant", ["matched-frequency", "threshold-0.7", "top-images"])
def test_folders_that_are_labels(variant, lay, make):
    lay(f"imagenetv2-{variant.replace('threshold-', 'threshold')}-format-val", map(str, range(1000)))
    dataset = make("imagenet_v2", variant=variant)
    samples = dataset.read_test(seed=0)["test"]
    assert [int(folder) for folder in folders(samples)] == samples.labels.tolist() == list(range(1000))
    assert dataset.class_names == synsets()


@pytest.mark.parametrize("grouped", [False, True])
def test_corruptions_and_severities(grouped, lay, make):
    lay_corruptions(lay, grouped=grouped)
    for extra in (False, True):
        parts = make("imagenet_c", extra=extra).read_test(seed=0)
        corruptions = [*ALEXNET, *(EXTRA if extra else [])]
        assert list(parts) == [f"{corruption}-{severity}" for corruption in corruptions for severity in range(1, 6)]
        for part, samples in parts.items():
            assert folders(samples) == list(CORRUPTED)
            assert part.replace("-", "/") in samples.inputs.name(0)


def test_out_of_distribution_and_in_it(lay, make, tmp_path):
    """The classes are the folders' names; of ImageNet, validation images of these alone."""
    lay("imagenet-o", OTHERS)
    lay("imagenet/val", synsets())
    for restrict in (True, False):
        dataset = make("imagenet_o", restrict=restrict, imagenet=str(tmp_path / "imagenet"))
        parts = dataset.read_test(seed=0)
        assert list(parts) == ["in", "out"]
        for part, samples in parts.items():
            assert [dataset.class_names[label] for label in samples.labels.tolist()] == list(OTHERS), part
            assert folders(samples) == list(OTHERS), part
            assert ("imagenet/val" in samples.inputs.name(0)) == (part == "in")
    assert dataset.num_classes == 1000


@pytest.mark.parametrize("restrict", [True, False])
def test_several_classes_for_one(restrict, lay, make, tmp_path):
    lay_objectnet(lay, tmp_path)
    dataset = make("objectnet", restrict=restrict)
    samples = dataset.read_test(seed=0)["test"]
    assert folders(samples) == ["band_aid", "chair"] == [dataset.class_names[label] for label in samples.labels]
    assert dataset.num_classes == (2 if restrict else 998)
    logits = torch.randn(500, 1000)
    outputs = dataset.outputs(synsets(), count=1000)
    ours = outputs.restrict(logits)
    assert torch.equal(ours[:, :2], torch.stack([logits[:, 419], logits[:, [423, 559, 765]].amax(1)], dim=1))
    if not restrict:
        # As the published code scores: the prediction among 1,000 is looked up.
        is_chair = torch.isin(logits.argmax(1), torch.tensor([423, 559, 765]))
        assert torch.equal(ours.argmax(1) == 1, is_chair)


def test_a_frame_is_cut_off(lay, make, tmp_path):
    lay_objectnet(lay, tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    path = tmp_path / "objectnet-1.0" / "images" / "chair" / "2.png"
    Image.fromarray(pixels).save(path)
    images = make("objectnet").read_test(seed=0)["test"].inputs
    position = [images.name(position) for position in range(len(images))].index(str(path))
    assert np.array_equal(Image.open(io.BytesIO(images.read(position))), pixels[2:5, 2:7])
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(OSError, match=r"Error: "):
        images.read(position)


REFUSED = {
    "nothing": (
        "imagenet_a",
        {},
        lambda lay: None,
        r"no folder .*/imagenet-a: unpack https://.*imagenet-a.tar there",
    ),
    "a class is missing": ("imagenet_a", {}, lambda lay: lay("imagenet-a", A[2:]), r"lacks 2 of 200 classes: n014"),
    "a class of another set": (
        "imagenet_r",
        {},
        lambda lay: lay("imagenet-r", sorted({*A, *R})),
        r"imagenet-r has \d+ folders that are none of its classes: n\d+, ",
    ),
    "corruptions are missing": (
        "imagenet_c",
        {"extra": True},
        lambda lay: lay("imagenet-c/fog/2", CORRUPTED),
        r"lacks 94 of 95 corruptions and severities: gaussian_noise-1, .*, \.\.\.; they are from https://zenodo",
    ),
    "no class": ("imagenet_o", {}, lambda lay: lay("imagenet-o", ["x"]), r"1 of 1 names are no synsets of ImageNet"),
    "no ImageNet": (
        "imagenet_o",
        {"imagenet": "/nowhere"},
        lambda lay: lay("imagenet-o", OTHERS),
        r"its part in, of its setting imagenet=/nowhere: .* must hold ImageNet",
    ),
    "fewer of ImageNet": (
        "imagenet_o",
        {"imagenet": "{root}/imagenet"},
        lambda lay: (lay("imagenet-o", OTHERS), lay("imagenet/val", OTHERS[3:])),
        r"/imagenet lacks 3 of its 200 classes: n",
    ),
    "no mappings": (
        "objectnet",
        {},
        lambda lay: lay("objectnet-1.0/images", ["chair"]),
        r"objectnet-1.0/mappings must hold folder_to_objectnet_label.json, .* \(FileNotFoundError",
    ),
}


@pytest.mark.parametrize(("name", "settings", "prepare", "message"), REFUSED.values(), ids=REFUSED)
def test_files_that_are_not_there(name, settings, prepare, message, lay, make, tmp_path):
    prepare(lay)
    settings = {
        key: value.format(root=tmp_path) if isinstance(value, str) else value for key, value in settings.items()
    }
    with pytest.raises(ValueError, match=message) as caught:
        make(name, **settings).read_test(seed=0)
    assert len(str(caught.value).splitlines()) == 1


def test_nobody_trains_on_them(make):
    with pytest.raises(
        ValueError, match=r"imagenet_a is a test set, .* train on imagenet with test_sets=\[imagenet_a\]"
    ):
        data.load(make("imagenet_a"), seed=0, device=torch.device("cpu"))
    for settings, message in (
        ({"download": True}, r"dataset.download is True: it must be false: unpack https://"),
        ({"validation": 0.1}, r"dataset.validation is 0.1: it must be null"),
    ):
        with pytest.raises(ValueError, match=message):
            make("imagenet_a", **settings).check("dataset")
    with pytest.raises(
        ValueError, match=r"variant is 'top': it must be one of matched-frequency, threshold-0.7, top-"
    ):
        make("imagenet_v2", variant="top").check("dataset")


def scores_with(errors, samples=1000):
    """Scores of a network that is wrong so often."""
    wrong = torch.arange(samples) < round(errors * samples)
    return Scores(torch.zeros(samples), wrong.long(), torch.ones(samples))


def test_corruption_errors_by_hand(make):
    generator = np.random.default_rng(0)
    dataset = make("imagenet_c", extra=True)
    rates = {corruption: generator.integers(100, 900, 5) / 1000 for corruption in dataset.corruptions}
    figures = dataset.summarise(
        {
            f"{corruption}-{severity + 1}": scores_with(rate)
            for corruption, each in rates.items()
            for severity, rate in enumerate(each)
        }
    )
    means = {corruption: float(np.mean(each)) for corruption, each in rates.items()}
    # As Hendrycks and Dietterich write it: sums over severities, then a mean of 15 quotients.
    ratios = [np.sum(rates[corruption]) / (5 * error) for corruption, error in ALEXNET.items()]
    assert len(ratios) == 15
    assert figures["mean_corruption_error"] == pytest.approx(np.mean(ratios))
    assert figures["error"] == pytest.approx(np.mean([means[corruption] for corruption in ALEXNET]))
    assert {name[6:]: value for name, value in figures.items() if name.startswith("error_")} == pytest.approx(means)


def test_the_aupr_is_of_the_restricted_softmax(lay, make, tmp_path):
    from sklearn.metrics import average_precision_score

    lay("imagenet-o", OTHERS)
    dataset = make("imagenet_o")
    outputs = dataset.outputs(synsets(), count=1000)
    logits, labels = torch.randn(300, 1000).double(), torch.zeros(300, dtype=torch.int64)
    parts = {"in": slice(200), "out": slice(200, 300)}
    figures = dataset.summarise(
        {part: score(outputs.restrict(logits[which]), labels[which]) for part, which in parts.items()}
    )
    confidence = logits[:, 100:300].softmax(1).amax(1)
    expected = average_precision_score([0] * 200 + [1] * 100, -confidence)
    assert figures == {"aupr": pytest.approx(expected, abs=1e-12)}
