"""ShakeDrop and stochastic depth: the laws of their draws, and PyramidNet with either against a plain loop."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

import moex
from moex import models
from moex.models.pyramidnet import linear_death_rates
from moex.models.shake_drop import ShakeDrop, draw_factors, shake_drop

OPTIONS = ("shake_drop", "stochastic_depth")
LAYERS = {"shake_drop": ShakeDrop, "stochastic_depth": StochasticDepth}
PERM = torch.tensor([2, 0, 3, 1])


def small(**options):
    """Six basic blocks."""
    torch.manual_seed(0)
    return models.create("pyramidnet14", num_classes=5, alpha=12, bottleneck=False, **options)


def images_of(batch=4):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))


# ---- the function


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 2)])
@pytest.mark.parametrize("seed", range(6))
def test_each_sample_by_its_own_factors(shape, seed):
    """Values and gradients against a loop over the samples."""
    residual = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(shape, dtype=torch.float64)
    torch.manual_seed(seed)
    output = shake_drop(residual, 0.5, training=True)
    output.backward(upstream)
    torch.manual_seed(seed)
    forward, backward = draw_factors(residual, 0.5)
    assert forward.shape == backward.shape == (5, *[1] * (len(shape) - 1))
    for sample in range(5):
        alpha, beta = forward[sample].item(), backward[sample].item()
        assert torch.equal(output[sample], alpha * residual[sample])
        assert torch.equal(residual.grad[sample], beta * upstream[sample])


@pytest.mark.parametrize("death_rate", [0.0, 0.3, 0.9])
def test_the_laws_of_the_factors(death_rate):
    """One gate a batch; of a batch that is disturbed, α ~ U[-1, 1] and β ~ U[0, 1], each image's own."""
    torch.manual_seed(0)
    batches, images = 2000, 8
    draws = [draw_factors(torch.empty(images, 1, 1, 1), death_rate) for _ in range(batches)]
    alpha, beta = (torch.stack(factors).view(batches, images).double() for factors in zip(*draws, strict=True))
    kept = (alpha == 1).all(1)
    assert torch.equal(kept, (beta == 1).all(1))
    assert float(kept.double().mean()) == pytest.approx(1 - death_rate, abs=4 * math.sqrt(0.25 / batches))
    alpha, beta = alpha[~kept].flatten(), beta[~kept].flatten()
    if not death_rate:
        assert kept.all()
        return
    for uniform in ((alpha + 1) / 2, beta):
        assert ((uniform >= 0) & (uniform < 1)).all()
        # Kolmogorov and Smirnov's distance to the uniform law, at a level of one in a million.
        positions = torch.arange(len(uniform), dtype=torch.float64) / len(uniform)
        assert float((uniform.sort().values - positions).abs().max()) < 2.7 / math.sqrt(len(uniform))
    correlation = float(torch.corrcoef(torch.stack([alpha, beta]))[0, 1])
    assert correlation == pytest.approx(0, abs=5 / math.sqrt(len(alpha)))
    neighbours = torch.stack([alpha[:-1], alpha[1:]])
    assert float(torch.corrcoef(neighbours)[0, 1]) == pytest.approx(0, abs=5 / math.sqrt(len(alpha)))


@pytest.mark.parametrize("death_rate", [0.25, 0.5])
def test_expectations(death_rate):
    """Of the output, E[b + α - bα] = 1 - r, which is what evaluation takes; of the gradient, 1 - r/2."""
    torch.manual_seed(0)
    residual = torch.randn(2, 3, 2, 2).requires_grad_()
    draws = 10_000
    total = sum(shake_drop(residual, death_rate, training=True) for _ in range(draws))
    total.sum().backward()
    evaluated = shake_drop(residual, death_rate, training=False)
    assert torch.equal(evaluated, residual * (1 - death_rate))
    torch.testing.assert_close(total / draws, evaluated, rtol=0.05, atol=0)
    expected = torch.full_like(residual, 1 - death_rate / 2)
    torch.testing.assert_close(residual.grad / draws, expected, rtol=0.02, atol=0)


def test_gradients_are_true_ones_where_both_passes_agree():
    """Numerical gradients in evaluation and of a kept residual; the second order follows the first."""
    residual = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    for case in ({"training": False, "death_rate": 0.4}, {"training": True, "death_rate": 0.0}):
        assert torch.autograd.gradcheck(lambda x, case=case: shake_drop(x, **case), residual)
        assert torch.autograd.gradgradcheck(lambda x, case=case: shake_drop(x, **case), residual)


