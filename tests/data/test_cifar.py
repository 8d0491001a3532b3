"""The standard archives: the real CIFAR-100, and small files in the real format for what can go wrong."""

import hashlib
import pickle
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
import torchvision
from torchvision.datasets import utils

from moex import data
from moex.data import MissingDataError

PER_FILE = 20


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


class SilentHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder, and the address where it is served."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SilentHandler, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["cifar10", "cifar100"])
def small(request, tmp_path, site, monkeypatch):
    """A name, an empty root, and torchvision's class for an archive of a few images, which a URL serves."""
    name = request.param
    publication = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    served, address = site
    folder = served / publication.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)
    classes = data.find(name)().num_classes

    def write(filename, content):
        (folder / filename).write_bytes(pickle.dumps(content, protocol=2))
        return [filename, md5(folder / filename)]

    def write_images(filename):
        pixels = rng.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)
        key = "labels" if name == "cifar10" else "fine_labels"
        return write(filename, {"data": pixels, key: rng.integers(0, classes, PER_FILE).tolist()})

    train_list, test_list = (
        [write_images(filename) for filename, _ in files] for files in (publication.train_list, publication.test_list)
    )
    filename, checksum = write(
        publication.meta["filename"], {publication.meta["key"]: [f"class {k}" for k in range(classes)]}
    )
    archive = served / publication.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, publication.base_folder)
    attributes = {
        "url": f"{address}/{archive.name}",
        "tgz_md5": md5(archive),
        "train_list": train_list,
        "test_list": test_list,
        "meta": publication.meta | {"filename": filename, "md5": checksum},
    }
    monkeypatch.setattr(torchvision.datasets, publication.__name__, type("Small", (publication,), attributes))
    root = tmp_path / "root"
    root.mkdir()
    return name, root, archive


def read(name, root, *, download=False):
    return data.find(name)(root=str(root), download=download).read(seed=0)


def check(splits, archive):
    """Against the pickles themselves: channels are planes of rows."""
    folder = next(path for path in archive.parent.iterdir() if path.is_dir())
    files = sorted(path for path in folder.iterdir() if "train" in path.name or "data_batch" in path.name)
    pixels = np.concatenate([pickle.loads(path.read_bytes())["data"] for path in files])
    assert np.array_equal(splits["train"].inputs.numpy(), pixels.reshape(-1, 3, 32, 32))
    assert splits["test"].inputs.shape == (PER_FILE, 3, 32, 32)
    assert splits["test"].inputs.dtype == torch.uint8
    assert splits["train"].labels.dtype == torch.int64


def test_downloaded_then_read_again_without(small):
    name, root, archive = small
    check(read(name, root, download=True), archive)
    archive.rename(archive.with_suffix(".gone"))
    check(read(name, root), archive)
    check(read(name, root, download=True), archive)


def test_an_archive_put_there_by_hand(small):
    name, root, archive = small
    (root / archive.name).write_bytes(archive.read_bytes())
    check(read(name, root), archive)


def test_missing(small):
    name, root, _ = small
    with pytest.raises(MissingDataError, match=rf"{root}.* is missing$"):
        read(name, root)


def test_a_truncated_archive(small):
    name, root, archive = small
    ours = root / archive.name
    ours.write_bytes(archive.read_bytes()[:1000])
    with pytest.raises(MissingDataError, match=rf"{ours} \(1,000 bytes\) is truncated or corrupt: .*{md5(archive)}$"):
        read(name, root)
    assert ours.stat().st_size == 1000
    check(read(name, root, download=True), archive)


@pytest.mark.parametrize("damage", ["truncated", "corrupt"])
def test_a_damaged_file(small, damage):
    name, root, archive = small
    read(name, root, download=True)
    (root / archive.name).unlink()
    path = next(path for path in sorted(root.rglob("*")) if path.is_file() and "test" in path.name)
    content = bytearray(path.read_bytes())
    right = md5(path)
    content[-100] ^= 1
    path.write_bytes(content if damage == "corrupt" else content[:-200])
    with pytest.raises(MissingDataError, match=rf"{path} \([\d,]+ bytes\) is truncated or corrupt: .*not {right}$"):
        read(name, root)
    check(read(name, root, download=True), archive)


def test_a_download_that_fails(small):
    name, root, archive = small
    archive.unlink()
    with pytest.raises(OSError, match=r"could not be fetched .*by hand, or set dataset.root"):
        read(name, root, download=True)
    assert [path.name for path in root.iterdir()] == [f".{name}.lock"]


def test_several_that_want_it_at_once(small, monkeypatch):
    """The ranks of a run, which all find nothing: one of them fetches and extracts the archive."""
    name, root, _ = small
    extract, extracted = utils.extract_archive, []
    monkeypatch.setattr(utils, "extract_archive", lambda *paths: extracted.append(paths) or extract(*paths))
    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(lambda _: read(name, root, download=True)["train"].inputs, range(4)))
    assert len(extracted) == 1
    assert all(torch.equal(images, sets[0]) for images in sets)


def test_the_real_cifar100(cifar100_root):
    splits = read("cifar100", cifar100_root)
    train, test = splits["train"], splits["test"]
    assert train.inputs.shape == (50_000, 3, 32, 32)
    assert test.inputs.shape == (10_000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [500] * 100
    assert test.labels.bincount().tolist() == [100] * 100
    # CIFAR-100's own mean is close to CIFAR-10's, which the published recipe uses for both.
    mean = train.inputs.double().mean(dim=(0, 2, 3)) / 255
    assert mean.tolist() == pytest.approx(data.find("cifar100").mean, abs=0.02)
