from dataclasses import replace

import pytest
import yaml

from fedkit.governance.agreement import Standing
from fedkit.governance.agreement_file import agreement_of
from fedkit.governance.clauses import Circumstances
from fedkit.governance.site_file import read_site_file
from fedkit.storage.keys import fingerprint

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


def agreed(terms, **changes):
    """Terms as they are after the check; a list of parties gets keys."""
    said = {**terms, **changes}
    if isinstance(said["parties"], list):
        said["parties"] = {site: fingerprint(site.encode()) for site in said["parties"]}
    found, problems = agreement_of(said)
    assert found is not None, problems
    return found


def standing(terms, site="cleveland", **changes):
    """How a site stands that has signed them, if it is a party."""
    found = agreed(terms)
    if site not in found.parties or found.study != "registry":
        return Standing(why=f"none; {site} is no party")
    return replace(Standing(found, "d" * 64, ""), **changes)


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
