"""A simulation is refused by the clauses that refuse a message, before a record is read, and costs nothing without."""

import dataclasses
import os
import threading

import pytest
import yaml

from fedkit.config.compose import compose
from fedkit.errors import ConfigError, FederationError
from fedkit.simulation.rehearsal import rehearse
from fedkit.simulation.simulate import simulate
from tests.governance.cases import CASES, GOOD, JOB, STUDY, STUDY_CASES
from tests.governance.conftest import HEART

RECORDS = {"cleveland": 303, "hungary": 294, "switzerland": 123, "va": 200}


def write(folder, *, policy=(), heart=(), job=(), sites=tuple(RECORDS), only="cleveland", study=None):
    """A folder with a file a site; the changes are those of one of them."""
    folder.mkdir(exist_ok=True)
    for site in sites:
        changes, more = (dict(policy), dict(heart)) if site == only else ({}, dict(heart))
        # Whatever the source is: a rehearsal never opens it.
        data = {**HEART, "source": {"kind": "csv", "path": "/nowhere/at/all.csv"}, "records": RECORDS[site], **more,
                "policy": {**HEART["policy"], **changes}}  # fmt: skip
        (folder / f"{site}.yaml").write_text(yaml.safe_dump({"site": site, "data": {"heart_disease": data}}))
    said = {key: value for key, value in {**JOB, **dict(job)}.items() if value is not None}
    (folder / "job.yaml").write_text(yaml.safe_dump(said))
    if study:
        (folder / "study.yaml").write_text(yaml.safe_dump(study))
    return folder


def composed(folder, *overrides):
    return compose("heart_disease", [*overrides, f"federation.policies={folder}"])


@pytest.fixture
def unread(monkeypatch):
    """Whatever reads a table fails the test."""

    def read(*_args, **_kwargs):
        raise AssertionError("a record was read")

    monkeypatch.setattr("fedkit.simulation.prepare.load_dataset", read)


ALL = CASES | {f"agreement, {name}": case for name, case in STUDY_CASES.items()}


@pytest.mark.parametrize("name", ALL)
def test_a_clause_refuses_the_run_with_the_sites_name_code_value_and_bound(tmp_path, name, unread):
    case = ALL[name]
    folder = write(tmp_path / "policies", policy=case.policy, heart=case.heart, job=case.job, study=case.study)
    config = composed(folder, *case.overrides, f"runs_dir={tmp_path / 'runs'}")
    with pytest.raises(FederationError) as caught:
        simulate(config)
    assert caught.value.code == case.code
    assert [part for part in ("cleveland: ", case.code, *case.says) if part not in str(caught.value)] == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", GOOD)
def test_a_clause_that_holds_admits(tmp_path, name):
    folder = write(tmp_path / "policies", policy=GOOD[name])
    assert rehearse(composed(folder)) == tuple(RECORDS)


def test_a_run_that_every_site_admits_runs_as_it_does_without_a_rehearsal(tmp_path):
    short = ("federation.num_rounds=1", "training.local_steps=1", "data.split.test_fraction=0.34")
    folder = write(tmp_path / "policies")
    runs = [simulate(composed(place, *short, f"runs_dir={tmp_path / 'runs'}")) for place in (folder, "null")]
    assert runs[0].parameters.tobytes() == runs[1].parameters.tobytes()


def test_a_run_within_its_studys_agreement_is_admitted_by_every_party(tmp_path):
    folder = write(tmp_path / "policies", job={"study": "registry"}, study=STUDY)
    for site in RECORDS:
        write(folder, policy={"studies": ["registry"]}, job={"study": "registry"}, sites=(site,), only=site)
    assert rehearse(composed(folder)) == tuple(RECORDS)
    # The same agreement covers no run of another study, and is no part of one of none.
    write(folder, job={"study": "none"}, study={**STUDY, "end": "2026-01-02"})
    assert rehearse(composed(folder)) == tuple(RECORDS)


