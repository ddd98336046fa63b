"""A coordinator's runs go on over a real link while they are mirrored to an MLflow server that hangs, or fails."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from fedkit_server.tracking import begin_tracking

from tests.server.sites import job_text

PASSWORD = "hunter2-and-more"


@contextmanager
def mlflow_server(hangs):
    """An MLflow server that is there when a coordinator starts, and of no use from then on."""
    over, asked = threading.Event(), []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length") or 0))
            if "search" in self.path and len(asked) == 1:
                self._send(200, {"experiments": []})
                return
            if hangs:
                over.wait(120)
            self._send(500, {"error_code": "INTERNAL_ERROR", "message": "no"})

        def _send(self, status, value):
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], asked
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.deploy
@pytest.mark.parametrize("hangs", [True, False])
def test_no_run_waits_for_a_tracker_and_no_password_of_its_address_is_logged(world, monkeypatch, caplog, hangs):
    pytest.importorskip("mlflow", reason="mlflow is not installed (pip install 'fedkit[mlflow]')")
    caplog.set_level(logging.DEBUG)
    with mlflow_server(hangs) as (port, asked):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{PASSWORD}@127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        tracking = begin_tracking("mlflow", world.folder)
        tracking.start()
        try:
            world.runner.submit(job_text("r"))
            found = world.over("r")
            end = time.monotonic() + 30
            while len(asked) < 2 and time.monotonic() < end:
                time.sleep(0.05)
            assert found["outcome"] == "complete" and len(asked) >= 2
        finally:
            begun = time.monotonic()
            tracking.close()
            assert time.monotonic() - begun < 10
    kept = [path.read_text(errors="replace") for path in world.folder.rglob("*.json*") if path.is_file()]
    assert PASSWORD not in caplog.text and not any(PASSWORD in text for text in kept)
