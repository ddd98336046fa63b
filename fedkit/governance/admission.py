"""Whether a site lets a run in: its own file is the only one that can say yes, and what it does not name is refused.

What is compared stands in `fedkit.governance.clauses`, whose codes these are.

::

    FK542  a run that is not for this site
    FK560 to FK579  what the site's file, or a study agreement that it signed, refuses; FK562 also a site too small to
           train
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedkit.config.experiment import DataConfig, ExperimentConfig
from fedkit.data.table import name_text
from fedkit.errors import FederationError, FedkitError, TrainingError
from fedkit.governance.clauses import Circumstances, Clause, clauses, unknown_dataset
from fedkit.governance.rules import rules_of
from fedkit.governance.statistics import Statistics, cost_of
from fedkit.governance.terms import SiteData, SiteFile
from fedkit.privacy.column_histogram import histogram_event
from fedkit.privacy.events import events_of
from fedkit.privacy.rdp_filter import Charge, merged, rounded
from fedkit.training.histograms import HistogramSpec
from fedkit.training.plan import LocalPlans, declared_plans
from fedkit.types import LocalPlan


@dataclass(frozen=True)
class Budget:
    """The budget that the site's ledger keeps for a data set."""

    dataset: str
    unit: Literal["record", "patient"]
    limit: float
    delta: float


@dataclass(frozen=True)
class Admitted:
    """A run that the site's file lets in; its ledger is still to be asked.

    Attributes:
        config: the job's, in which the site's own source and columns were put.
        plan: what the site does in every round; None without privacy, where it follows from the rows
            (`fedkit.training.plan.local_plans`), and for statistics, which train nothing.
        specs: the histograms of a charged evaluation.
        budget: what the ledger must have for the data set.
        exact: nothing is protected, and exact metrics are told.
    """

    config: ExperimentConfig
    site: str
    dataset: str
    plan: LocalPlan | None
    specs: tuple[HistogramSpec, ...]
    budget: Budget
    exact: bool


@dataclass(frozen=True)
class Weighed:
    """A run held against a site's file.

    Attributes:
        site: whose file it is.
        clauses: every one that could be compared.
        admitted: the run, if all of them hold.
        charges: what it asks of the site's ledger, where that was computed; nothing without privacy.
    """

    site: str
    clauses: tuple[Clause, ...]
    admitted: Admitted | None
    charges: tuple[Charge, ...] = ()

    def refusal(self) -> FederationError:
        """Every clause that does not hold, under the first one's code: one that waits only where no other refuses."""
        refused = [clause for clause in self.clauses if not clause.holds]
        if len(refused) == 1:
            only = refused[0]
            return FederationError(only.why(self.site), code=only.code, remedy=only.remedy)
        lines = "".join(f"\n  - {one.code}: {one.why(self.site)}. Remedy: {one.remedy}." for one in refused)
        return FederationError(f"{len(refused)} reasons{lines}", code=refused[0].code)


def admit(
    config: ExperimentConfig,
    site_file: SiteFile,
    asked: Circumstances,
    plans: Callable[[ExperimentConfig, Sequence[str]], LocalPlans] = declared_plans,
) -> Admitted:
    """Hold a job against the site's file.

    Args:
        config: of a job that was opened (`fedkit.federation.job.open_job`): signed, current and parsed by the schema.
        asked: what else the job says, and when.
        plans: `declared_plans`, or what remembers its results: a calibration takes seconds.

    Raises:
        FederationError: see the module; every refusal at once, under the first one's code.
        PrivacyError: a plan that cannot be made (FK3xx).

    Guarantee: what is admitted reads the site's own source and nothing else, every clause of the site's file holds
    for it, and its plan costs at most the site's epsilon at the site's delta, unless the site allows runs without
    privacy. No row is read.
    """
    weighed = weigh(config, site_file, asked, plans)
    if weighed.admitted is None:
        raise weighed.refusal()
    return weighed.admitted


