import hashlib
import sys

import numpy as np
import pytest
from torch import nn

from fedkit.data.load import load_site_dataset
from fedkit.errors import DataError, FederationError
from fedkit.governance.allow import allowed_function, allowed_models, package_hash, reader
from fedkit.governance.terms import Allowed

CODE = """
from torch import nn
def build(input_shape, num_outputs, width=3):
    return nn.Linear(input_shape[0], num_outputs)
constant = 3
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's, importable under a name of its own in each test."""
    name = "own_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:8]
    folder = tmp_path / "lib" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "models.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    yield name, folder
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        del sys.modules[module]


def refused(function, *given, **named):
    with pytest.raises(FederationError) as caught:
        function(*given, **named)
    return caught.value


def test_a_function_runs_if_its_package_is_the_one_written_down(package):
    name, _ = package
    path = f"{name}.models:build"
    entry = Allowed(path, package_hash(path))
    assert isinstance(allowed_models({"ours": entry}, "ours")["ours"]((4,), 1), nn.Linear)
    assert allowed_models({"ours": entry}, "mlp") == {}


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename", "data", "pyc"])
def test_any_change_of_the_package_is_refused_and_runs_nothing(package, change, tmp_path):
    name, folder = package
    (folder / "weights.bin").write_bytes(b"1")
    path = f"{name}.models:build"
    entry = Allowed(path, package_hash(path))
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')"
    if change == "edit":
        (folder / "models.py").write_text(CODE + trap)
    elif change == "add":
        (folder / "sitecustom.py").write_text(trap)
    elif change == "remove":
        (folder / "weights.bin").unlink()
    elif change == "rename":
        (folder / "weights.bin").rename(folder / "weight.bin")
    elif change == "data":
        (folder / "weights.bin").write_bytes(b"2")
    else:
        (folder / "other.pyc").write_bytes(b"1")
    error = refused(allowed_function, entry, "model ours")
    assert error.code == "FK563" and f"write sha256: {package_hash(path)}" in error.remedy
    assert not (tmp_path / "ran").exists() and name not in sys.modules


def test_a_poisoned_cache_is_not_read(package, tmp_path):
    import importlib.util
    import py_compile

    name, folder = package
    path = f"{name}.models:build"
    entry = Allowed(path, package_hash(path))
    evil = tmp_path / "evil.py"
    evil.write_text("def build(*a, **k):\n    raise SystemError('evil')\n")
    cache = importlib.util.cache_from_source(str(folder / "models.py"))
    py_compile.compile(str(evil), cfile=cache, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert package_hash(path) == entry.sha256
    assert isinstance(allowed_function(entry, "model ours")((4,), 1), nn.Linear)


def test_links_lead_elsewhere_and_are_refused(package, tmp_path):
    name, folder = package
    (tmp_path / "elsewhere").mkdir()
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    assert "link sub" in str(refused(package_hash, f"{name}.models:build"))


def test_what_is_absent_is_said(package):
    name, _ = package
    good = package_hash(f"{name}.models:build")
    assert "no package" in str(refused(package_hash, "no_such_package_anywhere:f"))
    for path in (f"{name}.models:absent", f"{name}.models:constant"):
        assert "has no function" in str(refused(allowed_function, Allowed(path, good), "model ours"))
    error = refused(allowed_function, Allowed(f"{name}.absent:f", good), "source ours", code="FK560")
    assert error.code == "FK560" and "cannot be imported" in str(error)


def test_a_name_that_cannot_be_a_package_is_refused(package):
    assert refused(package_hash, ":f").code == "FK563"
    assert refused(package_hash, "..x:f").code == "FK563"


SOURCE = """
import csv
from fedkit.data.builtin import verified_path
def read(columns):
    with open(verified_path("heart_disease.csv")) as file:
        rows = list(csv.DictReader(file))
    return {name: [row[name] for row in rows] for name in columns}
def short(columns):
    return {name: ["1"] * (index + 1) for index, name in enumerate(columns)}
def none(columns):
    return None
def extra(columns):
    return {**read(columns), "ssn": ["1"]}
def lacking(columns):
    return {columns[0]: ["1"]}
"""


def own_source(package, site_file, function):
    name, folder = package
    (folder / "sources.py").write_text(SOURCE)
    path = f"{name}.sources:{function}"
    allow = {"sources": {"ours": {"import": path, "sha256": package_hash(path)}}}
    return site_file({"source": {"kind": "ours"}}, allow=allow)


def test_a_source_of_the_sites_own_reads_as_ours_does(package, site_file):
    own, ours = own_source(package, site_file, "read"), site_file()
    sites = [
        load_site_dataset(data, "cleveland", private=True, read=reader(found, data)).sites[0]
        for found, data in ((f, f.data["heart_disease"].declaration) for f in (own, ours))
    ]
    assert np.array_equal(sites[0].train.x, sites[1].train.x) and len(sites[0].test) == len(sites[1].test)


@pytest.mark.parametrize(("function", "code"), [("short", "FK207"), ("none", "FK207"), ("lacking", "FK205")])
def test_what_such_a_source_returns_is_checked(package, site_file, function, code):
    found = own_source(package, site_file, function)
    data = found.data["heart_disease"].declaration
    with pytest.raises(DataError) as caught:
        load_site_dataset(data, "cleveland", private=True, read=reader(found, data))
    assert caught.value.code == code


def test_columns_that_are_not_declared_are_not_taken(package, site_file):
    found = own_source(package, site_file, "extra")
    data = found.data["heart_disease"].declaration
    assert "ssn" not in reader(found, data)(data).columns
