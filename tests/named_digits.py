"""Digits whose classes have names, and test sets made of them, as data sets that a run may name."""

from dataclasses import dataclass

import torch

from moex.data import Outputs, Samples
from moex.data.digits import Digits
from moex.metrics import aupr_out_of_distribution

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass
class NamedDigits(Digits):
    """All ten."""

    @property
    def class_names(self):
        return NAMES


@dataclass
class EvenDigits(NamedDigits):
    """A test set of five classes, the last one first."""

    missing: bool = False

    num_classes = 5

    @property
    def class_names(self):
        return NAMES[8::-2]

    def read(self, *, seed):
        raise ValueError("even digits are a test set")

    def read_test(self, *, seed):
        if self.missing:
            raise ValueError("nowhere is missing")
        return {"test": self.select(Digits.read(self, seed=seed)["test"])}

    def select(self, samples):
        even = samples.labels % 2 == 0
        return Samples(samples.inputs[even], 4 - samples.labels[even] // 2)


@dataclass
class OddOnesOut(EvenDigits):
    """Even digits, and odd ones, which are to be found out."""

    def read_test(self, *, seed):
        everyone = Digits.read(self, seed=seed)["test"]
        odd = everyone.inputs[everyone.labels % 2 == 1]
        return {"in": self.select(everyone), "out": Samples(odd, torch.zeros(len(odd), dtype=torch.int64))}

    def summarise(self, scores):
        return {"aupr": aupr_out_of_distribution(scores["in"].confidence, scores["out"].confidence)}


@dataclass
class Parity(NamedDigits):
    """Even and odd: each class stands for five outputs."""

    num_classes = 2

    @property
    def class_names(self):
        return ("even", "odd")

    def read_test(self, *, seed):
        everyone = Digits.read(self, seed=seed)["test"]
        return {"test": Samples(everyone.inputs, everyone.labels % 2)}

    def find_outputs(self, network):
        position = {name: index for index, name in enumerate(network)}
        return Outputs(tuple(tuple(position[name] for name in names) for names in (NAMES[::2], NAMES[1::2])))
