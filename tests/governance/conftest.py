import pytest
import yaml

from fedkit.governance.clauses import Circumstances
from fedkit.governance.site_file import read_site_file

HEART = {
    "declaration": "heart_disease", "source": {"kind": "builtin", "path": "heart_disease.csv"}, "site_column": "site",
    "records": 303, "unit": "record", "max_epsilon": 3.0, "delta": 1.0e-5, "models": ["logistic", "mlp"],
    "strategies": ["fedavg", "fedprox"],
    "policy": {
        "purposes": ["heart-disease-research"], "studies": ["none"], "submitters": "any",
        "release": ["updates", "private_metrics", "exact_metrics"], "approval": "automatic", "max_rounds": 100,
    },
}  # fmt: skip


def asked(**changes):
    """What a job of the tests says beside its config."""
    given = {"now": 1_800_000_000.0, "study": "none", "submitter": "bo", **changes}
    return Circumstances(**given)


@pytest.fixture
def heart():
    return dict(HEART)


@pytest.fixture
def site_file(tmp_path):
    """Writes a site's file with changes to its heart data set and to the top, and reads it."""

    def read(heart=None, /, **top):
        data = {key: value for key, value in {**HEART, **(heart or {})}.items() if value != "(absent)"}
        values = {"site": "cleveland", "data": {"heart_disease": data}, **top}
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return read_site_file(path)

    return read
