"""A study is a text that an admin has signed, and each site's own word about exactly that text; all else is refused."""

import base64
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation import envelope, statements
from fedkit.federation.envelope import Signed, seal
from fedkit.federation.study import assented, make_study, merged, open_study, read_study, require_author
from fedkit.governance.agreement import plain
from fedkit.storage.keys import new_signing_key
from tests.federation.signers import FEDERATION, NOW, OPERATOR, OTHER, ROOT, keyring
from tests.governance.cases import STUDY
from tests.governance.conftest import agreed

NORTH, SOUTH = new_signing_key(), new_signing_key()
TERMS = agreed(STUDY, parties={"north": NORTH.fingerprint, "south": SOUTH.fingerprint})
MADE = make_study(TERMS, FEDERATION, "ana", ROOT, NOW)
SIGNED = assented(assented(MADE, "north", NORTH, "sign", NOW), "south", SOUTH, "sign", NOW)


def parts(study):
    return json.loads(study.text)


def opened(values):
    return open_study(json.dumps(values, separators=(",", ":"), ensure_ascii=False), FEDERATION)


def refused(values):
    with pytest.raises(FederationError) as caught:
        opened(values)
    return caught.value.code


def sealed(kind, text, key, **changes):
    values = {**json.loads(json.loads(text)["payload"]), **changes}
    values.pop("wire")
    return seal(kind, values, key).text


def test_what_was_signed_reads_back_and_says_who_has_signed():
    again = open_study(SIGNED.text, FEDERATION)
    assert again == SIGNED and again.agreement == TERMS and again.has_signed("north")
    assert not MADE.has_signed("north") and not again.has_signed("nobody")
    require_author(again, keyring(), current=True)


def test_leaving_counts_from_then_on_and_signing_again_counts_again_whatever_the_clock_says():
    left = assented(SIGNED, "north", NORTH, "leave", NOW - 10_000)
    assert not left.has_signed("north") and left.has_signed("south")
    # An older file with the signature does not bring it back, in either order.
    assert not merged(left, SIGNED).has_signed("north") and not merged(SIGNED, left).has_signed("north")
    again = assented(left, "north", NORTH, "sign", NOW - 20_000)
    assert merged(left, again).has_signed("north") and merged(again, left).has_signed("north")


def test_of_two_words_of_one_second_the_one_that_leaves_counts():
    text = SIGNED.assents["north"].text
    left = opened({**parts(SIGNED), "assents": [sealed("assent", text, NORTH, act="leave")]})
    assert not merged(left, SIGNED).has_signed("north") and not merged(SIGNED, left).has_signed("north")


def test_two_texts_are_never_one():
    other = make_study(replace(TERMS, version=2), FEDERATION, "ana", ROOT, NOW)
    with pytest.raises(FederationError):
        merged(SIGNED, other)
    # A signature under one is none under the other.
    assert refused({**parts(other), "assents": parts(SIGNED)["assents"]}) == "FK542"


@pytest.mark.parametrize("site", ["north", "nowhere"])
def test_only_a_party_signs_and_with_the_key_that_the_text_names(site):
    with pytest.raises(FederationError) as caught:
        assented(MADE, site, OTHER, "sign", NOW)
    assert caught.value.code == ("FK541" if site == "north" else "FK542")


def _by_another(text):
    return sealed("assent", text, OTHER, public=base64.b64encode(OTHER.public).decode())


def _with_the_partys_name_and_anothers_signature(text):
    return sealed("assent", text, OTHER)


def _as_another_party(text):
    return sealed("assent", text, NORTH, site="south")


def _as_a_head(text):
    return sealed("head", text, NORTH)


FORGED = {
    "by another key": (_by_another, "FK541"),
    "another's signature": (_with_the_partys_name_and_anothers_signature, "FK541"),
    "as another party": (_as_another_party, "FK541"),
    "a signature of another kind": (_as_a_head, "FK541"),
    "no party": (lambda text: sealed("assent", text, NORTH, site="east"), "FK542"),
    "another federation": (lambda text: sealed("assent", text, NORTH, federation="sha256:" + "0" * 64), "FK542"),
    "another study": (lambda text: sealed("assent", text, NORTH, study="b"), "FK542"),
    "another text": (lambda text: sealed("assent", text, NORTH, agreement="0" * 64), "FK542"),
    "another act": (lambda text: sealed("assent", text, NORTH, act="maybe"), "FK540"),
    "a time before time": (lambda text: sealed("assent", text, NORTH, issued_at=-1), "FK540"),
    "one field more": (lambda text: sealed("assent", text, NORTH, more=1), "FK540"),
    "a key that is none": (lambda text: sealed("assent", text, NORTH, public="x"), "FK540"),
    "no envelope": (lambda text: "{}", "FK540"),
}


@pytest.mark.parametrize("name", FORGED)
def test_one_assent_that_is_not_good_spoils_the_whole(name):
    change, code = FORGED[name]
    north, south = (SIGNED.assents[site].text for site in ("north", "south"))
    assert refused({**parts(SIGNED), "assents": [change(north), south]}) == code


