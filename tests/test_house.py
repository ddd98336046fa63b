"""Rules of the house that no linter knows."""

from __future__ import annotations

import importlib.util
import re
import socket
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import click
import pytest
import typer

from fedkit.cli.main import app, main
from fedkit.cli.words import name_and_overrides
from fedkit.config.arguments import MODEL_ARGUMENTS, STRATEGY_ARGUMENTS
from fedkit.config.compose import compose
from fedkit.config.experiment import ExperimentConfig

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".ci", "fedkit", "server", "clients", "configs", "experiments", "docs", "tests")
TEXT = {".py", ".md", ".yaml", ".toml", ".txt", ".sh", ".j2", ".css", ".cfg", ".ini", ""}
MAX_LINES = 300

# Written so that the pattern does not match itself.
LOCAL = re.compile(
    r"(?<![\w.])/(?:work|opt|root|mnt)/|/home/\w+/|[.][.]/shared|localhost:\d+/simple"
    r"|--(?:extra-)?index-url|--trusted[-]host|https?://[^\s/]*(?:pypi|registry|artifactory|nexus)[^\s]*"
)
HEAVY = ("torch", "flwr", "hydra", "omegaconf", "opacus", "numpy", "rich", "sklearn", "duckdb", "matplotlib", "yaml")


def _files() -> list[Path]:
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return sorted(path for path in found if path.suffix in TEXT)


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_python_file_outside_tests_is_longer_than_300_lines():
    counts = {
        _relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in _files() if path.suffix == ".py"
    }
    assert len(counts) > 50
    long = {name: lines for name, lines in counts.items() if lines > MAX_LINES and not name.startswith("tests/")}
    assert long == {}


def test_no_file_names_a_machine_path_or_a_registry():
    found = {}
    for path in _files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := LOCAL.search(line):
                found[f"{_relative(path)}:{number}"] = match.group()
    assert found == {}


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom fedkit.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: fedkit" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded:"


def _commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    return [words, *(found for name, child in inner.items() for found in _commands(child, (*words, name)))]


@pytest.mark.parametrize("words", _commands(typer.main.get_command(app)), ids=lambda words: " ".join(words) or "fedkit")
def test_every_commands_help_has_an_example_of_that_command(words, capsys):
    with pytest.raises(SystemExit) as left:
        main([*words, "--help"])
    assert left.value.code in (0, None)
    printed = " ".join(click.unstyle(capsys.readouterr().out).split())
    assert f"Example: {' '.join(['fedkit', *words])}" in printed


def _first_command(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if not line.startswith("# @package")).removeprefix("# ")


def _yaml_files() -> list[Path]:
    return [path for folder in ("configs", "experiments") for path in sorted((ROOT / folder).rglob("*.yaml"))]


@pytest.mark.parametrize("path", _yaml_files(), ids=_relative)
def test_every_yaml_begins_with_a_command_that_uses_it(path):
    command = _first_command(path).split()
    if command[0] == "python":
        assert (ROOT / command[1]).is_file()
        return
    assert command[:2] in (["fedkit", "simulate"], ["fedkit", "config"], ["fedkit", "sweep"])
    words = [word for word in command[2:] if not word.startswith("--") and word != "show"]
    uses = f"{path.parent.name}={path.stem}" if path.parent.parent.name == "configs" else path.parent.name
    assert uses in words or path.name == "config.yaml"
    name, overrides = name_and_overrides(words)
    compose(name, overrides)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9][\w.-]*==[\w.]+", line)] == []


def test_the_layers_hold():
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _keys(kind: Any, prefix: str = "") -> list[str]:
    keys = []
    for field in fields(kind):
        hint = get_type_hints(kind)[field.name]
        inner = next((part for part in (hint, *getattr(hint, "__args__", ())) if is_dataclass(part)), None)
        name = prefix + field.name
        keys += _keys(inner, f"{name}.") if inner is not None else [name]
    return keys


def test_the_reference_documents_every_config_key():
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`([a-z_.0-9]+)`", reference))
    arguments = {
        f"{group}.{key}"
        for group, table in (("model", MODEL_ARGUMENTS), ("strategy", STRATEGY_ARGUMENTS))
        for named in table.values()
        for key in named
    }
    keys = {key for key in _keys(ExperimentConfig) if not key.endswith(".arguments")} | arguments
    assert sorted(keys - documented) == []


def _refresh() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs/refresh.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["refresh"] = module
    spec.loader.exec_module(module)
    return module


def test_the_pages_cheap_output_is_what_the_commands_print():
    refresh = _refresh()
    assert [problem for page in refresh.PAGES for problem in refresh.check(page)] == []


def test_the_readme_takes_eight_commands_from_a_clone_to_a_federation():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Two hospitals on one machine") :].partition("\n## For hospitals")[0]
    # `make demo` stands above, with its output.
    shown = [block.what for block in _refresh().blocks(section)]
    assert "make demo" in [block.what for block in _refresh().blocks(text)] and len(shown) <= 7
    assert shown[-1].startswith("fedkit server run") and len(text.splitlines()) <= 1000


@pytest.mark.deploy
def test_a_refresh_writes_true_output_and_ends_what_was_left_in_the_background(tmp_path):
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = f"--port {one.getsockname()[1]} --grpc-port {two.getsockname()[1]}"
    commands = (
        f"fedkit server init federation/coordinator --name a --host localhost --profile federation/admin {ports}",
        "fedkit server start federation/coordinator --bind 127.0.0.1 --detach",
        "cat federation/coordinator/server.pid",
    )
    page = tmp_path / "page.md"
    page.write_text("\n".join(f"<!-- output: {command} -->\n```console\n```\n" for command in commands))
    refresh = _refresh()
    with refresh.clone() as scratch:
        assert refresh.write(page, scratch) == list(commands)
        text = page.read_text()
        pid = int(re.findall(r"by process (\d+)", text)[0])
        assert "the federation a at localhost" in text and str(scratch) not in text
        assert _works(pid)
    assert not scratch.exists()
    # The lock is let go a moment before the process ends.
    late = time.monotonic() + 60
    while _works(pid):
        assert time.monotonic() < late
        time.sleep(0.05)


def _works(pid: int) -> bool:
    try:
        # A process that has ended, and that nobody has waited for, has no command line.
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except FileNotFoundError:
        return False


def test_the_readmes_links_and_pictures_exist():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
