"""All sites' statistics on one machine: in simulation free of charge, or each paid from its site's ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from fedkit.assurance.site_budgets import Question, SiteCharge, ask
from fedkit.assurance.site_rows import declared_sites, found_sites, read_rows, rows_by_site
from fedkit.assurance.statistics import StatsPlan, request_digest, request_events, request_job, site_reply
from fedkit.config.experiment import DataConfig
from fedkit.data.names import require_site_names
from fedkit.data.table import Table
from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.randomness import Secure, Seeded, Source


def sites_of(config: DataConfig, *, ledgers: bool) -> tuple[str, ...]:
    """The sites that will be asked.

    Args:
        ledgers: refuse to look into the table for names, since no record may be read before it is paid for.

    Raises:
        PrivacyError: FK373, ledgers without declared sites; FK376, a table without sites.
        DataError: FK213, a name that cannot be a site's; FK201, FK205 and others of the source.
    """
    names = declared_sites(config)
    if names is None:
        if ledgers:
            raise PrivacyError(
                "data.records does not declare the sites, and no record may be read before it is paid for",
                code="FK373",
                remedy="declare data.records, an approximate count of every site",
            )
        names = found_sites(config, read_rows(config))
    require_site_names(names)
    return names


def question(config: DataConfig, plan: StatsPlan, sites: Sequence[str], *, study: str, run: str | None) -> Question:
    """The plan's request for the sites' ledgers.

    Args:
        run: a name of its own asks anew, with fresh noise and at full cost; None names the run after the question,
            so that the same question is answered from the ledger.
    """
    digests = {site: request_digest(config, site, plan.request) for site in sites}
    if run is None:
        named = f"{study}\n{request_digest(config, '', plan.request)}"
        run = f"stats-{hashlib.sha256(named.encode()).hexdigest()[:16]}"
    request = plan.request
    return Question(config.name, study, run, request_job(config, request), request_events(request), plan.delta, digests)


def unpaid_replies(config: DataConfig, plan: StatsPlan, sites: Sequence[str], seed: int | None) -> dict[str, bytes]:
    """Every site's reply in a simulation; no ledger hears of it.

    Args:
        seed: replayable noise, which protects nobody; None takes the system's randomness.

    Raises:
        PrivacyError: FK376, a table that cannot be used.
    """
    rows = rows_by_site(config, read_rows(config), sites)
    return {
        site: site_reply(config, site, plan.request, rows[site], _source(config, site, plan, seed)) for site in sites
    }


def paid_replies(
    config: DataConfig, plan: StatsPlan, ledgers: Mapping[str, Ledger], asked: Question, found: Mapping[str, SiteCharge]
) -> dict[str, bytes]:
    """Every site's reply, with the system's randomness and charged to its ledger before a record is read.

    There is no seed to give: seeded noise never touches a ledger.

    Raises:
        PrivacyError: whatever a ledger refuses; FK376, a table that cannot be used: the same question then goes on
            later from the same reservations.
    """
    rows: dict[str, Table] = {}

    def answer(site: str) -> bytes:
        if not rows:
            rows.update(rows_by_site(config, read_rows(config), list(ledgers)))
        return site_reply(config, site, plan.request, rows[site], Secure())

    return ask(ledgers, asked, found, answer)


def _source(config: DataConfig, site: str, plan: StatsPlan, seed: int | None) -> Source:
    if seed is None:
        return Secure()
    # Each site and question has noise of its own: the same noise twice would cancel in a difference.
    return Seeded(seed, "statistics", site, request_digest(config, site, plan.request))
