import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedkit
from fedkit.errors import ConfigError, DataError, FedkitError, PrivacyError, TrainingError
from fedkit.federation.public_codes import COMMON, PUBLIC_CODES, on_records, public_code, readable_reason

SOURCE = Path(fedkit.__file__).parent


def test_every_public_code_is_one_that_something_raises():
    here = SOURCE / "federation" / "public_codes.py"
    known = {code for path in SOURCE.rglob("*.py") if path != here for code in re.findall(r"FK\d{3}", path.read_text())}
    assert known >= PUBLIC_CODES
    assert COMMON not in PUBLIC_CODES


@pytest.mark.parametrize("code", ["FK202", "FK205", "FK207", "FK210", "FK211", "FK212", "FK213", "FK214", "FK222"])
def test_what_a_table_holds_has_the_common_code(code):
    assert public_code(DataError("patient Jane Doe", code=code)) == COMMON


@pytest.mark.parametrize("code", ["FK405", "FK407", "FK409", "FK414", "FK419", "FK314", "FK352"])
def test_what_happens_on_records_has_the_common_code(code):
    assert public_code(TrainingError("", code=code)) == COMMON


@pytest.mark.parametrize("code", ["FK215", "FK302", "FK339", "FK347", "FK351", "FK401", "FK404", "FK510", "FK535"])
def test_what_follows_from_the_request_or_the_declaration_is_told(code):
    assert public_code(PrivacyError("", code=code)) == code


def test_a_bad_config_is_told_and_a_crash_is_not():
    assert public_code(ConfigError(["seed is -1"])) == "FK101"
    for error in (ValueError("Jane Doe"), MemoryError(), KeyError("north"), OSError(28, "No space left on device")):
        assert public_code(error) == COMMON


@pytest.mark.parametrize("error", [TrainingError("m", code="FK404", remedy="r"), ValueError("Jane Doe"), MemoryError()])
def test_nothing_keeps_its_code_once_records_are_in_use(error):
    with pytest.raises(FedkitError) as caught, on_records():
        raise error
    assert caught.value.code == COMMON == public_code(caught.value)
    assert caught.value.__cause__ is error
    assert "Jane" not in str(caught.value)


def test_an_interruption_stays_one():
    with pytest.raises(KeyboardInterrupt), on_records():
        raise KeyboardInterrupt


@given(st.text() | st.from_regex(r"FK\d{3}", fullmatch=True))
def test_a_reason_is_shown_only_where_it_is_a_code(text):
    is_code = len(text) == 5 and text.startswith("FK") and all(letter in "0123456789" for letter in text[2:])
    assert readable_reason(text) == (text if is_code else "an error without a readable code")


@pytest.mark.parametrize(
    "text", ["", "FK33", "FK3333", "FK339\n", "fk339", "FK٣٣٩", " FK339", "FK339; rm", "<b>FK1</b>"]
)
def test_text_of_a_site_never_reaches_a_report(text):
    assert readable_reason(text) == "an error without a readable code"
