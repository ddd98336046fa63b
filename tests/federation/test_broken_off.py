"""An answer that a kill or a cut line broke off: the request comes again, and the next answer counts."""

import httpx
import pytest
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree

from fedkit.errors import DeploymentError
from fedkit.federation import wire
from fedkit.federation.flower_grid import LinkGrid
from tests.federation.link import served
from tests.federation.test_flower_link import ask, replies, update


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    with served(tmp_path_factory.mktemp("link")) as found:
        yield found


@pytest.fixture
def line(link):
    run = link.link.begin_run()
    yield LinkGrid(link.link, run, spool=link.folder)
    link.link.end_run(run)
    link.hang_up()


def announce(link, run_id, message, number):
    """Begin to send a reply whose only part never comes; whether it is taken."""
    message.metadata.__dict__["_message_id"] = number * 64
    bare, tree = remove_content_from_message(message), ObjectTree(object_id=number * 64)
    return link.link.state.store_message_and_object_tree(bare, tree, link.link.state.start_session(run_id))[0]


def value(reply):
    return wire.unpack_update(reply.content, "x", 5).delta[0]


def test_a_request_whose_answer_broke_off_comes_again(link, line):
    north = link.node("north")
    ids = ask(line, north)
    received = north.receive()

    def cut(_):
        raise httpx.ReadError("cut")

    north._client.PushObject = cut
    with pytest.raises(httpx.ReadError):
        north.answer(received, update(value=1.0), 0.0)
    again = link.node("north", wait=0.3)
    again.answer(again.receive(), update(value=2.0), 0.0)
    (reply,) = replies(line, ids)
    assert value(reply) == 2.0
    assert link.node("north", wait=0.3).receive() is None
    assert len(link.link.state.object_store) == 0


def test_a_request_that_was_lost_on_the_line_is_given_to_the_next_who_asks(link, line):
    north = link.node("north", wait=0.3)
    ids = ask(line, north)
    # A question that a cut line held back comes in beside the site's new one, and takes the request into the void.
    assert north.receive() is not None
    north.answer(north.receive(), update(value=2.0), 0.0)
    assert north.receive() is None
    (reply,) = replies(line, ids)
    assert value(reply) == 2.0


def test_an_answer_that_one_held_back_by_the_line_displaces_is_sent_again(link, line):
    north = link.node("north", wait=0.3)
    ids = ask(line, north)
    received = north.receive()
    late, send = Message(update(value=1.0), reply_to=received.message), north._client.PushObject

    def push(request):
        assert announce(link, line.run.run_id, late, "a")
        return send(request)

    north._client.PushObject = push
    with pytest.raises(DeploymentError, match="FK756"):
        north.answer(received, update(value=2.0), 0.0)
    north._client.PushObject = send
    north.answer(north.receive(), update(value=2.0), 0.0)
    (reply,) = replies(line, ids)
    assert value(reply) == 2.0


def test_only_the_node_itself_displaces_its_answer(link, line):
    north, south = link.node("north"), link.node("south")
    ids = ask(line, north)
    received = north.receive()
    assert announce(link, line.run.run_id, Message(update(), reply_to=received.message), "b")
    other = Message(update(), reply_to=received.message)
    other.metadata.__dict__["_src_node_id"] = south.node_id
    assert not announce(link, line.run.run_id, other, "c")
    replies_ = link.link.replies
    assert replies_.broken_off(north.node_id) == ids and replies_.broken_off(south.node_id) == []
