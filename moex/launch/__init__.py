"""From a command to the processes that train: one process runs Hydra, each job trains in a worker of its own.

A worker of its own, because jobs of a sweep would otherwise share torch's global switches. Whoever starts a worker,
the command or a task of submitit's, passes signals on to it, and the worker ends with it.
"""

from moex.launch.command import run_command
from moex.launch.job import run_job

__all__ = ["run_command", "run_job"]
