"""Every site pays from its own ledger: all of them can before any trains, or nothing happens at all."""

import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedkit.config.compose import compose
from fedkit.errors import PrivacyError
from fedkit.federation.site import SiteRuntime
from fedkit.models.flat import pack
from fedkit.privacy.events import events_of
from fedkit.privacy.ledger.forecast import least_limit
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.rdp_filter import rounded
from fedkit.simulation.ledgers import forecasts, gates, refuse_uncharged
from fedkit.simulation.prepare import prepare
from fedkit.storage.atomic import write_json
from fedkit.training.local import train
from fedkit.types import RoundPlan

SITES = ("cleveland", "hungary", "switzerland", "va")
WORDS = ["privacy.noise=secure", "federation.num_rounds=3", "training.local_steps=4", "training.local_epochs=null"]
FIXED = ["privacy.evaluation.noise_multiplier=20", "privacy.evaluation.share=null"]
NOISE = ["privacy.epsilon=null", "privacy.noise_multiplier=4"]


@pytest.fixture(scope="module")
def at_noise():
    return prepare(compose("heart_disease", [*WORDS, *NOISE, *FIXED, "ledgers_dir=ledgers"]))


@pytest.fixture(scope="module")
def at_epsilon():
    return prepare(compose("heart_disease", [*WORDS, "privacy.epsilon=2", "ledgers_dir=ledgers"]))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ledgers").mkdir()
    return tmp_path / "ledgers"


def budget(folder, *sites, limit=3.0, dataset="heart_disease", unit="record", delta=1e-5):
    for site in sites or SITES:
        with Ledger.create(folder / f"{site}.sqlite") as ledger:
            ledger.create_budget(dataset, unit=unit, limit=limit, delta=delta)


def refused(code, prepared, **named):
    """The error's text; nothing is held afterwards anywhere."""
    with pytest.raises(PrivacyError) as caught, gates(prepared, **named):
        pytest.fail("the run was admitted")
    assert caught.value.code == code, caught.value
    for site in SITES:
        if not code.startswith("FK33") and Path(f"ledgers/{site}.sqlite").is_file():
            assert all(values == (0, 0) for values in spent_and_held(site).values())
    return str(caught.value)


def spent_and_held(site):
    with Ledger(Path("ledgers") / f"{site}.sqlite") as ledger:
        return {name: (account.spent, account.held()) for name, account in ledger.book().accounts.items()}


def runs(site):
    with Ledger(Path("ledgers") / f"{site}.sqlite") as ledger:
        return ledger.account("heart_disease").runs


def cost(prepared, site):
    with Ledger(Path("ledgers") / f"{site}.sqlite") as ledger:
        charges = [rounded(event) for event in events_of(prepared.local.sites[site].privacy)]
        return ledger.account("heart_disease").cost(charges)


def updates(prepared, opened, number, parameters):
    """One round of real training behind the gates."""
    found = {}
    for site in prepared.dataset.sites:
        gate = opened[site.name]

        def compute(state, site=site, gate=gate):
            plan = RoundPlan(0, number, parameters, 0.0, {site.name: prepared.local.sites[site.name]})
            (update,), after = train(prepared.model, prepared.dataset.task, [site], plan, {site.name: state})
            return update, after[site.name]

        found[site.name] = gate.update(number, parameters, 0.0, compute)
    return found


def measure(prepared, opened, number, parameters):
    sites = {site.name: site for site in prepared.dataset.sites}
    local = prepared.local
    runtime = SiteRuntime(
        prepared.model, prepared.dataset.task, 0, sites, local.sites, frozenset(local.tested), local.specs
    )
    for site in sites:
        opened[site].measurement(
            number,
            parameters,
            lambda site=site: {"histograms": runtime.histograms(site, parameters, number)},
        )


# A run


def test_a_run_spends_what_its_plans_say_at_every_site_and_frees_the_rest(at_noise, folder):
    budget(folder)
    parameters = pack(at_noise.model)
    with gates(at_noise, "r1") as opened:
        assert tuple(opened) == SITES
        for site in SITES:
            assert spent_and_held(site) == {"heart_disease": (0, cost(at_noise, site))}
        for number in (1, 2, 3):
            got = updates(at_noise, opened, number, parameters)
            again = updates(at_noise, opened, number, parameters)
            for site in SITES:
                assert got[site].delta.tobytes() == again[site].delta.tobytes()
                assert got[site].weight == at_noise.local.sites[site].weight
            parameters = parameters + np.mean([update.delta for update in got.values()], axis=0, dtype=np.float32)
        measure(at_noise, opened, 3, parameters)
    for site in SITES:
        assert spent_and_held(site) == {"heart_disease": (cost(at_noise, site), 0)}
        run = runs(site)["r1"]
        assert (run.state, run.study, run.pruned) == ("ended", "heart_disease", True)


