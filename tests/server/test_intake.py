"""Bodies under way have a bound in number, bytes and time, and nobody is put out by what another sends."""

import asyncio
import base64
import socket
import ssl
import threading
import time
from contextlib import AsyncExitStack, closing, contextmanager, suppress

import pytest
from fedkit_server import intake as module
from fedkit_server.intake import Intake, TooLarge
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from fedkit.federation.flower_grid import LinkGrid
from tests.federation.test_flower_link import ask


def slow(*parts):
    """A body that comes in these parts, and then no further."""
    left = list(parts)

    async def receive():
        await asyncio.sleep(0)
        if not left:
            await asyncio.Event().wait()
        part = left.pop(0)
        return {"type": "http.request", "body": part or b"", "more_body": part is not None}

    return receive


def whole(size):
    return slow(b"x" * size, None)


async def held(intake, sender, receive, most=100, entered=None):
    async with intake.place(sender) as place:
        if entered is not None:
            entered.set()
        return await place.read(receive, most)


def test_a_body_that_comes_whole_is_read_and_forgotten():
    async def main():
        intake = Intake(each=2, total=10)
        assert await held(intake, "a", whole(5)) == b"xxxxx"
        with pytest.raises(TooLarge):
            await held(intake, "a", whole(101))
        async with intake.place("a") as place:
            with pytest.raises(TooLarge):
                await place.read(whole(1), 100, announced=101)
        assert (intake.size, intake._places) == (0, {})

    asyncio.run(main())


def test_a_body_has_an_end_to_its_time(monkeypatch):
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.1)

    async def main():
        began, intake = time.monotonic(), Intake(each=2, total=10)
        with pytest.raises(TimeoutError):
            await held(intake, "a", slow(b"x"))
        assert time.monotonic() - began < 2.0 and intake.size == 0

    asyncio.run(main())


def test_a_sender_gives_up_its_own_oldest_body_and_nobody_elses():
    async def main():
        intake = Intake(each=2, total=1000)
        tasks = []
        for sender in "abaa":
            entered = asyncio.Event()
            tasks.append(asyncio.create_task(held(intake, sender, slow(b"x"), entered=entered)))
            await entered.wait()
        done, _ = await asyncio.wait(tasks, timeout=0.3)
        assert done == {tasks[0]} and isinstance(tasks[0].exception(), TimeoutError)
        assert await held(intake, "c", whole(3)) == b"xxx"
        for task in tasks[1:]:
            task.cancel()

    asyncio.run(main())


