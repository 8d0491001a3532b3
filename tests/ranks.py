"""`python ranks.py FILE DEVICES` trains short runs on digits, on one rank and on several, and keeps what they end in.

A program, since ranks are started anew and import what they run; `test_distributed.py` reads the files.
"""

import sys

import torch
from torch import nn

from moex import engine
from moex.config import parse
from moex.data import Outputs
from moex.distributed.communication import gather, join, rank, world_size
from moex.distributed.nodes import Layout
from moex.distributed.ranks import RankError, StopRequest, run_ranks
from moex.run.build import build_run, load_sources
from moex.run.scoring import PreparedSet, score_network

CPU = torch.device("cpu")
SHORT = {"limit_train": 100, "limit_test": 333, "batch_size": 32, "optimizer": {"lr": 0.02}, "epochs": 2}
MIXED = {
    "augmentation": {
        "steps": ["cutmix", "moex"],
        "cutmix": {"probability": 0.5, "per_sample": True},
        "moex": {"probability": 0.7},
    }
}
# What no number of ranks does: the turns of one that stand for several ranks, or for their turns.
ALONE = ("mixed, in four turns", "mixed, in eight turns")
# Values of the configuration; "frozen": BatchNorm in evaluation mode, where a gradient is a mean over samples.
RUNS = {
    "frozen": {"frozen": True},
    "a last batch of one sample": {"frozen": True, "limit_train": 97},
    "a last batch of one sample, BatchNorm trains": {"limit_train": 97},
    "mixed": MIXED,
    "mixed, in two turns": MIXED | {"runtime": {"accumulation": 2}},
    "mixed, in four turns": MIXED | {"runtime": {"accumulation": 4}},
    "mixed, in eight turns": MIXED | {"runtime": {"accumulation": 8}},
    "mixed, in eight parts": MIXED | {"runtime": {"parts": 8}},
    "fp16": MIXED | {"runtime": {"precision": "fp16"}},
}


class FrozenBatchNorm(nn.BatchNorm2d):
    """Stays in evaluation mode."""

    def train(self, mode=True):
        return super().train(False)


def in_precision(batch, dtype):
    """The batches of a source with images of a type."""

    def converted(request):
        images, labels = batch(request)
        return images.to(dtype), labels

    return converted


def train(values):
    """Two epochs and a test: weights, losses, the samples of each epoch, logits."""
    values = dict(values)
    frozen = values.pop("frozen", False)
    config = parse(SHORT | values)
    dtype = torch.float32 if config.runtime.precision == "fp16" else torch.float64
    torch.set_default_dtype(dtype)
    sources = load_sources(config, CPU)
    for source in sources.values():
        source.batch = in_precision(source.batch, dtype)
    run = build_run(config, sources, CPU)
    state, source = run.state, run.training.source
    if frozen:
        for module in state.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = FrozenBatchNorm
    batch, seen = source.batch, []
    source.batch = lambda request: seen.append(request.indices[request.share].tolist()) or batch(request)
    losses, samples = [], []
    for state.epoch in range(config.epochs):
        for _ in engine.train_epoch(state, run.training):
            pass
        losses.append(sum(totals[0] for totals in gather(state.totals.tolist())))
        samples.append([index for parts in gather(seen) for part in parts for index in part])
        seen.clear()
        state.totals.zero_()
        state.step = 0
    passes = {"batch_size": 50, "precision": config.runtime.precision}
    logits, labels = engine.predict(state.model, run.test, **passes)
    scores = engine.evaluate(state.model, run.test, **passes)
    backwards = Outputs(tuple((9 - label,) for label in range(10)))
    scored = score_network(state.model, PreparedSet(config.dataset, {"test": run.test}, backwards), **passes)
    parameters = {name: parameter.detach() for name, parameter in state.model.named_parameters()}
    torch.set_default_dtype(torch.float32)
    same = gather(sum(float(parameter.double().sum()) for parameter in parameters.values()))
    return {
        "parameters": parameters,
        "spread": max(same) - min(same),
        "scale": gather(state.scaler.get_scale()),
        "losses": losses,
        "samples": samples,
        "logits": logits,
        "labels": labels,
        "scores": tuple(scores),
        "backwards": scored.logits,
        "state": state.model.state_dict(),
    }


def work(file, _):
    join(CPU)
    torch.manual_seed(100 + rank())  # Whatever else was drawn must not matter.
    ended = {name: train(values) for name, values in RUNS.items() if name not in ALONE}
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
    stop = StopRequest()
    code = run_ranks(work, file, layout=Layout(devices), stop=stop)
    assert code == 10 + devices, code
    if devices == 2:
        try:
            run_ranks(fail, layout=Layout(devices), stop=stop)
        except RankError as error:
            print(error)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
