"""What a stranger gets: the built wheel, in an environment without the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from fedkit.config import locate

ROOT = Path(__file__).resolve().parents[1]


def _run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    environment |= {"OMP_NUM_THREADS": "1", "COLUMNS": "110"}
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} left with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, Path]:
    """The source distribution, and the wheel built from it rather than from the repository."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return {"wheel": next(out.glob("*.whl")), "sdist": next(out.glob("*.tar.gz"))}


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> Path:
    """The programs folder of an environment that holds the wheel, and borrows everything else."""
    home = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", built["wheel"])
    _run(sys.executable, "-m", "pip", "--python", programs / "python", *install, cwd=home)
    own = Path(
        _run(programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    )
    # A path named in a .pth file is searched, but .pth files inside it are not read: the editable fedkit stays out.
    borrowed = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return programs


@pytest.mark.slow
def test_the_wheels_top_level_is_fedkit_only_and_configs_travel_inside(built):
    with zipfile.ZipFile(built["wheel"]) as wheel:
        names = wheel.namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fedkit", "fedkit_server", "fedkit_client"}
    assert len(top) == 4
    pages = ("fedkit/web/templates/base.html.j2", "fedkit/web/templates/icon.svg")
    assert {*pages, "fedkit_client/console/templates/overview.html.j2"} <= {*names}
    shipped = {
        str(path.relative_to(ROOT)) for path in (*ROOT.glob("configs/**/*.yaml"), *ROOT.glob("experiments/*/*.yaml"))
    }
    assert shipped
    assert {f"fedkit/{name}" for name in shipped} <= set(names)
    assert "fedkit/data/builtin/heart_disease.csv" in names
    assert not [name for name in names if "test" in Path(name).name or "/tests/" in name or "__pycache__" in name]
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_source_distribution_holds_licence_readme_and_nothing_local(built):
    with tarfile.open(built["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs", "build", "dist"))]


@pytest.mark.slow
def test_the_wheel_simulates_from_an_empty_folder_without_the_repository(installed, tmp_path):
    here = "import fedkit, fedkit_client, fedkit_server; from fedkit.config import locate as l; "
    told = _run(
        installed / "python",
        "-c",
        here + "print(fedkit.__file__, fedkit_client.__file__, fedkit_server.__file__,"
        " l.configs_root(), l.experiments_root(), sep='\\n')",
        cwd=tmp_path,
    )
    environment = installed.parent.resolve()
    for line in told.splitlines():
        assert Path(line).resolve().is_relative_to(environment)
        assert not Path(line).resolve().is_relative_to(ROOT)

    fedkit = installed / "fedkit"
    assert "Usage: fedkit" in _run(fedkit, "--help", cwd=tmp_path)
    assert _run(fedkit, "config", "list", cwd=tmp_path) == _run(
        Path(sys.executable).parent / "fedkit", "config", "list", cwd=tmp_path
    )
    result = json.loads(_run(fedkit, "simulate", "heart_disease", "federation.num_rounds=2", "--json", cwd=tmp_path))
    assert (result["outcome"], result["rounds"]) == ("complete", 2)
    [run] = (tmp_path / "runs").iterdir()
    assert (tmp_path / result["run_dir"]).samefile(run)
    assert (run / "report.html").stat().st_size > 0
    assert json.loads((run / "manifest.json").read_text(encoding="utf-8"))["git"] is None


def test_an_editable_install_reads_the_repositorys_configs():
    assert locate.configs_root() == ROOT / "configs"
    assert locate.experiments_root() == ROOT / "experiments"
