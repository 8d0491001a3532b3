"""Every file of configs/ composes and is valid, and the experiments train as the published recipes say."""

import math
from dataclasses import asdict, replace

import pytest
from composition import CONFIGS, EXPERIMENTS, command_of, compose_raw, composed
from omegaconf import OmegaConf

from moex import data
from moex.config import identify_weights, known_keys
from moex.optim import OPTIMIZERS, SCHEDULES
from moex.reporting.manifests import paper_numbers, read_tables
from moex.run.checks import check_network

ABSENT = object()
TABLES = read_tables(CONFIGS.with_name("experiments"), experiments=EXPERIMENTS)
PAPER = paper_numbers(TABLES)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment(name):
    command = command_of(name)
    config = composed(*command)
    # Those that mix more attach at the same points, and train with a shallow network of the family in test_cells.py.
    if name.startswith("digits") or config.augmentation.steps == ["moex"]:
        check_network(config)
    assert config.name == name
    # On any machine: on one device, or in the same parts on any devices.
    devices, parts = config.runtime.devices, config.runtime.parts
    assert config.runtime.accumulation == 1
    assert (devices, parts) == (1, None) or (devices is None and config.batch_size % parts == 0)
    assert config.optimizer.ema_decay is None
    assert config.paper == PAPER.get(name, [])
    assert command[0] == f"+experiment={name}"


def test_every_experiment_is_in_a_table():
    shown = {cell.experiment for name, table in TABLES.items() if "/" not in name for cell in table.cells()}
    assert shown - {None} == set(EXPERIMENTS)


CHANGED = {
    f"{name}, {row.name}, {column}": (cell.experiment, table.overrides | cell.overrides)
    for name, table in TABLES.items()
    if "/" not in name
    for row in table.rows
    for column, cell in row.cells.items()
    if cell.experiment and (table.overrides or cell.overrides)
}


@pytest.mark.parametrize(("experiment", "overrides"), CHANGED.values(), ids=CHANGED)
def test_every_cell_that_changes_its_experiment(experiment, overrides):
    check_network(composed(f"+experiment={experiment}", *(f"{key}={value}" for key, value in overrides.items())))


GROUPS = [
    f"{folder.name}={path.stem}"
    for folder in sorted(CONFIGS.iterdir())
    if folder.is_dir() and folder.name not in ("experiment", "recipe")
    for path in sorted(folder.glob("*.yaml"))
]


# Data sets whose classes only their files tell.
CLASSES_FROM_FILES = ("image_folder", "imagenet_o", "objectnet")
# Of clouds, and of images, which the default's network, or data set, are not for: each needs the other.
CLOUDS = {"dataset=modelnet10": "model=pointnet2", "dataset=modelnet40": "model=pointnet2"}
CLOUDS |= {"model=pointnet2": "dataset=modelnet10"}


@pytest.mark.parametrize("override", GROUPS)
def test_every_choice_of_every_group(override):
    # Without moments there is nothing to exchange, which the default's MoEx would be told.
    needed = CLOUDS | {"moments=removed": "augmentation=none"}
    config = composed(override, *([needed[override]] if override in needed else []))
    # Libraries' networks are not for the default's small images.
    if config.dataset.name in CLASSES_FROM_FILES:
        return
    if ":" not in config.model.name and not override.startswith(("model=pyramidnet", "runtime=gpu")):
        check_network(config)


def test_the_defaults_name_every_key_that_they_may():
    """Each key can be overridden without a plus, whichever choices are made, but for those of a part not chosen."""
    everything = compose_raw("augmentation=none")
    # The settings of a logger come with it.
    for key in known_keys():
        if not key.startswith(("optimizer.", "schedule.", "logger.use.", "dataset.")):
            assert OmegaConf.select(everything, key, throw_on_missing=True, default=ABSENT) is not ABSENT, key


CHOSEN = ("optimizer=", "schedule=", "dataset=")


@pytest.mark.parametrize("override", [choice for choice in GROUPS if choice.startswith(CHOSEN)])
def test_a_choice_names_every_key_of_its_part(override):
    group, _ = override.split("=")
    part = compose_raw(override)[group]
    kind = (
        data.find(part.name)
        if group == "dataset"
        else {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}[group][part.name]
    )
    assert part.keys() == asdict(kind()).keys()


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


def table_rows(text):
    titles, *rows = ([cell.strip() for cell in line.split("|")] for line in text.strip().splitlines())
    return [dict(zip(titles, row, strict=True)) for row in rows]


def recipes():
    return {row["network"]: row for row in table_rows(RECIPES)}


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


