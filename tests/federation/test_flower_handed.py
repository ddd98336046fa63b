"""What is another site's is to a site what is nobody's: it cannot be fetched, tested for, completed or deleted."""

import os

import httpx
import numpy as np
import pytest
from flwr.app import Message, MetricRecord
from flwr.app.message import remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree

from fedkit.federation import flower_link
from fedkit.federation.flower_grid import LinkGrid
from fedkit.federation.flower_handed import Handed
from tests.federation.link import served
from tests.federation.test_flower_link import ask, replies, update


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    with served(tmp_path_factory.mktemp("link")) as found:
        yield found


@pytest.fixture
def grid(here):
    run = here.link.begin_run()
    yield LinkGrid(here.link, run, spool=here.folder)
    here.link.end_run(run)
    here.hang_up()


def pull(node, run, name):
    return node._client.PullObject(PullObjectRequest(node=node._node, run_id=run, object_id=name))


def push(node, run, content, session):
    name = get_object_id(content)
    request = PushObjectRequest(node=node._node, run_id=run, object_id=name, object_content=content, session_id=session)
    return node._client.PushObject(request).stored


def announced(link, node, received, contents):
    """A reply's parts as a site announces them by hand; what it is asked to bring, and the session."""
    root = get_object_id(os.urandom(9))
    message = Message(update(), reply_to=received.message)
    message.metadata.__dict__["_message_id"] = root
    tree = ObjectTree(object_id=root, children=[ObjectTree(object_id=get_object_id(each)) for each in contents])
    session = link.state.start_session(received.message.metadata.run_id)
    return link.state.store_message_and_object_tree(remove_content_from_message(message), tree, session)[1], session


def half_answered(node, received):
    """Bring all of a reply but the last part."""
    send = node._client.PushObject

    def cut(request):
        if b"ArrayChunk" in request.object_content[:64]:
            raise httpx.ReadError("cut")
        return send(request)

    node._client.PushObject = cut
    with pytest.raises(httpx.ReadError):
        node.answer(received, update(value=4.0), 0.0)
    node._client.PushObject = send


def test_what_a_site_guesses_of_anothers_reply_is_answered_like_what_nobody_has(here, grid):
    north, south = here.node("north", wait=0.3), here.node("south", wait=0.3)
    run, ids = grid.run.run_id, ask(grid, north, south)
    half_answered(north, north.receive())
    guess = MetricRecord({"num-examples": 3.0}).deflate()
    assert get_object_id(guess) in here.link.state.object_store, "north's weight is there to be guessed"
    assert pull(south, run, get_object_id(guess)) == pull(south, run, "0" * 64)
    assert not pull(south, run, get_object_id(guess)).object_found
    # Whoever announces a part is asked for it, whether or not another has brought it.
    nobody = os.urandom(99)
    wanted, session = announced(here.link, south, south.receive(), [guess, nobody])
    assert {get_object_id(guess), get_object_id(nobody)} <= set(wanted)
    assert push(south, run, guess, session)
    assert len(ids) == 2


def test_a_part_counts_for_the_site_that_brought_it_alone(here, grid):
    north, south = here.node("north", wait=0.3), here.node("south", wait=0.3)
    run, ids = grid.run.run_id, ask(grid, north, south)
    chunk = ArrayChunk(memoryview(np.full(5, 4.0, np.float32).tobytes())).deflate()
    half_answered(north, north.receive())
    _, session = announced(here.link, south, south.receive(), [chunk])
    assert push(south, run, chunk, session)
    assert north.receive() is not None, "north's reply still lacks its own part"
    # A session is its node's; without one nothing is taken.
    assert not push(south, run, chunk, "")
    assert not push(south, run, chunk, session)
    assert replies(grid, ids[:1], 0.2) == []


def test_a_session_that_was_given_up_tells_nothing_of_others(here, grid):
    north, south = here.node("north", wait=0.3), here.node("south", wait=0.3)
    run, _ = grid.run.run_id, ask(grid, north, south)
    half_answered(north, north.receive())
    guess, received = MetricRecord({"num-examples": 3.0}).deflate(), south.receive()
    _, session = announced(here.link, south, received, [guess, b"other"])
    announced(here.link, south, received, [b"another"])
    assert get_object_id(guess) in here.link.state.object_store
    assert not push(south, run, guess, session)


