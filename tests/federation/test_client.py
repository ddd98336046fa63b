"""A ClientApp answers with a code and never with text: an exception may quote a record."""

import pytest
from flwr.app import Context, Message, RecordDict

from fedkit.errors import DataError, PrivacyError
from fedkit.federation import wire
from fedkit.federation.client import make_client_app
from fedkit.federation.flower_internals import assign_id, local_identity

CONTEXT = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def _ask(load, kind="query"):
    with local_identity():
        message = Message(RecordDict(), 7, kind)
        assign_id(message)
        return make_client_app(load)(message, CONTEXT)


@pytest.mark.parametrize("kind", ["query", "train", "evaluate"])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("patient Jane Doe, born 1970"), "FK500"),
        (DataError("patient Jane Doe has no age", code="FK207"), "FK500"),
        (KeyError("Jane Doe"), "FK500"),
        (PrivacyError("the budget of Jane Doe's ward", code="FK339"), "FK339"),
    ],
)
def test_no_text_of_an_exception_leaves_the_site(error, code, kind):
    def load(context):
        raise error

    reply = _ask(load, kind)
    assert reply.has_error()
    assert reply.error.reason == code


def test_a_malformed_request_is_answered_with_a_code():
    class Runtime:
        sites = {"a": None}

        def answer_train(self, names, content):
            return wire.unpack_model(content)

    reply = _ask(lambda _: Runtime(), "train")
    assert reply.has_error()
    assert reply.error.reason.startswith("FK")


def test_a_query_names_the_site():
    class Runtime:
        sites = {"north": None}

        def answer_query(self, name):
            return wire.pack_roster(wire.Roster(name, True, False))

    roster = wire.unpack_roster(_ask(lambda _: Runtime()).content)
    assert roster == wire.Roster("north", True, False)
