"""Whole files of wrong content are damaged files: told, kept aside, and passed over."""

import copy
import json

import pytest
import torch
from rich.console import Console

from moex import checkpoint
from moex.config import read_config
from moex.models.weights import read_weights
from moex.run.folder import check_finite, claim, find_result, save
from moex.run.soundness import check_best, check_last
from moex.run.training import Stopped


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the tests of this file."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def saved(build, reopen, go_on, folder):
    """A run after an epoch and a step, and the content of its last checkpoint."""
    run = build(folder, epochs=3, checkpoint={"keep_every_epochs": 1, "every_steps": 1})
    if not checkpoint.present(run.folder / "checkpoints"):
        for _ in range(3):
            with pytest.raises(Stopped):
                go_on(reopen(build(folder, epochs=3, checkpoint={"keep_every_epochs": 1})), stop=True)
    return run, checkpoint.read(run.folder / "checkpoints" / "last.pt")


def change(key, value):
    """Puts a value in the place of a dotted key."""

    def changed(content):
        *path, last = key.split(".")
        place = content
        for name in path:
            place = place[int(name) if isinstance(place, list) or name.isdecimal() else name]
        if value is None:
            del place[last]
        else:
            place[int(last) if last.isdecimal() else last] = value
        return content

    return changed


WRONG = {
    "a list": (lambda _: [1], "it holds a list, not a dictionary"),
    "a number": (lambda _: 3, "it holds a int, not a dictionary"),
    "nothing": (lambda _: {}, "it lacks average, best, epoch"),
    "no scaler": (change("scaler", None), "it lacks scaler"),
    "no sessions": (change("sessions", None), "it lacks sessions"),
    "empty sessions": (change("sessions", []), "it has no sessions"),
    "a session of a text": (change("sessions", ["x"]), "a session is a str, not a dict"),
    "a session without devices": (change("sessions", [{"start": ""}]), "it lacks sessions: world_size"),
    "epoch 99": (change("epoch", 99), "epoch is 99: this run has 3"),
    "epoch -1": (change("epoch", -1), "epoch is -1: this run has 3"),
    "epoch of a text": (change("epoch", "1"), "epoch is '1': this run has 3"),
    "step 99": (change("step", 99), "step is 99: this run has 2"),
    "no history": (change("history", []), "it has 0 rows of history after 1 epochs"),
    "history of texts": (change("history", ["x"]), "a row of history is a str, not a dict"),
    "no best": (change("best", {}), "it lacks history: epoch"),
    "best without an error": (change("best", {"epoch": 1}), "it lacks best: test_error"),
    "no weights": (change("model", {}), "it lacks model.fc.bias"),
    "a missing weight": (change("model", {"fc.bias": torch.zeros(10)}), "it lacks model.fc.weight"),
    "another weight": (change("model.other", torch.zeros(3)), "this run has no model.other"),
    "weights of other classes": (lambda content: content | {"model": content["model"] | {"fc.bias": torch.zeros(7)}},
                                 "model.fc.bias is [7]: this run has [10]"),
    "a weight of a text": (lambda content: content | {"model": content["model"] | {"fc.bias": "x"}},
                           "model.fc.bias is a str, not a Tensor"),
    "a weight that is not a number": (lambda content: content | {"model": content["model"] |
                                      {"fc.bias": torch.full((10,), float("nan"))}}, "model.fc.bias is not finite"),
    "no optimizer": (change("optimizer", {}), "it lacks optimizer.param_groups, optimizer.state"),
    "other groups": (change("optimizer.param_groups", []), "optimizer.param_groups are of other parameters"),
    "groups of texts": (change("optimizer.param_groups", ["x"]), "optimizer.param_groups are of other parameters"),
    "no momentum": (change("optimizer.state.0", {}), "it lacks optimizer.state.0.momentum_buffer"),
    "momentum of another shape": (change("optimizer.state.0", {"momentum_buffer": torch.zeros(3)}),
                                  "optimizer.state.0.momentum_buffer is [3]: this run has [16, 1, 3, 3]"),
    "infinite momentum": (change("optimizer.state.0", {"momentum_buffer": torch.full((16, 1, 3, 3), float("inf"))}),
                          "optimizer.state.0.momentum_buffer is not finite"),
    "other sums": (change("totals", torch.zeros(5)), "totals is [5]: this run has [2]"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_a_checkpoint_of_wrong_content(saved, tmp_path, make, message):
    run, content = saved
    torch.save(make(copy.deepcopy(content)), tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last.pt is damaged") as caught:
        checkpoint.read(tmp_path / "last.pt", check=lambda state: check_last(run, state))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_was_saved_by_this_version_and_the_one_before_is_sound(saved, tmp_path):
    run, content = saved
    torch.save(content, tmp_path / "last.pt")  # Without a checksum, as it was.
    assert checkpoint.read(tmp_path / "last.pt", check=lambda state: check_last(run, state)).keys() == content.keys()
    check_last(run, content)
    run.state.load_state_dict(content)
    best = checkpoint.read(run.folder / "checkpoints" / "best.pt")
    check_best(run, best)
    for wrong, message in (
        ({}, "it lacks epoch, model"),
        ({"model": {}, "epoch": 1}, "it lacks model.fc.bias"),
        (best | {"epoch": 2}, "it is of epoch 2, not of the best one, 1"),
    ):
        with pytest.raises(ValueError, match=message):
            check_best(run, wrong)


@pytest.mark.parametrize("where", ["model.fc.bias", "optimizer.state.0.momentum_buffer", "epoch", "sessions"])
def test_another_content_with_the_checksum_of_the_first_is_noticed(saved, tmp_path, where):
    """As a file whose archive was written anew: its own checksums fit."""
    _, content = saved
    changed = copy.deepcopy(content) | {checkpoint.CHECKSUM: checkpoint.content_checksum(content)}
    if where == "epoch":
        changed["epoch"] = 0
    elif where == "sessions":
        changed["sessions"][0]["command"] += " "
    else:
        *path, last = where.split(".", 1) if where.startswith("model") else where.split(".")
        place = changed
        for name in path:
            place = place[int(name) if name.isdecimal() else name]
        place[last].view(-1).view(torch.uint8)[3] ^= 1
    for name, read in (("last.pt", checkpoint.read), ("weights.pt", read_weights)):
        torch.save(changed, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} is damaged.*bad checksum of its content"):
            read(tmp_path / name)


def test_behind_the_last_and_the_previous_come_epochs_that_were_kept(saved, reopen, build, folder, tmp_path):
    run, _ = saved
    ours = build(tmp_path, epochs=3)
    ours.folder.mkdir(parents=True)
    (run.folder / "checkpoints").rename(ours.folder / "checkpoints")
    names = ["last.pt", "previous.pt"]
    for name in names:
        torch.save({}, ours.folder / "checkpoints" / name)
    console = Console(record=True, width=300)
    reopen(ours, console)
    assert (ours.state.epoch, ours.state.step) == (1, 0)
    printed = console.export_text()
    assert printed.count("is damaged (it lacks average, best, epoch)") == 2
    assert {path.name for path in (ours.folder / "checkpoints").iterdir()} == {
        "last.pt.damaged", "previous.pt.damaged", "epoch0001.pt", "best.pt",
    }  # fmt: skip
    assert checkpoint.newest_whole(ours.folder / "checkpoints").name == "epoch0001.pt"
    torch.save({}, ours.folder / "checkpoints" / "epoch0001.pt")
    with pytest.raises(ValueError, match=r"no checkpoint in .* is whole: .*Put a whole one there") as caught:
        reopen(build(tmp_path, epochs=3))
    assert "delete" not in str(caught.value)


def test_no_file_that_holds_nan_is_the_last_good_one(build, tmp_path):
    run = build(tmp_path)
    for value in (0.0, float("nan")):
        checkpoint.write_last(run.folder / "checkpoints", {"model": {"weight": torch.full((3,), value)}})
    run.state.first_bad_step.fill_(0)
    with pytest.raises(Exception, match=r"Last good checkpoint: .*previous.pt\. Try"):
        check_finite(run)


def test_what_the_optimizer_keeps_is_finite_where_it_is_saved(build, tmp_path):
    run = build(tmp_path)
    next(iter(run.state.optimizer.state.values()))["momentum_buffer"].fill_(float("inf"))
    check_finite(run)
    with pytest.raises(Exception, match="a weight is not finite"):
        save(run)
    assert not run.folder.exists()


METRICS = {"epoch": 1, "error": 0.1, "top5_error": 0, "rms_calibration_error": 0.1, "aurra": 0.9, "ece": 0.1}
RESULT = {
    "name": "x", "seed": 0, "recipe": {}, "last": METRICS, "best": METRICS, "epochs": 2, "images_per_second": 1.5,
    "seconds": 2, "device": "A Processor",
}  # fmt: skip
RESULTS = {
    "{}": "it lacks name, seed, recipe, last",
    "[]": "it holds [], not the outcome of a run",
    "null": "it holds null, not the outcome of a run",
    "3": "it holds 3, not the outcome of a run",
    "": "Expecting value",
    '{"name": ': "Expecting value",
    json.dumps({key: value for key, value in RESULT.items() if key != "last"}): "it lacks last",
    json.dumps(RESULT | {"last": []}): "last is []",
    json.dumps(RESULT | {"best": METRICS | {"error": None}}): "best.error is None",
    json.dumps(RESULT | {"last": {"error": 0.1}}): "last.epoch is None",
    json.dumps(RESULT | {"seed": "0"}): "seed is '0'",
    json.dumps(RESULT | {"epochs": 1.5}): "epochs is 1.5",
}


@pytest.mark.parametrize(("text", "message"), RESULTS.items(), ids=RESULTS)
def test_a_damaged_result(tmp_path, text, message):
    """Where there is a checkpoint it is kept aside, and made again; else nothing is trained in its place."""
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"result.json is damaged .*there is no checkpoint: move .* elsewhere"):
        find_result(tmp_path, report=print)
    assert path.read_text() == text
    checkpoint.write_last(tmp_path / "checkpoints", {})
    lines = []
    assert find_result(tmp_path, report=lines.append) is None
    assert len(lines) == 1
    assert message in lines[0]
    assert not path.exists()
    assert (tmp_path / "result.json.damaged").read_text() == text


def test_a_whole_result(tmp_path):
    assert find_result(tmp_path, report=print) is None
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    assert find_result(tmp_path, report=print) == RESULT


CONFIGURATIONS = {
    "- 1": "it holds a list, not the keys of a run",
    "": "config.yaml is damaged",
    "epochs: [": "config.yaml is damaged (while parsing",
    "epochs: 0": "or of another version (epochs is 0: it must be 1 or more)",
    "foo: 1": "or of another version (unknown key 'foo'",
    "3": "config.yaml is damaged",
}


@pytest.mark.parametrize(("text", "message"), CONFIGURATIONS.items(), ids=CONFIGURATIONS)
def test_a_damaged_configuration(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    if text == "":
        # OmegaConf takes it for a configuration without keys, which is one of the defaults.
        assert read_config(path).epochs
        return
    with pytest.raises(ValueError, match=r"config.yaml is damaged") as caught:
        read_config(path)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_configuration_that_a_run_left(build, tmp_path):
    run = build(tmp_path)
    with claim(run.folder, run.config):
        assert read_config(run.folder / "config.yaml").epochs == 2
