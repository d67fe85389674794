"""Every command that the README and the docs show exists, with every option it is shown with."""

import re
from pathlib import Path

import pytest

from bnnkit.cli.errors import main

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
SHOWN = sorted(
    {
        (command, options)
        for page in PAGES
        for command, options in re.findall(
            r"bnnkit (prune|inspect|eval|bench|export|train|demo|gate|doctor)\b([^`\n]*)",
            page.read_text(encoding="utf-8"),
        )
    }
)


@pytest.mark.parametrize(("command", "options"), SHOWN)
def test_shown_options_exist(command, options, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in re.findall(r"--[a-z-]+", options):
        assert option in text, f"bnnkit {command} has no {option}"


def test_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
