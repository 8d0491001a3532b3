"""What tests of tables and pages write as the outcome of a run, besides what it came to."""


def outcome(figures, *, seed, **own):
    """A `result.json` of these figures, after the last epoch and the best."""
    return {
        "seed": seed,
        "last": figures,
        "best": figures,
        "images_per_second": 1234.5,
        "seconds": 90.0,
        "device": "A Processor",
        "threads": 2,
        "precision": "fp32",
        "versions": {"torch": "2.14.1"},
        "commit": "0123456789abcdef",
        "dirty": False,
        "command": f"python train.py seed={seed}",
        "end": "2026-11-24T05:30:00+00:00",
    } | own
