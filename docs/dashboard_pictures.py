"""Take the picture of the dashboard: ``python docs/dashboard_pictures.py [FOLDER]``, by default docs/.

Shows a made-up run at a coordinator's real API in this process, and looks at it in a real browser. Needs chromium, or
another of its family named by ``CHROMIUM=...``, and what the tests need; without one the picture in place is kept.
"""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
WIDTH, HEIGHT = 1200, 1500


def take(program: str, out: Path) -> list[Path]:
    """The page of a run that goes on."""
    import pyotp
    import uvicorn
    from fedkit_server.dashboard.app import dashboard_app, desk_of
    from playwright.sync_api import sync_playwright

    from fedkit.federation.flower_link import Link
    from tests.reporting.conftest import Fabricated, write
    from tests.server.builders import make_coordinator
    from tests.server.dashboard import test_dashboard as tests
    from tests.server.test_api import Api

    with tempfile.TemporaryDirectory() as scratch, socket.create_server(("127.0.0.1", 0)) as listening:
        folder = Path(scratch)
        link = Link.open(folder / "link.db", folder / "objects")
        coordinator = make_coordinator(folder / "coordinator", link)
        api, host = Api(coordinator), f"127.0.0.1:{listening.getsockname()[1]}"
        api.state.store.add_run(tests.RUN, "a job", "heart_disease", "anna", time.time())
        made = write(folder / "runs", Fabricated(rounds=15, done=9, outcome="running"))
        tests.going_on(api)
        stands = {"state": "running", "outcome": None, "round": 9, "rounds": 15, "bytes": 41_216}
        api.runs.status = lambda run: {"run": run, "name": "heart_disease", **stands}  # type: ignore[method-assign]
        (api.state.folder.runs / tests.RUN / "metrics.jsonl").write_bytes((made / "metrics.jsonl").read_bytes())
        now = time.time()
        said = (("cleveland", "received"), ("hungary", "received"), ("switzerland", "received"), ("va", "asked"))
        api.runs.log[tests.RUN] = [
            {
                "n": n,
                "at": now - 42 + n,
                "kind": kind,
                "round": 10,
                "site": site,
                "purpose": "train",
                "seconds": 1.4 * n,
            }
            for n, (site, kind) in enumerate(said, 1)
        ]
        (folder / "profile").mkdir(mode=0o700)
        lead = tests.Lead(api, folder / "profile")
        desk = desk_of(folder / "profile", "fedkit dashboard of heart", host, time.time)
        config = uvicorn.Config(dashboard_app(desk, lead.federation), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with sync_playwright() as started:
                browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
                page.goto(f"http://{host}/login")
                words = (("Name", "anna"), ("Password", tests.PASSWORD), ("Code", pyotp.TOTP(lead.secret).now()))
                for label, text in words:
                    page.get_by_label(label).fill(text)
                page.get_by_role("button", name="Log in").click()
                page.get_by_role("link", name="Sites").wait_for()
                page.goto(f"http://{host}/runs/{tests.RUN}")
                page.screenshot(path=out / "dashboard-run.png")
                browser.close()
        finally:
            server.should_exit = True
            thread.join(20)
            coordinator.close()
    return [out / "dashboard-run.png"]


if __name__ == "__main__":
    from screenshot import take_pictures

    sys.exit(take_pictures(take, __doc__, sys.argv[1:]))
