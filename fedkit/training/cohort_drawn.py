"""Sites whose lots and noise are drawn in compiled code too, many of them in one call.

What is drawn is that of :class:`fedkit.privacy.randomness.Draws` under the same key, bit for bit. The words are AES by
the processor's own instructions in place of OpenSSL's: to make two ciphers a site, and to hand arrays over, took as
long as to train a small one.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Sequence

import numpy as np

from fedkit.native.library import library
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.randomness import Draws, joins_below, keystreams, secure_key, seeded_key
from fedkit.privacy.rounded_gaussian import CHUNK, check_scale, settle
from fedkit.training.sites_read import SiteRead, SitesRead
from fedkit.training.stack_compiled import PlanRead, compiled, plan_read, privacy_of, refuse_no_class
from fedkit.types import Float32, Int64, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

_SITE = struct.Struct("=6Q2qd32s")
"""As ``fedkit/native/sites.c`` has it."""
_MOST = 2**18
"""Numbers of a site's noise, and words of its lots: what they need is in memory together."""
_CHECKED = 67


@functools.cache
def draws_here() -> bool:
    """Whether this processor has instructions for AES, and gives OpenSSL's words with them."""
    found = library()
    if found is None or not found.fedkit_has_aes():
        return False
    key = bytes(range(32))
    ours, theirs = np.empty((2, _CHECKED), dtype=np.uint64), np.empty((2, _CHECKED), dtype=np.uint64)
    for segment, stream in enumerate(keystreams(key, 2)):
        stream(theirs[segment])
        found.fedkit_keystream(key, segment, 0, ours[segment].ctypes.data, _CHECKED)
    return np.array_equal(ours, theirs)


class Drawn:
    """Some sites of a round, ready for compiled code.

    Args:
        layers: as :func:`fedkit.training.stack_compiled.described` gives them.
        found: float32 [sites, d], the received parameters, which become the trained ones.
        reads: what was read of the sites before.

    Guarantee: a unit joins a lot, and noise is drawn, as :class:`fedkit.privacy.randomness.Draws` says. Keys live in
    :meth:`train` alone: whoever calls it again, or in a process that was forked from this one, draws from other secure
    ones.
    """

    def __init__(
        self, layers: Int64, task: Task, sites: Sequence[Site], plan: RoundPlan, found: Float32, reads: SitesRead
    ) -> None:
        self._layers, self._code, self._d, self._task = layers, compiled(), found.shape[1], task
        self._held: list[object] = [found]
        self._plans: dict[tuple[object, ...], PlanRead] = {}
        self._sites: list[tuple[tuple[object, ...], float]] = []
        self._keys = [functools.partial(_key, site, privacy_of(plan.sites[site.name]), plan) for site in sites]
        most = steps = 1
        width, at, each = int(layers[0, 0]), found.ctypes.data, found.strides[0]
        for row, site in enumerate(sites):
            local = plan.sites[site.name]
            privacy = privacy_of(local)
            read = reads.of(site, task, width)
            self._held.append(read)
            self._sites.append((self._told(read, local, plan, at + row * each), _scale(privacy, self._d)))
            most, steps = max(most, privacy.steps * len(site.train)), max(steps, privacy.steps)
        self._words = np.empty(max(most, self._d + 1), dtype=np.uint64)
        self._doubtful, self._noise = np.empty((self._d + 1) // 2, dtype=np.int64), np.empty((steps, self._d))
        self._lots = np.empty(most, dtype=np.int64), np.empty(steps + 1, dtype=np.int64)
        stack = layers.ctypes.data, len(layers)
        moving = any(each.adam or each.mu for each in self._plans.values())
        self._state = np.empty(self._code.fedkit_state(*stack) if moving else 0, dtype=np.float32)
        self._work = np.empty(self._code.fedkit_private_memory(*stack))

    @classmethod
    def of(
        cls, layers: Int64, task: Task, sites: Sequence[Site], plan: RoundPlan, found: Float32, reads: SitesRead
    ) -> Drawn | None:
        """Some sites, if there is compiled code for the draws and none has too many."""
        few = draws_here() and all(
            _few(privacy_of(plan.sites[site.name]), len(site.train), found.shape[1]) for site in sites
        )
        return cls(layers, task, sites, plan, found, reads) if few else None

    def train(self) -> None:
        """Train all of them, one after another.

        Raises:
            TrainingError: FK409, a target that is no class.
        """
        halt, stack = np.zeros(4, dtype=np.int64), (self._layers.ctypes.data, len(self._layers))
        keys, source = [key() for key in self._keys], dict[int, Draws]()
        written = b"".join(_SITE.pack(*told, scale, key) for (told, scale), key in zip(self._sites, keys, strict=True))
        room = self._words, self._doubtful, *self._lots, self._noise, self._state, self._work
        addresses = [part.ctypes.data if part.size else None for part in (halt, *room)]
        while self._code.fedkit_sites(*stack, written, len(keys), self._d, *addresses):
            site, step, doubtful, _ = halt.tolist()
            refuse_no_class(not doubtful, self._task)
            if site not in source:
                source = {site: Draws(keys[site])}
            self._settle(site, step, doubtful, source[site])
            halt[3] = step + 1

    def _settle(self, site: int, step: int, count: int, source: Draws) -> None:
        pairs, noise = len(self._doubtful), self._noise[step]
        words, scale = self._words[: 2 * pairs].reshape(2, pairs), self._sites[site][1]
        for index in self._doubtful[:count].tolist():
            settle(noise[:pairs], noise[pairs:], words, index, source.noise[1], scale)

    def _told(self, site: SiteRead, local: LocalPlan, plan: RoundPlan, at: int) -> tuple[object, ...]:
        privacy = privacy_of(local)
        kind = (
            privacy.max_lot,
            privacy.max_grad_norm,
            privacy.lot_size,
            privacy.steps,
            local.optimizer,
            local.learning_rate,
        )
        read = self._plans.get(kind)
        if read is None:
            read = self._plans[kind] = plan_read(self._task, local, privacy, plan.proximal_mu)
        below = joins_below(privacy.sample_rate)
        return *site.addresses, at, ctypes.addressof(read), below % 2**64, below >> 64, len(site.order)


def _key(site: Site, privacy: PrivacyPlan, plan: RoundPlan) -> bytes:
    if privacy.noise == "secure":
        return secure_key()
    return seeded_key(plan.seed, plan.round, site.name, "lots and noise")


def _scale(privacy: PrivacyPlan, d: int) -> float:
    scale = privacy.noise_multiplier * slack(d) * G
    check_scale(scale)
    return scale


def _few(privacy: PrivacyPlan, units: int, d: int) -> bool:
    return privacy.steps * max(d, units) <= _MOST and d <= 2 * CHUNK
