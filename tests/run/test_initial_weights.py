"""A run that begins from given weights: which run it is, what it takes of them, and that it needs them once."""

import json

import pytest
import torch
from program import folders

from moex import checkpoint, models
from moex.config import Config, identify_weights, parse, recipe, run_folder
from moex.run.build import build_run, load_sources, read_initial_weights

CPU = torch.device("cpu")
QUICK = ("limit_train=128", "limit_test=50", "epochs=2", "checkpoint.every_steps=1")


def save_weights(path, *, num_classes=10, seed=5, **options):
    torch.manual_seed(seed)
    model = models.create("resnet8", num_classes=num_classes, in_channels=1, **options)
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)
    return model.state_dict()


def identified(**model):
    config = parse({"model": model, "output_root": "outputs"})
    identify_weights(config)
    return config


def test_a_recipe_knows_a_file_by_its_content(tmp_path):
    save_weights(tmp_path / "a.pt", seed=1)
    save_weights(tmp_path / "c.pt", seed=2)
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    a, copy, other = (identified(weights=str(tmp_path / name)) for name in ("a.pt", "b.pt", "c.pt"))
    assert recipe(a) == recipe(copy) == {"model.weights": a.model.weights_digest}
    assert run_folder(a) == run_folder(copy) != run_folder(other)
    assert run_folder(a) != run_folder(Config())
    identified(weights=str(tmp_path / "a.pt"), weights_digest=a.model.weights_digest)
    with pytest.raises(ValueError, match=rf"weights_digest is 'other': it must be {a.model.weights_digest}, of "):
        identified(weights=str(tmp_path / "a.pt"), weights_digest="other")


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ({"name": "timm:resnet18", "weights": "timm"}, "timm:resnet18"),
        ({"name": "timm:resnet18", "weights": "timm:resnet18.a1_in1k"}, "timm:resnet18.a1_in1k"),
        ({"name": "imagenet_resnet50", "weights": "torchvision"}, "torchvision:resnet50"),
    ],
)
def test_a_recipe_knows_published_weights_by_their_name(model, known):
    config = identified(**model)
    assert recipe(config)["model.weights"] == config.model.published_weights == known
    assert config.model.weights_file is None


def test_a_library_has_weights_for_its_own_networks():
    with pytest.raises(
        ValueError, match=r"model.weights is 'timm': it must be a file, or timm:NAME, since model.name"
    ):
        parse({"model": {"weights": "timm"}})


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_what_a_run_takes_of_weights(tmp_path, ema_decay):
    """All but a last layer for other classes, which is as fresh weights have it; the average begins there too."""
    theirs = save_weights(tmp_path / "weights.pt", num_classes=7)
    config = parse({"model": {"weights": str(tmp_path / "weights.pt")}, "optimizer": {"ema_decay": ema_decay}})
    weights = read_initial_weights(config)
    sources = load_sources(config, CPU)
    run, fresh = build_run(config, sources, CPU, weights=weights), build_run(config, sources, CPU)
    for network in (run.state.model, run.state.evaluated):
        for name, value in network.state_dict().items():
            origin = fresh.state.model.state_dict() if name.startswith("fc.") else theirs
            assert torch.equal(value, origin[name]), name
    assert read_initial_weights(parse({})) is None


def last_weights(folder):
    return checkpoint.read(folder / "checkpoints" / checkpoint.LAST)["model"]


def test_a_run_needs_its_weights_once(tmp_path, here):
    """Broken off and continued when the file is gone, it ends in the same bits; then it is found finished."""
    save_weights(tmp_path / "weights.pt", num_classes=7)
    command = (*QUICK, "model.weights=weights.pt")
    code, printed = here(*command, "output_root=unbroken")
    assert code == 0, printed
    code, printed = here(*command, "runtime.max_minutes=1e-9")
    assert (code, "are over" in printed) == (0, True), printed
    (tmp_path / "weights.pt").unlink()
    code, printed = here(*command)
    assert code == 0, printed
    assert "continuing" in printed
    (unbroken,), (broken,) = folders(tmp_path / "unbroken"), folders(tmp_path / "outputs")
    assert unbroken.relative_to(tmp_path / "unbroken") == broken.relative_to(tmp_path / "outputs")
    for name, value in last_weights(unbroken).items():
        assert torch.equal(value, last_weights(broken)[name]), name
    recorded = json.loads((broken / "result.json").read_text())
    assert recorded["config"]["model"]["weights"] == "weights.pt"
    assert recorded["recipe"]["model.weights"] == recorded["config"]["model"]["weights_digest"]
    code, printed = here(*command)
    assert "is finished: nothing is left to train" in printed

    # Another file of that name, which is gone too: which one is meant has to be said.
    save_weights(tmp_path / "weights.pt", seed=6)
    assert here(*command, "epochs=1")[0] == 0
    (tmp_path / "weights.pt").unlink()
    code, printed = here(*command)
    assert (code, "runs began from several of this name: give model.weights_digest, of" in printed) == (1, True)
    code, printed = here(*command, f"model.weights_digest={recorded['recipe']['model.weights']}")
    assert "is finished: nothing is left to train" in printed


MISTAKES = {
    "no file": (None, r"model.weights is 'weights.pt': there is no such file"),
    "no weights": (lambda path: torch.save({"epoch": 1}, path), r"weights.pt holds no weights"),
    "of another network": (
        lambda path: torch.save(models.create("resnet14", num_classes=10, in_channels=1).state_dict(), path),
        r"model.weights is 'weights.pt', not of network 'resnet8': 30 unknown: stage1.1.conv1.weight, ",
    ),
    "for other images": (
        lambda path: torch.save(models.create("resnet8", num_classes=10).state_dict(), path),
        r"not of network 'resnet8': 1 of another shape: stem.0.weight [16, 3, 3, 3] for [16, 1, 3, 3]",
    ),
}


@pytest.mark.parametrize(("make", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_creates_nothing(tmp_path, here, make, message):
    if make is not None:
        make(tmp_path / "weights.pt")
    code, printed = here(*QUICK, "model.weights=weights.pt")
    assert (code, message in printed) == (1, True), printed
    assert len(printed.splitlines()) <= 2
    assert not (tmp_path / "outputs").exists()
