"""`python evaluate.py`: our runs, files of weights, published weights and predictions, on one data set or several."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from program import run_here

import moex
from moex import models
from moex.distributed.ranks import StopRequest
from moex.run import worker

SHORT = {"epochs": 2, "limit_train": 200, "limit_test": 100, "batch_size": 50, "model": {"name": "resnet8"}}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run on the ten digits, whose classes have names."""
    root = tmp_path_factory.mktemp("outputs")
    dataset = {"target": "named_digits.NamedDigits"}
    config = SHORT | {"output_root": str(root), "dataset": dataset}
    assert worker.run({"command": "python train.py", "config": config, "record": None}, StopRequest()) == 0
    return next(root.glob("*/seed0"))


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capfd):
    def call(*arguments):
        """The exit code, what was printed, and what was saved, in order."""
        arguments = ("resamples=20", *arguments)
        code, printed = run_here(*arguments, cwd=tmp_path, monkeypatch=monkeypatch, capfd=capfd, script="evaluate.py")
        found = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("evaluation.json"))]
        return code, printed, sorted(found, key=lambda result: (result["name"], result["label"]))

    return call


def test_a_runs_folder_is_enough(run_folder, evaluate, tmp_path):
    """The figures are those of the run itself, of either weights; each with an interval, and pictures."""
    run = json.loads((run_folder / "result.json").read_text())
    for which in ("last", "best"):
        code, printed, results = evaluate(f"checkpoint={run_folder}", f"weights={which}", "limit=100")
        assert code == 0, printed
        (result,) = [result for result in results if result["settings"]["weights"] == which]
        names = ("error", "top5_error", "aurra", "rms_calibration_error", "ece", "loss")
        assert {name: result["figures"][name] for name in names} == {name: run[which][name] for name in names}
        assert {"rms_calibration_error_all_bins"} < result["intervals"].keys()
        assert result["samples"] == {"test": 100}
        assert f"{100 * result['figures']['error']:.2f}" in printed
    (folder, _) = sorted(path.parent for path in tmp_path.rglob("evaluation.json"))
    pictures = {f"{name}.{kind}" for name in ("reliability", "response_rate") for kind in ("png", "svg")}
    assert {path.name for path in (folder / "figures").iterdir()} == pictures
    with np.load(folder / "predictions.npz") as ours, np.load(run_folder / "predictions.npz") as theirs:
        assert np.array_equal(ours["labels"], theirs["labels"])


def test_several_networks_and_test_sets_are_one_table(run_folder, evaluate, tmp_path):
    sets = "test_sets=[{target: named_digits.EvenDigits},{target: named_digits.OddOnesOut}]"
    networks = f"checkpoint=[{run_folder},{run_folder}/checkpoints/best.pt]"
    code, printed, results = evaluate(networks, sets, "table=tables/all.csv")
    assert code == 0, printed
    table = pd.read_csv(tmp_path / "tables" / "all.csv")
    assert list(table["data set"]) == 2 * ["named_digits.EvenDigits", "named_digits.OddOnesOut"]
    assert table["network"].str.endswith(("last", "best")).all()
    assert table["AUPR, %"].notna().tolist() == [False, True, False, True]
    assert table["error, %"].notna().tolist() == [True, False, True, False]
    assert len(results) == 4
    # A set of several parts has no logits to draw.
    folders = {path.parent for path in tmp_path.rglob("evaluation.json") if "OddOnesOut" in str(path)}
    assert all({path.name for path in folder.iterdir()} == {"evaluation.json"} for folder in folders)


def test_a_run_whose_data_is_gone_is_scored_on_other_sets(run_folder, evaluate, tmp_path):
    """Its classes are known from its folder."""
    moved = tmp_path / "moved" / "seed0"
    shutil.copytree(run_folder, moved)
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace("NamedDigits", "EvenDigits"))
    code, printed, (result,) = evaluate(f"checkpoint={moved}", "dataset.target=named_digits.NamedDigits",
                                        "dataset.name=named", "limit=50")  # fmt: skip
    assert code == 0, printed
    assert result["figures"]["error"] < 0.9


def test_the_temperature_is_fitted_on_a_part(run_folder, evaluate):
    code, printed, (result,) = evaluate(f"checkpoint={run_folder}", "temperature=0.25")
    assert code == 0, printed
    tempered, samples = result["temperature"], result["samples"]["test"]
    assert tempered["fitted_on"] == round(0.25 * samples)
    assert tempered["with"]["error"] == tempered["without"]["error"]
    assert f"T = {tempered['temperature']:.3f}" in printed


def test_predictions_of_any_framework(evaluate, tmp_path):
    draws = np.random.default_rng(0)
    logits, labels = draws.normal(size=(300, 10)), draws.integers(0, 10, 300)
    np.savez(tmp_path / "theirs.npz", logits=logits, labels=labels)
    code, printed, (result,) = evaluate("predictions=theirs.npz", "resamples=0")
    assert code == 0, printed
    assert result["figures"]["error"] == pytest.approx(np.mean(logits.argmax(1) != labels))
    assert result["intervals"] == {}
    assert result["figures"]["aurra"] == moex.metrics.aurra(logits, labels)


