import csv
import random

import pytest

DECLARATION = """\
# fedkit simulate --config-dir my data=icu
# Intensive care, two regions, made up for the tests
name: icu
source: {{kind: csv, path: icu.csv}}
site_column: region
unit_column: patient_id
{records}
target: {{column: died, kind: binary, positive: [1]}}
features:
  numeric: {{age: [0, 120], heart_rate: [20, 250]}}
  categorical: {{gender: [Female, Male]}}
missing: {{numeric: midpoint, indicator: true}}
split: {{test_fraction: 0.25, seed: 43}}
subgroups: {{gender: [Female, Male]}}
"""


def write_table(folder, *, sizes, seed=0, records=""):
    """A user folder with one declared table; the outcome depends on age and heart rate."""
    generator = random.Random(seed)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "data" / "icu.yaml").write_text(DECLARATION.format(records=records), encoding="utf-8")
    with (folder / "data" / "icu.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["region", "patient_id", "secret", "age", "heart_rate", "gender", "died"])
        for site, size in sizes.items():
            for index in range(size):
                age, rate = generator.uniform(18, 95), generator.gauss(90, 20)
                died = int(generator.random() < (0.8 if age + rate / 2 > 105 else 0.2))
                gender = generator.choice(["Female", "Male"])
                writer.writerow([site, f"{site}-{index}", "x", round(age, 1), round(rate, 1), gender, died])
    return folder


@pytest.fixture(scope="session")
def cluster():
    """One real Ray of two processors for all tests of a process; a run that needs one uses it."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedkit[ray]'")
    from fedkit.simulation.ray_cluster import connected

    with connected(None, 2) as found:
        yield found


@pytest.fixture
def my(tmp_path):
    """A user folder: 120 and 80 patients in two regions."""
    return write_table(tmp_path / "my", sizes={"north": 120, "south": 80})