def weigh(
    config: ExperimentConfig,
    site_file: SiteFile,
    asked: Circumstances,
    plans: Callable[[ExperimentConfig, Sequence[str]], LocalPlans] = declared_plans,
    *,
    whole: bool = False,
) -> Weighed:
    """Every clause for a run, admitted or not; see `admit`.

    Args:
        whole: compute what the run costs even where another clause refuses it.

    Raises:
        FederationError: FK542, the run is not for this site, or names one twice; FK562, the site is too small for any
            plan.
        PrivacyError: a plan that cannot be made (FK3xx).
    """
    name, site = config.data.name, site_file.site
    records = {name_text(other): count for other, count in config.data.records.items()}
    if len(records) < len(config.data.records):
        raise FederationError("the run names a site twice, in two spellings", code="FK542", remedy="name each once")
    if site not in records:
        raise FederationError(f"the run is not for {site}", code="FK542", remedy="name the site in data.records")
    own = site_file.data.get(name)
    if own is None:
        return Weighed(site, (unknown_dataset(name, list(site_file.data)),), None)
    private, rules = config.privacy.mode != "none", rules_of(own)
    if asked.statistics is not None:
        return _statistics(config, site, records[site], own, asked, asked.statistics)
    found = clauses(config, site, records[site], rules, asked, None)
    refused = any(clause.verdict == "refused" for clause in found)
    if refused and not (whole and private):
        return Weighed(site, found, None)
    resolved = replace(config, data=_own_data(config.data, own.declaration))
    plan: LocalPlan | None = None
    specs: tuple[HistogramSpec, ...] = ()
    charges: tuple[Charge, ...] = ()
    if private:
        try:
            made = plans(resolved, [site])
        except FedkitError as error:
            if refused:
                return Weighed(site, found, None)
            if not isinstance(error, TrainingError):
                raise
            # The declared count decides here, not the rows.
            raise FederationError(error.message, code="FK562", remedy=error.remedy) from error
        plan, specs = made.sites[site], made.specs
        cost = plan.privacy.epsilon if plan.privacy else float("inf")
        charges = _charges(plan)
        found = clauses(config, site, records[site], rules, asked, cost, charges)
    if not all(clause.holds for clause in found):
        return Weighed(site, found, None, charges)
    budget = Budget(name, own.unit, own.max_epsilon, own.delta)
    return Weighed(site, found, Admitted(resolved, site, name, plan, specs, budget, exact=not private), charges)


def _charges(plan: LocalPlan) -> tuple[Charge, ...]:
    return () if plan.privacy is None else merged(rounded(event) for event in events_of(plan.privacy))


def _statistics(
    config: ExperimentConfig, site: str, records: int, own: SiteData, asked: Circumstances, question: Statistics
) -> Weighed:
    """The clauses for a question: whatever it is asked beside, its noise is real and its cost is its own."""
    charge = rounded(histogram_event(question.noise_multiplier, len(question.columns)))
    found = clauses(config, site, records, rules_of(own), asked, cost_of(question), (charge,))
    if not all(clause.holds for clause in found):
        return Weighed(site, found, None, (charge,))
    resolved = replace(config, data=_own_data(config.data, own.declaration))
    budget = Budget(config.data.name, own.unit, own.max_epsilon, own.delta)
    return Weighed(site, found, Admitted(resolved, site, config.data.name, None, (), budget, exact=False), (charge,))


def _own_data(asked: DataConfig, own: DataConfig) -> DataConfig:
    codes = {column: values for column, values in asked.missing.codes.items() if column != asked.unit_column}
    if own.unit_column is not None and own.unit_column in own.missing.codes:
        codes[own.unit_column] = own.missing.codes[own.unit_column]
    return replace(
        asked,
        source=own.source,
        site_column=own.site_column,
        unit_column=own.unit_column,
        missing=replace(asked.missing, codes=codes),
    )
