"""A piece opens with its key, at its place, unaltered, or not at all; its length is all that it tells."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import DeploymentError
from fedkit.storage.sealing import KEY_BYTES, Vault, is_sealed, new_name, padded, unpadded


def vault(name="north", **more):
    keys = {new_name(): os.urandom(KEY_BYTES), **more}
    return Vault(name, next(iter(keys)), keys)


def shut(made, piece, *context):
    with pytest.raises(DeploymentError) as caught:
        made.open(piece, *context)
    assert caught.value.code == "FK792"


@given(st.binary(max_size=300), st.lists(st.text(max_size=20), max_size=4))
def test_what_was_sealed_opens_and_shows_nothing(content, context):
    made = vault()
    piece = made.seal(content, *context)
    assert made.open(piece, *context) == content and is_sealed(piece)
    assert len(content) < 8 or content not in piece
    assert len(piece) == len(content) + len(made.seal(b"", *context))


def test_every_flipped_bit_is_found():
    made = vault()
    piece = made.seal(b"a planted value", "reply", "run-1")
    for place in range(len(piece)):
        for bit in (1, 128):
            altered = bytearray(piece)
            altered[place] ^= bit
            shut(made, altered, "reply", "run-1")
    for cut in range(len(piece)):
        shut(made, piece[:cut], "reply", "run-1")
    shut(made, piece + b"\0", "reply", "run-1")


@pytest.mark.parametrize("context", [(), ("reply",), ("reply", "run-2"), ("reply", "run-1", ""), ("replyrun-1",)])
def test_another_place_does_not_open_it(context):
    made = vault()
    shut(made, made.seal(b"x", "reply", "run-1"), *context)


def test_neither_another_key_nor_another_folder_opens_it():
    made = vault()
    piece = made.seal(b"x", "reply")
    shut(vault(), piece, "reply")
    shut(Vault("south", made.newest, made._keys), piece, "reply")
    shut(Vault("north", made.newest, {made.newest: os.urandom(KEY_BYTES)}), piece, "reply")


def test_an_older_key_opens_and_the_newest_writes():
    old = vault()
    both = vault(**{old.newest: old._keys[old.newest]})
    piece = old.seal(b"x", "reply")
    assert both.open(piece, "reply") == b"x" and not both.is_newest(piece)
    assert both.is_newest(both.seal(b"x", "reply"))
    shut(old, both.seal(b"x", "reply"), "reply")


def test_the_same_content_never_looks_the_same():
    made = vault()
    pieces = [made.seal(bytes(64), "reply") for _ in range(50)]
    assert len({bytes(piece[12:]) for piece in pieces}) == len({bytes(piece[-80:]) for piece in pieces}) == 50


@given(st.binary(max_size=2000))
def test_padding_tells_a_power_of_two(content):
    found = padded(content)
    assert unpadded(found) == content
    assert len(found) >= 64 and len(found) & (len(found) - 1) == 0 and len(found) < max(65, 2 * (len(content) + 8))


def test_a_vault_shows_no_key():
    made = vault()
    assert made._keys[made.newest].hex() not in repr(made) and str(made._keys[made.newest]) not in repr(made)
