"""Runs on images that are decoded by workers, as their users meet them: real processes, killed and continued."""

import json

import numpy as np
import pandas as pd
import pytest
from program import end, folders, run, start, wait_for

PICTURES = (
    "dataset.target=pictures.Pictures", "batch_size=16", "evaluation_batch_size=2", "checkpoint.every_steps=2",
    "+dataset.broken=2", "+dataset.on_error=skip", "+dataset.max_unreadable=0.1", "+dataset.trap=trap",
)  # fmt: skip
TIMES = ["seconds", "images_per_second", "waiting_share"]


def test_a_worker_is_killed_and_the_run_goes_on_to_the_same_bits(tmp_path, here):
    command = (*PICTURES, "epochs=5")
    code, printed = here(*command, "output_root=unbroken", "+dataset.workers=0")
    assert code == 0, printed

    process = start(*command, "output_root=broken", "+dataset.workers=2", cwd=tmp_path)
    wait_for(lambda: [*tmp_path.glob("broken/**/last.pt")], process)
    (tmp_path / "trap").touch()
    code, printed = end(process)
    assert code == 1, printed
    *_, error, advice = printed.splitlines()
    assert error == (
        "error: a worker that decodes images was ended by SIGKILL, as the system does where memory runs out"
    )
    (last,) = tmp_path.glob("broken/**/last.pt")
    assert advice == f"{last.relative_to(tmp_path)} is whole: the same command continues from it"

    code, printed = here(*command, "output_root=broken", "+dataset.workers=1")
    assert code == 0, printed
    assert "continuing" in printed
    broken, unbroken = (folders(tmp_path / name)[0] for name in ("broken", "unbroken"))
    ours, theirs = (pd.read_csv(folder / "metrics.csv") for folder in (broken, unbroken))
    pd.testing.assert_frame_equal(ours.drop(columns=TIMES), theirs.drop(columns=TIMES), check_exact=True)
    assert ours["waiting_share"].between(0, 1, inclusive="neither").all()
    assert "% waiting for data" in printed
    for name in ("logits", "best_logits", "labels"):
        assert np.array_equal(np.load(broken / "predictions.npz")[name], np.load(unbroken / "predictions.npz")[name])
    for folder in (broken, unbroken):
        result = json.loads((folder / "result.json").read_text())
        assert result["unreadable"] == {"train": 2, "test": 2}
    # Of the twenty two are left out, a whole batch.
    assert len(np.load(broken / "predictions.npz")["labels"]) == 18


def test_on_two_ranks_it_is_told_once_and_each_unreadable_image_is_counted_once(tmp_path):
    command = (*PICTURES, "epochs=1", "runtime.devices=2", "+dataset.workers=1")
    (tmp_path / "trap").touch()
    code, printed = run(*command, cwd=tmp_path)
    assert code == 1, printed
    assert printed.count("a worker that decodes images was ended by SIGKILL") == 1
    # From its start, or from a save that came before the trap.
    assert printed.endswith((": the same command starts again\n", ": the same command continues from it\n"))
    code, printed = run(*command, cwd=tmp_path)
    assert code == 0, printed
    (folder,) = folders(tmp_path)
    assert json.loads((folder / "result.json").read_text())["unreadable"] == {"train": 2, "test": 2}
    assert len(np.load(folder / "predictions.npz")["labels"]) == 18


FAULTS = {
    "an image that cannot be read": (
        ["+dataset.broken=1"],
        "error: 1 image of a batch cannot be read: 0.jpg (image file is truncated",
    ),
    "too many of them": (
        ["+dataset.broken=4", "+dataset.on_error=skip", "+dataset.max_unreadable=0.05"],
        "error: 4 of 40 images cannot be read, more than the share that dataset.max_unreadable=0.05 allows: 0.jpg (",
    ),
}


@pytest.mark.parametrize(("overrides", "message"), FAULTS.values(), ids=FAULTS)
def test_images_that_cannot_be_read_end_the_run_in_words(here, overrides, message):
    code, printed = here("dataset.target=pictures.Pictures", "+dataset.workers=0", "epochs=1", *overrides)
    assert code == 1, printed
    error, advice = printed.splitlines()
    assert error.startswith(message)
    assert advice == "there is no checkpoint yet: the same command starts again"
