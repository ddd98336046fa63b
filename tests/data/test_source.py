from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pytest

from fedkit.config.experiment import SourceConfig
from fedkit.data.load import load_dataset
from fedkit.data.source import connect, parquet_query, read_table
from fedkit.errors import DataError


@pytest.fixture
def parquet(tmp_path, icu):
    path = tmp_path / "icu.parquet"
    duckdb.sql(
        "SELECT * FROM (VALUES ('north', 60, 135.0, 'Female', true, 'x'), ('south', NULL, 80.5, 'Male', false, 'y'))"
        " t(region, age, rate, gender, died, secret)"
    ).write_parquet(str(path))
    return replace(icu, source=SourceConfig("parquet", path=str(path)))


@pytest.mark.parametrize(
    ("path", "told"), [("nowhere.csv", "there is no file"), (".", "is a folder"), (None, "source.path is not set")]
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_path_that_is_no_file_is_refused(icu, tmp_path, kind, path, told):
    source = SourceConfig(kind, path=str(tmp_path / path) if path else None)
    with pytest.raises(DataError, match=told) as caught:
        read_table(replace(icu, source=source))
    assert caught.value.code == "FK201"


def test_unknown_kind_is_refused(icu):
    with pytest.raises(DataError, match="excel"):
        read_table(replace(icu, source=SourceConfig("excel", path="x")))


def test_parquet_reads_as_csv_does(parquet, csv):
    text = "region,age,rate,gender,died\nnorth,60,135,Female,1\nsouth,,80.5,Male,0\n"
    ours, theirs = load_dataset(parquet, private=True), load_dataset(csv(text), private=True)
    assert ours.fingerprints == theirs.fingerprints


def test_parquet_projection_is_pushed_down(parquet):
    with connect() as connection:
        plan = connection.execute("EXPLAIN " + parquet_query(parquet), [parquet.source.path]).fetchall()[0][1]
    assert "age" in plan
    assert "secret" not in plan


def test_file_that_is_no_parquet_is_refused_without_its_content(tmp_path, icu):
    path = tmp_path / "x.parquet"
    path.write_text("Jane Roe,1\n" * 10)
    with pytest.raises(DataError) as caught:
        read_table(replace(icu, source=SourceConfig("parquet", path=str(path))))
    assert caught.value.code == "FK207"
    assert "Jane" not in str(caught.value)


def test_parquet_without_a_declared_column_is_refused(parquet):
    with pytest.raises(DataError, match=r"agee \(did you mean age\?\)"):
        read_table(replace(parquet, unit_column="agee"))


def test_duckdb_reads_parquet_without_loading_or_fetching_extensions():
    with connect() as connection:
        settings = dict(
            connection.execute(
                "SELECT name, value FROM duckdb_settings() WHERE name LIKE 'auto%known_extensions'"
            ).fetchall()
        )
        loaded = connection.execute(
            "SELECT install_mode FROM duckdb_extensions() WHERE loaded AND extension_name = 'parquet'"
        ).fetchall()
    assert settings == {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    assert loaded == [("STATICALLY_LINKED",)]


def test_nan_of_a_parquet_file_is_refused_until_declared_missing(tmp_path, parquet):
    path = tmp_path / "nan.parquet"
    duckdb.sql(
        "SELECT * FROM (VALUES ('north', 60, 'NaN'::DOUBLE, 'Female', 1), ('south', 1, 80, 'Male', 0))"
        " t(region, age, rate, gender, died)"
    ).write_parquet(str(path))
    config = replace(parquet, source=SourceConfig("parquet", path=str(path)))
    with pytest.raises(DataError, match=r"rate has 1 value that is no finite number \(first in row 1\)"):
        load_dataset(config, private=True)
    config = replace(config, missing=replace(config.missing, values=("NaN",)))
    site = load_dataset(config, private=True).sites[0]
    assert np.isfinite(np.concatenate([site.train.x, site.test.x])).all()


def test_rows_that_do_not_fit_into_memory_are_refused_and_never_spilled_to_a_file(tmp_path, monkeypatch):
    import duckdb

    from fedkit.data.source import connect

    monkeypatch.chdir(tmp_path)
    made = "SELECT range AS i, 'row ' || range AS s, hash(range) AS h FROM range(2000000)"
    with connect() as database:
        database.execute("SET memory_limit = '40MB'")
        with pytest.raises(duckdb.OutOfMemoryException):
            database.execute(f"CREATE TABLE t AS SELECT * FROM ({made}) ORDER BY h")
    assert list(tmp_path.iterdir()) == []
