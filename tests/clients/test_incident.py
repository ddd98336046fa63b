"""What left, to whom, under which guarantee: from real rounds, logs, ledgers; signed; rehearsed without a trace."""

import hashlib
import json
import stat
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fedkit_client import rehearsal
from fedkit_client.audit import record
from fedkit_client.cli import main
from fedkit_client.incident import incident
from fedkit_client.left import what_left
from fedkit_client.start import open_site

from fedkit.errors import DeploymentError
from fedkit.federation.content import content_digest
from fedkit.reporting.incident import incident_page, notification_draft
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import load_signing_key, new_signing_key
from tests.clients.coordinator import DATASET, RECORDS, UNPROTECTED, experiment
from tests.clients.test_alert_watch import train

EVIL = "<script>alert('x')</script>"
CARD = {"contact": EVIL}


@pytest.fixture
def made(bench):
    return bench(data={"allow_unprotected": True, "card": CARD, "sensitivity": {"died": "special-category"}})


def collect(made, since=0.0, until=None):
    now = time.time()
    return incident(open_site(made.folder.site_yaml), since, now + 1 if until is None else until, now)


def run(words, capsys):
    code = 0
    try:
        main([str(word) for word in words])
    except BaseException as error:
        code = getattr(error, "exit_code", None) or (2 if isinstance(error, DeploymentError) else code or 2)
        return code, capsys.readouterr().out, str(error)
    return code, capsys.readouterr().out, ""


def test_every_answer_is_there_with_run_key_purpose_guarantee_size_and_digest(made):
    job = made.coordinator.job("run-a")
    sent = [train(made, job, number) for number in (1, 2)]
    found = collect(made)
    assert [(each["run"], each["kind"], each["round"]) for each in found["answers"]] == [
        ("run-a", "train", 1), ("run-a", "train", 2),
    ]  # fmt: skip
    for each, content in zip(found["answers"], sent, strict=True):
        content.pop("head")
        assert (each["digest"], each["size"]) == content_digest(content) and each["withheld"] is False
    (told,) = found["runs"]
    assert told["submitter"] == "ana" and told["submitter_key"] == made.coordinator.root.fingerprint
    assert (told["dataset"], told["for_purpose"], told["study"], told["answers"]) == (
        DATASET,
        "testing",
        "none",
        {"train": 2},
    )
    bound = told["guarantee"]
    assert bound["guarantee"] == "dp" and bound["delta"] == 1e-5 and bound["unit"] == "record" and bound["epsilon"] > 0
    recipient = found["recipient"]
    assert recipient["coordinator"] == recipient["coordinator_now"] == made.coordinator.key.fingerprint
    assert [user["name"] for user in recipient["users"]] == ["ana"]
    data = found["datasets"][DATASET]
    assert (data["records"], data["unit"], data["columns"]["died"]) == (RECORDS, "record", "special-category")
    assert data["budget"]["epsilon_spent"] == data["charged_runs"][0]["epsilon"] > 0
    assert found["unprotected"] == [] and all(chain["good"] for chain in found["chains"].values())
    assert set(found["chains"]) == {"audit.jsonl", f"ledgers/{DATASET}.sqlite"}


def test_an_answer_that_was_sent_again_counts_once(made):
    job = made.coordinator.job("run-a")
    for _ in range(3):
        train(made, job)
    found = collect(made)
    assert len(found["answers"]) == 1 and found["answers"][0]["times"] == 3


def test_a_run_without_privacy_is_named_and_nothing_is_promised_of_it(made):
    train(made, made.coordinator.job("open", experiment(*UNPROTECTED)))
    found = collect(made)
    assert found["unprotected"] == ["open"] and found["runs"][0]["guarantee"] == {"guarantee": "none"}
    draft = notification_draft(found)
    assert "WITHOUT A GUARANTEE" in draft and "differentially private" not in draft


@pytest.mark.parametrize("disclosed", [True, False])
def test_what_a_site_tells_of_its_work_is_named_as_outside_every_guarantee(bench, disclosed):
    made = bench(disclose_usage=disclosed)
    train(made, made.coordinator.job("run-a"))
    found = collect(made)
    for text in (incident_page(found, "0"), notification_draft(found)):
        assert ("CPU seconds and memory out" in text) is disclosed


def test_only_what_lies_within_the_time_is_told(made):
    train(made, made.coordinator.job("before"))
    between = time.time()
    time.sleep(0.01)
    train(made, made.coordinator.job("after"))
    assert [each["run"] for each in collect(made, since=between)["runs"]] == ["after"]
    assert [each["run"] for each in collect(made, until=between)["runs"]] == ["before"]
    with pytest.raises(DeploymentError) as caught:
        collect(made, since=between, until=between)
    assert caught.value.code == "FK788"