def test_the_same_seed_the_same_draws():
    residual = torch.ones(4, 2)

    def draw(seed):
        torch.manual_seed(seed)
        return torch.stack([shake_drop(residual, 0.9, training=True) for _ in range(5)])

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_bfloat16_keeps_its_type_and_the_draws():
    residual = torch.ones(64, 2, dtype=torch.bfloat16, requires_grad=True)
    torch.manual_seed(1)
    output = shake_drop(residual, 0.999, training=True)
    output.sum().backward()
    torch.manual_seed(1)
    alpha, beta = draw_factors(torch.ones(64, 2), 0.999)
    assert output.dtype == residual.grad.dtype == torch.bfloat16
    assert torch.equal(output[:, :1], alpha.bfloat16())
    assert torch.equal(residual.grad[:, :1], beta.bfloat16())


# ---- the networks


def test_linear_decay():
    """Huang et al. 2016, figure 2: survival from almost 1 to 0.5."""
    assert linear_death_rates(4, last=0.5) == [0.125, 0.25, 0.375, 0.5]
    assert linear_death_rates(66, last=0.5) == pytest.approx([0.5 * block / 66 for block in range(1, 67)])


@pytest.mark.parametrize("option", OPTIONS)
def test_every_block_has_its_rate(option):
    with torch.device("meta"):
        model = models.create("pyramidnet200", num_classes=100, **{option: 0.5})
    layers = [module for module in model.modules() if isinstance(module, LAYERS[option])]
    rates = [layer.death_rate if option == "shake_drop" else layer.p for layer in layers]
    assert rates == linear_death_rates(66, last=0.5)
    if option == "stochastic_depth":
        assert {layer.mode for layer in layers} == {"batch"}


@pytest.mark.parametrize("option", OPTIONS)
def test_parameters_and_keys_are_those_of_the_plain_network(option):
    plain, regularized = small().state_dict(), small(**{option: 0.5}).state_dict()
    assert list(plain) == list(regularized)
    assert all(torch.equal(plain[key], regularized[key]) for key in plain)


def plain_forward(model, images, factors):
    """PyramidNet's forward pass with the residual of each block times the next of `factors`."""
    x = model.bn1(model.conv1(images))
    for block, factor in zip([*model.stage1, *model.stage2, *model.stage3], factors, strict=True):
        residual = block.residual(x)
        shortcut = F.avg_pool2d(x, 2) if residual.shape[2] < x.shape[2] else x
        zeros = shortcut.new_zeros(len(x), residual.shape[1] - shortcut.shape[1], *shortcut.shape[2:])
        x = factor * residual + torch.cat([shortcut, zeros], 1)
    return model.fc(F.relu(model.bn_final(x)).mean((2, 3)))


def factors_of(option, batch):
    """What the blocks' residuals are multiplied by in a training step, drawn in their order."""
    for rate in linear_death_rates(6, last=0.9):
        if option == "shake_drop":
            yield draw_factors(torch.empty(batch, 1, 1, 1), rate)[0]
        else:
            yield torch.empty(1, 1, 1, 1).bernoulli_(1 - rate) / (1 - rate)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_training_pass_is_the_plain_loop(option):
    model, images = small(**{option: 0.9}), images_of()
    seen = []
    for seed in range(4):
        torch.manual_seed(seed)
        logits = model(images)
        torch.manual_seed(seed)
        factors = list(factors_of(option, batch=4))
        seen += factors
        torch.testing.assert_close(logits, plain_forward(model, images, factors))
    kept = sum(bool((factor >= 1).all()) for factor in seen)
    assert 0 < kept < len(seen), "the seeds show both kinds of block"


@pytest.mark.parametrize("option", OPTIONS)
def test_evaluation_takes_the_expectation_and_draws_nothing(option):
    model, images = small(**{option: 0.5}).eval(), images_of()
    factors = [1 - rate for rate in linear_death_rates(6, last=0.5)] if option == "shake_drop" else [1.0] * 6
    state = torch.get_rng_state()
    logits = model(images)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(logits, plain_forward(model, images, factors))


def test_torchvisions_stochastic_depth_is_the_papers_rescaled():
    """With the last BatchNorm times the survival rate, training and evaluation are the paper's: b F and p F."""
    model, images = small(stochastic_depth=0.5), images_of()
    paper = small()
    survival = [1 - rate for rate in linear_death_rates(6, last=0.5)]
    for block, rate in zip([*model.stage1, *model.stage2, *model.stage3], survival, strict=True):
        with torch.no_grad():
            block.residual[-1].weight.mul_(rate)
            block.residual[-1].bias.mul_(rate)
    torch.manual_seed(2)
    logits = model(images)
    torch.manual_seed(2)
    gates = [torch.empty(1).bernoulli_(rate) for rate in survival]
    assert 0 < sum(gates) < 6
    torch.testing.assert_close(logits, plain_forward(paper, images, gates))
    torch.testing.assert_close(model.eval()(images), plain_forward(paper.eval(), images, survival))