def test_a_site_speaks_once_in_a_file():
    texts = parts(SIGNED)["assents"]
    assert refused({**parts(SIGNED), "assents": [texts[0], texts[0]]}) == "FK540"
    assert refused({**parts(SIGNED), "assents": texts * 2}) == "FK540"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"federation": "sha256:" + "0" * 64}, "FK542"), ({"version": 0}, "FK540"), ({"more": 1}, "FK540"),
        ({"parties": {}}, "FK540"), ({"begin": "2027-01-01"}, "FK540"),
        # The same terms in another form: a whole number for 4.0, a list in another order of the same meaning.
        ({"data": {"heart_disease": {**plain(TERMS)["data"]["heart_disease"], "max_epsilon": 4}}}, "FK540"),
        ({"data": {"heart_disease": {**plain(TERMS)["data"]["heart_disease"], "models": ["mlp", "mlp"]}}}, "FK540"),
        ({"parties": dict(reversed(TERMS.parties.items()))}, "FK540"), ({"description": "${HOME}"}, "FK540"),
    ],
)  # fmt: skip
def test_terms_in_any_other_form_are_refused(changes, code):
    values = {**json.loads(MADE.signed.payload), **changes}
    signed = Signed(json.dumps(values, separators=(",", ":")), ROOT.fingerprint, MADE.signed.signature)
    assert refused({**parts(MADE), "agreement": signed.text}) == code


def test_an_altered_text_is_by_no_admin_and_the_sites_signatures_are_not_about_it():
    """Opening alone does not look at the author; who does not look is still refused by the digest."""
    payload = MADE.signed.payload.replace('"max_rounds":15', '"max_rounds":99')
    altered = Signed(payload, MADE.signed.key, MADE.signed.signature)
    found = opened({**parts(MADE), "agreement": altered.text})
    with pytest.raises(FederationError, match="signature"):
        require_author(found, keyring(), current=False)
    assert refused({**parts(SIGNED), "agreement": altered.text}) == "FK542"


@pytest.mark.parametrize(("author", "key"), [("bo", OPERATOR), ("ana", OTHER), ("bo", ROOT)])
def test_an_author_is_an_admin_of_that_name(author, key):
    made = make_study(TERMS, FEDERATION, author, key, NOW)
    for current in (True, False):
        with pytest.raises(FederationError) as caught:
            require_author(made, keyring(), current=current)
        assert caught.value.code == "FK541"


def test_a_revoked_admins_new_text_is_refused_and_the_old_one_is_still_read():
    admin = new_signing_key()
    ring = statements.add(keyring(), "cy", "admin", admin.public, ROOT, NOW)
    made = make_study(TERMS, FEDERATION, "cy", admin, NOW)
    require_author(made, ring, current=True)
    ring = statements.revoke(ring, "cy", ROOT, NOW)
    require_author(made, ring, current=False)
    with pytest.raises(FederationError, match="revoked"):
        require_author(made, ring, current=True)


def test_a_file_that_is_not_there_is_too_large_or_no_text_is_refused(tmp_path):
    path = tmp_path / "study.json"
    for content in (None, b"\xff", b" " * (2**20 + 2), b"[]", b"", b"{" * 50_000):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(FederationError) as caught:
            read_study(path, FEDERATION)
        assert caught.value.code == "FK540"
    path.write_text(f"{SIGNED.text}\n")
    assert read_study(path, FEDERATION) == SIGNED


def test_another_format_is_told_apart():
    assert refused({**parts(MADE), "format": "fedkit-study-2"}) == "FK547"


@settings(max_examples=500)
@given(at=st.integers(0, len(SIGNED.text) - 1), letter=st.characters(min_codepoint=1, max_codepoint=0x2FF))
def test_no_changed_letter_opens_what_was_closed(at, letter):
    """A file with any one letter changed is refused, or is by no admin, or is the same."""
    text = SIGNED.text[:at] + letter + SIGNED.text[at + 1 :]
    with suppress(FederationError):
        found = open_study(text, FEDERATION)
        # What opens has its terms and its sites' words untouched, whatever became of the author's signature.
        assert (found.agreement, found.digest, found.assents) == (TERMS, SIGNED.digest, SIGNED.assents)
        require_author(found, keyring(), current=True)
        assert found == SIGNED


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just(SIGNED.signed.text),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
            st.sampled_from(["format", "agreement", "assents", "payload", "key", "signature"]), inner, max_size=6),
        max_leaves=8,
    )
)  # fmt: skip
def test_no_other_value_is_a_study(value):
    with pytest.raises(FederationError):
        opened(value)


def test_every_kind_of_envelope_has_its_own_bytes():
    """A text signed as one kind is none of another: a job or an offer cannot be passed off as an assent."""
    text = SIGNED.assents["north"].text
    for kind in ("offer", "head", "heads", "job", "order"):
        with pytest.raises(FederationError):
            envelope.unseal(envelope.read(sealed(kind, text, NORTH)), "assent", NORTH.public)
