"""From a command to the processes that train: one process runs Hydra, each job trains in a worker of its own.

A worker of its own, because jobs of a sweep would otherwise share torch's global switches. Whoever starts a worker,
the command itself or a process of joblib's or submitit's, forwards signals to it, and the worker ends with it.
"""

from moex.launch.job import run_job
from moex.launch.overrides import OverrideError, check_overrides
from moex.launch.program import run_program

__all__ = ["OverrideError", "check_overrides", "run_job", "run_program"]
