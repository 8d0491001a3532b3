"""Every file of configs/ composes and is valid, and the experiments train as the published recipes say."""

from dataclasses import asdict, replace

import pytest
from composition import CONFIGS, EXPERIMENTS, compose_raw, composed
from omegaconf import OmegaConf

from moex.config import known_keys
from moex.optim import OPTIMIZERS, SCHEDULES
from moex.reporting.manifests import paper_numbers, read_tables
from moex.run.build import check_network

ABSENT = object()
TABLES = read_tables(CONFIGS.with_name("experiments"), experiments=EXPERIMENTS)
PAPER = paper_numbers(TABLES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment(name):
    config = composed(f"+experiment={name}")
    check_network(config)
    assert config.name == name
    assert (config.runtime.devices, config.runtime.accumulation) == (1, 1)  # On any machine.
    assert config.optimizer.ema_decay is None
    assert config.paper == PAPER.get(name, [])
    lines = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[1] == f"# command: python train.py +experiment={name}"


def test_every_experiment_is_in_a_table():
    shown = {cell.experiment for name, table in TABLES.items() if "/" not in name for cell in table.cells()}
    assert shown == set(EXPERIMENTS)


GROUPS = [
    f"{folder.name}={path.stem}"
    for folder in sorted(CONFIGS.iterdir())
    if folder.is_dir() and folder.name not in ("experiment", "recipe")
    for path in sorted(folder.glob("*.yaml"))
]


@pytest.mark.parametrize("override", GROUPS)
def test_every_choice_of_every_group(override):
    # Without moments there is nothing to exchange, which the default's MoEx would be told.
    config = composed(override, *(["augmentation=none"] if override == "moments=removed" else []))
    # Libraries' networks are not for the default's small images.
    if ":" not in config.model.name and not override.startswith(("model=pyramidnet", "runtime=gpu")):
        check_network(config)


def test_the_defaults_name_every_key_that_they_may():
    """Each key can be overridden without a plus, whichever choices are made, but for those of a part not chosen."""
    everything = compose_raw("augmentation=none")
    # The settings of a logger come with it.
    for key in known_keys():
        if not key.startswith(("optimizer.", "schedule.", "logger.use.")):
            assert OmegaConf.select(everything, key, throw_on_missing=True, default=ABSENT) is not ABSENT, key


@pytest.mark.parametrize("override", [choice for choice in GROUPS if choice.startswith(("optimizer=", "schedule="))])
def test_a_choice_names_every_key_of_its_part(override):
    group, _ = override.split("=")
    part = compose_raw(override)[group]
    registry = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}[group]
    assert part.keys() == asdict(registry[part.name]()).keys()


def test_another_optimizer_and_schedule_than_the_recipes():
    for name in EXPERIMENTS:
        if name.endswith("_baseline"):
            config = composed(f"+experiment={name}", "optimizer=adamw", "schedule=cosine")
            assert (config.optimizer.name, config.schedule.name) == ("adamw", "cosine")


@pytest.mark.parametrize(("dataset", "size"), [("cifar10", 16), ("cifar100", 8), ("digits", 4)])
def test_cutout_has_the_published_size_of_each_data_set(dataset, size):
    assert composed(f"dataset={dataset}", "augmentation=cutout_moex").augmentation.cutout.size == size


NETWORKS = {
    "pyramidnet": ("pyramidnet200", {"alpha": 240, "bottleneck": True}),
    "resnet110": ("resnet110", {}),
    "resnext29_8x64d": ("resnext29", {"cardinality": 8, "base_width": 64}),
    "wrn28_10": ("wrn28", {"width": 10, "dropout": 0.3}),
    "densenet_bc_100": ("densenet_bc100", {"growth_rate": 12}),
    "densenet_bc_190": ("densenet_bc190", {"growth_rate": 40}),
}
# The published row is read from the published code, the others are assumed; configs/recipe/ says which.
RECIPES = """
network         | epochs | batch | lr   | drops        | factor | weight decay | Nesterov | p    | λ
pyramidnet      | 300    | 64    | 0.25 | 150, 225     | 0.1    | 1e-4         | yes      | 0.25 | 0.5
resnet110       | 164    | 128   | 0.1  | 81, 122      | 0.1    | 1e-4         | no       | 0.5  | 0.9
resnext29_8x64d | 300    | 128   | 0.1  | 150, 225     | 0.1    | 5e-4         | no       | 0.5  | 0.9
wrn28_10        | 200    | 128   | 0.1  | 60, 120, 160 | 0.2    | 5e-4         | no       | 0.5  | 0.9
densenet_bc_100 | 300    | 64    | 0.1  | 150, 225     | 0.1    | 1e-4         | no       | 0.5  | 0.9
densenet_bc_190 | 300    | 64    | 0.1  | 150, 225     | 0.1    | 1e-4         | no       | 0.5  | 0.9
"""


