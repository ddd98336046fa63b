"""Containerfiles, compose.yaml, Kubernetes manifests, scripts: their own linters, and what we ask of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONTAINERFILES = [ROOT / "server/Containerfile", ROOT / "clients/Containerfile"]
DERIVED = ROOT / "clients/derived/Containerfile"
COMPOSE = ROOT / "server/compose.yaml"
MANIFESTS = sorted([*(ROOT / "server/kubernetes").glob("*.yaml"), *(ROOT / "clients/kubernetes").glob("*.yaml")])
LOCKS = [ROOT / name for name in ("server/requirements.lock", "clients/requirements.lock", "server/image/tools.lock")]
LONG_RUNNING = ("coordinator", "cleveland", "hungary", "switzerland", "va")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _lint(program: str, *words: str | Path) -> None:
    file = Path(sys.executable).parent / program
    if not file.is_file():
        pytest.skip(f"{program} is not installed; it is one of requirements-dev.txt, which `make test` installs")
    done = subprocess.run([file, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _documents(path: Path) -> list[dict]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


@pytest.mark.parametrize("path", [*CONTAINERFILES, DERIVED], ids=_name)
def test_hadolint_finds_nothing(path):
    _lint("hadolint", path)


def test_compose_is_what_its_schema_and_compose_itself_read(monkeypatch):
    _lint("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE)
    monkeypatch.setenv("FEDKIT_DEMO", "/demo")
    _lint("docker-compose", "-f", COMPOSE, "config", "-q")


@pytest.mark.parametrize("path", MANIFESTS, ids=_name)
def test_kubernetes_schemas_know_every_field(path):
    _lint("kubernetes-validate", "--strict", path)


def test_scripts_pass_shellcheck():
    files = [
        path for folder in (".ci", "docs", "server", "clients", "experiments") for path in (ROOT / folder).rglob("*")
    ]
    scripts = [path for path in files if path.is_file() and path.read_bytes()[:16].startswith(b"#!/usr/bin/env b")]
    assert len(scripts) >= 4
    _lint("shellcheck", *scripts)


def test_yaml_passes_yamllint():
    _lint("yamllint", "--strict", "--config-file", ".yamllint", "server", "clients", "configs", "experiments")


@pytest.mark.parametrize("path", CONTAINERFILES, ids=_name)
def test_an_image_names_its_base_by_an_argument_and_ends_as_another_user_than_root(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm" in lines
    bases = [line.split()[1] for line in lines if line.startswith("FROM ")]
    stages = {line.split()[3] for line in lines if line.startswith("FROM ") and " AS " in line}
    assert set(bases) - stages == {"${BASE_IMAGE}"}
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    assert "--require-hashes" in text and "HEALTHCHECK" in text
    other = "fedkit_client" if path.parent.name == "server" else "fedkit_server"
    assert other not in text


@pytest.mark.parametrize("path", LOCKS, ids=_name)
def test_every_locked_file_has_its_hash(path):
    text = path.read_text(encoding="utf-8").replace("\\\n", "")
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(entries) > 30
    entry = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.]+( +--hash=sha256:[0-9a-f]{64})+")
    assert [line[:60] for line in entries if not entry.fullmatch(line.strip())] == []


@pytest.mark.parametrize("path", LOCKS[:2], ids=_name)
def test_an_images_lock_is_requirements_txt_less_what_it_must_not_hold(path):
    pins = dict(
        re.fullmatch(r"(\S+)==(\S+)", line).groups()
        for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    )
    pins = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    found = re.findall(r"^(\S+)==(\S+) ", path.read_text(encoding="utf-8"), re.MULTILINE)
    locked = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}
    # torch requires setuptools, which pip freeze never names.
    assert {name: version for name, version in locked.items() if name != "setuptools"}.items() <= pins.items()
    left = {"hatchling", "pluggy", "tomlkit", "trove-classifiers", "uv", "torch"}
    left |= (
        {"opacus", "opt-einsum"}
        if path.parent.name == "server"
        else {"matplotlib", "contourpy", "cycler", "fonttools", "kiwisolver", "pyparsing", "pillow", "python-dateutil"}
    )
    assert set(pins) - set(locked) == left, "run docs/lock_images.sh"


def test_every_service_of_compose_is_hardened_and_on_the_internal_network_alone():
    compose = _documents(COMPOSE)[0]
    assert compose["networks"] == {"federation": {"internal": True}}
    assert set(LONG_RUNNING) <= set(compose["services"])
    for name, service in compose["services"].items():
        assert service["user"] == "10001:10001", name
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] and service["mem_limit"], name
        assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"], name
        assert service["networks"] == ["federation"], name
        assert not {"ports", "privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & set(service), name
        if name in LONG_RUNNING:
            assert service["healthcheck"]["test"][0] == "CMD", name
    for site in LONG_RUNNING[1:]:
        own, data = compose["services"][site]["volumes"]
        assert own == f"{site}:/var/lib/fedkit" and data.endswith(f"/{site}:/data:ro")


def _pods() -> list[tuple[str, dict]]:
    pods = []
    for path in MANIFESTS:
        for each in _documents(path):
            if each["kind"] in ("Deployment", "StatefulSet", "Job"):
                pods.append((f"{_name(path)} {each['metadata']['name']}", each["spec"]["template"]["spec"]))
    return pods


@pytest.mark.parametrize(("name", "pod"), _pods(), ids=[name for name, _ in _pods()])
def test_every_pod_meets_the_restricted_standard(name, pod):
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True and context["runAsUser"] == 10001
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    # Otherwise Kubernetes opens the keys' files to the group at every start, and fedkit refuses them.
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {
        "persistentVolumeClaim", "configMap", "secret", "emptyDir",
    }  # fmt: skip
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert not container["image"].endswith(":latest") and ":" in container["image"]


def test_the_namespaces_deny_all_and_only_a_site_calls_out():
    for path in (ROOT / "server/kubernetes/coordinator.yaml", ROOT / "clients/kubernetes/site.yaml"):
        policies = {
            each["metadata"]["name"]: each["spec"] for each in _documents(path) if each["kind"] == "NetworkPolicy"
        }
        assert policies["deny-all"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        own = policies["coordinator" if path.parts[-3] == "server" else "site"]
        assert own["policyTypes"] == ["Ingress", "Egress"]
        assert ("ingress" in own, "egress" in own) == ((True, False) if path.parts[-3] == "server" else (False, True))
