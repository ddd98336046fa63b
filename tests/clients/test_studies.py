"""A site takes runs of a study under the text that it signed, from its signature on and until it leaves."""

import json
import time

import pytest
import typer
from fedkit_client.approvals import Approvals
from fedkit_client.cli import main
from fedkit_client.standing import standing_of
from fedkit_client.studies import studies_of

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation import statements
from fedkit.federation.study import make_study, read_study
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.rdp_filter import Charge
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import create_signing_key, load_signing_key, new_signing_key
from tests.clients import coordinator
from tests.clients.coordinator import DATASET, RECORDS, SETTINGS, SITE, experiment, model
from tests.governance.cases import STUDY
from tests.governance.conftest import agreed

SIZE = 5
TERMS = {"unit": "record", "max_epsilon": 30.0, "delta": 1e-4, "models": ["logistic"], "strategies": ["fedavg"],
         "max_rounds": 5}  # fmt: skip


def terms(made, **changes):
    key = load_signing_key(made.folder.signing_key).fingerprint
    data = {changes.pop("name", DATASET): {**TERMS, **changes.pop("data", {})}}
    more = {"study": "heart", "purpose": "testing", "begin": "2020-01-01", "end": "2099-12-31", "parties": {SITE: key}}
    return agreed(STUDY, **{**more, "data": data, **changes})


def written(made, path, key=None, **changes):
    """The file that an admin hands over."""
    at = made.coordinator
    study = make_study(terms(made, **changes), at.federation, "ana", key or at.root, time.time())
    path.write_text(f"{study.text}\n")
    return study


def call(made, *words):
    main([*words[:2], str(made.folder.site_yaml), *map(str, words[2:]), "--json"])


@pytest.fixture
def joined(bench, tmp_path):
    made = bench()
    made.file, made.jobs = tmp_path / "heart.json", {}
    return made


def sign(made, **changes):
    study = written(made, made.file, **changes)
    call(made, "study", "sign", made.file, "--digest", study.digest)
    return study


def train(made, number=1, run="run-1", agreement="", study="heart", overrides=()):
    # One job a run: made anew, it would have another time and so another digest.
    job = made.jobs.setdefault(run, made.coordinator.job(run, experiment(*overrides), study=study, agreement=agreement))
    return made.keeper.answer("train", made.coordinator.request(job, "train", number, model(SIZE)))


def logged(made):
    kinds = ("study_signed", "study_left")
    return [(line.kind, line.fields["study"]) for line in readable_lines(made.folder.audit, kinds)]


@pytest.fixture
def unread(monkeypatch):
    """Whatever opens the table fails the test."""
    monkeypatch.setattr("fedkit_client.consents.Reading.__call__", lambda *_: pytest.fail("a record was read"),
                        raising=False)  # fmt: skip
    monkeypatch.setattr("fedkit.data.load.load_site_dataset", lambda *_, **__: pytest.fail("a record was read"))


def test_a_run_of_a_signed_study_is_answered_and_one_of_no_study_beside_it(joined, capsys):
    study = sign(joined)
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == study.digest and told["named_by"] == {DATASET: True}
    assert not isinstance(train(joined, agreement=study.digest), str) and joined.charged() > 0
    assert not isinstance(train(joined, run="run-2", study="none"), str)
    assert read_study(joined.file, joined.coordinator.federation).has_signed(SITE)
    assert logged(joined) == [("study_signed", "heart")]


def test_without_a_signature_no_run_of_it_is_taken(joined, unread):
    study = written(joined, joined.file)
    before = joined.entries()
    for run, named in (("a", study.digest), ("b", ""), ("c", "0" * 64)):
        assert train(joined, run=run, agreement=named) == "FK579"
    assert joined.entries() == before


def test_another_text_than_the_signed_one_is_refused(joined, unread):
    study = sign(joined)
    later = written(joined, joined.file, version=2, data={"max_rounds": 99})
    assert train(joined, run="later", agreement=later.digest) == "FK579" and later.digest != study.digest
    call(joined, "study", "sign", joined.file, "--digest", later.digest)
    assert train(joined, run="earlier", agreement=study.digest) == "FK579"


TERM_CASES = {
    "purpose": {"purpose": "other"}, "begin": {"begin": "2099-01-01"}, "end": {"end": "2020-01-02"},
    "data set": {"name": "other"}, "models": {"data": {"models": ["mlp"]}},
    "strategies": {"data": {"strategies": ["fedprox"]}}, "unit": {"data": {"unit": "patient"}},
    "rounds": {"data": {"max_rounds": 4}}, "delta": {"data": {"delta": 1e-9}},
    "epsilon": {"data": {"max_epsilon": 0.5, "delta": 1e-4}},
    "epsilon of a run": {"data": {"max_epsilon_per_run": 0.5}},
}  # fmt: skip


