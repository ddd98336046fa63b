"""What each side proves of the other's log: heads, what contradicts them, and the file that carries them back."""

import json
from pathlib import Path

import pytest

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.heads import Heard, open_head, seal_head, told_by
from fedkit.federation.heads_file import decisive, export_heads, read_heads
from fedkit.federation.trail import examine, examined_text, page, shown, shown_text, since_when
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.chain import Head
from fedkit.storage.keys import new_signing_key

SITE, COORDINATOR, STRANGER = new_signing_key(), new_signing_key(), new_signing_key()


def head(seq, letter="a"):
    return seal_head("north", Head(seq, letter * 64), SITE)


def kinds(events):
    return [(event.kind, event.fields.get("why")) for event in events]


def others(party):
    return {"north": [SITE.public], "coordinator": [COORDINATOR.public]}.get(party, [])


def test_a_head_is_its_partys_word_alone():
    told = open_head(head(3), "north", [COORDINATOR.public, SITE.public])
    assert told.head == Head(3, "a" * 64) and told.is_by([SITE.public]) and not told.is_by([STRANGER.public])
    for text, party in (
        (head(3), "south"),
        (seal_head("north", Head(3, "a" * 64), STRANGER), "north"),
        (seal_head("north", Head(-1, "a" * 64), SITE), "north"),
        (seal_head("north", Head(2**60, "a" * 64), SITE), "north"),
        (seal_head("north", Head(3, "A" * 64), SITE), "north"),
        (head(3).replace("3", "4", 1), "north"),
        ("", "north"), ("{}", "north"), ("x" * 10**6, "north"),
    ):  # fmt: skip
        with pytest.raises(FederationError):
            open_head(text, party, [SITE.public])


def test_one_acknowledgement_a_round_and_none_for_what_is_known():
    heard = Heard()
    said = [kinds(heard.hear("north", head(seq), [SITE.public], moment)) for seq, moment in
            ((3, 1), (5, 1), (9, 2), (9, 3), (12, None), (13, None))]  # fmt: skip
    once = [("acknowledged", None)]
    assert said == [once, [], once, [], once, once]
    assert heard.hear("north", "", [SITE.public], 9) == []


@pytest.mark.parametrize(
    ("then", "why"), [(head(4), "backwards"), (head(5, "b"), "forked"), (head(0, "0"), "backwards")]
)
def test_a_head_that_does_not_fit_is_one_alert_and_what_follows_is_held_against_it(then, why):
    heard = Heard()
    heard.hear("north", head(5), [SITE.public], 1)
    (alert,) = heard.hear("north", then, [SITE.public], 1)
    assert kinds([alert]) == [("contradicted", why)] and alert.fields["known_seq"] == 5
    assert heard.hear("north", then, [SITE.public], 2) == []
    assert kinds(heard.hear("north", head(20), [SITE.public], 3)) == [("acknowledged", None)]


def test_a_head_that_cannot_be_read_is_told_once_a_round_and_changes_nothing():
    heard = Heard()
    heard.hear("north", head(5), [SITE.public], 1)
    forged = seal_head("north", Head(1, "a" * 64), STRANGER)
    said = [kinds(heard.hear("north", forged, [SITE.public], moment)) for moment in (2, 2, 3)]
    assert said == [[("contradicted", "unreadable")], [], [("contradicted", "unreadable")]]
    assert heard.hear("north", head(5), [SITE.public], 4) == []


@pytest.fixture
def sides(tmp_path):
    """Two logs that have told each other of themselves for ten rounds."""
    site, coordinator = Log(tmp_path / "site", SITE), Log(tmp_path / "coordinator", COORDINATOR)
    at_site, at_coordinator = Heard(), Heard()
    site.append(Event("joined"))
    for number in range(1, 11):
        text = seal_head("coordinator", coordinator.head(), COORDINATOR)
        new = site.append(
            Event("released", {"round": number}), *at_site.hear("coordinator", text, [COORDINATOR.public], number)
        )
        text = seal_head("north", new, SITE)
        coordinator.append(
            Event("received", {"round": number}), *at_coordinator.hear("north", text, [SITE.public], number)
        )
    return site, coordinator


def site_log(site, peer=None, **more):
    return examine(site.path, "north", [SITE.public], others, peer=peer, **more)


def exported(coordinator, tmp_path, key=COORDINATOR, party="coordinator"):
    path = tmp_path / "heads"
    text, count = export_heads(coordinator.path, party, key, 1_700_000_000)
    path.write_text(text)
    return path, count


def test_a_log_and_what_it_keeps_restart_included(sides):
    site, coordinator = sides
    found = site_log(site, every=True)
    assert found["good"] and found["contradicted"] == 0 and found["acknowledged"]["coordinator"]["seq"] == 18
    assert "keeps the head of coordinator: line 18" in examined_text(found)
    json.dumps(found)
    heard = Heard.of(readable_lines(coordinator.path))
    assert heard.newest == {"north": Head(21, site_log(site)["head"])}
    assert kinds(heard.hear("north", head(3), [SITE.public], 1)) == [("contradicted", "backwards")]


def test_a_cut_is_found_with_the_other_sides_file(sides, tmp_path):
    site, coordinator = sides
    peer, count = exported(coordinator, tmp_path)
    assert count == 1
    assert site_log(site, peer)["peer"] == {"party": "coordinator", "issued_at": 1_700_000_000, "heads": 1, "seq": 21}
    lines = site.path.read_bytes().splitlines(keepends=True)
    site.path.write_bytes(b"".join(lines[:-1]))
    assert site_log(site)["good"]
    found = site_log(site, peer)
    assert not found["good"] and found["line"] == 21
    assert "BROKEN at line 21, which is missing" in examined_text(found)
    # Written anew up to the same length, by the key's holder.
    site.append(Event("another"))
    found = site_log(site, peer)
    assert not found["good"] and found["line"] == 21 and "another line" in found["why"]
    site.path.unlink()
    assert not site_log(site)["good"]
    assert not site_log(site, peer)["good"]


