"""Every file of configs/ composes, is valid, and says what the published recipes say."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from moex import launch  # noqa: F401  (stores the schema that the configurations begin with)
from moex.config import known_keys, parse
from moex.optim import learning_rate
from moex.run.build import check_network

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
HEAD = ("command:", "paper:", "ours:", "hardware:", "time:", "recipe:")


def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return parse(compose("train", overrides=list(overrides)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment(name):
    config = composed(f"+experiment={name}")
    check_network(config)
    assert config.name == name
    assert (config.runtime.devices, config.runtime.accumulation) == (1, 1)  # On any machine.
    assert config.optimizer.ema_decay is None
    lines = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()
    head = [line.removeprefix("# ") for line in lines[1 : len(HEAD) + 1]]
    assert [line.split()[0] for line in head] == list(HEAD)
    assert f"python train.py +experiment={name}" in head[0]


GROUPS = [
    f"{folder.name}={path.stem}"
    for folder in sorted(CONFIGS.iterdir())
    if folder.is_dir() and folder.name != "experiment"
    for path in sorted(folder.glob("*.yaml"))
]


@pytest.mark.parametrize("override", GROUPS)
def test_every_choice_of_every_group(override):
    config = composed(override)
    if not override.startswith(("model=pyramidnet", "model=torchvision", "model=timm", "runtime=gpu")):
        check_network(config)


def test_the_defaults_name_every_key_that_they_may():
    """Each key can be overridden without a plus, whichever choices are made."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        everything = compose("train", overrides=["augmentation=none"])
    for key in known_keys():
        node = everything
        for part in key.split("."):
            node = node[part]


