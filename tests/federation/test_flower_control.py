"""Flower's Control API: what an admin's token gets there, and what a hostile app would do if it came through."""

import asyncio
import io
import ssl
import zipfile
from pathlib import Path

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesRequest, ListNodesResponse, RegisterNodeRequest, StartRunRequest

from fedkit.federation.flower_api import superlink_app
from tests.federation.link import served


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with served(tmp_path_factory.mktemp("link")) as found:
        yield found


@pytest.fixture(autouse=True)
def _hung_up(here):
    yield
    here.hang_up()


def post(here, path, body=b"", token="right"):
    headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    headers |= {"authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(verify=ssl.create_default_context(cafile=str(here.crt))) as client:
        return client.post(f"https://127.0.0.1:{here.port}/v1/control/{path}", headers=headers, content=body)


def children():
    """Processes that this one has started, by any of its threads."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def hostile_app(marker):
    """A Flower app whose every module writes a file when it is imported."""
    code = f"open({str(marker)!r}, 'w').write('ran')\napp = None\n"
    project = """
[project]
name = "evil"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41.0"]
[tool.flwr.app]
publisher = "mallory"
fab-format-version = 1
flwr-version-target = "1.41.0"
[tool.flwr.app.components]
serverapp = "evil.server:app"
clientapp = "evil.client:app"
[tool.flwr.app.config]
"""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("pyproject.toml", project)
        archive.writestr("LICENSE", "none")
        for name in ("__init__", "server", "client"):
            archive.writestr(f"evil/{name}.py", code)
    return packed.getvalue()


def test_an_admin_may_look_and_nothing_else(here):
    north = here.node("north")
    answer = post(here, "list-nodes", ListNodesRequest().SerializeToString())
    assert answer.status_code == 200
    assert [node.node_id for node in ListNodesResponse.FromString(answer.content).nodes_info] == [north.node_id]
    assert post(here, "list-nodes", b"x" * (9 * 2**20)).status_code == 413


@pytest.mark.parametrize("token", ["", "wrong"])
@pytest.mark.parametrize("path", ["list-nodes", "start-run", "stop-run", "register-node", "no-such-path"])
def test_without_the_token_there_is_nothing(here, path, token):
    assert post(here, path, token=token).status_code == 401


CHANGES = ["start-run", "stop-run", "register-node", "unregister-node", "add-app", "start-automation",
           "create-federation", "get-auth-tokens", "pull-artifacts", "list-runs/../start-run"]  # fmt: skip


@pytest.mark.parametrize("path", CHANGES)
def test_what_changes_something_is_refused_to_an_admin_too(here, path, tmp_path):
    request = StartRunRequest()
    request.fab.content = hostile_app(tmp_path / "ran")
    body = {"register-node": RegisterNodeRequest(public_key=b"x")}.get(path, request).SerializeToString()
    before = len(here.link.state.get_run_info())
    assert post(here, path, body).status_code == 403
    assert len(here.link.state.get_run_info()) == before


def test_a_hostile_app_behind_the_guard_would_be_kept_and_never_run_nor_sent_to_a_site(here, tmp_path):
    marker = tmp_path / "ran"
    north = here.node("north", wait=0.5)
    request = StartRunRequest()
    request.fab.content = hostile_app(marker)
    app, known = superlink_app(here.link), {run.run_id for run in here.link.state.get_run_info()}

    async def ask():
        transport = httpx.ASGITransport(app)
        headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
        async with httpx.AsyncClient(transport=transport, base_url="http://flower") as client:
            body = request.SerializeToString()
            return await client.post("/v1/control/start-run", content=body, headers=headers)

    before = children()
    answer = asyncio.run(ask())
    made = [run for run in here.link.state.get_run_info() if run.run_id not in known]
    assert answer.status_code == 200 and len(made) == 1, answer.text
    # Nobody takes the run up: there is no executor beside this process, and none is started.
    assert made[0].status.status == "pending"
    assert children() == before
    assert north.receive() is None
    assert not marker.exists()
