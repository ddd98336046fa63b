"""What the terminal shows of runs: closing table, comparison, sweep; rich renderables, printed by the cli."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fedkit.reporting import text
from fedkit.reporting.compare import Comparison
from fedkit.reporting.evaluation import summary as evaluation_summary
from fedkit.reporting.reader import RunView
from fedkit.reporting.report import BASELINES, OUTCOMES
from fedkit.reporting.sweep_report import max_epsilon, metric_names, swept_keys
from fedkit.reporting.verdict import max_spent, verdict

STYLES = {"good": "green", "warn": "yellow", "bad": "red", "plain": "default"}
_MOST_SITES = 30


@dataclass(frozen=True)
class _Widest:
    """The first of several renderables that fits the terminal; the last one where none does."""

    variants: tuple[Table, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        # Measured without a bound: within one, every table claims to fit.
        free = options.update(width=10_000)
        fitting = (t for t in self.variants if Measurement.get(console, free, t).maximum <= options.max_width)
        yield next(fitting, self.variants[-1])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)


def closing_table(view: RunView, report: Path | None = None) -> RenderableType:
    """A run that ended, in one table: a row a site, overall last, baselines beside, privacy in words below.

    On a narrow terminal the table leaves out secondary metrics, then baselines, then the second headline metric;
    the sizes stay.

    Args:
        report: path of the page, shown on the last line.
    """
    names = (*view.headline, *(n for n in view.metric_names if n not in view.headline))
    two, one, none = names[:2], names[:1], names[:0]
    widths = ((names[:4], two), (two, two), (two, one), (two, none), (one, one), (one, none))
    judged, lines = verdict(view), _notes(view)
    # The sentence on seeded noise begins with the headline's words: said once, it is read.
    headline = "" if judged.tone == "warn" else f"{judged.headline}. "
    privacy = Text.assemble((headline, STYLES[judged.tone]), judged.sentence)
    if judged.tone == "warn":
        privacy.highlight_words(["NOT private"], style=f"bold {STYLES['warn']}")
    parts: list[RenderableType] = [_headline(view), *_engine(view)]
    parts += [_Widest(tuple(_sites_table(view, shown, beside) for shown, beside in widths))] if view.sites else []
    parts += [*lines, privacy]
    parts += [Text(told) for told in (evaluation_summary(view), _charged(view)) if told]
    if report is not None:
        parts.append(Text.assemble(("Report: ", "bold"), str(report), no_wrap=True, overflow="fold"))
    return Group(*parts)


def _charged(view: RunView) -> str:
    """What the ledgers say; nothing where no noise was real."""
    if not view.manifest.get("private"):
        return ""
    if view.manifest.get("federation") == "deployed":
        if not view.rounds_done:
            return "No round ended; what a site has charged all the same, `fedkit client status` tells there."
        return "Each site charged it to its own ledger; there, `fedkit client status` tells what is left."
    ledger = view.manifest.get("ledger") or {}
    if not ledger and (run := view.manifest.get("ledger_run")):
        return f"Charged to each site's ledger as {run}; `fedkit ledger show` tells what is left."
    if not ledger:
        return "No ledger kept count: each further run on these records adds its epsilon to this one."
    took, left = max(facts["took"] for facts in ledger.values()), min(facts["left"] for facts in ledger.values())
    return f"Charged to {text.plural(len(ledger), 'ledger')}: {took:.2%} of a budget at most, {left:.2%} left at least."


def _sites_table(view: RunView, shown: Sequence[str], beside: Sequence[str]) -> Table:
    baselines = (view.result or {}).get("baselines") or {}
    kinds = [k for k in BASELINES if k in baselines]
    compared = [name for name in beside if name in view.headline]
    table = _table("site", ["train", "test"])
    for name in shown:
        table.add_column(text.describe(name).label, justify="right")
        for kind in kinds if name in compared else ():
            table.add_column(BASELINES[kind], justify="right", style="dim")
    if view.private_mode:
        table.add_column("epsilon", justify="right")

    def cells(ours: Mapping[str, Any], part: str, site: str | None) -> list[Text]:
        row = []
        for name in shown:
            row.append(_metric(ours.get(name)) if ours else Text("–"))
            for kind in kinds if name in compared else ():
                source = baselines[kind].get(part) or {}
                row.append(_metric((source if site is None else source.get(site) or {}).get(name)))
        return row

    for site in view.sites[:_MOST_SITES]:
        counts = [_count(n) for n in view.sizes(site)]
        row = [Text(site), *counts, *cells(view.final(site), "sites", site)]
        table.add_row(*row, *([_epsilon(view.spent(site))] if view.private_mode else []))
    if len(view.sites) > _MOST_SITES:
        table.add_row(Text(f"… {len(view.sites) - _MOST_SITES} more", style="dim"))
    if view.overall:
        table.add_section()
        row = [Text("overall"), *map(_count, view.totals), *cells(view.overall, "overall", None)]
        table.add_row(*row, *([_epsilon(max_spent(view))] if view.private_mode else []), style="bold")
    return table


def _headline(view: RunView) -> Text:
    tone, _ = OUTCOMES.get(view.outcome, ("plain", view.outcome))
    done = f"{view.rounds_done} of " * (view.rounds_done < view.num_rounds) + text.plural(view.num_rounds, "round")
    took = text.duration(view.manifest.get("seconds"))
    return Text.assemble((view.name, "bold"), ": ", (view.outcome, STYLES[tone]), f", {done} in {took}")


def _engine(view: RunView) -> list[Text]:
    engine = view.manifest.get("engine")
    return [Text(f"Trained by {engine['name']}: {engine['why']}.", style="dim")] if engine else []


def _notes(view: RunView) -> list[Text]:
    return [Text(f"! {note}", style="yellow") for note in (*(view.manifest.get("notes") or ()), *view.remarks)]


def comparison_table(comparison: Comparison) -> RenderableType:
    """Runs as columns: outcome, noise, epsilon, metrics overall, and only those config keys that differ."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    names = [Path(run.run_dir).name for run in comparison.runs]
    for name in names:
        table.add_column(Text(name), overflow="fold")
    runs = comparison.runs
    table.add_row("outcome", *(Text(r.outcome, STYLES[OUTCOMES.get(r.outcome, ("plain", ""))[0]]) for r in runs))
    table.add_row("rounds", *(str(r.rounds) for r in runs))
    table.add_row("noise", *(Text(_noise(r.noise)) for r in runs))
    table.add_row("private", *(Text("yes", "green") if r.private else Text("no", "yellow") for r in runs))
    table.add_row("max epsilon", *(_priced(r.max_epsilon, r.delta, r.unit, r.private) for r in runs))
    for metric in comparison.metrics:
        table.add_row(f"{text.describe(metric).label}, overall", *(_metric(r.overall.get(metric)) for r in runs))
    parts: list[RenderableType] = [table, Text("")]
    if comparison.differences:
        changes = Table(
            box=None, pad_edge=False, header_style="bold", title="Config keys that differ", title_justify="left"
        )
        changes.add_column("key")
        for name in names:
            changes.add_column(Text(name), overflow="fold")
        for key, values in comparison.differences.items():
            changes.add_row(Text(key), *(Text("–" if v is None else str(v)) for v in values))
        parts.append(changes)
    else:
        parts.append(Text("The configs are equal."))
    return Group(*parts)


