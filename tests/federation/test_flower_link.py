"""The embedded SuperLink and a site's connection to it, over real TLS: fails when flwr moves."""

import json
import ssl
import threading
import time
from contextlib import suppress

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, Message
from flwr.app.message import remove_content_from_message
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest

from fedkit.errors import FederationError
from fedkit.federation import flower_api, wire
from fedkit.federation.flower_grid import LinkGrid
from fedkit.federation.flower_link import Link
from fedkit.types import ClientUpdate
from tests.federation.link import served


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with served(tmp_path_factory.mktemp("link")) as found:
        yield found


@pytest.fixture(autouse=True)
def _hung_up(here):
    yield
    here.hang_up()


@pytest.fixture
def grid(here):
    run = here.link.begin_run()
    yield LinkGrid(here.link, run, spool=here.folder)
    here.link.end_run(run)


def ask(grid, *nodes, size=5, ttl=30.0):
    content = wire.pack_model(np.arange(size, dtype=np.float32), 1, 0.0)
    return list(grid.push_messages([grid.create_message(content, "train", n.node_id, "", ttl=ttl) for n in nodes]))


def update(size=5, value=1.0):
    return wire.pack_update(ClientUpdate("x", np.full(size, value, np.float32), 3.0))


def replies(grid, ids, seconds=5.0):
    end, found = time.monotonic() + seconds, []
    while len(found) < len(ids) and time.monotonic() < end:
        found += grid.pull_messages(ids)
        if len(found) < len(ids):
            grid.wait_for_reply(0.1)
    return found


@pytest.mark.parametrize("size", [5, 3_000_000])
def test_a_model_goes_out_and_its_update_comes_back(here, grid, size):
    north, south = here.node("north"), here.node("south")
    ids = ask(grid, north, south, size=size)
    for value, node in ((1.0, north), (2.0, south)):
        received = node.receive()
        parameters, number, _ = wire.unpack_model(received.message.content)
        assert (number, received.kind) == (1, "train")
        assert np.array_equal(parameters, np.arange(size, dtype=np.float32))
        assert node.answer(received, update(size, value), 0.1) > 4 * size
    found = {r.metadata.src_node_id: wire.unpack_update(r.content, "x", size) for r in replies(grid, ids)}
    assert found[north.node_id].delta[-1] == 1.0 and found[south.node_id].delta[-1] == 2.0
    assert grid.bytes_by_node[north.node_id] > 4 * size
    assert len(here.link.state.object_store) == 0


def test_a_code_comes_back_in_place_of_an_update(here, grid):
    north = here.node("north")
    ids = ask(grid, north)
    north.answer(north.receive(), "FK339", 0.0)
    (reply,) = replies(grid, ids)
    assert reply.has_error() and reply.error.reason == "FK339"


def test_a_node_that_waits_is_woken_by_a_message(here, grid):
    north, ids = here.node("north", wait=60.0), []
    threading.Timer(0.5, lambda: ids.extend(ask(grid, north))).start()
    start = time.monotonic()
    received = north.receive()
    assert received is not None and time.monotonic() - start < 45
    north.answer(received, "FK500", 0.0)


def test_a_wait_ends(here):
    assert here.node("north", wait=0.3).receive() is None


def test_a_reply_that_comes_between_a_look_and_the_wait_is_not_waited_for(here, grid):
    north = here.node("north")
    ids = ask(grid, north)
    received = north.receive()
    assert list(grid.pull_messages(ids)) == []
    north.answer(received, update(), 0.0)
    began = time.monotonic()
    grid.wait_for_reply(5.0)
    assert time.monotonic() - began < 1.0
    assert len(list(grid.pull_messages(ids))) == 1


def test_what_a_killed_node_had_not_answered_comes_again_at_once(here, grid):
    ids = ask(grid, here.node("north"))
    first = here.node("north").receive()
    assert here.node("north", wait=0.3).receive().message.metadata.message_id == first.message.metadata.message_id
    north = here.node("north")
    again = north.receive()
    north.answer(again, update(), 0.0)
    assert len(replies(grid, ids)) == 1
    assert here.node("north", wait=0.3).receive() is None


@pytest.mark.parametrize("odd", [[0] * 5000, "all", []])
def test_an_array_that_names_its_parts_without_end_is_refused(here, grid, monkeypatch, odd):
    north = here.node("north")
    ids = ask(grid, north)
    received, deflate = north.receive(), Array.deflate

    def lie(self):
        head, _, body = deflate(self).partition(b"\0")
        said = json.dumps(json.loads(body) | {"arraychunk_ids": odd}).encode()
        kind, children, _ = head.decode().split(" ")
        return f"{kind} {children} {len(said)}".encode() + b"\0" + said

    monkeypatch.setattr(Array, "deflate", lie)
    north.answer(received, update(), 0.0)
    monkeypatch.undo()
    (reply,) = replies(grid, ids)
    assert reply.has_error() or reply.content["arrays"]["parameters"].data == b""


def test_a_strangers_body_is_not_kept(here):
    with httpx.Client(verify=ssl.create_default_context(cafile=str(here.crt))) as client:
        large, small = (
            client.post(f"https://127.0.0.1:{here.port}/v1/fleet/push-object", content=b"0" * size)
            for size in (2**17, 2**10)
        )
    assert large.status_code == 413 and small.status_code in (400, 401, 415)


