"""Trains one network: `python train.py [+experiment=NAME] [overrides]`; `--help` explains the groups."""

import gc
import sys
from pathlib import Path

if __name__ == "__main__":
    # What is imported stays. To look for garbage in it takes a tenth of the start; `run_command` looks again.
    gc.disable()

import hydra
from omegaconf import DictConfig

from moex import launch


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def train(composed: DictConfig) -> int:
    """One job: what Hydra composed, trained in a process of its own; its exit code."""
    return launch.run_job(composed)


if __name__ == "__main__":
    sys.exit(launch.run_command(train, sys.argv, manifests=Path(__file__).with_name("experiments")))
