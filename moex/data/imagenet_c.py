"""ImageNet-C: ImageNet's 50,000 validation images under 15 corruptions, each at 5 severities, and under 4 more.

Source: Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*,
ICLR 2019. AlexNet's errors are the published ones, means over the severities, in the six digits in which AugMix's
code (Hendrycks, Mu et al., ICLR 2020) and others hold them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moex.data.dataset import Samples
from moex.data.images.test_set import EncodedTestSet
from moex.data.naming import first
from moex.metrics import Scores, mean_corruption_error

# The corruptions, and AlexNet's error on each.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = range(1, 6)


@dataclass
class ImageNetC(EncodedTestSet):
    """Parts such as `gaussian_noise-3`. The images are crops of 224 already, and are not resized.

    Attributes:
        extra: whether the 4 corruptions that are meant for validation are scored too; they are in no mean.
    """

    name: str = "imagenet_c"
    resize: int = 224
    extra: bool = False

    archive = "imagenet-c"
    home = "https://zenodo.org/record/2235448"

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Those that are scored."""
        return (*ALEXNET, *(EXTRA if self.extra else ()))

    def read_test(self, *, seed: int) -> dict[str, Samples]:
        """See `DataSet`; corruptions lie in the archive's folder, or in groups there, such as `blur`."""
        grouped = {path.name: path for path in [*self.folder.glob("*/*"), *self.folder.glob("*")] if path.is_dir()}
        folders: dict[str, Path] = {
            f"{corruption}-{severity}": grouped.get(corruption, self.folder / corruption) / str(severity)
            for corruption in self.corruptions
            for severity in SEVERITIES
        }
        missing = [part for part, folder in folders.items() if not folder.is_dir()]
        if missing:
            raise ValueError(
                f"{self.folder} lacks {len(missing)} of {len(folders)} corruptions and severities: {first(missing)}; "
                f"they are from {self.home}"
            )
        return {part: self.read_folder(folder, self.own_classes) for part, folder in folders.items()}

    def summarise(self, scores: Mapping[str, Scores]) -> dict[str, float]:
        """The mean corruption error, in units of AlexNet's errors, the mean error, and that of each corruption."""
        errors = {corruption: _mean_error(scores, corruption) for corruption in self.corruptions}
        return {
            "mean_corruption_error": mean_corruption_error(errors, ALEXNET),
            "error": sum(errors[corruption] for corruption in ALEXNET) / len(ALEXNET),
            **{f"error_{corruption}": error for corruption, error in errors.items()},
        }


def _mean_error(scores: Mapping[str, Scores], corruption: str) -> float:
    wrong = [1 - scores[f"{corruption}-{severity}"].correct.double().mean().item() for severity in SEVERITIES]
    return sum(wrong) / len(wrong)
