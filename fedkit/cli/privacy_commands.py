"""``fedkit privacy epsilon | noise``: what private training costs, and what noise a budget needs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkit.cli.numbers import plain_number
from fedkit.cli.run_commands import Json
from fedkit.errors import PrivacyError, together

if TYPE_CHECKING:
    from fedkit.privacy.accounting import GaussianEvent

MAX_STEPS = 10_000_000
"""Beyond this the PLD takes minutes, and nobody trains that long."""

privacy_app = typer.Typer(
    help="What private training costs, and what noise a budget needs.\n\n"
    "Example: fedkit privacy epsilon --event 0.05,1.0,1000 --delta 1e-5",
    no_args_is_help=True,
    rich_markup_mode=None,
)

# Numbers are taken as text, so that a bad one is refused like all other input: by name, with the others.
Delta = Annotated[
    str | None, typer.Option("--delta", metavar="DELTA", help="Above 0 and below 1; usually below 1 / records.")
]


@privacy_app.command()
def epsilon(
    event: Annotated[
        list[str] | None,
        typer.Option(
            "--event",
            metavar="Q,SIGMA,STEPS",
            help="Sampling rate, noise multiplier, number of steps; repeat it for what happened next.",
        ),
    ] = None,
    delta: Delta = None,
    json_: Json = False,
) -> None:
    """Print what Poisson-sampled Gaussian steps cost together.

    The figure is tight where all parameters were fixed in advance; RDP, which a ledger enforces, is beside it.

    Example: fedkit privacy epsilon --event 0.05,1.0,1000 --event 0.1,1.5,300 --delta 1e-5 --json
    """
    problems: list[PrivacyError] = []
    if not event:
        problems.append(_missing("event", "0.05,1.0,1000"))
    found = [_event(text, problems) for text in event or ()]
    at = _delta(delta, problems)
    if problems:
        raise together(problems)
    events = [each for each in found if each is not None]
    result = _cost(events, at)
    if json_:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        return
    from fedkit.reporting import text

    sys.stdout.write(f"epsilon {text.epsilon(result['epsilon'])} {_guarantee(at)}, by PLD\n")
    rdp = "no bound" if result["rdp_epsilon"] is None else f"epsilon {text.epsilon(result['rdp_epsilon'])}"
    sys.stdout.write(f"by RDP, the looser bound that composes whatever comes next: {rdp}\n")
    for each in events:
        steps = text.plural(each.steps, "step")
        sys.stdout.write(f"  q {each.sample_rate:g}, sigma {each.noise_multiplier:g}, {steps}\n")


@privacy_app.command()
def noise(
    epsilon: Annotated[
        str | None, typer.Option("--epsilon", metavar="EPSILON", help="What all steps together may cost.")
    ] = None,
    delta: Delta = None,
    sample_rate: Annotated[
        str | None, typer.Option("--sample-rate", metavar="Q", help="Chance that a unit joins a lot.")
    ] = None,
    steps: Annotated[str | None, typer.Option("--steps", metavar="STEPS", help="Steps of the whole run.")] = None,
    json_: Json = False,
) -> None:
    """Print the smallest noise multiplier, rounded up, that keeps a run within its budget.

    Example: fedkit privacy noise --epsilon 3 --delta 1e-5 --sample-rate 0.0526 --steps 1900 --json
    """
    problems: list[PrivacyError] = []
    target = _number("--epsilon", epsilon, "FK301", "3", _above_zero, "above 0", problems)
    at = _delta(delta, problems)
    rate = _number("--sample-rate", sample_rate, "FK304", "0.05", _rate, "above 0 and at most 1", problems)
    count = _number("--steps", steps, "FK305", "1900", _at_least_one, _STEPS.format(1), problems)
    if problems:
        raise together(problems)
    from fedkit.privacy import accounting, calibration
    from fedkit.privacy.describe import priced

    with priced(f"epsilon {target:g} over {count:.0f} steps", ValueError):
        sigma = calibration.noise_multiplier_for(target, at, rate, int(count))
        spent = accounting.epsilon(rate, sigma, int(count), at)
    if json_:
        result = {
            "noise_multiplier": sigma,
            "epsilon": spent,
            "target_epsilon": target,
            "delta": at,
            "sample_rate": rate,
            "steps": int(count),
            "accountant": accounting.ACCOUNTANT,
            "adjacency": accounting.ADJACENCY,
        }
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
        return
    from fedkit.reporting import text

    sys.stdout.write(
        f"noise multiplier {sigma:.4f}, rounded up: {text.plural(int(count), 'step')} at q {rate:g} then cost"
        f" epsilon {text.epsilon(spent)} {_guarantee(at)}, by PLD\n"
    )


def _cost(events: Sequence[GaussianEvent], delta: float) -> dict[str, Any]:
    from fedkit.privacy import accounting
    from fedkit.privacy.describe import priced

    counted = [event for event in events if event.steps]
    with priced(f"{len(events)} event{'' if len(events) == 1 else 's'}", ValueError):
        tight = accounting.epsilon_of(events, delta)
        loose = accounting.rdp_epsilon(counted, delta) if counted else 0.0
    if not math.isfinite(tight):
        bound = f"RDP bounds it by {loose:.4g}" if math.isfinite(loose) else "RDP bounds it neither"
        raise PrivacyError(
            f"no finite epsilon holds at delta {delta:g} by PLD; {bound}",
            code="FK319",
            remedy="give a larger --delta, such as 1e-5",
        )
    return {
        "epsilon": tight,
        "accountant": accounting.ACCOUNTANT,
        "adjacency": accounting.ADJACENCY,
        "delta": delta,
        "events": [
            {"sample_rate": e.sample_rate, "noise_multiplier": e.noise_multiplier, "steps": e.steps} for e in events
        ],
        "rdp_epsilon": loose if math.isfinite(loose) else None,
    }


def _guarantee(delta: float) -> str:
    from fedkit.reporting import text

    return f"at delta {text.small(delta)} for one unit (a record, or a patient with all their rows), add or remove"


_STEPS = f"a whole number from {{}} to {MAX_STEPS:,}"


def _above_zero(value: float) -> bool:
    return 0 < value < math.inf


def _rate(value: float) -> bool:
    return 0 < value <= 1


def _at_least_one(value: float) -> bool:
    return 1 <= value <= MAX_STEPS and value == int(value)


def _at_least_none(value: float) -> bool:
    return value == 0 or _at_least_one(value)


def _delta(text: str | None, problems: list[PrivacyError]) -> float:
    return _number("--delta", text, "FK302", "1e-5", lambda value: 0 < value < 1, "above 0 and below 1", problems)


def _event(text: str, problems: list[PrivacyError]) -> GaussianEvent | None:
    from fedkit.privacy.accounting import MIN_SIGMA, GaussianEvent

    parts = text.split(",")
    if len(parts) != 3:
        count = f"{len(parts)} part{'' if len(parts) == 1 else 's'}"
        problems.append(
            PrivacyError(
                f"--event {text!r} has {count}, and 3 are needed: sampling rate, noise multiplier, steps",
                code="FK308",
                remedy="write it as --event 0.05,1.0,1000",
            )
        )
        return None
    before, name = len(problems), f"--event {text!r}:"
    rate = _number(f"{name} sampling rate", parts[0], "FK304", "0.05", _rate, "above 0 and at most 1", problems)
    least = f"at least {MIN_SIGMA:g} and finite"
    sigma = _number(
        f"{name} noise multiplier", parts[1], "FK303", "1.0", lambda v: MIN_SIGMA <= v < math.inf, least, problems
    )
    steps = _number(f"{name} steps", parts[2], "FK305", "1000", _at_least_none, _STEPS.format(0), problems)
    return GaussianEvent(rate, sigma, int(steps)) if len(problems) == before else None


def _number(
    name: str,
    text: str | None,
    code: str,
    example: str,
    admits: Callable[[float], bool],
    bound: str,
    problems: list[PrivacyError],
) -> float:
    """The number that a text says; what is wrong with it joins the problems, and NaN stands in."""
    if text is None:
        problems.append(_missing(name.removeprefix("--"), example))
        return math.nan
    remedy = f"give {example}, for instance"
    try:
        value = plain_number(text)
    except ValueError:
        problems.append(PrivacyError(f"{name} {text!r} is not a number", code=code, remedy=remedy))
        return math.nan
    if math.isnan(value) or not admits(value):
        problems.append(PrivacyError(f"{name} {text.strip()} is not {bound}", code=code, remedy=remedy))
        return math.nan
    return value


def _missing(name: str, example: str) -> PrivacyError:
    return PrivacyError(f"--{name} is not given", code="FK308", remedy=f"add --{name} {example}")
