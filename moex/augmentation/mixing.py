"""The mixing list of a network: draws what happens in a training step, and lets it happen.

A step that mixes has a permutation P of the batch and a weight λ, and turns the labels Y into λY + (1-λ)Y[P]. It
happens to the images, or to the features after a layer, where a hook executes it. Labels are mixed in the order in
which steps happen: those of the images as they are listed, then those of layers as the network computes them.
So CutMix and MoEx on one shared P give the label weights λ₁λ₂ of the sample itself, λ₁(1-λ₂) + (1-λ₁)λ₂ of its
partner and (1-λ₁)(1-λ₂) of the partner's partner: the published three-term loss.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from moex.augmentation.base import IMAGES, Draws, Integers, OccasionalStep, Operation, Step
from moex.exchange import FeatureExchange
from moex.features import FeatureHook, record_features
from moex.randomness import Purpose, generator
from moex.settings import check_numbers, require

# What happens in a training step, in the order in which it happens.
Plan = tuple[Operation, ...]
Key = tuple[int, str]

# Samples that `prepare` needs.
FEW = 4


class Mixing:
    """Steps that mix a batch, its features and its labels.

    In a training loop of your own::

        mixing = moex.Mixing(model, [moex.CutMix(probability=0.5), moex.MoEx(layer="layer1")], num_classes=1000)
        for images, labels in loader:
            with mixing(images, labels) as (images, targets):
                loss = F.cross_entropy(model(images), targets)

    Each call is the next step of the stream of random choices that `seed` keys. Under DistributedDataParallel all
    ranks decide alike, and draw partners of their own. Outside the context, and in evaluation, the network is what it
    was. Create it before `torch.compile` and before DistributedDataParallel; call the compiled or wrapped network.

    Args:
        model: any network whose chosen layers return a tensor `[B, ...]`.
        steps: what happens, each with its probability.
        num_classes: K.
        seed: of the stream of random choices.
        one_of: of these steps at most one happens at a time, by a single draw.
        shared_permutation: whether all steps of a batch have the same partners.

    Raises:
        ValueError: a setting is out of its range, a layer does not exist, the network is compiled or wrapped
            already, or `one_of` does not fit the steps.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: Sequence[Step],
        *,
        num_classes: int,
        seed: int = 0,
        one_of: Sequence[Step] = (),
        shared_permutation: bool = False,
    ) -> None:
        require(isinstance(num_classes, int) and num_classes >= 1, "num_classes", num_classes, "1 or more")
        for step in steps:
            if not isinstance(step, Step):
                raise TypeError(f"a step is {step!r}: it must be a Step, such as moex.MoEx()")
            check_numbers(step, step.name or type(step).__name__)
            step.check(step.name or type(step).__name__)
        self.steps = tuple(steps)
        self.one_of = check_alternatives(steps, one_of)
        self.num_classes = num_classes
        self.seed = seed
        self.shared_permutation = shared_permutation
        self._model = model
        # In the order of the list, in which hooks of one layer follow each other.
        self._hooks: dict[Key, FeatureHook] = {
            (id(step), place): step.attach(model, place)
            for step in steps
            for place in step.places()
            if place != IMAGES
        }
        # By the shape of the images: places in the order in which the network computes them, with H and W where
        # features have them.
        self._layouts: dict[torch.Size, dict[Key, torch.Size]] = {}
        self._calls = 0

    def __repr__(self) -> str:
        return f"Mixing([{', '.join(map(repr, self.steps))}], num_classes={self.num_classes}, seed={self.seed})"

    def __call__(
        self, images: Tensor, labels: Tensor, *, progress: float = 1.0
    ) -> AbstractContextManager[tuple[Tensor, Tensor]]:
        """Draws the next step of the stream, and mixes a batch by it.

        Args:
            images: `[B, ...]`, normalised.
            labels: class indices `[B]`, or soft labels `[B, K]`.
            progress: the share of the training that is done, by which DropBlock's rate grows.

        Returns:
            A context, in which the network's one forward pass mixes features, with the images and the soft labels
            `[B, K]`: float32, or as they were given.

        Raises:
            TypeError: labels are no tensor, or neither indices nor soft labels.
            ValueError: labels are of other samples or classes; at the first call, an exchange that changes nothing,
                or features without the channels that a step needs; on leaving the context, a layer that was not
                reached.
        """
        step, self._calls = self._calls, self._calls + 1
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        plan = self.draw(
            images,
            shared=generator(self.seed, Purpose.DECISIONS, step=step),
            own=generator(self.seed, Purpose.PERMUTATIONS, step=step, rank=rank),
            progress=progress,
        )
        return self.execute(plan, images, labels)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is: the seed, and how many steps were drawn."""
        return {"seed": self.seed, "calls": self._calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where a stream was.

        Raises:
            ValueError: it is the stream of another seed.
        """
        if state["seed"] != self.seed:
            raise ValueError(f"the state is of seed {state['seed']}, and this Mixing has seed {self.seed}")
        self._calls = state["calls"]

    def remove(self) -> None:
        """Takes the hooks off the network."""
        for hook in self._hooks.values():
            hook.remove()

    def prepare(self, *inputs: Any, **named_inputs: Any) -> None:
        """Looks how the network computes its layers, by one pass in evaluation mode; the first call does so itself.

        Args:
            inputs: of the network: the images `[B, ...]` first. Call it yourself where the network takes more.
            named_inputs: of the network, by name.

        Raises:
            ValueError: a layer is not reached, or returns no tensor; or an exchange of its features changes nothing.
        """
        if not self._hooks:
            return
        layers = {str(number): hook.layer for number, hook in enumerate(self._hooks.values())}
        features = record_features(self._model, layers, *inputs, **named_inputs)
        keys, hooks = list(self._hooks), list(self._hooks.values())
        for number, layer in layers.items():
            if number not in features:
                raise ValueError(f"layer {layer!r} returns no tensor in a forward pass, or is not reached by it")
        for number, output in features.items():
            hook = hooks[int(number)]
            if isinstance(hook, FeatureExchange):
                hook.check(output, *inputs, **named_inputs)
        self._layouts[inputs[0].shape[1:]] = {keys[int(number)]: output.shape for number, output in features.items()}

    def draw(
        self,
        images: Tensor,
        *,
        shared: np.random.Generator,
        own: np.random.Generator,
        progress: float = 1.0,
    ) -> Plan:
        """Makes the random choices of one training step.

        A step happens, or does not, for the whole batch with its probability; of the steps in `one_of`, a single
        draw picks one, or none if their probabilities leave room.

        Args:
            images: `[B, ...]`.
            shared: decides, and draws points, and weights and boxes of whole batches: the same on every rank.
            own: draws permutations, Cutout's holes, and weights and boxes of each sample: each rank's own.
            progress: the share of the training that is done.

        Returns:
            The operations in the order in which they happen, with their tensors on the CPU.
        """
        partners = own.permutation(len(images)) if self.shared_permutation else None
        steps = self._draw_steps(shared)
        return self._draw_all(steps, images, shared=shared, own=own, progress=progress, partners=partners)

    def _draw_all(
        self,
        steps: Sequence[Step],
        images: Tensor,
        *,
        shared: np.random.Generator,
        own: np.random.Generator,
        progress: float,
        partners: Integers | None = None,
    ) -> Plan:
        """What some steps do, in the order in which it happens."""
        layout = self._layout(images)
        operations: list[Operation] = []
        for step in steps:
            shapes = {place: images.shape if place == IMAGES else layout[id(step), place] for place in step.places()}
            operations += step.draw(Draws(len(images), shapes, shared, own, partners, progress))
        order = {key: number for number, key in enumerate(layout)}
        return tuple(sorted(operations, key=lambda operation: order.get((id(operation.step), operation.point), -1)))

    def exchanges(self) -> bool:
        """Whether a step exchanges a statistic of features, which may be the same for all samples."""
        return any(isinstance(hook, FeatureExchange) for hook in self._hooks.values())

    def plans_of_every_place(self, images: Tensor) -> list[Plan]:
        """Plans in which, taken together, each step happens at each of its places."""
        seen: set[Key] = set()
        plans = []
        # So often that a place among a dozen is missed by one in a million.
        for seed in range(160):
            shared, own = np.random.default_rng(seed), np.random.default_rng(seed)
            plan = self._draw_all(self.steps, images, shared=shared, own=own, progress=1.0)
            keys = {(id(operation.step), operation.point) for operation in plan}
            if not keys <= seen:
                seen |= keys
                plans.append(plan)
        return plans

    @contextmanager
    def execute(self, plan: Plan, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Mixes a batch by a plan; `draw` draws one, and tests write one by hand.

        Args:
            plan: the operations in the order in which they happen.
            images: `[B, ...]`, normalised.
            labels: class indices `[B]`, or soft labels `[B, K]`.

        Yields:
            The images and the soft labels `[B, K]`; inside the context the network mixes features.
        """
        targets = soft_labels(labels, num_classes=self.num_classes, samples=len(images))
        with ExitStack() as stack:
            for operation in plan:
                operation = operation.to(images.device)
                if operation.point == IMAGES:
                    images = operation.apply(images)
                else:
                    hook = self._hooks[id(operation.step), operation.point]
                    stack.enter_context(operation.step.inside(hook, *operation.arguments))
                targets = operation.mix_labels(targets)
            yield images, targets

    def _layout(self, images: Tensor) -> dict[Key, torch.Size]:
        shape = images.shape[1:]
        if self._hooks and shape not in self._layouts:
            self.prepare(images[:FEW])
        return self._layouts.get(shape, {})

    def _draw_steps(self, shared: np.random.Generator) -> list[Step]:
        """The steps that happen, in the order of the list."""
        chosen = None
        if self.one_of:
            shares = np.cumsum([step.probability for step in self.one_of])
            position = int(np.searchsorted(shares, shared.random(), side="right"))
            chosen = self.one_of[position] if position < len(self.one_of) else None

        def happens(step: Step) -> bool:
            if any(step is alternative for alternative in self.one_of):
                return step is chosen
            return not isinstance(step, OccasionalStep) or bool(shared.random() < step.probability)

        return [step for step in self.steps if happens(step)]


def soft_labels(labels: Tensor, *, num_classes: int, samples: int) -> Tensor:
    """Labels `[B, K]` of class indices `[B]`; labels that are soft stay as they are.

    Raises:
        TypeError: they are no tensor of indices or of shares.
        ValueError: they are not one for each sample, or of other classes; of those on a GPU the kernel asserts it.
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor [B] or [B, K], not a {type(labels).__name__}")
    if labels.ndim not in (1, 2) or len(labels) != samples:
        raise ValueError(f"labels must be [B] or [B, K] for {samples} samples, not {list(labels.shape)}")
    if labels.ndim == 2:
        require(labels.shape[1] == num_classes, "the number of labels' classes", labels.shape[1], str(num_classes))
        return labels
    if labels.is_floating_point():
        raise TypeError(f"labels [B] must be indices of classes, not {labels.dtype}")
    if labels.device.type == "cpu" and samples:
        low, high = int(labels.min()), int(labels.max())
        require(low >= 0 and high < num_classes, "the range of labels", (low, high), f"in [0, {num_classes})")
    return F.one_hot(labels.long(), num_classes).float()


def check_alternatives(steps: Sequence[Step], one_of: Sequence[Step]) -> tuple[OccasionalStep, ...]:
    """The steps of which one happens at a time.

    Raises:
        ValueError: there is only one, one has no probability or is not in the list, or the probabilities sum to more
            than 1.
    """
    alternatives = [
        step for step in one_of if isinstance(step, OccasionalStep) and any(step is item for item in steps)
    ]
    if len(alternatives) != len(one_of) or len({id(step) for step in one_of}) != len(one_of) or len(one_of) == 1:
        possible = ", ".join(step.name for step in steps if isinstance(step, OccasionalStep))
        raise ValueError(
            f"one_of is {[step.name for step in one_of]}: it must be empty, or two or more of the steps "
            f"({possible or 'none'})"
        )
    total = sum(step.probability for step in alternatives)
    if total > 1 + 1e-9:
        raise ValueError(
            f"one_of is {[step.name for step in one_of]}: it must be steps whose probabilities sum to 1 at most; "
            f"these sum to {total:g}"
        )
    return tuple(alternatives)
