from __future__ import annotations

import sqlite3
import traceback
from dataclasses import replace

import pytest

from fedkit.config.experiment import SourceConfig
from fedkit.data.load import load_dataset
from fedkit.data.source import read_table
from fedkit.data.sql import refuse_password
from fedkit.errors import DataError

SECRET = "hunter2/pass word"


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "icu.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE icu (region, age, rate, gender, died, secret)")
        connection.executemany(
            "INSERT INTO icu VALUES (?, ?, ?, ?, ?, 'no json')",
            [("north", 60, 135.0, "Female", 1), ("south", None, 80.5, "Male", 0)],
        )
        # json() of a text that is none fails when, and only when, it is evaluated.
        connection.execute(
            "CREATE VIEW trap AS SELECT region, age, rate, gender, died, json(secret) AS secret FROM icu"
        )
    connection.close()
    return path


@pytest.fixture
def sql(icu, database):
    def declare(query="SELECT * FROM icu", **changes):
        source = SourceConfig("sql", query=query, url=f"sqlite:///{database}")
        return replace(icu, source=replace(source, **changes))

    return declare


def error_of(config):
    with pytest.raises(DataError) as caught:
        load_dataset(config, private=True)
    printed = "".join(traceback.format_exception(caught.value))
    assert SECRET not in printed
    assert "hunter2" not in printed
    return caught.value


def test_sql_reads_as_csv_does(sql, csv):
    text = "region,age,rate,gender,died\nnorth,60,135,Female,1\nsouth,,80.5,Male,0\n"
    assert load_dataset(sql(), private=True).fingerprints == load_dataset(csv(text), private=True).fingerprints


def test_undeclared_column_is_never_evaluated(sql):
    assert len(read_table(sql("SELECT * FROM trap"))) == 2
    touched = replace(sql("SELECT * FROM trap"), subgroups={"secret": ("a",)})
    assert error_of(touched).code == "FK208"


def test_error_while_rows_are_read_tells_nothing_of_them(sql):
    told = str(error_of(sql("SELECT region, json('Jane Roe') AS age, rate, gender, died FROM icu")))
    assert "Jane" not in told


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM icu;",
        "SELECT * FROM icu -- everything",
        "WITH t AS (SELECT * FROM icu) SELECT * FROM t",
        "SELECT * FROM icu WHERE gender LIKE '%ale' AND region <> ':x' AND '%s' <> '%(a)s'",
    ],
)
def test_query_of_the_user_is_taken_as_it_is(sql, query):
    assert len(read_table(sql(query))) == 2


def test_order_of_rows_does_not_matter(sql):
    up = load_dataset(sql("SELECT * FROM icu ORDER BY region"), private=True)
    down = load_dataset(sql("SELECT * FROM icu ORDER BY region DESC"), private=True)
    assert up.fingerprints == down.fingerprints


def test_missing_column_is_refused_and_not_read_as_a_text(sql):
    error = error_of(replace(sql(), unit_column="regionn"))
    assert error.code == "FK205"
    assert "did you mean region?" in str(error)


def test_strange_column_names_are_quoted(sql):
    query = """SELECT region AS "a ""b"" %", age, rate, gender, died FROM icu"""
    assert len(read_table(replace(sql(query), site_column='a "b" %'))) == 2


def test_empty_result_is_refused(sql):
    assert error_of(sql("SELECT * FROM icu WHERE 1 = 0")).code == "FK202"


def test_database_error_names_what_is_wrong(sql):
    assert "no such table: ico" in str(error_of(sql("SELECT * FROM ico")))


def test_absent_sqlite_file_is_refused_and_not_made(sql, tmp_path):
    error = error_of(sql(url=f"sqlite:///{tmp_path / 'none.db'}"))
    assert error.code == "FK201"
    assert not (tmp_path / "none.db").exists()


def test_url_from_environment_or_file(sql, database, monkeypatch, tmp_path):
    monkeypatch.setenv("ICU_URL", f"sqlite:///{database}")
    assert len(read_table(sql(url=None, url_env="ICU_URL"))) == 2
    (tmp_path / "url").write_text(f"sqlite:///{database}\n")
    assert len(read_table(sql(url=None, url_file=str(tmp_path / "url")))) == 2


def test_absent_credentials_are_named(sql, monkeypatch, tmp_path):
    monkeypatch.delenv("ICU_URL", raising=False)
    assert "ICU_URL is not set" in str(error_of(sql(url=None, url_env="ICU_URL")))
    assert "absent cannot be read" in str(error_of(sql(url=None, url_file=str(tmp_path / "absent"))))
    assert "exactly one" in str(error_of(sql(url_env="ICU_URL")))
    assert "exactly one" in str(error_of(sql(url=None)))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+nodriver://ann:hunter2%2Fpass%20word@127.0.0.1:1/icu",
        "nodialect://ann:hunter2%2Fpass%20word@127.0.0.1:1/icu",
        "postgresql://ann:hunter2%2Fpass%20word@127.0.0.1:1/icu",
        "hunter2/pass word",
        "postgresql://ann:hunter2@host:notaport/icu",
        "sqlite:///file:absent?mode=ro&key=hunter2&uri=true",
    ],
)
def test_no_error_holds_a_password(sql, monkeypatch, url):
    monkeypatch.setenv("ICU_URL", url)
    error_of(sql(url=None, url_env="ICU_URL"))


def test_driver_message_with_the_password_is_scrubbed(sql, database, monkeypatch):
    def fail(*_args, **_kwargs):
        raise sqlite3.OperationalError(f"cannot open for {SECRET}, hunter2%2Fpass%20word or hunter2%2Fpass+word")

    monkeypatch.setattr(sqlite3, "connect", fail)
    monkeypatch.setattr(sqlite3.dbapi2, "connect", fail)
    monkeypatch.setenv("ICU_URL", f"sqlite://:hunter2%2Fpass%20word@/{database}")
    error = error_of(sql(url=None, url_env="ICU_URL"))
    assert error.code == "FK223" and "cannot be reached" in error.message


@pytest.mark.parametrize(
    "url",
    ["postgresql://ann:hunter2@h/icu", "postgresql://hunter2@h/icu", "mssql://h/icu?Password=hunter2", "d://h/i?x=y"],
)
def test_printed_url_with_a_user_a_password_or_options_is_refused(sql, url):
    assert "holds a user, a password or options" in str(error_of(sql(url=url)))


def test_printed_url_of_driver_host_and_database_is_admitted():
    refuse_password("postgresql+psycopg://db.example.org:5432/icu")
