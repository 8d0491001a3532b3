"""ImageNet at 32×32 and 64×64 pixels: the published batches, and what may not be in them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from moex import data
from moex.data import Request

NAMES = [*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"]


def batches(pixels, *, count=7):
    """The content of all files, those of training with a mean image, as published."""
    rng = np.random.default_rng(0)
    return {
        name: {
            "data": rng.integers(0, 256, (count + i, 3 * pixels**2), dtype=np.uint8),
            "labels": rng.integers(1, 1001, count + i).tolist(),
            **({"mean": rng.random(3 * pixels**2)} if "train" in name else {}),
        }
        for i, name in enumerate(NAMES)
    }


def write(root, contents, *, kind):
    root.mkdir(exist_ok=True)
    for name, content in contents.items():
        if kind == "npz":
            np.savez(root / f"{name}.npz", **content)
        elif kind == "compressed npz":
            np.savez_compressed(root / f"{name}.npz", **content)
        else:
            (root / name).write_bytes(pickle.dumps(content, protocol=kind))
    return root


@pytest.mark.parametrize("kind", [0, 2, 4, 5, "npz", "compressed npz"])
@pytest.mark.parametrize("pixels", [32, 64])
def test_published_files(tmp_path, pixels, kind):
    contents = batches(pixels)
    root = write(tmp_path / "root", contents, kind=kind)
    splits = data.find(f"imagenet{pixels}")(root=str(root)).read(seed=0)
    for split, names in (("train", NAMES[:10]), ("test", NAMES[10:])):
        pixels_of = np.concatenate([contents[name]["data"] for name in names]).reshape(-1, 3, pixels, pixels)
        assert np.array_equal(splits[split].inputs.numpy(), pixels_of)
        labels = [label - 1 for name in names for label in contents[name]["labels"]]
        assert splits[split].labels.tolist() == labels
        assert splits[split].labels.dtype == torch.int64


@pytest.mark.parametrize(("pixels", "padding"), [(32, 4), (64, 8)])
def test_batches(tmp_path, pixels, padding):
    """Shifted by up to so many pixels, mirrored or not, normalised as ImageNet is."""
    dataset = data.find(f"imagenet{pixels}")(root=str(write(tmp_path / "root", batches(pixels), kind="npz")))
    assert (dataset.shape, dataset.num_classes, dataset.padding) == ((3, pixels, pixels), 1000, padding)
    sources = data.load(dataset, seed=0, device=torch.device("cpu"))
    ((inputs, _),) = sources["test"].batches([Request(torch.arange(17), torch.arange(17))])
    pixels_of = dataset.read(seed=0)["test"].inputs / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(inputs, (pixels_of - mean) / std, rtol=0, atol=2e-6)


def test_the_test_set_alone(tmp_path):
    contents = {"val_data": batches(32)["val_data"]}
    dataset = data.find("imagenet32")(root=str(write(tmp_path / "root", contents, kind=4)))
    assert len(dataset.read_test(seed=0)["test"].labels) == 17
    with pytest.raises(ValueError, match=r"root lacks 10 of 10 files of imagenet32: train_data_batch_1, .*\.\.\.$"):
        dataset.read(seed=0)


class Malicious:
    """Touches a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def evil_array(path):
    return np.array([Malicious(path)], dtype=object)


@pytest.mark.parametrize("wrap", [Malicious, evil_array, lambda path: {"more": [Malicious(path)]}])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_code_in_a_batch_is_refused(tmp_path, wrap, protocol):
    contents = batches(32)
    contents["val_data"]["labels"] = wrap(tmp_path / "touched")
    root = write(tmp_path / "root", contents, kind=protocol)
    assert pickle.loads((root / "val_data").read_bytes())
    assert (tmp_path / "touched").exists()
    (tmp_path / "touched").unlink()
    with pytest.raises(ValueError, match=r"val_data is refused: .*\(it would run \w+\.\w+"):
        data.find("imagenet32")(root=str(root)).read_test(seed=0)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'touch touched'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n.",
        b"cnumpy.core\nnumeric\n.",
    ],
)
def test_other_functions_are_refused(tmp_path, stream):
    (tmp_path / "val_data").write_bytes(stream)
    with pytest.raises(ValueError, match=r"it would run (os|builtins|numpy)"):
        data.find("imagenet32")(root=str(tmp_path)).read_test(seed=0)


def test_code_in_an_npz_is_refused(tmp_path):
    contents = {"val_data": batches(32)["val_data"] | {"labels": evil_array(tmp_path / "touched")}}
    root = write(tmp_path / "root", contents, kind="npz")
    with pytest.raises(ValueError, match=r"val_data.npz is refused: .*allow_pickle"):
        data.find("imagenet32")(root=str(root)).read_test(seed=0)
    assert not (tmp_path / "touched").exists()


WRONG = {
    "another size": (
        lambda content: batches(64)["val_data"],
        r"holds images as uint8 \[17, 12288\]: ",
    ),
    "floats": (lambda content: content | {"data": content["data"] / 255}, r"images as float64 .*it must be uint8"),
    "too few labels": (lambda content: content | {"labels": [1]}, r"\[17, 3072\]: it must be uint8 \[1, 3072\]$"),
    "from 0 on": (
        lambda content: content | {"labels": [0, 1001, *[5] * 15]},
        r"2 labels are none of 1 to 1000: 0, ",
    ),
    "no labels": (lambda content: {"data": content["data"]}, r"val_data.* is refused: it is damaged or none of"),
}


@pytest.mark.parametrize("kind", [4, "npz"])
@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_batch(tmp_path, change, message, kind):
    root = write(tmp_path / "root", {"val_data": change(batches(32)["val_data"])}, kind=kind)
    with pytest.raises(ValueError, match=message):
        data.find("imagenet32")(root=str(root)).read_test(seed=0)


@pytest.mark.parametrize("kind", [4, "npz"])
@pytest.mark.parametrize("damage", [lambda content: content[:-3000], lambda content: b"nothing", lambda content: b""])
def test_damaged(tmp_path, kind, damage):
    root = write(tmp_path / "root", {"val_data": batches(32)["val_data"]}, kind=kind)
    (path,) = root.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"val_data.* is (refused|damaged)"):
        data.find("imagenet32")(root=str(root)).read_test(seed=0)