def sweep_table(cells: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A sweep's cells as rows: swept keys, status, metrics overall, largest epsilon; errors in words below."""
    results = [cell.get("result") or {} for cell in cells]
    labels = [" ".join(f"{k}={v}" for k, v in cell["overrides"].items()) for cell in cells]
    failed = [(label, cell["error"]) for label, cell in zip(labels, cells, strict=True) if cell.get("error")]
    problems = [Text(f"! {label}: {error}", style="red") for label, error in failed]
    seeded = any(result.get("noise") == "seeded" for result in results)
    notes = [Text("Seeded noise: these models are not private; epsilon is what the plans would cost.", "yellow")]
    table = _Widest(tuple(_cells_table(cells, metric_names(cells)[:most]) for most in (4, 2, 1)))
    return Group(table, *problems, *(notes if seeded else []))


def _cells_table(cells: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Table:
    keys = swept_keys(cells)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in keys:
        table.add_column(Text(key), overflow="fold")
    table.add_column("status")
    for name in metrics:
        table.add_column(text.describe(name).label, justify="right")
    table.add_column("max epsilon", justify="right")
    for cell in cells:
        result = cell.get("result") or {}
        swept = [Text(str(cell["overrides"].get(key, ""))) for key in keys]
        values = [_metric((result.get("overall") or {}).get(n)) if result else Text("") for n in metrics]
        table.add_row(*swept, _status(str(cell["status"])), *values, _cell_price(result))
    return table


def _cell_price(result: Mapping[str, Any]) -> Text:
    largest = max_epsilon(result)
    if largest is not None:
        return Text(text.epsilon(largest))
    return Text("none", "dim") if result else Text("")


def _table(first: str, counts: Iterable[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, overflow="fold")
    for name in counts:
        table.add_column(name, justify="right")
    return table


def _metric(value: float | None) -> Text:
    return Text(text.number(value), style="dim" if value is None else "")


def _epsilon(value: float | None) -> Text:
    return Text("–" if value is None else text.epsilon(value))


def _count(value: int | None) -> Text:
    return Text("–" if value is None else f"{value:,}")


def _noise(noise: str | None) -> str:
    return noise or "none"


def _priced(value: float | None, delta: float | None, unit: str, private: bool) -> Text:
    if value is None:
        return Text("none", style="dim")
    price = f"{text.epsilon(value)} (delta {text.small(delta)}, one {unit}, add or remove)"
    return Text(price if private else f"{price}, if noise were real")


def _status(status: str) -> Text:
    return Text(
        status, style={"ran": "green", "complete": "green", "kept": "dim", "failed": "red"}.get(status, "yellow")
    )
