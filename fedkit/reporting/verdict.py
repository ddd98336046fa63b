"""What a run's privacy amounts to, in words: one verdict, and what was protected beside what was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedkit.reporting import text
from fedkit.reporting.reader import RunView
from fedkit.runs.statement import STAND_IN

Tone = Literal["good", "warn", "bad", "plain"]
ADJACENCY = {"add_remove": "add or remove"}


@dataclass(frozen=True)
class Verdict:
    """Privacy in one sentence.

    Attributes:
        tone: ``good`` only for real noise under a plan.
        headline: three to six words.
        sentence: the guarantee with unit, adjacency and delta, or why there is none.
    """

    tone: Tone
    headline: str
    sentence: str


@dataclass(frozen=True)
class Protection:
    """One thing that the run produced, and how it was protected."""

    what: str
    tone: Tone
    status: str
    detail: str


def cost(view: RunView) -> str:
    """The dearest site's whole-run epsilon with its delta, unit and adjacency; empty without plans."""
    if not view.plan:
        return ""
    site = max(view.plan, key=lambda s: float(view.plan[s]["epsilon"]))
    plan = view.plan[site]
    shown = {text.epsilon(p["epsilon"]) for p in view.plan.values()}
    where = f", the largest of {len(view.plan)} sites ({site})" if len(shown) > 1 else ""
    return (
        f"epsilon {text.epsilon(plan['epsilon'])} at delta {text.small(plan['delta'])} for one {plan['unit']} at each "
        f"site, "
        f"{ADJACENCY.get(plan['adjacency'], plan['adjacency'])} adjacency{where}"
    )


def max_spent(view: RunView) -> float | None:
    """The largest epsilon that any site has spent; None without privacy."""
    return max((e for e in map(view.spent, view.sites) if e is not None), default=None)


def verdict(view: RunView) -> Verdict:
    """Judge a run from its manifest.

    Guarantee: the tone is ``good`` only where the manifest says private, the mode has plans and the noise was secure.
    """
    if not view.private_mode:
        return Verdict(
            "bad",
            "Not private: no mechanism was used",
            "No noise was added: every update and the model itself may reveal single records.",
        )
    price = cost(view) or "an epsilon that was never settled, since the run ended before its plan"
    unfinished = ""
    if view.rounds_done < view.num_rounds:
        done, spent = text.plural(view.rounds_done, "round"), max_spent(view)
        if view.rounds_done and spent is not None:
            tense = "has cost" if view.manifest.get("private") else "would have cost"
            unfinished = f" Only {done} of {view.num_rounds} ran, which {tense} up to epsilon {text.epsilon(spent)}."
        else:
            unfinished = f" None of the {view.num_rounds} rounds ended."
    if view.manifest.get("private") and view.manifest.get("noise") == "secure":
        return Verdict(
            "good",
            "Private: differential privacy with real noise",
            f"All that a site's updates{_histogrammed(view)} and the model reveal in "
            f"{text.plural(view.num_rounds, 'round')}, to an "
            f"observer of every message, is bounded by {price}.{unfinished}{_counts(view)}",
        )
    return Verdict(
        "warn",
        "Not private: the noise was seeded",
        f"Noise was seeded for replay: this model is NOT private; with real noise the same plan would cost {price}."
        f"{unfinished}{_counts(view)}",
    )


def _histogrammed(view: RunView) -> str:
    return ", histograms" if any(plan.get("evaluation") for plan in view.plan.values()) else ""


def _counts(view: RunView) -> str:
    return "" if all(plan.get("records_declared") for plan in view.plan.values()) else f" {STAND_IN}"


def protections(view: RunView) -> tuple[Protection, ...]:
    """What was private and what was not, most important first."""
    rows = [_updates(view), _model(view), _weights(view), *_histograms(view), _exact_metrics(view)]
    if view.predictions or (view.path / "predictions.npz").exists():
        rows.append(
            Protection(
                "Predictions kept in the run directory",
                "bad",
                "exact, not protected",
                "predictions.npz holds the score and the true outcome of every test row. Do not pass it on.",
            )
        )
    if (view.result or {}).get("baselines"):
        rows.append(
            Protection(
                "Baselines, pooled and local only",
                "bad",
                "exact, simulation only",
                "Metrics of further models on the same records; no epsilon in this report covers them.",
            )
        )
    rows.append(_counted(view))
    if view.data.get("warnings"):
        rows.append(
            Protection(
                "Warnings on the data",
                "bad",
                "exact, simulation only",
                "They count rows and units of the tables; no epsilon covers them.",
            )
        )
    rows += [_scaling(view), _split(view), _sum_of_runs(view)]
    left_out = [n for n in view.manifest.get("notes") or () if "left out of training" in n or "left out of test" in n]
    if left_out:
        rows.append(
            Protection(
                "Sites left out", "bad", "exact, not protected", "Decided by the true number of units at a site."
            )
        )
    rows.append(
        Protection(
            "Choice of model and hyperparameters",
            "warn",
            "not accounted",
            "If settings were picked by looking at runs on the same records, that choice costs privacy, too.",
        )
        if view.private_mode
        else Protection("Choice of model and hyperparameters", "bad", "not protected", "Set by the researcher.")
    )
    return tuple(rows)


