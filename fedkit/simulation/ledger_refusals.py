"""Why sites' ledgers refuse a run, in one error, and what would be admitted in its place."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.book import Account
from fedkit.privacy.ledger.facts import job_of
from fedkit.privacy.ledger.forecast import affordable_epsilon, least_limit, rounds_affordable
from fedkit.types import PrivacyPlan


@dataclass(frozen=True)
class Short:
    """A site that cannot pay."""

    account: Account
    plan: PrivacyPlan
    now_ms: int


def create_command(path: Path, dataset: str, plan: PrivacyPlan) -> str:
    """The command that makes a budget which pays the plan's run."""
    least = least_limit(plan)
    words = ["fedkit", "ledger", "create", str(path), "--dataset", dataset, "--unit", plan.unit]
    words += ["--epsilon", "3" if least is None else f"{least:g}", "--delta", repr(plan.delta)]
    return f"`{shlex.join(words)}`" + ("" if least is None else f" (epsilon {least:g} is the least that pays this run)")


def lines(short: Mapping[str, Short]) -> dict[str, PrivacyError]:
    """What each site that cannot pay has to say."""
    found = {}
    for site, each in short.items():
        there, asked, left = each.account.budget, _cost(each), each.account.left(each.now_ms)
        fit = rounds_affordable(each.account, each.plan, each.now_ms)
        found[site] = PrivacyError(
            f"the run would take {_share(asked, each, math.ceil)} of the budget of {there.dataset} (epsilon"
            f" {there.limit:g} at delta {there.delta:g}), {_share(left, each, math.floor)} is left: {fit} of"
            f" {each.plan.rounds} rounds fit",
            code="FK339",
        )
    return found


def way_out(config: ExperimentConfig, short: Mapping[str, Short]) -> str:
    """The largest run of this kind that every site could pay."""
    rounds = min(rounds_affordable(each.account, each.plan, each.now_ms) for each in short.values())
    noises = {each.plan.noise_multiplier for each in short.values()}
    ways = []
    if config.privacy.noise_multiplier is not None:
        if rounds:
            ways.append(f"set federation.num_rounds={rounds}, or raise privacy.noise_multiplier")
    else:
        # Fewer rounds alone would be calibrated back to the same epsilon.
        share = config.privacy.evaluation.share
        epsilon = min(affordable_epsilon(each.account, each.plan, each.now_ms, share) for each in short.values())
        if epsilon > 0:
            ways.append(f"set privacy.epsilon={epsilon:g}")
        if rounds and len(noises) == 1:
            noise = f"privacy.epsilon=null privacy.noise_multiplier={noises.pop()!r}"
            measured = {each.plan.evaluation.noise_multiplier for each in short.values() if each.plan.evaluation}
            if share is not None and len(measured) == 1:
                noise += f" privacy.evaluation.share=null privacy.evaluation.noise_multiplier={measured.pop()!r}"
            ways.append(f"keep this noise and set federation.num_rounds={rounds} {noise}")
    return ", or ".join(ways) or "wait until other runs end, or leave the site out; what was spent never comes back"


def _cost(each: Short) -> int:
    return each.account.cost(job_of(each.plan).charges)


def _share(units: int, each: Short, whole: Callable[[float], int]) -> str:
    return f"{whole(1000 * units / each.account.capacity) / 10:g} %"


def together(problems: Mapping[str, PrivacyError], remedy: str = "") -> PrivacyError:
    """Every site's problem in one error; of one kind, they keep its code."""
    codes = sorted({error.code for error in problems.values()})
    code = codes[0] if len(codes) == 1 else "FK300"
    if len(problems) == 1:
        ((site, error),) = problems.items()
        return PrivacyError(f"{site}: {error.message}", code=code, remedy=remedy or error.remedy)
    told = "\n".join(f"  - {site}: {error}" for site, error in problems.items())
    message = f"{len(problems)} sites' ledgers cannot pay for the run\n{told}\nNothing was spent or trained"
    return PrivacyError(message, code=code, remedy=remedy)
