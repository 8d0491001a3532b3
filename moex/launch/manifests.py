"""Hydra's groups that are made of manifests, each when a configuration asks for it: to read all takes seconds."""

from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from moex.config.composition import offer
from moex.reporting.manifests import Table, paper_numbers, read_study, read_table, table_files

STUDY, PAPER = "study", "paper"


class ManifestSource(ConfigSource):
    """Two groups: `study`, a sweep each, and `paper`, what is reported of an experiment, by the experiment's name."""

    @staticmethod
    def scheme() -> str:
        """The first part of the place of such a source; the rest is the folder of the manifests."""
        return "manifests"

    def load_config(self, config_path: str) -> ConfigResult:
        """See `ConfigSource`; a manifest that is not one is a `HydraException`."""
        group, name = _parts(config_path)
        folder = Path(self.path)
        try:
            node = study_sweep(folder, name) if group == STUDY else {"paper": reported(folder, name)}
        except ValueError as error:
            raise HydraException(str(error)) from None
        return ConfigResult(self.provider, self.full_path(), OmegaConf.create(node), {"package": "_global_"})

    def available(self) -> bool:
        """See `ConfigSource`."""
        return True

    def is_group(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        return config_path.rstrip("/") in ("", STUDY, PAPER)

    def is_config(self, config_path: str) -> bool:
        """See `ConfigSource`."""
        group, name = _parts(config_path)
        if group == STUDY:
            return Path(self.path, STUDY, f"{name}.yaml").is_file()
        return group == PAPER and any(name in path.read_text() for path in table_files(Path(self.path)))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """See `ConfigSource`; what is reported is no choice of anybody's, and not listed."""
        if not config_path:
            return [] if results_filter == ObjectType.CONFIG else [PAPER, STUDY]
        if config_path != STUDY or results_filter == ObjectType.GROUP:
            return []
        return sorted(path.stem for path in Path(self.path, STUDY).glob("*.yaml"))


@cache
def offer_manifests(folder: Path) -> None:
    """From here on, what Hydra composes in this process may choose from the groups of a folder of manifests."""
    offer(ManifestSource, str(folder.resolve()))


def study_sweep(folder: Path, name: str) -> dict[str, Any]:
    """What a study adds to a run's configuration: its experiment, and what is swept.

    Raises:
        ValueError: its manifest is not one.
    """
    study = read_study(folder, name)
    return {
        "defaults": [f"/experiment/{study.experiment}"],
        "name": f"study_{name}",
        # What is reported is reported of the experiment, not of what is varied in it.
        "paper": [],
        "hydra": {"sweeper": {"params": study.sweep()}},
    }


@cache
def reported(folder: Path, experiment: str) -> list[dict[str, Any]]:
    """What the tables of a folder report of an experiment; see `moex.reporting.manifests.paper_numbers`.

    Raises:
        ValueError: one of those that name it is not a manifest.
    """
    tables = {path.stem: _table(path) for path in table_files(folder) if experiment in path.read_text()}
    return paper_numbers(tables).get(experiment, [])


@cache
def _table(path: Path) -> Table:
    """Read once, since the jobs of a sweep are often of one table."""
    return read_table(path)


def _parts(config_path: str) -> tuple[str, str]:
    group, _, name = config_path.removesuffix(".yaml").partition("/")
    return group, name