def test_only_registered_nodes_may_speak(here):
    stranger = here.connection(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(httpx.HTTPStatusError):
        stranger.activate()
    stranger.node_id = here.node("north").node_id
    with pytest.raises(httpx.HTTPStatusError) as error:
        stranger.receive()
    assert error.value.response.status_code == 401


def test_an_unregistered_node_is_out(here):
    gone = here.node("gone")
    here.link.unregister(gone.node_id)
    with pytest.raises(httpx.HTTPStatusError):
        gone.receive()


def test_a_node_cannot_answer_in_anothers_name(here, grid):
    north, south = here.node("north"), here.node("south")
    ids = ask(grid, north)
    received = north.receive()
    with pytest.raises(httpx.HTTPStatusError) as error:
        # South sends what only north was asked for, under north's number.
        south.answer(received, update(), 0.0)
    assert error.value.response.status_code == 403
    assert replies(grid, ids, seconds=0.3) == []


def test_a_second_reply_is_not_taken(here, grid):
    north = here.node("north")
    ids = ask(grid, north)
    received = north.receive()
    north.answer(received, update(value=1.0), 0.0)
    with suppress(httpx.HTTPError):
        north.answer(received, update(value=2.0), 0.0)
    (reply,) = replies(grid, ids)
    assert wire.unpack_update(reply.content, "x", 5).delta[0] == 1.0
    assert replies(grid, ids, seconds=0.3) == []


def test_a_reply_is_announced_once(here, grid):
    north = here.node("north")
    ids = ask(grid, north)
    received = north.receive()
    first, link, tree = Message(update(), reply_to=received.message), here.link, ObjectTree(object_id="a" * 64)
    first.metadata.__dict__["_message_id"] = "a" * 64
    session = link.state.start_session(grid.run.run_id)
    bare = remove_content_from_message(first)
    assert link.state.store_message_and_object_tree(bare, tree, session) == (True, ["a" * 64])
    more = ObjectTree(object_id="a" * 64, children=[ObjectTree(object_id="b" * 64)])
    assert link.state.store_message_and_object_tree(bare, more, session) == (False, [])
    assert "b" * 64 not in link.state.object_store and not list(grid.pull_messages(ids))


def test_a_reply_with_more_bytes_than_expected_is_an_error_of_its_site(here):
    run = here.link.begin_run()
    grid, north = LinkGrid(here.link, run, most_bytes=1000, spool=here.folder), here.node("north")
    ids = ask(grid, north)
    north.answer(north.receive(), update(size=1000), 0.0)
    (reply,) = replies(grid, ids)
    assert reply.has_error() and reply.error.reason == "FK540"
    here.link.end_run(run)


def test_a_request_with_more_bytes_than_allowed_is_refused(here, grid):
    north = here.node("north")
    north.most_bytes = 1000
    ask(grid, north, size=1000)
    with pytest.raises(FederationError, match="FK540"):
        north.receive()


def test_what_was_asked_survives_the_process(here, grid):
    ids = ask(grid, here.node("north"))
    again = Link.open(here.folder / "link.db", here.folder / "objects-again")
    assert again.state.num_message_ins() >= 1
    again.end_all_runs()
    assert again.state.num_message_ins() == 0
    assert replies(grid, ids, seconds=0.2) == []


def test_an_answer_to_a_run_that_is_over_is_dropped(here):
    run, north = here.link.begin_run(), here.node("north")
    ask(LinkGrid(here.link, run, spool=here.folder), north)
    received = north.receive()
    here.link.end_run(run)
    assert north.answer(received, update(), 0.0) == 0


def test_online_nodes_are_listed(here):
    north = here.node("north")
    assert here.link.online()[north.node_id] > time.time() + 30
    north.close()
    assert north.node_id not in here.link.online()


def test_a_push_that_cannot_be_read_or_is_huge_is_a_problem():
    assert "read" in flower_api.push_problem(b"\xff\xff")
    assert "one message" in flower_api.push_problem(PushMessagesRequest().SerializeToString())
    request = PushMessagesRequest()
    request.node.node_id = 7
    request.messages_list.add().metadata.src_node_id = 7
    tree = request.message_object_trees.add()
    assert flower_api.push_problem(request.SerializeToString()) == ""
    for _ in range(flower_api.MOST_PARTS):
        tree.children.add(object_id="a")
    assert "parts" in flower_api.push_problem(request.SerializeToString())
    assert flower_api.node_of_pull(PullMessagesRequest().SerializeToString()) == 0


def test_no_app_no_telemetry_no_update_check_is_switched_on(here):
    import os

    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0" and os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [("/v1/control/list-runs", "", 401), ("/v1/control/list-runs", "wrong", 401), ("/docs", "", 404), ("/", "", 404)],
)
def test_strangers_are_kept_out(here, path, token, status):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(verify=ssl.create_default_context(cafile=str(here.crt))) as client:
        assert client.post(f"https://127.0.0.1:{here.port}{path}", headers=headers).status_code == status


def test_a_huge_body_is_refused(here):
    north = here.node("north")
    with pytest.raises(httpx.HTTPStatusError) as error:
        north._client.PushObject(PushObjectRequest(node=north._node, object_content=b"0" * (9 * 2**20)))
    assert error.value.response.status_code == 413


def test_messages_have_no_identity_beyond_their_run(here, grid):
    message = grid.create_message(wire.pack_model(np.zeros(1, np.float32), 1, 0.0), "train", 5, "", ttl=3.0)
    assert isinstance(message, Message) and message.metadata.run_id == grid.run.run_id