def test_what_a_site_says_of_a_part_before_it_is_sent_changes_nobodys_message(here, grid):
    north, south = here.node("north", wait=0.3), here.node("south", wait=0.3)
    (known,) = ask(grid, south, size=5)
    tree = here.link.state.object_store.get_object_tree(known)
    (array,) = [part for part in iterate_object_tree(tree) if len(part.children) == 1 and not part.children[0].children]
    other = LinkGrid(here.link, here.link.begin_run(), spool=here.folder)
    received = south.receive()
    ask(other, north, size=7)
    # The run ends, and with it what was there of the model; south lays down other parts under the array's name.
    message = Message(update(), reply_to=received.message)
    message.metadata.__dict__["_message_id"] = "e" * 64
    forged = ObjectTree(object_id=array.object_id, children=[ObjectTree(object_id="f" * 64)])
    here.link.state.object_store.delete(known)
    assert array.object_id not in here.link.state.object_store
    root, session = ObjectTree(object_id="e" * 64, children=[forged]), here.link.state.start_session(grid.run.run_id)
    assert here.link.state.store_message_and_object_tree(remove_content_from_message(message), root, session)[0]
    assert array.object_id in here.link.state.object_store
    ask(other, north, size=5)
    assert north.receive().message.has_content()
    here.link.end_run(other.run.run_id)
    assert here.link.state.object_store._requests.keys() <= {known}


def test_no_site_fetches_or_ends_anothers_message(here, grid):
    north, south = here.node("north", wait=0.3), here.node("south", wait=0.3)
    run, (message,) = grid.run.run_id, ask(grid, north, size=5)
    parts = [str(p.object_id) for p in iterate_object_tree(here.link.state.object_store.get_object_tree(message))]
    assert not any(pull(south, run, part).object_found for part in parts)
    confirm = ConfirmMessageReceivedRequest(node=south._node, run_id=run, message_object_id=message)
    south._client.ConfirmMessageReceived(confirm)
    assert all(pull(north, run, part).object_available for part in parts)
    assert north.receive() is not None


def test_a_reply_has_no_more_bytes_on_disk_than_its_run_expects_and_goes_with_its_round(here, grid, monkeypatch):
    monkeypatch.setattr(flower_link, "_BESIDE_ARRAYS", 300_000)
    grid.most_bytes = 1000
    north = here.node("north", wait=0.3)
    ask(grid, north)
    received, run = north.receive(), grid.run.run_id
    contents = [ArrayChunk(memoryview(os.urandom(100_000))).deflate() for _ in range(6)]
    _, session = announced(here.link, north, received, contents)
    assert [push(north, run, each, session) for each in contents] == [True] * 3 + [False] * 3
    # The same again under another name drops what was there.
    _, session = announced(here.link, north, received, contents[3:])
    assert [push(north, run, each, session) for each in contents[3:]] == [True] * 3
    assert _on_disk(here) <= 310_000
    (second,) = ask(grid, north)
    assert _on_disk(here) == 0
    assert north.receive().message.metadata.message_id == second
    assert north.receive().message.metadata.message_id == second, "nothing of the first round is asked again"


def _on_disk(here):
    return sum(path.stat().st_size for path in (here.folder / "objects").iterdir())


def test_a_run_that_asked_nothing_takes_nothing(here):
    run = here.link.begin_run()
    assert here.link.most_reply(run) == 0
    here.link.bound_replies(run, 10)
    assert here.link.most_reply(run) > 10
    here.link.end_run(run)
    assert here.link.most_reply(run) == 0


def test_what_is_handed_out_is_forgotten_with_its_message_or_run():
    handed = Handed()
    assert handed.add(1, 7, "a", ["x"]) == [] and handed.add(2, 7, "b", ["x"]) == [] and handed.add(1, 8, "c", []) == []
    assert handed.has_part(1, 7, "x") and not handed.has_part(1, 8, "x") and not handed.has_part(3, 7, "x")
    assert handed.add(1, 7, "d", ["y"]) == ["a"]
    handed.drop(["a"])
    assert not handed.is_message(1, "a") and handed.is_message(2, "b")
    handed.drop_run(7)
    assert handed.is_message(1, "c") and not handed.is_message(2, "b") and not handed.has_part(1, 7, "y")


def test_states_of_runs_that_a_site_makes_up_are_not_kept_without_bound(here):
    for number in range(2 * flower_link._MOST_STATUSES):
        here.link.state.get_run_status({number})
    assert len(here.link.statuses) <= flower_link._MOST_STATUSES
