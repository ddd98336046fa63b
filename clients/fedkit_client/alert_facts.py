"""What alerts follow from: the audit log's lines, kept as far back as a rule looks, and how things stand besides."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedkit.storage.audit_line import Line, Scalar

LONGEST = 8 * 86_400.0
"""No rule looks further back, but for configs that were seen and norms that were released."""

_MOST_LINES, _MOST_CONFIGS, _MOST_NORMS = 5000, 10_000, 50
KINDS = (
    "started", "configured", "requested", "admitted", "reserved", "released", "refused", "contradicted", "recovered",
    "quarantined", "unquarantined",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """One line of the log."""

    seq: int
    at: float
    kind: str
    fields: Mapping[str, Scalar]

    def text(self, name: str) -> str:
        """A field's text; empty where it has none."""
        value = self.fields.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float | None:
        """A field's number."""
        value = self.fields.get(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


@dataclass
class History:
    """The log as rules look at it; lines are taken in order, each once.

    Attributes:
        lines: the newest of each kind, bounded by time and number: many of one kind hide none of another.
        configs: digest of a run's config to the line that first admitted it.
        norms: that digest to the newest released norms, each with its line.
        runs: run to the digest of its config.
        files: digests of the site's own file, in order, each with its line.
        answers: code (empty for an answer) to how many requests were answered with it.
    """

    lines: dict[str, deque[Seen]] = field(default_factory=dict)
    configs: dict[str, Seen] = field(default_factory=dict)
    norms: dict[str, deque[Seen]] = field(default_factory=dict)
    runs: dict[str, str] = field(default_factory=dict)
    files: list[Seen] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)

    def take(self, line: Line) -> None:
        """Take in the next line."""
        if line.kind not in KINDS:
            return
        seen = Seen(line.seq, line.at, line.kind, line.fields)
        if line.kind == "requested":
            return
        if line.kind in ("released", "refused"):
            code = seen.text("code")
            self.answers[code] = self.answers.get(code, 0) + 1
        if line.kind == "admitted":
            self._admitted(seen)
        if line.kind == "configured":
            self.files = [*self.files[-9:], seen]
        if line.kind == "released" and seen.number("norm") is not None:
            known = self.norms.setdefault(self.runs.get(seen.text("run"), seen.text("run")), deque(maxlen=_MOST_NORMS))
            known.append(seen)
            self._bound(self.norms)
        known = self.lines.setdefault(seen.kind, deque(maxlen=_MOST_LINES))
        known.append(seen)
        while known[0].at < seen.at - LONGEST:
            known.popleft()

    def since(self, begin: float, *kinds: str) -> list[Seen]:
        """Lines of these kinds from a time on."""
        return [seen for kind in kinds for seen in self.lines.get(kind, ()) if seen.at > begin]

    def _admitted(self, seen: Seen) -> None:
        config = seen.text("config")
        # A log of before does not tell it.
        if config:
            self.configs.setdefault(config, seen)
            self._bound(self.configs)
            self.runs[seen.text("run")] = config
            self._bound(self.runs)

    @staticmethod
    def _bound(known: dict[str, Any]) -> None:
        if len(known) > _MOST_CONFIGS:
            del known[next(iter(known))]


@dataclass(frozen=True)
class Budget:
    """One data set's budget as its ledger says.

    Attributes:
        spent: share.
        limit: epsilon; ``free`` is the epsilon at which nothing is spent yet, so that shares follow from epsilons.
        problem: code of what keeps the ledger from being read; the rest is then nothing.
    """

    spent: float = 0.0
    held: float = 0.0
    left: float = 1.0
    limit: float = 0.0
    free: float = 0.0
    epsilon_spent: float = 0.0
    problem: str = ""

    def share(self, epsilon: float) -> float:
        """The share of the budget that was spent where the ledger vouched for an epsilon."""
        room = self.limit - self.free
        return min(1.0, max(0.0, (epsilon - self.free) / room)) if room > 0 else 1.0


@dataclass(frozen=True)
class ChannelState:
    """How a channel does.

    Attributes:
        since: of its first failure in a row; None while it works.
        dropped: alerts that its queue had no place for, in the last day.
    """

    queued: int = 0
    failures: int = 0
    since: float | None = None
    why: str = ""
    dropped: int = 0


@dataclass(frozen=True)
class Facts:
    """How things stand beside the log.

    Attributes:
        running: whether the site's process runs.
        heard: when the coordinator was last heard; since the start where it never was.
        problem: code of what keeps the site from its coordinator.
        ends: a certificate's name to its end.
        chains: what is broken to why, by name: ``audit.jsonl``, ``ledgers/icu.sqlite``.
        quarantined: since when; None while it is not.
    """

    budgets: Mapping[str, Budget] = field(default_factory=dict)
    running: bool = False
    heard: float | None = None
    problem: str = ""
    ends: Mapping[str, float] = field(default_factory=dict)
    chains: Mapping[str, str] = field(default_factory=dict)
    channels: Mapping[str, ChannelState] = field(default_factory=dict)
    quarantined: float | None = None
