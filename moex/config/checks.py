"""What a configuration's values may be together; alone, the parts check theirs themselves."""

from moex.config.schema import Config
from moex.settings import check_numbers, check_settings, require

# Bytes of a run's name, which names a folder where runs are recorded.
LONGEST_NAME = 200


def check(config: Config) -> None:
    """Looks for values out of their range and impossible combinations.

    Raises:
        ValueError: the first one, with its key, its value and what would be right.
    """
    check_numbers(config)
    check_settings(config)
    fits = len(config.name.splitlines()) <= 1 and len(config.name.encode()) <= LONGEST_NAME
    require(fits, "name", config.name, f"one line of text, of {LONGEST_NAME} bytes at most")
    require(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")
    for key in ("epochs", "batch_size", "evaluation_batch_size", "limit_train", "limit_test"):
        value = getattr(config, key)
        require(value is None or value >= 1, key, value, "1 or more")
    config.schedule.check_run("schedule", lr=config.optimizer.lr, epochs=config.epochs)
    enough = config.batch_size > 1 or not config.augmentation.mixes_samples()
    require(enough, "batch_size", config.batch_size, "2 or more when samples are mixed with each other")


def check_shares(config: Config, *, world_size: int) -> None:
    """Refuses a batch that so many devices, and their turns, cannot share evenly.

    Raises:
        ValueError: with the nearest sizes that work.
    """
    turns = config.runtime.turns(world_size)
    parts = world_size * turns
    below = config.batch_size - config.batch_size % parts
    if below != config.batch_size:
        taken = f" × {turns} turns (runtime.accumulation)" if turns > 1 else ""
        raise ValueError(
            f"batch_size is {config.batch_size}, the batch of all devices together: on {world_size} "
            f"device{'s' if world_size > 1 else ''}{taken} it must be a multiple of {parts}, "
            f"such as {f'{below} or ' if below else ''}{below + parts}"
        )