@pytest.fixture
def told(tmp_path):
    """What left by events (at, kind, fields) in a real log."""

    def tell(*events):
        key, path = new_signing_key(), tmp_path / "log.jsonl"
        path.unlink(missing_ok=True)
        for at, kind, fields in events:
            Log(path, key, lambda at=at: at).append(Event(kind, fields))
        return what_left(readable_lines(path), 0.0, 100.0)

    return tell


ROUND = {"run": "r", "purpose": "train", "round": 1}
ADMITTED = (1.0, "admitted", {"run": "r", "dataset": "icu", "submitter": "ana", "job": "j"})
RELEASED = {**ROUND, "digest": "d", "size": 3, "guarantee": "none"}


def test_an_answer_that_a_pause_kept_is_marked_and_one_that_was_sent_later_is_not(told):
    kept = (3.0, "withheld", ROUND)
    assert told(ADMITTED, (2.0, "released", RELEASED), kept)["answers"][0]["withheld"] is True
    again = told(ADMITTED, (2.0, "released", RELEASED), kept, (4.0, "released", RELEASED))
    assert again["answers"][0]["withheld"] is False and again["runs"][0]["withheld"] == 0


def test_withdrawals_after_the_first_answer_count_once_a_person_unless_taken_back(told):
    def gone(at, unit, kind="withdrawn"):
        return at, kind, {"dataset": "icu", "unit": unit}

    found = told(
        ADMITTED, gone(1.5, "before"), (2.0, "released", RELEASED), gone(3.0, "a"), gone(3.5, "a"), gone(4.0, "b"),
        gone(5.0, "b", "revoked"), gone(200.0, "late"), (6.0, "withdrawn", {"dataset": "other", "unit": "c"}),
    )  # fmt: skip
    assert found["withdrawn_later"] == {"icu": 2}


@pytest.mark.parametrize(
    "more",
    [{"epsilon": "1"}, {"epsilon": 1.0}, {"epsilon": 1.0, "delta": 1e-5, "unit": 3, "adjacency": "add_remove"}, {}],
)
def test_a_line_that_does_not_say_its_whole_guarantee_has_none(told, more):
    found = told(ADMITTED, (2.0, "released", {**ROUND, "digest": "d", "size": "3", "guarantee": "dp", **more}))
    assert found["answers"][0]["guarantee"] == {"guarantee": "none"} and found["answers"][0]["size"] == 0


def test_an_altered_log_and_ledger_are_told_and_what_can_be_read_is(made, capsys, tmp_path):
    train(made, made.coordinator.job("run-a"))
    log = made.folder.audit.read_bytes()
    made.folder.audit.write_bytes(log.replace(b'"submitter":"ana"', b'"submitter":"eve"'))
    made.folder.ledger(DATASET).write_bytes(b"no ledger")
    code, out, _ = run(["incident", made.folder.site_yaml, "--since", "1h", "--out", tmp_path / "i", "--json"], capsys)
    found = json.loads(out)
    assert code == 1 and not found["chains"]["audit.jsonl"]["good"] and found["runs"][0]["submitter"] == "eve"
    assert not found["chains"][f"ledgers/{DATASET}.sqlite"]["good"]
    for name in ("incident.html", "notification.md"):
        assert "NOT WHAT WAS WRITTEN" in (tmp_path / "i" / name).read_text()


def test_logs_of_folders_before_are_read_and_their_ends_held_against_the_newer_one(made):
    key = load_signing_key(made.folder.signing_key)
    old = Log(made.folder.path / "audit.before-1.jsonl", new_signing_key())
    old.append(Event("admitted", {**ADMITTED[2], "run": "old"}), Event("released", {**RELEASED, "run": "old"}))
    head = old.head()
    Log(made.folder.audit, key).append(Event("joined", {"before_seq": head.seq, "before_digest": head.digest}))
    found = collect(made)
    assert [each["run"] for each in found["runs"]] == ["old"] and found["chains"]["audit.before-1.jsonl"]["good"]
    old.path.write_bytes(b"".join(old.path.read_bytes().splitlines(keepends=True)[:1]))
    assert not collect(made)["chains"]["audit.before-1.jsonl"]["good"]


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_nothing_escapes_everything_and_names_no_path(made):
    train(made, made.coordinator.job("run-a"))
    record(made.folder, "admitted", run="evil", dataset=DATASET, submitter=EVIL, job="j")
    record(made.folder, "released", **{**RELEASED, "run": "evil"})
    found = collect(made)
    page = _Tags()
    page.feed(incident_page(found, "0"))
    assert not {"script", "iframe", "img", "link", "form", "base"} & page.tags and EVIL in page.text
    for text in (json.dumps(found), page.text, notification_draft(found)):
        assert str(made.folder.path) not in text and "table.csv" not in text
    assert incident_page(found, "0") == incident_page(found, "0")


