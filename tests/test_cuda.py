"""What a GPU computes is what the CPU computes: to rounding in float64, nearly in fewer bits, and in the same bits
where whole numbers decide. All of it is skipped where there is no GPU.
"""

import copy
import dataclasses
import functools
import itertools
import os

import numpy as np
import pytest
import torch
from families import FAMILIES, double, everything_for
from pictures import drawn, requests_of, source_of

from moex import exchange_moments, models
from moex.beyond_moments import exchange_components, exchange_order
from moex.config import parse
from moex.data import Request
from moex.data.clouds.source import ResidentClouds
from moex.data.sounds.source import Recordings, ResidentSounds
from moex.data.source import ResidentImages
from moex.data.speech_commands import SpeechCommands
from moex.engine import evaluate, predict, train_epoch
from moex.metrics import score
from moex.run.build import build_run, load_sources
from moex.run.device import choose_device

if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytestmark = [
    # Of torch's own, which begins its graphs with an empty one.
    pytest.mark.filterwarnings("ignore:The CUDA Graph is empty"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]
# Read by CUDA's library of products when it begins.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
CPU, GPU = torch.device("cpu"), torch.device("cuda")

# In whose layers random numbers are drawn, others on a GPU.
RANDOM_LAYERS = ("shakedrop", "stochastic depth", "wide resnet", "vision transformer")


@pytest.fixture(autouse=True)
def torch_as_it_was():
    """What a run sets for its whole process ends with the test."""
    yield
    torch.cuda.set_sync_debug_mode("default")
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = False, True
    torch.set_float32_matmul_precision("highest")
    torch.compiler.reset()


def build(values, device=GPU):
    values = {"limit_train": 100, "limit_test": 60, "batch_size": 32} | values
    config = parse(values | {"runtime": {"device": device.type} | values.get("runtime", {})})
    device = choose_device(config.runtime)
    return build_run(config, load_sources(config, device), device)


def train(run):
    for _ in train_epoch(run.state, run.training):
        pass
    return (run.state.totals / len(run.training.source)).tolist()


def assert_near(found, expected, *, tolerance=1e-9):
    """Two right programs differ by 1e-15 an operation in float64; steps of training add some digits to that."""
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in RANDOM_LAYERS])
def test_every_family_trains_as_on_the_cpu(family):
    """Four steps with the whole list but for DropBlock, whose blocks are drawn where features are."""
    values = everything_for(family, leave_out=["dropblock"])
    ours, theirs = double(build(values)), double(build(values, CPU))
    assert train(ours) == pytest.approx(train(theirs), rel=1e-9)
    assert_near(ours.state.model.state_dict().values(), theirs.state.model.state_dict().values())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_resumes_to_the_bit_where_kernels_are_deterministic(family):
    values = everything_for(family) | {"runtime": {"deterministic": True}}
    whole, first, second = build(values), build(values), build(values)
    loss, _ = train(whole)
    assert 0 < loss < 10
    steps = train_epoch(first.state, first.training)
    next(steps), next(steps)
    second.state.load_state_dict(first.state.state_dict())
    torch.rand(3, device=GPU)  # Whatever else was drawn must not matter.
    assert train(second)[0] == loss
    weights = (run.state.model.state_dict().values() for run in (second, whole))
    assert all(itertools.starmap(torch.equal, zip(*weights, strict=True)))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_step_waits_for_the_device(family):
    """But for the first ones, in which the exchange is looked at."""
    run = build(everything_for(family))
    steps = train_epoch(run.state, run.training)
    next(steps), next(steps)
    torch.cuda.set_sync_debug_mode("error")
    next(steps)


