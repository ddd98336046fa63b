"""A job's question about statistics as the site's ledger knows it: by a name that follows from what is asked alone."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from fedkit.assurance.site_budgets import Question, run_at
from fedkit.assurance.statistics import StatsRequest, request_digest, request_events, request_job
from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import PrivacyError
from fedkit.governance.statistics import Statistics
from fedkit_client.consents import purpose_of

if TYPE_CHECKING:
    from fedkit.privacy.ledger.book import Account
    from fedkit_client.standing import Named


def request_of(asked: Statistics) -> StatsRequest:
    """The question without its price and label."""
    return StatsRequest(asked.columns, asked.bins, asked.noise_multiplier, asked.outside)


def question_of(config: ExperimentConfig, asked: Statistics, study: str, site: str, delta: float) -> Question:
    """What the ledger is asked: the same for every job that asks it for one study and purpose.

    Args:
        delta: of the site's budget.

    Raises:
        PrivacyError: FK370, FK371, columns or bins that the declaration does not have.
    """
    data, request = config.data, request_of(asked)
    said = json.dumps([study, purpose_of(config), request_digest(data, "", request), asked.anew])
    return Question(
        data.name,
        study,
        f"stats-{hashlib.sha256(said.encode()).hexdigest()[:32]}",
        request_job(data, request),
        request_events(request),
        delta,
        {site: request_digest(data, site, request)},
    )


def charged_as(run: str, config: ExperimentConfig, asked: Statistics | None, study: str, site: str) -> Named:
    """The name under which the ledger knows what a job asks for; of a question, whatever run its job is named after.

    Guarantee: a name that is found for a question is of this question of this study, with this cost, or of nothing yet.
    """
    if asked is None:
        return run
    try:
        # The delta plays no part in a name.
        question = question_of(config, asked, study, site, asked.delta)
    except PrivacyError:
        # Refused by the same once it is counted; until then it is beside all that there is.
        return ""

    def named(account: Account) -> str:
        try:
            return run_at(account, question, site)[0]
        except PrivacyError:
            return ""

    return named
