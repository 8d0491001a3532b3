"""Every cell of every study composes, fits its network, and is a run of its own."""

import itertools
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from moex import launch  # noqa: F401  (stores the schema that the configurations begin with)
from moex.config import parse, run_folder
from moex.run.build import check_network

REPOSITORY = Path(__file__).parents[1]
STUDIES = sorted(path.stem for path in (REPOSITORY / "experiments" / "study").glob("*.yaml"))
HEAD = ("study:", "command:", "rows:", "paper:", "ours:")


def composed(*overrides, hydra=False):
    search_path = f"hydra.searchpath=[file://{REPOSITORY / 'experiments'}]"
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        return compose("train", overrides=[search_path, *overrides], return_hydra_config=hydra)


@pytest.mark.parametrize("study", STUDIES)
def test_every_study(study):
    sweep = {
        str(key): str(values).split(",")
        for key, values in composed(f"+study={study}", hydra=True).hydra.sweeper.params.items()
    }
    folders = set()
    checked = {}
    for values in itertools.product(*sweep.values()):
        overrides = [f"{key}={value}" for key, value in zip(sweep, values, strict=True)]
        config = parse(composed(f"+study={study}", *overrides))
        assert config.name == f"study_{study}"
        folders.add(run_folder(config))
        if config.seed == 0:
            checked[values] = check_network(config)
    runs = len(list(itertools.product(*sweep.values())))
    assert len(folders) == runs
    assert sweep["seed"] == ["0", "1", "2"]
    head = (REPOSITORY / "experiments" / "study" / f"{study}.yaml").read_text().splitlines()[1:]
    assert [line.split()[1] for line in head[: len(HEAD)]] == list(HEAD)
    assert f"python train.py --multirun --config-dir experiments +study={study}" in head[1]
    assert re.search(rf"seeds: 0 to 2; {runs} runs$", head[2])
