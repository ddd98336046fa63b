"""``fedkit client withdraw``, ``rectify`` and ``lineage``: what a person at the hospital does for a patient."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Data = Annotated[str, typer.Option("--data", metavar="NAME", help="The data set, as the site's file calls it.")]
Units = Annotated[
    list[str] | None,
    typer.Option("--unit", metavar="ID", help="An id; others on this machine can see it while the command runs."),
]
File = Annotated[
    str | None, typer.Option("--file", metavar="FILE", help="Ids, one a line; - or neither option: standard input.")
]


def withdraw(
    site_yaml: SiteYaml,
    data: Data,
    unit: Units = None,
    file: File = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take a withdrawal back: consent decides again.")] = False,
    json_: Json = False,
) -> None:
    """Leave units out from the next round on, whatever the register says; what was released before stays released.

    A running site heeds it without a restart. A model that was trained is not changed by it.

    Example: fedkit client withdraw site/site.yaml --data icu --file -
    """
    import time

    from fedkit_client.withdrawing import used_text, withdraw_units

    opened = _opened(site_yaml, data)
    told = withdraw_units(opened, data, _ids(unit, file), time.time(), revoke=revoke)
    given, changed = told["given"], told["changed"]
    what = "count again as the register and the table say" if revoke else "are left out"
    _print(
        told,
        json_,
        f"{given} of {data} {what} from the next round on; {given - changed} of them were so already\n"
        f"  {used_text(told)}: `fedkit client lineage` tells which\n",
    )


def rectify(
    site_yaml: SiteYaml,
    data: Data,
    unit: Units = None,
    file: File = None,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; kept as it is, so name nobody in it.")
    ] = "",
    json_: Json = False,
) -> None:
    """Note that units' records were corrected in the table: rounds from now on read them as they are there.

    Example: fedkit client rectify site/site.yaml --data icu --file - --reason "wrong unit of a lab value"
    """
    import time

    from fedkit_client.audit import record
    from fedkit_client.pseudonyms import unit_pseudonym
    from fedkit_client.rectified import note

    opened, ids = _opened(site_yaml, data), _ids(unit, file)
    marks = [unit_pseudonym(opened.folder, data, each) for each in ids]
    for mark in marks:
        record(opened.folder, "rectified", dataset=data, unit=mark)
    note(opened.folder.rectified, data, marks, reason, time.time(), opened.folder.vault())
    _print(
        {"data": data, "rectified": len(ids)}, json_, f"{_units(len(ids))} of {data} noted as corrected from now on\n"
    )


def lineage(
    site_yaml: SiteYaml,
    data: Annotated[
        str | None, typer.Option("--data", metavar="NAME", help="The data set; by default all with ids.")
    ] = None,
    unit: Units = None,
    file: File = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="How many rows and units a run has read.")
    ] = None,
    json_: Json = False,
) -> None:
    """Which runs and rounds have read a unit's records, or how many units each round of a run has read.

    Example: fedkit client lineage site/site.yaml --data icu --file -
    """
    from fedkit_client.forgotten import forgotten, forgotten_lines
    from fedkit_client.lineage import rounds_of
    from fedkit_client.start import open_site
    from fedkit_client.unseen import restores, unseen

    if run is not None:
        if unit or file:
            raise typer.BadParameter("--run tells counts; give it without --unit and --file")
        folder = open_site(site_yaml).folder
        rounds, gone = rounds_of(folder, run), forgotten(folder, run=run)
        missing = unseen(folder, sorted(path.stem for path in folder.ledgers.glob("*.sqlite")), run)
        back = restores(folder)
        text = _rounds_text(run, rounds, gone) + _unseen_text(missing, back)
        told = {"run": run, "rounds": rounds, "deleted": gone, "presumed": missing, "restored": back}
        _print(told, json_, text)
        return
    opened = _opened(site_yaml, data) if data is not None else open_site(site_yaml)
    names = [data] if data is not None else [name for name, own in opened.file.data.items() if own.ids is not None]
    found = [_told(opened, name, each) for each in _ids(unit, file) for name in names]
    gone = [each for name in names for each in forgotten(opened.folder, name)]
    missing, back = unseen(opened.folder, names), restores(opened.folder)
    text = (
        "".join(_unit_text(each, [*gone, *missing], back=bool(back)) for each in found)
        or "no data set has a column of ids\n"
    )
    if gone:
        text += "whoever was in these rounds nobody can tell any more:\n"
    text += "".join(f"  {line}\n" for line in forgotten_lines(gone))
    text += _unseen_text(missing, back)
    _print({"units": found, "deleted": gone, "presumed": missing, "restored": back}, json_, text)


def _told(opened: Any, name: str, unit: str) -> dict[str, Any]:
    from fedkit_client.lineage import runs_with
    from fedkit_client.pseudonyms import unit_pseudonym
    from fedkit_client.rectified import times_of
    from fedkit_client.withdrawals import read_withdrawn

    vault, mark = opened.folder.vault(), unit_pseudonym(opened.folder, name, unit)
    return {
        "data": name,
        "unit": unit,
        "withdrawn": unit in read_withdrawn(opened.folder.withdrawals, name, vault),
        "rectified": times_of(opened.folder.rectified, name, mark, vault),
        "runs": runs_with(opened.folder, name, unit),
    }


def _unit_text(told: dict[str, Any], gone: list[dict[str, Any]], *, back: bool = False) -> str:
    lines = [f"{told['unit']} in {told['data']}{', withdrawn' if told['withdrawn'] else ''}"]
    for run in told["runs"]:
        trained = f"trained in {_spans(run['train'])}" if run["train"] else "not trained on"
        measured = f", measured in {_spans(run['evaluate'])}" if run["evaluate"] else ""
        counted = ", counted in noisy statistics" if run["statistics"] else ""
        model = run["model"] or "no model"
        lines.append(f"  {run['run']} ({model}, {run['purpose'] or 'no purpose'}): {trained}{measured}{counted}")
        if run["train"]:
            lines.append(f"    every model of it from round {run['train'][0]} on was made with this unit")
    if not told["runs"] and any(each["dataset"] == told["data"] for each in gone):
        lines.append("  in no round that is still known; of others the lineage is gone, see below")
    elif not told["runs"]:
        lines.append(f"  in no round that this folder knows of{', see below' if back else ''}")
    return "\n".join(lines) + "\n"


def _unseen_text(missing: list[dict[str, Any]], back: list[dict[str, Any]]) -> str:
    from fedkit_client.unseen import restores_lines, unseen_lines

    text = "".join(f"{line}\n" for line in restores_lines(back))
    if not missing:
        return text
    lines = ["the folder was put back; who was in these rounds nobody here can tell:", *unseen_lines(missing)]
    return text + "\n  ".join(lines) + "\n"


def _rounds_text(run: str, rounds: list[dict[str, Any]], gone: list[dict[str, Any]]) -> str:
    from fedkit_client.forgotten import forgotten_lines

    deleted = [f"  {line}" for line in forgotten_lines(gone)]
    if not rounds:
        return "\n".join([f"{run}: no round that this folder {'still ' if gone else ''}knows of", *deleted]) + "\n"
    lines = [
        f"  {each['kind']} of round {each['round']}: {each['rows']} rows"
        + ("" if each["units"] is None else f" of {each['units']} units")
        for each in rounds
    ]
    return (
        "\n".join([f"{run}, {rounds[0]['dataset']} for {rounds[0]['purpose'] or 'no purpose'}", *lines, *deleted])
        + "\n"
    )


def _units(number: int) -> str:
    return "1 unit" if number == 1 else f"{number:,} units"


def _spans(numbers: list[int]) -> str:
    """Round numbers for a person.

    >>> _spans([1, 2, 3, 7]), _spans([3])
    ('rounds 1-3, 7', 'round 3')
    """
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"round{'s' if len(numbers) > 1 else ''} {text}"


def _opened(site_yaml: Path, data: str) -> Any:
    from fedkit_client.start import open_site
    from fedkit_client.withdrawing import require_data

    opened = open_site(site_yaml)
    require_data(opened, data)
    return opened


def _ids(unit: list[str] | None, file: str | None) -> list[str]:
    from fedkit.errors import FederationError
    from fedkit_client.withdrawals import unit_ids

    if unit and file is not None:
        raise typer.BadParameter("give --unit or --file, not both")
    if unit:
        return unit_ids(unit)
    try:
        content = sys.stdin.buffer.read() if file in (None, "-") else Path(str(file)).read_bytes()
        return unit_ids(content.decode("utf-8-sig").split("\n"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise FederationError(
            f"the ids cannot be read: {why}", code="FK595", remedy="give one id a line, in UTF-8"
        ) from None


def _print(value: dict[str, Any], json_: bool, text: str) -> None:
    from fedkit_client.logs import printable

    text = "\n".join(map(printable, text.split("\n")))
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
