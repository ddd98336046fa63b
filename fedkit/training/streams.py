"""What a CPU does while a GPU works: draw what comes next, and fetch what is done, without waiting for the rest."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from fedkit.training.lots import Drawn
from fedkit.types import PrivacyPlan

_THREADS = 4
"""That draw for several sites at once: bits are drawn without Python's lock."""
_AHEAD, _TOGETHER = 2**20, 2**26
"""Random numbers that are drawn at once where a step needs fewer, and that all sites have drawn, about, at most."""


class Beside:
    """Streams of a device for work beside what it is doing, kept: memory of one stream is not another's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._free: SimpleQueue[torch.cuda.Stream] = SimpleQueue()
        for _ in range(_THREADS if device.type == "cuda" else 0):
            self._free.put(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Work that is done at the end of the block, whatever the device does else; on a CPU all of it is."""
        if self.device.type != "cuda":
            yield
            return
        stream = self._free.get()
        try:
            with torch.cuda.stream(stream):
                yield
            stream.synchronize()
        finally:
            self._free.put(stream)


class Draws(Protocol):
    """What one site draws, or several together."""

    privacy: PrivacyPlan

    @property
    def widest(self) -> int:
        """Numbers that a step draws of the kind of which it draws most."""
        ...

    def draw(self, steps: int, device: torch.device) -> Drawn:
        """The next steps."""
        ...


AnyDraws = TypeVar("AnyDraws", bound=Draws)


class _Site:
    """The draws of one site, in its order: the next ones begin when those before are done and few are waiting."""

    def __init__(self, pool: ThreadPoolExecutor, lots: Draws, beside: Beside) -> None:
        steps, together = lots.privacy.steps, max(1, _AHEAD // lots.widest)
        self._counts = deque(min(together, steps - first) for first in range(0, steps, together))
        self._most = max(1, _TOGETHER // (_THREADS * together * lots.widest))
        self._pool, self._lots, self._beside = pool, lots, beside
        self._lock, self._busy, self._waiting = Lock(), False, 0
        self._begun: SimpleQueue[Future[Drawn]] = SimpleQueue()
        self.windows = len(self._counts)
        self._go_on()

    def take(self) -> Drawn:
        """The next steps, once they are drawn."""
        drawn = self._begun.get().result()
        with self._lock:
            self._waiting -= 1
        self._go_on()
        return drawn

    def _go_on(self) -> None:
        with self._lock:
            if self._busy or not self._counts or self._waiting >= self._most:
                return
            self._busy, self._waiting = True, self._waiting + 1
            try:
                future = self._pool.submit(self._draw, self._counts.popleft())
            except RuntimeError:
                return  # what it was drawn for has ended
        self._begun.put(future)
        future.add_done_callback(self._done)

    def _done(self, _: Future[Drawn]) -> None:
        with self._lock:
            self._busy = False
        self._go_on()

    def _draw(self, steps: int) -> Drawn:
        with self._beside.stream():
            return self._lots.draw(steps, self._beside.device)


class Ahead(Generic[AnyDraws]):
    """What some sites draw, one site after another, drawn while the device trains those before; see :func:`ahead`."""

    def __init__(self, pool: ThreadPoolExecutor, sites: Sequence[Callable[[], AnyDraws]], beside: Beside) -> None:
        self._pool, self._sites, self._beside = pool, deque(sites), beside
        self._begun: deque[tuple[AnyDraws, _Site]] = deque()

    def next_site(self) -> tuple[AnyDraws, Iterator[Drawn]]:
        """The next site, and what it draws, some steps at a time."""
        while self._sites and len(self._begun) <= _THREADS:
            lots = self._sites.popleft()()
            self._begun.append((lots, _Site(self._pool, lots, self._beside)))
        lots, site = self._begun.popleft()
        return lots, self._windows(site)

    def _windows(self, site: _Site) -> Iterator[Drawn]:
        device = self._beside.device
        for _ in range(site.windows):
            drawn = site.take()
            for each in (drawn.noise, *drawn.records) if device.type == "cuda" else ():
                # Its memory is not given to others before the work that reads it is done.
                each.record_stream(torch.cuda.current_stream(device))
            yield drawn


@contextmanager
def ahead(sites: Sequence[Callable[[], AnyDraws]], beside: Beside) -> Iterator[Ahead[AnyDraws]]:
    """Draw for some sites in threads that end with the block.

    Args:
        sites: what makes the draws of each, called in their order.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ThreadPoolExecutor(min(_THREADS, cores))
    try:
        yield Ahead(pool, sites, beside)
    finally:
        pool.shutdown(cancel_futures=True)


class Sent:
    """A tensor on its way from a device as it is now, whatever is written to it afterwards."""

    def __init__(self, values: Tensor) -> None:
        there = values.device.type == "cuda"
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=there)
        self._values.copy_(values, non_blocking=there)
        self._event = torch.cuda.Event() if there else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(values.device))

    def arrived(self) -> Tensor:
        """The tensor on the CPU; waits for it alone."""
        if self._event is not None:
            self._event.synchronize()
        return self._values
