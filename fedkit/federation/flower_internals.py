"""Everything private of Flower 1.41 that fedkit leans on; ``test_flower_internals`` fails when it moves."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

# Read when flwr is first imported: nothing about a hospital's runs goes to a third party.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

import logging

from flwr.app import Message
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)

LOCAL_RUN_ID = 1


def empty_run() -> Run:
    """The run that an in-process Grid belongs to."""
    return Run.create_empty(LOCAL_RUN_ID)


@contextmanager
def local_identity() -> Iterator[None]:
    """Let ``Message(...)`` be made outside a SuperLink's task; a real task's identity is left alone."""
    before = (TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id)
    unset: bool = before[1] is None
    if unset:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, LOCAL_RUN_ID, 1
    try:
        yield
    finally:
        TaskIdentity._task_id, TaskIdentity._run_id, TaskIdentity._node_id = before


def assign_id(message: Message, message_id: str = "") -> str:
    """Give a message an id, as a SuperLink would: one that is unique in the world, or where the message is known."""
    message_id = message_id or str(uuid4())
    message.metadata.__dict__["_message_id"] = message_id
    return message_id


@contextmanager
def seeded_sampling(seed: int) -> Iterator[None]:
    """Make a strategy's own client sampling (``random.sample`` on the global generator) reproducible."""
    before = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)


def submit_run(address: str, *, server_app: str, client_app: str, settings: Mapping[str, str]) -> int:
    """Start a run from a bundle that holds no code, only the names of two installed apps.

    Args:
        address: host and port of a SuperLink's Control API (plain HTTP, loopback).
        settings: run-config entries; their keys are declared in the bundle, as Flower demands.

    Returns:
        Flower's run id.
    """
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.supercore.control.control_http_client import ControlHttpClient
    from flwr.supercore.fab import Fab

    content = thin_bundle(server_app, client_app, settings)
    fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
    request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(settings)))
    with ControlHttpClient.from_server_address(
        address, insecure=True, root_certificates=None, interceptors=[]
    ) as client:
        reply = client.StartRun(request)
    return int(reply.run_id)


def thin_bundle(server_app: str, client_app: str, settings: Mapping[str, str]) -> bytes:
    """A Flower app bundle without code: the names of two installed apps and the keys of the run's settings."""
    from flwr.cli.build import build_fab_from_files

    declared = "\n".join(f'{key} = ""' for key in settings)
    project = _THIN_BUNDLE.format(server_app=server_app, client_app=client_app, declared=declared)
    content: bytes = build_fab_from_files({"pyproject.toml": project.encode()})[0]
    return content


_THIN_BUNDLE = """\
[project]
name = "fedkit-run"
version = "1.0.0"
description = "names two installed apps; holds no code"
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<1.42"]
[tool.flwr.app]
publisher = "fedkit"
[tool.flwr.app.components]
serverapp = "{server_app}"
clientapp = "{client_app}"
[tool.flwr.app.config]
{declared}
"""
