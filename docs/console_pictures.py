"""Take the pictures of the console: ``python docs/console_pictures.py [FOLDER]``, by default docs/.

Makes a site in a scratch folder, with a run that was trained and one that asks, and looks at its console in a real
browser. Needs chromium, or another of its family named by ``CHROMIUM=...``, and what the tests need; without a browser
the pictures in place are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
PASSWORD = "a password of the docs"  # noqa: S105
WIDTH, HEIGHT = 1200, 900


def site(folder: Path) -> tuple[Any, str, list[str]]:
    """A site, the secret of its console's user, and the digests of two runs: one approved and trained, one waiting."""
    from fedkit_client import gatekeeper
    from fedkit_client.decisions import approve_run

    from fedkit.storage.audit import Log
    from fedkit.storage.audit_line import Event
    from fedkit.storage.keys import load_signing_key
    from fedkit.web.users import Users
    from tests.clients.conftest import make_bench
    from tests.clients.coordinator import experiment, model, write_declaration

    # This process trains once, in place of a child with limits of its own.
    gatekeeper.apply = lambda file, size=0: None  # type: ignore[assignment]
    write_declaration(folder / "declared")
    made = make_bench(folder, policy={"approval": "manual"}, data={"consent": {"unit": "age"}})
    log, jobs = Log(made.folder.audit, load_signing_key(made.folder.signing_key)), []
    names = (("20260105-090000-icu-0a1b2c", ()), ("20260112-090000-icu-3d4e5f", ("training.learning_rate=0.1",)))
    for name, overrides in names:
        job = made.coordinator.job(name, experiment(*overrides))
        jobs.append(job.digest)
        asked = [made.coordinator.request(job, "train", number, model(5)) for number in range(1, 4)]
        made.keeper.answer("train", asked[0])
        if overrides:
            break
        approve_run(made.folder, name, 30, time.time(), by="ana")
        for number, request in enumerate(asked, 1):
            answer = made.keeper.answer("train", request)
            if isinstance(answer, str):
                raise RuntimeError(f"the site has answered {answer}")
            said = {"run": name, "purpose": "train", "round": number, "digest": job.digest, "size": 1484}
            dp = {"guarantee": "dp", "epsilon": 2.31, "delta": 1e-5, "unit": "record", "adjacency": "add_or_remove"}
            log.append(Event("released", said | dp))
    return made, Users(made.folder.console_users).add("ana", PASSWORD, time.time()), jobs


@contextmanager
def console(yaml: Path) -> Iterator[str]:
    """A console's address."""
    line = [sys.executable, "-m", "fedkit", "client", "console", str(yaml), "--json"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield json.loads((process.stdout or sys.stdin).readline())["url"]
        finally:
            process.terminate()


def take(program: str, out: Path) -> list[Path]:
    """All pictures."""
    import pyotp
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as started:
        made, secret, jobs = site(Path(scratch))
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        with console(made.folder.site_yaml) as url:
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
            page.goto(f"{url}login")
            for label, text in (("Name", "ana"), ("Password", PASSWORD), ("Code", pyotp.TOTP(secret).now())):
                page.get_by_label(label).fill(text)
            page.get_by_role("button", name="Log in").click()
            page.get_by_role("button", name="Pause the site").wait_for()
            pictures = []
            for name, path in (("overview", ""), ("request", f"requests/{jobs[1]}"), ("log", "log")):
                page.goto(url + path)
                pictures.append(out / f"console-{name}.png")
                page.screenshot(path=pictures[-1])
        browser.close()
    return pictures


if __name__ == "__main__":
    from screenshot import take_pictures

    sys.exit(take_pictures(take, __doc__, sys.argv[1:]))
