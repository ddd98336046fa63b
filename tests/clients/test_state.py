import json

from fedkit_client.state import State, read_state
from fedkit_client.status import status_text

from fedkit.errors import DeploymentError

FOUND = {
    "site": "north", "running": True, "pid": 7, "coordinator": "h:1", "problem": None, "paused": None, "last": None,
    "budgets": {}, "quarantined": None, "file_changed": False, "log": {"contradicted": 0},
    "usage": {"answers": 0, "cpu_seconds": 0.0},
}  # fmt: skip


def test_a_site_is_connected_since_it_connected_whatever_it_was_asked_since(tmp_path):
    now = [100.0]
    state = State(tmp_path / "state.json", 1, "0", clock=lambda: now[0])
    state.enter("connected")
    for now[0] in (110.0, 120.0):
        state.enter("working")
        state.enter("connected")
    told = read_state(state.path)
    assert (told["connected_at"], told["since"]) == (100.0, 120.0)
    now[0] = 130.0
    state.enter("retrying", DeploymentError("away", code="FK755"))
    assert json.loads(state.path.read_text())["connected_at"] is None
    now[0] = 140.0
    state.enter("connected")
    assert read_state(state.path)["connected_at"] == 140.0


def test_status_tells_the_connection_from_the_work(tmp_path):
    told = FOUND | {"connected": True, "phase": "working", "since": 1e9, "connected_at": 5e8}
    text = status_text(told)
    assert "connected to h:1 since" in text and "at work on a message since" in text
    idle = status_text(told | {"phase": "connected"})
    assert "at work" not in idle and "connected to h:1 since" in idle
    away = status_text(told | {"connected": False, "phase": "retrying"})
    assert "not connected to h:1, retrying since" in away
