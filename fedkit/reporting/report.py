"""report.html: one run on one page, for a data protection officer and a machine learning lead alike."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fedkit.errors import RunError
from fedkit.reporting import claim, deployed, evaluation, figures, page, svg, text
from fedkit.reporting.reader import RunView, read_run
from fedkit.reporting.statistics import SMALL
from fedkit.reporting.verdict import ADJACENCY, max_spent, protections, verdict

OUTCOMES = {
    "complete": ("good", "complete"),
    "degraded": ("warn", "degraded: not every site took part"),
    "failed": ("bad", "failed"),
    "interrupted": ("warn", "interrupted"),
    "stopped": ("warn", "stopped on request"),
    "running": ("plain", "running, or ended without a word"),
}
_KINDS = {"local": "simulated in one process", "flower": "over Flower", "deployed": "deployed federation"}
_GIVEN = {"python": " (given in Python)", "installed": " (installed at the coordinator and at each site)"}
BASELINES = {"pooled": "pooled", "local_only": "local only"}


def write_report(run_dir: Path | str) -> Path:
    """Write ``report.html`` into a run directory.

    The page loads nothing, needs no script, and depends on the directory's content alone: equal runs give equal bytes.

    Returns:
        The page's path.

    Raises:
        RunError: the directory cannot be read (FK610 to FK613) or the page not be written (FK614).
    """
    view = read_run(run_dir)
    try:
        content = page.render("report.html.j2", _context(view))
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        # Valid JSON of another shape: a folder that was edited by hand.
        raise RunError(
            f"{view.path} cannot be reported on: its files do not fit together ({type(error).__name__}: {error})",
            code="FK611",
            remedy="restore the files",
        ) from error
    for name in claim.NAMES:
        page.write(view.path / name, claim.claim(name))
    return page.write(view.path / "report.html", content)


def _context(view: RunView) -> dict[str, Any]:
    tone, label = OUTCOMES.get(view.outcome, ("plain", view.outcome))
    sites = [_site(view, i, site) for i, site in enumerate(view.sites)]
    first_plan = next(iter(view.plan.values()), {})
    drawn = [figures.curve(view, m) for m in _curve_metrics(view)] + [figures.epsilon_curve(view)]
    quality = [figures.roc_curves(view), figures.calibration_curves(view)]
    subgroups = (view.result or {}).get("subgroups") or {}
    return {
        "view": view,
        "created": str(view.manifest.get("created", ""))[:16].replace("T", " ") + " UTC",
        "outcome": {"tone": tone, "label": label},
        "badges": _badges(view),
        "verdict": verdict(view),
        "notes": [*(view.manifest.get("notes") or ()), *view.remarks],
        "tiles": _tiles(view),
        "results_lead": deployed.lead(view) if view.deployed else _results_lead(view),
        "caption": deployed.caption(view) if view.deployed else "",
        "curves_lead": deployed.curves_lead(view) if view.deployed else "",
        "federation_facts": deployed.facts(view) if view.deployed else [],
        "sites": sites,
        "total": {"train": view.totals[0], "test": view.totals[1], "epsilon": max_spent(view)},
        "show_epsilon": view.private_mode,
        "private": bool(view.manifest.get("private")),
        "unit": first_plan.get("unit", "record"),
        "adjacency": ADJACENCY.get(str(first_plan.get("adjacency", "add_remove")), "add or remove"),
        "accountant": str(first_plan.get("accountant", "")).replace("pld", "PLD"),
        "baselines": _baselines(view),
        "curves": [f for f in drawn if f],
        "quality": [f for f in quality if f],
        "subgroups": subgroups,
        "subgroup_metrics": text.ordered(
            {k for groups in subgroups.values() for cell in groups.values() for k in cell} - {"n", "suppressed"}
        ),
        "smallest": SMALL,
        "evaluation": evaluation.context(view),
        "claim": claim.NAMES[0] if claim.claim() else "",
        "protections": protections(view),
        "plans": [{**plan, "site": s, "chip": _chip(view, s)} for s, plan in view.plan.items()],
        "stand_in": not all(plan.get("records_declared") for plan in view.plan.values()),
        "data_facts": _data_facts(view),
        "warnings": view.data.get("warnings") or [],
        "reproduce_lead": _reproduce_lead(view),
        "command": f"fedkit replay {shlex.quote(_shown_path(view))}",
        "reproduce_facts": _reproduce_facts(view),
        "config_text": text.redact(view.config_text.strip()),
    }


def _curve_metrics(view: RunView) -> tuple[str, ...]:
    known = set(view.metric_names)
    # Figures stand in pairs: beside epsilon there is room for a third curve.
    wanted = text.CURVES.get(view.kind, ())[: 3 if view.private_mode else 2]
    return tuple(m for m in wanted if m in known) or view.metric_names[:2]


def _chip(view: RunView, site: str) -> Markup:
    few = len(view.sites) <= figures.MANY and site in view.sites
    return svg.chip(view.sites.index(site)) if few else Markup("")


def _site(view: RunView, index: int, site: str) -> dict[str, Any]:
    train, test = view.sizes(site)
    facts = ((view.result or {}).get("sites") or {}).get(site) or {}
    return {
        "name": site,
        "chip": _chip(view, site),
        "train": train,
        "test": test,
        "metrics": view.final(site),
        "epsilon": view.spent(site),
        "delta": facts.get("delta") or (view.plan.get(site) or {}).get("delta"),
    }


def _badges(view: RunView) -> list[str]:
    if not view.private_mode:
        noise = "privacy: none"
    else:
        noise = f"{view.manifest.get('mode')}, {view.manifest.get('noise')} noise"
    kind = _KINDS.get(str(view.manifest.get("federation")), "")
    model = (view.manifest.get("model") or {}).get("name")
    strategy = (view.manifest.get("strategy") or {}).get("name")
    names = " + ".join(str(n) for n in (model, strategy) if n)
    return [b for b in (noise, kind, names, text.plural(len(view.sites), "site") if view.sites else "") if b]


def _tiles(view: RunView) -> list[dict[str, str]]:
    tiles = []
    for name in view.headline:
        if not view.overall:
            break
        known = [v for s in view.sites if (v := view.final(s).get(name)) is not None]
        spread = f"sites {text.number(min(known))} to {text.number(max(known))}" if known else "undefined at every site"
        label = f"{text.describe(name).label}, overall"
        tiles.append({"label": label, "value": text.number(view.overall.get(name)), "detail": spread})
    spent = max_spent(view)
    if view.private_mode:
        plan = next(iter(view.plan.values()), {})
        detail = f"delta {text.small(plan.get('delta'))}, for one {plan.get('unit', 'record')}"
        label = "Largest epsilon" if view.manifest.get("private") else "Epsilon, if noise were real"
        tiles.append({"label": label, "value": "–" if spent is None else text.epsilon(spent), "detail": detail})
    else:
        tiles.append({"label": "Epsilon", "value": "none", "detail": "no guarantee"})
    units = view.totals[0]
    tiles.append(
        {
            "label": "Sites",
            "value": str(len(view.sites)),
            "detail": _trained_on(view, units),
        }
    )
    done = str(view.rounds_done) + ("" if view.rounds_done >= view.num_rounds else f" of {view.num_rounds}")
    tiles.append({"label": "Rounds", "value": done, "detail": f"in {text.duration(view.manifest.get('seconds'))}"})
    return tiles


def _trained_on(view: RunView, rows: int) -> str:
    if view.data.get("unit") != "patient":
        return f"{rows:,} training records"
    trained = view.manifest.get("local") or {}
    sites = (view.data.get("sites") or {}).items()
    return f"{rows:,} training rows of {sum(facts.get('train', 0) for s, facts in sites if s in trained):,} patients"


def _results_lead(view: RunView) -> str:
    undefined = any(value is None for site in view.sites for value in view.final(site).values())
    where = " A dash is a metric that is undefined at a site; hover for the reason." if undefined else ""
    exact = "Exact metrics: they exist in simulation only and are not protected."
    if view.overall:
        return f"The final model, tested at every site. {exact}{where}"
    return f"The run did not reach its end: these are the metrics after round {view.rounds_done}. {exact}{where}"


def _baselines(view: RunView) -> dict[str, Any] | None:
    given = (view.result or {}).get("baselines") or {}
    kinds = [k for k in BASELINES if k in given]
    if not kinds:
        return None
    names = ["federated", *(BASELINES[k] for k in kinds)]

    def cells(ours: Mapping[str, Any], theirs: list[Mapping[str, Any]]) -> dict[str, list[Any]]:
        return {m: [source.get(m) for source in (ours, *theirs)] for m in view.headline}

    rows: list[dict[str, Any]] = []
    for site in view.sites:
        others = [(given[k].get("sites") or {}).get(site) or {} for k in kinds]
        rows.append(
            {"name": site, "chip": _chip(view, site), "overall": False, "cells": cells(view.final(site), others)}
        )
    others = [given[k].get("overall") or {} for k in kinds]
    rows.append({"name": "Overall", "chip": "", "overall": True, "cells": cells(view.overall, others)})
    drawn = []
    for metric in view.headline:
        series = {n: {r["name"]: r["cells"][metric][i] for r in rows if not r["overall"]} for i, n in enumerate(names)}
        drawn.append(figures.baseline_dots(view, metric, series))
    return {"series": names, "rows": rows, "figures": [f for f in drawn if f]}


def _data_facts(view: RunView) -> list[tuple[str, str]]:
    data, manifest = view.data, view.manifest
    task, source = data.get("task") or {}, "each site's own table" if view.deployed else data.get("source")
    target = ((view.config.get("data") or {}).get("target") or {}).get("column")
    kind = str(task.get("kind") or view.kind) + (
        f" ({', '.join(map(str, task['classes']))})" if task.get("classes") else ""
    )
    if task.get("range"):
        kind += f", range {task['range'][0]:g} to {task['range'][1]:g}"
    local = list((manifest.get("local") or {}).values())
    steps = sorted({plan.get("steps") for plan in local})
    facts = [
        ("Data set", str(data.get("name", "not read"))),
        (
            "Source",
            text.redact(
                source if isinstance(source, str) else ", ".join(f"{k} {v}" for k, v in (source or {}).items())
            ),
        ),
        ("Task", kind + (f", target {target}" if target else "")),
        ("Unit of privacy", f"one {data.get('unit', 'record')}"),
        ("Split", str(data.get("split", ""))),
        ("Scaling", str(data.get("scaling", ""))),
        ("Features", text.features(data.get("feature_names") or (), data.get("input_shape") or ())),
        ("Model", _part(manifest.get("model"), "parameters")),
        ("Strategy", _part(manifest.get("strategy"))),
    ]
    if local:
        span = str(steps[0]) if len(steps) == 1 else f"{steps[0]} to {steps[-1]}"
        how = f"{local[0].get('optimizer')}, learning rate {local[0].get('learning_rate'):g}, {span} steps a round"
        facts.append(("Local training", f"{how} at each site"))
    return [(name, value) for name, value in facts if value]


def _part(section: Mapping[str, Any] | None, counted: str = "") -> str:
    if not section:
        return ""
    arguments = ", ".join(f"{k}={v}" for k, v in (section.get("arguments") or {}).items())
    given = _GIVEN.get(str(section.get("source")), "")
    count = f", {section[counted]:,} {counted}" if counted and section.get(counted) is not None else ""
    return f"{section.get('name')}{f'({arguments})' if arguments else ''}{count}{given}"


def _shown_path(view: RunView) -> str:
    return f"{str(view.config.get('runs_dir') or 'runs').rstrip('/')}/{view.path.resolve().name}"


def _reproduce_lead(view: RunView) -> str:
    if view.deployed and not view.private_mode:
        return "The sites' records are not here: replay folds the recorded updates again and compares the models."
    if view.manifest.get("noise") == "secure":
        return "Real noise cannot be drawn twice: replay folds the recorded updates again and compares the models."
    return "Trains again from the manifest and says whether every round's model is identical, bit by bit."


def _reproduce_facts(view: RunView) -> list[tuple[str, str]]:
    manifest, git = view.manifest, view.manifest.get("git")
    revision = (
        f"{git.get('revision')}{', with uncommitted changes' if git.get('dirty') else ''}"
        if git
        else "not in a repository"
    )
    facts = [
        ("Seed", str(manifest.get("seed", ""))),
        ("Revision", revision),
        ("Versions", ", ".join(f"{k} {v}" for k, v in (manifest.get("versions") or {}).items())),
    ]
    if view.rounds:
        last = view.rounds[-1]
        facts.append((f"Model after round {last.get('round')}", str(last.get("digest", ""))))
    prints = {s: f.get("fingerprint") for s, f in (view.data.get("sites") or {}).items() if f.get("fingerprint")}
    if prints:
        shown = list(prints.items())[: figures.MANY]
        facts.append(("Data fingerprints", ", ".join(f"{s} {str(p)[:12]}" for s, p in shown)))
    return facts
