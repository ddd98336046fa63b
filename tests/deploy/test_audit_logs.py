"""Both audit logs of a real run: good, of each other's heads, whatever was killed; a cut or an edit is found."""

import json
import time

import pytest

from tests.deploy.federation import Federation, wait

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def federation(tmp_path):
    found = Federation(tmp_path, sites=("cleveland", "hungary"))
    try:
        yield found.make().start_sites()
    finally:
        found.close()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def verified(federation, party, *words, good=True):
    command = ("server", "log", "verify", "coordinator") if party == "coordinator" else (
        "client", "log", "verify", f"{party}/site.yaml")  # fmt: skip
    done = federation.fedkit(*command, *words, "--json", check=False)
    assert done.returncode == (0 if good else 1), done.stdout + done.stderr
    return json.loads(done.stdout)


def test_both_logs_of_a_run_with_a_kill_and_what_the_other_side_proves(federation):
    folder, rounds = federation.folder, 8
    run = federation.submit(f"federation.num_rounds={rounds}")
    wait(lambda: federation.begun(run) >= 3, 120, "the run does not begin", 0.02)
    federation.kill("cleveland")
    federation.start_site("cleveland")
    assert federation.finish(run)["outcome"] == "complete", federation.logs()
    federation.pull(run)
    wait(lambda: lines(folder / "cleveland/audit.jsonl")[-1]["kind"] == "acknowledged", 30, "no goodbye")

    site, coordinator = (lines(folder / party / "audit.jsonl") for party in ("cleveland", "coordinator"))
    kinds = [line["kind"] for line in site]
    assert kinds[:3] == ["joined", "started", "configured"] and kinds.count("started") == 2
    assert kinds.count("configured") == 1, "the file is the same"
    # Everything that came in had left: the same digest at both ends; and nothing left that was not charged before.
    left = {line["digest"]: line for line in site if line["kind"] == "released"}
    came = [line for line in coordinator if line["kind"] == "received" and line["site"] == "cleveland"]
    trained = [line for line in came if line["purpose"] == "train"]
    assert {line["round"] for line in trained} == set(range(1, rounds + 1))
    for line in came:
        if line["purpose"] != "end":
            there = left[line["digest"]]
            assert (there["size"], there["round"], there["run"]) == (line["size"], line["round"], run)
            assert there["guarantee"] == "dp" and there["delta"] == 1e-5 and there["unit"] == "record"
    charged = {(line["purpose"], line["round"]) for line in site if line["kind"] == "reserved"}
    assert charged >= {("train", number) for number in range(1, rounds + 1)}
    spent = [line["epsilon_spent"] for line in site if line["kind"] == "reserved"]
    assert spent == sorted(spent) and 0 < spent[0] < spent[-1] <= federation.max_epsilon
    told = [line["kind"] for line in coordinator]
    assert (
        told.count("enrolled") == 2 and told.count("submitted") == told.count("run_ended") == told.count("pulled") == 1
    )
    assert next(line for line in coordinator if line["kind"] == "run_ended")["outcome"] == "complete"

    # One head a round, and no growth by answering acknowledgements.
    for log in (site, coordinator):
        kept = [line for line in log if line["kind"] == "acknowledged" and line["peer"] in ("coordinator", "cleveland")]
        assert rounds <= len(kept) <= rounds + 3
        assert "contradicted" not in [line["kind"] for line in log]

    exported = {}
    for party, words in (
        ("coordinator", ("server", "log", "export", "coordinator")),
        ("cleveland", ("client", "log", "export", "cleveland/site.yaml")),
    ):
        exported[party] = folder / f"{party}.heads"
        federation.fedkit(*words, "--out", exported[party])
    found = verified(federation, "cleveland", "--peer", exported["coordinator"])
    assert found["acknowledged"]["coordinator"]["seq"] > 0 and found["peer"]["seq"] > 0
    verified(federation, "coordinator", "--peer", exported["cleveland"])
    verified(federation, "hungary", "--peer", exported["coordinator"])
    assert federation.json("client", "status", "cleveland/site.yaml")["log"]["contradicted"] == 0

    # The site was not yet killed in vain: no secret and no key is in any line.
    for party in ("cleveland", "coordinator"):
        assert "PRIVATE" not in (folder / party / "audit.jsonl").read_text()

    for party in ("coordinator", "cleveland", "hungary"):
        federation.kill(party)
    for party, other in (("cleveland", "coordinator"), ("coordinator", "cleveland")):
        path = folder / party / "audit.jsonl"
        good = path.read_bytes()
        edited = good.replace(b'"kind":"released"', b'"kind":"refused_"', 1)
        path.write_bytes(edited)
        broken = verified(federation, party, good=False)
        assert broken["line"] == 1 + edited[: edited.index(b'"refused_"')].count(b"\n")
        assert "altered" in broken["why"]
        # The last ten lines are taken away, the last of which the other side had been told of.
        cut = good.splitlines(keepends=True)[:-10]
        path.write_bytes(b"".join(cut))
        verified(federation, party)
        broken = verified(federation, party, "--peer", exported[other], good=False)
        assert broken["line"] == len(cut) + 1 and "missing" in broken["why"]
        path.write_bytes(good)


def test_a_site_whose_log_was_cut_is_told_of_by_the_coordinator_and_one_that_is_broken_sends_nothing(federation):
    first = federation.submit("federation.num_rounds=3")
    assert federation.finish(first)["outcome"] == "complete"
    federation.kill("hungary")
    path = federation.folder / "hungary/audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-12]))
    federation.start_site("hungary")
    second = federation.submit("federation.num_rounds=3")
    # An alert, and no way to stop a run.
    assert federation.finish(second)["outcome"] == "complete", federation.logs()
    alerts = [line for line in lines(federation.folder / "coordinator/audit.jsonl") if line["kind"] == "contradicted"]
    assert [(line["peer"], line["why"]) for line in alerts] == [("hungary", "backwards")]
    assert alerts[0]["peer_seq"] < alerts[0]["known_seq"]
    assert "ALERT" in federation.remote("status").stdout
    assert verified(federation, "coordinator")["contradicted"] == 1
    federation.fedkit("server", "log", "export", "coordinator", "--out", "c.heads")
    assert not verified(federation, "hungary", "--peer", "c.heads", good=False)["good"]

    # Altered while the site runs: whatever it computes, nothing leaves.
    good = path.read_bytes()
    path.write_bytes(good[:-200] + b"x" + good[-199:])
    released = path.read_bytes().count(b'"kind":"released"')
    third = federation.submit("federation.num_rounds=1", min_sites=1, deadline=25)
    wait(lambda: (federation.state("hungary").get("problem") or {}).get("code") == "FK771", 60, "no problem shown")
    found = federation.finish(third)
    assert found["outcome"] == "degraded", federation.logs()
    time.sleep(0.5)
    assert path.read_bytes().count(b'"kind":"released"') == released
    came = [line for line in lines(federation.folder / "coordinator/audit.jsonl")
            if line["kind"] in ("received", "refused") and line["run"] == third]  # fmt: skip
    assert {line["site"] for line in came} == {"cleveland"}
