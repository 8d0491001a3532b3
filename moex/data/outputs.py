"""Which outputs of a network a data set reads, when it has other classes than the one the network was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """The outputs that stand for each class of a data set, by its labels.

    Attributes:
        groups: for each class, the positions among the network's logits; of several, the largest logit counts.
    """

    groups: tuple[tuple[int, ...], ...]

    def restrict(self, logits: Tensor) -> Tensor:
        """Logits of the network `[B, K]` to those of the data set's classes `[B, k]`, before any softmax."""
        largest = max(map(len, self.groups))
        padded = [group + group[:1] * (largest - len(group)) for group in self.groups]
        return logits[:, torch.tensor(padded, device=logits.device)].amax(dim=2)


def find_outputs(
    classes: Sequence[str], network: Sequence[str], *, also: Mapping[str, Sequence[str]] | None = None
) -> Outputs:
    """Finds the classes of a data set among those of a network, by their names.

    Args:
        classes: of the data set, by label.
        network: the names of its outputs.
        also: for a class, the names of the outputs that stand for it, where they are not its own name.

    Raises:
        ValueError: the network lacks classes; the first of them, and how many.
    """
    position = {name: index for index, name in enumerate(network)}
    wanted = {name: (also or {}).get(name, (name,)) for name in classes}
    missing = [name for name, outputs in wanted.items() if any(output not in position for output in outputs)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(classes)} classes are none of the network's {len(network)}: "
            f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
        )
    return Outputs(tuple(tuple(position[output] for output in outputs) for outputs in wanted.values()))
