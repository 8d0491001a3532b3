"""Every study composes, fits its network, is a sweep of runs of its own, and tabulates."""

import dataclasses
import json
import math
import subprocess
import sys

import pytest
from composition import CONFIGS, EXPERIMENTS, compose_raw, composed
from omegaconf import open_dict
from program import REPOSITORY, run

from moex.config import parse, recipe
from moex.reporting.manifests import read_studies, read_tables
from moex.reporting.tables import CHOSEN, DIFFERENCES, HIGH, LOW, tabulate
from moex.run.checks import check_network

DIFFERENCE = DIFFERENCES["last"]
STUDIES = read_studies(CONFIGS.with_name("experiments"))
TABLES = read_tables(CONFIGS.with_name("experiments"), experiments=EXPERIMENTS)


def cells(name):
    """What the cells of a study's table override."""
    table = TABLES[f"study/{name}"]
    return [[f"{key}={str(value).lower()}" for key, value in cell.overrides.items()] for cell in table.cells()]


# What makes networks small, with the same points.
REDUCED = {
    "resnet110": {"name": "resnet8"},
    "timm:vit_tiny_patch16_224": {"options": {"img_size": 32, "patch_size": 4, "depth": 3, "embed_dim": 48}},
}


def shallow(config):
    """With a network of fewer blocks that has the same points, where nothing depends on them."""
    smaller = REDUCED.get(config.model.name, {})
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **smaller))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_the_sweep_of_its_table(name):
    study = STUDIES[name]
    raw = compose_raw(f"+study={name}", hydra=True)
    assert raw.name == f"study_{name}"
    assert raw.paper == []
    sweep = {key: str(values).split(",") for key, values in raw.hydra.sweeper.params.items()}
    assert sweep.pop("seed") == [str(seed) for seed in study.seeds]
    with open_dict(raw):
        del raw["hydra"]
    assert recipe(parse(raw)) == recipe(composed(f"+experiment={study.experiment}"))
    recipes = set()
    for overrides in cells(name):
        assert all(value in sweep[key] for key, value in (override.split("=") for override in overrides))
        config = composed(f"+experiment={study.experiment}", *overrides)
        check_network(shallow(config))
        recipes.add(str(recipe(config)))
    assert len(recipes) == len(cells(name)) == math.prod(len(values) for values in sweep.values())


# In the keys of a recipe, where they are not those of the command line.
AGAINST = {"labels": "augmentation.steps=[]", "information": "moments.use=all"}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_tabulates(name, tmp_path):
    study = STUDIES[name]
    for number, overrides in enumerate(cells(name)):
        config = composed(f"+experiment={study.experiment}", *overrides)
        for seed in study.seeds:
            metrics = dict.fromkeys(("error", "aurra", "rms_calibration_error"), 0.1 + 0.02 * number + 0.01 * seed)
            result = {"name": "anything", "seed": seed, "recipe": recipe(config), "last": metrics, "best": metrics}
            folder = tmp_path / f"{number}" / f"seed{seed}"
            folder.mkdir(parents=True)
            text = json.dumps(result | {"config": dataclasses.asdict(config)})
            (folder / "result.json").write_text(text)
    (key,) = study.rows
    (baseline,) = {row.against for row in TABLES[f"study/{name}"].rows} - {None}
    table = tabulate([tmp_path], against=AGAINST.get(name, f"{key}={baseline}"))
    assert len(table) == len(cells(name))
    assert set(table["n"]) == {len(study.seeds)}
    assert set(table[CHOSEN]) == {"test"}
    compared = table.dropna(subset=DIFFERENCE)
    assert len(compared) == len(table) - len(TABLES[f"study/{name}"].columns)
    # All seeds differ alike.
    assert compared[DIFFERENCE + LOW].to_numpy() == pytest.approx(compared[DIFFERENCE].to_numpy())
    assert compared[DIFFERENCE + HIGH].to_numpy() == pytest.approx(compared[DIFFERENCE].to_numpy())


def test_a_study_from_its_command_to_its_table(tmp_path):
    short = ["dataset=digits", "model=resnet8", "epochs=1", "limit_train=64", "limit_test=50", "seed=0"]
    code, printed = run("--multirun", "+study=detach", *short, cwd=tmp_path)
    assert code == 0, printed
    script = [sys.executable, str(REPOSITORY / "scripts" / "report.py"), "outputs", "--markdown"]
    answer = subprocess.run(
        [*script, "--against", "augmentation.moex.detach=false"], capture_output=True, text=True, cwd=tmp_path
    )
    assert answer.returncode == 0, answer.stderr
    title, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in answer.stdout.splitlines()]
    assert title[1:3] == ["augmentation.moex.detach", "n"]
    assert [row[1:3] for row in rows] == [["false", "1"], ["true", "1"]]
    assert [bool(row[-1]) for row in rows] == [False, True]
