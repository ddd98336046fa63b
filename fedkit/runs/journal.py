"""A run's rounds on disk, so that a coordinator that was killed goes on where it was.

::

    RUN/journal/steps.jsonl           one step a line; each vouches for all before it
    RUN/journal/00002-model.f32       little-endian float32, one flat array a file
    RUN/journal/00002-state-m.f32
    RUN/journal/00003-update-0001.safetensors   by the site's place among those that were asked

A step's files are on disk before the step is, and the step before the call returns. Whatever a crash leaves can be
read: a torn last step never happened. Files of a round go once the round has ended; what else has a link to an update
keeps it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedkit.errors import RunError
from fedkit.runs.directory import cannot_write
from fedkit.runs.resume import FORMAT, STEPS, Resume, end_of_readable, resume_point
from fedkit.runs.updates import as_safetensors, mapped_update
from fedkit.storage.atomic import sync_folder
from fedkit.storage.chain import Entry, link
from fedkit.storage.mapped import slices
from fedkit.types import ClientUpdate, Float32


@dataclass
class Journal:
    """The journal of one run, open in one process; made by :func:`open_journal`.

    Attributes:
        folder: ``RUN/journal``.
    """

    folder: Path
    _file: BinaryIO
    _last: Entry | None
    _model_files: frozenset[str] = frozenset()

    def load(self) -> Resume | None:
        """Where the run stands; None if it has not begun.

        Raises:
            RunError: FK631, an earlier step is corrupted; FK632, a file that a step names is missing or altered.
        """
        return resume_point(self.folder)

    def begin(self, identity: Mapping[str, Any], parameters: Float32, state: Mapping[str, Float32]) -> None:
        """The run's first step: whose it is, the untrained model, the strategy's state."""
        self._step({"step": "begin", "format": FORMAT, "identity": dict(identity), **self._model(0, parameters, state)})

    def ask(self, number: int, purpose: str, sites: Sequence[str], request: Mapping[str, Any]) -> None:
        """Who is about to be asked for what, before anybody is.

        Args:
            request: further fields of the request, such as proximal_mu.
        """
        self._step({"step": "ask", "round": number, "purpose": purpose, "sites": list(sites), "request": dict(request)})

    def keep_update(self, number: int, place: int, update: ClientUpdate) -> None:
        """An update that was received and accepted.

        Args:
            place: of the site among those that were asked.
        """
        entry = {"weight": float(update.weight), "metrics": dict(update.metrics)}
        file = self._write(self.update_file(number, place), as_safetensors([update]))
        self._step(
            {"step": "reply", "round": number, "purpose": "train", "site": update.site, "reply": entry, "file": file}
        )

    def keep_reply(self, number: int, purpose: str, site: str, reply: Mapping[str, Any]) -> None:
        """An evaluation's reply that was received and accepted: plain numbers."""
        self._step({"step": "reply", "round": number, "purpose": purpose, "site": site, "reply": dict(reply)})

    def refuse(self, number: int, purpose: str, site: str, reason: str) -> None:
        """A reply that was refused, or a site's refusal: it is not asked again."""
        self._step({"step": "refuse", "round": number, "purpose": purpose, "site": site, "reason": reason})

    def close_phase(self, number: int, purpose: str, missing: Mapping[str, str]) -> None:
        """Nobody is waited for any longer: from here the set of replies is settled."""
        self._step({"step": "close", "round": number, "purpose": purpose, "missing": dict(missing)})

    def keep_model(self, number: int, parameters: Float32, state: Mapping[str, Float32]) -> str:
        """The round's model and the strategy's state after it, before anybody is asked to evaluate them.

        Returns:
            SHA-256 of the model's little-endian bytes, hex.
        """
        kept = self._model(number, parameters, state)
        self._step({"step": "model", "round": number, **kept})
        return str(kept["model"]["sha256"])

    def end(self, number: int, report: Mapping[str, Any], notes: Sequence[str], *, degraded: bool) -> None:
        """The round is recorded elsewhere too; its updates and the model before it are deleted."""
        self._step({"step": "end", "round": number, "report": report, "notes": list(notes), "degraded": degraded})
        self._sweep(self._model_files)

    def finish(self, outcome: str, notes: Sequence[str]) -> None:
        """The run has come to its end."""
        self._step({"step": "outcome", "outcome": outcome, "notes": list(notes)})

    def reopen(self) -> None:
        """A run that had come to its end goes on: whoever did not answer in its last round is asked again."""
        self._step({"step": "reopen"})

    def read_update(self, number: int, place: int, site: str, reply: Mapping[str, Any]) -> ClientUpdate:
        """An accepted update, its delta mapped from the file: pages are read as they are used.

        Args:
            reply: what :meth:`load` gave of it: weight and metrics.
        """
        path = self.update_file(number, place)
        try:
            delta = mapped_update(path, site)
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(f"{path} is missing or empty", code="FK632", remedy="restore the journal") from None
        return ClientUpdate(site, delta, float(reply["weight"]), dict(reply["metrics"]))

    def update_file(self, number: int, place: int) -> Path:
        """Where an update lies until its round has ended."""
        return self.folder / f"{number:05d}-update-{place:04d}.safetensors"

    def _sweep(self, needed: Collection[str]) -> None:
        for path in self.folder.iterdir():
            if path.suffix in (".f32", ".safetensors") and path.name not in needed:
                with suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Let another process open the journal."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _model(self, number: int, parameters: Float32, state: Mapping[str, Float32]) -> dict[str, Any]:
        model = self._write(self.folder / f"{number:05d}-model.f32", _bytes(parameters))
        kept = {
            key: self._write(self.folder / f"{number:05d}-state-{key}.f32", _bytes(state[key])) for key in sorted(state)
        }
        self._model_files = frozenset(file["name"] for file in (model, *kept.values()))
        return {"model": model, "state": kept}

    def _write(self, path: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
        found, size = hashlib.sha256(), 0
        try:
            # A name that was given away with a link is another file from here on.
            path.unlink(missing_ok=True)
            with path.open("xb") as file:
                for content in parts:
                    file.write(content)
                    found.update(content)
                    size += len(content)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self.folder)
        except OSError as error:
            raise cannot_write(path, error) from None
        return {"name": path.name, "bytes": size, "sha256": found.hexdigest()}

    def _step(self, body: Mapping[str, Any]) -> None:
        if self._file.closed:
            raise RunError(f"the journal {self.folder} is closed", code="FK634", remedy="open it again")
        entry = link(self._last, json.dumps(body, allow_nan=False, sort_keys=True))
        try:
            self._file.write(f"{entry.digest} {entry.body}\n".encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            # Half a line may be there: whatever came after it would be unreadable.
            with suppress(OSError):
                self._file.close()
            raise cannot_write(self.folder / STEPS, error) from None
        self._last = entry


def _bytes(values: Float32) -> Iterator[memoryview]:
    for part in slices(values):
        yield np.ascontiguousarray(values[part], dtype="<f4").data.cast("B")


def open_journal(folder: Path) -> Journal:
    """Open a run's journal, or make an empty one; a torn last step is cut off.

    Raises:
        RunError: FK630, another process has it open; FK631, an earlier step is corrupted; FK601, the disk refuses.
    """
    path = folder / STEPS
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        sync_folder(folder)
        if not _lock(file):
            raise RunError(
                f"the journal {folder} is open in another process", code="FK630", remedy="stop the other coordinator"
            )
        last, readable = end_of_readable(path)
        if readable < path.stat().st_size:
            file.truncate(readable)
            os.fsync(file.fileno())
        point = resume_point(folder, check=False)
    except OSError as error:
        file.close()
        raise cannot_write(folder, error) from None
    except BaseException:
        file.close()
        raise
    models = frozenset(name for name in point.files if "-update-" not in name) if point else frozenset()
    journal = Journal(folder, file, last, models)
    journal._sweep(point.files if point else ())
    return journal


def _lock(file: BinaryIO) -> bool:
    """Whether this process alone has the file; the kernel lets go of it when the process dies."""
    try:
        import fcntl
    except ImportError:
        # Simulations, which keep no journal, run on systems without it too.
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
