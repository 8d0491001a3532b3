"""The mixing list as a configuration writes it: names of steps in their order, and the settings of each step."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Any

from torch import nn

from moex.augmentation.base import OccasionalStep, PairStep, Step
from moex.augmentation.mixing import Mixing, check_alternatives
from moex.registry import find_classes, import_class
from moex.settings import require


@dataclass
class AugmentationConfig:
    """The mixing list: `steps` in their order; of those in `one_of`, at most one happens at a time.

    What `settings` returns has a further field for each step there is, with the step itself.
    """

    steps: list[str] = field(default_factory=list)
    one_of: list[str] = field(default_factory=list)
    shared_permutation: bool = False

    def used(self) -> dict[str, Step]:
        """The steps of the list, by their names."""
        return {name: getattr(self, name) for name in self.steps}

    def mixes_samples(self) -> bool:
        """Whether a step mixes samples with each other."""
        return any(isinstance(step, PairStep) for step in self.used().values())

    def create(self, model: nn.Module, *, num_classes: int, seed: int) -> Mixing:
        """The mixing list of a network; see `Mixing`."""
        steps = self.used()
        return Mixing(
            model,
            list(steps.values()),
            num_classes=num_classes,
            seed=seed,
            one_of=[steps[name] for name in self.one_of],
            shared_permutation=self.shared_permutation,
        )

    def check(self, key: str) -> None:
        """Refuses names that are none, and alternatives that do not fit; see `moex.settings`."""
        names = [item.name for item in dataclasses.fields(self) if isinstance(getattr(self, item.name), Step)]
        steps = self.steps
        known = set(steps) <= set(names) and len(steps) == len(set(steps))
        require(known, f"{key}.steps", steps, f"each of {', '.join(names)} at most once")
        allowed = [name for name, step in self.used().items() if isinstance(step, OccasionalStep)]
        some = f"empty, or two or more of {key}.steps ({', '.join(allowed) or 'none'})"
        require(set(self.one_of) <= set(allowed), f"{key}.one_of", self.one_of, some)
        try:
            check_alternatives(list(self.used().values()), [getattr(self, name) for name in self.one_of])
        except ValueError as error:
            raise ValueError(f"{key}.{error}") from None

    def recipe(self) -> dict[str, Any]:
        """What acts on the training: not the settings of steps that are not in the list; see `moex.settings`."""
        own = {item.name: getattr(self, item.name) for item in dataclasses.fields(AugmentationConfig)}
        return own | self.used()


def step_classes() -> dict[str, type[Step]]:
    """The steps of this folder, by their names."""
    return find_classes("moex.augmentation", Step)


def settings(values: Mapping[str, Any] | None = None) -> AugmentationConfig:
    """The settings of every step with their defaults, typed as their classes are.

    Args:
        values: what a configuration sets; a step of somebody else's names its class there, by the import path
            `target`.

    Raises:
        ValueError: there is no class at that path, or it is no `Step`.
    """
    targets = {
        name: str(given["target"])
        for name, given in (values or {}).items()
        if isinstance(given, Mapping) and "target" in given and name not in step_classes()
    }
    return _schema(tuple(targets.items()))()


@functools.cache
def _schema(targets: tuple[tuple[str, str], ...]) -> type[AugmentationConfig]:
    """A class with a field for each step of this folder, and for each of somebody else's, by name and import path."""
    kinds = dict(step_classes())
    for name, path in targets:
        kind = import_class(path, Step, key=f"augmentation.{name}.target")
        # The name of the configuration, for messages; the path is a setting like the others.
        own: list[Any] = [("target", str, "")]
        kinds[name] = make_dataclass(kind.__name__, own, bases=(kind,), kw_only=True, namespace={"name": name})
    fields: list[Any] = [(name, kind, field(default_factory=kind)) for name, kind in kinds.items()]
    return make_dataclass("AugmentationConfig", fields, bases=(AugmentationConfig,))
