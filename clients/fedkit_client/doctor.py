"""``fedkit client doctor``: what keeps a site from working, one finding a check, each with what to do about it."""

from __future__ import annotations

import shutil
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fedkit.errors import FedkitError
from fedkit.governance.terms import SiteFile
from fedkit_client.address import joined, parted
from fedkit_client.check import MARK, Check, failed, tried
from fedkit_client.encryption_check import encryption_check
from fedkit_client.executor import Executor
from fedkit_client.proxy import proxy_for
from fedkit_client.readiness import fork, require_limits, tables_of
from fedkit_client.record_check import lineage_check, log_check
from fedkit_client.source_check import shared_sources
from fedkit_client.start import Opened, check_allowed, open_site
from fedkit_client.study_check import study_findings
from fedkit_client.trouble import EARLIEST, LATEST, no_name

_WARN_DAYS = 30
_WARN_DISK = 2**30
DEFAULT_PORT, DEFAULT_GRPC_PORT = 9443, 9444


def checks_of_address(address: str, grpc_port: int = DEFAULT_GRPC_PORT) -> list[Check]:
    """Network checks before joining: nothing is pinned yet, so the certificate is shown and not judged.

    Args:
        grpc_port: of enrolment, which joining and every start speak to.
    """
    try:
        host, port = parted(address, DEFAULT_PORT)
    except FedkitError as error:
        return [failed("address", error)]
    found = _network(host, port, None)
    if any(each.state == "fail" and each.name in ("proxy", "DNS") for each in found):
        return found
    # Whatever the other port has shown: each has a firewall's rule of its own.
    return [*found, _unpinned_grpc_port(host, grpc_port)]


def checks_of_site(path: Path) -> list[Check]:
    """Every check of a joined site; a check that rests on a failed one is left out."""
    try:
        opened = open_site(path)
    except FedkitError as error:
        return [failed("site file and folder", error)]
    # Before the executor is forked, which has the key from here.
    sealing = encryption_check(opened)
    # First, as in a start: whatever is loaded before the executor is forked counts against its memory.
    executor = fork(opened.file, opened.folder)
    try:
        return _checks(opened, executor, sealing)
    finally:
        executor.close()


def _checks(opened: Opened, executor: Executor, sealing: Check) -> list[Check]:
    file, folder, enrolment = opened.file, opened.folder, opened.enrolment
    limits, data = _limits(opened, executor)
    found = [_file(opened), sealing]
    found.append(tried("installed functions", lambda: _functions(file)))
    try:
        authority = folder.authority()
    except FedkitError as error:
        return [*found, failed("pinned CA", error)]
    network = _network(enrolment.host, enrolment.port, authority)
    found += network
    if not any(each.state == "fail" for each in network):
        found.append(tried("enrolment port", lambda: _grpc_port(opened, authority)))
        found.append(tried("enrolment", lambda: _enrolled(opened, authority)))
    found.append(_disk(folder.path))
    found += data
    found += [Check(f"study {name}", state, said, remedy) for name, state, said, remedy in study_findings(opened)]
    found += [Check("data sets", "warn", said, remedy) for said, remedy in shared_sources(file)]
    found.append(tried("ledgers", lambda: _ledgers(opened)))
    found.append(tried("withdrawals", lambda: _withdrawals(opened)))
    found += [lineage_check(opened), log_check(opened), limits]
    return found


def _file(opened: Opened) -> Check:
    from fedkit_client import lock
    from fedkit_client.status import file_changed

    text = f"{opened.path} is in order, {opened.folder.path} is closed to others"
    if lock.holder(opened.folder.pid_file) is not None and file_changed(opened):
        text += "; the running site goes by what the file said when it started"
        return Check("site file and folder", "warn", text, "stop and start the site for the file to count")
    return Check("site file and folder", "ok", text)


def _limits(opened: Opened, executor: Executor) -> tuple[Check, list[Check]]:
    """Whether the limits can be met, and what the tables look like under them."""
    try:
        said = require_limits(opened.file, opened.folder, executor)
        data = [look.check for look in tables_of(executor)]
    except FedkitError as error:
        return failed("limits", error), []
    taken = f"the libraries take {executor.address_space / 2**30:.2f}GiB of addresses"
    text = f"the executor works within them; {taken}"
    if said:
        return Check("limits", "warn", f"{text}; {'; '.join(said)}", "lower it, or leave it out"), data
    return Check("limits", "ok", text), data


def report_text(found: list[Check]) -> str:
    """The findings for a person."""
    lines = []
    for each in found:
        lines.append(f"{MARK[each.state]}  {each.name}: {each.found}")
        if each.remedy and each.state != "ok":
            lines.append(f"      {each.remedy}")
    return "\n".join(lines) + "\n"


