"""The page on real sockets: whoever opens connections and is silent on them keeps nobody out for long."""

import asyncio
import socket
import threading
import time
from contextlib import closing

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fedkit.web import brisk, forms
from fedkit.web.forms import BadForm, read_form

SHORT, MANY = 0.4, 8


async def _form(request):
    try:
        return PlainTextResponse(str(await read_form(request)))
    except BadForm as error:
        return PlainTextResponse(str(error), status_code=400)


async def _slow(request):
    await asyncio.sleep(3 * SHORT)
    return PlainTextResponse("slow")


@pytest.fixture
def port(monkeypatch):
    monkeypatch.setattr(brisk, "PATIENCE", SHORT)
    monkeypatch.setattr(forms, "SECONDS", SHORT)
    app = Starlette(routes=[Route("/form", _form, methods=["POST"]), Route("/slow", _slow)])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            app, http=brisk.Brisk, log_config=None, lifespan="off", ws="none", limit_concurrency=MANY
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(20)


def connected(port, said=b""):
    made = socket.create_connection(("127.0.0.1", port), timeout=20)
    made.sendall(said)
    return made


def ends(made):
    """What comes until the other side closes; raises where it does not."""
    with closing(made):
        found = b""
        while part := made.recv(4096):
            found += part
        return found


HEAD = b"POST /form HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"


@pytest.mark.parametrize("said", [b"", b"GET /slow HT", HEAD])
def test_who_does_not_ask_in_time_is_hung_up_on(port, said):
    began = time.monotonic()
    assert ends(connected(port, said)) == b"" and time.monotonic() - began < 20 * SHORT


@pytest.mark.slow
def test_half_a_second_request_is_hung_up_on_as_the_first_is(port):
    whole = HEAD + b"Content-Length: 3\r\n\r\na=1"
    assert b"{'a': '1'}" in ends(connected(port, whole + HEAD))


@pytest.mark.slow
def test_a_form_without_an_end_is_answered_and_does_nothing(port):
    made = connected(port, HEAD + b"Content-Length: 99\r\n\r\na=1")
    assert b"400 Bad Request" in (answer := ends(made)) and b"a form comes within" in answer


def test_a_drip_of_bytes_buys_no_more_time(port):
    made, began = connected(port), time.monotonic()
    made.settimeout(SHORT / 10)
    with closing(made):
        for byte in HEAD * 10:
            try:
                made.sendall(bytes([byte]))
                if made.recv(1) == b"":
                    return
            except TimeoutError:
                assert time.monotonic() - began < 20 * SHORT
            except OSError:
                return


def test_a_page_that_takes_its_time_is_not_cut_off(port):
    assert httpx.get(f"http://127.0.0.1:{port}/slow", trust_env=False).text == "slow"


def test_silent_connections_to_the_limit_keep_nobody_out_for_long(port):
    silent = [connected(port) for _ in range(MANY)]
    end = time.monotonic() + 20
    while httpx.post(f"http://127.0.0.1:{port}/form", data={"a": "1"}, trust_env=False).status_code != 200:
        assert time.monotonic() < end
        time.sleep(SHORT / 4)
    assert all(ends(each) == b"" for each in silent)
