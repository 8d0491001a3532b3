"""`python forks.py`: runs command lines, each in a fork of one process that has imported everything: within moments.

A line of JSON on standard input, `[folder, [script, argument, ...]]`, is a command line, and a line of JSON on
standard output is what came of it: its exit code, and what was printed.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import tempfile
import traceback

import program
from hydra.core.global_hydra import GlobalHydra

from moex.launch import job

# What command lines import late, and which takes seconds: an exchange, the digits.
LATE = ("torch._dynamo", "sklearn.datasets", "sklearn.model_selection")
# Seconds after which a command line is killed: none of them is to train for long.
PATIENCE = 100


def run_script(script, arguments):
    """The exit code of a script of the repository, as a process of its own would have it."""
    path = program.REPOSITORY / script
    sys.argv = [script, *arguments]
    sys.path[0] = str(path.parent)
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def fork(folder, script, *arguments):
    """The exit code of a script in a fork, and what it printed."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            signal.alarm(PATIENCE)
            os.chdir(folder)
            os.environ["HOME"] = folder
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = run_script(script, arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode()


def main():
    os.environ |= program.ENVIRONMENT
    job.train = program.train_here
    lines, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    for name in LATE:
        importlib.import_module(name)
    # What composing takes long for, it takes long for once.
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 1)
        for script in ("train.py", "evaluate.py"):
            assert run_script(script, ["--help"]) == 0
            GlobalHydra.instance().clear()
        sys.stdout.flush()
    for line in lines:
        folder, arguments = json.loads(line)
        print(json.dumps(fork(folder, *arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
