"""The exchange in what is computed again in the backward pass: the gradients of a network that keeps everything."""

import copy
from contextlib import ExitStack

import pytest
import torch
from small_net import PERM
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import moex
from moex import MomentExchange
from moex.features import TELLS_HOOKS, _Changes


class CheckpointedNet(nn.Module):
    """Two regions that `torch.utils.checkpoint` computes again; `use_reentrant=None` keeps them instead."""

    def __init__(self, use_reentrant: bool | None = None) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Tanh())
        self.between = nn.Conv2d(6, 6, 1)
        self.second = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Tanh())
        self.head = nn.Linear(6, 5)

    def region(self, layers: nn.Module, features: Tensor) -> Tensor:
        if self.use_reentrant is None:
            return layers(features)
        return checkpoint(layers, features, use_reentrant=self.use_reentrant)

    def forward(self, images: Tensor) -> Tensor:
        features = self.region(self.first, self.stem(images).tanh())
        return self.head(self.region(self.second, self.between(features)).mean((2, 3)))


OTHER = PERM.flip(0)


# What is exchanged in each forward pass, at which layers and by which permutation; then how backward is called.
PASSES = {
    "after swap": ([{"first.0": PERM}], "once"),
    "at the end of a region": ([{"second": PERM}], "once"),
    "outside every region": ([{"stem": PERM}], "once"),
    "in both regions": ([{"first.0": PERM, "second": OTHER}], "once"),
    "two permutations": ([{"first.0": PERM}, {"first.0": OTHER}], "once"),
    "two permutations, one after the other": ([{"first.0": PERM}, {"first.0": OTHER}], "in order"),
    "a plain pass before": ([{}, {"first.0": PERM}], "once"),
    "a plain pass after": ([{"first.0": PERM}, {}], "once"),
    "plain passes around another region's": ([{}, {"second": PERM}, {}], "once"),
    "plain passes around one outside every region": ([{}, {"stem": PERM}, {}], "once"),
    "twice": ([{"first.0": PERM}], "twice"),
    "inside swap": ([{"first.0": PERM}], "inside"),
}


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("case", PASSES)
def test_checkpointing_computes_the_exchange_of_its_own_pass(case: str, use_reentrant: bool) -> None:
    """Gradients against a network that keeps everything."""
    passes, backward = PASSES[case]
    torch.manual_seed(0)
    kept = CheckpointedNet().double()
    checkpointed = copy.deepcopy(kept)
    checkpointed.use_reentrant = use_reentrant
    images, weights = torch.randn(4, 3, 8, 8).double(), torch.randn(4, 5).double()
    for net in (kept, checkpointed):
        exchanges = {layer: MomentExchange(net, layer) for layer in ("stem", "first.0", "second")}
        losses = []
        for factor, swaps in enumerate(passes, start=1):
            with ExitStack() as stack:
                for layer, perm in swaps.items():
                    stack.enter_context(exchanges[layer].swap(perm))
                losses.append(factor * (net(images) * weights).sum())
                if backward == "inside":
                    losses.pop().backward()
        if backward == "in order":
            for loss in losses:
                loss.backward()
        elif backward == "twice":
            losses[0].backward(retain_graph=True)
            losses[0].backward()
        elif losses:
            sum(losses).backward()
    for ours, theirs in zip(checkpointed.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


told = pytest.mark.skipif(not TELLS_HOOKS, reason="torch 2.6 does not tell who looks at saved tensors")


def step(net: nn.Module, exchange: MomentExchange, images: Tensor) -> list[Tensor]:
    """The gradients of a pass with an exchange."""
    net.zero_grad()
    with exchange.swap(PERM):
        logits = net(images)
    logits.square().sum().backward()
    return [parameter.grad for parameter in net.parameters()]


@told
def test_what_is_saved_is_looked_at_in_the_first_pass_alone(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which costs a call of Python a tensor; where a layer is checkpointed, it stays necessary."""
    saved: list[Tensor] = []
    monkeypatch.setattr(_Changes, "_pack", lambda _, tensor: saved.append(tensor) or [tensor])
    for use_reentrant, is_looked_at in ((None, [True, False, False]), (False, [True, True, True])):
        net = CheckpointedNet(use_reentrant).double()
        exchange, seen = MomentExchange(net, "first.0"), []
        for _ in range(3):
            saved.clear()
            with exchange.swap(PERM):
                net(images)
            seen.append(bool(saved))
        assert seen == is_looked_at


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_in_training_alone(images: Tensor, use_reentrant: bool) -> None:
    """As libraries switch it; the first pass is one of evaluation."""
    kept = CheckpointedNet().double()
    checkpointed = copy.deepcopy(kept)
    gradients = []
    for net in (kept, checkpointed):
        exchange = MomentExchange(net, "first.0")
        step(net.eval(), exchange, images)
        if net is checkpointed:
            net.use_reentrant = use_reentrant
        gradients.append([step(net.train(), exchange, images) for _ in range(2)])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


@told
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_that_is_switched_on_later(images: Tensor, use_reentrant: bool) -> None:
    net = CheckpointedNet().double()
    exchange = MomentExchange(net, "first.0")
    expected = [step(net, exchange, images) for _ in range(2)]
    net.use_reentrant = use_reentrant
    with pytest.raises(ValueError, match=r"layer 'first.0' is checkpointed, and was not .* attach it anew"):
        step(net, exchange, images)
    exchange.remove()
    again = MomentExchange(net, "first.0")
    torch.testing.assert_close([step(net, again, images) for _ in range(2)], expected, rtol=1e-12, atol=1e-12)


LAYERS = {
    "timm:resnet18": ["maxpool", "layer1", "layer2", "layer2.1", "layer3.0.conv1"],
    "timm:vit_tiny_patch16_224": ["patch_embed", "blocks.0", "blocks.1", "blocks.0.mlp", "blocks.1.attn"],
    "densenet_bc10": ["stem", "stage1", "stage2", "stage1.layers.0.bn1", "stage2.layers.0.conv1"],
}


@pytest.mark.parametrize(("name", "layer"), [(name, layer) for name, layers in LAYERS.items() for layer in layers])
def test_checkpointing_of_libraries(name: str, layer: str) -> None:
    """timm's switch, which calls the blocks of a stage without the stage; and our memory-saving DenseNet."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "depth": 2} if "vit" in name else {}
    kept = moex.models.create(name, num_classes=5, **options)
    if name.startswith("timm"):
        checkpointed = copy.deepcopy(kept)
        checkpointed.set_grad_checkpointing()
    else:
        checkpointed = moex.models.create(name, num_classes=5, memory_saving=True)
        checkpointed.load_state_dict(kept.state_dict())
    images, weights = torch.randn(4, 3, 32, 32).double(), torch.randn(4, 5).double()
    for net in (kept.double(), checkpointed.double()):
        exchange = MomentExchange(net, layer)
        with exchange.swap(PERM):
            logits = net(images)
        (logits * weights).sum().backward()
    for (name, ours), theirs in zip(checkpointed.named_parameters(), kept.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(
            ours.grad, theirs.grad, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )
