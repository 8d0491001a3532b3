"""Loss curves on real images: every form of a training step follows float32."""

import functools

import pytest
import torch

from moex.config import parse
from moex.data.cifar import CIFAR100
from moex.engine import train_epoch
from moex.run.build import build_run, load_sources

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def curve(cifar100_root):
    """The losses of the first steps of ResNet-8 with MoEx on CIFAR-100, averaged over a window that moves along."""

    original = CIFAR100.read
    read = functools.cache(lambda root: original(CIFAR100(root=root), seed=0))

    @functools.cache
    def averaged_losses(steps, window, **runtime):
        config = parse(
            {
                "dataset": {"name": "cifar100", "root": str(cifar100_root)},
                "limit_train": 32 * steps,
                "limit_test": 1,
                "batch_size": 32,
                "epochs": 1,
                "augmentation": {"steps": ["moex"]},
                "optimizer": {"lr": 0.05},
                "schedule": {"name": "cosine", "warmup_epochs": 0.1},
                "runtime": runtime,
            }
        )
        run = build_run(config, load_sources(config, CPU), CPU)
        sums = [0.0]
        for _ in train_epoch(run.state, run.training):
            sums.append(float(run.state.totals[0]))
        return (torch.tensor(sums, dtype=torch.float64).diff() / 32).unfold(0, window, 1).mean(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR100, "read", lambda dataset, *, seed: read(dataset.root))
        yield averaged_losses


def assert_close(found, expected, *, tolerance):
    assert expected[0] - expected[-1] > 4 * tolerance, "float32 learns far more than is tolerated"
    assert (found - expected).abs().max() < tolerance


def test_forty_steps_in_bf16(curve):
    """Few, since a processor without instructions for it takes long."""
    assert_close(curve(40, 10, precision="bf16"), curve(40, 10), tolerance=0.01)


@pytest.mark.long
@pytest.mark.parametrize(
    "runtime",
    [
        {"channels_last": False},
        {"precision": "tf32"},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"compile": True},
        {"precision": "bf16", "compile": True},
    ],
    ids=str,
)
def test_three_hundred_steps(curve, runtime):
    """The tolerance is that of docs/training.md."""
    assert_close(curve(300, 50, **runtime), curve(300, 50), tolerance=0.05)
