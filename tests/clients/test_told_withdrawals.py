"""A file of withdrawals that was lost, or put back from a backup, is noticed by the site's own log."""

import shutil

import pytest
from fedkit_client.audit import record
from fedkit_client.doctor import _withdrawals
from fedkit_client.pseudonyms import unit_pseudonym
from fedkit_client.recalled import require_withdrawals
from fedkit_client.start import open_site

from fedkit.errors import FederationError
from fedkit.governance.site_file import read_site_file
from tests.clients.coordinator import DATASET
from tests.clients.test_consents import command, consenting, purposed  # noqa: F401


@pytest.fixture
def site(consenting):  # noqa: F811
    return consenting()


def check(site):
    return require_withdrawals(read_site_file(site.folder.site_yaml), site.folder)


@pytest.mark.slow
def test_what_was_withdrawn_and_taken_back_by_the_command_agrees_with_the_log(site):
    assert check(site) == 0
    command(site, "withdraw", stdin="p1\np2\n")
    command(site, "withdraw", "--revoke", stdin="p2\n")
    command(site, "withdraw", stdin="p1\n")
    assert check(site) == 1


@pytest.mark.deploy
@pytest.mark.parametrize("how", ["lost", "put back"])
def test_withdrawals_that_the_log_tells_of_and_the_file_lacks_are_refused(site, tmp_path, how):
    command(site, "withdraw", stdin="p1\n")
    shutil.copy(site.folder.withdrawals, tmp_path / "backup")
    command(site, "withdraw", stdin="p2\n")
    if how == "lost":
        site.folder.withdrawals.unlink()
    else:
        shutil.copy(tmp_path / "backup", site.folder.withdrawals)
    missing = 2 if how == "lost" else 1
    with pytest.raises(FederationError, match=f"FK593.*tells of {missing} that it does not have"):
        check(site)
    # Given once more, they count again.
    command(site, "withdraw", stdin="p1\np2\n")
    assert check(site) == 2


def test_a_withdrawal_that_was_cut_off_behind_its_line_is_not_forgotten(site):
    """kill -9 between the log and the file: nobody was told that it counts, and the next start says so."""
    record(site.folder, "withdrawn", dataset=DATASET, unit=unit_pseudonym(site.folder, DATASET, "p1"))
    with pytest.raises(FederationError, match=r"FK593.*withdraw those ids again"):
        check(site)


def test_another_key_than_the_one_of_the_log_answers_nothing(site):
    command(site, "withdraw", stdin="p1\n")
    site.folder.pseudonym_key.unlink()
    with pytest.raises(FederationError, match="FK593"):
        check(site)
    unit_pseudonym(site.folder, DATASET, "p1")
    with pytest.raises(FederationError, match=r"FK593.*tells of 1 that it does not have"):
        check(site)


def test_no_identity_is_in_the_refusal(site):
    command(site, "withdraw", stdin="p17\n")
    site.folder.withdrawals.unlink()
    with pytest.raises(FederationError) as refused:
        check(site)
    assert "p17" not in str(refused.value)


def test_the_doctor_finds_lost_withdrawals(site):
    command(site, "withdraw", stdin="p1\n")
    assert "1 stand" in _withdrawals(open_site(site.folder.site_yaml))
    site.folder.withdrawals.unlink()
    with pytest.raises(FederationError, match="FK593"):
        _withdrawals(open_site(site.folder.site_yaml))