# Published: the code's commands, and of its baselines what the CutMix repository says; the settings of Mixup, Cutout
# and Manifold Mixup are assumed.
IMAGENET = """
cell                         | network                     | batch | lr  | steps          | CutMix | MoEx p | λ
resnet50_baseline            | torchvision:resnet50        | 1792  | 0.7 |                |        |        |
resnet50_mixup               | torchvision:resnet50        | 1792  | 0.7 | mixup          |        |        |
resnet50_cutout              | torchvision:resnet50        | 1792  | 0.7 | cutout         |        |        |
resnet50_manifold_mixup      | torchvision:resnet50        | 1792  | 0.7 | manifold_mixup |        |        |
resnet50_cutmix              | torchvision:resnet50        | 1792  | 0.7 | cutmix         | 1      |        |
resnet50_moex                | torchvision:resnet50        | 1792  | 0.7 | moex           |        | 1      | 0.9
resnet50_cutmix_moex         | torchvision:resnet50        | 1792  | 0.7 | cutmix moex    | 1      | 0.25   | 0.9
resnext50_32x4d_baseline     | torchvision:resnext50_32x4d | 1792  | 0.7 |                |        |        |
resnext50_32x4d_moex         | torchvision:resnext50_32x4d | 1792  | 0.7 | moex           |        | 1      | 0.9
densenet265_baseline         | torchvision:densenet265     | 512   | 0.2 |                |        |        |
densenet265_moex             | torchvision:densenet265     | 512   | 0.2 | moex           |        | 1      | 0.9
"""


@pytest.mark.parametrize("row", table_rows(IMAGENET), ids=lambda row: row["cell"])
@pytest.mark.parametrize("epochs", [300, 90])
def test_the_recipes_of_imagenet(row, epochs):
    network = row["cell"].rpartition("_baseline")[0] or row["cell"].split("_m")[0].split("_cut")[0]
    shorter = [f"recipe=imagenet_{network}_90"] if epochs == 90 else []
    config = composed(f"+experiment=imagenet_{row['cell']}", *shorter)
    assert (config.dataset.name, config.dataset.shape) == ("imagenet", (3, 224, 224))
    assert (config.model.name, config.model.options, config.model.weights) == (row["network"], {}, None)
    assert (config.epochs, config.batch_size) == (epochs, int(row["batch"]))
    optimizer, schedule, mixing = config.optimizer, config.schedule, config.augmentation
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, False)
    assert (optimizer.lr, optimizer.weight_decay) == (float(row["lr"]), 1e-4)
    assert optimizer.lr == pytest.approx(0.1 * config.batch_size / 256)
    assert (schedule.name, schedule.warmup_epochs, schedule.final_lr) == ("cosine", 5, 1e-9)
    assert (config.runtime.parts, config.runtime.precision, config.runtime.sync_batchnorm) == (8, "fp16", False)
    assert mixing.steps == row["steps"].split()
    assert mixing.shared_permutation == (row["steps"] == "cutmix moex")
    if row["CutMix"]:
        assert (mixing.cutmix.probability, mixing.cutmix.alpha) == (float(row["CutMix"]), 1)
    if row["MoEx p"]:
        moex = mixing.moex
        assert (moex.probability, moex.weight, moex.norm) == (float(row["MoEx p"]), float(row["λ"]), "pono")
        assert moex.layer == "stem"
    if "cutout" in mixing.steps:
        assert mixing.cutout.size == 112


@pytest.mark.parametrize(("epochs", "drops"), [(300, [100, 200, 266]), (90, [30, 60, 80])])
def test_the_published_step_schedules_of_imagenet(epochs, drops):
    """The script's factor: a third of the epochs each, and once more at eight ninths."""
    schedule = composed(f"schedule=step_{'_'.join(map(str, drops))}", f"epochs={epochs}").schedule
    for epoch in range(5, epochs):
        factor = epoch // (epochs // 3) + (epoch >= epochs * 8 // 9)
        options = {"epoch": epoch, "step": 0, "steps_per_epoch": 7, "epochs": epochs, "history": []}
        assert schedule.learning_rate(0.7, **options) == pytest.approx(0.7 * 0.1**factor)


def test_the_published_cosine_schedule_of_imagenet():
    schedule = composed("+experiment=imagenet_resnet50_moex").schedule
    length = 715
    for epoch, step in ((0, 0), (0, 5), (4, 714), (5, 0), (5, 1), (150, 300), (299, 714)):
        if epoch < 5:
            expected = 0.7 * (step + 1 + epoch * length) / (5 * length)
        else:
            done, whole = (epoch - 5) * length + step, (300 - 5) * length
            expected = 1e-9 + (0.7 - 1e-9) * 0.5 * (1 + math.cos(done * math.pi / whole))
        options = {"epoch": epoch, "step": step, "steps_per_epoch": length, "epochs": 300, "history": []}
        assert schedule.learning_rate(0.7, **options) == pytest.approx(expected, rel=1e-9)


