"""What left a site, as one HTML file that loads nothing, and as a draft of what a notification asks for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fedkit.reporting.page import render

MARK = "REHEARSAL: made up, nothing of this has happened"
USAGE = (
    "Beside its answers the site's file, as it is now, lets exact CPU seconds and memory out, which may follow from"
    " records and have no guarantee."
)
UNKNOWN = (
    "What left without privacy between that backup and its restore leaves nothing in a ledger: nobody here knows it."
)
_FILL = "[TO FILL IN: {}]"


def incident_page(found: Mapping[str, Any], version: str) -> str:
    """The page of an incident's plain values; equal values give equal bytes."""
    answers = [{**each, "when": _when(each["at"]), "bound": _bound(each["guarantee"])} for each in found["answers"]]
    runs = [{**each, "span": f"{_when(each['first'])} to {_when(each['last'])}", "bound": _bound(each["guarantee"]),
             "counted": _counted(each["answers"])} for each in found["runs"]]  # fmt: skip
    events = [{**each, "when": _when(each["at"])} for each in found["events"]]
    values = {
        "found": found,
        "presumed": [
            {**each, "told": presumed_text(each), "bound": _bound({**each, "guarantee": "dp"})}
            for each in found["presumed"]
        ],
        "unknown": UNKNOWN,
        "answers": answers,
        "runs": runs,
        "events": events,
        "mark": MARK,
        "usage": USAGE,
        "version": version,
    }
    return render("incident.html.j2", values)