def _network(host: str, port: int, authority: bytes | None) -> list[Check]:
    from fedkit_client.trust import check_connection, shown_certificate, skew_seen

    address = joined(host, port)
    try:
        proxy = proxy_for(host)
    except FedkitError as error:
        return [failed("proxy", error)]
    found = [Check("proxy", "ok", f"through {proxy.shown}" if proxy else "none; connections are direct")]
    if proxy is None:
        try:
            places = sorted({str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)})
        except OSError:
            return [*found, failed("DNS", no_name(address))]
        found.append(Check("DNS", "ok", f"{host} is {', '.join(places[:4])}"))
    shown = shown_certificate(host, port)
    if shown is None:
        from fedkit_client.proxy import connect

        try:
            connect(host, port, 10.0).close()
        except FedkitError as error:
            return [*found, failed("TCP", error)]
        found.append(Check("TCP", "ok", f"{address} accepts connections"))
        remedy = "check host and port with the coordinator's admin"
        return [*found, Check("TLS", "fail", f"{address} does not speak TLS", remedy)]
    found.append(Check("TCP", "ok", f"{address} accepts connections"))
    days = (shown.ends - datetime.now(UTC)).total_seconds() / 86400
    if authority is None:
        text = f"shows {shown.subject}, issued by {shown.issuer}; joining compares its CA with the invitation's"
        found.append(Check("TLS", "ok", text))
        try:
            found.append(_clock(skew_seen(host, port)))
        except FedkitError as error:
            found.append(failed("clock" if error.code == "FK745" else "TLS", error))
    else:
        try:
            skew = check_connection(host, port, authority)
        except FedkitError as error:
            return [*found, failed("clock" if error.code == "FK745" else "TLS", error)]
        found.append(Check("TLS", "ok", f"the certificate is issued by the pinned CA, for {', '.join(shown.names)}"))
        found.append(_clock(skew))
    ends = f"the certificate ends on {shown.ends:%Y-%m-%d}, in {days:.0f} days"
    if days < _WARN_DAYS:
        state2: Literal["warn", "fail"] = "warn" if days > 0 else "fail"
        found.append(Check("certificate", state2, ends, "ask the coordinator's admin to renew it"))
    else:
        found.append(Check("certificate", "ok", ends))
    return found


def _clock(skew: float | None) -> Check:
    if skew is None:
        return Check("clock", "warn", "the coordinator does not tell the time", "set this clock by NTP")
    state: Literal["ok", "warn"] = "ok" if EARLIEST + 1 < skew < LATEST - 60 else "warn"
    text = f"the coordinator's is {skew:+.0f} s from this one; {EARLIEST:g} to {LATEST:g} are accepted"
    return Check("clock", state, text, "set both clocks by NTP")


def _unpinned_grpc_port(host: str, port: int) -> Check:
    from fedkit_client.proxy import connect
    from fedkit_client.trust import shown_certificate

    name, address = "enrolment port", joined(host, port)
    shown = shown_certificate(host, port)
    if shown is not None:
        return Check(name, "ok", f"{address} shows {shown.subject}, issued by {shown.issuer}")
    try:
        connect(host, port, 10.0).close()
    except FedkitError as error:
        remedy = f"{error.remedy}; joining needs this port too, and if the coordinator has another give --grpc-port"
        return Check(name, "fail", f"{error.code}: {error.message}", remedy)
    return Check(name, "fail", f"{address} does not speak TLS", "give the coordinator's enrolment port: --grpc-port")


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
        from fedkit_client.status import standing_problem

        state = read_state(opened.folder.state_file) or {}
        if (problem := standing_problem(opened, state)) is not None:
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


def _withdrawals(opened: Opened) -> str:
    from fedkit_client.recalled import require_withdrawals

    return f"{require_withdrawals(opened.file, opened.folder):,} stand, and the audit log tells of no other"


def _ledgers(opened: Opened) -> str:
    from fedkit.errors import PrivacyError
    from fedkit.privacy.ledger.file import may_write
    from fedkit_client.ledgers import budgets, open_ledgers
    from fedkit_client.told_charges import require_known, told_charges

    absent = [name for name in opened.file.data if not opened.folder.ledger(name).exists()]
    charged = told_charges(opened.folder)
    for name in absent:
        require_known(opened.folder.ledger(name), name, None, charged.get(name, {}))
    if absent:
        return f"{', '.join(absent)} is made at the first start"
    open_ledgers(opened.file, opened.folder)
    for name in opened.file.data:
        if not may_write(opened.folder.ledger(name)):
            raise PrivacyError(f"{opened.folder.ledger(name)} cannot be written", code="FK336")
    told = budgets(opened.file, opened.folder)
    return ", ".join(f"{name}: {each['left']:.1%} left" for name, each in told.items())