FORMS = {
    "NCHW": {"channels_last": False},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "bf16, NCHW": {"precision": "bf16", "channels_last": False},
    "fp16": {"precision": "fp16"},
    "fp16, compiled": {"precision": "fp16", "compile": True},
    "bf16, compiled": {"precision": "bf16", "compile": True},
    "bf16, CUDA graphs": {"precision": "bf16", "compile": True, "cuda_graphs": True},
    "fp16, CUDA graphs": {"precision": "fp16", "compile": True, "cuda_graphs": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_step_learns_as_float32(form):
    """Over eight steps; a rounding to bf16, 0.4 %, is an order of magnitude below the bound."""
    values = {"augmentation": {"steps": ["moex"]}, "epochs": 2, "optimizer": {"lr": 0.02}}
    plain, run = build(values), build(values | {"runtime": FORMS[form]})
    for epoch in range(2):
        for each in (plain, run):
            each.state.epoch, each.state.step = epoch, 0
            each.state.totals.zero_()
        assert train(run)[0] == pytest.approx(train(plain)[0], rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in run.state.model.parameters())
    assert run.state.scaler.is_enabled() == (run.training.precision == "fp16")
    logits, _ = predict(run.state.model, run.test, batch_size=25, precision=run.training.precision)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_compiled_it_computes_the_same(cuda_graphs):
    """As CUDA graphs too, of which none is left out."""
    values = {
        "augmentation": {"steps": ["cutmix", "moex"]},
        "epochs": 3,
        "limit_train": 300,
        "optimizer": {"lr": 0.02},
    }
    compiled = {"runtime": {"compile": True, "cuda_graphs": cuda_graphs}}
    ours, theirs = double(build(values | compiled)), double(build(values, CPU))
    torch._dynamo.utils.counters.clear()
    assert train(ours) == pytest.approx(train(theirs), rel=1e-9)
    assert_near(ours.state.model.state_dict().values(), theirs.state.model.state_dict().values())
    assert not torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]


def test_a_rate_that_grows_is_not_frozen_in_cuda_graphs():
    """DropBlock reads it on the host, which a replay would not."""
    dropblock = {"steps": ["dropblock"], "dropblock": {"points": ["stage2"], "block_size": 1}}
    run = build({"augmentation": dropblock, "runtime": {"compile": True, "cuda_graphs": True}})
    (operation,) = run.training.mixing.plans_of_every_place(torch.empty(32, 1, 8, 8))[0]
    images, labels = next(run.training.source.batches([Request(torch.arange(32), torch.arange(32))]))
    logits = []
    for rate in (0.0, 0.0, 0.0, 0.0, 0.9):
        plan = (dataclasses.replace(operation, arguments=(torch.tensor(rate, dtype=torch.float64),)),)
        with torch.no_grad(), run.training.mixing.execute(plan, images, labels) as (mixed, _):
            logits.append(run.state.network(mixed).clone())
    *others, last = logits
    assert all((other - others[0]).abs().max() < 0.1 for other in others)
    assert (last - others[0]).abs().max() > 0.5


def test_overflows_of_fp16_leave_the_weights_alone():
    run = build({"runtime": {"precision": "fp16"}})
    run.state.scaler.load_state_dict(run.state.scaler.state_dict() | {"scale": 2.0**40})
    before = [parameter.clone() for parameter in run.state.model.parameters()]
    next(train_epoch(run.state, run.training))
    assert run.state.scaler.get_scale() == 2.0**39
    assert all(itertools.starmap(torch.equal, zip(run.state.model.parameters(), before, strict=True)))


def test_a_set_is_scored_as_on_the_cpu():
    ours, theirs = build({}), build({}, CPU)
    passes = {"batch_size": 25, "precision": "fp32"}
    (logits, labels), (expected, same_labels) = (
        predict(run.state.model, run.test, **passes) for run in (ours, theirs)
    )
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(labels, same_labels)
    scores = evaluate(ours.state.model, ours.test, **passes)
    for found, wanted in zip(scores, score(logits, labels), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


EXCHANGES = {
    **{norm: functools.partial(exchange_moments, norm=norm) for norm in ("pono", "in", "ln", "gn2", "gpono-d2")},
    "pono, positive only": functools.partial(exchange_moments, positive_only=True),
    "pono, detached": functools.partial(exchange_moments, detach=True),
    "components": functools.partial(exchange_components, components=2),
    "order": exchange_order,
}


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_an_exchange_is_that_of_the_cpu(exchange, layout):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 8, 6, 9, 7, generator=generator, dtype=torch.float64)
    perm = torch.randperm(8, generator=generator)
    answers = []
    for device in (GPU, CPU):
        features = x.to(device, memory_format=layout).requires_grad_()
        exchanged = exchange(features, perm.to(device))
        answers.append((exchanged.detach(), *torch.autograd.grad(exchanged, features, weight.to(device))))
    assert_near(*answers, tolerance=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_an_exchange_in_half_precision_rounds_once(dtype, tolerance):
    """Moments are of float32: the result is off by a few roundings of its own type, 2^-9 or 2^-12 each."""
    generator = torch.Generator().manual_seed(0)
    x, perm = torch.randn(8, 32, 9, 7, generator=generator), torch.randperm(8, generator=generator)
    found = exchange_moments(x.to(GPU, dtype), perm.to(GPU))
    assert found.dtype == dtype
    expected = exchange_moments(x.to(dtype).double(), perm)
    torch.testing.assert_close(found.cpu().double(), expected, rtol=tolerance, atol=tolerance)


def batches_of(source, size=50):
    """Two augmented batches and a plain one, on the CPU."""
    requests = [
        Request(torch.arange(size), torch.arange(5, 29), None if seed is None else np.random.default_rng(seed))
        for seed in (1, 2, None)
    ]
    return [(inputs.cpu(), labels.cpu()) for inputs, labels in source.batches(requests)]


def assert_same_batches(ours, theirs):
    assert len(ours) == len(theirs)
    for (inputs, labels), (same_inputs, same_labels) in zip(ours, theirs, strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_are_cropped_and_normalised_to_the_same_bits(channels_last):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, 32, 32), dtype=torch.uint8, generator=generator)
    settings = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4), "padding": 4, "flip": True}
    ours, theirs = (
        ResidentImages(images, torch.arange(50), **settings, device=device, channels_last=channels_last)
        for device in (GPU, CPU)
    )
    assert_same_batches(batches_of(ours), batches_of(theirs))


