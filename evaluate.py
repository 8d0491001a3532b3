"""Scores trained networks: `python evaluate.py checkpoint=PATH [dataset=NAME] [overrides]`; `--help` explains it."""

import gc
import shlex
import sys

if __name__ == "__main__":
    # What is imported stays. To look for garbage in it takes a tenth of the start; `run_command` looks again.
    gc.disable()

import hydra
from omegaconf import DictConfig
from rich.console import Console

from moex import launch
from moex.config.evaluation import parse_evaluation, unknown_evaluation_key
from moex.run.evaluation import evaluate


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
def main(composed: DictConfig) -> None:
    """What Hydra composed, scored in this process."""
    try:
        evaluate(parse_evaluation(composed), command=shlex.join(["python", *sys.argv]), console=Console())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    sys.exit(launch.run_command(main, sys.argv, unknown_key=unknown_evaluation_key))
