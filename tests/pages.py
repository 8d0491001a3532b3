"""The code of the documentation's pages, as it stands there."""

import re

from program import REPOSITORY


def blocks(page, section, language):
    """The fenced blocks of a language in a section of second order, or third, of a page in docs/."""
    text = (REPOSITORY / "docs" / page).read_text()
    (start,) = re.finditer(rf"^(#+) {re.escape(section)}$", text, flags=re.MULTILINE)
    rest = text[start.end() :]
    following = re.search(rf"^#{{2,{len(start[1])}}} ", rest, flags=re.MULTILINE)
    return re.findall(rf"```{language}\n(.*?)```", rest[: following.start() if following else None], flags=re.DOTALL)
