"""Training steps: with and without the exchange, and in several forms."""

import dataclasses
import multiprocessing
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import moex
from benchmarks.cifar import create_source, random_images
from benchmarks.measure import DEVICE, Variant, Variants
from moex.config import parse
from moex.config.fastest import slow_precision
from moex.data import Request
from moex.engine import backward, update
from moex.features import FeatureHook
from moex.processor import instructions, keep_freed_memory
from moex.run.build import build_run

RESNET20 = {"model": {"name": "resnet20"}, "batch_size": 128}
WRN28_10 = {"model": {"name": "wrn28_10"}, "batch_size": 16}
PYRAMIDNET56 = {"model": {"name": "pyramidnet56", "options": {"alpha": 240}}, "batch_size": 32}


def exchange_variants(network: dict[str, Any]) -> Variants:
    """A training step without MoEx, with it, and with a second pass of the stem, as the published code has it."""
    values = network | {"runtime": {"channels_last": True}}
    return {
        "without MoEx": training_step(values),
        "with MoEx": training_step(values, exchange=True),
        "with MoEx by a second stem pass": training_step(values, second_pass=True),
    }


def precision_variants(network: dict[str, Any]) -> Variants:
    """A training step with MoEx as published, float32 in NCHW with two passes of the stem, and in our forms.

    In bf16 only where there are instructions for it: elsewhere it takes minutes to say that it is slow.
    """
    values = network | {"runtime": {"channels_last": False}}
    published = "as published: float32, NCHW, two stem passes"
    if DEVICE.type == "cpu":
        first = {f"{published}, memory given back": apart(values)}
    else:
        # A GPU's memory is torch's to keep.
        first = {published: training_step(values, second_pass=True)}
    forms: dict[str, dict[str, Any]] = {
        "float32, NCHW": {"channels_last": False},
        "float32, channels_last": {"channels_last": True},
        "float32, channels_last, compile": {"channels_last": True, "compile": True},
    }
    if DEVICE.type == "cuda" or not slow_precision("bf16", instructions()):
        forms |= {
            "bf16, NCHW": {"precision": "bf16", "channels_last": False},
            "bf16, channels_last": {"precision": "bf16", "channels_last": True},
            "bf16, channels_last, compile": {"precision": "bf16", "channels_last": True, "compile": True},
        }
    if DEVICE.type == "cuda":
        forms |= {
            f"{name}, CUDA graphs": form | {"cuda_graphs": True} for name, form in forms.items() if "compile" in form
        }
    keep_freed_memory()
    ours = {name: training_step(network | {"runtime": form}, exchange=True) for name, form in forms.items()}
    return first | ours


def training_step(values: dict[str, Any], *, exchange: bool = False, second_pass: bool = False) -> Variant:
    """The engine's own step on one batch of random images, again and again."""
    settings = {"steps": ["moex"] if exchange else [], "moex": {"probability": 1.0}}
    config = parse({"dataset": {"name": "cifar100"}} | values | {"augmentation": settings})
    images, labels = random_images(config.batch_size)
    source = create_source(images, labels, channels_last=config.runtime.channels_last)
    training_run = build_run(config, {"train": source, "test": source}, DEVICE)
    state, training = training_run.state, training_run.training
    if second_pass:
        step = PublishedMoEx(probability=1.0)
        training = dataclasses.replace(training, mixing=moex.Mixing(state.model, [step], num_classes=100))
    everyone = torch.arange(config.batch_size)
    images, labels = next(iter(source.batches([Request(everyone, everyone)])))
    plan = training.mixing.draw(images, shared=np.random.default_rng(0), own=np.random.default_rng(0))
    state.model.train()

    def run() -> Sequence[Tensor]:
        sums = backward(state, training, images, labels, plan, samples=len(labels))
        update(state)
        return sums

    return Variant(run, config.batch_size, flops=count_flops(state.model, images))


def apart(network: dict[str, Any]) -> Variant:
    """The published form of a training step, in a process of its own, which gives back the memory that it frees."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    context.Process(target=serve, args=(theirs, network), daemon=True).start()
    samples, flops = ours.recv()

    def run() -> Sequence[Tensor]:
        ours.send(None)
        (loss,) = ours.recv()
        return [torch.tensor(loss)]

    return Variant(run, samples, is_step=False, flops=flops)


def serve(connection: Connection, network: dict[str, Any]) -> None:
    """Takes a step as often as it is asked to, and tells its loss; first, of how many images and operations it is."""
    variant = training_step(network, second_pass=True)
    connection.send((variant.samples, variant.flops))
    # Until whoever asks has ended.
    with suppress(EOFError):
        while True:
            connection.recv()
            loss, _ = variant.run()
            connection.send([float(loss)])


def count_flops(model: nn.Module, images: Tensor) -> int:
    """Floating-point operations of the products in a forward and a backward pass, two for each multiply-add."""
    counter = FlopCounterMode(display=False)
    with counter:
        model(images).sum().backward()
    model.zero_grad()
    return counter.get_total_flops()


class SecondStemPass(FeatureHook):
    """MoEx as the published code does it: the stem computes the partners' features in a second pass."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        super().__init__(model, layer, self._exchange)
        self._stem = model.get_submodule(self.layer)
        self._images = torch.empty(0)
        # ResNet's stem begins with the images, PyramidNet's is the BatchNorm after the first convolution.
        self._before = getattr(model, "conv1", nn.Identity())
        model.register_forward_pre_hook(self._remember)

    def _remember(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        (self._images,) = inputs

    def _exchange(self, features: Tensor, permutation: Tensor, weight: Tensor) -> Tensor:
        self._arguments = None  # The second pass is left as it is.
        partner_mean, partner_std = moex.moments(self._stem(self._before(self._images[permutation])))
        mean, std = moex.moments(features)
        return ((features - mean) / std * partner_std + partner_mean).to(features.dtype)


@dataclass(kw_only=True)
class PublishedMoEx(moex.MoEx):
    """The step of the mixing list that does so."""

    def attach(self, model: nn.Module, point: str) -> FeatureHook:
        """See `moex.augmentation.Step`."""
        return SecondStemPass(model, point)

    def inside(self, hook: FeatureHook, *arguments: Tensor) -> AbstractContextManager[None]:
        """See `moex.augmentation.Step`."""
        return hook.active(*arguments)
