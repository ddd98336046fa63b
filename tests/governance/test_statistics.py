import pytest

from fedkit.assurance.statistics import plan_statistics
from fedkit.governance.statistics import Statistics, cost_of, statistics_of
from tests.federation.signers import config

GOOD = Statistics(("age", "sex"), 10, 8.0, 1e-5, "second-try").as_dict()


def test_a_question_is_read_as_it_was_written():
    assert statistics_of(GOOD).as_dict() == GOOD


def test_a_question_of_before_asks_nothing_of_what_lies_outside_and_keeps_its_text():
    """Its job's digest, under which people have approved it, is over this text."""
    assert "outside" not in GOOD and not statistics_of(GOOD).outside
    new = statistics_of({**GOOD, "outside": True})
    assert new.outside and new.as_dict() == {**GOOD, "outside": True} and cost_of(new) == cost_of(statistics_of(GOOD))


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": []}, {"columns": ["age", "age"]}, {"columns": "age"}, {"columns": [1]}, {"columns": [""]},
        {"bins": 1}, {"bins": 1001}, {"bins": True}, {"bins": 10.0}, {"noise_multiplier": 0.0},
        {"noise_multiplier": float("nan")}, {"noise_multiplier": float("inf")}, {"noise_multiplier": True},
        {"noise_multiplier": "8"}, {"delta": 0}, {"delta": 1}, {"anew": "a b"}, {"anew": None}, {"more": 1},
        {"outside": False}, {"outside": 1}, {"outside": None}, {"outside": "yes"},
    ],
)  # fmt: skip
def test_anything_else_is_no_question(changes):
    with pytest.raises(ValueError, match=r"^(has|names) "):
        statistics_of({**GOOD, **changes})


def test_its_price_is_that_of_fedkit_stats():
    data = config().data
    for columns in ((), ("age",)):
        plan = plan_statistics(data, epsilon=0.7, delta=1e-5, columns=columns)
        asked = Statistics(plan.request.columns, plan.request.bins, plan.request.noise_multiplier, plan.delta)
        assert cost_of(asked) == plan.epsilon <= 0.7
