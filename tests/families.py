"""One network of each family, a run in which all happens to it that may, and runs in float64."""

FAMILIES = {
    "resnet": {"model": {"name": "resnet8"}},
    "pyramidnet": {"model": {"name": "pyramidnet11", "options": {"alpha": 12}}},
    "shakedrop": {"model": {"name": "pyramidnet11", "options": {"alpha": 12, "shake_drop": 0.9}}},
    "stochastic depth": {"model": {"name": "pyramidnet11", "options": {"alpha": 12, "stochastic_depth": 0.9}}},
    "wide resnet": {"model": {"name": "wrn10", "options": {"width": 1, "dropout": 0.3}}},
    "densenet": {"model": {"name": "densenet_bc10", "options": {"memory_saving": True}}},
    "resnext": {"model": {"name": "resnext11", "options": {"cardinality": 2, "base_width": 4}}},
    "vgg": {"model": {"name": "vgg11"}},
    "preactivation resnet": {"model": {"name": "preact_resnet18"}},
    "timm": {"model": {"name": "timm:resnet10t"}, "augmentation": {"moex": {"layer": "layer1"}}},
    "vision transformer": {
        "model": {
            "name": "timm:vit_tiny_patch16_224",
            "options": {"img_size": 8, "patch_size": 4, "depth": 2, "drop_rate": 0.1},
        },
        "augmentation": {"moex": {"channel_dim": -1}},
    },
}


def everything_for(family, *, leave_out=()):
    """The configuration of a few steps in which every kind of augmentation happens, but for some."""
    values = dict(FAMILIES[family])
    layer = values.get("augmentation", {}).get("moex", {})
    # Tokens have no rows and columns to cut.
    inside = [] if family == "vision transformer" else ["feature_cutmix", "dropblock"]
    steps = ["cutout", "cutmix", "moex", "manifold_mixup", *inside, "label_smoothing"]
    values["augmentation"] = {
        "steps": [step for step in steps if step not in leave_out],
        "shared_permutation": True,
        "manifold_mixup": {"points": ["images", "stage1"]},
        "feature_cutmix": {"probability": 1.0, "points": ["stage1"]},
        "dropblock": {"rate": 0.1, "block_size": 3, "points": ["stage2"]},
        "cutout": {"size": 2},
        "moex": layer | {"probability": 1.0},
    }
    values["optimizer"] = {"lr": 0.02}
    return values


def double(run):
    """The run in float64, images included: two right programs then differ by 1e-15, and a wrong one does not."""
    run.state.model.double()
    for state in run.state.optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].double()
    batches = run.training.source.batches
    run.training.source.batches = lambda requests: ((images.double(), labels) for images, labels in batches(requests))
    return run