def notification_draft(found: Mapping[str, Any]) -> str:
    """What GDPR Art. 33(3) and HIPAA 164.404(c) ask for, as far as the site's files tell it; the rest is marked.

    Whether there was a breach, and of what, no file of fedkit's says.
    """
    lines = [f"# {found['site']}: draft of a notification", ""]
    if found["rehearsal"]:
        lines += [f"**{MARK}.**", ""]
    lines += [
        f"Made {found['made_at']} from the site's own files, for {found['since']} to {found['until']}. A draft: it says"
        " what left, not whether that was a breach. Everything in brackets is for the hospital, and a lawyer reads it"
        " before it is sent.",
        "",
        "## GDPR Art. 33(3)",
        "",
        "**(a) Nature of the breach.** " + _FILL.format("what happened, how and when it was noticed"),
        "",
        *_left(found),
        "",
        *_subjects(found),
        "",
        "**(b) Contact.** "
        + _contacts(found)
        + _FILL.format("name, telephone and address of the data protection officer"),
        "",
        "**(c) Likely consequences.** " + _consequences(found),
        _FILL.format("what else was reached: this machine, the table, keys; consequences for the persons"),
        "",
        "**(d) Measures.** "
        + _measures(found)
        + _FILL.format("measures taken or proposed, and against adverse effects"),
        "",
        "Art. 33(1): without undue delay and, where feasible, within 72 hours after having become aware of it: "
        + _FILL.format("when the hospital became aware; reasons for a delay"),
        "Art. 34, persons concerned: " + _FILL.format("whether the risk is high, and how they are told"),
        "",
        "## HIPAA 164.404(c)(1)",
        "",
        "**(A) What happened, with the dates of the breach and of its discovery.** "
        + _FILL.format("description, both dates")
        + " What left is above.",
        "",
        "**(B) Types of unsecured protected health information.** "
        + (_columns(found) or "None is known. ")
        + _FILL.format("types that were involved; noisy sums over these columns are not the columns"),
        "",
        "**(C) What persons should do to protect themselves.** " + _FILL.format("steps"),
        "",
        "**(D) What is done to investigate, to mitigate harm and against further breaches.** "
        + _measures(found)
        + _FILL.format("investigation, mitigation"),
        "",
        "**(E) Contact for questions.** "
        + _FILL.format("toll-free number, e-mail address, web site or postal address"),
        "",
        "164.404(b): no later than 60 calendar days after discovery: " + _FILL.format("date of discovery"),
        "",
        "## What this rests on",
        "",
        *(
            f"- {name}: {'verified' if told['good'] else 'NOT WHAT WAS WRITTEN: ' + told['why']}"
            for name, told in found["chains"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _left(found: Mapping[str, Any]) -> list[str]:
    lines = _left_unlogged(found)
    if not found["runs"]:
        return ["According to the site's audit log no answer left in this time.", *(["", *lines] if lines else [])]
    unlogged, lines = (
        lines,
        [
            f"{_recipient(found)}, left by the log:",
            "",
        ],
    )
    for run in found["runs"]:
        part = f", of which {run['withheld']} perhaps not or in part" if run["withheld"] else ""
        lines.append(
            f"- run {run['run']} on {run['dataset']} for {run['for_purpose']} (study {run['study']}), submitted by"
            f" {run['submitter']} ({run['submitter_key']}), {_when(run['first'])} to {_when(run['last'])}:"
            f" {_counted(run['answers'])}{part}; {_bound(run['guarantee'])}"
        )
    return [*lines, "", *unlogged] if unlogged else lines


def _left_unlogged(found: Mapping[str, Any]) -> list[str]:
    if not found["presumed"]:
        return []
    return [
        f"**The log is not all: the folder was put back from a backup.** {_recipient(found)}, presumably left beside"
        f" this, by the ledgers. {UNKNOWN}",
        "",
        *(
            f"- run {each['run']} on {each['dataset']} (study {each['study'] or 'not known'}), submitted by whom"
            f" is not recorded here: {presumed_text(each)}; {_bound({**each, 'guarantee': 'dp'})}"
            for each in found["presumed"]
        ),
        "",
        _FILL.format("what the coordinator's log and the machine that was lost tell of these runs"),
    ]


def _recipient(found: Mapping[str, Any]) -> str:
    recipient = found["recipient"]
    users = ", ".join(user["name"] for user in recipient["users"]) or "not known"
    return (
        f"To the coordinator at {recipient['address']} (key {recipient['coordinator']}), from which the users of the"
        f" federation ({users}) can fetch it"
    )


def presumed_text(gone: Mapping[str, Any]) -> str:
    """What presumably left of a run, for a person; of the plain values of `fedkit_client.reconciled.Presumed`."""
    rounds = "; ".join(f"{purpose} {', '.join(map(str, numbers))}" for purpose, numbers in gone["rounds"].items())
    return (
        f"the ledger was charged for {gone['count']} round{'' if gone['count'] == 1 else 's'} ({rounds}) that this"
        f" folder's log does not know, reconciled after a restore at {_when(gone['before'])}: presumably left, since"
        f" {_when(gone['after'])}"
    )


def _subjects(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "Categories and approximate number of data subjects and of records concerned, as the site's file declares them:"
    ]
    for name, data in found["datasets"].items():
        count = "a number that is not declared any more" if data["records"] is None else f"{data['records']:,}"
        later = data["withdrawn_later"]
        gone = f"; {later} withdrew later" if later else ""
        lines.append(f"- {name}: up to {count} {data['unit'] or 'unit'}s{gone}. {_sensitive(data['columns'])}")
    if not found["datasets"]:
        lines.append("- none is known.")
    return [
        *lines,
        _FILL.format("categories of persons; the true numbers: `fedkit client lineage SITE.yaml --run RUN`"),
    ]


def _sensitive(columns: Mapping[str, str]) -> str:
    by_class: dict[str, list[str]] = {}
    for column, kind in columns.items():
        by_class.setdefault(kind, []).append(column)
    return " ".join(f"{kind}: {', '.join(names)}." for kind, names in sorted(by_class.items()))


def _columns(found: Mapping[str, Any]) -> str:
    return "".join(
        f"{name}: {', '.join(data['columns']) or 'not declared'}. " for name, data in found["datasets"].items()
    )


def _contacts(found: Mapping[str, Any]) -> str:
    said = {data["contact"] for data in found["datasets"].values() if data["contact"]}
    return "".join(f"Declared: {contact}. " for contact in sorted(said))


def _consequences(found: Mapping[str, Any]) -> str:
    unprotected = found["unprotected"]
    private = [run for run in [*found["runs"], *found["presumed"]] if run["run"] not in unprotected]
    text = ""
    if unprotected:
        text += (
            f"What left of {', '.join(unprotected)} was exact: it may reveal single records, and nothing bounds that. "
        )
    if private:
        text += (
            f"What left of {'the other' if unprotected else 'these'} runs is differentially private: for whoever has"
            " all of a run, the odds that one unit's records were used change by at most the factor e^epsilon of that"
            " run, but for delta; for all runs together the ledger's epsilon is the bound. "
        )
    if found["usage_disclosed"]:
        text += f"{USAGE} "
    return text


def _measures(found: Mapping[str, Any]) -> str:
    for key, said in (("quarantined", "quarantined"), ("paused", "paused")):
        if found[key] is not None:
            since = found[key] if key == "quarantined" else found[key]["since"]
            return f"The site is {said} since {_when(since) if since else 'a time that is not known'}. "
    return "The site is neither paused nor quarantined. "


def _bound(guarantee: Mapping[str, Any]) -> str:
    if guarantee.get("guarantee") != "dp":
        return "WITHOUT A GUARANTEE"
    return (
        f"epsilon {guarantee['epsilon']:g} at delta {guarantee['delta']:g} for one {guarantee['unit']},"
        f" {str(guarantee['adjacency']).replace('_', ' ')}, for the whole run"
    )


def _counted(answers: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in answers.items())


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
