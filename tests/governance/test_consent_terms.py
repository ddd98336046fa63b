"""What a site's file says of consent: all of it is read, and nothing that could not be kept is."""

import datetime
import json

import pytest

from fedkit.data.consent import ColumnRule, ConsentFilter, Register
from fedkit.errors import ConfigError, FederationError
from fedkit.governance.allow import consented_reader
from fedkit.governance.consent_rules import filter_of

REGISTER = {
    "source": {"kind": "sql", "url_env": "CONSENT_URL", "query": "SELECT * FROM consent"}, "unit": "patient_id",
    "purpose": "purpose", "from": "valid_from", "until": "valid_until",
}  # fmt: skip
PATIENT = {"unit": "patient", "unit_column": "pid"}
RULE = {"name": "research_consent", "values": ["yes"]}
DAY = datetime.date(2026, 3, 1)


def test_the_documented_consent_is_read_as_it_is_meant(site_file):
    own = site_file({**PATIENT, "consent": {"column": RULE, "register": REGISTER}}).data["heart_disease"]
    assert own.consent.column == ColumnRule("research_consent", ("yes",)) and own.ids == "pid"
    register = own.consent.register
    assert register.columns == ("patient_id", "purpose", "valid_from", "valid_until")
    assert register.source.url_env == "CONSENT_URL"
    found = filter_of(own, "heart_disease", frozenset({"7"}), "research", DAY)
    assert found == ConsentFilter("research", DAY, own.consent.column, register, "pid", frozenset({"7"}))


def test_a_register_s_path_is_relative_to_the_file(site_file, tmp_path):
    given = {**REGISTER, "source": {"kind": "csv", "path": "consent.csv"}}
    own = site_file({"consent": {"unit": "mrn", "register": given}}).data["heart_disease"]
    assert isinstance(own.consent.register, Register) and own.ids == "mrn" and own.unit == "record"
    assert own.consent.register.source.path == str(tmp_path / "consent.csv")


def test_a_column_may_have_its_purpose_and_days_beside_it(site_file):
    given = {**RULE, "purpose": "goal", "from": "valid_from", "until": "valid_until"}
    own = site_file({"consent": {"column": given}}).data["heart_disease"]
    assert own.consent.column == ColumnRule("research_consent", ("yes",), "goal", "valid_from", "valid_until")
    assert own.consent.column.columns == ("research_consent", "goal", "valid_from", "valid_until")


INSTALLED = {"ours": {"import": "ourpkg.sources:read", "sha256": "0" * 64}}
BAD = [
    ({"consent": None}, "says nothing"), ({"consent": {}}, "says nothing"), ({"consent": "yes"}, "keys and values"),
    ({"consent": {"colum": RULE}}, "did you mean 'column'?"),
    ({"consent": {"register": REGISTER}}, "set data.heart_disease.consent.unit"),
    ({**PATIENT, "consent": {"register": {**REGISTER, "until": None}}}, "register.until is not set"),
    ({**PATIENT, "consent": {"register": {**REGISTER, "source": None}}}, "register.source is not set"),
    ({**PATIENT, "consent": {"register": {**REGISTER, "from": 3}}}, "name of a column"),
    ({**PATIENT, "consent": {"register": {**REGISTER, "source": {"kind": "ours"}}}}, "source.kind is 'ours'"),
    ({**PATIENT, "consent": {"register": {**REGISTER, "source": {"kind": "sql"}}}}, "source.query is not set"),
    ({**PATIENT, "consent": {"register": {**REGISTER, "valid": "x"}}}, "register.valid is unknown"),
    ({**PATIENT, "consent": {"unit": "mrn"}}, "names the ids already"),
    ({"consent": {"unit": ""}}, "name of a column"),
    *(({"consent": {"unit": "mrn", "register": blank}}, "consent.register") for blank in (None, "", {}, [], 0, False)),
    *(({"consent": {"unit": "mrn", "column": blank}}, "consent.column") for blank in (None, "", {}, [], 0, False)),
    ({**PATIENT, "consent": {"column": RULE, "register": None}}, "or leave the key out"),
    *(
        ({"consent": {"column": {**RULE, part: None}}}, f"column.{part} is not set")
        for part in ("purpose", "from", "until")
    ),
    ({"consent": {"column": {**RULE, "until": 3}}}, "name of a column"),
    ({"consent": {"column": {**RULE, "start": "x"}}}, "column.start is unknown"),
    ({"consent": {"column": {"name": "c", "values": [True]}}}, "a list of texts in quotes"),
    ({"consent": {"column": {"name": "c", "values": "yes"}}}, "a list of texts in quotes"),
    ({"consent": {"column": {"name": "c", "values": []}}}, "a list of texts in quotes"),
    ({"consent": {"column": {"values": ["yes"]}}}, "column.name is None"),
    ({"consent": {"column": RULE}, "source": {"kind": "ours"}}, "nobody can filter the installed source ours"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "why"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_what_could_not_be_kept_is_refused_with_its_key(site_file, changes, why):
    with pytest.raises(ConfigError, match="FK120") as refused:
        site_file(changes, allow={"sources": INSTALLED})
    assert why in str(refused.value) and "data.heart_disease" in str(refused.value)


def test_no_consent_and_nobody_withdrawn_is_no_filter(site_file):
    assert filter_of(site_file().data["heart_disease"], "heart_disease", frozenset(), None, DAY) is None


@pytest.mark.parametrize("purpose", [None, ""])
def test_a_run_without_a_purpose_gets_no_record(site_file, purpose):
    own = site_file({"consent": {"column": RULE}}).data["heart_disease"]
    with pytest.raises(FederationError, match="FK590"):
        filter_of(own, "heart_disease", frozenset(), purpose, DAY)


def test_a_withdrawal_from_records_that_are_nobody_s_stops_the_run(site_file):
    own = site_file({"consent": {"column": RULE}}).data["heart_disease"]
    with pytest.raises(FederationError, match="FK592") as refused:
        filter_of(own, "heart_disease", frozenset({"secret-id"}), "research", DAY)
    assert "secret-id" not in str(refused.value)


def test_an_installed_source_is_not_read_through_a_filter(site_file):
    file = site_file({"source": {"kind": "ours"}, "site_column": None}, allow={"sources": INSTALLED})
    own = file.data["heart_disease"].declaration
    with pytest.raises(FederationError, match="FK591"):
        consented_reader(file, own, ConsentFilter("research", DAY, unit="pid", withdrawn=frozenset({"7"})))
    assert json.dumps(own.source.kind) == '"ours"'
