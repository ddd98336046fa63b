"""A coordinator that is asked to end answers whoever waits, at once and without a traceback in its log."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import closing

import pytest
from fedkit_server.guard import Guard, Wakes

from fedkit.federation.flower_node import NodeConnection
from tests.server.test_deployed import _make

FLEET = {"type": "http", "path": "/fedkit/v1/health", "headers": []}


def test_whoever_waits_for_a_message_is_answered_when_it_ends_and_nobody_waits_after_that():
    async def waited() -> float:
        wakes = Wakes()
        wakes.clear(7)
        waiting = asyncio.create_task(wakes.wait(7, 20.0))
        await asyncio.sleep(0)
        began = time.monotonic()
        wakes.end()
        await waiting
        await wakes.wait(8, 20.0)
        return time.monotonic() - began

    assert asyncio.run(waited()) < 5.0


@pytest.mark.parametrize("over", [True, False])
def test_a_request_that_the_end_cuts_off_is_answered_503_and_any_other_cut_is_not_hidden(over):
    async def forever(*_):
        await asyncio.Event().wait()

    async def cut() -> list[int]:
        wakes, sent = Wakes(over=over), []

        async def send(message):
            sent.append(message.get("status"))

        guard = Guard(forever, forever, lambda _: False, wakes)
        task = asyncio.create_task(guard(FLEET, forever, send))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return []
        return [status for status in sent if status]

    assert asyncio.run(cut()) == ([503] if over else [])


@pytest.mark.deploy
def test_a_halt_under_a_waiting_site_is_quick_and_its_log_has_no_traceback(tmp_path):
    deployed = _make(tmp_path)
    keys = deployed.join("north")
    with closing(NodeConnection(f"localhost:{deployed.port}", deployed.ca, keys.node, wait=20.0)) as connection:
        connection.activate()
        answers: list[object] = []
        waiting = threading.Thread(target=lambda: answers.append(connection.receive()), daemon=True)
        waiting.start()
        deadline = time.monotonic() + 20
        while deployed.state_of("north") != "online" and time.monotonic() < deadline:
            time.sleep(0.1)
        began = time.monotonic()
        deployed.run("halt", deployed.folder)
        took = time.monotonic() - began
        waiting.join(20)
    log = (deployed.folder / "server.log").read_text()
    # 3 s is how long uvicorn waits before it cuts off.
    assert "Traceback" not in log and answers == [None], log
    assert took < 6.0
