"""The ledgers of a simulation's sites: a file a site in ``ledgers_dir``, and a gate in front of each site.

::

    FK330  no ledger, or one that cannot be read       FK353  another delta than the budget's
    FK331 to FK338  a ledger that cannot be used       FK355  one ledger for two sites
    FK339  more than the budget has left               FK356  something that no ledger would be charged for
    FK340  no budget for the data set                  FK300  problems of several kinds at several sites
    FK341  another unit or adjacency                   FK358  more ledgers than this process may have open
                                                       FK373  a site's name that is no plain file name
"""

from __future__ import annotations

import logging
import math
import resource
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from fedkit.assurance.site_budgets import HEAD, ledger_paths
from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import PrivacyError
from fedkit.federation.gate import Gate
from fedkit.privacy.ledger import checks
from fedkit.privacy.ledger.book import charges
from fedkit.privacy.ledger.export import read_export
from fedkit.privacy.ledger.facts import require_real_noise
from fedkit.privacy.ledger.figures import Computing
from fedkit.privacy.ledger.file import may_write
from fedkit.privacy.ledger.forecast import forecast
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.place import is_there
from fedkit.simulation.ledger_refusals import Short, create_command, lines, together, way_out
from fedkit.simulation.prepare import Prepared
from fedkit.types import PrivacyPlan

T = TypeVar("T")
_FILES = 3
_LOG = logging.getLogger("fedkit.ledger")


def refuse_uncharged(config: ExperimentConfig, *, baselines: bool = False) -> None:
    """Where sites have ledgers, refuse what would release something that none of them is charged for.

    Raises:
        PrivacyError: FK356, baselines, which train outside the run; sites in other processes.
    """
    if config.ledgers_dir is None:
        return
    if baselines:
        raise PrivacyError(
            "baselines train outside the run, and no ledger would be charged for them",
            code="FK356",
            remedy="leave --baselines out, or set ledgers_dir=null privacy.noise=seeded",
        )
    if config.federation.kind != "local":
        raise PrivacyError(
            f"federation={config.federation.kind} trains in other processes, whose answers pass no gate yet",
            code="FK356",
            remedy="set federation=local, or ledgers_dir=null",
        )


@contextmanager
def gates(prepared: Prepared, run: str | None = None) -> Iterator[dict[str, Gate]]:
    """Admit a run at every site, and keep each site's gate open while it lasts; empty without ``ledgers_dir``.

    All or nothing: where one site cannot pay, the holds already made at others are freed. Once left, what was not
    reserved is free again and stored replies are deleted; a killed process' holds expire after a day.

    Args:
        run: the run's name in the ledgers; a fresh one by default. Each run needs its own.

    Returns:
        Site to its gate, for every site that trains.

    Raises:
        PrivacyError: see the module; every site's problem at once, and nothing was spent.
    """
    config, plans = prepared.config, _plans(prepared)
    if config.ledgers_dir is None:
        yield {}
        return
    name = run or f"{config.name}-{secrets.token_hex(8)}"
    with ExitStack() as stack:
        ledgers = _opened(config, plans, stack)
        made = {site: Gate(ledgers[site], config.data.name, name, plan) for site, plan in plans.items()}
        held: list[Gate] = []
        reason: Literal["ended", "stopped"] = "stopped"
        # From before the first hold: whatever interrupts the admission frees what it has held.
        try:
            _admit(config, made, held)
            yield made
            reason = "ended"
        finally:
            for gate in held:
                _leave(gate, reason)


def taken(opened: Mapping[str, Gate]) -> dict[str, dict[str, float]]:
    """Site to the shares of its budget that the run took (rounded up) and that all runs left (rounded down)."""
    found = {}
    for site, gate in opened.items():
        # A ledger that broke meanwhile has stopped the run with an error of its own.
        with suppress(PrivacyError):
            account = gate.ledger.account(gate.dataset)
            spent = account.cost(charges(account.runs[gate.run].spent))
            found[site] = {
                "took": math.ceil(1e4 * spent / account.capacity) / 1e4,
                "left": math.floor(1e4 * (account.capacity - account.spent) / account.capacity) / 1e4,
                "limit": account.budget.limit,
            }
    return found


