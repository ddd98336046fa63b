import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation.envelope import Signed, check_times, read, seal, unseal
from fedkit.storage.keys import new_signing_key

KEY, OTHER = new_signing_key(), new_signing_key()
VALUES = {"a": 'tab\t "quoted" \\ é 🏥', "b": [1, 2.5, None, {"c": True}]}
TEXT = seal("job", VALUES, KEY).text


def opened(text, kind="job", public=KEY.public):
    return unseal(read(text), kind, public)


def test_what_was_sealed_is_opened():
    assert opened(TEXT) == {"wire": 1, **VALUES}
    assert seal("job", VALUES, KEY).text == TEXT


@given(st.integers(0, len(TEXT.encode()) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_any_flipped_byte_is_refused(position, flip):
    raw = bytearray(TEXT.encode())
    raw[position] ^= flip
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return
    with pytest.raises(FederationError) as caught:
        opened(text)
    assert caught.value.code in ("FK540", "FK541")


def test_every_single_bit_counts():
    raw = TEXT.encode()
    for position in range(len(raw)):
        for bit in range(8):
            changed = bytearray(raw)
            changed[position] ^= 1 << bit
            try:
                text = changed.decode()
            except UnicodeDecodeError:
                continue
            with pytest.raises(FederationError):
                opened(text)


@given(st.integers(0, len(TEXT)), st.sampled_from(list(' \n\t,:"{}0a')))
def test_nothing_can_be_put_in(position, letter):
    with pytest.raises(FederationError):
        opened(TEXT[:position] + letter + TEXT[position:])


@given(st.integers(0, len(TEXT) - 1))
def test_nothing_can_be_cut_off(end):
    with pytest.raises(FederationError):
        opened(TEXT[:end])


def test_a_signature_counts_for_one_kind_and_one_key():
    for kind, public in (("order", KEY.public), ("job", OTHER.public), ("job", b"no key")):
        with pytest.raises(FederationError) as caught:
            opened(TEXT, kind, public)
        assert caught.value.code == "FK541"


def test_another_key_that_claims_the_first_ones_name_is_refused():
    forged = replace(seal("job", VALUES, OTHER), key=KEY.fingerprint)
    for public in (KEY.public, OTHER.public):
        with pytest.raises(FederationError) as caught:
            opened(forged.text, "job", public)
        assert caught.value.code == "FK541"


def signed(payload: str) -> str:
    import base64

    signature = base64.b64encode(KEY.sign(f"fedkit-job-1\n{payload}".encode())).decode()
    return Signed(payload, KEY.fingerprint, signature).text


@pytest.mark.parametrize("payload", ['{"wire":2}', '{"wire":true}', '{"wire":"1"}', "{}", "[]", "1"])
def test_another_wire_version_is_told_apart(payload):
    with pytest.raises(FederationError, match="update the older side") as caught:
        opened(signed(payload))
    assert caught.value.code == "FK547"


@pytest.mark.parametrize("payload", ["", "{", '{"wire":1,"a":1,"a":2}', '{"wire":1,"a":"${x}"}', '{"wire":1,"a":NaN}'])
def test_a_good_signature_does_not_make_a_bad_payload_good(payload):
    with pytest.raises(FederationError) as caught:
        opened(signed(payload))
    assert caught.value.code == "FK540"


def test_a_payload_beyond_a_mebibyte_is_neither_sealed_nor_read():
    with pytest.raises(FederationError, match="larger"):
        seal("job", {"a": "x" * 2**20}, KEY)
    with pytest.raises(FederationError, match="larger"):
        read(
            json.dumps({"payload": "x" * (2**20 + 1), "key": KEY.fingerprint, "signature": "a"}, separators=(",", ":"))
        )


@pytest.mark.parametrize("values", [{"a": float("nan")}, {"a": "${x}"}, {"a": 2**70}])
def test_what_would_not_be_opened_is_not_sealed(values):
    with pytest.raises(FederationError) as caught:
        seal("job", values, KEY)
    assert caught.value.code == "FK540"


@pytest.mark.parametrize(
    ("issued", "expires", "why"),
    [
        (0, 100, "expired 900 s ago"),
        (2000, 3000, "1000 s from now"),
        (990, 990, "valid for 0 s"),
        (990, 99999, "valid"),
    ],
)
def test_times_are_told_with_their_difference(issued, expires, why):
    with pytest.raises(FederationError, match=why) as caught:
        check_times("job", issued, expires, 1000.0, longest=5000, skew=300)
    assert caught.value.code == "FK543"


def test_clocks_may_differ_a_little():
    check_times("job", 1299, 1500, 1000.0, longest=5000, skew=300)
    check_times("job", 900, 1001, 1000.0, longest=5000, skew=300)
