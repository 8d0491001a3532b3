"""The schema: what it refuses, in which words, and what names a run's folder."""

import dataclasses
import re

import pytest
from omegaconf import OmegaConf

from moex.config import Config, acts_on_training, keys_in_use, known_keys, parse, recipe, run_folder

REFUSED = {
    "misspelt key": ({"epoch": 3}, r"unknown key 'epoch'.*epochs"),
    "misspelt nested key": (
        {"optimizer": {"learning_rate": 1}},
        r"unknown key 'optimizer.learning_rate'.*optimizer.lr",
    ),
    "wrong type": ({"epochs": "many"}, r"^epochs: .*'many'.*Integer"),
    "no value": ({"epochs": None}, r"^epochs: "),
    "negative seed": ({"seed": -1}, r"seed is -1: it must be from 0"),
    "no epochs": ({"epochs": 0}, r"epochs is 0: it must be 1 or more"),
    "no batch": ({"batch_size": 0}, r"batch_size is 0: it must be 1 or more"),
    "a name of two lines": ({"name": "a\nb"}, r"name is .*one line of text"),
    "no samples": ({"limit_train": 0}, r"limit_train is 0"),
    "no evaluation batch": ({"evaluation_batch_size": 0}, r"evaluation_batch_size is 0: it must be 1 or more"),
    "unknown data set": ({"dataset": {"name": "cifar11"}}, r"no data set 'cifar11'.*cifar10, cifar100, digits"),
    "misspelt key of a data set": ({"dataset": {"rot": "x"}}, r"unknown key 'dataset.rot'.*dataset.root"),
    "everything held out": ({"dataset": {"validation": 1}}, r"dataset.validation is 1.0: it must be a share"),
    "misspelt key of a logger": (
        {"logger": {"use": {"wandb": {"projct": "x"}}}},
        r"unknown key 'logger.use.wandb.projct'.*logger.use.wandb.project",
    ),
    "a loss never read": ({"logger": {"every_steps": 0}}, r"logger.every_steps is 0: it must be 1 or more"),
    "turns and parts": (
        {"runtime": {"accumulation": 2, "parts": 8}},
        r"runtime.accumulation is 2: it must be 1, since runtime.parts is 8",
    ),
    "no turn": ({"runtime": {"accumulation": 0}}, r"runtime.accumulation is 0: it must be 1 or more"),
    "no time": ({"runtime": {"max_minutes": 0}}, r"runtime.max_minutes is 0.0: it must be more than 0, or null"),
    "unknown device": ({"runtime": {"device": "tpu"}}, r"one of auto, cpu, cuda"),
    "unknown precision": ({"runtime": {"precision": "fp8"}}, r"one of fp32, tf32, bf16, fp16"),
    "unknown schedule": ({"schedule": {"name": "linear"}}, r"schedule.name is 'linear': .* step, cosine, plateau"),
    "a key of another schedule": (
        {"schedule": {"name": "cosine", "factor": 0.1}},
        r"unknown key 'schedule.factor': schedule=cosine has .*schedule.final_lr",
    ),
    "no schedule": ({"schedule": "cosine"}, r"schedule is 'cosine': it must be the keys of one of step, cosine"),
    "no drop": ({"schedule": {"factor": 0}}, r"schedule.factor is 0.0: it must be more than 0"),
    "no patience": ({"schedule": {"name": "plateau", "patience": -1}}, r"schedule.patience is -1"),
    "unknown optimizer": ({"optimizer": {"name": "lamb"}}, r"optimizer.name is 'lamb': .* sgd, adam, adamw"),
    "one beta": ({"optimizer": {"name": "adamw", "betas": [0.9]}}, r"two numbers in \[0, 1\)"),
    "who decays": ({"optimizer": {"name": "adamw", "decayed": "none"}}, r"one of all, matrices"),
    "negative rate": ({"optimizer": {"lr": -0.1}}, r"optimizer.lr is -0.1: it must be more than 0"),
    "rate not a number": ({"optimizer": {"lr": float("nan")}}, r"optimizer.lr is nan"),
    "Nesterov without momentum": ({"optimizer": {"nesterov": True, "momentum": 0}}, r"optimizer.nesterov"),
    "an average that never moves": (
        {"optimizer": {"ema_decay": 1}},
        r"ema_decay is 1.0: .* between 0 and 1, or null",
    ),
    "milestone as a share": ({"schedule": {"milestones": [0.5]}}, r"^schedule.milestones.*'0.5'.*Integer"),
    "milestone before the first epoch": ({"schedule": {"milestones": [0]}}, r"increasing numbers of epochs"),
    "milestones out of order": ({"schedule": {"milestones": [9, 5]}}, r"increasing"),
    "warm-up beyond the end": ({"epochs": 3, "schedule": {"warmup_epochs": 4}}, r"from 0 to epochs \(3\)"),
    "final rate above the first": ({"schedule": {"name": "cosine", "final_lr": 1}}, r"optimizer.lr \(0.1\)"),
    "unknown step": ({"augmentation": {"steps": ["cutmax"]}}, r"each of cutmix, cutout, dropblock, .* at most once"),
    "a step twice": ({"augmentation": {"steps": ["moex", "moex"]}}, r"at most once"),
    "one of one": ({"augmentation": {"steps": ["moex"], "one_of": ["moex"]}}, r"two or more"),
    "one of absent steps": ({"augmentation": {"steps": ["moex"], "one_of": ["moex", "mixup"]}}, r"one_of"),
    "alternatives beyond certainty": (
        {"augmentation": {"steps": ["mixup", "moex"], "one_of": ["mixup", "moex"]}},
        r"these sum to 1.5",
    ),
    "p above 1": ({"augmentation": {"moex": {"probability": 1.5}}}, r"probability is 1.5: it must be in \[0, 1\]"),
    "λ above 1": ({"augmentation": {"moex": {"weight": 2}}}, r"weight is 2.0: it must be in \[0, 1\]"),
    "two laws": ({"augmentation": {"mixup": {"weight": 0.5}}}, r"one of them a number and the other null"),
    "alpha of zero": ({"augmentation": {"mixup": {"alpha": 0}}}, r"alpha is 0.0: it must be more than 0"),
    "fixed weight per sample": ({"augmentation": {"moex": {"per_sample": True}}}, r"false with a fixed weight"),
    "no hole": ({"augmentation": {"cutout": {"size": 0}}}, r"cutout.size is 0"),
    "eps of zero": ({"augmentation": {"moex": {"eps": 0}}}, r"eps is 0"),
    "smoothing above 1": ({"augmentation": {"label_smoothing": {"epsilon": 2}}}, r"epsilon is 2"),
    "unknown statistic": ({"augmentation": {"moex": {"statistic": "median"}}}, r"moments, components, order"),
    "no components": ({"augmentation": {"moex": {"components": 0}}}, r"components is 0: it must be 1 or more"),
    "detached order": (
        {"augmentation": {"moex": {"statistic": "order", "detach": True}}},
        r"detach is True: it must be False where .*statistic is 'order'",
    ),
    "unknown use of moments": ({"moments": {"use": "none"}}, r"moments.use is 'none': .* all, only, removed"),
    "no point": ({"augmentation": {"manifold_mixup": {"points": []}}}, r"one or more different points"),
    "a point twice": ({"augmentation": {"feature_cutmix": {"points": ["stem", "stem"]}}}, r"different points"),
    "blocks of images": ({"augmentation": {"dropblock": {"points": ["images"]}}}, r"layers alone"),
    "everything dropped": ({"augmentation": {"dropblock": {"rate": 1}}}, r"rate is 1.0: it must be in \[0, 1\)"),
    "an even block": ({"augmentation": {"dropblock": {"block_size": 4}}}, r"block_size is 4: .* an odd number"),
    "dropblock among alternatives": (
        {"augmentation": {"steps": ["moex", "dropblock"], "one_of": ["moex", "dropblock"]}},
        r"one_of.*\(moex\)",
    ),
    "nobody to mix with": (
        {"batch_size": 1, "augmentation": {"steps": ["moex"]}},
        r"2 or more when samples are mixed",
    ),
    "no epoch to keep": (
        {"checkpoint": {"keep_every_epochs": 0}},
        r"keep_every_epochs is 0: .* more than 0, or null",
    ),
    "unknown test set": ({"test_sets": ["imagenet_b"]}, r"no data set 'imagenet_b': it must be one of"),
    "misspelt key of a test set": (
        {"test_sets": [{"name": "cifar10", "rot": "x"}]},
        r"unknown key 'test_sets.cifar10.rot': cifar10 has .*test_sets.cifar10.root",
    ),
    "wrong value of a test set": (
        {"test_sets": [{"name": "cifar10", "validation": 2}]},
        r"test_sets.cifar10,validation=2.0.validation is 2.0: it must be a share",
    ),
    "no test sets": ({"test_sets": "cifar10"}, r"test_sets is 'cifar10': it must be a list of data sets"),
    "a test set without a name": ({"test_sets": [{"root": "x"}]}, r"test_sets is {'root': 'x'}: it must be a list"),
    "a test set twice": ({"test_sets": ["cifar10", "cifar10"]}, r"test_sets is 'cifar10': it must be there once"),
    "a checkpoint every 0 steps": ({"checkpoint": {"every_steps": 0}}, r"more than 0, or null"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses_with_the_reason(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse(values)
    assert len(str(caught.value).splitlines()) == 1


def test_a_key_added_on_the_command_line_is_refused():
    composed = OmegaConf.create({"epochs": 3, "augmentation": {"moex": {"p": 1}}})
    with pytest.raises(ValueError, match=r"unknown key 'augmentation.moex.p'"):
        parse(composed)


def test_the_dictionary_of_a_configuration_parses_to_the_same():
    config = parse({"model": {"name": "pyramidnet110", "options": {"alpha": 48}}, "limit_train": 100})
    assert parse(dataclasses.asdict(config)) == config


def test_the_recipe_holds_what_differs_from_the_defaults():
    values = {"epochs": 3, "augmentation": {"steps": ["moex"]}, "model": {"options": {"alpha": 48}}}
    assert recipe(parse(values)) == {"epochs": 3, "augmentation.steps": ["moex"], "model.options.alpha": 48}


SAME_FOLDER = [
    {"name": "any text: to people alone"},
    {"evaluation_batch_size": 100},
    {"dataset": {"root": "elsewhere", "download": True, "cutout_size": 7}},
    {"runtime": {"device": "cpu", "devices": 2, "max_minutes": 3}},
    {"model": {"options": {"memory_saving": True}}},
    {"logger": {"use": {"tensorboard": {}}, "every_steps": 7}},
    {"checkpoint": {"every_steps": 5, "keep_every_epochs": 10}},
    {"test_sets": ["digits", {"name": "cifar10", "root": "elsewhere"}]},
    {"epochs": Config.epochs},
]
OTHER_FOLDER = [
    {"seed": 1},
    {"output_root": "elsewhere"},
    {"epochs": 7},
    {"limit_test": 10},
    {"dataset": {"name": "cifar100"}},
    {"dataset": {"validation": 0.1}},
    {"runtime": {"precision": "bf16"}},
    {"runtime": {"accumulation": 2}},
    {"runtime": {"parts": 2}},
    {"model": {"options": {"alpha": 48}}},
]


@pytest.mark.parametrize("values", SAME_FOLDER, ids=str)
def test_what_does_not_change_the_numbers_keeps_the_folder(values):
    assert run_folder(parse(values)) == run_folder(Config())


def test_what_changes_the_run_changes_the_folder():
    folders = {run_folder(parse(values)) for values in OTHER_FOLDER}
    assert len(folders | {run_folder(Config())}) == len(OTHER_FOLDER) + 1


def test_the_recipe_holds_what_a_part_says():
    """A part's `recipe()` is asked, wherever in the tree it lies; a part without one acts with all its fields."""
    config = parse({"optimizer": {"lr": 0.5, "momentum": 0.8}})
    assert recipe(config) == {"optimizer.lr": 0.5, "optimizer.momentum": 0.8}

    class LearningRateAlone(type(config.optimizer)):
        def recipe(self):
            return {"lr": self.lr}

    config.optimizer = LearningRateAlone(lr=0.5, momentum=0.8)
    assert recipe(config) == {"optimizer.lr": 0.5}


def test_where_and_how_images_lie_acts_on_no_run():
    """Of a data set's keys, those that no data set counts as acting; unknown ones may be of somebody else's."""
    for key in ("root", "download", "cutout_size", "workers", "listings", "format", "hub", "image_column"):
        assert not acts_on_training(f"dataset.{key}")
    for key in ("name", "target", "validation", "classes", "test_share", "noise"):
        assert acts_on_training(f"dataset.{key}")
    imagenet = parse({"dataset": {"name": "imagenet"}})
    others = {"format": "shards", "hub": None, "listings": "x", "workers": 7, "root": "elsewhere"}
    assert run_folder(parse({"dataset": {"name": "imagenet", **others}})) == run_folder(imagenet)
    some = parse({"dataset": {"name": "imagenet", "classes": "imagenet_a"}})
    assert recipe(some) == recipe(imagenet) | {"dataset.classes": "imagenet_a"}


def test_channels_come_last_unless_told_otherwise():
    """Runs of before, whose channels came first in fp32, keep their folders."""
    usual, first = parse({}), parse({"runtime": {"channels_last": False}})
    assert "runtime.channels_last" not in recipe(usual)
    assert recipe(first)["runtime.channels_last"] is False
    assert run_folder(usual) != run_folder(first)


def test_the_folder_is_readable_and_safe():
    config = parse({"seed": 3, "model": {"name": "timm:vit/../tiny"}, "augmentation": {"steps": ["cutmix", "moex"]}})
    root, recipe_folder, seed = run_folder(config).parts
    assert (root, seed) == ("outputs", "seed3")
    assert re.fullmatch(r"digits-timm_vit_.._tiny-cutmix\+moex-[0-9a-f]{8}", recipe_folder)
    assert config.name == recipe_folder[:-9], "a run without a name is called what it trains"


def test_known_keys_are_those_of_every_data_set_and_logger():
    keys = known_keys()
    assert {"dataset.root", "dataset.validation", "logger.use.wandb.project", "runtime", "epochs"} <= set(keys)


def test_a_test_set_is_as_the_training_set_where_it_is_not_told():
    """Of what was changed there; its label tells what it was told, and acts."""
    entries = ["cifar10", {"name": "cifar10", "validation": 0.2}, "cifar100", {"name": "digits", "root": "there"}]
    dataset = {"name": "cifar10", "root": "here", "validation": 0.1, "cutout_size": 7}
    config = parse({"dataset": dataset, "test_sets": entries})
    assert {label: dataset.root for label, dataset in config.test_sets.items()} == {
        "cifar10": "here",
        "cifar10,validation=0.2": "here",
        "cifar100": "data",
        "digits": "there",
    }
    assert [dataset.validation for dataset in config.test_sets.values()] == [None, 0.2, None, None]
    assert config.test_sets["cifar100"].cutout_size == 8
    assert parse(dataclasses.asdict(config)) == config


def test_a_test_set_of_somebody_else():
    config = parse({"test_sets": [{"target": "moex.data.digits.Digits"}]})
    assert list(config.test_sets) == [config.test_sets["moex.data.digits.Digits"].name]


def test_keys_in_use_are_those_of_what_is_chosen():
    tree = keys_in_use(parse({"augmentation": {"steps": ["moex"], "moex": {"statistic": "order"}}}))
    assert set(tree["augmentation"]) == {"steps", "one_of", "shared_permutation", "moex"}
    # Of which order statistics have no number.
    assert "components" not in tree["augmentation"]["moex"]
    assert tree["moments"] == {}
    assert "paper" not in tree
    assert tree["optimizer"]["lr"] == Config().optimizer.lr
    assert tree["output_root"] == "outputs"
    only = keys_in_use(parse({"moments": {"use": "only"}}))
    assert set(only["moments"]) == {"use", "layer", "norm"}
