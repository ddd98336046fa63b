from fedkit.federation.code_texts import CODE_TEXTS, legend, with_text
from fedkit.federation.public_codes import COMMON, PUBLIC_CODES


def test_every_code_that_may_leave_a_site_has_its_own_words_and_no_other_has():
    assert set(CODE_TEXTS) == PUBLIC_CODES | {COMMON}
    assert all(20 < len(text) < 160 and "FK" not in text and text[-1] != "." for text in CODE_TEXTS.values())


def test_a_reason_that_is_no_sites_code_stays_as_it_is():
    for reason in (
        "",
        "no reply within 60 s",
        "FK339: the update is altered",
        "FK999",
        "an error without a readable code",
    ):
        assert with_text(reason) == reason


def test_a_site_that_was_asked_again_until_the_end_is_explained_too():
    reason = "its last answer was FK577; no other within 60 s"
    assert with_text(reason) == f"{reason} ({CODE_TEXTS['FK577']})"


def test_the_legend_explains_each_code_once_and_none_of_the_coordinators_own_errors():
    notes = [
        "round 1: degraded 1/3: a, b missing: a: FK339; b: FK339",
        "round 2: degraded 1/3: a missing: a: FK570",
        "round 2: not evaluated by c: c: FK521: the update of c holds NaN",
        "round 3: degraded: c: FK541: not what was signed. Remedy: none",
        "round 4: degraded 1/2: d missing: d: its last answer was FK577; no other within 60 s",
    ]
    assert [line.partition(": ")[0] for line in legend(notes)] == ["FK339", "FK570", "FK577"]
    assert legend([]) == []
