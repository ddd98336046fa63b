"""The images as they are built, and `make federation`: five hardened containers, a model and a report at the end.

Skipped where neither podman nor docker works; a build that fails is a failure.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "experiments/federation"
SERVER, CLIENT = "localhost/fedkit-server", "localhost/fedkit-client"
CLOSED = (
    "--network", "none", "--read-only", "--tmpfs", "/tmp:rw,size=64m,mode=1777", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges", "--pids-limit", "128", "--memory", "1g",
)  # fmt: skip
SITE_PACKAGES = "/usr/lib/fedkit/lib/python3.11/site-packages"

pytestmark = [pytest.mark.slow, pytest.mark.deploy, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module", autouse=True)
def scripts():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def built(scripts):
    """The engine, with both images."""
    import engine

    try:
        return engine.build(engine.find())
    except engine.BuildFailed:
        raise
    except engine.NoEngine as error:
        pytest.skip(f"no container can be run here: {error}")


def _sh(engine, image: str, script: str) -> str:
    return engine.run("run", "--rm", *CLOSED, "--entrypoint", "sh", image, "-c", script)


@pytest.mark.parametrize(("image", "own", "other"), [
    (SERVER, "fedkit_server", "fedkit_client"), (CLIENT, "fedkit_client", "fedkit_server"),
])  # fmt: skip
def test_an_image_holds_one_half_no_installer_and_nothing_that_gains_rights(built, image, own, other):
    # As root, who sees every folder.
    look = ("run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "find", image, "/", "-xdev")
    files = built.run(*look).splitlines()
    assert f"{SITE_PACKAGES}/{own}/__init__.py" in files
    assert [file for file in files if other in file] == []
    assert [file for file in files if re.fullmatch(rf"{SITE_PACKAGES}/(pip|uv)", file)] == []
    assert [file for file in files if "/build" in file and file.startswith("/build")] == []
    assert built.run(*look, "-type", "f", "-perm", "/6000").strip() == ""


@pytest.mark.parametrize("image", [SERVER, CLIENT])
def test_a_hardened_container_is_no_root_writes_nothing_and_has_no_capability(built, image):
    assert built.run("run", "--rm", *CLOSED, image, "--version").startswith("fedkit ")
    told = _sh(
        built, image, "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status;"
        " touch /usr/lib/fedkit/x 2>&1; touch /x 2>&1; touch /tmp/x && echo written",
    )  # fmt: skip
    assert told.splitlines()[0] == "10001"
    assert "CapEff:\t0000000000000000" in told and "CapBnd:\t0000000000000000" in told and "NoNewPrivs:\t1" in told
    assert told.count("Read-only file system") == 2 and told.endswith("written\n")


@pytest.mark.parametrize("image", [SERVER, CLIENT])
def test_the_bill_of_materials_names_what_is_installed_by_the_hash_of_its_file(built, image):
    document = json.loads(_sh(built, image, "cat /usr/share/fedkit/sbom.json"))
    assert document["bomFormat"] == "CycloneDX"
    parts = {each["name"].lower().replace("_", "-").replace(".", "-"): each for each in document["components"]}
    assert all(re.fullmatch("[0-9a-f]{64}", each["hashes"][0]["content"]) for each in parts.values())
    script = (
        "import importlib.metadata as m;"
        "print(*sorted({d.name.lower().replace('_', '-').replace('.', '-') for d in m.distributions()}))"
    )
    installed = built.run("run", "--rm", *CLOSED, "--entrypoint", "python", image, "-c", script).split()
    assert sorted(parts) == installed
    assert {"torch", "flwr", "fedkit"} <= set(parts)
    # Every hash but torch's, fedkit's and that of a wheel made from a source is one of the lock's.
    folder = "server" if image == SERVER else "clients"
    lock = (ROOT / folder / "requirements.lock").read_text(encoding="utf-8")
    free = {name for name, each in parts.items() if each["hashes"][0]["content"] not in lock}
    assert free == {"torch", "fedkit", "antlr4-python3-runtime"}


def test_make_federation_ends_with_a_model_and_a_report_from_five_closed_containers(
    built, tmp_path, monkeypatch, capsys
):
    import run

    assert "experiments/federation/run.py\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    seen: dict[str, dict] = {}
    reached: dict[str, str] = {}
    real = run.experiment

    def watched(parties, overrides, runs):
        place = real(parties, overrides, runs)
        for name in ("coordinator", *run.SITES):
            container = f"fedkit_{name}"
            seen[name] = json.loads(parties.engine.run("inspect", container))[0]
            script = "import socket; socket.create_connection(('1.1.1.1', 443), 3)"
            reached[name] = parties.engine.run(
                "exec", container, "sh", "-c", f'python -c "{script}" 2> /dev/null && echo out || echo closed'
            ).strip()
        return place

    monkeypatch.setattr(run, "experiment", watched)
    assert run.main(["--runs", str(tmp_path)]) == 0, capsys.readouterr().err

    assert set(seen) == {"coordinator", *run.SITES}
    for name, told in seen.items():
        assert told["State"]["Running"] is True, name
        assert told["Config"]["User"] == "10001:10001", name
        assert told["HostConfig"]["ReadonlyRootfs"] is True, name
        assert told["HostConfig"]["PidsLimit"] == 256 and told["HostConfig"]["Memory"] == 3 * 2**30, name
        assert not told.get("EffectiveCaps"), name
        assert any(option.startswith("no-new-privileges") for option in told["HostConfig"]["SecurityOpt"]), name
        assert set(told["NetworkSettings"]["Networks"]) == {"fedkit_federation"}, name
        assert not any(told["NetworkSettings"]["Ports"].values()), name
    assert set(reached.values()) == {"closed"}

    (place,) = tmp_path.iterdir()
    result = json.loads((place / "result.json").read_text(encoding="utf-8"))
    assert result["outcome"] == "complete"
    assert (place / "model.safetensors").stat().st_size > 0
    assert "heart_disease" in (place / "report.html").read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert (
        f"Report: {place / 'report.html'}" in printed.replace("\n", "") and str(place / "model.safetensors") in printed
    )
    # Nothing is left behind, so that the next run begins anew.
    assert built.run("ps", "--all", "--quiet", "--filter", "label=fedkit").strip() == ""
    assert "fedkit_" not in built.run("volume", "ls", "--quiet")


def test_without_an_engine_the_error_says_what_to_do(monkeypatch, capsys, tmp_path):
    import run

    monkeypatch.setenv("PATH", str(tmp_path))
    assert run.main([]) == 2
    told = capsys.readouterr().err
    assert "podman is not installed" in told and "make federation-local" in told


def test_an_engine_that_does_not_answer_is_named(monkeypatch, capsys, tmp_path):
    import run

    fake = tmp_path / "docker"
    fake.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("FEDKIT_ENGINE", "docker")
    assert run.main([]) == 2
    assert "docker does not answer (Cannot connect to the Docker daemon)" in capsys.readouterr().err


def test_a_derived_image_adds_one_model_whose_hash_the_site_writes_down(built, tmp_path):
    folder = ROOT / "clients/derived"
    tag = "localhost/fedkit-derived-test"
    words = ["build", "--file", str(folder / "Containerfile"), "--tag", tag, "--build-arg", f"SITE_IMAGE={CLIENT}"]
    built.run(*words, *(["--format", "docker"] if built.is_podman else []), str(folder))
    try:
        told = built.run("run", "--rm", *CLOSED, tag, "client", "hash", "our_package.models:two_layers", "--json")
        from fedkit.governance.allow import package_hash

        sys.path.insert(0, str(folder))
        try:
            here = package_hash("our_package.models:two_layers")
        finally:
            sys.path.remove(str(folder))
        # The files are the same ones, so the hospital can check them before it builds.
        assert json.loads(told)["sha256"] == here
        script = "import our_package.models as m; print(sum(p.numel() for p in m.two_layers((13,), 1).parameters()))"
        assert built.run("run", "--rm", *CLOSED, "--entrypoint", "python", tag, "-c", script).strip() == "121"
    finally:
        built.run("rmi", "--force", tag, check=False)
