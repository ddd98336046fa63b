"""Whatever is asked of a ledger, in whatever order, it never spends more than its limit."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.rdp_filter import UNIT, conversion, cost, rounded

SIGMAS = (3.0, 5.0, 9.0)
REFUSALS = {"FK339", "FK345", "FK346", "FK347", "FK348"}

runs, rounds, sigmas, digests = st.integers(0, 4), st.integers(0, 3), st.sampled_from(SIGMAS), st.sampled_from("ab")
operations = st.one_of(
    st.tuples(st.just("admit"), runs, st.integers(1, 12), sigmas, st.integers(1, 40)),
    st.tuples(st.just("reserve"), runs, rounds, sigmas, digests),
    st.tuples(st.just("commit"), runs, rounds, digests),
    st.tuples(st.just("end"), runs),
    st.tuples(st.just("renew"), runs, st.integers(-5, 40)),
    st.tuples(st.just("wait"), st.integers(-20, 30)),
    st.tuples(st.just("reopen")),
)


def quick(ledger):
    """No power fails in this test: waiting for the disk would be all that it does."""
    ledger.file._sql.execute("PRAGMA synchronous = OFF")
    return ledger


def event(sigma, steps=1):
    return GaussianEvent(1.0, sigma, steps)


def perform(ledger, operation, clock):
    match operation:
        case ("admit", run, steps, sigma, seconds):
            job = Job("record", "add_remove", (rounded(event(sigma, steps)),))
            ledger.admit("x", f"r{run}", "s", job, clock[0] + seconds)
        case ("reserve", run, round_, sigma, digest):
            return ledger.reserve(Message("x", f"r{run}", round_, digest), [event(sigma)])
        case ("commit", run, round_, digest):
            reply = f"{run} {round_} {digest} {clock}".encode()
            return ledger.commit(Message("x", f"r{run}", round_, digest), reply)
        case ("end", run):
            ledger.end("x", f"r{run}")
        case ("renew", run, seconds):
            ledger.renew("x", f"r{run}", clock[0] + seconds)
        case ("wait", seconds):
            clock[0] += seconds
    return None


@settings(max_examples=30, deadline=None)
@given(st.lists(operations, max_size=40))
def test_spending_never_exceeds_the_limit_and_is_what_was_reserved(sequence):
    clock = [1000.0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        ledger = quick(Ledger.create(path, clock=lambda: clock[0]))
        budget = ledger.create_budget("x", unit="record", limit=1.5, delta=1e-5)
        capacity = (1.5 - conversion(budget.order, 1e-5)) * UNIT
        charged, replies, spent = {}, {}, 0
        for operation in sequence:
            if operation[0] == "reopen":
                ledger.close()
                ledger = quick(Ledger(path, clock=lambda: clock[0]))
            try:
                done = perform(ledger, operation, clock)
            except PrivacyError as error:
                if error.code not in REFUSALS:
                    raise
            else:
                if operation[0] == "reserve":
                    _, run, round_, sigma, digest = operation
                    assert charged.setdefault((run, round_), (sigma, digest)) == (sigma, digest)
                    assert done.reply == replies.get((run, round_))
                if operation[0] == "commit":
                    assert replies.setdefault(operation[1:3], done.reply) == done.reply
            account = ledger.account("x")
            assert account.spent == cost([rounded(event(sigma)) for sigma, _ in charged.values()], budget.order)
            assert spent <= account.spent <= account.spent + account.held() <= account.capacity <= capacity
            spent = account.spent
        ledger.close()
        with Ledger(path, clock=lambda: clock[0]) as again:
            assert again.account("x").spent == spent
            assert again.verify() == len(replies)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), sigmas)
def test_a_run_costs_the_same_however_it_is_cut_into_rounds(cuts, sigma):
    with tempfile.TemporaryDirectory() as folder, Ledger.create(Path(folder) / "l.db", clock=lambda: 0.0) as ledger:
        quick(ledger)
        for name in ("cut", "whole"):
            ledger.create_budget(name, unit="record", limit=30.0, delta=1e-5)
            job = Job("record", "add_remove", (rounded(event(sigma, sum(cuts))),))
            ledger.admit(name, "r", "s", job, 10.0)
        for number, steps in enumerate(cuts):
            ledger.reserve(Message("cut", "r", number, "d"), [event(sigma, steps)])
        ledger.reserve(Message("whole", "r", 0, "d"), [event(sigma)] * sum(cuts))
        cut, whole = ledger.account("cut"), ledger.account("whole")
        assert (cut.spent, cut.held(), cut.steps) == (whole.spent, 0, whole.steps)
        assert whole.held() == 0
