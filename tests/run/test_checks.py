"""What is refused before anything is created."""

import pytest

from moex.config import parse
from moex.run.checks import check_network

CLOUDS = {"dataset": {"name": "modelnet10"}, "model": {"name": "pointnet2"}}
REFUSED = {
    "unknown network": ({"model": {"name": "resnext"}}, r"no network 'resnext'.*resnetDEPTH"),
    "impossible depth": ({"model": {"name": "resnet21"}}, r"6n\+2, such as 20 or 26"),
    "unknown option": ({"model": {"options": {"width": 3}}}, r"has no option 'width'"),
    "unknown point": ({"augmentation": {"steps": ["moex"], "moex": {"layer": "stm"}}}, r"'stm'.*did you mean stem"),
    "unknown point of many": (
        {"augmentation": {"steps": ["manifold_mixup"], "manifold_mixup": {"points": ["images", "stage9"]}}},
        r"no layer 'stage9'.*did you mean stage",
    ),
    "tokens have no boxes": (
        {
            "model": {"name": "timm:vit_tiny_patch16_224", "options": {"img_size": 8, "patch_size": 4, "depth": 2}},
            "augmentation": {"steps": ["feature_cutmix"], "feature_cutmix": {"points": ["stage1"]}},
        },
        r"a box needs 'stage1' to be \[B, C, H, W\], not \[2, 5, 192\]: choose other layers",
    ),
    "clouds have no boxes": (
        {**CLOUDS, "augmentation": {"steps": ["cutmix"]}},
        r"augmentation.cutmix is for images \[C, H, W\], and these inputs are \[1024, 3\]: leave the step out",
    ),
    "clouds have no holes": ({**CLOUDS, "augmentation": {"steps": ["cutout"]}}, r"augmentation.cutout is for images"),
    "points have no order": (
        {**CLOUDS, "augmentation": {"steps": ["mixup"]}},
        r"augmentation.mixup cannot mix inputs of 'modelnet10': the points of a cloud have no order. Mix features",
    ),
    "a whole cloud has no moments": (
        {**CLOUDS, "augmentation": {"steps": ["moex"], "moex": {"layer": "stage2"}}},
        r"moments need features of 3 dimensions or more .* not \[2, 1024\]",
    ),
    "clouds are no images": ({"dataset": {"name": "modelnet10"}}, r"cannot take the 1024×3 inputs of 'modelnet10'"),
    "images are no clouds": (
        {"dataset": {"name": "cifar100"}, "model": {"name": "pointnet2"}},
        r"pointnet2 takes clouds \[B, N, 3\], not inputs \[2, 3, 32, 32\]",
    ),
    "unknown norm": ({"augmentation": {"steps": ["moex"], "moex": {"norm": "bn"}}}, r"bn"),
    "indivisible groups": ({"augmentation": {"steps": ["moex"], "moex": {"norm": "gn3"}}}, r"16"),
    "point without features": ({"augmentation": {"steps": ["moex"], "moex": {"layer": "fc"}}}, r"rank|dimension"),
    "images too small": ({"model": {"name": "timm:densenet121"}}, r"cannot take the 1×8×8 inputs of 'digits'"),
    "a transformer's size": (
        {"dataset": {"name": "cifar100"}, "model": {"name": "timm:vit_tiny_patch16_224"}},
        r"cannot take the 3×32×32 inputs of 'cifar100'",
    ),
    "two answers": (
        {
            "dataset": {"name": "cifar100"},
            "model": {"name": "torchvision:googlenet", "options": {"init_weights": False}},
        },
        r"returns GoogLeNetOutputs for two images: it must be logits \[2, 100\]",
    ),
    "features": (
        {"model": {"name": "timm:resnet18", "options": {"features_only": True}}},
        r"returns list for two images",
    ),
    "classes": ({"model": {"options": {"num_classes": 5}}}, r"model.options.num_classes cannot be set"),
    "a word for a number": (
        {"model": {"name": "pyramidnet110", "options": {"alpha": "x"}}},
        r"network 'pyramidnet110': alpha is 'x': it must be a number",
    ),
    "too many components": (
        {"augmentation": {"steps": ["moex"], "moex": {"statistic": "components", "components": 17}}},
        r"components is 17: it must be 1 to 16",
    ),
    "moments of no layer": ({"moments": {"use": "only", "layer": "stm"}}, r"'stm'.*did you mean stem"),
    "an exchange that changes nothing": (
        {
            "dataset": {"name": "cifar100"},
            "model": {"name": "timm:convnext_atto"},
            "augmentation": {"steps": ["moex"]},
        },
        r"after 'stem' changes the features by .* labels would be mixed all the same.* it acts after stage2",
    ),
    "a hole wider than the images": (
        {"augmentation": {"steps": ["cutout"], "cutout": {"size": 9}}},
        r"cutout.size is 9.*must be 1 to 8",
    ),
    "colours for torchvision": ({"model": {"name": "torchvision:resnet18"}}, r"3 channels, not 1"),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_on_the_meta_device(values, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_network(parse(values))
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("layer", ["stem", "stage1", "stage3", "stem.1"])
def test_accepted_points(layer):
    check_network(parse({"augmentation": {"steps": ["moex"], "moex": {"layer": layer}}}))