def test_a_run_that_stops_early_frees_what_it_did_not_reserve(at_noise, folder):
    budget(folder)

    def interrupted():
        with gates(at_noise) as opened:
            updates(at_noise, opened, 1, pack(at_noise.model))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    for site in SITES:
        ((spent, held),) = spent_and_held(site).values()
        ((_, run),) = runs(site).items()
        assert held == 0 and 0 < spent < cost(at_noise, site)
        assert run.state == "stopped"


def test_every_run_has_a_name_of_its_own_and_pays_anew(at_noise, folder):
    budget(folder, limit=8.0)
    for _ in range(2):
        with gates(at_noise) as opened:
            updates(at_noise, opened, 1, pack(at_noise.model))
    assert len(runs("va")) == 2
    assert "FK345" in refused_name(at_noise, next(iter(runs("va"))))


def refused_name(prepared, run):
    with pytest.raises(PrivacyError) as caught, gates(prepared, run):
        pass
    return str(caught.value)


def test_a_refused_name_leaves_the_run_that_has_it_alone(at_noise, at_epsilon, folder):
    budget(folder, limit=8.0)
    with gates(at_noise, "r1"):
        assert "FK346" in refused_name(at_epsilon, "r1")
        assert {runs(site)["r1"].state for site in SITES} == {"held"}


def test_without_ledgers_there_are_no_gates(at_noise):
    with gates(replace(at_noise, config=replace(at_noise.config, ledgers_dir=None))) as opened:
        assert opened == {}


