"""Sites that answer from a run's record instead of from data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import RecordDict

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.types import ClientUpdate


@dataclass(frozen=True)
class RecordedSites:
    """The recorded updates of a run, folded again by the same loop and strategy.

    Attributes:
        sites: every site of the run to whether it trains.
        read_updates: round to what was received in it.
    """

    sites: Mapping[str, bool]
    read_updates: Callable[[int], Sequence[ClientUpdate]]

    def answer_query(self, name: str) -> RecordDict:
        """Who the site was."""
        return wire.pack_roster(wire.Roster(name, self.sites[name], evaluates=False))

    def answer_train(self, names: Sequence[str], content: RecordDict) -> dict[str, RecordDict]:
        """What these sites sent in the round."""
        _, number, _ = wire.unpack_model(content)
        return {update.site: wire.pack_update(update) for update in self.read_updates(number) if update.site in names}

    def answer_evaluate(self, name: str, content: RecordDict) -> RecordDict:
        """Nothing: a record holds no data.

        Raises:
            FederationError: always.
        """
        raise FederationError("a recorded site cannot evaluate", code="FK525")
