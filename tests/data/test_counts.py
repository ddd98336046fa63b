from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.data.counts import check_counts
from fedkit.data.load import load_dataset, load_site, load_site_dataset
from fedkit.errors import DataError

COUNTS = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 200), min_size=1)


@given(COUNTS, st.dictionaries(st.sampled_from("abcd"), st.integers(1, 200)))
def test_private_load_stops_exactly_the_sites_with_more_than_they_declare(found, declared):
    over = {name for name, count in found.items() if name in declared and count > declared[name]}
    if over:
        with pytest.raises(DataError) as caught:
            check_counts(found, declared, private=True)
        assert caught.value.code == "FK222"
        for name in found:
            setting = f"data.records.{name}={found[name]}"
            assert (setting in caught.value.remedy.split()) == (name in over)
            assert (f"{name} has {found[name]} units and declares" in caught.value.message) == (name in over)
    else:
        short = {name for name, count in found.items() if name in declared and count < 0.95 * declared[name]}
        told = check_counts(found, declared, private=True)
        assert {text.split()[0] for text in told} == short
        assert all("trains with the declared constants" in text for text in told)


@given(COUNTS, st.dictionaries(st.sampled_from("abcd"), st.integers(1, 200)))
def test_without_privacy_a_count_stops_nobody(found, declared):
    told = {text.split()[0] for text in check_counts(found, declared, private=False)}
    assert told == {
        name
        for name, count in found.items()
        if name in declared and count and abs(count - declared[name]) > 0.2 * declared[name]
    }


def people(region, count):
    return [f"{region},{age},80,Male,{age % 2}" for age in range(count)]


def test_all_sites_with_more_are_named_at_once_and_none_with_fewer(rows):
    config = rows(
        *people("a", 6), *people("b", 7), *people("c", 3), *people("d", 4), records={"a": 5, "b": 5, "c": 5, "d": 4}
    )
    with pytest.raises(DataError, match="a has 6 units and declares 5; b has 7 units and declares 5") as caught:
        load_dataset(config, private=True)
    assert caught.value.code == "FK222"
    assert "data.records.a=6 data.records.b=7" in str(caught.value)
    assert "data.records.c" not in str(caught.value)
    assert len(load_dataset(config, private=False).sites) == 4


def test_one_site_with_more_is_stopped_whatever_the_others_have(rows):
    config = rows(*people("a", 6), *people("b", 7), records={"a": 6, "b": 5})
    assert load_site(config, "a", private=True).records == 6
    assert load_site(config, "b", private=False).records == 5
    with pytest.raises(DataError, match="b has 7 units and declares 5"):
        load_site(config, "b", private=True)


def test_site_that_is_short_keeps_the_declared_constants_and_is_told(rows):
    config = rows(*people("a", 9), *people("b", 19), records={"a": 10, "b": 20})
    assert [site.records for site in load_dataset(config, private=True).sites] == [10, 20]
    # 5 % short is within rounding; one unit of ten is not.
    assert load_dataset(config, private=True).warnings == (
        "a has 9 units; records declares 10: it trains with the declared constants",
    )
    assert load_site_dataset(config, "b", private=True).warnings == ()


def test_any_shortfall_of_a_private_site_is_told_once_in_its_own_log_or_its_warnings(caplog):
    short = "b has 99 units; records declares 100: it trains with the declared constants"
    for declared, logged in (({"b": 99}, []), ({"b": 100}, [short]), ({"b": 104}, [short.replace("100", "104")])):
        caplog.clear()
        with caplog.at_level(logging.INFO, "fedkit.site"):
            assert check_counts({"b": 99}, declared, private=True) == ()
            check_counts({"b": 99}, declared, private=False)
        assert [record.getMessage() for record in caplog.records] == logged
    caplog.clear()
    with caplog.at_level(logging.INFO, "fedkit.site"):
        assert check_counts({"b": 99}, {"b": 200}, private=True) == (short.replace("100", "200"),)
    assert not caplog.records


def test_what_counts_are_the_units_that_are_used(rows):
    lines = [f"a,{age // 3},{20 + age},Male,{age % 2}" for age in range(30)]
    config = rows(*lines, "a,99,80,Male,", unit_column="rate", records={"a": 30})
    assert load_dataset(config, private=True).sites[0].records == 30
