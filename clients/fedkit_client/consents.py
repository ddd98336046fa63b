"""A round's reading at a site: only rows whose units consent, and a trace of whose they were."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedkit.config.experiment import DataConfig, ExperimentConfig
from fedkit.data.consent import ConsentFilter
from fedkit.data.consented import Consented
from fedkit.data.sites import rows_of_site
from fedkit.data.table import Table
from fedkit.governance.allow import consented_reader
from fedkit.governance.consent_rules import filter_of
from fedkit.governance.terms import SiteData, SiteFile
from fedkit_client.folder import SiteFolder
from fedkit_client.lineage import Use, leave
from fedkit_client.withdrawals import read_withdrawn


def purpose_of(config: ExperimentConfig) -> str | None:
    """What a run says that it is for."""
    return config.purpose


def today(now: float) -> datetime.date:
    """The day of a moment, in the machine's own time zone."""
    return datetime.datetime.fromtimestamp(now).astimezone().date()


def purposes_of(own: SiteData) -> tuple[str | None, ...]:
    """The purposes for which a data set can be read here; None alone where nobody is asked for one."""
    if own.consent is None:
        return (None,)
    return own.policy.purposes


def reading_now(
    file: SiteFile, folder: SiteFolder, dataset: str, purpose: str | None, now: float
) -> Callable[[DataConfig], Table]:
    """Reads a data set as a run for a purpose would at this moment, and leaves no trace.

    Raises:
        FederationError: as `fedkit.governance.consent_rules.filter_of`; FK593.
    """
    where = filter_of(
        file.data[dataset], dataset, read_withdrawn(folder.withdrawals, dataset, folder.vault()), purpose, today(now)
    )
    return lambda config: consented_reader(file, config, where)(config).table


@dataclass
class Reading:
    """Reads one round's table.

    Guarantee: every table that it returns was read through ``where``, and :meth:`leave` writes down whose it was.
    """

    file: SiteFile
    folder: SiteFolder
    where: ConsentFilter | None
    use: Use
    _rows: int = 0
    _ids: tuple[str, ...] | None = field(default=None, repr=False)

    def __call__(self, config: DataConfig) -> Table:
        """The table of `fedkit.data.load.load_site_dataset`."""
        # What a source without a single row refuses to give was read all the same.
        self._rows, self._ids = 0, None if self.file.data[self.use.dataset].ids is None else ()
        found = consented_reader(self.file, config, self.where)(config)
        self._note(config, found)
        return found.table

    def leave(self) -> None:
        """Put on disk whose rows were read; before anything that was made of them leaves.

        Raises:
            FederationError: FK593.
        """
        leave(self.folder, self.use, self._rows, self._ids)

    def _note(self, config: DataConfig, found: Consented) -> None:
        # Record numbers of the table that stay behind a choice of rows are of no use here: ids stand in its order.
        mine = rows_of_site(config, Table(found.table.columns, np.arange(len(found.table)), str), self.file.site)
        self._rows = len(mine)
        self._ids = None if found.ids is None else tuple(found.ids[row] for row in mine.numbers.tolist())
