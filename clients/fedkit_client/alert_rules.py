"""From what the log holds, how things stand and the clock, to what somebody should look at: pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from fedkit.federation.public_codes import COMMON, MAY_CHANGE
from fedkit.governance.alert_terms import AlertTerms
from fedkit_client.alert import Alert, weight
from fedkit_client.alert_facts import Facts, History, Seen

HOUR, DAY, WEEK = 3600.0, 86_400.0, 7 * 86_400.0
FORGED = ("FK541", "FK542", "FK544", "FK545")
_GONE = ("FK736", "FK755")
_WAITS = "FK577"
_STARTS, _MOST = 5, 20
UNUSUAL, LEAST_KNOWN = 4.0, 5
"""How far a norm may be from the median of at least so many before it."""

Rule = Callable[[History, Facts, AlertTerms, float], Iterator[Alert]]


def alerts_at(history: History, facts: Facts, terms: AlertTerms, now: float) -> tuple[Alert, ...]:
    """Everything that stands now, the most severe first; equal arguments give equal alerts."""
    found = [alert for rule in RULES.values() for alert in rule(history, facts, terms, now)]
    return tuple(sorted(found, key=lambda alert: (-weight(alert.severity), alert.since, alert.key)))


def _refused(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    found: dict[str, list[Seen]] = {}
    for seen in history.since(now - HOUR, "refused"):
        code = seen.text("code")
        if code != COMMON and code not in MAY_CHANGE:
            found.setdefault(code, []).append(seen)
    for code, lines in found.items():
        severity = "critical" if code in FORGED else "warning"
        run = lines[-1].text("run")
        yield Alert(
            "refused", severity, f"refused:{code}", lines[0].at,
            f"{_times(len(lines))} in an hour a request was refused with {code}, the last of run {run or '(not told)'}",
            f"`fedkit client explain SITE.yaml {run or 'RUN'}`, client.log", len(lines), {"code": code, "run": run},
        )  # fmt: skip


def _waiting(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    runs: dict[str, list[Seen]] = {}
    for seen in history.since(now - HOUR, "refused"):
        if seen.text("code") == _WAITS:
            runs.setdefault(seen.text("run"), []).append(seen)
    for run, lines in list(runs.items())[-_MOST:]:
        yield Alert(
            "waiting", "info", f"waiting:{run}", lines[0].at, f"run {run} waits for a person's approval",
            "`fedkit client requests SITE.yaml`", len(lines), {"run": run},
        )  # fmt: skip


def _failures(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    # A child that died was answered with the same code, and is not told apart: why it died may follow from records.
    lines = [seen for seen in history.since(now - HOUR, "refused") if seen.text("code") == COMMON]
    if len(lines) >= terms.failures:
        yield Alert(
            "failures", "warning", "failures", lines[0].at, f"{_times(len(lines))} in an hour a request failed here",
            "see client.log; `fedkit client doctor SITE.yaml`", len(lines), {"code": COMMON},
        )  # fmt: skip


def _restarts(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    lines = history.since(now - HOUR, "started")
    if len(lines) >= _STARTS:
        yield Alert(
            "restarts", "warning", "restarts", lines[0].at, f"the site was started {len(lines)} times in an hour",
            "see client.log and the service manager's log", len(lines),
        )  # fmt: skip


def _config(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    new = [(digest, seen) for digest, seen in history.configs.items() if seen.at > now - DAY]
    for digest, seen in new[-_MOST:]:
        run, dataset = seen.text("run"), seen.text("dataset")
        yield Alert(
            "config", "warning", f"config:{digest}", seen.at,
            f"run {run} by {seen.text('submitter')} on {dataset} has a config that was never seen: {digest[:12]}",
            f"`fedkit client explain SITE.yaml {run}`; policy.approval: manual has a person look first", 1,
            {"config": digest, "run": run, "dataset": dataset, "submitter": seen.text("submitter")},
        )  # fmt: skip


def _site_file(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    # The first one is how the site began.
    for before, seen in zip(history.files, history.files[1:], strict=False):
        if seen.at > now - DAY:
            digest = seen.text("digest")
            yield Alert(
                "site-file", "warning", f"site-file:{seen.seq}", seen.at,
                f"the site began with another site.yaml: {digest[:12]} in the place of {before.text('digest')[:12]}",
                "compare it with the last one that was agreed", 1, {"digest": digest},
            )  # fmt: skip


def _budget(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    for name, budget in facts.budgets.items():
        if budget.problem:
            continue
        for share in terms.budget:
            if budget.spent < share:
                continue
            reached = _reached(history, facts, name, share, now)
            yield Alert(
                "budget", "critical" if share >= 0.95 else "warning" if share >= 0.8 else "info",
                f"budget:{name}:{share:g}", reached,
                f"{budget.spent:.1%} of the budget of {name} is spent, more than {share:.0%}: epsilon"
                f" {budget.epsilon_spent:g} of {budget.limit:g}",
                "`fedkit client inventory SITE.yaml`: which runs; what is spent stays spent", 1,
                {"dataset": name, "share": share, "spent": round(budget.spent, 6)},
            )  # fmt: skip


def _reached(history: History, facts: Facts, name: str, share: float, now: float) -> float:
    for at, spent in _spending(history, facts, name):
        if spent >= share:
            return at
    return now


def _burn(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    for name, budget in facts.budgets.items():
        series = [] if budget.problem else _spending(history, facts, name)
        for window, days, severity in ((DAY, 3.0, "critical"), (WEEK, 30.0, "warning")):
            recent = [(at, spent) for at, spent in series if at > now - window]
            if not recent:
                continue
            before = max((spent for at, spent in series if at <= now - window), default=None)
            # Where the log does not reach back further, the site is new or its lines were too many: from nothing.
            rate = (budget.spent - (0.0 if before is None else before)) / window
            if rate > 0 and (1.0 - budget.spent) / rate <= days * DAY:
                lasts = max(0.0, (1.0 - budget.spent) / rate / DAY)
                span = "day" if window == DAY else "week"
                yield Alert(
                    "burn", severity, f"burn:{name}:{span}", recent[0][0],
                    f"at the last {span}'s rate the budget of {name} ends in {lasts:.1f} days",
                    "policy.max_epsilon_per_run bounds a run; `fedkit client pause SITE.yaml`", len(recent),
                    {"dataset": name, "spent": round(budget.spent, 6), "days": round(lasts, 2)},
                )  # fmt: skip


def _spending(history: History, facts: Facts, name: str) -> list[tuple[float, float]]:
    budget = facts.budgets[name]
    return [
        (seen.at, budget.share(epsilon))
        for seen in history.lines.get("reserved", ())
        if seen.text("dataset") == name
        and (epsilon := seen.number("epsilon_spent")) is not None
    ]  # fmt: skip


def _norm(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    for config, lines in history.norms.items():
        known: list[float] = []
        for seen in lines:
            norm = seen.number("norm") or 0.0
            if seen.at > now - DAY and (why := _unlike(seen, norm, known)) is not None:
                severity, text = why
                run, number = seen.text("run"), int(seen.number("round") or 0)
                yield Alert(
                    "norm", severity, f"norm:{seen.seq}", seen.at,
                    f"the update of round {number} of run {run} has the norm {norm:.4g}, {text}",
                    "`fedkit client pause SITE.yaml`, then `fedkit audit`" if severity == "critical"
                    else "ask the run's submitter; a model or learning rate that changed looks so too", 1,
                    {"run": run, "round": number, "norm": norm, "config": config},
                )  # fmt: skip
            known.append(norm)


def _unlike(seen: Seen, norm: float, known: list[float]) -> tuple[str, str] | None:
    most, least = seen.number("norm_most"), seen.number("norm_least")
    if most is not None and norm > most:
        return "critical", f"and clip and noise of its plan allow at most {most:.4g}"
    if least is not None and norm < least:
        return "critical", f"and the noise of its plan alone has at least {least:.4g}"
    usual = median(known) if len(known) >= LEAST_KNOWN else 0.0
    if usual > 0 and not usual / UNUSUAL <= norm <= usual * UNUSUAL:
        return "warning", f"and those before it {usual:.4g}"
    return None


def _certificate(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    for name, end in facts.ends.items():
        left = end - now
        if left > terms.certificate:
            continue
        told = f"ends in {left / DAY:.1f} days" if left > 0 else f"has ended {-left / DAY:.1f} days ago"
        yield Alert(
            "certificate", "critical" if left <= WEEK else "warning", f"certificate:{name}:{end:.0f}",
            min(now, end - terms.certificate), f"the {name} {told}",
            "ask the coordinator's admin to renew it" if "CA" not in name else "join a federation with a new CA", 1,
            {"certificate": name, "ends": end},
        )  # fmt: skip


def _enrolment(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    if facts.problem in _GONE:
        yield Alert(
            "enrolment", "critical", f"enrolment:{facts.problem}", now if facts.heard is None else facts.heard,
            f"the coordinator does not know this site any more ({facts.problem})",
            "ask the coordinator's admin; `fedkit client join --from` joins again", 1, {"code": facts.problem},
        )  # fmt: skip


def _silent(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    # A quarantined site does not ask.
    if not facts.running or facts.heard is None or facts.quarantined is not None:
        return
    if now - facts.heard >= terms.silent:
        yield Alert(
            "silent", "critical", "silent", facts.heard,
            f"the coordinator was not heard for {(now - facts.heard) / 60:.0f} minutes",
            "`fedkit client doctor SITE.yaml`; ask the coordinator's admin", 1, {"code": facts.problem},
        )  # fmt: skip


def _chain(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    for name, why in facts.chains.items():
        yield Alert(
            "chain", "critical", f"chain:{name}", now, f"{name} is not what was written: {why}",
            "`fedkit client quarantine SITE.yaml` keeps the evidence; `log verify`, `fedkit ledger verify`", 1,
            {"file": name},
        )  # fmt: skip


def _contradicted(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    lines = history.since(now - WEEK, "contradicted")
    if lines:
        yield Alert(
            "contradicted", "critical", "contradicted", lines[0].at,
            "the coordinator's log went back, or differs from what it had told",
            "`fedkit client log show SITE.yaml --kind contradicted`; ask the coordinator's admin", len(lines),
        )  # fmt: skip


def _quarantined(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    if facts.quarantined is not None:
        yield Alert(
            "quarantined", "warning", "quarantined", facts.quarantined, "the site is quarantined: nothing is answered",
            "`fedkit client quarantine SITE.yaml --lift --reason TEXT`, once it is known what happened",
        )  # fmt: skip


def _channel(history: History, facts: Facts, terms: AlertTerms, now: float) -> Iterator[Alert]:
    for name, channel in facts.channels.items():
        if channel.since is not None:
            yield Alert(
                "channel", "warning", f"channel:{name}", channel.since,
                f"the channel {name} failed {_times(channel.failures).lower()}, {channel.queued} wait: {channel.why}",
                "`fedkit client alerts SITE.yaml --test`", channel.failures, {"channel": name},
            )  # fmt: skip
        if channel.dropped:
            yield Alert(
                "channel", "warning", f"dropped:{name}", now - DAY,
                f"{channel.dropped} alerts found no place in the queue of {name} in a day",
                "`fedkit client alerts SITE.yaml` shows what stands", channel.dropped, {"channel": name},
            )  # fmt: skip


def _times(count: int) -> str:
    return "Once" if count == 1 else f"{count} times"


RULES: dict[str, Rule] = {
    "refused": _refused, "waiting": _waiting, "failures": _failures, "restarts": _restarts, "config": _config,
    "site-file": _site_file, "budget": _budget, "burn": _burn, "norm": _norm, "certificate": _certificate,
    "enrolment": _enrolment, "silent": _silent, "chain": _chain, "contradicted": _contradicted,
    "quarantined": _quarantined, "channel": _channel,
}  # fmt: skip
