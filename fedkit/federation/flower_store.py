"""Flower's object store with the large objects in files: neither memory nor a database holds a model.

What it holds is lost with the process, and need not survive it: a coordinator that starts again asks anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_id, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

_SMALL = 2**16
_BUT: ContextVar[frozenset[str] | None] = ContextVar("_BUT", default=None)


@contextmanager
def every_part(*, but: frozenset[str]) -> Iterator[None]:
    """Within it, parts that the store has already count as missing too, but these."""
    token = _BUT.set(but)
    try:
        yield
    finally:
        _BUT.reset(token)


def part_names(tree: ObjectTree) -> list[str]:
    """The names of a message's parts, each once."""
    return list(dict.fromkeys(str(part.object_id) for part in iterate_object_tree(tree)))


class FileObjectStore(InMemoryObjectStore):
    """Objects of 64 KiB and more lie in ``folder`` under their SHA-256, which nothing else may use."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._on_disk: set[str] = set()
        self._requests: dict[str, ObjectTree] = {}
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        """Announce a message's parts; returns those that are to be brought."""
        missing, but = super().preregister(run_id, object_tree), _BUT.get()
        if but is None:
            with self.lock_store:
                self._requests[object_tree.object_id] = object_tree
            return list(missing)
        absent = set(missing)
        return [name for name in part_names(object_tree) if name not in but or name in absent]

    def get_object_tree(self, object_id: str) -> ObjectTree:
        """A message's parts, as it was announced with.

        Flower puts it together from what whoever first announced a part has said of it: a site that knows a model could
        lay down other parts for it before it is sent.
        """
        with self.lock_store:
            known = self._requests.get(object_id) if object_id in self.store else None
        return super().get_object_tree(object_id) if known is None else known

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store an object that was announced, once its bytes are found to be what its name says."""
        if len(object_content) < _SMALL:
            super().put(object_id, object_content)
            return
        if get_object_id(object_content) != object_id:
            raise ValueError(f"Object ID {object_id} does not match content hash")
        validate_object_content(content=object_content)
        path = self._folder / object_id
        # Written outside the lock: two who bring the same object write the same bytes.
        scrap = self._folder / f".{object_id}.{id(object_content)}"
        try:
            scrap.write_bytes(object_content)
        except OSError:
            scrap.unlink(missing_ok=True)
            raise
        scrap.replace(path)
        with self.lock_store:
            entry = self.store.get(object_id)
            if entry is None:
                path.unlink(missing_ok=True)
                # Small as it is, the base class says what is wrong.
                super().put(object_id, object_content)
            else:
                entry.is_available = True
                self._on_disk.add(object_id)

    def get(self, object_id: str) -> bytes | None:
        """An object's bytes; empty while it is announced and not there, None if it is neither."""
        with self.lock_store:
            if object_id not in self._on_disk:
                return super().get(object_id)
            path = self._folder / object_id
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return super().get(object_id)

    def delete(self, object_id: str) -> None:
        """Delete an object that nobody refers to, and what it alone referred to."""
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store:
                self._requests.pop(object_id, None)
            if object_id not in self.store and object_id in self._on_disk:
                self._on_disk.discard(object_id)
                (self._folder / object_id).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete everything."""
        with self.lock_store:
            super().clear()
            self._on_disk.clear()
            self._requests.clear()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700, parents=True)
