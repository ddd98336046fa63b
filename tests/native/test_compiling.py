"""What makes the libraries, and what it does where it cannot."""

import ctypes
import runpy
import shutil

import pytest

from fedkit.native import compiling
from fedkit.native.compiling import BASE, HERE, WIDE, compile_into, compiler, sources, wheel_tag

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler here")


@pytest.mark.slow
@needs_compiler
def test_a_library_says_which_files_it_was_made_of(tmp_path):
    made = compile_into(tmp_path)
    assert made and made[0] == tmp_path / BASE and set(made) <= {tmp_path / BASE, tmp_path / WIDE}
    for path in made:
        found = ctypes.CDLL(str(path))
        found.fedkit_sources.restype = ctypes.c_char_p
        assert found.fedkit_sources().decode() == sources()
    assert sorted(tmp_path.iterdir()) == sorted(made)


def test_another_line_of_c_is_another_digest(tmp_path, monkeypatch):
    for path in HERE.glob("*.[ch]"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(compiling, "HERE", tmp_path)
    assert sources() == runpy.run_path(str(HERE / "compiling.py"))["sources"]()
    with (tmp_path / "stack.c").open("a") as file:
        file.write("\n")
    assert sources() != runpy.run_path(str(HERE / "compiling.py"))["sources"]()


def test_without_a_compiler_nothing_is_made_and_it_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert compile_into(tmp_path) == [] and not list(tmp_path.iterdir())
    assert "no C compiler" in capsys.readouterr().err


def test_a_compiler_that_fails_leaves_what_was_there(tmp_path, monkeypatch, capsys):
    (tmp_path / BASE).write_bytes(b"as it was")
    monkeypatch.setenv("CC", "false")
    assert compile_into(tmp_path) == []
    assert f"false did not make {BASE}" in capsys.readouterr().err
    assert (tmp_path / BASE).read_bytes() == b"as it was" and len(list(tmp_path.iterdir())) == 1


def test_a_wheel_with_libraries_is_of_this_kind_of_machine_and_any_python():
    python, abi, platform = wheel_tag().split("-")
    assert (python, abi) == ("py3", "none") and platform and "." not in platform and "-" not in platform