def test_where_all_hold_too_much_the_greatest_makes_room():
    async def main():
        intake = Intake(each=9, total=100)
        greedy = [asyncio.create_task(held(intake, "greedy", slow(b"x" * 30))) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert await held(intake, "modest", whole(20)) == b"x" * 20
        done, _ = await asyncio.wait(greedy, timeout=0.3)
        assert len(done) == 1
        for task in greedy:
            task.cancel()

    asyncio.run(main())


def test_what_is_at_work_makes_no_room_and_has_a_bound_too():
    async def main():
        intake = Intake(each=1, total=1000)
        async with AsyncExitStack() as stack:
            for _ in range(4):
                place = await stack.enter_async_context(intake.place("a"))
                assert await place.read(whole(3), 100) == b"xxx"
            assert not any(each.gone for each in intake._places["a"])
            with pytest.raises(TimeoutError):
                await held(intake, "a", whole(3))
            assert await held(intake, "b", whole(3)) == b"xxx"
        assert (intake.size, intake._places) == (0, {})

    asyncio.run(main())


class Raw:
    """A node that writes its requests by hand."""

    def __init__(self, here, key):
        self.here, self.key = here, key

    def open(self, path, length, *headers, receive_buffer=None):
        context = ssl.create_default_context(cafile=str(self.here.crt))
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.connect(("127.0.0.1", self.here.port))
        context.check_hostname = False
        found = context.wrap_socket(plain)
        found.sendall(self.head(path, length, *headers))
        found.settimeout(10.0)
        return found

    def head(self, path, length, *headers):
        moment = now().isoformat()
        head = [
            f"POST {path} HTTP/1.1", "host: x", "content-type: application/protobuf", *headers,
            f"{FLEET_HTTP_PUBLIC_KEY_HEADER}: {_text(public_key_to_bytes(self.key.public_key()))}",
            f"{FLEET_HTTP_SIGNATURE_HEADER}: {_text(sign_message(self.key, moment.encode()))}",
            f"{TIMESTAMP_HEADER}: {moment}", f"content-length: {length}", "", "",
        ]  # fmt: skip
        return "\r\n".join(head).encode()


@contextmanager
def deployed(coordinator):
    from fedkit_server import service

    from tests.federation.link import let_go
    from tests.server.builders import FakeRuns

    state, up = coordinator.state, threading.Event()
    on_wake = state.link.on_wake
    with closing(service._listen("127.0.0.1", 0)) as listening:
        server = service._server(state, FakeRuns(state), up.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert up.wait(20.0)
        yield type("Deployed", (), {"port": listening.getsockname()[1], "crt": state.folder.ca})
        server.should_exit = True
        thread.join(20.0)
    state.link.on_wake = on_wake
    let_go()


def _text(content):
    return base64.b64encode(content).decode()


@pytest.mark.slow
def test_a_node_that_sends_many_bodies_slowly_holds_four_and_another_is_served(here):
    here.node("south", wait=0.2)
    opened, size = [], 2**21
    for _ in range(12):
        each = Raw(here, here.keys["south"]).open("/v1/fleet/push-object", size)
        each.sendall(b"0" * (size - 1))
        opened.append(each)
    told = sum(_status(each) == 408 for each in opened)
    assert told == 8
    north = here.node("north", wait=0.2)
    assert north.receive() is None
    for each in opened:
        each.close()
    here.hang_up()


def _status(connection):
    connection.settimeout(1.0)
    with suppress(TimeoutError):
        return int(connection.recv(4096).split(b" ")[1])
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("what", ["part", "message"])
def test_a_request_that_was_begun_before_its_node_was_revoked_is_not_answered_after_it(here, what):
    key_name = f"revoked-{what}"
    node = here.node(key_name, wait=0.2)
    grid = LinkGrid(here.link, here.link.begin_run(), spool=here.folder)
    (message,) = ask(grid, node)
    if what == "part":
        request = PullObjectRequest(node=node._node, run_id=grid.run.run_id, object_id=message).SerializeToString()
        connection = Raw(here, here.keys[key_name]).open("/v1/fleet/pull-object", len(request))
    else:
        request = PullMessagesRequest(node=node._node).SerializeToString()
        connection = Raw(here, here.keys[key_name]).open("/v1/fleet/pull-messages", len(request), "x-fedkit-wait: 3")
    with closing(connection):
        connection.sendall(request[:-1])
        time.sleep(0.5)
        here.link.unregister(node.node_id)
        connection.sendall(request[-1:])
        answer = connection.recv(2**16)
    assert b" 401 " in answer.split(b"\r\n")[0] and message.encode() not in answer
    here.link.end_run(grid.run.run_id)
    here.hang_up()


def test_nothing_is_kept_of_a_name_that_a_stranger_makes_up(here):
    import httpx

    with httpx.Client(verify=ssl.create_default_context(cafile=str(here.crt))) as client:
        for number in range(5000, 5020):
            body = PullMessagesRequest()
            body.node.node_id = number
            headers = {"x-fedkit-wait": "5", "content-type": "application/protobuf"}
            url = f"https://127.0.0.1:{here.port}/v1/fleet/pull-messages"
            assert client.post(url, content=body.SerializeToString(), headers=headers).status_code == 401
    assert not any(number in here.wakes._events for number in range(5000, 5020))


@pytest.mark.slow
def test_an_answer_that_nobody_reads_is_not_kept(coordinator, monkeypatch):
    """Against the server as it is deployed: what is behind in its buffers goes with the connection."""
    monkeypatch.setattr(module, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(module, "LEAST_RATE", 2**23)
    from tests.server.builders import new_site

    keys, link = new_site(), coordinator.state.link
    node_id = link.register(keys.node_bytes, "north")
    grid = LinkGrid(link, link.begin_run(), spool=coordinator.state.folder.path)
    node = type("Node", (), {"node_id": node_id})
    link.state.activate_node(node_id, 30)
    (message,), store = ask(grid, node, size=2**20), link.state.object_store
    names = [str(part.object_id) for part in iterate_object_tree(store.get_object_tree(message))]
    name = max(names, key=lambda each: len(store.get(each)))
    with deployed(coordinator) as server:
        raw = Raw(server, keys.node)
        request = PullObjectRequest(run_id=grid.run.run_id, object_id=name)
        request.node.node_id = node_id
        body = request.SerializeToString()
        connection = raw.open("/v1/fleet/pull-object", len(body), receive_buffer=4096)
        connection.sendall(body)
        # One answer may wait in the system's own buffers.
        for _ in range(3):
            connection.sendall(raw.head("/v1/fleet/pull-object", len(body)) + body)
        time.sleep(4.0)
        size = 0
        with closing(connection), suppress(ConnectionError, ssl.SSLError):
            while part := connection.recv(2**16):
                size += len(part)
        assert size < 3 * 2**22
    link.end_run(grid.run.run_id)