KILLED = """
import os, sys
from fedkit.config.compose import compose
from fedkit.simulation.ledgers import gates
from fedkit.simulation.prepare import prepare
prepared = prepare(compose("heart_disease", sys.argv[1:]))
with gates(prepared, "r1") as opened:
    opened["va"].answer("train", 1, "d", __import__("fedkit.privacy.events").privacy.events.round_events(
        opened["va"].plan, "train"), lambda: (b"reply", b""))
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_killed_process_has_spent_its_round_and_its_holds_expire_within_a_day(at_noise, folder):
    budget(folder)
    words = [sys.executable, "-c", KILLED, *WORDS, *NOISE, *FIXED, "ledgers_dir=ledgers"]
    assert subprocess.run(words, capture_output=True).returncode == -9
    for site in SITES:
        with Ledger(folder / f"{site}.sqlite") as ledger:
            account = ledger.account("heart_disease")
            assert account.spent + account.held() == cost(at_noise, site)
            assert (account.spent > 0) == (site == "va")
            later = ledger.now_ms() + 86_400_000
            assert account.held(later) == 0 and account.held(later - 3_600_000) > 0


# Who cannot pay


def test_one_site_that_cannot_pay_stops_all_and_frees_every_hold(at_noise, folder):
    budget(folder, "cleveland", "hungary", "va", limit=8.0)
    limit = least_limit(of_rounds(20).local.sites["switzerland"].privacy) - 0.1
    budget(folder, "switzerland", limit=limit)
    text = refused("FK339", of_rounds(20))
    assert text.startswith("FK339: switzerland: the run would take ")
    assert f"epsilon {limit:g} at delta 1e-05" in text and "100 % is left" in text
    fit = int(text.split("federation.num_rounds=")[1].split(",")[0])
    assert f"{fit} of 20 rounds fit" in text and 1 <= fit < 20
    # The remedy is one, and the largest.
    with gates(of_rounds(fit)):
        pass
    refused("FK339", of_rounds(fit + 1))


def of_rounds(rounds):
    return prepare(
        compose("heart_disease", [*WORDS, *NOISE, *FIXED, "ledgers_dir=ledgers", f"federation.num_rounds={rounds}"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("evaluation", [[], ["privacy.evaluation.every=1"], FIXED])
def test_a_calibrated_run_is_told_the_epsilon_that_fits(folder, evaluation):
    def words(*more):
        return prepare(compose("heart_disease", [*WORDS, "federation.num_rounds=20", *more, *evaluation]))

    budget(folder, limit=1.9)
    text = refused("FK339", words("privacy.epsilon=2", "ledgers_dir=ledgers"))
    for site in SITES:
        assert f"{site}: FK339" in text
    epsilon = float(text.split("privacy.epsilon=")[1].split(",")[0])
    assert 1.0 < epsilon < 1.9
    beyond = round(epsilon + (0.01 if evaluation is FIXED else 0.06), 2)
    for asked, fit in ((epsilon, True), (beyond, False)):
        found, error = forecasts(words(f"privacy.epsilon={asked}", "ledgers_dir=ledgers"))
        assert (error is None) == fit
        assert {each["affordable"] for each in found.values()} == {fit}
    kept = text.split("keep this noise and set ")[1].rstrip(".").split(" ")
    assert kept[1] == "privacy.epsilon=null" and len(kept) == (3 if evaluation is FIXED else 5)
    mended = words(*kept, "ledgers_dir=ledgers")
    # Fewer rounds cost less, and every noise is as it was: also the evaluation's.
    for site in SITES:
        before, after = words("privacy.epsilon=2").local.sites[site].privacy, mended.local.sites[site].privacy
        assert after.noise_multiplier == before.noise_multiplier
        assert after.evaluation.noise_multiplier == before.evaluation.noise_multiplier
        assert after.rounds < before.rounds and after.epsilon < before.epsilon
    with gates(mended):
        pass


def test_where_nothing_is_left_nothing_is_promised(at_epsilon, folder):
    budget(folder, limit=0.2, delta=1e-5)
    assert "never comes back" in refused("FK339", replace_rounds(at_epsilon, 100_000))


def replace_rounds(prepared, rounds):
    sites = {
        name: replace(local, privacy=replace(local.privacy, rounds=rounds, noise_multiplier=0.2))
        for name, local in prepared.local.sites.items()
    }
    config = replace(prepared.config, privacy=replace(prepared.config.privacy, noise_multiplier=0.2, epsilon=None))
    return replace(prepared, config=config, local=replace(prepared.local, sites=sites))


# Whose ledger cannot be used


def test_every_site_s_problem_is_told_at_once_with_the_command_that_mends_it(at_noise, folder):
    budget(folder, "cleveland", dataset="another", limit=5.0)
    budget(folder, "hungary", unit="patient")
    budget(folder, "switzerland", delta=1e-6)
    text = refused("FK300", at_noise)
    for words in (
        "cleveland: FK340: the ledger has no budget for the data set heart_disease",
        "hungary: FK341: the job protects one record (add_remove); the budget of heart_disease is for one patient",
        "switzerland: FK353: the plan is made at delta 1e-05",
        "va: FK330: there is no ledger at ledgers/va.sqlite",
    ):
        assert words in text
    lines = [line for line in text.splitlines() if "fedkit ledger create" in line]
    assert len(lines) == 2
    words = lines[1].split("`")[1].split()
    assert words[:4] == ["fedkit", "ledger", "create", "ledgers/va.sqlite"]
    assert words[4::2] == ["--dataset", "--unit", "--epsilon", "--delta"]
    assert (words[5], words[7], float(words[11])) == ("heart_disease", "record", 1e-5)
    # The epsilon in the command is the least that pays the run.
    least = float(words[9])
    for file in folder.iterdir():
        file.unlink()
    budget(folder, limit=least)
    with gates(at_noise):
        pass
    for file in folder.iterdir():
        file.unlink()
    budget(folder, limit=round(least - 0.1, 1))
    refused("FK339", at_noise)


def test_one_kind_of_problem_keeps_its_code(at_noise):
    text = refused("FK330", at_noise)
    assert all(f"{site}: FK330" in text for site in SITES)
    assert "Nothing was spent or trained" in text


def alter(path, statement):
    sql = sqlite3.connect(path)
    sql.execute("DROP TRIGGER chain_is_kept")
    sql.execute("DROP TRIGGER chain_is_fixed")
    sql.execute(statement)
    sql.commit()
    sql.close()


@pytest.mark.parametrize(
    ("code", "statement"),
    [
        ("FK331", "UPDATE chain SET body = replace(body, '3.0', '9.0')"),
        ("FK332", "DELETE FROM chain WHERE seq = 2"),
        ("FK330", "PRAGMA user_version = 9"),
    ],
)
def test_a_tampered_ledger_stops_the_run_before_any_hold(at_noise, folder, code, statement):
    budget(folder)
    alter(folder / "hungary.sqlite", statement)
    assert refused(code, at_noise).startswith(f"{code}: hungary: ")
    for site in ("cleveland", "switzerland", "va"):
        assert spent_and_held(site) == {"heart_disease": (0, 0)} and not runs(site)


def test_a_ledger_older_than_its_exported_head_stops_the_run(at_noise, folder, tmp_path):
    budget(folder, limit=8.0)
    shutil.copy(folder / "va.sqlite", tmp_path / "backup")
    with gates(at_noise) as opened:
        updates(at_noise, opened, 1, pack(at_noise.model))
    with Ledger(folder / "va.sqlite") as ledger:
        write_json(folder / "va.head.json", ledger.export().to_dict())
    with gates(at_noise):
        pass
    shutil.copy(tmp_path / "backup", folder / "va.sqlite")
    before = {site: spent_and_held(site) for site in SITES}
    assert refused("FK334", at_noise).startswith("FK334: va: ")
    assert {site: spent_and_held(site) for site in SITES} == before
    (folder / "va.head.json").write_text("{}")
    assert "FK350" in refused_name(at_noise, None)


def test_a_ledger_in_use_stops_the_run_and_frees_the_holds_before_it(at_noise, folder, monkeypatch):
    from fedkit.simulation import ledgers

    budget(folder)
    monkeypatch.setattr(ledgers, "Ledger", lambda path, **named: Ledger(path, busy_seconds=0.01, **named))
    with Ledger(folder / "va.sqlite") as other, other.file.writing():
        assert refused("FK338", at_noise).startswith("FK338: va: ")
    for site in SITES:
        assert spent_and_held(site) == {"heart_disease": (0, 0)}
        assert {run.state for run in runs(site).values()} <= {"stopped"}


def test_a_full_disk_stops_the_run_and_frees_the_holds_before_it(at_noise, folder, monkeypatch, caplog):
    from fedkit.simulation import ledgers

    def small(path, **named):
        ledger = Ledger(path, **named)
        if path.name == "va.sqlite":
            pages = ledger.file._sql.execute("PRAGMA page_count").fetchone()[0]
            ledger.file._sql.execute(f"PRAGMA max_page_count = {pages}")
        return ledger

    budget(folder)
    monkeypatch.setattr(ledgers, "Ledger", small)
    text = next(text for attempt in range(40) if (text := admitted(at_noise, f"r{attempt}")))
    assert text.startswith("FK337: va: ")
    for site in ("cleveland", "hungary", "switzerland"):
        assert spent_and_held(site) == {"heart_disease": (0, 0)}
    # The release of an earlier run may have been what did not fit: such a hold expires, and nothing was spent.
    with Ledger(folder / "va.sqlite") as ledger:
        account = ledger.account("heart_disease")
        assert (account.spent, account.held(ledger.now_ms() + 86_400_000)) == (0, 0)
    if account.held():
        assert "free after a day only" in caplog.text


def admitted(prepared, run):
    """Why a run was not admitted; nothing where it was."""
    try:
        with gates(prepared, run):
            return ""
    except PrivacyError as error:
        return str(error)


READ_ONLY = """
import os, sys
# While this user may still read it.
import absl.logging, dp_accounting.rdp.rdp_privacy_accountant
from fedkit.config.compose import compose
from fedkit.errors import PrivacyError
from fedkit.simulation.ledgers import forecasts, gates
from fedkit.simulation.prepare import prepare
prepared = prepare(compose("heart_disease", sys.argv[1:]))
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with gates(prepared):
        print("admitted")
