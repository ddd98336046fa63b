import dataclasses

import pytest

from fedkit.storage.chain import GENESIS, ChainBroken, Head, common_length, genuine, link, verify


def chain(*bodies):
    entries = []
    for body in bodies:
        entries.append(link(entries[-1] if entries else None, body))
    return entries


def broken(entries, **known):
    with pytest.raises(ChainBroken) as caught:
        verify(entries, **known)
    return caught.value.kind, caught.value.seq


def test_a_chain_verifies_whole_and_from_any_verified_entry_on():
    entries = chain("a", "b", "c", "d")
    end = Head(4, entries[-1].digest)
    assert verify(entries) == end
    assert verify(entries[2:], after=entries[1], head=end) == end
    assert verify([]) == Head(0, GENESIS)
    assert verify([], after=entries[3]) == end


@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("change", [{"body": "x"}, {"prev": "1" * 64}, {"digest": "1" * 64}])
def test_any_changed_field_is_altered(at, change):
    entries = chain("a", "b", "c", "d")
    entries[at] = dataclasses.replace(entries[at], **change)
    assert broken(entries) == ("altered", at + 1)


def test_an_entry_rewritten_with_its_own_digest_breaks_the_next_link():
    entries = chain("a", "b", "c")
    entries[1] = link(entries[0], "forged")
    assert genuine(entries[1])
    assert broken(entries) == ("altered", 2)


def test_a_forged_first_entry_is_altered():
    forged = link(chain("z")[0], "a")
    assert broken([dataclasses.replace(forged, seq=1)]) == ("altered", 1)


def test_entries_in_another_order_are_reordered():
    entries = chain("a", "b", "c", "d")
    entries[1], entries[2] = entries[2], entries[1]
    assert broken(entries) == ("reordered", 2)


@pytest.mark.parametrize(("kept", "at"), [([0, 2, 3], 2), ([1, 2, 3], 1)])
def test_entries_cut_out_are_missing(kept, at):
    entries = chain("a", "b", "c", "d")
    assert broken([entries[i] for i in kept]) == ("missing", at)


def test_entries_cut_off_are_missing_only_to_who_knows_the_head():
    entries = chain("a", "b", "c")
    head = verify(entries)
    assert verify(entries[:2]).seq == 2
    assert broken(entries[:2], head=head) == ("missing", 3)
    assert broken([], head=head) == ("missing", 1)
    assert broken(chain("a", "b", "x"), head=head) == ("altered", 3)
    assert broken(entries, head=Head(2, entries[1].digest)) == ("altered", 3)


def test_moving_text_between_body_and_link_changes_the_digest():
    first = chain("a")[0]
    assert link(first, "1\n2").digest != dataclasses.replace(link(first, "2"), body="1\n2").digest


def test_common_length_counts_shared_first_entries():
    ours, theirs = chain("a", "b", "c"), chain("a", "b", "x", "y")
    assert common_length(ours, theirs) == 2
    assert common_length(ours, ours[:1]) == 1
    assert common_length([], theirs) == 0