# Of the public baseline, but for ResNet-8's, which is ours.
SPEECH = """
network         | model          | options        | epochs | batch | lr   | weight decay | schedule
wrn28_10        | wrn28          | width, dropout | 70     | 96    | 0.01 | 1e-2         | plateau
densenet_bc_100 | densenet_bc100 | growth_rate    | 70     | 64    | 0.01 | 1e-2         | plateau
vgg11_bn        | vgg11          |                | 70     | 96    | 0.01 | 1e-2         | plateau
resnet8         | resnet8        |                | 20     | 64    | 0.1  | 1e-3         | cosine
"""
METHODS = {"baseline": [], "moex": ["moex"], "mixup": ["mixup"], "cutmix": ["cutmix"]}


@pytest.mark.parametrize("row", table_rows(SPEECH), ids=lambda row: row["network"])
def test_the_recipes_of_speech(row):
    methods = METHODS | ({"cutmix_moex": ["cutmix", "moex"]} if row["network"] == "resnet8" else {})
    cells = {method: composed(f"+experiment=speech_{row['network']}_{method}") for method in methods}
    baseline, moex = cells["baseline"], cells["moex"].augmentation.moex
    assert (baseline.dataset.name, baseline.dataset.num_classes) == ("speech_commands", 12)
    assert (baseline.dataset.shape, baseline.dataset.validation) == ((1, 32, 32), None)
    assert baseline.dataset.silence == ("noise" if row["network"] == "resnet8" else "zeros")
    assert (baseline.model.name, ", ".join(baseline.model.options)) == (row["model"], row["options"])
    assert baseline.model.options.get("dropout", 0.0) == 0.0
    assert (baseline.epochs, baseline.batch_size) == (int(row["epochs"]), int(row["batch"]))
    optimizer, schedule = baseline.optimizer, baseline.schedule
    assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, False)
    assert (optimizer.lr, optimizer.weight_decay) == (float(row["lr"]), float(row["weight decay"]))
    assert schedule.name == row["schedule"]
    if schedule.name == "plateau":
        assert (schedule.factor, schedule.patience, schedule.threshold) == (0.1, 5, 1e-4)
    for method, config in cells.items():
        assert config.augmentation.steps == methods[method]
        assert train_alike(config, baseline)
    assert (moex.probability, moex.weight, moex.layer, moex.norm) == (0.5, 0.9, "stem", "pono")


@pytest.mark.parametrize("classes", [10, 40])
def test_the_recipes_of_modelnet(classes):
    """The published script, whose README says what MoEx's options are; the rate never changes."""
    baseline, moex = (composed(f"+experiment=modelnet{classes}_pointnet2_{how}") for how in ("baseline", "moex"))
    dataset, optimizer, step = baseline.dataset, baseline.optimizer, moex.augmentation.moex
    assert (dataset.name, dataset.num_classes, dataset.shape) == (f"modelnet{classes}", classes, (1024, 3))
    assert (dataset.scale, dataset.validation) == ("cube", None)
    assert (baseline.model.name, baseline.model.options) == ("pointnet2", {})
    assert (baseline.epochs, baseline.batch_size) == (200, 32)
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adam", 1e-3, 0)
    assert (optimizer.betas, optimizer.eps) == ([0.9, 0.999], 1e-8)
    options = {"step": 0, "steps_per_epoch": 7, "epochs": 200, "history": []}
    assert {baseline.schedule.learning_rate(1e-3, epoch=epoch, **options) for epoch in range(200)} == {1e-3}
    assert (baseline.augmentation.steps, moex.augmentation.steps) == ([], ["moex"])
    assert (step.probability, step.weight, step.alpha) == (0.5, 0.9, None)
    assert (step.layer, step.norm, step.eps, step.positive_only) == ("stem", "in", 1e-5, False)
    assert train_alike(moex, baseline)


def test_the_recipes_of_stylized_imagenet():
    """Geirhos et al. 2019, by the README of their repository."""
    joint = composed("+experiment=imagenet_resnet50_stylized")
    finetuned = composed(*command_of("imagenet_resnet50_stylized_finetuned"))
    assert (joint.dataset.name, finetuned.dataset.name) == ("stylized_imagenet", "imagenet")
    assert (joint.epochs, joint.optimizer.lr, joint.schedule.milestones) == (45, 0.1, [15, 30])
    assert (finetuned.epochs, finetuned.optimizer.lr, finetuned.schedule.milestones) == (60, 0.01, [30])
    assert joint.model.weights == "torchvision:resnet50:IMAGENET1K_V1"
    for config in (joint, finetuned):
        optimizer = config.optimizer
        assert (config.batch_size, optimizer.momentum, optimizer.weight_decay) == (256, 0.9, 1e-4)
        assert (optimizer.nesterov, config.schedule.factor) == (False, 0.1)
    with pytest.raises(ValueError, match=r"^model.weights is 'WEIGHTS': there is no such file$"):
        identify_weights(composed("+experiment=imagenet_resnet50_stylized_finetuned"))