AUGMENTATIONS = {
    "none": [],
    "cutout": ["cutout"],
    "mixup": ["mixup"],
    "cutmix": ["cutmix"],
    "moex": ["moex"],
    "cutout_moex": ["cutout", "moex"],
    "mixup_moex": ["mixup", "moex"],
    "cutmix_moex": ["cutmix", "moex"],
    "cutmix_or_moex": ["cutmix", "moex"],
    "manifold_mixup": ["manifold_mixup"],
    "feature_cutmix": ["feature_cutmix"],
    "dropblock": ["dropblock"],
    "dropblock_label_smoothing": ["dropblock", "label_smoothing"],
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations(name):
    augmentation = composed(f"augmentation={name}").augmentation
    assert augmentation.steps == AUGMENTATIONS[name]
    assert augmentation.shared_permutation == (name == "cutmix_moex")
    assert augmentation.one_of == (["cutmix", "moex"] if name == "cutmix_or_moex" else [])


@pytest.mark.parametrize(("dataset", "size"), [("cifar10", 16), ("cifar100", 8), ("digits", 4)])
def test_cutout_has_the_published_size_of_each_data_set(dataset, size):
    assert composed(f"dataset={dataset}", "augmentation=cutout_moex").augmentation.cutout.size == size


NETWORKS = {
    "pyramidnet": ("pyramidnet200", {"alpha": 240, "bottleneck": True}),
    "resnet110": ("resnet110", {}),
    "resnext29_8x64d": ("resnext29", {"cardinality": 8, "base_width": 64}),
    "wrn28_10": ("wrn28", {"width": 10, "dropout": 0.3}),
    "densenet_bc_100": ("densenet_bc100", {"growth_rate": 12, "memory_saving": False}),
    "densenet_bc_190": ("densenet_bc190", {"growth_rate": 40, "memory_saving": False}),
}
# The table of recipes.md and the columns p and λ of its MoEx; DESIGN section 5 has the published row too.
RECIPES = """
network         | epochs | batch | lr   | drops        | factor | weight decay | Nesterov | p    | λ   | kind
pyramidnet      | 300    | 64    | 0.25 | 150, 225     | 0.1    | 1e-4         | yes      | 0.25 | 0.5 | published
resnet110       | 164    | 128   | 0.1  | 81, 122      | 0.1    | 1e-4         | no       | 0.5  | 0.9 | assumed
resnext29_8x64d | 300    | 128   | 0.1  | 150, 225     | 0.1    | 5e-4         | no       | 0.5  | 0.9 | assumed
wrn28_10        | 200    | 128   | 0.1  | 60, 120, 160 | 0.2    | 5e-4         | no       | 0.5  | 0.9 | assumed
densenet_bc_100 | 300    | 64    | 0.1  | 150, 225     | 0.1    | 1e-4         | no       | 0.5  | 0.9 | assumed
densenet_bc_190 | 300    | 64    | 0.1  | 150, 225     | 0.1    | 1e-4         | no       | 0.5  | 0.9 | assumed
"""


def recipes():
    titles, *rows = ([cell.strip() for cell in line.split("|")] for line in RECIPES.strip().splitlines())
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


def rate(config, epoch):
    return learning_rate(
        config.schedule, config.optimizer.lr, epoch=epoch, step=0, steps_per_epoch=100, epochs=config.epochs
    )


@pytest.mark.parametrize("method", ["baseline", "moex"])
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("network", recipes())
def test_the_recipes_of_the_cifar_tables(network, dataset, method):
    row, name = recipes()[network], f"{dataset}_{network}_{method}"
    config = composed(f"+experiment={name}")
    assert f"# recipe:   {row['kind']} (" in (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    assert config.dataset.name == dataset
    assert (config.model.name, config.model.options) == NETWORKS[network]
    assert (config.epochs, config.batch_size) == (int(row["epochs"]), int(row["batch"]))
    optimizer = config.optimizer
    assert optimizer.momentum == 0.9
    assert optimizer.nesterov == (row["Nesterov"] == "yes")
    assert optimizer.weight_decay == float(row["weight decay"])
    # The epochs on both sides of each drop, the first and the last.
    ends = [0, *(int(drop) for drop in row["drops"].split(",")), config.epochs]
    for drops, (start, end) in enumerate(pairwise(ends)):
        expected = float(row["lr"]) * float(row["factor"]) ** drops
        assert [rate(config, start), rate(config, end - 1)] == pytest.approx([expected, expected])
    if method == "baseline":
        assert config.augmentation.steps == []
    else:
        assert config.augmentation.steps == ["moex"]
        moex = config.augmentation.moex
        assert (moex.probability, moex.weight, moex.alpha) == (float(row["p"]), float(row["λ"]), None)
        assert (moex.layer, moex.norm, moex.eps, moex.positive_only) == ("stem", "pono", 1e-5, False)


# method: the paper's error as the head of the file shows it, mixing list, what the network has besides the baseline's
REGULARIZERS = {
    "cutout": ("16.53 % error (clovaai/CutMix-PyTorch)", ["cutout"], {}),
    "mixup": ("15.63 % error (clovaai/CutMix-PyTorch)", ["mixup"], {}),
    "cutmix": ("14.23 % error (clovaai/CutMix-PyTorch)", ["cutmix"], {}),
    "cutmix_moex": ("not reported", ["cutmix", "moex"], {}),
    "manifold_mixup": ("16.14 % error (clovaai/CutMix-PyTorch)", ["manifold_mixup"], {}),
    "dropblock": ("15.73 % error (clovaai/CutMix-PyTorch)", ["dropblock"], {}),
    "dropblock_label_smoothing": ("15.16 % error (clovaai/CutMix-PyTorch)", ["dropblock", "label_smoothing"], {}),
    "cutout_mixup": ("15.46 % error (clovaai/CutMix-PyTorch)", ["cutout", "mixup"], {}),
    "cutout_label_smoothing": ("15.61 % error (clovaai/CutMix-PyTorch)", ["cutout", "label_smoothing"], {}),
    "shakedrop": ("15.08 % error, top-5 2.72 % (table of regularisers, unconfirmed)", [], {"shake_drop": 0.5}),
    "shakedrop_cutmix": ("13.81 % error (clovaai/CutMix-PyTorch)", ["cutmix"], {"shake_drop": 0.5}),
    "shakedrop_cutmix_moex": (
        "13.47 % error, top-5 2.15 % (table of regularisers, unconfirmed)",
        ["cutmix", "moex"],
        {"shake_drop": 0.5},
    ),
    "stochastic_depth": (
        "15.86 % error, top-5 3.33 % (table of regularisers, unconfirmed)",
        [],
        {"stochastic_depth": 0.5},
    ),
}


@pytest.mark.parametrize("method", REGULARIZERS)
def test_regularizers_of_pyramidnet(method):
    """Numbers of recipes.md and of reported.yaml's table of regularisers; all else is the baseline's."""
    paper, steps, options = REGULARIZERS[method]
    name = f"cifar100_pyramidnet_{method}"
    assert paper in (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()[2]
    config, baseline = composed(f"+experiment={name}"), composed("+experiment=cifar100_pyramidnet_baseline")
    mixing = config.augmentation
    assert config.model.options == baseline.model.options | options
    assert mixing.steps == steps
    assert (mixing.one_of, mixing.shared_permutation) == ([], steps == ["cutmix", "moex"])
    if "cutout" in steps:
        assert (mixing.cutout.probability, mixing.cutout.size) == (1, 8)
    if "label_smoothing" in steps:
        assert mixing.label_smoothing.epsilon == 0.1
    if "dropblock" in steps:
        assert (mixing.dropblock.rate, mixing.dropblock.block_size) == (0.1, 7)
    if "manifold_mixup" in steps:
        assert mixing.manifold_mixup.points == ["images", "stage1", "stage2"]
    laws = {
        "mixup": (1, 1, None),
        "manifold_mixup": (1, 1, None),
        "cutmix": (0.5, 1, None),
        "moex": (0.25, None, 0.5),
    }
    for step in set(steps) & set(laws):
        law = getattr(mixing, step)
        assert (law.probability, law.alpha, law.weight, law.per_sample) == (*laws[step], False)
    if "moex" in steps:
        published = composed("+experiment=cifar100_pyramidnet_moex").augmentation
        assert mixing.moex == published.moex
    same = {"name": baseline.name, "model": baseline.model, "augmentation": baseline.augmentation}
    assert replace(config, **same) == baseline
