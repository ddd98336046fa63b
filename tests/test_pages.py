"""Every command that a page tells a hospital to run is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from fedkit_client.cli import app as client
from fedkit_server.cli import app as server

from fedkit.cli.main import app

ROOT = Path(__file__).resolve().parents[1]
WHOLE = [ROOT / "docs" / name for name in ("for-data-protection-officers.md", "for-it.md")]
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")


def commands(text: str) -> list[str]:
    """What stands in code and begins with fedkit: lines of a block, and spans, which may go over a line's end."""
    fenced = [line.removeprefix("$ ") for block in FENCE.findall(text) for line in block.splitlines()]
    spans = [" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text))]
    return [line for line in (*fenced, *spans) if line.startswith("fedkit ")]


def parse(line: str) -> None:
    """Take a command line as far as its function, which is not called.

    Raises:
        click.ClickException: no such command, option or argument, or a missing one.
    """
    words = shlex.split(line)[1:]
    halves = {"client": client, "server": server}
    root: Any = typer.main.get_command(halves.get(words[0], app))
    words = words[1:] if words[0] in halves else words
    context = click.Context(root, info_name="fedkit")
    while words and isinstance(root, click.Group):
        name, root, words = root.resolve_command(context, words)
        context = click.Context(root, info_name=name, parent=context)
    # A command that is only named has no arguments.
    if words:
        root.make_context(context.info_name, words, parent=context.parent)


@pytest.mark.slow
@pytest.mark.parametrize("page", WHOLE, ids=lambda page: page.name)
def test_every_command_of_a_page_parses(page):
    found = commands(page.read_text(encoding="utf-8"))
    assert len(found) > 10
    problems = {}
    for line in found:
        try:
            parse(line)
        except click.ClickException as error:
            problems[line] = error.format_message()
    assert problems == {}


@pytest.mark.parametrize(
    "line",
    [
        "fedkit client paus site/site.yaml",
        "fedkit client pause site/site.yaml --because x",
        "fedkit client pause --reason x",
        "fedkit server preflight heart_disease --sites",
        "fedkit ledger show --ledgers x",
        "fedkit nothing",
    ],
)
def test_a_command_that_does_not_exist_would_be_found(line):
    with pytest.raises(click.ClickException):
        parse(line)


def test_commands_are_found_in_blocks_and_in_spans_that_go_over_a_line():
    block = "```console\n$ fedkit plan\nfedkit audit\nelse\n```"
    text = f"Run `fedkit client\nstatus x` or\n\n{block}\n`status` and `python -m x`"
    assert commands(text) == ["fedkit plan", "fedkit audit", "fedkit client status x"]


def test_the_readme_leads_hospitals_to_both_pages():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    hospitals = text[text.index("## For hospitals") : text.index("## For ML leads")]
    assert all(f"(docs/{page.name})" in hospitals for page in WHOLE)
