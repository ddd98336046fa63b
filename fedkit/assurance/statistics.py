"""Private federated statistics: one noisy histogram a declared column at each site, everything else follows from it.

``site_statistics`` is what a site does, ``read_reply`` and ``figures`` what its coordinator does with the reply. Count,
mean, variance, quantiles, shares and missing values are post-processing of the histograms and cost nothing more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fedkit.assurance.cells import ColumnCells, coded_column, declared_cells, statistics_columns
from fedkit.assurance.estimates import ScopeFigures, scope_figures
from fedkit.assurance.site_rows import read_rows, rows_by_site
from fedkit.config.experiment import DataConfig
from fedkit.data.table import Table
from fedkit.data.units import units_of
from fedkit.errors import PrivacyError
from fedkit.privacy import accounting
from fedkit.privacy.accounting import ADJACENCY, GaussianEvent
from fedkit.privacy.column_histogram import column_sums, histogram_event, histogram_noise, noisy_sums
from fedkit.privacy.events import gaussian_delta
from fedkit.privacy.lattice import G
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.randomness import Source
from fedkit.privacy.rdp_filter import merged, rounded
from fedkit.types import Int64

_FORMAT = "fedkit statistics 1"


@dataclass(frozen=True)
class StatsRequest:
    """What a site is asked; the site's own declaration says what the columns' cells are.

    Attributes:
        bins: equal bins of a number's declared range.
        noise_multiplier: sigma; each column's histogram has noise of sigma units on every cell.
        outside: numbers outside their declared range have cells of their own; else they count in the bins at its ends.
    """

    columns: tuple[str, ...]
    bins: int
    noise_multiplier: float
    outside: bool = False

    def cells(self, config: DataConfig) -> tuple[ColumnCells, ...]:
        """The cells of its columns; see `declared_cells`."""
        return declared_cells(config, self.columns, self.bins, outside=self.outside)


@dataclass(frozen=True)
class StatsPlan:
    """A request and what it costs each site that answers it, before anything is read.

    Attributes:
        epsilon: of all columns together, by PLD, at ``delta``; never above ``target``.
        cells: of each column.
    """

    request: StatsRequest
    cells: tuple[ColumnCells, ...]
    target: float
    epsilon: float
    delta: float


def unit_of(config: DataConfig) -> Literal["record", "patient"]:
    """What one unit of privacy is."""
    return "record" if config.unit_column is None else "patient"


def plan_statistics(
    config: DataConfig, *, epsilon: float, delta: float = 1e-5, columns: Sequence[str] = (), bins: int = 10
) -> StatsPlan:
    """Calibrate the noise so that one answer costs a site at most ``epsilon``.

    Args:
        columns: all declared ones if none is named; fewer need less noise.

    Raises:
        PrivacyError: FK301, FK302, a target out of range, or a delta that would let a record be published; FK309, one
            out of reach; FK370, FK371, columns or bins that cannot be.

    Guarantee: what a site answers with real noise is (epsilon, delta)-DP for one unit under add/remove.
    """
    names = tuple(dict.fromkeys(columns)) or statistics_columns(config)
    cells = declared_cells(config, names, bins, outside=True)
    if not 0 < delta < 1:
        raise PrivacyError(f"delta {delta} is not between 0 and 1", code="FK302", remedy="give --delta 1e-5")
    for site, records in config.records.items():
        if delta >= 1 / records:
            raise PrivacyError(
                f"delta {delta:g} is not below 1/{records} = {1 / records:.3g}, one over the records of {site}",
                code="FK302",
                remedy="give --delta 1e-5: a larger one allows a record to be published outright",
            )
    sigma = histogram_noise(float(epsilon), float(delta), len(cells))
    spent = accounting.epsilon_of([histogram_event(sigma, len(cells))], gaussian_delta(delta))
    return StatsPlan(StatsRequest(names, bins, sigma, outside=True), cells, float(epsilon), spent, float(delta))


def request_events(request: StatsRequest) -> tuple[GaussianEvent, ...]:
    """What an answer releases."""
    return (histogram_event(request.noise_multiplier, len(request.columns)),)


def request_job(config: DataConfig, request: StatsRequest) -> Job:
    """The request as a ledger charges it: rounded against the spender."""
    return Job(unit_of(config), ADJACENCY, merged(rounded(event) for event in request_events(request)))


def request_digest(config: DataConfig, site: str, request: StatsRequest) -> str:
    """SHA-256 of the question, the site and the site's declaration of the columns, in hex."""
    cells = [asdict(column) for column in request.cells(config)]
    # A question of before keeps the digest under which a ledger has its answer.
    asked = {name: value for name, value in asdict(request).items() if name != "outside" or value}
    content = [_FORMAT, config.name, unit_of(config), site, asked, cells]
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def site_statistics(config: DataConfig, site: str, request: StatsRequest, source: Source) -> bytes:
    """What a site answers: reads its records, counts, adds noise.

    Args:
        source: of the noise; only ``Secure`` protects anybody.

    Returns:
        The reply's bytes, see ``site_reply``.

    Raises:
        PrivacyError: FK370, FK371, a request that does not fit the declaration; FK376, one and the same refusal
            whatever is wrong with the table's content.
        DataError: a source that is not there or lacks a column.

    Guarantee: with a secure source the reply is one Gaussian step a column (``request_events``) for one unit; its
    length follows from the declaration alone. A site without records answers like any other.
    """
    request.cells(config)
    rows = rows_by_site(config, read_rows(config), [site])[site]
    return site_reply(config, site, request, rows, source)