@pytest.mark.parametrize("option", OPTIONS)
def test_the_exchange_at_the_stem(option):
    model, images = small(**{option: 0.5}), images_of()
    exchange = moex.MomentExchange(model, "stem")
    torch.manual_seed(5)
    with exchange.swap(PERM):
        logits = model(images)
    exchange.remove()
    model.bn1.register_forward_hook(lambda _, __, output: moex.exchange_moments(output, PERM))
    torch.manual_seed(5)
    torch.testing.assert_close(logits, model(images))


@pytest.mark.parametrize("option", OPTIONS)
def test_compiled(option):
    """One graph with the exchange and one without, whatever is drawn; the same numbers from the same seed."""
    torch._dynamo.reset()
    plain, compiled_model = small(**{option: 0.9}), small(**{option: 0.9})
    exchanges = [moex.MomentExchange(model, "stem") for model in (plain, compiled_model)]
    counter = CompileCounter()
    compiled = torch.compile(compiled_model, backend=counter, fullgraph=True, dynamic=False)
    for seed, perm in enumerate((PERM, None, PERM.flip(0), None)):
        logits = []
        for exchange, network in zip(exchanges, (plain, compiled), strict=True):
            torch.manual_seed(seed)
            with exchange.swap(perm):
                logits.append(network(images_of()))
        torch.testing.assert_close(*logits)
    assert counter.frame_count == 2
    torch._dynamo.reset()


@pytest.mark.parametrize("option", OPTIONS)
def test_a_compiled_step_of_training_has_the_gradients_of_the_plain_one(option):
    torch._dynamo.reset()
    plain, compiled_model = small(**{option: 0.9}), small(**{option: 0.9})
    compiled = torch.compile(compiled_model, backend="aot_eager", fullgraph=True, dynamic=False)
    for network in (plain, compiled):
        torch.manual_seed(7)
        F.cross_entropy(network(images_of()), torch.arange(4)).backward()
    for ours, theirs in zip(compiled_model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9)
    torch._dynamo.reset()


@pytest.mark.parametrize("option", OPTIONS)
def test_autocast_to_bfloat16(option):
    model = small(**{option: 0.5}).float()
    losses = []
    for precision in (torch.float32, torch.bfloat16):
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(images_of().float())
        assert logits.dtype == precision
        losses.append(F.cross_entropy(logits.float(), torch.arange(4)))
    losses[1].backward()
    # A dozen layers, each rounded to 8 bits (0.4 %), whatever kernel sums them.
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_network_without_stochastic_depth_needs_no_torchvision():
    code = """
import sys
sys.modules["torchvision"] = None
import moex
moex.models.create("pyramidnet11", num_classes=3, alpha=3, shake_drop=0.5)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


MISTAKES = {
    "above": ({"shake_drop": 1.0}, r"shake_drop is 1.0: .* must be in \[0, 1\)"),
    "below": ({"stochastic_depth": -0.1}, r"stochastic_depth is -0.1: .* must be in \[0, 1\)"),
    "not a number": ({"shake_drop": math.nan}, r"shake_drop is nan"),
    "both": (
        {"shake_drop": 0.5, "stochastic_depth": 0.2},
        r"shake_drop is 0.5 and stochastic_depth is 0.2: one of them must be 0",
    ),
    "another network": ({"shake_drop": 0.5, "name": "resnet8"}, r"'resnet8' has no option 'shake_drop'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case):
    options, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message):
        models.create(options.pop("name", "pyramidnet11"), num_classes=5, **options)


@pytest.mark.parametrize("option", OPTIONS)
def test_what_the_printed_network_says(option):
    text = {"shake_drop": "ShakeDrop(death_rate=0.25)", "stochastic_depth": "StochasticDepth(p=0.25, mode=batch)"}
    assert text[option] in repr(small(**{option: 0.5}))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_few_steps_learn(option):
    model = small(**{option: 0.5})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    images, labels = images_of(16), torch.arange(16) % 5
    before = F.cross_entropy(model.eval()(images), labels).item()
    model.train()
    for step in range(30):
        torch.manual_seed(step)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    after = F.cross_entropy(model.eval()(images), labels).item()
    assert after < 0.7 * before
