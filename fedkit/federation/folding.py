"""Accepted updates in the fixed order of sites, whatever the order of their arrival."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, overload

from fedkit.runs.journal import Journal
from fedkit.types import ClientUpdate


@dataclass
class InOrder:
    """Hands each update on as soon as the fate of all sites before it is known.

    What must wait does so in the journal where there is one, else in memory.

    Attributes:
        asked: the sites, in the order in which they are folded.
        take: called with each accepted update, in that order.
        keep: hold every update in memory until the round's end, for whoever records it, if there is no journal.
    """

    asked: tuple[str, ...]
    take: Callable[[ClientUpdate], None]
    journal: Journal | None
    round: int
    keep: bool = True
    accepted: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    kept: dict[str, ClientUpdate] = field(default_factory=dict)
    _gone: set[str] = field(default_factory=set)
    _next: int = 0

    def accept(self, update: ClientUpdate, *, lent: bool = False) -> None:
        """A good update that has just come; it is on disk, where there is one, when this returns.

        Args:
            lent: its array is somebody else's, and holds until this returns.
        """
        if self.journal:
            self.journal.keep_update(self.round, self.asked.index(update.site), update)
        self.accepted[update.site] = {"weight": update.weight, "metrics": update.metrics}
        due = self._next < len(self.asked) and self.asked[self._next] == update.site
        if (self.keep or not due) and not self.journal:
            self.kept[update.site] = replace(update, delta=update.delta.copy()) if lent else update
        if due:
            self._next += 1
            self.take(update)
            self._advance()

    def restore(self, site: str, reply: Mapping[str, Any]) -> None:
        """An update that the journal holds from before."""
        self.accepted[site] = reply
        self._advance()

    def settle(self, site: str) -> None:
        """A site that sends no update in this round."""
        self._gone.add(site)
        self._advance()

    def taken(self) -> tuple[str, ...]:
        """The sites whose updates were accepted, in order."""
        return tuple(site for site in self.asked if site in self.accepted)

    def updates(self) -> Sequence[ClientUpdate]:
        """Every accepted update in order; from the journal each is mapped when it is asked for."""
        sites = self.taken()
        if self.journal:
            return Recorded(self.journal, self.round, self.asked, sites, self.accepted)
        return [self.kept[site] for site in sites if site in self.kept]

    def _advance(self) -> None:
        while self._next < len(self.asked):
            site = self.asked[self._next]
            if site in self.accepted:
                self._next += 1
                self.take(self._waiting(site))
            elif site in self._gone:
                self._next += 1
            else:
                return

    def _waiting(self, site: str) -> ClientUpdate:
        if self.journal:
            return self.journal.read_update(self.round, self.asked.index(site), site, self.accepted[site])
        return self.kept[site] if self.keep else self.kept.pop(site)


@dataclass(frozen=True)
class Recorded(Sequence[ClientUpdate]):
    """A round's updates in a journal, none of them in memory."""

    journal: Journal
    round: int
    asked: tuple[str, ...]
    sites: Sequence[str]
    replies: Mapping[str, Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.sites)

    def files(self) -> list[Path]:
        """Where they lie until the round has ended, in their order."""
        return [self.journal.update_file(self.round, self.asked.index(site)) for site in self.sites]

    @overload
    def __getitem__(self, index: int) -> ClientUpdate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ClientUpdate]: ...
    def __getitem__(self, index: int | slice) -> ClientUpdate | Sequence[ClientUpdate]:
        """Map one update, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        site = self.sites[index]
        return self.journal.read_update(self.round, self.asked.index(site), site, self.replies[site])