def recipes():
    titles, *rows = ([cell.strip() for cell in line.split("|")] for line in RECIPES.strip().splitlines())
    return {row[0]: dict(zip(titles, row, strict=True)) for row in rows}


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
@pytest.mark.parametrize("network", recipes())
def test_the_recipes_of_the_cifar_tables(network, dataset):
    row = recipes()[network]
    baseline, moex = (composed(f"+experiment={dataset}_{network}_{method}") for method in ("baseline", "moex"))
    assert baseline.dataset.name == dataset
    assert (baseline.model.name, baseline.model.options) == NETWORKS[network]
    assert (baseline.epochs, baseline.batch_size) == (int(row["epochs"]), int(row["batch"]))
    optimizer, schedule = baseline.optimizer, baseline.schedule
    assert (optimizer.name, optimizer.lr, optimizer.momentum) == ("sgd", float(row["lr"]), 0.9)
    assert optimizer.nesterov == (row["Nesterov"] == "yes")
    assert optimizer.weight_decay == float(row["weight decay"])
    assert (schedule.name, schedule.factor, schedule.warmup_epochs) == ("step", float(row["factor"]), 0)
    assert schedule.milestones == [int(drop) for drop in row["drops"].split(",")]
    assert baseline.augmentation.steps == []
    assert moex.augmentation.steps == ["moex"]
    step = moex.augmentation.moex
    assert (step.probability, step.weight, step.alpha) == (float(row["p"]), float(row["λ"]), None)
    assert (step.layer, step.norm, step.eps, step.positive_only) == ("stem", "pono", 1e-5, False)
    assert train_alike(moex, baseline)


def train_alike(config, baseline):
    """Whether two experiments differ in their networks and mixing lists alone."""
    own = {name: getattr(baseline, name) for name in ("name", "paper", "model", "augmentation")}
    return replace(config, **own) == baseline


# method: mixing list, what the network has besides the baseline's
REGULARIZERS = {
    "cutout": (["cutout"], {}),
    "mixup": (["mixup"], {}),
    "cutmix": (["cutmix"], {}),
    "cutmix_moex": (["cutmix", "moex"], {}),
    "manifold_mixup": (["manifold_mixup"], {}),
    "dropblock": (["dropblock"], {}),
    "dropblock_label_smoothing": (["dropblock", "label_smoothing"], {}),
    "cutout_mixup": (["cutout", "mixup"], {}),
    "cutout_label_smoothing": (["cutout", "label_smoothing"], {}),
    "shakedrop": ([], {"shake_drop": 0.5}),
    "shakedrop_cutmix": (["cutmix"], {"shake_drop": 0.5}),
    "shakedrop_cutmix_moex": (["cutmix", "moex"], {"shake_drop": 0.5}),
    "stochastic_depth": ([], {"stochastic_depth": 0.5}),
}
# step: probability, α, λ
LAWS = {"mixup": (1, 1, None), "manifold_mixup": (1, 1, None), "cutmix": (0.5, 1, None), "moex": (0.25, None, 0.5)}


@pytest.mark.parametrize("method", REGULARIZERS)
def test_regularizers_of_pyramidnet(method):
    """Where their papers and the published code say something else than the baseline's recipe, it is this."""
    steps, options = REGULARIZERS[method]
    config = composed(f"+experiment=cifar100_pyramidnet_{method}")
    baseline = composed("+experiment=cifar100_pyramidnet_baseline")
    assert train_alike(config, baseline)
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
    for step in set(steps) & set(LAWS):
        law = getattr(mixing, step)
        assert (law.probability, law.alpha, law.weight, law.per_sample) == (*LAWS[step], False)
    if "moex" in steps:
        assert mixing.moex == composed("+experiment=cifar100_pyramidnet_moex").augmentation.moex
