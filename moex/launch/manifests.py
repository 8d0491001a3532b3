"""What the manifests in experiments/ tell Hydra."""

from pathlib import Path

from hydra.core.config_store import ConfigStore

from moex.reporting.manifests import paper_numbers, read_studies, read_tables


def store_manifests(manifests: Path, configs: Path) -> None:
    """Stores two groups: `study`, a sweep each, and `paper`, what is reported of an experiment, as its `paper` key.

    Args:
        manifests: the folder of the manifests.
        configs: the folder of the groups.

    Raises:
        ValueError: a manifest is not one, or names an experiment that does not exist.
    """
    experiments = {path.stem for path in (configs / "experiment").glob("*.yaml")}
    numbers = paper_numbers(read_tables(manifests, experiments=experiments))
    studies = read_studies(manifests)
    store = ConfigStore.instance()
    for experiment, reported in numbers.items():
        store.store(experiment, {"paper": reported}, group="paper", package="_global_")
    for name, study in studies.items():
        sweep = {
            "defaults": [f"/experiment/{study.experiment}"],
            "name": f"study_{name}",
            # What is reported is reported of the experiment, not of what is varied in it.
            "paper": [],
            "hydra": {"sweeper": {"params": study.sweep()}},
        }
        store.store(name, sweep, group="study", package="_global_")
