"""Whether a site lets a run in: its own file is the only one that can say yes, and what it does not name is refused.

::

    FK542  a run that is not for this site       FK564  the strategy
    FK560  the data set                          FK565  the unit
    FK561  the declaration                       FK566  delta
    FK562  the declared records                  FK567  epsilon
    FK563  the model                             FK568  a run without privacy
                                                 FK569  noise that is not real
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fedkit.config.experiment import DataConfig, ExperimentConfig
from fedkit.config.wording import shown, suggestion
from fedkit.data.table import name_text
from fedkit.errors import FederationError, TrainingError
from fedkit.governance.declaration import declaration_digest
from fedkit.governance.terms import SiteData, SiteFile
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
            (`fedkit.training.plan.local_plans`).
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
class _Refusal:
    code: str
    why: str
    remedy: str


def admit(
    config: ExperimentConfig,
    site_file: SiteFile,
    plans: Callable[[ExperimentConfig, Sequence[str]], LocalPlans] = declared_plans,
) -> Admitted:
    """Hold a job's config against the site's file.

    Args:
        config: of a job that was opened (`fedkit.federation.job.open_job`): signed, current and parsed by the schema.
        plans: `declared_plans`, or what remembers its results: a calibration takes seconds.

    Raises:
        FederationError: see the module; every refusal at once, under the first one's code.
        PrivacyError: a plan that cannot be made (FK3xx).

    Guarantee: what is admitted reads the site's own source and nothing else, and its plan costs at most the site's
    epsilon at the site's delta, unless the site allows runs without privacy. No row is read.
    """
    name, site = config.data.name, site_file.site
    records = {name_text(other): count for other, count in config.data.records.items()}
    if site not in records:
        raise FederationError(f"the run is not for {site}", code="FK542", remedy="name the site in data.records")
    own = site_file.data.get(name)
    if own is None:
        raise FederationError(
            f"{site} has no data set {shown(name)}; {suggestion(name, site_file.data)}",
            code="FK560",
            remedy="submit a run of a data set that the site offers",
        )
    refusals = [*_against(config, own, records[site], site), *_privacy(config, own)]
    if refusals:
        raise _together(refusals)
    resolved = replace(config, data=_own_data(config.data, own.declaration))
    budget = Budget(name, own.unit, own.max_epsilon, own.delta)
    if config.privacy.mode == "none":
        return Admitted(resolved, site, name, None, (), budget, exact=True)
    try:
        made = plans(resolved, [site])
    except TrainingError as error:
        # The declared count decides here, not the rows.
        raise FederationError(error.message, code="FK562", remedy=error.remedy) from error
    plan = made.sites[site]
    if plan.privacy is None or plan.privacy.epsilon > own.max_epsilon:
        spent = plan.privacy.epsilon if plan.privacy else float("inf")
        raise FederationError(
            f"epsilon {spent:.6g} of the run is above the {own.max_epsilon:g} that {site} allows for {name}",
            code="FK567",
            remedy="lower privacy.epsilon, federation.num_rounds or the sample rate",
        )
    return Admitted(resolved, site, name, plan, made.specs, budget, exact=False)


def _against(config: ExperimentConfig, own: SiteData, records: int, site: str) -> Iterator[_Refusal]:
    if declaration_digest(config.data) != declaration_digest(own.declaration):
        yield _Refusal(
            "FK561",
            f"the run declares {config.data.name} in another way than {site}",
            "compare `fedkit config show` with the site's declaration; ranges, levels, split and seed must be equal",
        )
    if records != own.records:
        yield _Refusal(
            "FK562",
            f"the run declares {records} units of {site}, whose file declares {own.records}",
            f"set data.records.{site}={own.records}",
        )
    for code, what, given, known in (
        ("FK563", "model", config.model.name, own.models),
        ("FK564", "strategy", config.strategy.name, own.strategies),
    ):
        if given not in known:
            yield _Refusal(code, f"{site} admits no {what} {shown(given)}", f"set {what}={' or '.join(known)}")
    unit = "record" if config.data.unit_column is None else "patient"
    if unit != own.unit:
        yield _Refusal(
            "FK565", f"the run protects a {unit}, and {site} protects a {own.unit}", "set or unset data.unit_column"
        )


def _privacy(config: ExperimentConfig, own: SiteData) -> Iterator[_Refusal]:
    privacy = config.privacy
    if privacy.mode == "none":
        if not own.allow_unprotected:
            yield _Refusal(
                "FK568", "privacy.mode is none, and the site lets nothing out unprotected", "set privacy=record_dp"
            )
        return
    if privacy.noise != "secure":
        yield _Refusal("FK569", f"privacy.noise is {privacy.noise}, which is not real", "set privacy.noise=secure")
    if privacy.delta is None or privacy.delta > own.delta:
        shown_delta = "not set" if privacy.delta is None else f"{privacy.delta:g}"
        yield _Refusal(
            "FK566", f"privacy.delta is {shown_delta}, and the site allows {own.delta:g}", f"set {own.delta:g} at most"
        )
    if privacy.epsilon is not None and privacy.epsilon > own.max_epsilon:
        yield _Refusal(
            "FK567",
            f"privacy.epsilon is {privacy.epsilon:g}, and the site allows {own.max_epsilon:g}",
            f"set privacy.epsilon={own.max_epsilon:g} at most",
        )


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


def _together(refusals: list[_Refusal]) -> FederationError:
    if len(refusals) == 1:
        only = refusals[0]
        return FederationError(only.why, code=only.code, remedy=only.remedy)
    lines = "".join(f"\n  - {one.code}: {one.why}. Remedy: {one.remedy}." for one in refusals)
    return FederationError(f"{len(refusals)} reasons{lines}", code=refusals[0].code)
