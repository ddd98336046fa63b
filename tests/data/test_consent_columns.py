"""A record's own columns decide for which purpose and on which days it is read, in every engine as documented."""

import datetime
import itertools
import sqlite3
from dataclasses import replace

import pytest
import sqlalchemy as sa

from fedkit.data.consent import ColumnRule, ConsentFilter
from fedkit.data.consented import read_consented
from fedkit.data.table import name_text
from fedkit.errors import DataError
from tests.data.test_consent import (  # noqa: F401
    CANARY,
    COLUMNS,
    DAY,
    Bench,
    ages,
    bench,
    database,
    day_of,
    postgresql,
    read,
)

R = "research"
TABLE = (*COLUMNS, "goal", "first", "last")
RULE = ColumnRule("status", ("yes",), "goal", "first", "last")
DAYS = (
    None, "", "  ", "2026-02-28", "2026-03-01", "2026-03-02", " 2026-03-01 ", "2026-03-01 00:00:00", "2026-03-01T12:00",
    "2026-02-30", "01.03.2026", "2026-3-1", "0000-01-01", "infinity", "?", "20260101", "2026-03-01Z", "9999-12-31",
)  # fmt: skip
WORDS = (("yes", R), ("no", R), (None, R), ("yes", "teaching"), ("yes", None), ("yes", ""), ("yes", " research "),
         ("yes", "Research"), (" yes ", R), ("yes", "research;teaching"))  # fmt: skip


def table(made, rows):
    """One row each; its age tells which."""
    given = [
        (f"p{n}", "north", 20 + n % 100, 80, "Male", n % 2, said, goal, first, last)
        for n, (said, goal, first, last) in enumerate(rows)
    ]
    return replace(made.icu, source=made.source("icu", TABLE, given), unit_column="pid")


def consents(said, goal, first, last):
    """The documented meaning, in plain Python."""
    begin, end = day_of(first), day_of(last)
    endless = not (last or "").strip()
    return (
        name_text(said or "") == "yes"
        and name_text(goal or "") == R
        and begin is not None
        and begin <= DAY
        and (endless or (end is not None and end > DAY))
    )


@pytest.mark.parametrize("part", range(4))
def test_each_row_is_let_in_as_documented(bench, part):  # noqa: F811
    rows = [("yes", R, first, last) for first, last in itertools.product(DAYS, DAYS)]
    rows += [(said, goal, "2020-01-01", last) for said, goal in WORDS for last in (None, "2030-01-01", "2020-01-01")]
    rows = rows[part::4]
    found = read(table(bench, rows), column=RULE)
    assert len(rows) < 100 and found == {n for n, row in enumerate(rows) if consents(*row)} and found


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (ColumnRule("status", ("yes",)), {0, 1, 2, 3}),
        (ColumnRule("status", ("yes",), purpose="goal"), {0, 1, 2}),
        (ColumnRule("status", ("yes",), start="first"), {0, 2, 3}),
        (ColumnRule("status", ("yes",), until="last"), {0, 1, 3}),
    ],
)
def test_what_is_not_named_does_not_decide(bench, rule, expected):  # noqa: F811
    rows = [("yes", R, "2020-01-01", None), ("yes", R, "", None), ("yes", R, "2020-01-01", "?"),
            ("yes", "other", "2020-01-01", None), ("no", R, "2020-01-01", None)]  # fmt: skip
    assert read(table(bench, rows), column=rule) == expected


def test_none_of_the_columns_is_returned_and_each_must_be_there(bench):  # noqa: F811
    config = table(bench, [("yes", R, "2020-01-01", None)])
    found = read_consented(config, ConsentFilter(R, DAY, column=RULE))
    assert not {"status", "goal", "first", "last"} & set(found.table.columns) and ages(found) == {0}
    for part in ("purpose", "start", "until"):
        with pytest.raises(DataError) as caught:
            read_consented(config, ConsentFilter(R, DAY, column=replace(RULE, **{part: "absent"})))
        assert caught.value.code == "FK205"