def test_the_draft_has_every_point_of_both_laws_and_marks_what_is_not_known(made):
    train(made, made.coordinator.job("run-a"))
    draft = notification_draft(collect(made))
    for point in ("(a) Nature", "(b) Contact", "(c) Likely", "(d) Measures", "72 hours", "(A) What", "(B) Types",
                  "(C) What persons", "(D) What is done", "(E) Contact", "60 calendar days"):  # fmt: skip
        assert point in draft
    assert draft.count("[TO FILL IN: ") >= 12 and f"up to {RECORDS} records" in draft
    assert "neither paused nor quarantined" in draft
    made.folder.quarantine.put("x", 5.0)
    assert "quarantined since 1970-01-01 00:00:05 UTC" in notification_draft(collect(made))


def test_what_is_written_is_signed_private_and_verified_byte_by_byte(made, capsys, tmp_path):
    train(made, made.coordinator.job("run-a"))
    out, file = tmp_path / "out", made.folder.site_yaml
    code, text, _ = run(["incident", file, "--since", "1h", "--out", out], capsys)
    assert code == 0 and "run-a: 1 answers" in text
    names = {"incident.json", "incident.html", "notification.md", "manifest.json"}
    assert {path.name for path in out.iterdir()} == names
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in (out, *out.iterdir()))
    assert run(["incident", file, "--verify", out], capsys)[0] == 0
    # Nothing is overwritten.
    assert run(["incident", file, "--since", "1h", "--out", out], capsys)[0] == 2
    good = (out / "incident.json").read_bytes()
    (out / "incident.json").write_bytes(good.replace(b"ana", b"eve"))
    assert "FK788" in run(["incident", file, "--verify", out], capsys)[2]
    (out / "incident.json").write_bytes(good)
    # Whoever signs with a key of their own beside it is no made-up site.
    forged = tmp_path / "forged"
    run(["incident", file, "--rehearse", "--out", forged], capsys)
    assert json.loads((forged / "incident.json").read_bytes())["rehearsal"] is True
    from fedkit_client.evidence import described, write_manifest
    from fedkit_client.folder import SiteFolder

    (forged / "manifest.json").unlink()
    key = load_signing_key(SiteFolder(forged / "made-up-site").signing_key)
    values = {"site": "north", "rehearsal": False, "files": {"incident.json": described(forged / "incident.json")}}
    write_manifest(forged, "incident", values, key)
    assert "made-up site" in run(["incident", file, "--verify", forged], capsys)[2]


def fingerprints(folder):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_ino, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def test_a_rehearsal_opens_nothing_of_the_real_folder_and_says_so_everywhere(made, capsys, tmp_path, monkeypatch):
    opened = []
    real = Path.read_bytes, Path.read_text, Path.open
    for name, function in zip(("read_bytes", "read_text", "open"), real, strict=True):

        def watched(path, *words, _function=function, **more):
            opened.append(path)
            return _function(path, *words, **more)

        monkeypatch.setattr(Path, name, watched)
    before = fingerprints(made.folder.path)
    opened.clear()
    out = tmp_path / "drill"
    code, text, _ = run(["incident", made.folder.site_yaml, "--rehearse", "--out", out], capsys)
    assert code == 0 and text.startswith("REHEARSAL: made-up")
    assert not [path for path in opened if path.is_relative_to(made.folder.path)]
    monkeypatch.undo()
    assert fingerprints(made.folder.path) == before
    for name in ("incident.html", "notification.md", "REHEARSAL.txt", "made-up-site/site.yaml"):
        assert "REHEARSAL" in (out / name).read_text(), name
    assert json.loads((out / "incident.json").read_text())["rehearsal"] is True
    assert "REHEARSAL" in run(["incident", made.folder.site_yaml, "--verify", out], capsys)[1]


def test_the_drill_has_what_a_team_is_to_find_and_can_be_quarantined_itself(capsys, tmp_path):
    out = tmp_path / "drill"
    run(["incident", tmp_path / "none.yaml", "--rehearse", "--out", out], capsys)
    found = json.loads((out / "incident.json").read_text())
    assert found["unprotected"] == ["rehearsal-unknown"] and found["refused"] == {"FK541": 3}
    users = {user["key"] for user in found["recipient"]["users"]}
    assert [run["submitter_key"] in users for run in found["runs"]] == [True, False]
    assert found["datasets"][rehearsal.DATASET]["withdrawn_later"] == 2
    assert [run["withheld"] for run in found["runs"]] == [0, 1] and all(c["good"] for c in found["chains"].values())
    file = out / "made-up-site" / "site.yaml"
    assert run(["quarantine", file, "--reason", "a drill", "--json"], capsys)[0] == 0
    assert "FK787" in run(["resume", file], capsys)[2]
    assert run(["quarantine", file, "--lift", "--reason", "over"], capsys)[0] == 0
    assert run(["resume", file], capsys)[0] == 0


@pytest.mark.parametrize("words", [[], ["--since", "1h"], ["--out", "x"]])
def test_what_is_missing_is_asked_for(made, capsys, words):
    code, _, text = run(["incident", made.folder.site_yaml, *words], capsys)
    assert code == 2 and "--since TIME and --out DIR" in text
