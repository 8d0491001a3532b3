"""What the front door says works as it is written there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import torchvision
from hydra import compose, initialize_config_dir

from moex.config import parse

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = re.compile(r"python train\.py ([^\n`#]*=[^\n`#]*)")


def test_the_snippets_of_the_readme_run():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    names = {
        "model": model,
        "loader": [(torch.randn(4, 3, 64, 64), torch.randint(10, (4,))) for _ in range(2)],
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    before = model.fc.weight.detach().clone()
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(block, names)
    assert torch.isfinite(names["loss"])
    assert not torch.equal(model.fc.weight, before)


COMMANDS = sorted(
    {
        match.strip()
        for page in PAGES
        if page.name != "extending.md"  # test_extending.py runs its commands.
        for match in COMMAND.findall(page.read_text())
        if "NAME" not in match and "--shell-completion" not in match
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_compose(command):
    overrides = [argument for argument in shlex.split(command) if "=" in argument]
    first = [override.split(",")[0] for override in overrides]
    with initialize_config_dir(str(REPOSITORY / "configs"), version_base="1.3"):
        parse(compose("train", overrides=first))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE) if anchor else []
            assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, target
