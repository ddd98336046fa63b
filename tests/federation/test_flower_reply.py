"""What stands around everything that leaves of a reply keeps the rest of it in, and the request comes again."""

from contextlib import contextmanager

import pytest

from fedkit.errors import FederationError
from fedkit.federation.flower_grid import LinkGrid
from fedkit.federation.flower_node import UnreadableRequest
from fedkit.governance.pause import PAUSED, PauseFile
from tests.federation.link import served
from tests.federation.test_broken_off import value
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


def _counted(node):
    """Whatever of a reply is sent, in order."""
    sent = []

    def counted(name, real):
        def call(request):
            sent.append(name)
            return real(request)

        return call

    for name in ("PushMessages", "PushObject"):
        setattr(node._client, name, counted(name, getattr(node._client, name)))
    return sent


def test_everything_that_leaves_of_a_reply_passes_the_release(link, line):
    north, inside = link.node("north"), []
    ids = ask(line, north)
    received, sent = north.receive(), _counted(north)

    @contextmanager
    def release(reply):
        before = len(sent)
        yield
        inside.extend(sent[before:])

    north.release = release
    north.answer(received, update(value=1.0), 0.0)
    # The first announces the reply, and with it the hashes of its parts.
    assert inside == sent == ["PushMessages"] + ["PushObject"] * (len(sent) - 1) and len(sent) > 3
    assert value(replies(line, ids)[0]) == 1.0


@pytest.mark.parametrize("parts", [0, 1, 2, 4])
def test_a_pause_between_parts_keeps_the_rest_in_and_the_round_is_answered_after_it(link, line, tmp_path, parts):
    pause, north = PauseFile(tmp_path / "paused.json"), link.node("north", wait=0.3)
    ids = ask(line, north)
    received, sent = north.receive(), _counted(north)

    @contextmanager
    def release(reply):
        if len(sent) == parts:
            pause.put("", 1.0)
        with pause.release(reply):
            yield

    north.release, north.refusal = release, pause.refusal
    with pytest.raises(FederationError, match="FK580"):
        north.answer(received, update(value=1.0), 0.0)
    assert len(sent) == parts
    north.release = pause.release
    with pytest.raises(UnreadableRequest) as unread:
        north.receive()
    north._object = lambda *_: pytest.fail("a paused site fetches nothing")
    north.answer(unread.value.received, PAUSED, 0.0)
    (reply,) = replies(line, ids)
    assert reply.has_error() and reply.error.reason == "FK580"
    assert len(link.link.state.object_store) == 0
    pause.take_away()
    again = link.node("north", wait=0.3)
    ids = ask(line, again)
    again.answer(again.receive(), update(value=2.0), 0.0)
    assert value(replies(line, ids)[0]) == 2.0