def test_the_file_keeps_both_sides_of_a_contradiction(sides, tmp_path):
    site, coordinator = sides
    heard = Heard.of(readable_lines(coordinator.path))
    site.path.write_bytes(b"".join(site.path.read_bytes().splitlines(keepends=True)[:5]))
    new = site.append(Event("goes_on"))
    for number in range(20):
        text = seal_head("north", new, SITE)
        if events := heard.hear("north", text, [SITE.public], ("again", number)):
            coordinator.append(*events)
        new = site.append(Event("goes_on"))
    kept = [told.head.seq for told in decisive(readable_lines(coordinator.path))]
    assert kept == [21, 25]
    peer, _ = exported(coordinator, tmp_path)
    found = site_log(site, peer)
    assert not found["good"] and "another line" in found["why"], "longer than ever, and still not what it was"
    report = examine(coordinator.path, "coordinator", [COORDINATOR.public], others)
    assert report["good"] and report["contradicted"] == 1 and "ALERT" in examined_text(report)


def test_a_file_that_proves_nothing_is_refused(sides, tmp_path):
    site, coordinator = sides
    peer, _ = exported(coordinator, tmp_path)
    good = peer.read_text()
    forged = seal_head("north", Head(99, "b" * 64), STRANGER)
    other = Log(tmp_path / "other", COORDINATOR)
    other.append(Event("acknowledged", told_by_fields(forged)))
    for text in ("", "x", "{}", good[:-20], good.replace("1700000000", "1700000001"), "\x00" * 10, "[" * 10**5,
                 export_heads(coordinator.path, "coordinator", STRANGER, 1.0)[0],
                 export_heads(coordinator.path, "nobody", COORDINATOR, 1.0)[0],
                 export_heads(other.path, "coordinator", COORDINATOR, 1.0)[0],
                 export_heads(site.path, "coordinator", COORDINATOR, 1.0)[0]):  # fmt: skip
        peer.write_text(text)
        with pytest.raises(DeploymentError, match="FK772"):
            site_log(site, peer)
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(DeploymentError, match="FK772"):
            read_heads(path, others)


def told_by_fields(text):
    return open_head(text, "north", [STRANGER.public]).fields()


def test_a_head_that_a_log_keeps_and_nobody_signed_breaks_it(sides):
    site, _ = sides
    fields = open_head(
        seal_head("coordinator", Head(30, "c" * 64), COORDINATOR), "coordinator", [COORDINATOR.public]
    ).fields()
    site.append(Event("acknowledged", {**fields, "peer_seq": 31}))
    found = site_log(site)
    assert not found["good"] and found["line"] == 22 and "has not signed" in found["why"]


def test_lines_are_shown_by_time_and_kind_and_never_as_commands_of_a_terminal(sides, tmp_path):
    site, _ = sides
    assert [told["round"] for told in shown(site.path, kinds=("released",))] == list(range(1, 11))
    assert list(shown(site.path, since=4e9)) == []
    assert "round=3" in shown_text([*shown(site.path, kinds=("released",))][2])
    with site.path.open("ab") as file:
        file.write(b"\x1b[31m\n")
    assert "cannot" not in shown_text([*shown(site.path)][-1]) and "\x1b" not in shown_text([*shown(site.path)][-1])
    assert shown_text({"seq": 1, "at": 1e300, "kind": "x", "a": "\x1b[31m\n"}).isprintable()
    with pytest.raises(DeploymentError, match="FK770"):
        list(shown(tmp_path / "absent"))


def test_pages_hold_every_line_of_a_kind_once_the_newest_first_and_an_odd_line_is_told(tmp_path):
    log = Log(tmp_path / "audit.jsonl", new_signing_key())
    log.append(*(Event("released" if n % 3 else "refused", {"run": f'"kind":"released"{n}'}) for n in range(20)))
    with log.path.open("a") as file:
        file.write('{"kind":"released"}\n')
    for kinds in ((), ("released",), ("refused", "released"), ("paused",)):
        whole = list(shown(log.path, kinds=kinds)) if kinds != () else list(shown(log.path))
        odd = [told for told in whole if "unreadable" in told]
        wanted = [told for told in whole if "seq" in told] + (odd if kinds != ("paused",) else [])
        found = [told for number in range(1, 9) for told in page(log.path, kinds=kinds, number=number, size=3)[0]]
        assert found == wanted[::-1] and page(log.path, kinds=kinds)[1] == len(wanted)
    with pytest.raises(DeploymentError, match="FK770"):
        page(tmp_path / "none", number=1)


def test_a_log_is_followed_line_by_line(sides):
    site, _ = sides
    lines = shown(site.path, kinds=("later",), follow=True)
    site.append(Event("later", {"n": 1}))
    assert next(lines)["n"] == 1
    site.append(Event("other"), Event("later", {"n": 2}))
    assert next(lines)["n"] == 2


@pytest.mark.parametrize("text", ["", "yesterday", "7", "-1h", "1e9h", "2026-13-01", "\n"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(DeploymentError, match="FK773"):
        since_when(text, 0.0)


def test_told_by_reads_nothing_but_heads(sides):
    assert [told_by(line) for line in readable_lines(sides[0].path, ("released",))] == [None] * 10
    assert Path(sides[0].path).exists()
