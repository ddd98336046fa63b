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
from fedkit.privacy.randomness import joins_below, keystreams, secure_key, seeded_key
from fedkit.privacy.rounded_gaussian import CHUNK, check_scale
from fedkit.training.stack_compiled import PlanRead, compiled, plan_read, privacy_of, rows_of, targets_of
from fedkit.types import Float32, Int64, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

_SITE = struct.Struct("=6Q2qd32s")
"""As ``fedkit/native/sites.c`` has it."""
_MOST = 2**18
"""Numbers of a site's noise, and words of its lots: what they need is in memory together."""
_DOUBTFUL = 0.25
"""Pairs of a site, expected, that further bits must decide: it is then drawn again, elsewhere."""
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

    Guarantee: a unit joins a lot, and noise is drawn, as :class:`fedkit.privacy.randomness.Draws` says. A site with a
    pair whose rounding the first bits do not settle is left as it was.
    """

    def __init__(self, layers: Int64, task: Task, sites: Sequence[Site], plan: RoundPlan, found: Float32) -> None:
        self._layers, self._code, self._d = layers, compiled(), found.shape[1]
        self._kept: list[object] = [found]
        self._plans: dict[tuple[object, ...], PlanRead] = {}
        self._sites = bytearray(_SITE.size * len(sites))
        most = steps = 1
        for row, site in enumerate(sites):
            local = plan.sites[site.name]
            privacy = privacy_of(local)
            at = found.ctypes.data + row * found.strides[0]
            _SITE.pack_into(self._sites, row * _SITE.size, *self._told(task, site, local, plan, at))
            most, steps = max(most, privacy.steps * len(site.train)), max(steps, privacy.steps)
        words = np.empty(max(most, self._d + 1), dtype=np.uint64)
        whole = [np.empty(count, dtype=np.int64) for count in ((self._d + 1) // 2, most, steps + 1)]
        stack = layers.ctypes.data, len(layers)
        moving = any(each.adam or each.mu for each in self._plans.values())
        state = np.empty(self._code.fedkit_state(*stack) if moving else 0, dtype=np.float32)
        work = np.empty(self._code.fedkit_private_memory(*stack))
        room = words, *whole, np.empty(steps * self._d), state, work
        self._kept += room
        self._room = [part.ctypes.data if part.size else None for part in room]

    @classmethod
    def of(cls, layers: Int64, task: Task, sites: Sequence[Site], plan: RoundPlan, found: Float32) -> Drawn | None:
        """Some sites, if there is compiled code for all of their draws and it pays."""
        few = draws_here() and all(
            _few(privacy_of(plan.sites[site.name]), len(site.train), found.shape[1]) for site in sites
        )
        return cls(layers, task, sites, plan, found) if few else None

    def train(self, first: int) -> int:
        """Train sites in their order from the first on; the number of the one that has to be trained elsewhere."""
        sites = (ctypes.c_char * len(self._sites)).from_buffer(self._sites)
        left = len(self._sites) // _SITE.size - first
        at = ctypes.addressof(sites) + first * _SITE.size
        done = self._code.fedkit_sites(self._layers.ctypes.data, len(self._layers), at, left, self._d, *self._room)
        return first + int(done)

    def _told(self, task: Task, site: Site, local: LocalPlan, plan: RoundPlan, at: int) -> tuple[object, ...]:
        privacy = privacy_of(local)
        order = np.argsort(site.train.unit, kind="stable")
        x, y = rows_of(site, int(self._layers[0, 0])), targets_of(task, site)
        self._kept += x, y, order
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
            read = self._plans[kind] = plan_read(task, local, privacy, plan.proximal_mu)
        below = joins_below(privacy.sample_rate)
        addresses = x.ctypes.data, y.ctypes.data, order.ctypes.data, at, ctypes.addressof(read)
        return *addresses, below % 2**64, below >> 64, len(order), _scale(privacy, self._d), _key(site, privacy, plan)


def _key(site: Site, privacy: PrivacyPlan, plan: RoundPlan) -> bytes:
    if privacy.noise == "secure":
        return secure_key()
    return seeded_key(plan.seed, plan.round, site.name, "lots and noise")


def _scale(privacy: PrivacyPlan, d: int) -> float:
    scale = privacy.noise_multiplier * slack(d) * G
    check_scale(scale)
    return scale


def _few(privacy: PrivacyPlan, units: int, d: int) -> bool:
    numbers = privacy.steps * d
    # Each is in doubt where it lies within 2**-47 of its scale, times its size, of a boundary.
    doubtful = 2.0**-45 * numbers * _scale(privacy, d)
    return max(numbers, privacy.steps * units) <= _MOST and d <= 2 * CHUNK and doubtful <= _DOUBTFUL
