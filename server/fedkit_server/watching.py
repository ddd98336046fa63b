"""Shows a run while it goes on: a table that lives, plain lines where there is no terminal, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fedkit.errors import DeploymentError, Interrupted
from fedkit.federation.code_texts import sent_codes, with_text
from fedkit_server.remote import Remote, segment
from fedkit_server.runners import OVER

_WAIT = 20
_PATIENCE = 300.0


@dataclass
class View:
    """What is known of a run from its events."""

    run: str
    number: int = 0
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    ended: dict[str, Any] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    waits: str = ""
    answered: dict[str, int] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> None:
        """One more event."""
        self.number = max(self.number, int(event.get("round") or 0))
        site, kind = str(event.get("site") or ""), str(event.get("kind"))
        if kind == "finished":
            self.ended = event
        if not site:
            return
        self.sites[site] = event
        if kind == "received":
            self.answered[site] = self.answered.get(site, 0) + 1
        elif kind in ("missing", "refused"):
            self.missed[site] = self.missed.get(site, 0) + 1

    def rows(self, now: float) -> Iterator[tuple[str, ...]]:
        """Site, round, purpose, state, seconds, answers, misses."""
        for site in sorted(self.sites):
            event = self.sites[site]
            seconds = event.get("seconds")
            if event["kind"] == "asked":
                seconds = max(0.0, now - float(event.get("at") or now))
            state = _WORDS.get(event["kind"], event["kind"])
            if event.get("detail") and event["kind"] in ("missing", "refused", "deferred", "ignored"):
                state += f": {with_text(str(event['detail']))}"
            yield (
                site, str(event.get("round", "")), str(event.get("purpose") or ""), state,
                "" if seconds is None else f"{float(seconds):.1f}", str(self.answered.get(site, 0)),
                str(self.missed.get(site, 0)),
            )  # fmt: skip


_WORDS = {"received": "answered", "deferred": "asked again later"}


def follow(remote: Remote, run: str, *, json_: bool) -> str:
    """Show a run until it is over; returns ``finished`` or ``failed``.

    Raises:
        DeploymentError: the run is unknown, or the coordinator was away for five minutes.
        Interrupted: by Ctrl-C; the run goes on.
    """
    view = View(run)
    try:
        if json_:
            answer = _until_over(remote, view, lambda event: _print(_explained(event)), _print_waits(run))
            _print({key: answer.get(key) for key in ("state", "outcome")} | {"run": run})
        elif sys.stdout.isatty():
            answer = _live(remote, view)
        else:
            answer = _until_over(remote, view, lambda event: _print_plain(event), _print_line)
    except KeyboardInterrupt:
        raise Interrupted(
            f"no longer watching; {run} goes on: `fedkit server watch {run}{remote.profile.option}`"
        ) from None
    if not json_:
        sys.stdout.write(closing(run, answer, remote.profile.option) + "\n")
    return str(answer["state"])


def follow_quietly(remote: Remote, run: str) -> str:
    """Wait until a run is over and show nothing; returns ``finished`` or ``failed``.

    Raises:
        DeploymentError: as :func:`follow`.
    """
    return str(_until_over(remote, View(run), lambda _: None)["state"])


def closing(run: str, answer: dict[str, Any], profile: str = "") -> str:
    """The last line, and what can be done next.

    Args:
        profile: what names the user's profile on the command line.
    """
    outcome = answer.get("outcome") or answer["state"]
    if answer["state"] == "failed":
        again, let_go = (f"`fedkit server {verb} {run}{profile}`" for verb in ("resume", "stop"))
        return f"{run}: {outcome}\nnext: {again}, or {let_go} to let go"
    return f"{run}: {outcome}\nnext: `fedkit server pull {run}{profile}`"


def _until_over(
    remote: Remote, view: View, tell: Callable[[dict[str, Any]], None], say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    answer: dict[str, Any] = {}
    for answer in _answers(remote, view.run):
        waits = waits_for(answer)
        if waits and waits != view.waits:
            say(f"{view.run}: {waits}")
        view.waits = waits
        for event in answer["events"]:
            view.take(event)
            tell(event)
        sys.stdout.flush()
    return answer


def waits_for(answer: dict[str, Any]) -> str:
    """What a queued run waits for; nothing for any other.

    >>> waits_for({"state": "queued", "before": ["a", "b"]}), waits_for({"state": "running"})
    ('queued behind 2 runs: a, b', '')
    """
    if answer.get("state") != "queued":
        return ""
    before = [str(run) for run in answer.get("before") or ()]
    if not before:
        return "queued, and next to have its turn"
    return f"queued behind {len(before)} run{'s' * (len(before) > 1)}: {', '.join(before)}"


def _answers(remote: Remote, run: str) -> Iterator[dict[str, Any]]:
    # A run that waits for its turn says so at once.
    after, away, wait = 0, 0.0, 0
    while True:
        try:
            answer = remote.get(f"/runs/{segment(run)}/events", after=after, wait=wait)
        except DeploymentError as error:
            away = away or time.monotonic()
            # A coordinator that starts again goes on with the run.
            if error.code != "FK712" or time.monotonic() - away > _PATIENCE:
                raise
            time.sleep(2.0)
            continue
        away, wait = 0.0, _WAIT
        after = max([after, *(int(event["n"]) for event in answer["events"])])
        yield answer
        if answer["state"] in OVER and not answer["events"]:
            return


def _live(remote: Remote, view: View) -> dict[str, Any]:
    from rich.live import Live

    with ExitStack() as stack:
        live = stack.enter_context(Live(get_renderable=lambda: _table(view), refresh_per_second=2))
        answer = _until_over(remote, view, lambda _: None)
        live.refresh()
    return answer


def _table(view: View) -> Any:
    from rich.table import Table
    from rich.text import Text

    where = view.waits or f"round {view.number}"
    title = Text(f"{view.run}, {where}" + (f": {view.ended['detail']}" if view.ended else ""))
    table = Table("site", "round", "asked for", "state", "seconds", "answers", "misses", title=title)
    for row in view.rows(time.time()):
        table.add_row(*map(Text, row))
    return table


def _explained(event: dict[str, Any]) -> dict[str, Any]:
    means = sent_codes(str(event.get("detail") or "")) if event.get("site") else {}
    return {**event, "means": means} if means else event


def _print_waits(run: str) -> Callable[[str], None]:
    return lambda text: _print({"kind": "queued", "run": run, "detail": text.removeprefix(f"{run}: ")})


def _print(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n")


def _print_line(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_plain(event: dict[str, Any]) -> None:
    at = datetime.fromtimestamp(float(event.get("at") or 0)).astimezone()
    parts = [f"{at:%H:%M:%S}", f"round {event.get('round')}", str(event.get("site") or ""), str(event.get("kind"))]
    parts += [with_text(str(event[key])) for key in ("purpose", "detail") if event.get(key)]
    parts += [f"{float(event['seconds']):.1f} s"] if event.get("seconds") is not None else []
    sys.stdout.write(" ".join(part for part in parts if part) + "\n")
