import pytest

from fedkit.errors import ConfigError
from fedkit.governance.card import MOST_TEXT, SENSITIVITIES, DataCard, columns_of

CARD = {
    "legal_basis": "GDPR Art. 9(2)(j)",
    "residency": "DE",
    "retention": "2030",
    "contact": "dpo@north",
    "description": "x",
}


def test_a_card_is_read_as_it_stands(site_file):
    classes = {"age": "quasi-identifier", "num": "special-category", "site": "ordinary"}
    data = site_file({"card": CARD, "sensitivity": classes}).data["heart_disease"]
    assert data.card == DataCard(**CARD, sensitivity=classes)


def test_without_one_nothing_is_said(site_file):
    assert site_file().data["heart_disease"].card == DataCard()
    assert site_file({"card": None, "sensitivity": None}).data["heart_disease"].card == DataCard()


def test_every_column_that_may_be_read_has_a_role(site_file):
    declared = site_file().data["heart_disease"].declaration
    roles = columns_of(declared)
    assert roles["num"] == "target, binary" and roles["age"] == "feature, number" and roles["site"] == "site"
    assert {*declared.features.numeric, *declared.features.categorical, *declared.subgroups} <= set(roles)


@pytest.mark.parametrize(
    ("heart", "said"),
    [
        (
            {"sensitivity": {"agee": "ordinary"}},
            "data.heart_disease.sensitivity.agee names no declared column; did you mean 'age'?",
        ),
        ({"sensitivity": {"age": "quasi"}}, "sensitivity.age is 'quasi'; did you mean 'quasi-identifier'?"),
        ({"sensitivity": {"age": ["ordinary"]}}, "sensitivity.age is ['ordinary']"),
        ({"sensitivity": {"age": None}}, "sensitivity.age is"),
        ({"sensitivity": "ordinary"}, "sensitivity is 'ordinary'; keys and values are needed"),
        ({"sensitivity": {7: "ordinary"}}, "sensitivity.7 is no text"),
        ({"card": {"legal": "x"}}, "card.legal is unknown; did you mean 'legal_basis'?"),
        ({"card": {"contact": 7}}, "card.contact is 7; a text is needed"),
        ({"card": {"contact": "x" * (MOST_TEXT + 1)}}, "card.contact has 2,001 characters; 2,000 are the most"),
        ({"card": ["x"]}, "card is ['x']; keys and values are needed"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(site_file, heart, said):
    with pytest.raises(ConfigError, match="FK120") as refused:
        site_file(heart)
    assert said in str(refused.value)


def test_the_classes_are_four():
    assert SENSITIVITIES == ("direct-identifier", "quasi-identifier", "special-category", "ordinary")
