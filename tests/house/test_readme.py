"""The README stays true where a machine can tell: its links, its commands, its make targets."""

from __future__ import annotations

import re

import click
import pytest

from syncline.cli.main import group
from tests.support.house import ROOT

PAGES = ["README.md", "docs/CLI.md"]


def commands() -> list[str]:
    return group.list_commands(click.Context(group))


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text())
    assert targets
    assert not [target for target in targets if not (path.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    named = set(re.findall(r"(?:^|`|&& )syncline ([a-z]+)", (ROOT / page).read_text(), re.M))
    assert len(named) > 5
    assert named <= set(commands())


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page: str) -> None:
    known = {"--help"}
    context = click.Context(group)
    for name in commands():
        command = group.get_command(context, name)
        assert command is not None
        known |= {option for each in command.params for option in each.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / page).read_text()))
    assert named <= known


def test_every_command_has_a_line_in_the_reference() -> None:
    text = (ROOT / "docs" / "CLI.md").read_text()
    assert not [name for name in commands() if f"\nsyncline {name}" not in text]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)(?:`|$)", (ROOT / "README.md").read_text(), re.M))
    assert {"demo", "test"} <= named <= set(targets)