except PrivacyError as error:
    print(error.code, str(error).split(":")[1])
print(forecasts(prepared)[0]["va"]["rounds_affordable"] > 0)
"""


@pytest.mark.slow
def test_a_read_only_ledger_stops_the_run_and_can_still_be_planned_with(at_noise):
    import tempfile

    # Away from the test's own folder, which another user may not enter.
    with tempfile.TemporaryDirectory() as away:
        os.chmod(away, 0o755)
        there = Path(away) / "ledgers"
        there.mkdir()
        budget(there)
        for site in SITES:
            os.chmod(there / f"{site}.sqlite", 0o666 if site != "va" else 0o444)
        for path in (there, *there.iterdir()):
            if path.name != "va.sqlite":
                os.chmod(path, 0o777)
        words = [sys.executable, "-c", READ_ONLY, *WORDS, *NOISE, *FIXED, f"ledgers_dir={there}"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.stdout.split() == ["FK336", "va", "True"], done.stderr
        with Ledger(there / "hungary.sqlite") as ledger:
            assert (ledger.account("heart_disease").spent, ledger.account("heart_disease").held()) == (0, 0)


# Whose names and files cannot be a ledger's


@pytest.mark.parametrize("name", ["../va", "a/b", ".hidden", "", "a\\b", "line\nbreak"])
def test_a_site_s_name_never_leaves_the_folder(at_noise, name):
    sites = {name: at_noise.local.sites["va"]}
    text = refused("FK373", replace(at_noise, local=replace(at_noise.local, sites=sites)))
    assert "site name" in text


def test_two_sites_never_share_a_ledger(at_noise, folder):
    budget(folder, "cleveland", "hungary", "switzerland")
    os.link(folder / "hungary.sqlite", folder / "va.sqlite")
    with pytest.raises(PrivacyError, match="is the ledger of hungary too") as caught, gates(at_noise):
        pytest.fail("the run was admitted")
    assert caught.value.code == "FK355"
    (folder / "va.sqlite").unlink()
    (folder / "va.sqlite").symlink_to(folder / "hungary.sqlite")
    refused("FK355", at_noise)


def test_more_ledgers_than_a_process_may_open_are_allowed_for_or_refused_in_words(at_noise, monkeypatch):
    import resource

    limits = [(1024, 1400)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    va = at_noise.local.sites["va"]

    def of(count):
        sites = {f"s{number}": va for number in range(count)}
        return replace(at_noise, local=replace(at_noise.local, sites=sites))

    refused("FK330", of(300))
    assert limits[1:] == [(3 * 300 + 256, 1400)]
    assert "3256 open files, and this process may have 1400" in refused("FK358", of(1000))


def test_seeded_noise_opens_no_ledger(at_noise, folder):
    budget(folder)
    sites = {
        name: replace(local, privacy=replace(local.privacy, noise="seeded"))
        for name, local in at_noise.local.sites.items()
    }
    refused("FK342", replace(at_noise, local=replace(at_noise.local, sites=sites)))
    assert not any(runs(site) for site in SITES)


def test_what_no_ledger_would_be_charged_for_is_refused(at_noise):
    config = at_noise.config
    refuse_uncharged(config)
    refuse_uncharged(replace(config, ledgers_dir=None), baselines=True)
    for federation, baselines, word in ((config.federation, True, "baselines"), (flower(config), False, "processes")):
        with pytest.raises(PrivacyError, match=word) as caught:
            refuse_uncharged(replace(config, federation=federation), baselines=baselines)
        assert caught.value.code == "FK356"


def flower(config):
    return replace(config.federation, kind="flower")


# Forecasts


def test_a_forecast_is_what_the_run_then_takes_and_holds_nothing(at_noise, folder):
    budget(folder)
    found, error = forecasts(at_noise)
    assert error is None and tuple(found) == SITES
    assert all(spent_and_held(site) == {"heart_disease": (0, 0)} for site in SITES)
    with gates(at_noise):
        for site in SITES:
            with Ledger(folder / f"{site}.sqlite") as ledger:
                account = ledger.account("heart_disease")
                assert account.held() / account.capacity == found[site]["takes"]
                assert account.left() / account.capacity == found[site]["left_after"]
    again, _ = forecasts(at_noise, pld=False)
    assert again == found


def test_a_forecast_says_what_the_filter_and_the_pld_come_to_and_which_binds(at_epsilon, folder):
    budget(folder, limit=8.0)
    plan = at_epsilon.local.sites["va"].privacy
    said = []

    class Computing:
        def __init__(self, sentence):
            said.append(sentence)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    first, _ = forecasts(at_epsilon, pld=False)
    assert first["va"]["epsilon_pld_after"] is None
    found, _ = forecasts(at_epsilon, computing=Computing)
    assert len(said) == 4 and said[-1].startswith("va: computing the PLD figure of heart_disease")
    va = found["va"]
    assert plan.epsilon <= va["epsilon_pld_after"] + 1e-9 <= plan.epsilon + 0.001
    assert va["epsilon_filter"] == va["epsilon_filter_after"] > va["epsilon_pld_after"]
    assert va["binds"] == "filter" and va["order"] == 3.9
    with gates(at_epsilon) as opened:
        updates(at_epsilon, opened, 1, pack(at_epsilon.model))
    later, _ = forecasts(at_epsilon)
    assert later["va"]["spent"] > 0
    assert later["va"]["epsilon_filter"] == va["epsilon_filter"] < later["va"]["epsilon_filter_after"]
    assert later["va"]["epsilon_pld_after"] > va["epsilon_pld_after"]
    assert later["va"]["rounds_affordable"] == va["rounds_affordable"] - 1
