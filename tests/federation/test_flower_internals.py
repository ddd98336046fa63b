"""A contract: what fedkit leans on inside Flower 1.41 is still there."""

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedkit.federation import flower_internals as internals


def test_a_message_can_be_made_in_process_and_the_identity_is_put_back():
    before = TaskIdentity._run_id
    with internals.local_identity():
        message = Message(RecordDict(), 1, "query")
        assert message.metadata.run_id == internals.LOCAL_RUN_ID
        assert internals.assign_id(message) == message.metadata.message_id
        reply = Message(RecordDict(), reply_to=message)
        assert reply.metadata.reply_to_message_id == message.metadata.message_id
    assert TaskIdentity._run_id == before
    if before is None:
        with pytest.raises(RuntimeError, match="run_id is not set"):
            Message(RecordDict(), 1, "query")


def test_an_empty_run_carries_the_local_run_id():
    assert internals.empty_run().run_id == internals.LOCAL_RUN_ID


def test_the_bundle_of_a_run_holds_no_code():
    import io
    import zipfile

    content = internals.thin_bundle("pkg.server:app", "pkg.client:app", {"fedkit-config": "{}"})
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        names = set(bundle.namelist())
    assert not [name for name in names if name.endswith(".py")]
    assert "pyproject.toml" in names
    assert len(content) < 4096


def test_flower_does_not_phone_home():
    import os

    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"