@pytest.mark.parametrize("decode", ["exact", "device"])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augmented", [True, False])
def test_photographs_have_the_same_bits(decode, workers, augmented):
    """Resized on the GPU too, and however they travel."""

    def collect(device):
        source = source_of(drawn(40), decode=decode, workers=workers, device=device)
        batches = torch.arange(40).split(9)
        return [
            (image.cpu(), label.cpu()) for image, label in source.batches(requests_of(batches, augmented=augmented))
        ]

    assert_same_batches(collect(GPU), collect(CPU))


def test_recordings_are_augmented_as_on_the_cpu():
    """To what a transform in float32 may be off by: see tests/data/sounds/test_spectrogram.py."""
    draws = np.random.default_rng(0)
    sounds = draws.normal(scale=3000, size=(60, 16_000)).astype(np.int16)
    ours, theirs = (
        ResidentSounds(
            Recordings(sounds[:50], sounds[50:]),
            torch.arange(50) % 3,
            augmentation=SpeechCommands().augmentation,
            balanced=True,
            mean=0.0,
            std=1.0,
            device=device,
            channels_last=True,
        )
        for device in (GPU, CPU)
    )
    for (found, labels), (expected, same_labels) in zip(batches_of(ours), batches_of(theirs), strict=True):
        assert torch.equal(labels, same_labels)
        assert (found - expected).abs().max() < 0.09


def test_points_are_drawn_and_grouped_as_on_the_cpu():
    generator = torch.Generator().manual_seed(0)
    clouds, labels = torch.randn(50, 200, 3, generator=generator), torch.arange(50) % 10
    ours, theirs = (ResidentClouds(clouds, labels, points=128, device=device) for device in (GPU, CPU))
    assert_same_batches(batches_of(ours), batches_of(theirs))
    torch.manual_seed(0)
    network, inputs = models.create("pointnet2", num_classes=10, in_channels=3).double(), clouds[:6].double()
    answers = []
    # Trained by itself on each, it would drop other units.
    for copied in (copy.deepcopy(network).eval().to(device) for device in (GPU, CPU)):
        logits = copied(inputs.to(next(copied.parameters()).device))
        logits.square().sum().backward()
        answers.append([logits.detach(), *(parameter.grad for parameter in copied.parameters())])
    assert_near(*answers)
    assert network.train().to(GPU)(inputs.to(GPU)).isfinite().all()
