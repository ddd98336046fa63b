"""``fedkit client doctor``: what keeps a site from working, one finding a check, each with what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fedkit.errors import FedkitError
from fedkit.governance.terms import SiteFile
from fedkit_client.consents import purposes_of, reading_now
from fedkit_client.folder import joined, parted
from fedkit_client.proxy import proxy_for
from fedkit_client.start import Opened, check_allowed, open_site
from fedkit_client.study_check import study_findings
from fedkit_client.trouble import EARLIEST, LATEST, no_name

_WARN_DAYS = 30
_WARN_DISK = 2**30
_MARK = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}
DEFAULT_PORT = 9443


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def checks_of_address(address: str) -> list[Check]:
    """Network checks before joining: nothing is pinned yet, so the certificate is shown and not judged."""
    try:
        host, port = parted(address, DEFAULT_PORT)
    except FedkitError as error:
        return [_failed("address", error)]
    return _network(host, port, None)


def checks_of_site(path: Path) -> list[Check]:
    """Every check of a joined site; a check that rests on a failed one is left out."""
    try:
        opened = open_site(path)
    except FedkitError as error:
        return [_failed("site file and folder", error)]
    file, folder, enrolment = opened.file, opened.folder, opened.enrolment
    found = [Check("site file and folder", "ok", f"{path} is in order, {folder.path} is closed to others")]
    found.append(_try("installed functions", lambda: _functions(file)))
    try:
        authority = folder.authority()
    except FedkitError as error:
        return [*found, _failed("pinned CA", error)]
    network = _network(enrolment.host, enrolment.port, authority)
    found += network
    if not any(each.state == "fail" for each in network):
        found.append(_try("enrolment port", lambda: _grpc_port(opened, authority)))
        found.append(_try("enrolment", lambda: _enrolled(opened, authority)))
    found.append(_disk(folder.path))
    found += [_data(opened, name, purpose) for name, own in file.data.items() for purpose in purposes_of(own)]
    found += [Check(f"study {name}", state, said, remedy) for name, state, said, remedy in study_findings(opened)]
    found.append(_try("ledgers", lambda: _ledgers(opened)))
    found.append(_try("limits", lambda: _limits(file)))
    return found


def report_text(found: list[Check]) -> str:
    """The findings for a person."""
    lines = []
    for each in found:
        lines.append(f"{_MARK[each.state]}  {each.name}: {each.found}")
        if each.remedy and each.state != "ok":
            lines.append(f"      {each.remedy}")
    return "\n".join(lines) + "\n"


def _network(host: str, port: int, authority: bytes | None) -> list[Check]:
    from fedkit_client.trust import check_connection, shown_certificate

    address = joined(host, port)
    try:
        proxy = proxy_for(host)
    except FedkitError as error:
        return [_failed("proxy", error)]
    found = [Check("proxy", "ok", f"through {proxy.shown}" if proxy else "none; connections are direct")]
    if proxy is None:
        try:
            places = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
        except OSError:
            return [*found, _failed("DNS", no_name(address))]
        found.append(Check("DNS", "ok", f"{host} is {', '.join(places[:4])}"))
    shown = shown_certificate(host, port)
    if shown is None:
        from fedkit_client.proxy import connect

        try:
            connect(host, port, 10.0).close()
        except FedkitError as error:
            return [*found, _failed("TCP", error)]
        found.append(Check("TCP", "ok", f"{address} accepts connections"))
        remedy = "check host and port with the coordinator's admin"
        return [*found, Check("TLS", "fail", f"{address} does not speak TLS", remedy)]
    found.append(Check("TCP", "ok", f"{address} accepts connections"))
    days = (shown.ends - datetime.now(UTC)).total_seconds() / 86400
    if authority is None:
        text = f"shows {shown.subject}, issued by {shown.issuer}; joining compares its CA with the invitation's"
        found.append(Check("TLS", "ok", text))
    else:
        try:
            skew = check_connection(host, port, authority)
        except FedkitError as error:
            return [*found, _failed("clock" if error.code == "FK745" else "TLS", error)]
        found.append(Check("TLS", "ok", f"the certificate is issued by the pinned CA, for {', '.join(shown.names)}"))
        if skew is None:
            found.append(Check("clock", "warn", "the coordinator does not tell the time", "set this clock by NTP"))
        else:
            state: Literal["ok", "warn"] = "ok" if EARLIEST + 1 < skew < LATEST - 60 else "warn"
            text = f"the coordinator's is {skew:+.0f} s from this one; {EARLIEST:g} to {LATEST:g} are accepted"
            found.append(Check("clock", state, text, "set both clocks by NTP"))
    ends = f"the certificate ends on {shown.ends:%Y-%m-%d}, in {days:.0f} days"
    if days < _WARN_DAYS:
        state2: Literal["warn", "fail"] = "warn" if days > 0 else "fail"
        found.append(Check("certificate", state2, ends, "ask the coordinator's admin to renew it"))
    else:
        found.append(Check("certificate", "ok", ends))
    return found


def _functions(file: SiteFile) -> str:
    check_allowed(file)
    return f"{len(file.models)} models and {len(file.sources)} sources beside fedkit's own"


def _grpc_port(opened: Opened, authority: bytes) -> str:
    from fedkit_client.trust import check_connection

    check_connection(opened.enrolment.host, opened.enrolment.grpc_port, authority, path=None)
    return f"{opened.enrolment.grpc_address} answers with the pinned CA's certificate"


def _enrolled(opened: Opened, authority: bytes) -> str:
    import httpx
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from fedkit.federation.flower_node import NodeConnection
    from fedkit.storage.keys import load_node_key
    from fedkit_client import lock
    from fedkit_client.trouble import explained

    if (pid := lock.holder(opened.folder.pid_file)) is not None:
        from fedkit_client.state import read_state

        state = read_state(opened.folder.state_file) or {}
        if (problem := state.get("problem")) is not None:
            raise FedkitError(problem["message"], code=problem["code"], remedy=problem["remedy"])
        # A second activation would hand the running process' messages out again.
        return f"process {pid} uses it now, and is {state.get('phase', 'starting')}"
    key = load_pem_private_key(load_node_key(opened.folder.node_key).private_pem, password=None)
    connection = NodeConnection(opened.enrolment.address, authority, key)  # type: ignore[arg-type]
    try:
        connection.activate()
    except (httpx.HTTPError, ValueError) as error:
        raise explained(error, opened.enrolment.address, time.time()) from None
    finally:
        connection.close()
    return f"the coordinator knows this node's key as node {connection.node_id}"


def _disk(folder: Path) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free in {folder}"
    if free < _WARN_DISK:
        return Check("disk", "warn" if free > _WARN_DISK // 16 else "fail", text, "free space: ledgers keep answers")
    return Check("disk", "ok", text)


def _data(opened: Opened, name: str, purpose: str | None) -> Check:
    """Reads the table as a run would; counts stay on this screen."""
    from fedkit.data.load import load_site_dataset

    own, title = opened.file.data[name], f"data {name}{f' for {purpose}' if purpose else ''}"
    try:
        read = reading_now(opened.file, opened.folder, name, purpose, time.time())
        dataset = load_site_dataset(own.declaration, opened.file.site, private=True, read=read)
    except FedkitError as error:
        return _failed(title, error)
    except Exception as error:
        remedy = "read it with another program; the source must lie where site.yaml says"
        return Check(title, "fail", f"the table cannot be read ({type(error).__name__})", remedy)
    (site,) = dataset.sites
    units = site.train.num_units + site.test.num_units
    which = " with consent" if own.consent is not None else ""
    text = f"all declared columns are there; {units} units{which} of at most {own.records} declared"
    if not units:
        return Check(title, "warn", f"{text}: no row can be used", "check source, site_column and consent")
    if dataset.warnings:
        return Check(
            title,
            "warn",
            f"{text}; {'; '.join(dataset.warnings)}",
            "compare the table with its declaration; the site answers all the same",
        )
    return Check(title, "ok", text)


def _ledgers(opened: Opened) -> str:
    from fedkit.errors import PrivacyError
    from fedkit.privacy.ledger.file import may_write
    from fedkit_client.ledgers import budgets, open_ledgers

    absent = [name for name in opened.file.data if not opened.folder.ledger(name).exists()]
    if absent:
        return f"{', '.join(absent)} is made at the first start"
    open_ledgers(opened.file, opened.folder)
    for name in opened.file.data:
        if not may_write(opened.folder.ledger(name)):
            raise PrivacyError(f"{opened.folder.ledger(name)} cannot be written", code="FK336")
    told = budgets(opened.file, opened.folder)
    return ", ".join(f"{name}: {each['left']:.1%} left" for name, each in told.items())


def _limits(file: SiteFile) -> str:
    """Starts an executor, as `start` would, and has one child take the limits on."""
    from fedkit_client.executor import Executor
    from fedkit_client.limits import require_memory
    from fedkit_client.start import answerer, probe, silent

    executor = Executor.start(silent(file), answerer(file))
    try:
        executor.wait_ready()
        require_memory(file.limits, executor.address_space)
        probe(executor)
    finally:
        executor.close()
    here, said = len(os.sched_getaffinity(0)), ""
    if file.limits.cpus is not None and file.limits.cpus > here:
        said = f"; limits.cpus is {file.limits.cpus:g} and {here} are here: it limits nothing"
    taken = f"the libraries take {executor.address_space / 2**30:.2f}GiB of addresses"
    return f"the executor works within them; {taken}{said}"


def _try(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except FedkitError as error:
        return _failed(name, error)


def _failed(name: str, error: FedkitError) -> Check:
    return Check(name, "fail", f"{error.code}: {error.message or error}", error.remedy)