@pytest.mark.parametrize("name", TERM_CASES)
def test_every_term_refuses_before_a_record_is_read_or_anything_is_charged(joined, unread, name):
    study = sign(joined, **TERM_CASES[name])
    before = joined.entries()
    assert train(joined, agreement=study.digest) == "FK579" and joined.entries() == before


def test_a_run_with_a_stranger_is_refused_and_one_of_parties_alone_is_not(joined):
    """Both are sites of the federation as far as the message goes; who is a party is the agreement's to say."""
    key = load_signing_key(joined.folder.signing_key).fingerprint
    study = sign(joined, parties={SITE: key, "south": "sha256:" + "1" * 64})
    for other, refused in (("east", True), ("south", False)):
        records = f"data.records={{{SITE}:{RECORDS},{other}:50}}"
        found = train(joined, run=other, agreement=study.digest, overrides=(records,))
        assert (found == "FK579") is refused and (not isinstance(found, str)) is not refused


def test_the_studys_budget_counts_its_runs_alone_and_under_every_version(joined):
    study = sign(joined, data={"max_epsilon": 6.0})
    answers, number = [], 0
    while len(answers) < 12 and "FK579" not in answers:
        number += 1
        found = train(joined, run=f"run-{number}", agreement=study.digest)
        answers.append(found if isinstance(found, str) else "answered")
    assert answers.count("answered") >= 1 and answers[-1] == "FK579", answers
    # A later version has the same budget, of which the same is spent; a run of no study has another.
    later = sign(joined, version=2, data={"max_epsilon": 6.0})
    before = joined.entries()
    assert train(joined, run="again", agreement=later.digest) == "FK579" and joined.entries() == before
    assert not isinstance(train(joined, run="other", study="none"), str)
    # A larger budget adds to what was spent.
    larger = sign(joined, version=3)
    assert not isinstance(train(joined, run="more", agreement=larger.digest), str)


def test_a_run_that_holds_its_budget_is_not_counted_twice(joined):
    study = sign(joined)
    train(joined, agreement=study.digest)
    at, folder = joined.coordinator, joined.folder
    own = standing_of(folder, at.federation, SITE, "heart", DATASET, "run-1", time.time())
    other = standing_of(folder, at.federation, SITE, "heart", DATASET, "run-2", time.time())
    assert own.spent == () and own.runs == 0 and other.spent and other.runs == 1
    # Once its hold has expired, it is what it has spent that counts.
    late = standing_of(folder, at.federation, SITE, "heart", DATASET, "run-2", time.time() + 10**7)
    assert sum(each.steps for each in late.spent) < sum(each.steps for each in other.spent)


def test_runs_of_other_studies_do_not_count(joined):
    with Ledger(joined.folder.ledger(DATASET)) as ledger:
        unit = ledger.account(DATASET).budget.unit
        job = Job(unit, ledger.account(DATASET).budget.adjacency, (Charge(10**9, 9_000_000, 1),))
        ledger.admit(DATASET, "else", "other", job, time.time() + 1000)
    sign(joined)
    found = standing_of(joined.folder, joined.coordinator.federation, SITE, "heart", DATASET, "r", time.time())
    assert found.spent == () and found.runs == 0 and found.agreement is not None


def test_a_ledger_that_cannot_be_read_refuses_by_the_budget(joined):
    study = sign(joined)
    joined.folder.ledger(DATASET).write_bytes(b"no ledger")
    found = standing_of(joined.folder, joined.coordinator.federation, SITE, "heart", DATASET, "r", time.time())
    assert found.spent is None and train(joined, agreement=study.digest) == "FK579"


# Leaving


