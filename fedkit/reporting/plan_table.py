"""What ``fedkit plan`` shows on a terminal: a site a row, what binds, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedkit.reporting import text
from fedkit.reporting.verdict import ADJACENCY

NO_LEDGER = "no ledger: rounds affordable are not known"
_MOST_SITES = 30


def plan_table(plan: Mapping[str, Any]) -> RenderableType:
    """A run's plans before launch.

    Args:
        plan: what ``fedkit plan --json`` prints.
    """
    rounds = text.plural(plan["num_rounds"], "round")
    parts: list[RenderableType] = [
        Text.assemble(
            (plan["name"], "bold"),
            f": {rounds}, {text.plural(len(plan['sites']), 'site')}, {text.plural(plan['parameters'], 'parameter')}",
        )
    ]
    parts.append(_plain(plan["sites"]) if plan["mode"] == "none" else _private(plan["sites"]))
    if len(plan["sites"]) > _MOST_SITES:
        parts.append(Text(f"… {len(plan['sites']) - _MOST_SITES} more", style="dim"))
    if plan["mode"] != "none":
        parts += [Text(line, style="dim") for line in _legend(plan)]
        parts += [Text.assemble(("Binds: ", "bold"), line) for line in _binding(plan)]
        if plan["ledger"] and plan["ledger"]["sites"]:
            parts.append(_ledgers(plan["ledger"]["sites"]))
            parts += [Text(line, style="dim") for line in _LEDGER_LEGEND]
        parts.append(Text(f"{plan['ledger_statement'][:1].upper()}{plan['ledger_statement'][1:]}."))
    parts += [Text(f"! {note}", style="yellow") for note in plan["notes"]]
    parts.append(Text(plan["statement"], style="green" if plan["private"] else "yellow"))
    return Group(*parts)


def plan_statement(plan: Mapping[str, Any]) -> str:
    """What the run will promise, in a sentence or two; never more than ``plan["private"]`` allows."""
    if plan["mode"] == "none":
        return "Not private: with privacy=none no noise is added, and every update may reveal single records."
    worst = max(plan["sites"].values(), key=lambda site: float(site["epsilon"]))
    cost = (
        f"epsilon {text.epsilon(worst['epsilon'])} at delta {text.small(worst['delta'])} for one {worst['unit']}, "
        f"{ADJACENCY.get(worst['adjacency'], worst['adjacency'])} adjacency, {_where(plan, 'epsilon')}"
    )
    if plan["private"]:
        return (
            f"{_everything(plan)} reveal over {text.plural(plan['num_rounds'], 'round')} is bounded by "
            f"{cost}. Exact metrics of a simulation are not protected."
        )
    return (
        f"Not private as it stands: the noise is seeded, for replay. With real noise (privacy.noise=secure) the plan "
        f"would cost {cost}."
    )


def ledger_statement(ledger: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """How many rounds the ledgers afford, and whether their filter or the PLD figure meets the limit first.

    Args:
        ledger: ``dir`` and ``sites``, site to its forecast; ``plan`` has the number of rounds and what binds.
    """
    sites, planned = ledger["sites"], plan["num_rounds"]
    if not sites:
        return f"no ledger in {ledger['dir']} can be used: rounds affordable are not known"
    names = plan["binds"]["rounds_affordable"]
    where = "at every site" if len(names) == len(sites) else f"the fewest, at {_names(names)}"
    first = sites[names[0]]
    figures = f"{text.epsilon(first['epsilon_filter_after'])} by the filter"
    if first["epsilon_pld_after"] is not None:
        figures += f", {text.epsilon(first['epsilon_pld_after'])} by PLD"
    which = "the ledger's filter" if first["binds"] == "filter" else "the PLD figure"
    return (
        f"ledgers in {ledger['dir']} afford {text.plural(first['rounds_affordable'], 'round')} of such noise, {where};"
        f" {planned} {'is' if planned == 1 else 'are'} planned; of {figures}, {which} binds"
    )


def plan_notes(plan: Mapping[str, Any], fraction_train: float) -> list[str]:
    """What a reader must know of the figures: stand-ins for declarations, participation that is not credited."""
    if plan["mode"] == "none":
        return []
    notes = []
    counted = [site for site, cost in plan["sites"].items() if not cost["records_declared"]]
    if counted:
        notes.append(
            f"records of {_names(counted)} {'is' if len(counted) == 1 else 'are'} not declared: the true count stands"
            " in, in simulation only; declare data.records"
        )
    if fraction_train < 1:
        notes.append(
            f"federation.fraction_train={fraction_train:g} calls a part of the sites in each round; epsilon is that of"
            " a site that is called in every round, since being left out is never credited"
        )
    return notes


def _everything(plan: Mapping[str, Any]) -> str:
    measured = any(site.get("evaluation") for site in plan["sites"].values())
    return f"Everything that the sites' updates{' and histograms' if measured else ''}"


def _plain(sites: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("site", "steps a round", "batch", "epsilon")
    for name, site in list(sites.items())[:_MOST_SITES]:
        table.add_row(Text(name), f"{site['steps']:,}", f"{site['batch_size']:,}", Text("none", style="dim"))
    return table


def _private(sites: Mapping[str, Mapping[str, Any]]) -> Table:
    shown = ("site", "records", "q", "sigma", "steps", "lot", "evaluation", "epsilon", "by\nRDP", "noise/\nsignal")
    table = _table(*shown)
    # So eighty columns hold the names of sites whole.
    table.collapse_padding = True
    for name, site in list(sites.items())[:_MOST_SITES]:
        records = f"{site['records']:,}" if site["records_declared"] else f"{site['records']:,}*"
        rdp = site["rdp_epsilon"]
        table.add_row(
            Text(name),
            records,
            text.ceiled(site["sample_rate"]),
            text.floored(site["noise_multiplier"]),
            f"{site['steps']:,}",
            f"{site['lot_size']:.1f}",
            text.evaluation(site.get("evaluation")),
            text.epsilon(site["epsilon"]),
            "–" if rdp is None else text.epsilon(rdp),
            f"{site['noise_to_signal']:.3g}",
        )
    return table


_LEDGER_LEGEND = (
    "left, takes: shares of the site's budget, before this run and for all of it; by filter: epsilon of this run alone"
    " at the order that the ledger fixed when it was created; after: epsilon of all that was spent and this run"
    " together, by the filter, which is enforced, and by PLD, which is shown.",
)


def _ledgers(sites: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("ledger", "budget", "left", "takes", "order", "by filter", "after", "by PLD", "rounds")
    for name, site in list(sites.items())[:_MOST_SITES]:
        pld = site["epsilon_pld_after"]
        table.add_row(
            Text(name),
            f"{site['limit']:g}",
            f"{math.floor(1000 * site['left']) / 10:.1f}%",
            f"{math.ceil(1000 * site['takes']) / 10:.1f}%",
            f"{site['order']:g}",
            text.epsilon(site["epsilon_filter"]),
            text.epsilon(site["epsilon_filter_after"]),
            "–" if pld is None else text.epsilon(pld),
            Text(f"{site['rounds_affordable']:,}", style="" if site["affordable"] else "bold red"),
        )
    return table


def _legend(plan: Mapping[str, Any]) -> list[str]:
    lines = [
        "q: chance to join a lot; sigma: noise over the clip; steps: a round; lot: declared expected size; evaluation:"
        " noisy histograms of the whole run and the sigma of each.",
        "epsilon: of the whole run, by PLD, tight as all is fixed here in advance; by RDP: at the order that suits it"
        " best, where a ledger fixes its order beforehand.",
        "noise/signal: length of the noise on the mean gradient of one step over the clip, which is the most that the"
        " gradient itself can be: sigma * sqrt(parameters) / lot.",
    ]
    if not all(site["records_declared"] for site in plan["sites"].values()):
        lines.append("*: not declared, the true count stands in.")
    return lines


def _binding(plan: Mapping[str, Any]) -> list[str]:
    epsilon = max(float(site["epsilon"]) for site in plan["sites"].values())
    noise = max(float(site["noise_to_signal"]) for site in plan["sites"].values())
    return [
        f"epsilon {text.epsilon(epsilon)}, {_where(plan, 'epsilon')}; "
        f"noise/signal {noise:.3g}, {_where(plan, 'noise_to_signal')}"
    ]


def _where(plan: Mapping[str, Any], measure: str) -> str:
    names = plan["binds"][measure]
    return "at every site" if len(names) == len(plan["sites"]) else f"the largest, at {_names(names)}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
    return table
