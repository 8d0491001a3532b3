"""What Hydra composes of the files in configs/, each command line once."""

import functools
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from moex.config import Config, parse
from moex.config.composition import offer_schemas

CONFIGS = Path(__file__).parents[1] / "configs"
offer_schemas()
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


@functools.cache
def composed(*overrides: str) -> Config:
    """The configuration of a run; nobody changes it."""
    return parse(compose_raw(*overrides))


def command_of(experiment: str) -> list[str]:
    """The arguments in the head of an experiment's file: its name, and what it cannot know."""
    head = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text().splitlines()[1]
    program = "# command: python train.py "
    assert head.startswith(program), head
    return head.removeprefix(program).split()


def compose_raw(*overrides: str, hydra: bool = False) -> DictConfig:
    """What Hydra hands to train.py; with what it keeps for itself, if asked."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=hydra)