def forecasts(
    prepared: Prepared, *, pld: bool = True, computing: Computing = nullcontext
) -> tuple[dict[str, dict[str, Any]], PrivacyError | None]:
    """What a run would take from each site's ledger; holds and spends nothing.

    Args:
        pld: compute PLD figures that are not stored (seconds for a long ledger).
        computing: entered with a sentence while one is computed.

    Returns:
        Site to its forecast (see :func:`fedkit.privacy.ledger.forecast.forecast`), and why the run would be refused.
        Sites whose ledger cannot be used are left out.
    """
    config, plans = prepared.config, _plans(prepared)
    with ExitStack() as stack:
        try:
            paths = _paths(config, plans)
        except PrivacyError as error:
            return {}, error
        ledgers, problems = _each(plans, lambda site: _open(config, site, paths[site], plans[site], stack, plan=True))

        def look(site: str) -> dict[str, Any]:
            return forecast(
                ledgers[site],
                config.data.name,
                plans[site],
                pld=pld,
                computing=lambda sentence: computing(f"{site}: {sentence}"),
            )

        found, more = _each(ledgers, look)
        short = {
            site: Short(ledgers[site].account(config.data.name), plans[site], ledgers[site].now_ms())
            for site, each in found.items()
            if not each["affordable"]
        }
        problems |= more
        if short:
            problems |= lines(short)
        if not problems:
            return found, None
        return found, together(problems, way_out(config, short) if len(short) == len(problems) else "")


def _plans(prepared: Prepared) -> dict[str, PrivacyPlan]:
    return {site: plan.privacy for site, plan in prepared.local.sites.items() if plan.privacy is not None}


def _opened(config: ExperimentConfig, plans: Mapping[str, PrivacyPlan], stack: ExitStack) -> dict[str, Ledger]:
    paths = _paths(config, plans)
    ledgers, problems = _each(plans, lambda site: _open(config, site, paths[site], plans[site], stack))
    if problems:
        raise together(problems)
    return ledgers


def _paths(config: ExperimentConfig, plans: Mapping[str, PrivacyPlan]) -> dict[str, Path]:
    _allow_files(len(plans))
    paths = ledger_paths(Path(config.ledgers_dir or ""), list(plans))
    files: dict[tuple[int, int], str] = {}
    for site, path in paths.items():
        if is_there(path):
            status = path.stat()
            other = files.setdefault((status.st_dev, status.st_ino), site)
            if other != site:
                raise PrivacyError(
                    f"{path} is the ledger of {other} too",
                    code="FK355",
                    remedy="give each site a file of its own, without links",
                )
    return paths


def _open(
    config: ExperimentConfig, site: str, path: Path, asked: PrivacyPlan, stack: ExitStack, *, plan: bool = False
) -> Ledger:
    dataset, head = config.data.name, path.with_name(site + HEAD)
    require_real_noise(asked)
    if not is_there(path):
        raise PrivacyError(f"there is no ledger at {path}", code="FK330", remedy=create_command(path, dataset, asked))
    known = read_export(head) if is_there(head) else None
    ledger = stack.enter_context(Ledger(path, head=known, read_only=plan and not may_write(path)))
    try:
        account = ledger.account(dataset)
    except PrivacyError as error:
        raise PrivacyError(error.message, code=error.code, remedy=create_command(path, dataset, asked)) from None
    checks.same_guarantee(account, asked.unit, asked.adjacency)
    checks.same_delta(account, asked.delta)
    return ledger


def _admit(config: ExperimentConfig, made: Mapping[str, Gate], held: list[Gate]) -> None:
    def admit(site: str) -> None:
        made[site].admit(config.name)
        held.append(made[site])

    _, problems = _each(made, admit)
    if not problems:
        return
    # What was held at others counts against nobody: the figures below are those without this run.
    for gate in held:
        _leave(gate, "stopped")
    poor = [site for site, error in problems.items() if error.code == "FK339"]
    short = {
        site: Short(made[site].ledger.account(config.data.name), made[site].plan, made[site].ledger.now_ms())
        for site in poor
    }
    problems |= lines(short)
    raise together(problems, way_out(config, short) if len(short) == len(problems) else "")


def _leave(gate: Gate, reason: Literal["ended", "stopped"]) -> None:
    # What matters is on disk: the run stands. A hold that cannot be freed expires, replies left there take space.
    try:
        gate.end(reason)
        gate.ledger.prune(gate.dataset, gate.run)
    except PrivacyError as error:
        _LOG.warning("%s: the rest of the hold of run %s is free after a day only: %s", gate.plan.site, gate.run, error)


def _allow_files(sites: int) -> None:
    # A ledger is three open files, and many systems give a process 1,024 unless it asks for more.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES * sites + 256
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise PrivacyError(
            f"the ledgers of {sites} sites need {wanted} open files, and this process may have {hard}",
            code="FK358",
            remedy="raise `ulimit -n`, or run fewer sites",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _each(sites: Mapping[str, Any], do: Callable[[str], T]) -> tuple[dict[str, T], dict[str, PrivacyError]]:
    done: dict[str, T] = {}
    problems: dict[str, PrivacyError] = {}
    for site in sites:
        try:
            done[site] = do(site)
        except PrivacyError as error:
            problems[site] = error
    return done, problems
