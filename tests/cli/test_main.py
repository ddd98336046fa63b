"""How the entry point leaves: early interrupts, outputs that nobody reads, terminals without letters."""

import os
import subprocess
import sys
from importlib import import_module

import click
import pytest
import typer.main

from fedkit.cli import main as entry

FEDKIT = [sys.executable, "-m", "fedkit"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, None])
def test_an_early_interrupt_says_so(cli, monkeypatch, error):
    def compose(*_):
        if error:
            raise error
        entry._signalled.append(2)
        raise ImportError("half loaded")

    monkeypatch.setattr("fedkit.config.compose.compose", compose)
    status, out, err = cli("simulate", "heart_disease")
    assert (status, out, err) == (130, "", "fedkit: interrupted before anything was run\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux only")
@pytest.mark.parametrize("words", [["config", "list", "--json"], ["nope", "--json"]])
def test_a_full_output_is_one_message(words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*FEDKIT, *words], stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (1, "fedkit: the output cannot be written: No space left on device\n")


def test_a_closed_pipe_is_one_message():
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*FEDKIT, "config", "list"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "fedkit: the output cannot be written: Broken pipe\n")


def test_a_terminal_without_a_letter_gets_a_question_mark():
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    script = "import sys; from fedkit.cli import main as m; m._tolerate_narrow_encodings(); sys.stdout.write('R\\xb2')"
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, **ascii_only}, capture_output=True)
    assert done.stdout == b"R?", done.stderr


def _commands(command, words=()):
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from _commands(below, (*words, name))


@pytest.mark.parametrize("package", ["fedkit.cli.main", "fedkit_server.cli", "fedkit_client.cli"])
def test_no_help_holds_an_escape_meant_for_another_printer(package):
    found = list(_commands(typer.main.get_command(import_module(package).app)))
    assert len(found) > 8
    for words, command in found:
        text = command.get_help(click.Context(command, info_name=" ".join(words)))
        assert "\\[" not in text, words