def _exact_metrics(view: RunView) -> Protection:
    if not view.deployed:
        return Protection(
            "Evaluation metrics, curves, ROC, calibration, subgroups",
            "bad",
            "exact, not protected",
            "Computed on real test rows, in simulation only; where rows are few, single outcomes can be inferred. "
            "Treat this report as you treat the data.",
        )
    if view.private_mode:
        told = "A site answers a private run with nothing that its plan does not charge."
        return Protection("Exact metrics of test rows", "good", "none was released", told)
    told = "Each site's own file let them out; where rows are few, single outcomes can be inferred."
    return Protection("Evaluation metrics of each site", "bad", "exact, not protected", told)


def _counted(view: RunView) -> Protection:
    if view.deployed:
        told = "Shares of the count that each site declares; no row was counted, and no array's fingerprint was told."
        return Protection("Counts of train and test", "good", "public constants", told)
    return Protection(
        "Counts of train and test, fingerprints of the arrays",
        "bad",
        "exact, simulation only",
        "manifest.json and this report hold each site's exact counts, and the manifest a digest of its arrays, "
        "by which whoever guesses the records can confirm them.",
    )


def _sum_of_runs(view: RunView) -> Protection:
    what = "Sum over all runs on the same records"
    ledger = view.manifest.get("ledger") or {}
    if not view.manifest.get("private"):
        return Protection(what, "bad", "not accounted", "This run promises nothing that could be added up.")
    run = view.manifest.get("ledger_run")
    if view.deployed and not view.rounds_done:
        told = (
            "No round ended. A site charges before it reads a record; `fedkit client status` there tells what it has."
        )
        return Protection(what, "good", "within each site's budget", told)
    if view.deployed:
        told = (
            "Each site charged it to its own ledger before a record was read; `fedkit client status` there tells what"
        )
        return Protection(what, "good", "within each site's budget", f"{told} is left.")
    if run and not ledger:
        told = f"Charged to each site's ledger as {run}; `fedkit ledger show` tells what it took and what is left."
        return Protection(what, "warn", "charged, shares not kept", told)
    if not ledger:
        told = "No ledger kept count: each further run on these records adds its epsilon, and this one added its own."
        return Protection(what, "warn", "not accounted", told)
    shares = ", ".join(f"{site}: {facts['took']:.2%} taken, {facts['left']:.2%} left" for site, facts in ledger.items())
    told = f"Charged to each site's ledger as {run} ({shares})."
    return Protection(what, "good", "within each site's budget", told)


def _updates(view: RunView) -> Protection:
    what = "Model updates of each site, each round"
    if not view.private_mode:
        return Protection(what, "bad", "exact, not protected", "Local minus received parameters leave a site as is.")
    unit = str(view.data.get("unit", "record"))
    mechanism = f"Clipped per {unit}, Poisson-sampled, Gaussian noise; composed over all rounds, see the plans below."
    if view.manifest.get("private"):
        return Protection(what, "good", "differentially private", mechanism)
    return Protection(what, "warn", "noised, seed known", f"{mechanism} Whoever has the seed can take the noise away.")


def _model(view: RunView) -> Protection:
    what = "Final model and every round's model"
    if not view.private_mode:
        return Protection(what, "bad", "exact, not protected", "A function of the exact updates.")
    if view.manifest.get("private"):
        return Protection(what, "good", "differentially private", "Post-processing of the updates: the same guarantee.")
    return Protection(what, "warn", "noised, seed known", "A function of those updates; do not publish it as private.")


def _histograms(view: RunView) -> list[Protection]:
    if (view.result or {}).get("evaluation") is None:
        return []
    what = "Noisy histograms of test units, and the metrics measured by them"
    mechanism = "A unit adds a total of 1 to each; Gaussian noise; charged to the same epsilon, evaluation first."
    if view.manifest.get("private"):
        return [Protection(what, "good", "differentially private", mechanism)]
    return [Protection(what, "warn", "noised, seed known", f"{mechanism} Whoever has the seed can take it away.")]


def _weights(view: RunView) -> Protection:
    what = "Aggregation weights"
    sites = (view.data.get("sites") or {}).values()
    if sites and all(s.get("records_declared") for s in sites):
        return Protection(what, "good", "public constants", "Declared, approximate record counts of the sites.")
    return Protection(
        what,
        "bad",
        "exact, simulation only",
        "The true record counts stood in for declared ones; declare data.records before a real federation.",
    )


def _scaling(view: RunView) -> Protection:
    if str(view.data.get("scaling", "declared")) == "declared":
        detail = "Ranges and levels are public constants of the declaration; no record has a part in them."
        return Protection("Scaling and encoding of features", "good", "no data used", detail)
    if view.data["scaling"] == "given":
        detail = "The arrays came as they are: whatever scaled them before is not covered."
        return Protection("Scaling and encoding of features", "warn", "outside the run", detail)
    detail = f"Scaled by {view.data['scaling']}: means and deviations come from the records."
    return Protection("Scaling and encoding of features", "bad", "exact, not protected", detail)


def _split(view: RunView) -> Protection:
    unit = str(view.data.get("unit", "record"))
    if str(view.data.get("split", "keyed_hash")) == "keyed_hash":
        detail = f"By a keyed hash of the {unit}: adding one {unit} moves no other."
        return Protection("Split into train and test", "good", f"independent for each {unit}", detail)
    if view.data["split"] == "given":
        detail = "The caller parted train and test: how is not covered."
        return Protection("Split into train and test", "warn", "outside the run", detail)
    detail = f"A {view.data['split']} split: adding one {unit} moves others between the parts."
    return Protection("Split into train and test", "bad", "depends on the data", detail)