def test_a_study_without_its_agreement_or_with_a_broken_one_is_refused(tmp_path, unread):
    named = {"policy": {"studies": ["registry"]}, "job": {"study": "registry"}}
    folder = write(tmp_path / "policies", **named)
    with pytest.raises(FederationError, match=r"study\.signed.*no study\.yaml") as caught:
        simulate(composed(folder))
    assert caught.value.code == "FK579"
    for text in ("study: registry\n", "[1]", "a: [", ""):
        (folder / "study.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            simulate(composed(folder))
        assert caught.value.code == "FK122"
    (folder / "study.yaml").unlink()
    (folder / "study.yaml").symlink_to(folder / "nowhere.yaml")
    with pytest.raises(ConfigError):
        simulate(composed(folder))


def test_every_sites_refusal_is_told_under_its_name(tmp_path, unread):
    folder = write(tmp_path / "policies", policy={"max_rounds": 3})
    write(folder, policy={"purposes": ["registry"], "min_records": 500}, sites=("va",), only="va")
    with pytest.raises(FederationError) as caught:
        simulate(composed(folder))
    text = str(caught.value)
    assert "2 of 4 sites would refuse" in text and caught.value.code == "FK573"
    assert "cleveland: FK573" in text and "va: FK570" in text and "FK574" in text and "hungary:" not in text


def test_a_site_without_a_file_or_with_anothers_is_refused(tmp_path, unread):
    folder = write(tmp_path / "policies", sites=("cleveland", "hungary", "switzerland"))
    with pytest.raises(ConfigError, match=r"va has no va\.yaml"):
        simulate(composed(folder))
    (folder / "va.yaml").write_text((folder / "hungary.yaml").read_text())
    with pytest.raises(ConfigError, match=r"va\.yaml is the file of hungary"):
        simulate(composed(folder))


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("va.yaml", "site: va\n", "names no data set"), ("va.yaml", "a: [", "no valid YAML"),
        ("job.yaml", "studdy: x\n", "did you mean 'study'?"), ("job.yaml", "at: now\n", "with its offset"),
        ("job.yaml", "at: '2026-01-05T10:00:00'\n", "with its offset"), ("job.yaml", "key: abc\n", "sha256:"),
        ("job.yaml", "approved: [nowhere]\n", "nowhere"), ("job.yaml", "approved: all\n", "a list of names"),
        ("job.yaml", "[1]\n", "no keys and values"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_denies(tmp_path, unread, name, text, why):
    folder = write(tmp_path / "policies")
    (folder / name).write_text(text)
    with pytest.raises(ConfigError) as caught:
        simulate(composed(folder))
    assert why in str(caught.value)


def test_a_folder_that_is_not_there_denies(tmp_path, unread):
    with pytest.raises(ConfigError, match="is no folder"):
        simulate(composed(tmp_path / "absent"))


def test_without_declared_counts_nobody_can_say_yes(tmp_path, unread):
    with pytest.raises(ConfigError, match=r"data\.records is empty"):
        simulate(composed(write(tmp_path / "policies"), "data.records=null", "privacy=none"))


def test_what_no_job_can_carry_is_not_rehearsed(tmp_path, unread):
    import torch

    with pytest.raises(ConfigError, match="model given in Python"):
        simulate(composed(write(tmp_path / "policies")), model=lambda: torch.nn.Linear(13, 1))


def test_a_job_without_its_file_is_nobodys_and_of_no_study(tmp_path, unread):
    folder = write(tmp_path / "policies", policy={"submitters": ["ana"]})
    (folder / "job.yaml").unlink()
    with pytest.raises(FederationError, match="the submitter is nobody"):
        simulate(composed(folder))


def test_the_site_files_own_source_is_never_opened(tmp_path):
    """Opening the pipe would wait for its other end, which nobody ever opens."""
    pipe = tmp_path / "records"
    os.mkfifo(pipe)
    folder = write(tmp_path / "policies", heart={"source": {"kind": "csv", "path": str(pipe)}})
    done = []
    worker = threading.Thread(target=lambda: done.append(rehearse(composed(folder))), daemon=True)
    worker.start()
    worker.join(60)
    assert done == [tuple(RECORDS)]


def test_without_policies_nothing_is_asked(monkeypatch):
    monkeypatch.setattr("fedkit.simulation.rehearsal.admit", lambda *_: pytest.fail("a site was asked"))
    assert rehearse(compose("heart_disease")) == ()


def test_a_name_that_no_file_can_have_denies(tmp_path, unread):
    folder = write(tmp_path / "policies")
    config = composed(folder)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, records={"x" * 300: 200}))
    with pytest.raises(ConfigError, match="FK121"):
        rehearse(config)


def test_hundreds_of_files_that_name_one_declaration_compose_it_once(tmp_path, monkeypatch):
    from fedkit.governance import site_checks

    made, real = [], site_checks.compose
    monkeypatch.setattr(site_checks, "compose", lambda *args, **more: made.append(1) or real(*args, **more))
    site_checks._shipped.cache_clear()
    folder = write(tmp_path / "policies")
    rehearse(composed(folder))
    assert len(made) == 1