def test_both_the_columns_and_the_register_must_consent(bench):  # noqa: F811
    rows = [("yes", R, "2020-01-01", None), ("yes", R, "2020-01-01", "2020-01-02"), ("yes", R, "2020-01-01", None)]
    config = table(bench, rows)
    register = bench.register([(pid, R, "2020-01-01", None) for pid in ("p0", "p1")])
    assert read(config, column=RULE, register=register, unit="pid") == {0}


def test_a_database_hands_out_no_row_whose_columns_deny(database):  # noqa: F811
    """The filter is part of what is asked: what comes back from the driver has nobody else."""
    config = table(database, [("yes", R, "2020-01-01", None), ("yes", R, "2020-01-01", "2026-01-01"),
                              ("yes", CANARY, "2020-01-01", None)])  # fmt: skip
    asked, counted = [], []

    def executed(_connection, cursor, statement, _parameters, _context, _many):
        asked.append(statement)
        if database.kind == "postgresql" and cursor.description:
            counted.append(len(cursor.fetchall()))
            if counted[-1]:
                cursor.scroll(0, mode="absolute")

    sa.event.listen(sa.Engine, "after_cursor_execute", executed)
    try:
        assert read(config, column=RULE) == {0}
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", executed)
    assert any("fedkit" in each or "WHERE" in each for each in asked) and (not counted or sum(counted) == 1)


def test_a_cell_that_sqlite_cannot_write_as_text_denies(tmp_path, icu):
    made = Bench("sqlite", tmp_path, icu)
    config = table(made, [])
    odd = [(R, "2020-01-01", None), (R, "2020-01-01", b"\xff"), (R, b"2020-01-01", None), (R, "2020-01-01", 1.5),
           (b"research", "2020-01-01", None), (R, 20200101, None), (R, "2020-01-01", "2030-01-01\x00")]  # fmt: skip
    with sqlite3.connect(tmp_path / "site.db") as connection:
        connection.execute("DROP TABLE icu")
        connection.execute(f"CREATE TABLE icu ({', '.join(TABLE)})")
        rows = [(f"p{n}", "north", 20 + n, 80, "Male", n % 2, "yes", *row) for n, row in enumerate(odd)]
        connection.executemany(f"INSERT INTO icu VALUES ({', '.join('?' * len(TABLE))})", rows)
    connection.close()
    assert read(config, column=RULE) == {0}


def test_a_database_s_own_dates_are_read_as_their_texts(postgresql, tmp_path, icu):  # noqa: F811
    made = Bench("postgresql", tmp_path, icu, postgresql)
    config = table(made, [("yes", R, None, None)] * 5)
    changes = (
        "ALTER TABLE icu ALTER first TYPE date USING '2020-01-01'::date",
        "ALTER TABLE icu ALTER last TYPE timestamp USING NULL::timestamp",
        "UPDATE icu SET last = '2026-03-02' WHERE pid = 'p1'",
        "UPDATE icu SET last = '2026-03-01' WHERE pid = 'p2'",
        "UPDATE icu SET last = 'infinity' WHERE pid = 'p3'",
        "UPDATE icu SET first = NULL WHERE pid = 'p4'",
    )
    with sa.create_engine(postgresql, poolclass=sa.pool.NullPool).begin() as connection:
        for statement in changes:
            connection.exec_driver_sql(statement)
    assert read(config, column=RULE) == {0, 1}
    # Another way of writing days denies, it does not let in.
    (tmp_path / "url").write_text(postgresql + "&options=-cdatestyle%3DGerman")
    assert read(config, column=RULE) == set()


def test_a_consent_ends_by_itself(bench):  # noqa: F811
    config = table(bench, [("yes", R, "2026-01-01", "2026-03-02")])
    days = [datetime.date(2025, 12, 31), datetime.date(2026, 1, 1), DAY, datetime.date(2026, 3, 2)]
    assert [read(config, column=RULE, day=day) for day in days] == [set(), {0}, {0}, set()]