def test_imagenet_as_predictions_is_restricted(evaluate, tmp_path):
    """1,000 logits, and labels among the 200 classes of ImageNet-A."""
    draws = np.random.default_rng(0)
    logits, labels = draws.normal(size=(300, 1000)), draws.integers(0, 200, 300)
    np.savez(tmp_path / "theirs.npz", logits=logits, labels=labels)
    code, printed, (result,) = evaluate("predictions=theirs.npz", "resamples=0", "dataset=imagenet_a")
    assert code == 0, printed
    indices = np.loadtxt(Path(timm.__file__).parent / "data" / "_info" / "imagenet_a_indices.txt", dtype=int)
    assert result["figures"]["error"] == pytest.approx(np.mean(logits[:, indices].argmax(1) != labels))


def test_a_file_of_the_published_code(evaluate, tmp_path):
    """Weights of another network's naming, on the data set that was named, whose classes are but numbers."""
    torch.manual_seed(0)
    network = models.create("resnet8", num_classes=10, in_channels=1)
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "best_err1": np.float64(1.0)}, tmp_path / "model_best.pth.tar")
    code, printed, (result,) = evaluate("checkpoint=model_best.pth.tar", "model.name=resnet8", "dataset=digits")
    assert code == 0, printed
    assert result["samples"] == {"test": 540}


def test_published_weights(evaluate, tmp_path, monkeypatch):
    """torchvision's, from where it keeps what it has fetched; the crops are those that they were trained for."""
    from torchvision.models import ResNet18_Weights

    from moex.models.published import fetch_published

    torch.manual_seed(0)
    weights = models.create("torchvision:resnet18", num_classes=1000).state_dict()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    path = tmp_path / "hub" / "checkpoints" / Path(ResNet18_Weights.IMAGENET1K_V1.url).name
    path.parent.mkdir(parents=True)
    torch.save(weights, path)
    published = fetch_published("torchvision:resnet18:IMAGENET1K_V1")
    assert all(torch.equal(published.weights[name], value) for name, value in weights.items())
    assert (published.model, published.crops["size"], published.crops["resize"]) == ("torchvision:resnet18", 224, 256)
    assert published.crops["interpolation"] == "bilinear"
    with pytest.raises(ValueError, match="has no weights 'V9': they are IMAGENET1K_V1"):
        fetch_published("torchvision:resnet18:V9")
    with pytest.raises(ValueError, match="timm has no network 'resnet5000'"):
        fetch_published("timm:resnet5000")


MISTAKES = {
    "nothing": ([], "say what is evaluated"),
    "both": (["checkpoint=a", "predictions=b"], "say what is evaluated"),
    "no file": (["checkpoint=nowhere"], "there is no file of weights nowhere"),
    "no run": (["checkpoint=."], "is no run's folder: it holds no config.yaml"),
    "no predictions": (["predictions=nowhere.npz"], "there is no file of predictions nowhere.npz"),
    "a key": (["checkpoint=a", "foo=1"], "unknown key 'foo': the keys are checkpoint"),
    "a data set's key": (["checkpoint=a", "dataset=digits", "dataset.foo=1"], "unknown key 'dataset.digits.foo'"),
    "a data set": (["checkpoint=a", "dataset=digit"], "there is no dataset 'digit': the nearest are digits"),
    "a share": (["checkpoint=a", "temperature=2"], "temperature is 2.0: it must be a share between 0 and 1"),
    "weights": (["checkpoint=a", "weights=first"], "weights is 'first': it must be last or best"),
    "a table": (["checkpoint=a", "table=x.txt"], "table is 'x.txt': it must be a file .md or .csv"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(arguments, message, evaluate, tmp_path):
    code, printed, results = evaluate(*arguments)
    assert code == 1
    assert message in printed
    assert len(printed.strip().splitlines()) == 1
    assert not results


def test_what_does_not_fit_is_told_before_anything_is_scored(run_folder, evaluate, tmp_path):
    torch.save({"fc.weight": torch.zeros(10, 3)}, tmp_path / "other.pt")
    code, printed, results = evaluate(f"checkpoint=[{run_folder},other.pt]", "model.name=resnet8", "dataset=digits")
    assert code == 1
    assert "the weights of other.pt are not this network's" in printed
    assert "of another shape: fc.weight [10, 3] for [10, 64]" in printed
    code, printed, results = evaluate(f"checkpoint={run_folder}", "test_sets=[{target: named_digits.Missing}]")
    assert code == 1
    assert not results


def test_moex_load(run_folder):
    network = moex.load(run_folder, weights="best")
    assert not network.training
    saved = torch.load(run_folder / "checkpoints" / "best.pt", weights_only=True)["model"]
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="is no run's folder"):
        moex.load(run_folder.parent)
