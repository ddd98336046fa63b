"""Messages put together from Flower's objects, with the data of arrays in a file in place of memory.

Flower joins an array's parts in memory, as often as the array's own header says: a hundred bytes can ask for a
terabyte. Here the whole has a bound, and a large model costs pages that the system can take back.
"""

from __future__ import annotations

import json
import mmap
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flwr.app import Array, ArrayRecord, Message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    get_object_body,
    get_object_head_values_from_object_content,
    get_object_type_from_object_content,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedkit.errors import FederationError
from fedkit.federation.packed import array_over

_SMALL = 2**20
_MOST_HEAD = 2**18
_MOST_PARTS = 4096
_CHUNK_HEAD = 64
_MOST_SMALL = 4 * 2**20


def assemble(bare: Message, tree: ObjectTree, get: Callable[[str], bytes], *, most_bytes: int, spool: Path) -> Message:
    """A whole message from its objects.

    Args:
        bare: the message without its content.
        get: an object's content by its id.
        most_bytes: of all arrays together; the rest may have 4 MiB.
        spool: folder of the files, which have no name and go with the message.

    Raises:
        FederationError: FK540, an object that is not what it should be, or more bytes than that.
    """
    try:
        return _assemble(bare, tree, get, most_bytes, spool)
    except (FederationError, OSError):
        raise
    except Exception as error:
        raise FederationError(f"the message cannot be read ({type(error).__name__})", code="FK540") from None


def _assemble(bare: Message, tree: ObjectTree, get: Callable[[str], bytes], most_bytes: int, spool: Path) -> Message:
    contents: dict[str, bytes] = {}
    arrays: dict[str, Any] = {}  # and the records that hold them
    left = most_bytes
    for object_id, content in _without_parts(tree, get):
        if content.startswith(b"Array "):
            if len(content) > _MOST_HEAD:
                raise FederationError(f"an array's description has more than {_MOST_HEAD:,} bytes", code="FK540")
            array, size = _array(content, get, left, spool)
            arrays[object_id], left = array, left - size
        contents[object_id] = content
        if sum(map(len, contents.values())) > _MOST_SMALL:
            raise FederationError(f"the message holds more than {_MOST_SMALL:,} bytes beside arrays", code="FK540")
    for object_id, content in contents.items():
        if content.startswith(b"ArrayRecord "):
            # Flower's own inflation copies each array.
            record = ArrayRecord()
            for name, array_id in json.loads(get_object_body(content, ArrayRecord)).items():
                record[str(name)] = arrays[array_id]
            arrays[object_id] = record
    whole: Any = inflate_object_from_contents(bare.metadata.message_id, contents, objects=arrays)
    if not isinstance(whole, Message):
        raise TypeError
    whole.metadata.__dict__["_message_id"] = bare.metadata.message_id
    # What was stored beside the message is what the link has checked; what is inside it is the sender's word.
    for name in ("run_id", "src_node_id", "dst_node_id", "reply_to_message_id", "message_type"):
        if getattr(whole.metadata, name) != getattr(bare.metadata, name):
            raise FederationError(f"the message names another {name} than its envelope", code="FK540")
    return whole


def has_more_parts(tree: ObjectTree, most: int) -> bool:
    """Whether a tree holds more objects than that; it is looked at no further."""
    waiting, found = [tree], 0
    while waiting:
        found += 1
        children = waiting.pop().children
        if found + len(waiting) + len(children) > most:
            return True
        waiting += children
    return False


def _without_parts(tree: ObjectTree, get: Callable[[str], bytes]) -> Iterator[tuple[str, bytes]]:
    """Every object but the parts of arrays, each once."""
    seen, waiting = set[str](), [tree]
    while waiting:
        node = waiting.pop()
        if node.object_id in seen:
            continue
        seen.add(node.object_id)
        content = get(node.object_id)
        yield node.object_id, content
        if not content.startswith(b"Array "):
            waiting += node.children


def _body(whole: bytes) -> memoryview:
    """A part's bytes, of which Flower would make a copy."""
    if get_object_type_from_object_content(whole) != ArrayChunk.__qualname__:
        raise FederationError("a part of an array is none", code="FK540")
    return memoryview(whole)[whole.index(HEAD_BODY_DIVIDER) + len(HEAD_BODY_DIVIDER) :]


def _array(content: bytes, get: Callable[[str], bytes], most_bytes: int, spool: Path) -> tuple[Array, int]:
    said = json.loads(get_object_body(content, Array))
    names = get_object_head_values_from_object_content(content)[1]
    order, size = said["arraychunk_ids"], 0
    # Equal parts of one array are stored once and named as often as they occur: each costs a read, and none is empty.
    if not isinstance(order, list) or len(order) > _MOST_PARTS:
        raise FederationError(f"an array has more than {_MOST_PARTS:,} parts", code="FK540")
    # The file outlives its name, and goes when nobody maps it any longer.
    with tempfile.TemporaryFile(dir=spool) as file:
        for index in order:
            whole = get(names[index])
            part = _body(whole)
            if not part or len(whole) > len(part) + _CHUNK_HEAD:
                raise FederationError("a part of an array is empty, or more head than part", code="FK540")
            size += len(part)
            if size > most_bytes:
                raise FederationError(f"the arrays hold more than the {most_bytes:,} bytes expected", code="FK540")
            file.write(part)
        file.flush()
        if size <= _SMALL:
            file.seek(0)
            data: Any = file.read()
        else:
            data = memoryview(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ))
    return array_over(data, str(said["dtype"]), said["shape"], str(said["stype"])), size
