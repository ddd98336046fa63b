"""Who may be read: each engine decides as plain Python does, and what it leaves out is no part of its answer."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import sqlalchemy as sa

from fedkit.config.experiment import DataConfig, SourceConfig
from fedkit.data.consent import ColumnRule, ConsentFilter, Register
from fedkit.data.consented import read_consented
from fedkit.data.load import load_site_dataset
from fedkit.data.source import read_table
from fedkit.data.spellings import folded
from fedkit.data.table import name_text
from fedkit.data.units import is_no_id
from fedkit.errors import DataError
from tests.data import postgres

DAY = datetime.date(2026, 3, 1)
ENGINES = ("csv", "parquet", "sqlite", "postgresql")
COLUMNS = ("pid", "region", "age", "rate", "gender", "died", "status")
REGISTER = ("patient", "goal", "first", "last")
CANARY = "canary-7f3a"


@dataclass
class Bench:
    """Puts tables where an engine finds them."""

    kind: str
    folder: Path
    icu: DataConfig
    url: str = ""

    def source(self, name: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> SourceConfig:
        if self.kind == "csv":
            path = self.folder / f"{name}.csv"
            lines = [",".join("" if cell is None else f'"{cell}"' for cell in row) for row in (columns, *rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            return SourceConfig("csv", path=str(path))
        if self.kind == "parquet":
            path = self.folder / f"{name}.parquet"
            with duckdb.connect() as connection:
                connection.execute(f"CREATE TABLE t ({', '.join(f'{each} VARCHAR' for each in columns)})")
                connection.executemany(
                    f"INSERT INTO t VALUES ({', '.join('?' * len(columns))})", [list(r) for r in rows]
                )
                connection.execute(f"COPY t TO '{path}' (FORMAT parquet)")
            return SourceConfig("parquet", path=str(path))
        url = self.url or f"sqlite:///{self.folder / 'site.db'}"
        if not self.url:
            (self.folder / "site.db").touch()
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")
            connection.exec_driver_sql(f"CREATE TABLE {name} ({', '.join(f'{each} TEXT' for each in columns)})")
            named = ", ".join(f":{each}" for each in columns)
            if rows:
                given = [dict(zip(columns, row, strict=True)) for row in rows]
                connection.execute(sa.text(f"INSERT INTO {name} VALUES ({named})"), given)
        (self.folder / "url").write_text(url)
        return SourceConfig("sql", query=f"SELECT * FROM {name} -- 100 % of :x", url_file=str(self.folder / "url"))

    def records(self, pids: list[Any], statuses: list[Any] | None = None) -> DataConfig:
        """One row a pid; its age tells which."""
        given = statuses or ["yes"] * len(pids)
        rows = [
            (pid, "north", 20 + n, 80, "Male", n % 2, said)
            for n, (pid, said) in enumerate(zip(pids, given, strict=True))
        ]
        return replace(self.icu, source=self.source("icu", COLUMNS, rows), unit_column="pid")

    def register(self, rows: list[tuple[Any, ...]]) -> Register:
        return Register(self.source("consent", REGISTER, rows), *REGISTER)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    if why := postgres.absent():
        pytest.skip(why)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=ENGINES)
def bench(request, tmp_path, icu) -> Bench:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else ""
    return Bench(request.param, tmp_path, icu, url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path, icu) -> Bench:
    url = request.getfixturevalue("postgresql") if request.param == "postgresql" else ""
    return Bench(request.param, tmp_path, icu, url)


def ages(found: Any) -> set[int]:
    """Which rows were read."""
    column = found.table.columns["age"]
    return {int(column.values[code]) - 20 for code in column.codes}


def read(config: DataConfig, **changes: Any) -> set[int]:
    where = ConsentFilter(**{"purpose": "research", "day": DAY, **changes})
    try:
        return ages(read_consented(config, where))
    except DataError as error:
        if error.code == "FK202":
            return set()
        raise


def day_of(text: Any) -> datetime.date | None:
    """A day as it is documented, by the standard library."""
    text = (text or "").strip()
    for behind in (
        "",
        *(f"{gap}{t}" for gap in " T" for t in ("00:00", "00:00:00", "00:00:00.000", "00:00:00.000000")),
    ):
        if len(text) == 10 + len(behind) and text.endswith(behind) and text[:10].isascii():
            try:
                return datetime.date.fromisoformat(text[:10]) if text[4] == text[7] == "-" else None
            except ValueError:
                return None
    return None


def consents(pid: Any, rows: list[tuple[Any, ...]], purpose: str, day: datetime.date) -> bool:
    """The documented meaning, in plain Python."""
    mine = [row for row in rows if name_text(row[0]) == name_text(pid) and name_text(row[1]) == name_text(purpose)]
    states: dict[datetime.date, set[bool]] = {}
    for _, _, first, last in mine:
        begin, end = day_of(first), day_of(last)
        if begin is None or ((last or "").strip() and end is None):
            return False
        states.setdefault(begin, set()).add(begin <= day and (end is None or day < end))
    return not is_no_id(pid) and any(all(said) for said in states.values())


DAYS = [
    "2026-03-01", "2026-02-28", "2026-03-02", " 2026-01-31 ", "2026-01-31T00:00:00", "2026-01-31 00:00", "2024-02-29",
    "2000-02-29", "2026-01-31 00:00:00.000000", "2026-02-29", "1900-02-29", "2026-02-30", "2026-13-01", "2026-00-10",
    "2026-04-31", "2026-1-31", "20260131", "31.01.2026", "01/31/2026", "2026-01-31T10:15:00", "2026-01-31 00:00:00+00",
    "2026-01-31Z", "yesterday", "0000-01-01", "0001-01-01", "2026-01-310", "x2026-01-31", "2026-01-31\n", "٢٠٢٦-٠١-٣١",
    "", None, "null", "infinity", "2026-W05-6", "-026-01-31", "9999-12-31",
]  # fmt: skip
IDS = [
    "7", " 7 ", "7.0", "7.00", "07", "7.5", "-3", "-3.0", "-0.0", "0.0", "a", "A", "a\xa0", "é", "é", "1e3", "7.0.0",
    "3..0", ".0", "0", "10.0", "100", "a'b", "a%b", "a\\b", "x:y", "?", "", " ", "NULL", "nan", "None", None, "<NA>",
    "NaT", "99999999999999999999.0", "1.10", "7.", "٧", "\u2003q\u3000", "ſ", "s", "İ", "K",
]  # fmt: skip


def test_each_day_is_read_as_the_standard_library_reads_it(bench):
    pairs = [(first, last) for first in DAYS for last in ("", None, "2026-03-02")] + [
        ("2020-01-01", last) for last in DAYS
    ]
    rows = [(f"p{n}", "research", first, last) for n, (first, last) in enumerate(pairs)]
    register = bench.register(rows)
    config = bench.records([row[0] for row in rows])
    wanted = {n for n, row in enumerate(rows) if consents(row[0], rows, "research", DAY)}
    assert 20 < len(wanted) < len(rows) - 20
    assert read(config, register=register, unit="pid") == wanted


@pytest.mark.slow
def test_ids_are_one_where_they_are_one_unit_and_only_there(bench):
    config, everyone = bench.records(IDS), set(range(len(IDS)))
    real = {n for n in everyone if not is_no_id(IDS[n])}
    assert read(config, unit="pid") == real
    for one in IDS:
        same = {n for n in real if name_text(IDS[n]) == name_text(one)}
        register = bench.register([(one, "research", "2020-01-01", None)])
        assert read(config, unit="pid", register=register) == same, one
        if name_text(one):
            # Who withdraws is left out in other characters too; see below.
            gone = {n for n in real if folded(name_text(IDS[n])) == folded(name_text(one))}
            assert same <= gone and (same == gone or one in ("ſ", "s"))
            assert read(config, unit="pid", withdrawn=frozenset({name_text(one)})) == real - gone, one


R, OTHER, OLD, NEW = "research", "billing", "2020-01-01", "2021-01-01"
ROWS = {
    "valid": ([(R, OLD, None)], True),
    "no row": ([], False),
    "another purpose": ([(OTHER, OLD, None)], False),
    "no purpose": ([(None, OLD, None)], False),
    "purpose in other letters": ([("Research", OLD, None)], False),
    "begins today": ([(R, "2026-03-01", "")], True),
    "begins tomorrow": ([(R, "2026-03-02", "")], False),
    "ends tomorrow": ([(R, OLD, "2026-03-02")], True),
    "ends today": ([(R, OLD, "2026-03-01")], False),
    "ends before it begins": ([(R, NEW, OLD)], False),
    "one is over, one is valid": ([(R, OLD, NEW), (R, NEW, None)], True),
    "one is valid, one is to come": ([(R, OLD, None), (R, "2030-01-01", None)], True),
    "the same twice": ([(R, OLD, None), (R, OLD, "")], True),
    "two ends for one beginning": ([(R, OLD, None), (R, OLD, NEW)], False),
    "two ends, both to come": ([(R, OLD, "2027-01-01"), (R, OLD, "2028-01-01")], True),
    "valid beside one that cannot be read": ([(R, OLD, None), (R, "soon", None)], False),
    "valid beside one whose end cannot be read": ([(R, OLD, None), (R, NEW, "never")], False),
    "valid beside another purpose's nonsense": ([(R, OLD, None), (OTHER, "soon", "x")], True),
    "no first day": ([(R, None, None)], False),
}


def test_what_a_register_says_counts_as_documented(bench):
    rows = [(name, *row) for name, (given, _) in ROWS.items() for row in given]
    config = bench.records(list(ROWS))
    wanted = {n for n, (_, yes) in enumerate(ROWS.values()) if yes}
    assert read(config, register=bench.register(rows), unit="pid") == wanted
    assert wanted == {n for n, name in enumerate(ROWS) if consents(name, rows, R, DAY)}


def test_who_has_withdrawn_is_left_out_whatever_the_register_says(bench):
    config = bench.records(["a", "b", "c"])
    register = bench.register([(each, R, OLD, None) for each in "abc"])
    assert read(config, register=register, unit="pid", withdrawn=frozenset({"b"})) == {0, 2}
    many = frozenset({"b", *(f"x{n}" for n in range(50_000))})
    assert read(config, register=register, unit="pid", withdrawn=many) == {0, 2}


SPELT = {
    "composed": ("\u00e9", "e\u0301"), "decomposed": ("e\u0301", "\u00e9"), "full width in the table": ("7", "\uff17"),
    "full width as withdrawn": ("\uff17", "7"), "unseen as withdrawn": ("7\u200b", "7"),
    "unseen mark as withdrawn": ("\ufeff7", "7"), "ligature": ("\ufb01x", "fix"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPELT)
def test_who_has_withdrawn_is_left_out_in_whatever_characters_the_table_has_the_id(bench, name):
    """A keyboard and a database need not write one name by the same characters."""
    withdrawn, held = SPELT[name]
    where = ConsentFilter(R, DAY, unit="pid", withdrawn=frozenset({withdrawn}))
    config = bench.records([held, "b"])
    assert ages(read_consented(config, where)) == {1}
    if name != "full width in the table":
        # The engine has left it out: it was no part of the answer.
        assert len(read_table(config, where)) == 1


def test_a_mark_that_nobody_sees_in_the_table_saves_nobody_from_a_withdrawal(bench):
    config = bench.records(["7\u200b", "\u00ad7", "8"])
    assert read(config, unit="pid", withdrawn=frozenset({"7"})) == {2}


def test_consent_itself_is_to_the_letter(bench):
    """What makes a wrong no of a withdrawal would make a wrong yes of a consent."""
    config = bench.records(["e\u0301", "\uff17", "b"])
    register = bench.register([(each, R, OLD, None) for each in ("\u00e9", "7", "b")])
    assert read(config, register=register, unit="pid") == {2}


def test_a_column_of_the_table_decides_without_being_declared_or_returned(bench):
    said = ["yes", "no", None, "", " yes", "Yes", "yes ", "1", "true"]
    config = bench.records([f"p{n}" for n in range(len(said))], said)
    rule = ColumnRule("status", ("yes", "1"))
    assert read(config, column=rule) == {0, 4, 6, 7}
    found = read_consented(config, ConsentFilter(R, DAY, column=rule))
    assert set(found.table.columns) == {"region", "pid", "age", "rate", "gender", "died"}


def test_ids_of_an_undeclared_column_are_told_apart_from_the_table(bench):
    config = replace(bench.records(["a", "b", None]), unit_column=None)
    found = read_consented(config, ConsentFilter(R, DAY, unit="pid", withdrawn=frozenset({"b"})))
    assert "pid" not in found.table.columns and found.ids == ("a",) and ages(found) == {0}


def test_a_filter_that_lets_all_in_reads_the_same_texts_as_no_filter(bench):
    pids = [each for each in IDS if not is_no_id(each)]
    config = bench.records(pids, [None if n % 3 else "yes" for n in range(len(pids))])
    register = bench.register([(each, R, OLD, None) for each in pids])
    plain = read_table(config)
    found = read_consented(config, ConsentFilter(R, DAY, register=register, unit="pid")).table
    assert set(plain.columns) == set(found.columns)
    for name, column in plain.columns.items():
        other = found.columns[name]
        assert [column.values[code] for code in column.codes] == [other.values[code] for code in other.codes]


def test_a_register_or_column_that_is_not_there_lets_nobody_in(bench):
    config = bench.records(["a"])
    register = bench.register([("a", R, OLD, None)])
    for where, code in (
        ({"register": replace(register, until="lasst"), "unit": "pid"}, "FK205"),
        ({"register": register, "unit": "patient_id"}, "FK205"),
        ({"column": ColumnRule("stauts", ("yes",))}, "FK205"),
        ({"register": replace(register, source=SourceConfig("csv", path="absent.csv")), "unit": "pid"}, "FK201"),
    ):
        with pytest.raises(DataError) as caught:
            read_consented(config, ConsentFilter(**{"purpose": R, "day": DAY, **where}))
        assert caught.value.code == code


@pytest.mark.parametrize("kind", ["csv", "parquet", "sqlite"])
def test_a_register_may_lie_elsewhere(bench, kind, tmp_path, icu):
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Bench(kind, tmp_path / "elsewhere", icu)
    register = elsewhere.register([("a", R, OLD, None), ("b", R, OLD, NEW), ("it's 100 %", R, OLD, "")])
    assert read(bench.records(["a", "b", "it's 100 %", None]), register=register, unit="pid") == {0, 2}


def test_a_database_hands_out_no_row_without_consent(database, monkeypatch):
    """All that the driver gives is looked at: statements, their parameters and every row."""
    left = f"{CANARY}-left"
    config = database.records(["a", CANARY, "c", CANARY, left], ["yes", "no", "no", "yes", "yes"])
    register = database.register([("a", R, OLD, None), ("c", R, OLD, None), (CANARY, R, OLD, NEW), (left, R, OLD, "")])
    seen: list[Any] = []
    fetched = sa.engine.cursor.CursorFetchStrategy.fetchall

    def note(self, result, dbapi_cursor):
        rows = fetched(self, result, dbapi_cursor)
        seen.extend(rows)
        return rows

    def executed(_connection, cursor, _statement, parameters, _context, _many):
        if parameters:
            bound.append(parameters)
        if database.kind == "postgresql":
            # psycopg holds the whole result; nobody else has looked at it yet.
            rows = cursor.fetchall() if cursor.description else []
            seen.extend(rows)
            if rows:
                cursor.scroll(0, mode="absolute")
            counted.append(len(rows))

    counted: list[int] = []
    bound: list[Any] = []
    monkeypatch.setattr(sa.engine.cursor.CursorFetchStrategy, "fetchall", note)
    if database.kind == "sqlite":
        real = sqlite3.connect

        def connect(*args, **kwargs):
            connection = real(*args, **kwargs)
            connection.row_factory = lambda _cursor, row: seen.append(row) or row
            return connection

        monkeypatch.setattr(sqlite3.dbapi2, "connect", connect)
        monkeypatch.setattr(sqlite3, "connect", connect)
    sa.event.listen(sa.Engine, "after_cursor_execute", executed)
    try:
        rule = ColumnRule("status", ("yes",))
        where = ConsentFilter(R, DAY, column=rule, register=register, unit="pid", withdrawn=frozenset({left}))
        found = read_consented(config, where)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", executed)
    assert ages(found) == {0}
    # Whom to leave out is what the database is told; nobody else's row comes back.
    handed = str([each for each in seen if isinstance(each, tuple) and each not in bound])
    assert "'a'" in handed and CANARY not in handed and len(bound) == 1
    assert not counted or sum(counted) == 1


def test_duckdb_hands_out_no_row_without_consent(tmp_path, icu, monkeypatch):
    bench = Bench("csv", tmp_path, icu)
    left = f"{CANARY}-left"
    config = bench.records(["a", CANARY, "c", left], ["yes", CANARY, "yes", "yes"])
    register = bench.register([("a", R, OLD, None), (CANARY, R, OLD, NEW), ("c", R, OLD, CANARY)])
    seen: list[Any] = []

    class Watched:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            method = getattr(self.inner, name)

            def call(*args):
                found = method(*args)
                seen.append(found)
                return Watched(found) if name == "execute" else found

            return call

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

    from fedkit.data import delimited, source

    real = source.connect
    monkeypatch.setattr(source, "connect", lambda: Watched(real()))
    monkeypatch.setattr(delimited, "connect", lambda: Watched(real()))
    found = read_consented(config, ConsentFilter(R, DAY, register=register, unit="pid"))
    assert ages(found) == {0} and len(seen) >= 4
    assert CANARY not in str(seen)
    seen.clear()
    found = read_consented(config, ConsentFilter(R, DAY, unit="pid", withdrawn=frozenset({left, CANARY})))
    assert ages(found) == {0, 2} and seen and CANARY not in str(seen)


def test_an_id_that_the_engine_writes_otherwise_is_left_out_by_the_last_look(tmp_path, icu):
    bench = Bench("sqlite", tmp_path, icu)
    config = bench.records(["a"])
    with sqlite3.connect(tmp_path / "site.db") as connection:
        connection.execute("DROP TABLE icu")
        connection.execute("CREATE TABLE icu (pid, region, age, rate, gender, died, status)")
        rows = [
            (value, "north", 20 + n, 80, "Male", n % 2, 1) for n, value in enumerate([1, 2.0, 1.5, b"ab", "3", 1e300])
        ]
        connection.executemany("INSERT INTO icu VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    assert read(config, unit="pid") == {0, 1, 4}
    assert read(config, unit="pid", withdrawn=frozenset({"2"})) == {0, 4}
    assert read(config, column=ColumnRule("status", ("1",)), unit="pid") == {0, 1, 4}


def test_a_collation_that_takes_two_ids_for_one_is_not_asked(tmp_path, icu):
    bench = Bench("sqlite", tmp_path, icu)
    config, register = bench.records(["a", "A"]), bench.register([("a", R, OLD, None)])
    with sqlite3.connect(tmp_path / "site.db") as connection:
        for name, columns in (("icu", COLUMNS), ("consent", REGISTER)):
            rows = connection.execute(f"SELECT * FROM {name}").fetchall()
            connection.execute(f"DROP TABLE {name}")
            connection.execute(f"CREATE TABLE {name} ({', '.join(f'{each} TEXT COLLATE NOCASE' for each in columns)})")
            connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)
    connection.close()
    assert read(config, register=register, unit="pid") == {0}


def test_other_databases_are_refused_with_a_way_out(tmp_path, icu, monkeypatch):
    bench = Bench("sqlite", tmp_path, icu)
    config = bench.records(["a"])
    monkeypatch.setattr("fedkit.data.sql.DIALECTS", {})
    with pytest.raises(DataError, match=r"FK208.*database of the kind sqlite.*copy the table to Parquet"):
        read_consented(config, ConsentFilter(R, DAY, unit="pid"))


def test_a_site_s_data_set_holds_consenting_rows_only_in_every_scaling(bench):
    """A pooled scaling takes the whole table, and once took it past the filter."""
    pids = [f"p{n}" for n in range(12)]
    config = replace(bench.records(pids), site_column=None, records={"north": 12})
    register = bench.register([(each, R, OLD, None) for each in pids[:8]])
    where = ConsentFilter(R, DAY, register=register, unit="pid")

    def reader(asked: DataConfig) -> Any:
        return read_consented(asked, where).table

    for scaling in ("declared", "site_zscore", "pooled_zscore"):
        (site,) = load_site_dataset(replace(config, scaling=scaling), "north", private=False, read=reader).sites
        assert site.train.num_units + site.test.num_units == 8, scaling
    (site,) = load_site_dataset(config, "north", private=True, read=reader).sites
    assert site.train.num_units + site.test.num_units == 8

    def empty(asked: DataConfig) -> Any:
        return read_consented(asked, replace(where, purpose="none")).table

    (site,) = load_site_dataset(config, "north", private=True, read=empty).sites
    assert len(site.train) + len(site.test) == 0 and isinstance(site.train.x, np.ndarray)


def test_an_end_that_the_engine_cannot_write_as_text_is_not_an_absent_one(tmp_path, icu):
    bench = Bench("sqlite", tmp_path, icu)
    config, register = bench.records(["a", "b", "c", "d"]), bench.register([])
    with sqlite3.connect(tmp_path / "site.db") as connection:
        connection.execute("DROP TABLE consent")
        connection.execute(f"CREATE TABLE consent ({', '.join(REGISTER)})")
        rows = [(pid, R, OLD, last) for pid, last in zip("abcd", (None, b"\xff", 1.5, 20200101), strict=True)]
        connection.executemany("INSERT INTO consent VALUES (?, ?, ?, ?)", rows)
    connection.close()
    assert read(config, register=register, unit="pid") == {0}


def _typed(url, tables):
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as connection:
        for statement in tables:
            connection.exec_driver_sql(statement)


def test_a_database_s_own_types_are_read_as_their_texts(postgresql, tmp_path, icu):
    bench = Bench("postgresql", tmp_path, icu, postgresql)
    config, register = bench.records(["1", "2", "3", "4"]), bench.register([])
    changes = (
        "ALTER TABLE icu ALTER pid TYPE numeric(6, 2) USING pid::numeric, ALTER status TYPE boolean USING pid <> '4'",
        "ALTER TABLE consent ALTER patient TYPE integer USING 0, ALTER first TYPE date USING NULL::date,"
        " ALTER last TYPE timestamp USING NULL::timestamp",
        f"INSERT INTO consent VALUES (1, '{R}', '2020-01-01', NULL), (2, '{R}', '2020-01-01', '2026-03-02'),"
        f" (3, '{R}', '2020-01-01', 'infinity'), (4, '{R}', '2020-01-01', NULL)",
    )
    _typed(postgresql, changes)
    assert read(config, register=register, unit="pid") == {0, 1, 3}
    assert read(config, register=register, unit="pid", column=ColumnRule("status", ("true",))) == {0, 1}
    assert read(config, register=register, unit="pid", withdrawn=frozenset({"2"})) == {0, 3}
    german = postgresql + "&options=-cdatestyle%3DGerman"
    (tmp_path / "url").write_text(german)
    assert read(config, register=register, unit="pid") == set()


def test_a_collation_of_the_database_takes_no_two_ids_for_one(postgresql, tmp_path, icu):
    bench = Bench("postgresql", tmp_path, icu, postgresql)
    config, register = (
        bench.records(["a", "A", "\u00e9"]),
        bench.register([("a", R, OLD, None), ("e\u0301", R, OLD, "")]),
    )
    kind = 'TEXT COLLATE "loose"'
    loose = (
        "DROP COLLATION IF EXISTS loose",
        "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
        f"ALTER TABLE icu ALTER pid TYPE {kind}",
        f"ALTER TABLE consent ALTER patient TYPE {kind}, ALTER goal TYPE {kind}, ALTER first TYPE {kind}",
    )
    _typed(postgresql, loose)
    try:
        assert read(config, register=register, unit="pid") == {0}
        assert read(config, register=register, unit="pid", withdrawn=frozenset({"A"})) == {0}
    finally:
        _typed(postgresql, ("DROP TABLE icu", "DROP TABLE consent", "DROP COLLATION loose"))
