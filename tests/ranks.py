"""`python ranks.py FILE DEVICES` trains short runs on digits, on one rank and on several, and keeps what they end in.

A program, since ranks are started anew and import what they run; `test_distributed.py` reads the files.
"""

import sys

import torch
from torch import nn

from moex import engine
from moex.config import parse
from moex.distributed import Layout, RankError, gather, join, rank, run_ranks, world_size
from moex.run.build import create_state, load_sets

CPU = torch.device("cpu")
SHORT = {"limit_train": 100, "limit_test": 333, "batch_size": 32, "optimizer": {"lr": 0.02}, "epochs": 2}
MIXED = {
    "augmentation": {
        "steps": ["cutmix", "moex"],
        "cutmix": {"probability": 0.5, "per_sample": True},
        "moex": {"probability": 0.7},
    }
}
# Values of the configuration; "frozen": BatchNorm in evaluation mode, where a gradient is a mean over samples.
RUNS = {
    "frozen": {"frozen": True},
    "a last batch of one sample": {"frozen": True, "limit_train": 97},
    "a last batch of one sample, BatchNorm trains": {"limit_train": 97},
    "mixed": MIXED,
    "mixed, in two turns": MIXED | {"runtime": {"accumulation": 2}},
    "mixed, in four turns": MIXED | {"runtime": {"accumulation": 4}},
    "mixed, in eight turns": MIXED | {"runtime": {"accumulation": 8}},
    "fp16": MIXED | {"runtime": {"precision": "fp16"}},
}


class FrozenBatchNorm(nn.BatchNorm2d):
    """Stays in evaluation mode."""

    def train(self, mode=True):
        return super().train(False)


def run(values):
    """Two epochs and a test: weights, losses, the samples of each epoch, logits."""
    values = dict(values)
    frozen = values.pop("frozen", False)
    config = parse(SHORT | values)
    sets = load_sets(config, CPU)
    state = create_state(config, sets, CPU)
    if frozen:
        for module in state.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = FrozenBatchNorm
    batch, seen = sets.train.batch, []
    sets.train.batch = lambda indices, **options: seen.append(indices.tolist()) or batch(indices, **options)
    losses, samples = [], []
    for state.epoch in range(config.epochs):
        for _ in engine.train_epoch(state, sets.train, config, classes=10):
            pass
        losses.append(sum(totals[0] for totals in gather(state.totals.tolist())))
        samples.append([index for parts in gather(seen) for part in parts for index in part])
        seen.clear()
        state.totals.zero_()
        state.step = 0
    logits, labels = engine.evaluate(state.model, sets.test, precision=config.runtime.precision)
    parameters = {name: parameter.detach() for name, parameter in state.model.named_parameters()}
    same = gather(sum(float(parameter.double().sum()) for parameter in parameters.values()))
    return {
        "parameters": parameters,
        "spread": max(same) - min(same),
        "scale": gather(state.scaler.get_scale()),
        "losses": losses,
        "samples": samples,
        "logits": logits,
        "labels": labels,
        "state": state.model.state_dict(),
    }


def work(file, _):
    join(CPU)
    torch.manual_seed(100 + rank())  # Whatever else was drawn must not matter.
    engine.EVALUATION_BATCH = 50
    ended = {name: run(values) for name, values in RUNS.items()}
    if rank() == 0:
        torch.save(ended, file)
    return 10 + world_size()


def fail(_):
    join(CPU)
    gather(None)
    if rank() == 1:
        raise ZeroDivisionError("on purpose " + "x" * 100_000)
    gather(None)
    return 0


def main(file, devices):
    torch.set_num_threads(1)
    code = run_ranks(work, file + ".many", layout=Layout(devices))
    assert code == 10 + devices, code
    engine.EVALUATION_BATCH = 50
    torch.save({name: run(values) for name, values in RUNS.items()}, file + ".one")
    try:
        run_ranks(fail, layout=Layout(devices))
    except RankError as error:
        print(error)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
