"""A budget's past is told by the same entries as its balance."""

import pytest

from fedkit.privacy import rdp_filter
from fedkit.privacy.ledger.figures import summary
from fedkit.privacy.ledger.history import history
from fedkit.privacy.ledger.ledger import Ledger
from tests.privacy.test_ledger import ROUND, Clock, admit, message


def test_each_charge_is_a_moment_and_the_last_one_is_the_balance(tmp_path):
    clock = Clock()
    with Ledger.create(tmp_path / "ledger.db", clock=clock) as ledger:
        for name in ("icu", "other"):
            ledger.create_budget(name, unit="record", limit=3.0, delta=1e-5)
        admit(ledger)
        assert history(ledger, "icu") == []
        for number in (1, 2, 3):
            clock.now += 86_400
            ledger.reserve(message(round_=number), [ROUND])
            # What charges nothing is no moment: a reply, and the same message again.
            ledger.commit(message(round_=number), b"reply")
            ledger.reserve(message(round_=number), [ROUND])
        ledger.end("icu", "r1")
        found, account = history(ledger, "icu"), ledger.account("icu")
        assert [moment.at_ms for moment in found] == [int((1_000_000 + 86_400 * n) * 1000) for n in (1, 2, 3)]
        assert [moment.spent for moment in found] == pytest.approx(
            [account.spent / account.capacity * n / 3 for n in (1, 2, 3)]
        )
        assert found[-1].epsilon == summary(ledger, "icu", pld=False)["epsilon_spent"]
        assert found[-1].epsilon >= rdp_filter.epsilon_of(account.spent, account.budget.order, account.budget.delta)
        assert history(ledger, "other") == []