def site_reply(config: DataConfig, site: str, request: StatsRequest, rows: Table, source: Source) -> bytes:
    """The reply over rows that were read already; ``site_statistics`` without the reading.

    Returns:
        32 bytes of the question's digest, then int64 (little endian) noisy sums of all columns' cells in units of
        1 / 2**26.
    """
    cells = request.cells(config)
    # Sensitive: sums are exact; nothing but their noisy copy leaves this function.
    sums = column_sums([coded_column(config, column, rows) for column in cells], units_of(config, rows).of_row)
    noisy = noisy_sums(sums, request.noise_multiplier, source)
    return bytes.fromhex(request_digest(config, site, request)) + noisy.astype("<i8").tobytes()


def read_reply(config: DataConfig, site: str, request: StatsRequest, reply: bytes) -> Int64:
    """The noisy sums in a reply, int64 [sum of cells].

    Raises:
        PrivacyError: FK374, an answer to another question, or none at all.
    """
    size = sum(column.cells for column in request.cells(config))
    digest = bytes.fromhex(request_digest(config, site, request))
    if len(reply) != len(digest) + 8 * size or not reply.startswith(digest):
        raise PrivacyError(
            f"the reply of {site} does not answer this request",
            code="FK374",
            remedy="use the same declaration at the site and here",
        )
    return np.frombuffer(reply, dtype="<i8", offset=len(digest)).astype(np.int64)


def figures(config: DataConfig, plan: StatsPlan, replies: Mapping[str, bytes]) -> dict[str, ScopeFigures]:
    """Estimates from the sites' replies.

    Returns:
        ``""`` to those of all sites pooled, then site to its own.

    Raises:
        PrivacyError: FK374, a reply that does not answer the plan's request.
    """
    sigma = plan.request.noise_multiplier
    counts = {site: read_reply(config, site, plan.request, reply) / G for site, reply in replies.items()}
    pooled = np.sum(list(counts.values()), axis=0)
    found = {"": scope_figures(plan.cells, pooled, sigma * len(counts) ** 0.5)}
    return found | {site: scope_figures(plan.cells, each, sigma) for site, each in counts.items()}


def summary(found: Mapping[str, ScopeFigures]) -> dict[str, Any]:
    """Figures as plain JSON types: ``pooled`` and ``sites``."""
    return {"pooled": asdict(found[""]), "sites": {site: asdict(each) for site, each in found.items() if site}}