def test_after_leaving_every_message_is_refused_also_of_a_run_that_has_begun(joined, tmp_path, unread, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr("fedkit_client.gatekeeper.apply", lambda file, size=0: None)
    study = sign(joined)
    assert not isinstance(train(joined, agreement=study.digest), str)
    call(joined, "study", "leave", "heart", "--out", tmp_path / "left.json")
    before = joined.entries()
    assert train(joined, 2, agreement=study.digest) == "FK579"
    assert train(joined, run="run-2", agreement=study.digest) == "FK579" and joined.entries() == before
    # The order to end it is taken: it releases nothing, and frees what the run holds.
    end = joined.coordinator.request(joined.jobs["run-1"], "end", 1, model(0))
    assert not isinstance(joined.keeper.answer("query", end), str)
    assert not read_study(tmp_path / "left.json", joined.coordinator.federation).has_signed(SITE)
    assert logged(joined) == [("study_signed", "heart"), ("study_left", "heart")]
    # The file from before does not bring it back by lying there; signing does.
    call(joined, "study", "sign", joined.file, "--digest", study.digest)
    assert not isinstance(train(joined, run="run-3", agreement=study.digest), str)


@pytest.mark.parametrize("trouble", ["unreadable", "no key", "another key"])
def test_nothing_keeps_a_site_from_leaving(joined, capsys, trouble, unread):
    study = sign(joined)
    path = joined.folder.studies / "heart.json"
    if trouble == "unreadable":
        path.write_text("{")
    else:
        joined.folder.signing_key.unlink()
    if trouble == "another key":
        create_signing_key(joined.folder.signing_key)
    capsys.readouterr()
    call(joined, "study", "leave", "heart")
    told = json.loads(capsys.readouterr().out)
    assert told["left"] and not told["signed"] and not path.exists()
    assert train(joined, agreement=study.digest) == "FK579"


def test_a_log_that_cannot_be_written_keeps_nobody_from_leaving_and_anybody_from_signing(joined, capsys):
    study = sign(joined)
    joined.folder.audit.unlink()
    joined.folder.audit.mkdir()
    capsys.readouterr()
    call(joined, "study", "leave", "heart")
    assert json.loads(capsys.readouterr().out)["logged"] is False
    assert train(joined, agreement=study.digest) == "FK579"
    with pytest.raises((DeploymentError, OSError)):
        call(joined, "study", "sign", joined.file, "--digest", study.digest)
    assert train(joined, agreement=study.digest) == "FK579"


# Signing


@pytest.mark.parametrize("digest", ["", "0" * 64, "abc", 11, 12, 32, 63])
def test_only_the_text_whose_digest_was_read_is_signed(joined, digest):
    study = written(joined, joined.file)
    # The first digits alone are those of another text too, for whoever writes both.
    given = study.digest[:digest] if isinstance(digest, int) else digest
    with pytest.raises(DeploymentError, match="digest"):
        call(joined, "study", "sign", joined.file, f"--digest={given}")
    assert not joined.folder.studies.exists()


def test_a_text_by_nobody_of_the_federation_is_not_signed(joined):
    at = joined.coordinator
    operator = new_signing_key()
    at.keyring = statements.add(at.keyring, "bo", "operator", operator.public, at.root, time.time())
    joined.folder.keyring_file.write_text("".join(f"{text}\n" for text in at.keyring.statements))
    for key in (new_signing_key(), operator, at.key):
        study = written(joined, joined.file, key)
        with pytest.raises(FederationError) as caught:
            call(joined, "study", "sign", joined.file, "--digest", study.digest)
        assert caught.value.code == "FK541"
        with pytest.raises(FederationError):
            call(joined, "study", "show", joined.file)


def test_an_older_text_or_another_of_the_same_version_is_not_signed(joined):
    sign(joined, version=2)
    for version in (1, 2):
        with pytest.raises(DeploymentError) as caught:
            sign(joined, version=version, retention_days=7)
        assert caught.value.code == "FK780"


def test_a_site_that_is_no_party_or_has_another_key_does_not_sign(joined):
    for parties, code in (({"south": "sha256:" + "1" * 64}, "FK542"), ({SITE: "sha256:" + "1" * 64}, "FK541")):
        with pytest.raises(FederationError) as caught:
            sign(joined, parties=parties)
        assert caught.value.code == code


# What lies in the folder


def _garbage(path):
    path.write_bytes(b"\x00" * 100)


def _others(path):
    path.chmod(0o644)


def _link(path):
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _folder(path):
    path.unlink()
    path.mkdir()


def _renamed(path):
    text = path.read_text()
    path.write_text(text.replace("heart", "hear2"))


def _cut(path):
    path.write_text(path.read_text()[:-10])


def _empty(path):
    path.write_text("")


def _gone(path):
    path.unlink()


@pytest.mark.parametrize("spoil", [_garbage, _others, _link, _folder, _renamed, _cut, _empty, _gone])
def test_whatever_cannot_be_read_denies(joined, spoil, unread, capsys):
    study = sign(joined)
    spoil(joined.folder.studies / "heart.json")
    before = joined.entries()
    assert train(joined, agreement=study.digest) == "FK579" and joined.entries() == before
    capsys.readouterr()
    call(joined, "study", "list")
    told = json.loads(capsys.readouterr().out)["studies"]
    assert all(each["standing"] == "unreadable" for each in told)


def test_an_agreement_under_another_studys_name_covers_neither(joined, unread):
    study = sign(joined)
    path = joined.folder.studies / "heart.json"
    path.rename(path.with_name("none.json"))
    assert train(joined, agreement=study.digest) == "FK579"
    path.with_name("none.json").rename(path.with_name("other.json"))
    assert train(joined, agreement=study.digest) == "FK579"
    found = standing_of(joined.folder, joined.coordinator.federation, SITE, "other", DATASET, "r", time.time())
    assert found.agreement is None


def test_names_that_are_paths_are_none(joined):
    for name in ("../heart", "a/b", "none", "", ".x", "a" * 101):
        with pytest.raises(DeploymentError) as caught:
            studies_of(joined.folder, SITE).read(name)
        assert caught.value.code == "FK780"


# What people see


def test_explain_shows_each_term_for_a_run_and_for_an_experiment(joined, capsys):
    study = sign(joined, data={"max_rounds": 4})
    train(joined, agreement=study.digest)
    capsys.readouterr()
    with pytest.raises(typer.Exit):
        main(["explain", str(joined.folder.site_yaml), "run-1", "--json"])
    told = json.loads(capsys.readouterr().out)["clauses"]
    verdicts = {each["key"]: each["verdict"] for each in told if each["code"] == "FK579"}
    assert verdicts.pop("study.max_rounds") == "refused"
    assert verdicts["study.signed"] == "admitted" and set(verdicts.values()) == {"admitted"}
    place = ("--config-dir", str(coordinator._DATA), "--json")
    for study, refused in (("heart", {"study.max_rounds"}), ("nothing", {"policy.studies", "study.signed"})):
        with pytest.raises(typer.Exit):
            main(["explain", str(joined.folder.site_yaml), "data=icu", *SETTINGS, "--study", study, *place])
        told = json.loads(capsys.readouterr().out)["clauses"]
        assert {each["key"] for each in told if each["verdict"] == "refused"} == refused


def test_a_site_sees_what_it_has_signed_and_what_it_would_sign(joined, capsys):
    study = written(joined, joined.file)
    main(["study", "show", str(joined.folder.site_yaml), str(joined.file)])
    text = capsys.readouterr().out
    assert (
        study.digest in text
        and "365 days after a run" in text
        and f"party {SITE}" in text
        and "dpo@example.org" in text
    )
    sign(joined)
    capsys.readouterr()
    call(joined, "study", "list")
    (told,) = json.loads(capsys.readouterr().out)["studies"]
    assert (told["study"], told["standing"], told["retention_days"]) == ("heart", "signed", 365)
    call(joined, "inventory")
    assert json.loads(capsys.readouterr().out)["studies"] == [told]


def test_what_was_asked_before_there_were_agreements_is_still_read(joined):
    """A file of approvals from then must not become one that approves nothing."""
    from dataclasses import asdict

    from fedkit_client.asked import asked_run, read_run

    run = asked_run(joined.coordinator.opened(joined.coordinator.job()), (), time.time())
    values = json.loads(json.dumps(asdict(run)))
    del values["agreement"]
    assert read_run(values) == run
    path = joined.folder.approvals_file
    path.write_text(json.dumps({"kind": "requested", **values}) + "\n")
    path.chmod(0o600)
    assert Approvals(path).standing(run.job, time.time()) == "requested, and not decided"


@pytest.mark.parametrize("how", ["signed", "unsigned", "over", "another key", "unreadable"])
def test_the_doctor_says_how_each_named_study_stands(joined, how):
    from fedkit_client.start import open_site
    from fedkit_client.study_check import study_findings

    if how != "unsigned":
        sign(joined, **({"end": "2020-01-02"} if how == "over" else {}))
    if how == "another key":
        joined.folder.signing_key.unlink()
        create_signing_key(joined.folder.signing_key)
    if how == "unreadable":
        (joined.folder.studies / "heart.json").write_text("{}")
    ((name, state, found, _),) = study_findings(open_site(joined.folder.site_yaml))
    expected = {"signed": "ok", "unsigned": "warn", "over": "warn", "another key": "fail", "unreadable": "fail"}
    assert (name, state) == ("heart", expected[how]) and found
