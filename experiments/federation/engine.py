"""Finds podman or docker, and builds the two images: `python experiments/federation/engine.py`.

Environment: FEDKIT_ENGINE (podman or docker), FEDKIT_BASE_IMAGE (any image with Python 3.11), TORCH (its requirement).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
IMAGES = {"localhost/fedkit-server": "server/Containerfile", "localhost/fedkit-client": "clients/Containerfile"}
UPSTREAM = "docker.io/library/python:3.11-slim-bookworm"
OWN = "localhost/fedkit-base:bookworm"
_CONSERVATIVE = """\
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
runtime = "runc"
"""


class NoEngine(Exception):
    """Neither podman nor docker works here."""


class BuildFailed(NoEngine):
    """The engine works, and an image does not build."""


@dataclass(frozen=True)
class Engine:
    """podman or docker, and what its commands need in their environment."""

    program: str
    environment: dict[str, str] = field(default_factory=dict)

    def run(
        self, *words: str, text: str | None = None, show: bool = False, check: bool = True, limit: float = 1800.0
    ) -> str:
        """Standard output of one command; with ``show`` it goes to the terminal instead.

        Raises:
            subprocess.CalledProcessError: it failed, and ``check``.
        """
        done = subprocess.run(
            [self.program, *words],
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.PIPE,
            text=True,
            timeout=limit,
            check=False,
            cwd=ROOT,
            env={**os.environ, **self.environment},
        )
        if check and done.returncode:
            raise subprocess.CalledProcessError(done.returncode, [self.program, *words], done.stdout, done.stderr)
        return done.stdout or ""

    def has(self, image: str) -> bool:
        """Whether an image is here."""
        return bool(self.run("images", "--quiet", image, check=False).strip())

    @property
    def is_podman(self) -> bool:
        """Whether the program is podman: docker has no volumes in builds, and needs no image format."""
        return Path(self.program).name == "podman"


def find() -> Engine:
    """The first of podman and docker that answers.

    Raises:
        NoEngine: none does, with what to do.
    """
    wanted, said = os.environ.get("FEDKIT_ENGINE"), []
    for name in [wanted] if wanted else ["podman", "docker"]:
        program = shutil.which(name)
        if program is None:
            said.append(f"{name} is not installed")
            continue
        engine = Engine(program)
        try:
            engine.run("info", limit=60)
            return engine
        except subprocess.SubprocessError as error:
            last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
            said.append(f"{name} does not answer ({last[-1] if last else 'no reason given'})")
    raise NoEngine(
        f"{'; '.join(said)}.\nInstall podman (Debian, Ubuntu: apt-get install podman), or start docker; "
        "without containers: make federation-local"
    )


def starting(engine: Engine, image: str) -> Engine:
    """The engine with settings under which it starts a container on this host.

    Raises:
        NoEngine: it starts none.
    """
    trial = ("run", "--rm", "--network", "none", "--read-only", "--entrypoint", "true", image)
    try:
        engine.run(*trial, limit=120)
        return engine
    except subprocess.SubprocessError as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
    if engine.is_podman and shutil.which("runc"):
        # Inside another container or on mixed cgroups, crun and the usual limits are refused.
        file = Path(tempfile.gettempdir(), f"fedkit-containers-{os.getuid()}.conf")
        file.write_text(_CONSERVATIVE, encoding="utf-8")
        careful = Engine(engine.program, {"CONTAINERS_CONF": str(file)})
        try:
            careful.run(*trial, limit=120)
            return careful
        except subprocess.SubprocessError as error:
            said += "\n" + (getattr(error, "stderr", "") or str(error)).strip()
    raise NoEngine(f"{engine.program} starts no container here:\n{said}\nwithout containers: make federation-local")


def base_image(engine: Engine) -> str:
    """FEDKIT_BASE_IMAGE, Python's own image, or where no registry is reachable one from the distribution's packages.

    Raises:
        NoEngine: there is none and none can be made.
    """
    if named := os.environ.get("FEDKIT_BASE_IMAGE"):
        return named
    for image in (UPSTREAM, OWN):
        if engine.has(image):
            return image
    try:
        engine.run("pull", UPSTREAM, limit=600)
        return UPSTREAM
    except subprocess.SubprocessError:
        say(f"no registry has {UPSTREAM}; making a base image from the distribution's packages")
    done = subprocess.run(
        [ROOT / "server/base-image.sh", engine.program, OWN], check=False, env={**os.environ, **engine.environment}
    )
    if done.returncode:
        raise NoEngine("there is no base image: name one in FEDKIT_BASE_IMAGE, or see server/base-image.sh")
    return OWN


def build(engine: Engine) -> Engine:
    """Build both images, from cached layers where nothing has changed.

    Raises:
        NoEngine: no container starts here.
        BuildFailed: with the last lines of its output.
    """
    base = base_image(engine)
    engine = starting(engine, base)
    for tag, file in IMAGES.items():
        began = time.monotonic()
        say(f"building {tag}")
        words = ["build", "--file", file, "--tag", tag, "--build-arg", f"BASE_IMAGE={base}", *_pip(engine)]
        if torch := os.environ.get("TORCH"):
            words += ["--build-arg", f"TORCH={torch}"]
        if engine.is_podman:
            words += ["--format", "docker", "--layers", "--network", "host"]
        try:
            engine.run(*words, ".", limit=3600)
        except subprocess.CalledProcessError as error:
            lines = f"{error.stdout}\n{error.stderr}".strip().splitlines()
            raise BuildFailed("\n".join([*lines[-40:], f"building {tag} failed"])) from None
        say(f"built {tag} in {time.monotonic() - began:.0f} s")
    return engine


def _pip(engine: Engine) -> list[str]:
    """What pip is told on this host holds in a build too: its certificates, its index, its folders of wheels."""
    said = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    settings = {}
    for line in said.splitlines():
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip("'\"")
    words: list[str] = []
    if index := settings.get("index-url"):
        words += ["--build-arg", f"PIP_INDEX_URL={index}"]
    if not engine.is_podman:
        return words
    if (certificates := settings.get("cert")) and Path(certificates).is_file():
        inside = "/etc/ssl/certs/ca-certificates.crt"
        words += ["--volume", f"{certificates}:{inside}:ro", "--build-arg", f"PIP_CERT={inside}"]
    folders = [folder for folder in settings.get("find-links", "").split() if Path(folder).is_dir()]
    for number, folder in enumerate(folders):
        words += ["--volume", f"{folder}:/tmp/wheels-{number}:ro"]
    if folders:
        inside = " ".join(f"/tmp/wheels-{number}" for number in range(len(folders)))  # noqa: S108
        words += ["--build-arg", f"PIP_FIND_LINKS={inside}"]
    return words


def say(text: str) -> None:
    """Tell what is going on, on standard error."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Build both images."""
    if arguments:
        sys.exit(__doc__)
    try:
        engine = build(find())
    except NoEngine as error:
        say(f"images: {error}")
        return 2
    for tag in IMAGES:
        size = int(engine.run("image", "inspect", "--format", "{{.Size}}", tag))
        print(f"{tag}: {size / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
