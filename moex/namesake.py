"""The other `moex`: on PyPI, the distribution of that name is a client of the Moscow Exchange."""

import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

# In the summary of our distribution, which was once called `moex` itself.
OURS = "Moment Exchange"


def describe_namesake(package: Path, *, search_path: Sequence[str] | None = None) -> str | None:
    """Which `moex` was found, in a line, where another one is installed as well; None where it is not.

    Args:
        package: The folder of this package.
        search_path: Where distributions lie; by default where Python looks.
    """
    for other in distributions(name="moex", path=list(sys.path if search_path is None else search_path)):
        summary = str(other.metadata.json.get("summary", ""))
        if OURS in summary:
            continue
        theirs = Path(str(other.locate_file("moex")))
        found = f"two packages are called moex: this is {OURS} in {package}"
        title = f"{other.metadata['Name']} {other.version} ({summary})"
        if theirs.resolve() == package.resolve():
            return f"{found}, where it has replaced files of {title}: give each an environment of its own"
        return f"{found}, not {title} in {theirs}"
    return None
