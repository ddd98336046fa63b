"""What passes Flower's layers by is what they would have answered."""

import time

import pytest

from fedkit.federation import flower_api, flower_link
from fedkit.federation.flower_arrays import has_more_parts
from fedkit.federation.flower_link import Link

from flwr.proto.message_pb2 import ObjectTree, PullObjectResponse  # isort: skip


@pytest.mark.parametrize("size", [1, 127, 128, 2**14 - 1, 2**14, 5 * 2**20])
def test_a_part_in_pieces_is_flowers_own_response(size):
    content = bytes(size)
    whole = PullObjectResponse(object_found=True, object_available=True, object_content=content)
    pieces = flower_api._found(content)
    assert b"".join(pieces) == whole.SerializeToString()
    assert pieces[-1] is content


@pytest.mark.parametrize("content", [None, b""])
def test_a_part_that_is_not_there_is_flowers_to_explain(content):
    assert flower_api._found(content) is None


def test_a_runs_state_is_remembered_for_a_second_and_no_longer_than_the_run(tmp_path, monkeypatch):
    link = Link.open(tmp_path / "link.db", tmp_path / "objects")
    first, second = link.begin_run(), link.begin_run()
    asked = []
    monkeypatch.setattr(
        flower_link.SqlLinkState,
        "_cleanup_expired_task_tokens",
        lambda self: asked.append(time.monotonic()),
    )
    for _ in range(5):
        assert link.state.get_run_status({first})[first].status == "running"
    assert len(asked) == 1
    link.end_run(second)
    assert link.state.get_run_status({second})[second].status == "finished"
    assert link.state.get_run_status({first})[first].status == "running"
    link.end_run(first)
    assert link.state.get_run_status({first})[first].status == "finished"


def nested(depth):
    tree = ObjectTree(object_id="leaf")
    for number in range(depth - 1):
        tree = ObjectTree(object_id=str(number), children=[tree])
    return tree


def test_parts_are_counted_no_further_than_the_bound():
    flat = ObjectTree(object_id="root", children=[ObjectTree(object_id=str(n)) for n in range(9)])
    for tree in (flat, nested(10)):
        assert not has_more_parts(tree, 10) and has_more_parts(tree, 9)
    wide = ObjectTree(object_id="root", children=[ObjectTree(object_id="x")] * 200_000)
    began = time.process_time()
    assert has_more_parts(wide, 4096)
    assert time.process_time() - began < 0.5
