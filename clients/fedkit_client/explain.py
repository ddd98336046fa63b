"""``fedkit client explain``: every clause of the site's file, and what its ledger affords, by what decides."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.locate import experiment_files, option_files, user_folder
from fedkit.config.wording import shown
from fedkit.errors import FederationError
from fedkit.governance.admission import Weighed, weigh
from fedkit.governance.clauses import Circumstances
from fedkit.governance.site_file import read_site_file
from fedkit.governance.terms import NO_STUDY, SiteFile
from fedkit_client.afforded import ledger_clause
from fedkit_client.asked import MOST, Asked
from fedkit_client.folder import SiteFolder
from fedkit_client.logs import printable
from fedkit_client.questions import charged_as
from fedkit_client.standing import Named, standing_at
from fedkit_client.taken_back import approval_standing
from fedkit_client.unlinked import require_unlinked

_RUN = re.compile(r"\d{8}-\d{6}-")
_SHOWN = 3


@dataclass(frozen=True)
class Told:
    """What is said of a run that nobody has signed yet.

    Attributes:
        submitter: a user, or USER=FINGERPRINT.
        others: how many other sites would take part.
    """

    study: str = NO_STUDY
    submitter: str = ""
    others: int = 0


def explain(
    path: Path, name: str | None, overrides: Sequence[str], told: Told, config_dir: Path | None = None
) -> tuple[str, Weighed]:
    """Hold a run against a site's file.

    Args:
        name: a run that the site was asked for, or else an experiment, which is composed here.

    Returns:
        What it was, and its clauses.

    Raises:
        ConfigError: the site's file (FK120), or the experiment.
        FederationError: FK763, a run that the site does not know; and as `weigh`.
        PrivacyError: as `weigh`.
    """
    file = read_site_file(path)
    folder, now = SiteFolder(file.folder.resolve()), time.time()
    require_unlinked(folder.path)
    known = Asked(folder.asked_file).find(name) if name is not None and not overrides else None
    if known is not None:
        approval = approval_standing(folder, known.job, now)
        config, at = known.experiment(tuple(file.models)), standing_at(folder, file.site, known.study)
        question = known.question()
        name_there = charged_as(known.run, config, question, known.study, file.site)
        asked = known.circumstances(now, approval, at(known.dataset, name_there, now))
        weighed = weigh(config, file, asked, whole=True)
        return f"run {known.run}", _afforded(file, folder, config, weighed, name_there, asked)
    if (
        name is not None
        and not overrides
        and name in file.data
        and name not in experiment_files(user_folder(config_dir))
    ):
        raise FederationError(
            f"{shown(name)} is a data set of {file.site}, neither a run nor an experiment",
            code="FK763",
            remedy=f"for a run on it write data={name}, or name an experiment",
        )
    if name is not None and not overrides and _may_be_run(name, config_dir):
        newest = ", ".join(each.run for each in reversed(Asked(folder.asked_file).runs()[-_SHOWN:]))
        raise FederationError(
            f"{shown(name)} is no experiment, and no run that {file.site} still remembers being asked for: it keeps the"
            f" last {MOST}, and none beyond `retention.caches`; the newest are {newest or 'none'}",
            code="FK763",
            remedy=f"name one of these, or an experiment; `fedkit client log show {path}` tells of older runs",
        )
    config = _composed(file, name, overrides, config_dir)
    user, _, key = told.submitter.partition("=")
    others = tuple(f"site {number}" for number in range(1, told.others + 1))
    standing = standing_at(folder, file.site, told.study)(config.data.name, "", now)
    # As `fedkit server run --study` would submit it: under the text that the site has signed.
    asked = Circumstances(now, told.study, user, key, others, "not asked for before", standing.digest, standing)
    weighed = weigh(config, file, asked, whole=True)
    return f"experiment {config.name}", _afforded(file, folder, config, weighed, "", asked)


def _may_be_run(name: str, config_dir: Path | None) -> bool:
    """Whether a name is a run's by its form, or at least no experiment's and not spelled as ours are, nor nearly so."""
    ours = experiment_files(user_folder(config_dir))
    misspelt = difflib.get_close_matches(name, ours, n=1, cutoff=0.6)
    return bool(_RUN.match(name)) or ("-" in name and name not in ours and not misspelt)


def _afforded(
    file: SiteFile, folder: SiteFolder, config: ExperimentConfig, weighed: Weighed, name: Named, asked: Circumstances
) -> Weighed:
    """With the ledger's clause, where something would be asked of it."""
    own = file.data.get(config.data.name)
    if own is None or not weighed.charges:
        return weighed
    clause = ledger_clause(
        folder, config.data.name, own, weighed.charges, name, asked.study, asked.now,
        question=asked.statistics is not None,
    )  # fmt: skip
    admitted = weighed.admitted if clause.holds else None
    return replace(weighed, clauses=(*weighed.clauses, clause), admitted=admitted)


def _composed(file: SiteFile, name: str | None, overrides: Sequence[str], config_dir: Path | None) -> ExperimentConfig:
    """As a coordinator's user would submit it to this site: secure noise, the site's declared count and delta."""
    from fedkit.config.compose import compose
    from fedkit.federation.job import job_config

    ours = option_files("model", None)
    models = (option for option in option_files("model", user_folder(config_dir)) if option not in ours)
    config = job_config(compose(name, overrides, config_dir, models=(*file.models, *models)))
    own = file.data.get(config.data.name)
    records = {file.site: own.records if own is not None else 1}
    config = replace(config, data=replace(config.data, records=records))
    if config.privacy.mode == "none":
        return config
    delta = own.delta if own is not None and config.privacy.delta is None else config.privacy.delta
    return replace(config, privacy=replace(config.privacy, noise="secure", delta=delta))


def as_json(what: str, weighed: Weighed) -> dict[str, Any]:
    """The same as ``--json`` prints it."""
    told = [{**asdict(clause), "verdict": clause.verdict} for clause in weighed.clauses]
    return {"site": weighed.site, "what": what, "admitted": weighed.admitted is not None, "clauses": told}


def as_text(what: str, weighed: Weighed) -> str:
    """A table of clauses, what a person has to read first in the last lines."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        "clause", "code", "what", "value", "bound", "verdict", title=Text(printable(f"{what} at {weighed.site}"))
    )
    for clause in weighed.clauses:
        parts = (clause.key, clause.code, clause.what, clause.value, clause.bound, clause.verdict)
        table.add_row(*(Text(printable(part)) for part in parts))
    out = StringIO()
    Console(file=out, width=140, no_color=True).print(table)
    if weighed.admitted is not None:
        return out.getvalue() + "admitted: every clause holds, and the ledger affords it as it stands\n"
    lines = [
        f"{one.verdict} ({one.code}): {one.why(weighed.site)}\n  {one.remedy}"
        for one in weighed.clauses
        if not one.holds
    ]
    return out.getvalue() + "".join(printable(part) + "\n" for line in lines for part in line.split("\n"))
