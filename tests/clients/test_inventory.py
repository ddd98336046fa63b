"""A site's data card: from its file, ledgers and log; no row is read, nothing of a source is told, all is escaped."""

import json
import stat
import time
from html.parser import HTMLParser

import pytest
from fedkit_client.audit import record
from fedkit_client.cli import main
from fedkit_client.inventory import inventory
from fedkit_client.start import open_site

from fedkit.reporting.inventory import inventory_page
from tests.clients.coordinator import DATASET, UNPROTECTED, experiment, model

EVIL = "<script>alert('x')</script>"
CARD = {"legal_basis": EVIL, "residency": "Germany", "retention": "until 2030", "contact": "dpo@north.example"}
DATA = {"card": CARD, "sensitivity": {"age": "quasi-identifier", "died": "special-category"}}


@pytest.fixture
def made(bench):
    found = bench(data=DATA)
    answered = found.coordinator.job("run-a")
    for number in (1, 2):
        reply = found.keeper.answer("train", found.coordinator.request(answered, "train", number, model(5)))
        assert not isinstance(reply, str)
    # The table is gone: whoever read a row now would fail.
    found.folder.path.joinpath("table.csv").unlink()
    return found


def _card(bench):
    return inventory(open_site(bench.folder.site_yaml), time.time())


def test_the_card_says_what_the_file_declares_and_what_the_ledger_charged(made):
    card = _card(made)
    data = card["datasets"][DATASET]
    assert data["columns"] == {
        "age": {"role": "feature, number", "sensitivity": "quasi-identifier"},
        "rate": {"role": "feature, number", "sensitivity": "undeclared"},
        "died": {"role": "target, binary", "sensitivity": "special-category"},
    }
    assert {key: data[key] for key in CARD} == CARD and data["source"] == "csv"
    (run,) = data["released"]
    assert (run["run"], run["study"], run["answered"], run["charged"]) == ("run-a", "none", {"train": [1, 2]}, 2)
    assert (run["unit"], run["delta"], run["submitter"]) == ("record", 1e-5, None)
    # One run is all that was spent.
    assert 0 < run["epsilon"] == data["budget"]["epsilon_spent"] <= data["budget"]["limit"] == 50
    assert card["federation"] == made.coordinator.federation


def test_nothing_of_a_source_or_folder_is_told(made):
    for text in (json.dumps(_card(made)), inventory_page(_card(made), "0")):
        assert "table.csv" not in text and str(made.folder.path) not in text


def test_a_submitter_comes_from_the_log_and_a_run_without_a_charge_is_shown(made):
    lines = [
        {"kind": "admitted", "run": "run-a", "dataset": DATASET, "submitter": "ana"},
        {"kind": "admitted", "run": "run-b", "dataset": DATASET, "submitter": EVIL},
        {"kind": "admitted", "run": 7, "dataset": DATASET, "submitter": "ana"},
        {"kind": "released", "run": "run-c", "dataset": DATASET, "submitter": "ana"},
        ["admitted"],
    ]
    junk = [b"\xff\xfe\n", b"{\n", b"[" * 50_000 + b"\n", b"\n"]
    log = made.folder.path / "audit.jsonl"
    log.write_bytes(b"".join(junk) + "".join(json.dumps(line) + "\n" for line in lines).encode())
    log.chmod(0o600)
    data = _card(made)["datasets"][DATASET]
    assert data["released"][0]["submitter"] == "ana"
    assert data["uncharged"] == [{"run": "run-b", "submitter": EVIL}]


def test_who_submitted_comes_from_the_logs_of_folders_before_too(made):
    record(made.folder, "admitted", run="run-a", job="0" * 64, dataset=DATASET, submitter="anna")
    made.folder.audit.rename(made.folder.path / "audit.before-1.jsonl")
    (run,) = _card(made)["datasets"][DATASET]["released"]
    assert run["submitter"] == "anna"


def test_a_ledger_that_was_lost_is_not_shown_as_one_still_to_be_made(made):
    record(made.folder, "reserved", run="run-a", purpose="train", round=1, dataset=DATASET, epsilon_spent=1.5,
           delta=1e-5, again=False)  # fmt: skip
    made.folder.ledger(DATASET).unlink()
    assert "FK332" in _card(made)["datasets"][DATASET]["budget"]["problem"]


def test_a_run_without_privacy_is_in_no_ledger_and_the_card_says_so(bench):
    found = bench(data={"allow_unprotected": True})
    signed = found.coordinator.job("open", experiment(*UNPROTECTED))
    assert not isinstance(found.keeper.answer("train", found.coordinator.request(signed, "train", 1, model(5))), str)
    card = _card(found)
    assert card["datasets"][DATASET]["released"] == [] and card["datasets"][DATASET]["allow_unprotected"]
    assert "A run without privacy leaves no entry in a ledger" in inventory_page(card, "0")


def test_a_ledger_that_cannot_be_used_is_told_by_its_code_and_one_no_longer_offered_is_shown(made):
    ledger = made.folder.ledger(DATASET)
    other = made.folder.ledger("older")
    other.write_bytes(b"nothing")
    other.chmod(0o600)
    ledger.write_bytes(b"no database")
    card = _card(made)
    for told in (card["datasets"][DATASET], card["no_longer_offered"]["older"]):
        assert "cannot be used (FK3" in told["budget"]["problem"] and told["released"] == []
        assert str(made.folder.path) not in json.dumps(told)
    assert "Not offered any more" in inventory_page(card, "0")


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.attributes = set(), "", set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_the_page_loads_nothing_and_escapes_everything(made):
    html = inventory_page(_card(made), "0")
    page = _Tags()
    page.feed(html)
    assert not {"script", "iframe", "object", "embed", "link", "img", "form", "base"} & page.tags
    assert not {"src", "href", "onclick", "onerror"} & page.attributes
    assert "http://" not in html and "https://" not in html
    assert EVIL in page.text and "undeclared" in page.text
    assert inventory_page(_card(made) | {"at": "x"}, "0") == inventory_page(_card(made) | {"at": "x"}, "0")


def test_the_command_writes_private_files_and_replaces_its_own(made, tmp_path, capsys):
    out = tmp_path / "new" / "inventory"
    for _ in range(2):
        main(["inventory", str(made.folder.site_yaml), "--out", str(out), "--json"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["files"] == [str(out / "inventory.json"), str(out / "inventory.html")]
    assert json.loads((out / "inventory.json").read_text())["datasets"] == told["datasets"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o600}
    main(["inventory", str(made.folder.site_yaml)])
    text = capsys.readouterr().out
    assert "2 train released, submitted by (not recorded)" in text and "sensitivity undeclared: rate" in text


def test_a_place_that_cannot_be_written_is_refused(made, tmp_path):
    from fedkit.errors import DeploymentError

    (tmp_path / "file").touch()
    with pytest.raises(DeploymentError, match="FK700"):
        main(["inventory", str(made.folder.site_yaml), "--out", str(tmp_path / "file" / "inner")])
