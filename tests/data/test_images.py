"""Images: a declared shape is filled by the features, and goes wherever a row of numbers goes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fedkit.config.compose import compose
from fedkit.config.experiment import FeaturesConfig
from fedkit.data.builtin import CHECKSUMS, verified_path
from fedkit.data.builtin.make_digits import main
from fedkit.data.check import check_table
from fedkit.data.declared import input_shape
from fedkit.data.load import load_dataset, load_site_dataset
from fedkit.errors import ConfigError, DataError
from fedkit.governance.declaration import declaration_digest
from fedkit.simulation.replay import replay
from fedkit.simulation.simulate import simulate

# SHA-256 of UCI's optdigits.tes without its first line of names, which it has not, and without its last line break.
UCI = "6ebb3d2fee246a4e99363262ddf8a00a3c41bee6014c373ed9d9216ba7f651b8"


@pytest.fixture(scope="module")
def digits():
    return compose("digits").data


def test_digits_are_ucis_and_what_their_script_makes(tmp_path):
    main(tmp_path / "made.csv")
    made = (tmp_path / "made.csv").read_bytes()
    assert hashlib.sha256(made).hexdigest() == CHECKSUMS["digits.csv"]
    names, _, lines = made.partition(b"\n")
    assert hashlib.sha256(lines).hexdigest() == UCI
    rows = list(csv.reader(lines.decode().splitlines()))
    assert names.startswith(b"r0c0,r0c1,") and np.shape(rows) == (1797, 65)
    assert set(Counter(row[-1] for row in rows).values()) <= set(range(174, 184))


def test_a_pixel_stands_where_its_column_says(digits):
    with verified_path("digits.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    dataset = load_dataset(digits, private=True)
    assert dataset.input_shape == input_shape(digits) == (1, 8, 8)
    images = np.concatenate([part.x for site in dataset.sites for part in (site.train, site.test)])
    found = Counter(image.astype(np.float32).tobytes() for image in images)
    wanted = Counter(
        np.array([[[int(row[f"r{r}c{c}"]) / 8 - 1 for c in range(8)] for r in range(8)]], np.float32).tobytes()
        for row in rows
    )
    assert found == wanted


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "quantity_skew"])
def test_every_image_is_at_one_site(digits, kind):
    dataset = load_dataset(replace(digits, partition=replace(digits.partition, kind=kind), records={}), private=True)
    assert sum(len(site.train) + len(site.test) for site in dataset.sites) == 1797


def test_the_check_takes_images(digits):
    report = check_table(digits)
    assert report.ok and {column.out_of_range + column.not_numbers for column in report.columns} == {0}


def test_z_scores_of_images_are_those_of_their_pixels(digits):
    flat = replace(digits, features=replace(digits.features, shape=None), scaling="site_zscore")
    whole = replace(digits, scaling="site_zscore")
    for one, other in zip(
        load_dataset(whole, private=False).sites, load_dataset(flat, private=False).sites, strict=True
    ):
        assert np.array_equal(one.train.x.reshape(len(one.train), -1), other.train.x)


def test_a_shape_that_the_columns_do_not_fill_is_refused_before_a_row_is_read(digits):
    with pytest.raises(ConfigError, match="holds 63 values and the features make 64"):
        compose("digits", ["data.features.shape=[1,7,9]"])
    with pytest.raises(ConfigError, match=r"set data\.missing\.indicator=false"):
        compose("digits", ["data.missing.indicator=true"])
    with pytest.raises(DataError) as caught:
        load_dataset(replace(digits, features=replace(digits.features, shape=(1, 7, 9))), private=True)
    assert caught.value.code == "FK218"


def test_a_model_of_images_over_a_table_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(Exception, match=r"cnn takes images of shape \[channels, height, width\]; .* has \[13\]"):
        simulate(compose("heart_disease", ["model=cnn", f"runs_dir={tmp_path}"]))


def test_a_site_reads_its_own_images_from_columns(digits, tmp_path):
    own = replace(digits, partition=None, records={"north": 100}, source=replace(digits.source, kind="csv"))
    lines = verified_path("digits.csv").read_text().splitlines()[:90]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    own = replace(own, source=replace(own.source, path=str(tmp_path / "own.csv")))
    dataset = load_site_dataset(own, "north", private=True)
    assert dataset.input_shape == dataset.sites[0].train.x.shape[1:] == (1, 8, 8)
    (tmp_path / "own.csv").write_text(lines[0] + "\n")
    assert load_site_dataset(own, "north", private=True).sites[0].train.x.shape == (0, 1, 8, 8)


def test_the_shape_is_part_of_what_two_sides_declare_and_without_one_nothing_changes(digits):
    flat = replace(digits, features=replace(digits.features, shape=None))
    assert declaration_digest(flat) != declaration_digest(digits)
    # As it was before there were shapes: what a hospital has approved stays approved.
    assert declaration_digest(compose("heart_disease").data) == HEART_BEFORE
    assert FeaturesConfig().shape is None


HEART_BEFORE = "fc5f92c39a4740dd0bceeb3b0f6e5d7075f860d81a4245e70aee9c82db2b6d6c"


@pytest.mark.parametrize("privacy", ["privacy=none", "privacy.noise=seeded"])
def test_a_run_over_images_is_reported_and_replayed_to_the_same_bits(tmp_path, privacy):
    small = ["model.channels=[4,4]", "model.hidden=[8]", "federation.num_rounds=2", "training.local_steps=2"]
    result = simulate(compose("digits", [privacy, *small, f"runs_dir={tmp_path}"]))
    manifest = json.loads((result.path / "manifest.json").read_text())
    assert manifest["data"]["input_shape"] == [1, 8, 8]
    assert "64 as 1 x 8 x 8: r0c0, r0c1" in (result.path / "report.html").read_text()
    assert replay(result.path).identical
